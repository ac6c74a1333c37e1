//! A body that is written while it is sent.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::error::RegistryError;
use super::sockets::not_counted;
use crate::disk::progress::Progress;

/// Writes a blob, from its first byte, each time it is called: an upload that broke off is begun again.
pub(crate) type Open<'a> = dyn Fn(&mut (dyn Write + Send)) -> io::Result<()> + Sync + 'a;

/// Bytes of one piece.
const PIECE: usize = 128 << 10;
/// Pieces under way.
const PIECES: usize = 8;
/// How long is waited for a piece before a signal is looked for.
const SLICE: Duration = Duration::from_millis(100);

/// The side that writes.
struct Outgoing {
    pieces: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Outgoing {
    fn pass_on(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.pieces.send(full).map_err(|_| ErrorKind::BrokenPipe.into())
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.pass_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()
    }
}

/// The side that is sent: exactly `left` bytes, or an error.
struct Sent<'a> {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    left: u64,
    /// The other side ended too early.
    short: bool,
    progress: &'a Progress,
}

impl Read for Sent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        self.progress.check()?;
        if self.at == self.piece.len() {
            self.piece = loop {
                match self.pieces.recv_timeout(SLICE) {
                    Ok(piece) => break piece,
                    // It is made here; how long that takes is not the server's time.
                    Err(RecvTimeoutError::Timeout) => self.progress.check()?,
                    Err(RecvTimeoutError::Disconnected) => {
                        self.short = true;
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
            };
            self.at = 0;
            not_counted();
        }
        let room = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let taken = room.min(self.piece.len() - self.at);
        buffer[..taken].copy_from_slice(&self.piece[self.at..self.at + taken]);
        self.at += taken;
        self.left -= taken as u64;
        self.progress.count_network(taken as u64);
        Ok(taken)
    }
}

/// Sends what `open` writes, which is to be `size` bytes. The outer error is that of the source or of a signal.
pub(super) fn send_stream<T>(
    what: &str,
    size: u64,
    open: &Open<'_>,
    progress: &Progress,
    send: impl FnOnce(&mut dyn Read) -> Result<T, ureq::Error>,
) -> Result<Result<T, ureq::Error>, RegistryError> {
    let (pieces, received) = sync_channel(PIECES);
    let (sent, more, short, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut outgoing = Outgoing { pieces, piece: Vec::with_capacity(PIECE) };
            open(&mut outgoing)?;
            outgoing.flush()
        });
        let mut reader = Sent { pieces: received, piece: Vec::new(), at: 0, left: size, short: false, progress };
        let sent = send(&mut reader);
        let more = reader.left == 0 && (reader.at < reader.piece.len() || reader.pieces.recv().is_ok());
        let short = reader.short;
        // A writer that is not done is told so by its next write.
        drop(reader);
        let written = match writer.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (sent, more, short, written)
    });
    progress.check().map_err(|source| RegistryError::Stopped { source })?;
    let failed = |source| Err(RegistryError::Source { what: what.to_owned(), source });
    match written {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => failed(source),
        _ if more => failed(io::Error::other(format!("there is more than the {size} bytes announced"))),
        _ if short => failed(io::Error::other(format!("there is less than the {size} bytes announced"))),
        _ => Ok(sent),
    }
}
