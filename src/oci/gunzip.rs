//! Gzip, unpacked by zlib-rs: 250 MB of libraries take 0.9 s of processor time with their hashes, and 1.3 s with what flate2
//! has. What is packed here is packed by flate2: another library would give other bytes.

use std::io::{self, BufRead, ErrorKind, Read};

use zlib_rs::{Inflate, InflateFlush, Status};

/// A gzip header and trailer around the stream, with the largest window.
const GZIP: u8 = 16 + 15;

/// All members of a gzip file, as one stream. Each is compared with its checksum and length.
pub(super) struct Gunzip<R> {
    packed: R,
    inflate: Inflate,
    /// Whether a member has ended, and no other one has begun.
    is_between: bool,
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(packed: R) -> Self {
        Self { packed, inflate: Inflate::new(true, GZIP), is_between: false }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            let packed = self.packed.fill_buf()?;
            let is_end = packed.is_empty();
            if self.is_between {
                if is_end {
                    break;
                }
                (self.inflate, self.is_between) = (Inflate::new(true, GZIP), false);
            }
            let (taken, given) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(packed, buffer, InflateFlush::NoFlush);
            let [taken, given] = [self.inflate.total_in() - taken, self.inflate.total_out() - given]
                .map(|count| usize::try_from(count).expect("no more than the slices have"));
            self.packed.consume(taken);
            match status {
                Ok(Status::StreamEnd) => self.is_between = true,
                Ok(_) if taken + given > 0 => {}
                Ok(_) if is_end => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Err(ErrorKind::InvalidData.into()),
                Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error.as_str())),
            }
            if given > 0 {
                return Ok(given);
            }
        }
        Ok(0)
    }
}
