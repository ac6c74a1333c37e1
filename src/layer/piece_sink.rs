//! A layer in pieces, for what serves it: large files are handed on as files.

use std::fs::File;
use std::io;

use super::Sink;
use crate::disk::pieces::{PieceSender, WHOLE_FROM};
use crate::disk::pipe::{PipeError, Readers, fan_out};
use crate::disk::progress::Progress;

/// The [`Sink`] that makes the pieces.
#[derive(Debug)]
pub(crate) struct PieceSink<'p> {
    pieces: PieceSender,
    progress: &'p Progress,
}

impl<'p> PieceSink<'p> {
    /// One that gives them to `pieces`.
    pub(crate) const fn new(pieces: PieceSender, progress: &'p Progress) -> Self {
        Self { pieces, progress }
    }

    /// The layer is whole.
    ///
    /// # Errors
    /// If its last bytes are not wanted.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.pieces.finish()
    }
}

impl Sink for PieceSink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pieces.bytes(bytes)
    }

    fn file(&mut self, file: &File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        if size >= WHOLE_FROM && readers.is_empty() {
            return self.pieces.file(file, size).map_err(PipeError::Write);
        }
        let mut readers: Readers<'_> = readers;
        readers.here.push(Box::new(|chunk| self.pieces.bytes(chunk)));
        fan_out(file, size, readers, self.progress)
    }
}
