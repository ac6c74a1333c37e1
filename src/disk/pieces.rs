//! Bytes that one thread makes and another takes, in pieces: small ones as they are, large files as files, which are read where their
//! bytes are wanted and nowhere else.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::pipe::CHUNK;
use super::progress::Progress;

/// Pieces that are made and not yet taken.
const AHEAD: usize = 8;
/// Files of this size and more are pieces of their own.
pub(crate) const WHOLE_FROM: u64 = 4 * CHUNK as u64;
/// Bytes behind the place that was read last whose pieces are kept: a kernel that reads ahead asks for them a little out of order.
const BEHIND: u64 = 4 << 20;

/// One of them.
#[derive(Debug)]
enum StreamPiece {
    Bytes(Vec<u8>),
    /// As many bytes of an open file, from its beginning.
    File(File, u64),
}

impl StreamPiece {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }
}

/// The end that makes them.
#[derive(Debug)]
pub(crate) struct PieceSender {
    to: SyncSender<StreamPiece>,
    gathered: Vec<u8>,
}

impl PieceSender {
    /// The next bytes.
    ///
    /// # Errors
    /// If no more are wanted.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// Then as many bytes of a file.
    ///
    /// # Errors
    /// If no more are wanted.
    pub(crate) fn file(&mut self, file: &File, size: u64) -> io::Result<()> {
        self.flush()?;
        self.send(StreamPiece::File(file.try_clone()?, size))
    }

    /// There are no more. Without this, the last bytes do not arrive: what takes them must not think that these are all.
    ///
    /// # Errors
    /// If they are not wanted.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let bytes = mem::replace(&mut self.gathered, Vec::with_capacity(2 * CHUNK));
        self.send(StreamPiece::Bytes(bytes))
    }

    fn send(&self, piece: StreamPiece) -> io::Result<()> {
        self.to.send(piece).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

/// The end that takes them.
#[derive(Debug)]
pub(crate) struct PieceReader {
    from: Receiver<StreamPiece>,
    /// The last ones, each with where it begins.
    kept: VecDeque<(u64, StreamPiece)>,
    /// Where the next one begins.
    end: u64,
}

/// Both ends.
pub(crate) fn pieces() -> (PieceSender, PieceReader) {
    let (to, from) = sync_channel(AHEAD);
    (PieceSender { to, gathered: Vec::new() }, PieceReader { from, kept: VecDeque::new(), end: 0 })
}

impl PieceReader {
    /// Whether the bytes from there on can still be had.
    pub(crate) fn has(&self, at: u64) -> bool {
        self.kept.front().map_or(self.end, |(start, _)| *start) <= at
    }

    /// Reads exactly the bytes from there on, waiting for them.
    ///
    /// # Errors
    /// If there are not so many, or a file cannot be read, or has ended early.
    pub(crate) fn read_at(&mut self, at: u64, into: &mut [u8], progress: &Progress) -> io::Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            let place = at + filled as u64;
            while self.end <= place {
                let piece = self.from.recv().map_err(|_| ErrorKind::UnexpectedEof)?;
                let (start, size) = (self.end, piece.size());
                self.kept.push_back((start, piece));
                self.end += size;
                self.kept.retain(|(start, piece)| start + piece.size() + BEHIND > place);
            }
            let found = self.kept.partition_point(|(start, piece)| start + piece.size() <= place);
            let (start, piece) =
                self.kept.get(found).filter(|(start, _)| *start <= place).ok_or(ErrorKind::NotFound)?;
            let within = place - start;
            let left = usize::try_from(piece.size() - within).unwrap_or(usize::MAX).min(into.len() - filled);
            let part = &mut into[filled..filled + left];
            match piece {
                StreamPiece::Bytes(bytes) => {
                    let within = usize::try_from(within).map_err(io::Error::other)?;
                    part.copy_from_slice(&bytes[within..within + left]);
                }
                StreamPiece::File(file, _) => {
                    file.read_exact_at(part, within)?;
                    progress.count_read(left as u64);
                }
            }
            filled += left;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn bytes(seed: usize, size: usize) -> Vec<u8> {
        (0..size).map(|n| ((n + seed) * 31 % 251) as u8).collect()
    }

    #[test]
    fn pieces_are_read_in_order_and_a_little_out_of_it() {
        let (large, progress) = (bytes(1, 3 << 20), Progress::new());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&large).unwrap();
        let (head, tail) = (bytes(2, 700), bytes(3, 6 << 20));
        let all = [&head[..], &large, &tail].concat();
        let (mut to, mut from) = pieces();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                to.bytes(&head).unwrap();
                to.file(&file, 3 << 20).unwrap();
                tail.chunks(1000).for_each(|part| to.bytes(part).unwrap());
                to.finish().unwrap();
            });
            let mut read = |at: usize, size: usize| {
                let mut found = vec![0; size];
                from.read_at(at as u64, &mut found, &progress).unwrap();
                assert!(found == all[at..at + size], "{at}");
            };
            for at in [0, 300_000, 100_000, 200_000, 4 << 20, 3 << 20, (3 << 20) + 600, 8 << 20, 6 << 20] {
                read(at, 100_001);
            }
            assert!(!from.has(1 << 20) && from.has(5 << 20));
            // The end is one, and no piece is held for what is long past.
            let end = from.read_at(all.len() as u64 - 5, &mut [0; 6], &progress).unwrap_err();
            assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
            assert!(from.kept.iter().map(|(_, piece)| piece.size()).sum::<u64>() < BEHIND + 4 * CHUNK as u64);
        });
        assert_eq!(progress.read(), 4 * 100_001 - 700 + 700 + 100);
    }

    #[test]
    fn what_was_not_finished_has_no_end() {
        let (mut to, mut from) = pieces();
        to.bytes(&[1; 10]).unwrap();
        drop(to);
        assert!(from.read_at(0, &mut [0; 10], &Progress::new()).is_err());
        let (mut to, from) = pieces();
        drop(from);
        assert_eq!(to.bytes(&[1; CHUNK]).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
