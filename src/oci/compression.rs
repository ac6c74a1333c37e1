//! How a layer's archive is packed: media types, and streams that pack and unpack.
//!
//! Packing gives the same bytes on every machine and in every run: levels are fixed, one thread packs, a gzip header has
//! no time and no name. A newer version of the libraries may pack in another way; a test holds the bytes.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

use flate2::{GzBuilder, write::GzEncoder};

use super::gunzip::Gunzip;

/// The level of gzip.
const GZIP_LEVEL: u32 = 6;
/// The level of zstd, its default.
const ZSTD_LEVEL: i32 = 3;
/// Memory that a zstd stream may ask for, as a power of two: 128 MiB, as `zstd --long` needs.
const ZSTD_WINDOW: u32 = 27;
/// Bytes that are read of a packed stream at once.
const BUFFER: usize = 128 * 1024;

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What a layer of this media type is packed with: those of the OCI image-spec (*layer.md*) and of Docker. `None` for
    /// anything else, and for layers that may not be distributed.
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Some(Self::None)
            }
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Some(Self::Gzip)
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Some(Self::Zstd)
            }
            _ => None,
        }
    }

    /// What bytes that begin so are packed with. Media types are wrong now and then, and Podman, skopeo and Docker go by the
    /// bytes too (containers/image, *pkg/compression*).
    ///
    /// # Errors
    /// The name of a packing that is known and not read: `xz`, `bzip2`.
    pub(crate) fn of_start(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A zstd file may begin with a frame that is to be skipped.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..] => Err("bzip2"),
            _ => Ok(Self::None),
        }
    }

    /// What an open file is packed with, by its first bytes; where it is read next does not change.
    ///
    /// # Errors
    /// If it cannot be read, or is packed in a way that is not read.
    pub(crate) fn of_file(file: &std::fs::File) -> io::Result<Self> {
        let (mut start, mut filled) = ([0; 8], 0);
        while let count @ 1.. = file.read_at(&mut start[filled..], filled as u64)? {
            filled += count;
        }
        let packed = |name| {
            io::Error::new(io::ErrorKind::Unsupported, format!("it is packed with {name}: only gzip and zstd are read"))
        };
        Self::of_start(&start[..filled]).map_err(packed)
    }

    /// The media type that the OCI image-spec has for such a layer.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// What packs, with its version where that is known, and its level: for people. Packing is deterministic for a version.
    pub(crate) fn program(self) -> (String, i32) {
        match self {
            Self::None => (String::new(), 0),
            Self::Gzip => ("flate2".to_owned(), i32::try_from(GZIP_LEVEL).unwrap_or_default()),
            Self::Zstd => {
                let number = zstd::zstd_safe::version_number();
                (format!("zstd {}.{}.{}", number / 10_000, number / 100 % 100, number % 100), ZSTD_LEVEL)
            }
        }
    }

    /// Unpacks: all members of a gzip file and all frames of a zstd file, as one stream.
    ///
    /// # Errors
    /// If there is no memory for it. What is wrong with the packed bytes the stream says when it is read.
    pub fn decoder<'a>(self, packed: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        let packed = BufReader::with_capacity(BUFFER, packed);
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(Gunzip::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        })
    }

    /// Packs what is written to it into `into`.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn encoder<W: Write>(self, into: W) -> io::Result<Encoder<W>> {
        Ok(Encoder(match self {
            Self::None => Inner::None(into),
            // 255: no particular operating system.
            Self::Gzip => {
                let plain = GzBuilder::new().mtime(0).operating_system(255);
                Inner::Gzip(plain.write(into, flate2::Compression::new(GZIP_LEVEL)))
            }
            Self::Zstd => {
                let mut encoder = zstd::Encoder::new(into, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Inner::Zstd(encoder)
            }
        }))
    }
}

/// A writer that packs; [`finish`](Self::finish) ends the stream.
pub struct Encoder<W: Write>(Inner<W>);

enum Inner<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl<W: Write> Encoder<W> {
    /// Writes what is left, and gives back what was written to.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::None(mut into) => into.flush().map(|()| into),
            Inner::Gzip(encoder) => encoder.finish(),
            Inner::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(into) => into.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
            Inner::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::None(into) => into.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
            Inner::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::oci::digest::Digest;

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

    fn sample() -> Vec<u8> {
        (0..400_000_u32).flat_map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()).collect()
    }

    fn pack(compression: Compression, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut encoder = compression.encoder(Vec::new()).unwrap();
        bytes.chunks(piece).for_each(|piece| encoder.write_all(piece).unwrap());
        encoder.finish().unwrap()
    }

    fn unpack(compression: Compression, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        compression.decoder(packed)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn what_was_packed_is_unpacked_and_the_bytes_are_always_the_same() {
        let bytes = sample();
        let packed = ALL.map(|compression| pack(compression, &bytes, 1 << 20));
        for (compression, packed) in ALL.iter().zip(&packed) {
            assert_eq!(unpack(*compression, packed).unwrap(), bytes, "{compression:?}");
            // How it is handed over makes no difference.
            assert_eq!(pack(*compression, &bytes, 70_001), *packed, "{compression:?}");
            assert_eq!(Compression::of_media_type(compression.media_type()), Some(*compression));
        }
        let digests = packed.map(|packed| Digest::of(&packed).short());
        assert_eq!(digests, ["dbdcb79052cb", "43a9a6a6a0d6", "8305c3c3e6e3"]);
    }

    #[test]
    fn several_members_are_one_stream_and_what_is_cut_off_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let two = [pack(compression, b"one ", 9), pack(compression, b"two", 9)].concat();
            assert_eq!(unpack(compression, &two).unwrap(), b"one two");
            assert!(unpack(compression, &two[..two.len() - 3]).is_err(), "{compression:?}");
            assert!(unpack(compression, b"neither of them").is_err());
            assert!(unpack(compression, &[&two[..], b"and more"].concat()).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn gzip_is_unpacked_as_by_another_program_and_each_damage_is_an_error() {
        let bytes = sample();
        let packed = pack(Compression::Gzip, &bytes, 1 << 20);
        // A header with a name, a time and a sum, as RFC 1952 allows it.
        let mut named = GzBuilder::new()
            .filename("a")
            .comment("b")
            .extra(vec![7; 300])
            .mtime(9)
            .write(Vec::new(), flate2::Compression::best());
        named.write_all(&bytes).unwrap();
        let named = named.finish().unwrap();
        for packed in [&packed, &named] {
            let mut other = Vec::new();
            flate2::bufread::MultiGzDecoder::new(&packed[..]).read_to_end(&mut other).unwrap();
            assert!(unpack(Compression::Gzip, packed).unwrap() == other && other == bytes);
            // In whichever pieces it comes, and is asked for.
            let mut decoder = Gunzip::new(BufReader::with_capacity(7, &packed[..]));
            let (mut pieces, mut buffer) = (Vec::new(), [0; 1000]);
            while let count @ 1.. = decoder.read(&mut buffer).unwrap() {
                pieces.extend_from_slice(&buffer[..count]);
            }
            assert!(pieces == bytes);
            assert_eq!(decoder.read(&mut buffer).unwrap(), 0, "and that is all");
        }
        // Checksum and length are the last 8 bytes; whatever else is damaged, they do not fit.
        for at in [packed.len() - 1, packed.len() - 8, packed.len() / 2, 12, 0] {
            let mut damaged = packed.clone();
            damaged[at] ^= 4;
            assert!(unpack(Compression::Gzip, &damaged).is_err(), "{at}");
        }
        for end in [0, 1, 9, 11, packed.len() / 2, packed.len() - 8, packed.len() - 1] {
            assert!(unpack(Compression::Gzip, &packed[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_stream_that_asks_for_too_much_memory_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(30).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&[0; 1 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(unpack(Compression::Zstd, &packed).is_err());
    }

    #[test]
    fn bytes_tell_how_they_are_packed() {
        for compression in ALL {
            let packed = pack(compression, &sample(), 1 << 20);
            assert_eq!(Compression::of_start(&packed[..8]), Ok(compression));
        }
        assert_eq!(Compression::of_start(b"\x50\x2a\x4d\x18"), Ok(Compression::Zstd));
        assert_eq!(Compression::of_start(b"\xfd7zXZ\0\0"), Err("xz"));
        assert_eq!(Compression::of_start(b"BZh91AY&"), Err("bzip2"));
        assert_eq!(Compression::of_start(b""), Ok(Compression::None));
    }

    #[test]
    fn layers_that_may_not_be_distributed_are_none() {
        for media_type in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.config.v1+json",
        ] {
            assert_eq!(Compression::of_media_type(media_type), None);
        }
    }
}
