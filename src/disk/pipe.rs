//! Reading a file once for several consumers.
//!
//! Hashing takes about as long as reading, summing and writing together. A large file is read once, in chunks that all
//! consumers see: hashing has a thread of its own, the rest is done by the thread that reads, with the chunk still in its
//! cache. Several hashes of the same bytes, as of a model by itself and as a part of its layer, cost little more than one
//! ([`Hasher::update_all`]). A small file is not worth a thread. Memory: [`CHUNK`] × [`BUFFERS`], whatever the file's size.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::progress::Progress;
use crate::oci::digest::Hasher;

/// Bytes of one chunk: few, so that they are still in a core's cache when the next one takes them. Chunks of 512 KiB
/// took twice the system time.
pub(crate) const CHUNK: usize = 64 * 1024;
/// Chunks under way for one file.
pub(crate) const BUFFERS: usize = 8;
/// What reads has stopped because consumers are slower, and goes on only when so many buffers are empty: to wake a thread takes a
/// tenth of the time in which a chunk is hashed.
pub(crate) const ENOUGH: usize = BUFFERS / 2;
/// Files of this size and more are worth threads.
pub(crate) const THREADS_FROM: u64 = 4 * 1024 * 1024;

/// One consumer of the chunks.
pub(crate) type Consumer<'a> = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send + 'a>;

/// All consumers of a file.
#[derive(Default)]
pub struct Readers<'a> {
    /// Those that are quick: the thread that reads runs them.
    pub(crate) here: Vec<Consumer<'a>>,
    /// Hashes of the bytes, which have a thread.
    pub(crate) hashers: Vec<&'a mut Hasher>,
}

impl Readers<'_> {
    /// Whether there is no reader.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.hashers.is_empty()
    }
}

impl fmt::Debug for Readers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers").field("here", &self.here.len()).field("hashers", &self.hashers.len()).finish()
    }
}

/// Which side failed.
#[derive(Debug)]
pub enum PipeError {
    /// Reading the file, or its end came early (kind `UnexpectedEof`).
    Read(io::Error),
    /// A consumer.
    Write(io::Error),
}

/// A buffer that goes back to its pool when the last consumer is done with it.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
    pool: Arc<EmptyBuffers>,
}

impl Chunk {
    /// What was read into it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

/// Buffers that no consumer has.
#[derive(Debug, Default)]
struct EmptyBuffers {
    buffers: Mutex<Vec<Vec<u8>>>,
    /// There are [`ENOUGH`].
    enough: Condvar,
}

impl EmptyBuffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut buffers = self.lock();
        buffers.push(buffer);
        let is_enough = buffers.len() == ENOUGH;
        drop(buffers);
        if is_enough {
            self.enough.notify_one();
        }
    }

    /// One of them. Those who call it hold fewer than half of all themselves.
    fn wait(&self) -> Vec<u8> {
        let is_few = |buffers: &mut Vec<Vec<u8>>| buffers.len() < ENOUGH;
        let mut buffers = self.enough.wait_while(self.lock(), is_few).unwrap_or_else(PoisonError::into_inner);
        buffers.pop().expect("half of all are there")
    }
}

/// Up to [`BUFFERS`] buffers that go round between what reads and what takes the bytes, in other threads.
#[derive(Debug, Default)]
pub(crate) struct ChunkPool {
    empty: Arc<EmptyBuffers>,
    made: usize,
}

impl ChunkPool {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A buffer of [`CHUNK`] bytes with what `read` puts into it: that many bytes. Waits while all are with consumers.
    ///
    /// # Errors
    /// If `read` fails.
    pub(crate) fn fill<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<Arc<Chunk>, E> {
        let free = self.empty.lock().pop();
        let mut bytes = match free {
            Some(bytes) => bytes,
            None if self.made < BUFFERS => {
                self.made += 1;
                vec![0; CHUNK]
            }
            None => self.empty.wait(),
        };
        match read(&mut bytes) {
            Ok(filled) => Ok(Arc::new(Chunk { bytes, filled, pool: Arc::clone(&self.empty) })),
            Err(error) => {
                self.empty.give_back(bytes);
                Err(error)
            }
        }
    }
}

/// Reads exactly `length` bytes of `file` and hands them, in order, to every consumer. One hash alone is not worth a
/// thread: that would save less than a tenth of the time, for a quarter more work. Nor is it worth one where other layers keep
/// all processors busy.
///
/// # Errors
/// The first failure of the reader or of a consumer; consumers have then seen a prefix.
pub(crate) fn fan_out(file: &File, length: u64, readers: Readers<'_>, progress: &Progress) -> Result<(), PipeError> {
    let Readers { mut here, mut hashers } = readers;
    let alone = length < THREADS_FROM || hashers.is_empty() || here.len() + hashers.len() < 2;
    if alone || !progress.has_idle_processors() {
        let mut buffer = vec![0; usize::try_from(length.min(CHUNK as u64)).unwrap_or(CHUNK)];
        return read_chunks(length, progress, |want| {
            let filled = read_some(file, &mut buffer[..want])?;
            for consumer in &mut here {
                consumer(&buffer[..filled]).map_err(PipeError::Write)?;
            }
            Hasher::update_all(&mut hashers, &buffer[..filled]);
            Ok(filled)
        });
    }
    std::thread::scope(|scope| {
        let mut pool = ChunkPool::new();
        let (sender, chunks): (_, Receiver<Arc<Chunk>>) = sync_channel(BUFFERS);
        // It ends when the sender goes, which it does when this ends, whatever came of it.
        scope.spawn(move || chunks.iter().for_each(|chunk| Hasher::update_all(&mut hashers, chunk.bytes())));
        read_chunks(length, progress, |want| {
            let chunk = pool.fill(|buffer| read_some(file, &mut buffer[..want]))?;
            sender.send(Arc::clone(&chunk)).map_err(|_| PipeError::Write(io::ErrorKind::BrokenPipe.into()))?;
            for consumer in &mut here {
                consumer(chunk.bytes()).map_err(PipeError::Write)?;
            }
            Ok(chunk.filled)
        })
    })
}

/// Calls `step` with the size wanted next until `length` bytes are through.
pub(crate) fn read_chunks(
    length: u64,
    progress: &Progress,
    mut step: impl FnMut(usize) -> Result<usize, PipeError>,
) -> Result<(), PipeError> {
    let mut left = length;
    while left > 0 {
        progress.check().map_err(PipeError::Write)?;
        let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let filled = step(want)?;
        progress.count_read(filled as u64);
        left -= filled as u64;
    }
    Ok(())
}

/// Reads as many bytes of a file as come at once: at least one.
///
/// # Errors
/// As the file's; its end is an `UnexpectedEof`.
pub(crate) fn read_some(mut file: &File, buffer: &mut [u8]) -> Result<usize, PipeError> {
    loop {
        match file.read(buffer) {
            Ok(0) => return Err(PipeError::Read(io::ErrorKind::UnexpectedEof.into())),
            Ok(filled) => return Ok(filled),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PipeError::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;
    use crate::oci::digest::Digest;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn every_consumer_sees_every_byte_small_and_large() {
        for size in [0, 1, CHUNK, CHUNK + 1, 3 * THREADS_FROM as usize + 7] {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let (mut one, mut two, mut three) = (Hasher::new(), Hasher::new(), Vec::new());
            let progress = Progress::new();
            let here: Consumer<'_> = Box::new(|chunk| {
                three.extend_from_slice(chunk);
                Ok(())
            });
            let readers = Readers { here: vec![here], hashers: vec![&mut one, &mut two] };
            fan_out(&file_of(&bytes), size as u64, readers, &progress).unwrap();
            assert_eq!([one.finish(), two.finish()], [(Digest::of(&bytes), size as u64); 2]);
            assert_eq!(three, bytes);
            assert_eq!(progress.read(), size as u64);
        }
    }

    #[test]
    fn an_early_end_a_failed_consumer_and_a_stop_are_told_apart() {
        for size in [100, 2 * THREADS_FROM] {
            let bytes = vec![7; usize::try_from(size).unwrap()];
            let progress = Progress::new();
            let file = file_of(&bytes);
            let run = |length, here| {
                (&file).rewind().unwrap();
                let mut hasher = Hasher::new();
                let readers = Readers { here: vec![here], hashers: vec![&mut hasher] };
                fan_out(&file, length, readers, &progress).unwrap_err()
            };
            let ok = || -> Consumer<'_> { Box::new(|_| Ok(())) };
            let full = || -> Consumer<'_> { Box::new(|_| Err(io::ErrorKind::StorageFull.into())) };
            let early = run(size + 1, ok());
            assert!(matches!(early, PipeError::Read(e) if e.kind() == io::ErrorKind::UnexpectedEof));
            let failed = run(size, full());
            assert!(matches!(failed, PipeError::Write(e) if e.kind() == io::ErrorKind::StorageFull), "{size}");
            progress.stop();
            let stopped = run(size, ok());
            assert!(matches!(stopped, PipeError::Write(e) if e.kind() == io::ErrorKind::Interrupted));
        }
    }
}
