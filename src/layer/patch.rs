//! A patch: a layer, told by what an older layer has of it and by the bytes that are new.
//!
//! Layers that windlass builds are not packed, and in an archive every header and every file begins at a multiple of 512 bytes.
//! So blocks of that size are compared, wherever they are: a program that was built again mostly differs in the store paths that
//! it names, and a tree under another name in its headers alone. Both ends know the layer's digest, which tells whether what
//! came out is right.
//!
//! ```text
//! zstd(
//!   {"from":[DIGEST, …],"layer":DIGEST,"size":BYTES,"version":1} \n
//!   0x00  length u32            bytes              these
//!   0x01  from u32  offset u64  length u64         those of an old layer
//!   …                                              numbers little-endian, until `size` bytes are told
//! )
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Sink;
use crate::disk::pipe::{PipeError, Readers, fan_out};
use crate::disk::progress::Progress;
use crate::oci::canonical;
use crate::oci::compression::{Compression, Encoder};
use crate::oci::digest::Digest;

/// What a patch is called in a manifest.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.windlass.layer-patch.v1+zstd";
/// What is compared at once.
const BLOCK: usize = 512;
/// Blocks of old layers that are known at once: those of 512 MiB, which take some 50 MiB of memory.
const MOST_BLOCKS: usize = 1024 * 1024;
/// The longest run of new bytes in one piece.
const LONGEST: usize = 1024 * 1024;
/// The longest first line.
const HEADER: u64 = 64 * 1024;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PatchHeader {
    version: u32,
    layer: Digest,
    size: u64,
    from: Vec<Digest>,
}

type BlockSum = [u8; 16];

fn sum(block: &[u8]) -> BlockSum {
    let mut first = BlockSum::default();
    first.copy_from_slice(&Sha256::digest(block)[..16]);
    first
}

/// The blocks of old layers, by their sums.
#[derive(Debug, Default)]
pub struct OldBlocks {
    /// The layers, each with its first block and the one behind its last.
    layers: Vec<(Digest, usize, usize)>,
    sums: Vec<BlockSum>,
    /// The first place of each sum.
    places: BTreeMap<BlockSum, u32>,
    rest: Vec<u8>,
}

impl OldBlocks {
    /// Whether a layer of this size can be added.
    pub(crate) fn has_room(&self, size: u64) -> bool {
        usize::try_from(size).is_ok_and(|size| self.sums.len() + size / BLOCK <= MOST_BLOCKS)
    }

    /// What was written since the last one was a layer.
    pub fn end_layer(&mut self, digest: Digest) {
        let first = self.layers.last().map_or(0, |(_, _, end)| *end);
        self.rest.clear();
        for (place, sum) in self.sums.iter().enumerate().skip(first) {
            self.places.entry(*sum).or_insert_with(|| u32::try_from(place).unwrap_or(u32::MAX));
        }
        self.layers.push((digest, first, self.sums.len()));
    }

    /// Forgets what was written since the last layer.
    pub(crate) fn drop_layer(&mut self) {
        self.rest.clear();
        self.sums.truncate(self.layers.last().map_or(0, |(_, _, end)| *end));
    }

    /// The layer that a block is in, and how far from its beginning.
    fn layer_of(&self, place: usize) -> Option<(usize, usize)> {
        let n = self.layers.iter().position(|(_, first, end)| (*first..*end).contains(&place))?;
        Some((n, place - self.layers[n].1))
    }
}

/// Cuts what comes into whole blocks.
fn blocks(rest: &mut Vec<u8>, mut bytes: &[u8], each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    if !rest.is_empty() {
        let (first, more) = bytes.split_at(bytes.len().min(BLOCK - rest.len()));
        rest.extend_from_slice(first);
        bytes = more;
        if rest.len() < BLOCK {
            return Ok(());
        }
        each(rest)?;
        rest.clear();
    }
    let whole = bytes.chunks_exact(BLOCK);
    rest.extend_from_slice(whole.remainder());
    whole.into_iter().try_for_each(each)
}

/// [`OldBlocks`], while a layer is written to them.
#[derive(Debug)]
pub struct OldLayer<'a>(pub &'a mut OldBlocks, pub &'a Progress);

impl Sink for OldLayer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let OldBlocks { rest, sums, .. } = &mut *self.0;
        blocks(rest, bytes, &mut |block| {
            sums.push(sum(block));
            Ok(())
        })
    }

    fn file(&mut self, file: &File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        let progress = self.1;
        let mut readers: Readers<'_> = readers;
        readers.here.push(Box::new(|chunk| self.bytes(chunk)));
        fan_out(file, size, readers, progress)
    }
}

/// Writes a patch for the layer that is written to it.
pub struct PatchWriter<'a, W: Write> {
    old: &'a OldBlocks,
    to: Encoder<W>,
    progress: &'a Progress,
    rest: Vec<u8>,
    new: Vec<u8>,
    /// The first old block of a run, and how many follow one another.
    run: Option<(usize, usize)>,
}

impl<W: Write> fmt::Debug for PatchWriter<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatchWriter").field("old", &self.old.layers).field("run", &self.run).finish_non_exhaustive()
    }
}

impl<'a, W: Write> PatchWriter<'a, W> {
    /// One for a layer with this digest and size.
    ///
    /// # Errors
    /// If `to` cannot be written.
    pub fn new(old: &'a OldBlocks, (layer, size): (Digest, u64), to: W, progress: &'a Progress) -> io::Result<Self> {
        let from = old.layers.iter().map(|(digest, ..)| *digest).collect();
        let mut to = Compression::Zstd.encoder(to)?;
        to.write_all(&canonical::to_bytes(&PatchHeader { version: 1, layer, size, from }))?;
        to.write_all(b"\n")?;
        Ok(Self { old, to, progress, rest: Vec::new(), new: Vec::new(), run: None })
    }

    fn end_run(&mut self) -> io::Result<()> {
        let Some((place, count)) = self.run.take() else { return Ok(()) };
        let (layer, block) = self.old.layer_of(place).ok_or(io::ErrorKind::InvalidData)?;
        let number = |count: usize| (count as u64 * BLOCK as u64).to_le_bytes();
        self.to.write_all(&[1])?;
        self.to.write_all(&u32::try_from(layer).unwrap_or(u32::MAX).to_le_bytes())?;
        self.to.write_all(&number(block))?;
        self.to.write_all(&number(count))
    }

    fn end_new(&mut self) -> io::Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        self.to.write_all(&[0])?;
        self.to.write_all(&u32::try_from(self.new.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.to.write_all(&self.new)?;
        self.new.clear();
        Ok(())
    }

    fn block(&mut self, block: &[u8]) -> io::Result<()> {
        let sum = sum(block);
        if let Some((place, count)) = &mut self.run {
            let next = *place + *count;
            let follows = self.old.layer_of(*place).is_some_and(|(layer, _)| next < self.old.layers[layer].2);
            if follows && self.old.sums[next] == sum {
                *count += 1;
                return Ok(());
            }
        }
        self.end_run()?;
        if let Some(place) = self.old.places.get(&sum) {
            self.end_new()?;
            self.run = Some((*place as usize, 1));
            return Ok(());
        }
        self.new.extend_from_slice(block);
        if self.new.len() >= LONGEST { self.end_new() } else { Ok(()) }
    }

    /// The layer ends here.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.end_run()?;
        let rest = std::mem::take(&mut self.rest);
        self.new.extend_from_slice(&rest);
        self.end_new()?;
        self.to.finish()
    }
}

impl<W: Write + Send> Sink for PatchWriter<'_, W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = std::mem::take(&mut self.rest);
        let done = blocks(&mut rest, bytes, &mut |block| self.block(block));
        self.rest = rest;
        done
    }

    fn file(&mut self, file: &File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        let progress = self.progress;
        let mut readers: Readers<'_> = readers;
        readers.here.push(Box::new(|chunk| self.bytes(chunk)));
        fan_out(file, size, readers, progress)
    }
}

/// Bytes of an old layer, wherever it is now.
pub trait OldBytes {
    /// Reads all that fits from here.
    ///
    /// # Errors
    /// If they are not there.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// What comes next.
enum Piece {
    New(u64),
    Old(usize, u64, u64),
}

/// A layer that is put together again.
pub struct PatchedLayer<'a> {
    patch: BufReader<Box<dyn Read + Send + 'a>>,
    old: Vec<Box<dyn OldBytes + 'a>>,
    piece: Piece,
    /// Bytes that are still to come.
    left: u64,
}

impl fmt::Debug for PatchedLayer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatchedLayer").field("left", &self.left).finish_non_exhaustive()
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is not a patch of this layer: {what}"))
}

impl<'a> PatchedLayer<'a> {
    /// The layer with this digest and size, from a patch and what `find` has of the old layers.
    ///
    /// # Errors
    /// If it is a patch of something else, or an old layer is not there.
    pub fn new(
        patch: Box<dyn Read + Send + 'a>,
        (layer, size): (Digest, u64),
        find: &mut dyn FnMut(Digest) -> io::Result<Box<dyn OldBytes + 'a>>,
    ) -> io::Result<Self> {
        let mut patch = BufReader::new(Compression::Zstd.decoder(patch)?);
        let mut line = Vec::new();
        patch.by_ref().take(HEADER).read_until(b'\n', &mut line)?;
        let header: PatchHeader = serde_json::from_slice(&line).map_err(|error| wrong(&error.to_string()))?;
        if (header.version, header.layer, header.size) != (1, layer, size) {
            return Err(wrong("its first line names another"));
        }
        // Each takes memory for the places of its files.
        if header.from.iter().collect::<BTreeSet<_>>().len() < header.from.len() {
            return Err(wrong("it names an old layer twice"));
        }
        let old = header.from.into_iter().map(&mut *find).collect::<io::Result<_>>()?;
        Ok(Self { patch, old, piece: Piece::New(0), left: size })
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.patch.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn next(&mut self) -> io::Result<()> {
        let [kind] = self.number()?;
        let (piece, length) = match kind {
            0 => {
                let length = u32::from_le_bytes(self.number()?).into();
                (Piece::New(length), length)
            }
            1 => {
                let from = u32::from_le_bytes(self.number()?) as usize;
                let (offset, length) = (u64::from_le_bytes(self.number()?), u64::from_le_bytes(self.number()?));
                (Piece::Old(from, offset, length), length)
            }
            _ => return Err(wrong("a piece has no known kind")),
        };
        // Without bytes there could be any number of them.
        if length == 0 || length > self.left {
            return Err(wrong("a piece has no bytes, or too many"));
        }
        self.piece = piece;
        Ok(())
    }
}

impl Read for PatchedLayer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left > 0 && !buffer.is_empty() {
            match &mut self.piece {
                Piece::New(0) | Piece::Old(_, _, 0) => self.next()?,
                Piece::New(length) => {
                    let most = buffer.len().min(usize::try_from(*length).unwrap_or(usize::MAX));
                    let read = self.patch.read(&mut buffer[..most])?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *length -= read as u64;
                    self.left -= read as u64;
                    return Ok(read);
                }
                Piece::Old(from, offset, length) => {
                    let most = buffer.len().min(usize::try_from(*length).unwrap_or(usize::MAX));
                    let old = self.old.get_mut(*from).ok_or_else(|| wrong("it names no such old layer"))?;
                    old.read_at(*offset, &mut buffer[..most])?;
                    *offset += most as u64;
                    *length -= most as u64;
                    self.left -= most as u64;
                    return Ok(most);
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Whole(Vec<u8>);

    impl OldBytes for Whole {
        fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let at = usize::try_from(offset).unwrap();
            let bytes = self.0.get(at..at + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        }
    }

    /// Bytes in which no block is like another.
    fn noise(seed: u32, size: usize) -> Vec<u8> {
        let word = |n: u32| Sha256::digest([n.to_le_bytes(), seed.to_le_bytes()].concat()).to_vec();
        (0..).flat_map(word).take(size).collect()
    }

    fn patch(old: &[&[u8]], new: &[u8]) -> Vec<u8> {
        let (mut known, progress) = (OldBlocks::default(), Progress::new());
        for old in old {
            // In pieces that are no blocks.
            old.chunks(700).for_each(|chunk| OldLayer(&mut known, &progress).bytes(chunk).unwrap());
            known.end_layer(Digest::of(old));
        }
        let of = (Digest::of(new), new.len() as u64);
        let mut writer = PatchWriter::new(&known, of, Vec::new(), &progress).unwrap();
        new.chunks(999).for_each(|chunk| writer.bytes(chunk).unwrap());
        writer.finish().unwrap()
    }

    fn apply(patch: &[u8], old: &[&[u8]], new: &[u8]) -> io::Result<Vec<u8>> {
        let mut find = |digest| -> io::Result<Box<dyn OldBytes>> {
            let found = old.iter().find(|old| Digest::of(old) == digest).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(Whole(found.to_vec())))
        };
        let of = (Digest::of(new), new.len() as u64);
        let mut bytes = Vec::new();
        PatchedLayer::new(Box::new(io::Cursor::new(patch.to_vec())), of, &mut find)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn what_is_put_together_again_is_what_it_was() {
        let (one, two) = (noise(1, 100 * BLOCK), noise(2, 40 * BLOCK));
        let mut new = one.clone();
        new[70 * BLOCK + 5] ^= 1;
        let moved = [&noise(3, 3 * BLOCK)[..], &one[20 * BLOCK..], &two, &noise(4, 100), &[0; 5000]].concat();
        for new in [&new, &moved, &one, &noise(5, 3_000_000), &Vec::new(), &vec![0; 1_000_000]] {
            let patch = patch(&[&one, &two], new);
            assert_eq!(&apply(&patch, &[&one, &two], new).unwrap(), new);
        }
        assert!(patch(&[&one, &two], &new).len() < 2 * BLOCK, "one block is new");
        assert!(patch(&[&one, &two], &moved).len() < 5 * BLOCK, "what moved is found");
        let patch = patch(&[&one], &new);
        assert_eq!(apply(&patch, &[&two], &new).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(apply(&patch, &[&one], &one).unwrap_err().to_string().contains("its first line names another"));
        let twice = [one.as_slice(), &one];
        assert!(apply(&self::patch(&twice, &new), &twice, &new).unwrap_err().to_string().contains("twice"));
        for cut in [0, 1, patch.len() / 2, patch.len() - 1] {
            // Behind the last byte of the layer there is the checksum of zstd alone.
            assert_ne!(apply(&patch[..cut], &[&one], &new).ok().as_ref(), Some(&new).filter(|_| cut < patch.len() - 8));
        }
    }
}
