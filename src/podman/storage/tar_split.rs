//! tar-split records: what containers-storage keeps of a layer's archive beside the unpacked tree, so that `podman save`
//! and `podman push` give the very bytes again (github.com/vbatts/tar-split, `tar/storage`).
//!
//! A gzip file of JSON values, one a line. A *segment* (type 2) holds bytes of the archive that are no file's content:
//! headers, padding, the end. A *file* (type 1) stands for the content of a file of the tree, with its size and CRC-64
//! (GO-ISO, big-endian). In the order of the archive, both together are the archive.
//!
//! With such a record a tree is checked without any other source ([`mod@crate::podman::linked::check_tree`]), for a layer of ours and for one that
//! Podman unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm::Crc64GoIso;
use crc_fast::checksum_combine;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::Deserialize;

use crate::disk::pipe::{Consumer, PipeError, Readers, fan_out};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};

const FILE: u8 = 1;
const SEGMENT: u8 = 2;
/// The longest segment in bytes.
const LONGEST: usize = 1024 * 1024;

/// Writes a record.
#[derive(Debug)]
pub(crate) struct Writer {
    out: GzEncoder<BufWriter<File>>,
    path: PathBuf,
    segment: Vec<u8>,
    position: u64,
    line: String,
}

impl Writer {
    /// A record in an open file, which is empty; `path` is what messages call it.
    pub(crate) fn new(file: File, path: &Path) -> Self {
        // The headers of a layer are alike: more effort would gain little.
        let out = GzEncoder::new(BufWriter::new(file), Compression::fast());
        Self { out, path: path.to_owned(), segment: Vec::new(), position: 0, line: String::new() }
    }

    /// Bytes of the archive that are no file's content.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub(crate) fn segment(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.segment.extend_from_slice(bytes);
        // Behind the end of an archive there may be gigabytes.
        if self.segment.len() > LONGEST { self.end_segment() } else { Ok(()) }
    }

    /// A member follows whose header was given as a segment; `content` is the size and the CRC-64 of a file's bytes.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub(crate) fn member(&mut self, name: &[u8], content: Option<(u64, u64)>) -> Result<(), WriteError> {
        self.end_segment()?;
        let name = match std::str::from_utf8(name) {
            Ok(name) => format!("\"name\":{}", serde_json::Value::from(name)),
            Err(_) => format!("\"name_raw\":\"{}\"", BASE64.encode(name)),
        };
        let content = match content {
            Some((size, sum)) => format!("\"size\":{size},\"payload\":\"{}\"", BASE64.encode(sum.to_be_bytes())),
            None => "\"payload\":null".to_owned(),
        };
        self.entry(FILE, &format!("{name},{content}"))
    }

    /// A member whose content lies in the segments before it, because the file in the tree has holes that the archive has
    /// not; `sum` is the CRC-64 of the file with its holes. containers-storage skips what has no size.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub(crate) fn with_holes(&mut self, name: &[u8], sum: u64) -> Result<(), WriteError> {
        self.member(name, Some((0, sum)))
    }

    /// Everything is there; the compressed size.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub(crate) fn finish(mut self) -> Result<u64, WriteError> {
        self.end_segment()?;
        let file = self.out.finish().and_then(|out| Ok(out.into_inner()?)).at("write", &self.path)?;
        Ok(file.metadata().at("read", &self.path)?.len())
    }

    fn end_segment(&mut self) -> Result<(), WriteError> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let mut fields = String::with_capacity(self.segment.len() * 4 / 3 + 16);
        fields.push_str("\"payload\":\"");
        BASE64.encode_string(&self.segment, &mut fields);
        fields.push('"');
        self.segment.clear();
        self.entry(SEGMENT, &fields)
    }

    fn entry(&mut self, kind: u8, fields: &str) -> Result<(), WriteError> {
        use std::fmt::Write as _;
        self.line.clear();
        let position = self.position;
        writeln!(self.line, "{{\"type\":{kind},{fields},\"position\":{position}}}").expect("a String takes all");
        self.position += 1;
        self.out.write_all(self.line.as_bytes()).at("write", &self.path)
    }
}

/// One line of a record.
#[derive(Debug)]
pub(crate) enum TarSplitLine {
    /// Bytes of the archive that are no file's content.
    Segment(Vec<u8>),
    /// A member.
    Member {
        name: Vec<u8>,
        /// Bytes of its content in the archive.
        size: u64,
        /// The CRC-64 of its file.
        sum: Option<u64>,
    },
}

#[derive(Deserialize)]
struct TarSplitEntry {
    r#type: u8,
    #[serde(default)]
    name: String,
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    payload: Option<String>,
}

/// Reads the record at `path` line by line.
pub(crate) fn read(
    file: File,
    path: &Path,
    each: &mut dyn FnMut(TarSplitLine) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut lines = BufReader::new(GzDecoder::new(BufReader::new(file)));
    let mut line = String::new();
    let bytes = |text: &Option<String>| BASE64.decode(text.as_deref().unwrap_or_default()).map_err(io::Error::other);
    while lines.read_line(&mut line).at("read", path)? > 0 {
        let entry: TarSplitEntry = serde_json::from_str(&line).map_err(io::Error::from).at("read", path)?;
        let payload = bytes(&entry.payload).at("read", path)?;
        let line_of = match entry.r#type {
            SEGMENT => Some(TarSplitLine::Segment(payload)),
            FILE => {
                let raw = entry.name_raw.is_some();
                let name = if raw { bytes(&entry.name_raw).at("read", path)? } else { entry.name.into_bytes() };
                let sum = <[u8; 8]>::try_from(payload).ok().map(u64::from_be_bytes);
                Some(TarSplitLine::Member { name, size: entry.size, sum })
            }
            _ => None,
        };
        line_of.map_or(Ok(()), &mut *each)?;
        line.clear();
    }
    Ok(())
}

/// The CRC-64 of bytes.
pub(crate) fn sum_of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64GoIso, bytes)
}

/// The CRC-64 of a file's first `size` bytes. Holes are not read: an archive of a kilobyte can ask for a terabyte of them.
pub(crate) fn sum_of_file(file: &File, size: u64, progress: &Progress) -> Result<u64, PipeError> {
    let failed = |error: Errno| PipeError::Read(error.into());
    if file.metadata().map_err(PipeError::Read)?.len() < size {
        return Err(PipeError::Read(io::ErrorKind::UnexpectedEof.into()));
    }
    let (mut sum, mut at) = (sum_of(&[]), 0);
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => size,
            found => found.map_err(failed)?.min(size),
        };
        sum = with_zeros(sum, data - at);
        if data == size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(data)).map_err(failed)?.min(size);
        seek(file, SeekFrom::Start(data)).map_err(failed)?;
        let mut crc = crc_fast::Digest::new(Crc64GoIso);
        let summing: Consumer<'_> = Box::new(|chunk| {
            crc.update(chunk);
            Ok(())
        });
        fan_out(file, end - data, Readers { here: vec![summing], hashers: Vec::new() }, progress)?;
        sum = checksum_combine(Crc64GoIso, sum, crc.finalize(), end - data);
        at = end;
    }
    Ok(sum)
}

/// A sum of something with this many zeros behind it.
fn with_zeros(mut sum: u64, mut count: u64) -> u64 {
    let (mut zeros, mut length) = (sum_of(&[0]), 1_u64);
    while count > 0 {
        if count % 2 == 1 {
            sum = checksum_combine(Crc64GoIso, sum, zeros, length);
        }
        count /= 2;
        if count > 0 {
            zeros = checksum_combine(Crc64GoIso, zeros, zeros, length);
            length *= 2;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_are_summed_and_not_read() {
        let bytes: Vec<u8> = (0..9000_u32).map(|n| n.to_le_bytes()[0] | 1).collect();
        for (start, size) in [(0, 9000), (0, 1 << 20), (1 << 20, (1 << 20) + 9000), (70_000, 3 << 20), (5, 9005)] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, start).unwrap();
            file.set_len(size).unwrap();
            let mut whole = vec![0; usize::try_from(size).unwrap()];
            file.read_exact_at(&mut whole, 0).unwrap();
            assert_eq!(sum_of_file(&file, size, &Progress::new()).unwrap(), sum_of(&whole), "{start} {size}");
        }
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        let progress = Progress::new();
        let sum = sum_of_file(&file, 1 << 40, &progress).unwrap();
        assert_eq!((sum, progress.read()), (with_zeros(sum_of(&[]), 1 << 40), 0));
        let early = sum_of_file(&file, (1 << 40) + 1, &progress).unwrap_err();
        assert!(matches!(early, PipeError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof));
    }
}
