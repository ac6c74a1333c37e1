//! The digest of a layer, from its bytes, which nothing keeps.

use std::fs::File;
use std::io;

use super::{Known, LayerError, NotedFiles, Recipe, Sink};
use crate::disk::pairs::PairedHasher;
use crate::disk::pipe::{PipeError, Readers, THREADS_FROM, fan_out, read_chunks, read_some};
use crate::disk::progress::Progress;
use crate::oci::digest::Digest;

/// Hashes what it is given, and keeps nothing. What other threads of the job hash at the same time is hashed two by two.
#[derive(Debug)]
pub(crate) struct HashSink<'p> {
    stream: PairedHasher<'p>,
    progress: &'p Progress,
}

impl<'p> HashSink<'p> {
    /// Nothing hashed yet.
    pub(crate) fn new(progress: &'p Progress) -> Self {
        Self { stream: PairedHasher::new(progress.pairs()), progress }
    }

    /// The digest of all bytes, and how many they were.
    pub(crate) fn finish(self) -> (Digest, u64) {
        self.stream.finish()
    }
}

impl Sink for HashSink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.update(bytes);
        Ok(())
    }

    fn file(&mut self, file: &File, size: u64, _: bool, readers: Readers<'_>) -> Result<(), PipeError> {
        // A hash of the file itself is cheapest beside that of the layer, and a processor that idles can read the file meanwhile.
        if !readers.hashers.is_empty() || (size >= THREADS_FROM && self.progress.has_idle_processors()) {
            let mut hasher = self.stream.take_out();
            let mut readers: Readers<'_> = readers;
            readers.hashers.push(&mut hasher);
            let read = fan_out(file, size, readers, self.progress);
            self.stream.put_back(hasher);
            return read;
        }
        let mut here = readers.here;
        read_chunks(size, self.progress, |want| {
            let space = self.stream.space();
            let want = want.min(space.len());
            let filled = read_some(file, &mut space[..want])?;
            here.iter_mut().try_for_each(|consumer| consumer(&space[..filled])).map_err(PipeError::Write)?;
            self.stream.advance(filled);
            Ok(filled)
        })
    }
}

/// What is known of a layer once its bytes were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// What was noted of its files.
    pub(crate) noted: NotedFiles,
}

/// Reads every byte of the layer that a recipe makes, once. Nothing is written. `known` is as in
/// [`stream_and_note`](Recipe::stream_and_note). Layers that other threads of the job read at the same time are hashed two by two.
///
/// # Errors
/// See [`LayerError`].
pub fn digest_of(recipe: &Recipe, known: Option<&Known>, progress: &Progress) -> Result<Hashed, LayerError> {
    let _streaming = progress.streaming();
    let mut sink = HashSink::new(progress);
    let noted = recipe.stream_and_note(&mut sink, known)?;
    let (digest, size) = sink.finish();
    Ok(Hashed { digest, size, noted })
}
