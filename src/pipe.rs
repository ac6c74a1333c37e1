//! Reading a file once for several consumers.
//!
//! Hashing (about 1 GB/s a core), reading and writing are each a thread's work. A large file is read once, in chunks
//! that all consumers see; a small one is not worth a thread. Memory: [`CHUNK`] × [`BUFFERS`], whatever the file's size.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::progress::Progress;

/// Bytes of one chunk: few, so that they are still in a core's cache when the next one takes them. Chunks of 512 KiB
/// took twice the system time.
pub const CHUNK: usize = 64 * 1024;
/// Chunks under way for one file.
pub const BUFFERS: usize = 8;
/// Files of this size and more get threads of their own.
const THREADS_FROM: u64 = 4 * 1024 * 1024;

/// One consumer of the chunks.
pub type Consumer<'a> = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send + 'a>;

/// Which side failed.
#[derive(Debug)]
pub enum PipeError {
    /// Reading the file, or its end came early (kind `UnexpectedEof`).
    Read(io::Error),
    /// A consumer.
    Write(io::Error),
}

/// A buffer that goes back to its pool when the last consumer is done with it.
struct Chunk {
    bytes: Vec<u8>,
    filled: usize,
    pool: SyncSender<Vec<u8>>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // The pool is gone when the reader has failed; then the buffer may go too.
        drop(self.pool.try_send(std::mem::take(&mut self.bytes)));
    }
}

/// Reads exactly `length` bytes of `file` and hands them, in order, to every consumer.
///
/// # Errors
/// The first failure of the reader or of a consumer; consumers have then seen a prefix.
pub fn fan_out(
    file: &File,
    length: u64,
    mut consumers: Vec<Consumer<'_>>,
    progress: &Progress,
) -> Result<(), PipeError> {
    if length < THREADS_FROM {
        let mut buffer = vec![0; usize::try_from(length.min(CHUNK as u64)).unwrap_or(CHUNK)];
        return read_chunks(length, progress, |want| {
            let filled = read_some(file, &mut buffer[..want])?;
            for consumer in &mut consumers {
                consumer(&buffer[..filled]).map_err(PipeError::Write)?;
            }
            Ok(filled)
        });
    }
    std::thread::scope(|scope| {
        let (pool, empty) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            drop(pool.try_send(vec![0; CHUNK]));
        }
        let (senders, threads): (Vec<_>, Vec<_>) = consumers
            .into_iter()
            .map(|mut consumer| {
                let (sender, chunks): (_, Receiver<Arc<Chunk>>) = sync_channel(BUFFERS);
                let thread =
                    scope.spawn(move || chunks.iter().try_for_each(|chunk| consumer(&chunk.bytes[..chunk.filled])));
                (sender, thread)
            })
            .unzip();
        let outcome = read_chunks(length, progress, |want| {
            let mut bytes: Vec<u8> = empty.recv().map_err(|_| PipeError::Write(io::ErrorKind::BrokenPipe.into()))?;
            let filled = read_some(file, &mut bytes[..want])?;
            let chunk = Arc::new(Chunk { bytes, filled, pool: pool.clone() });
            for sender in &senders {
                // A consumer that has stopped has failed: its own error, read below, says why.
                sender.send(Arc::clone(&chunk)).map_err(|_| PipeError::Write(io::ErrorKind::BrokenPipe.into()))?;
            }
            Ok(filled)
        });
        drop(senders);
        for thread in threads {
            match thread.join() {
                Ok(result) => result.map_err(PipeError::Write)?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    })
}

/// Calls `step` with the size wanted next until `length` bytes are through.
fn read_chunks(
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

fn read_some(mut file: &File, buffer: &mut [u8]) -> Result<usize, PipeError> {
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
    use crate::digest::{Digest, Hasher};

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
            let (mut one, mut two) = (Hasher::new(), Vec::new());
            let progress = Progress::new();
            let consumers: Vec<Consumer<'_>> = vec![
                Box::new(|chunk| {
                    one.update(chunk);
                    Ok(())
                }),
                Box::new(|chunk| {
                    two.extend_from_slice(chunk);
                    Ok(())
                }),
            ];
            fan_out(&file_of(&bytes), size as u64, consumers, &progress).unwrap();
            assert_eq!(one.finish(), (Digest::of(&bytes), size as u64));
            assert_eq!(two, bytes);
            assert_eq!(progress.read(), size as u64);
        }
    }

    #[test]
    fn an_early_end_a_failed_consumer_and_a_stop_are_told_apart() {
        for size in [100, 2 * THREADS_FROM] {
            let bytes = vec![7; usize::try_from(size).unwrap()];
            let progress = Progress::new();
            let ok: Consumer<'_> = Box::new(|_| Ok(()));
            let early = fan_out(&file_of(&bytes), size + 1, vec![ok], &progress).unwrap_err();
            assert!(matches!(early, PipeError::Read(e) if e.kind() == io::ErrorKind::UnexpectedEof));

            let full: Consumer<'_> = Box::new(|_| Err(io::ErrorKind::StorageFull.into()));
            let failed = fan_out(&file_of(&bytes), size, vec![full], &progress).unwrap_err();
            assert!(matches!(failed, PipeError::Write(e) if e.kind() == io::ErrorKind::StorageFull), "{size}");

            progress.stop();
            let stopped = fan_out(&file_of(&bytes), size, vec![], &progress).unwrap_err();
            assert!(matches!(stopped, PipeError::Write(e) if e.kind() == io::ErrorKind::Interrupted));
        }
    }
}
