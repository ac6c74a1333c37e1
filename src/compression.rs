//! How the bytes of a layer are packed.
//!
//! Media types are those of the OCI image-spec (*layer.md*, *media-types.md*) and Docker's. What is packed here is the same
//! on every machine: fixed levels, one thread, no time and no name in the gzip header. Another version of the two
//! libraries may pack otherwise; a test holds the digests, so that nobody updates them unawares.

use std::io::{self, BufRead, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all: a tar archive.
    None,
    /// gzip (RFC 1952), of one or several members.
    Gzip,
    /// Zstandard (RFC 8878), of one or several frames; `zstd:chunked` is that too.
    Zstd,
}

/// gzip's own default, the best trade for what is not a model.
const GZIP_LEVEL: u32 = 6;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// The largest window that a layer may ask for, as a power of two: 128 MiB, what `zstd` itself takes without `--long`.
const WINDOW_LOG: u32 = 27;

impl Compression {
    /// What the media type of a layer says. `None` for one that cannot be unpacked here: a foreign layer, which no registry
    /// has, or something that is no layer.
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

    /// What the OCI image-spec calls a layer that is packed so.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Unpacks, all members or frames of it.
    ///
    /// # Errors
    /// If zstd cannot be set up; what is wrong with the bytes is said when they are read.
    pub fn decoder<'r>(self, packed: impl BufRead + Send + 'r) -> io::Result<Box<dyn io::Read + Send + 'r>> {
        Ok(match self {
            Self::None => Box::new(packed),
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }

    /// Packs what is written to it.
    ///
    /// # Errors
    /// If zstd cannot be set up.
    pub fn encoder<W: Write>(self, to: W) -> io::Result<Encoder<W>> {
        Ok(match self {
            Self::None => Encoder::None(to),
            Self::Gzip => Encoder::Gzip(GzEncoder::new(to, flate2::Compression::new(GZIP_LEVEL))),
            Self::Zstd => {
                let mut encoder = zstd::Encoder::new(to, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
        })
    }
}

/// Packs what is written to it.
#[expect(missing_debug_implementations, reason = "the encoder of zstd has none")]
pub enum Encoder<W: Write> {
    /// As it is.
    None(W),
    /// With gzip.
    Gzip(GzEncoder<W>),
    /// With zstd.
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Writes the end, and gives back what was written to.
    ///
    /// # Errors
    /// What the place that is written to says.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(to) => Ok(to),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(to) => to.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(to) => to.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::digest::Digest;

    fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = compression.encoder(Vec::new()).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bytes() -> Vec<u8> {
        (0..200_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> (n % 29)).to_le_bytes()).collect()
    }

    #[test]
    fn several_members_and_frames_are_read_to_the_end() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let twice = [packed(compression, b"one, "), packed(compression, &bytes())].concat();
            let mut read = Vec::new();
            compression.decoder(&twice[..]).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, [b"one, ", &bytes()[..]].concat(), "{compression:?}");
            assert_eq!(Compression::of_media_type(compression.media_type()), Some(compression));
        }
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let whole = packed(compression, &bytes());
            let read = compression.decoder(&whole[..whole.len() - 5]).unwrap().read_to_end(&mut Vec::new());
            assert!(read.is_err(), "{compression:?}");
        }
    }

    #[test]
    fn a_stream_that_asks_for_too_much_memory_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(30).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&[0; 1 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(Compression::Zstd.decoder(&packed[..]).unwrap().read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn packed_bytes_stay_the_same() {
        let digest = |compression| Digest::of(&packed(compression, &bytes())).short();
        assert_eq!([Compression::Gzip, Compression::Zstd].map(digest), ["fb9a48983092", "4cfb3e9a8555"]);
    }

    #[test]
    fn foreign_layers_are_not_unpacked() {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert_eq!(Compression::of_media_type(foreign), None);
        assert_eq!(Compression::of_media_type("application/json"), None);
    }
}
