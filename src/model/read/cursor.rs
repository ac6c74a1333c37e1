//! Bounded reading of a header that may be damaged, hostile, or cut off.
//!
//! Nothing is allocated by a number from the file before that number was compared with the bytes that are left, and every
//! error says where in the file it arose.

use std::fmt::Arguments;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use crate::class::{Class, Classified};

/// Bytes that are read ahead.
const BUFFER: usize = 1 << 16;

/// Why a header cannot be read. An offset is never behind the end of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file itself.
    #[error("read at byte {offset}: {source}")]
    Read {
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file is shorter than what its header says.
    #[error("it ends at byte {size}, in {what}: {missing} bytes are missing; get it again, whole")]
    Truncated {
        /// What it ends in.
        what: String,
        /// The bytes that are there.
        size: u64,
        /// The bytes that are not, as far as is known.
        missing: u64,
    },
    /// Bytes that the format does not allow.
    #[error("byte {offset}: {message}; the file is damaged: get it again, and compare its SHA-256 with its source's")]
    Invalid {
        /// Where.
        offset: u64,
        /// What is wrong.
        message: String,
    },
    /// A file of a kind that is not read.
    #[error("byte {offset}: {message}")]
    Unsupported {
        /// Where.
        offset: u64,
        /// What it is, and what to do.
        message: String,
    },
}

impl Classified for HeaderError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Truncated { .. } | Self::Invalid { .. } | Self::Unsupported { .. } => Class::Unverified,
        }
    }
}

impl HeaderError {
    /// Where in the file: what cannot be read, is wrong, or is the end.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        match self {
            Self::Read { offset, .. } | Self::Invalid { offset, .. } | Self::Unsupported { offset, .. } => *offset,
            Self::Truncated { size, .. } => *size,
        }
    }

    /// Bytes at `offset` that the format allows, and that are more than is read here.
    pub(crate) fn too_much(offset: u64, message: impl Into<String>) -> Self {
        Self::Unsupported { offset, message: message.into() }
    }

    /// Bytes at `offset` that the format does not allow.
    pub(crate) fn invalid(offset: u64, message: impl Into<String>) -> Self {
        Self::Invalid { offset, message: message.into() }
    }
}

/// A place in a file, and how many bytes come after it. Numbers are little-endian.
#[derive(Debug)]
pub(crate) struct FileCursor<R> {
    reader: BufReader<R>,
    position: u64,
    size: u64,
}

impl<R: Read + Seek> FileCursor<R> {
    /// At the first byte.
    ///
    /// # Errors
    /// If the reader cannot tell its length.
    pub(crate) fn new(mut reader: R) -> Result<Self, HeaderError> {
        let size = reader.seek(SeekFrom::End(0)).and_then(|size| reader.rewind().map(|()| size));
        let size = size.map_err(|source| HeaderError::Read { offset: 0, source })?;
        Ok(Self { reader: BufReader::with_capacity(BUFFER, reader), position: 0, size })
    }

    /// The offset of the next byte.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// The length of the file.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The bytes that come.
    pub(crate) const fn left(&self) -> u64 {
        self.size - self.position
    }

    /// That this many bytes come, which are part of `what`.
    ///
    /// # Errors
    /// How many are missing.
    pub(crate) fn need(&self, bytes: u64, what: Arguments<'_>) -> Result<(), HeaderError> {
        match bytes.checked_sub(self.left()) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(HeaderError::Truncated { what: what.to_string(), size: self.size, missing }),
        }
    }

    /// The next bytes, as many as the buffer has room for.
    ///
    /// # Errors
    /// If the file ends before.
    pub(crate) fn fill(&mut self, buffer: &mut [u8], what: Arguments<'_>) -> Result<(), HeaderError> {
        self.need(buffer.len() as u64, what)?;
        self.reader.read_exact(buffer).map_err(|source| HeaderError::Read { offset: self.position, source })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: Arguments<'_>) -> Result<[u8; N], HeaderError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// The next byte.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) fn u8(&mut self, what: Arguments<'_>) -> Result<u8, HeaderError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) fn u16(&mut self, what: Arguments<'_>) -> Result<u16, HeaderError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) fn u32(&mut self, what: Arguments<'_>) -> Result<u32, HeaderError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub(crate) fn u64(&mut self, what: Arguments<'_>) -> Result<u64, HeaderError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Goes over the next bytes without keeping them; they are not read if they are many.
    ///
    /// # Errors
    /// If the file ends before.
    pub(crate) fn skip(&mut self, bytes: u64, what: Arguments<'_>) -> Result<(), HeaderError> {
        self.need(bytes, what)?;
        let seek = match i64::try_from(bytes) {
            Ok(bytes) => self.reader.seek_relative(bytes),
            Err(_) => self.reader.seek(SeekFrom::Start(self.position + bytes)).map(drop),
        };
        seek.map_err(|source| HeaderError::Read { offset: self.position, source })?;
        self.position += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian_and_the_end_is_told() {
        let mut cursor = FileCursor::new(io::Cursor::new([1_u8, 2, 0, 3, 0, 0, 0, 9, 9])).unwrap();
        assert_eq!(cursor.u8(format_args!("a")).unwrap(), 1);
        assert_eq!(cursor.u16(format_args!("b")).unwrap(), 2);
        assert_eq!(cursor.u32(format_args!("c")).unwrap(), 3);
        assert_eq!((cursor.position(), cursor.left(), cursor.size()), (7, 2, 9));
        let error = cursor.u64(format_args!("the {}", "end")).unwrap_err();
        assert_eq!(error.to_string(), "it ends at byte 9, in the end: 6 bytes are missing; get it again, whole");
        assert_eq!(error.offset(), 9);
        let error = cursor.skip(u64::MAX, format_args!("all")).unwrap_err();
        assert!(matches!(error, HeaderError::Truncated { missing, .. } if missing == u64::MAX - 2));
        cursor.skip(2, format_args!("rest")).unwrap();
        assert_eq!(cursor.left(), 0);
    }
}
