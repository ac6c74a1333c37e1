//! Files handed to Nix: what `nix-daemon --stdio` is told on its two pipes.
//!
//! That program gives what it is told to the daemon of this host, or to the store itself on a host without one, so this is
//! one way for every Nix and every user. Nix makes the store path out of the bytes that it gets, which is why any user may add
//! a file: nothing has to be believed.
//!
//! | what Nix does with a file | `nix-store --add-fixed` | here |
//! |---|---|---|
//! | reads it | three times | once, from the pipe |
//! | hashes its content, and its NAR | twice each | once each |
//! | reads what it has written | twice | once, for the NAR |
//!
//! Numbers have 8 bytes, little endian; a string is its length, its bytes, and zeros up to a multiple of 8. A file is sent
//! in frames, each with its length before it, of which the last is empty (`AddToStore` since version 1.25, Nix 2.4). Version
//! 1.25 is asked for, whatever Nix has beside it. Measured with Nix 2.8.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::nar::write_string;
use super::store::{BUSY_PAUSE, BUSY_TRIES, NixError, is_busy};
use crate::disk::bounded;
use crate::disk::progress::Progress;

/// What is said first, by either side.
const HELLO: [u64; 2] = [0x6e69_7863, 0x6478_696f];
/// The version of the protocol: 1.25.
const PROTOCOL: u64 = 0x119;
/// "Put a file into the store."
const ADD_TO_STORE: u64 = 7;
/// Before each answer come words of this kind, with a text of the log, or an error, or the last one.
const LOG: u64 = 0x6f6c_6d67;
const ERROR: u64 = 0x6378_7470;
const LAST: u64 = 0x616c_7473;
/// Bytes of one frame: Nix holds one in memory.
const FRAME: u64 = 256 << 10;
/// Bytes of a file that Nix holds in memory before it writes them: by default 32 MiB, in a buffer that grows with the file, which takes a
/// third of its time. A daemon behind it has its own setting; a Nix that does not know this one goes on.
const HELD: &str = "65536";
/// The longest string that is taken from Nix.
const LONGEST: u64 = 1 << 20;

/// A Nix that takes files, one after the other.
pub(super) struct NixConnection {
    child: Child,
    /// Open for as long as Nix is to go on.
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    said: File,
}

impl NixConnection {
    /// Starts Nix, and agrees on the language. While its database is busy it is started again.
    ///
    /// # Errors
    /// If there is no Nix, or one that is too old.
    pub(super) fn open() -> Result<Self, NixError> {
        let mut tries = 0;
        loop {
            let mut connection = Self::start()?;
            match connection.greet() {
                Ok(()) => return Ok(connection),
                Err(error) => {
                    let said = connection.end(&error);
                    tries += 1;
                    if tries > BUSY_TRIES || !is_busy(&said) {
                        return Err(NixError::Connection { said });
                    }
                    std::thread::sleep(BUSY_PAUSE);
                }
            }
        }
    }

    fn start() -> Result<Self, NixError> {
        let said = tempfile::tempfile().map_err(NixError::NoDaemon)?;
        let mut command = Command::new("nix-daemon");
        command.args(["--stdio", "--option", "nar-buffer-size", HELD]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(said.try_clone().map_err(NixError::NoDaemon)?);
        let mut child = command.spawn().map_err(NixError::NoDaemon)?;
        let from = BufReader::new(child.stdout.take().expect("it has a pipe"));
        Ok(Self { to: child.stdin.take(), child, from, said })
    }

    fn greet(&mut self) -> io::Result<()> {
        let greeted = self.send(&number(HELLO[0]));
        // What ends before it has heard anything may have said what it is.
        let (hello, version) = (self.number()?, self.number()?);
        if hello != HELLO[1] || version < PROTOCOL {
            let version = format!("it speaks version {}.{} of its protocol", version >> 8, version & 0xff);
            return Err(io::Error::other(format!("{version}; update Nix to 2.4 or newer")));
        }
        greeted?;
        // No processor to be bound to, and no space to be held back.
        self.send(&[number(PROTOCOL), number(0), number(0)].concat())?;
        self.hear()
    }

    /// Hands over the file at `from`, under this name; where Nix has put it.
    ///
    /// # Errors
    /// If the file cannot be read, or Nix does not take it. What comes next needs another connection.
    pub(super) fn add(&mut self, name: &str, from: &Path, progress: &Progress) -> Result<PathBuf, NixError> {
        let read = |source| NixError::Read { path: from.to_owned(), source };
        let file = bounded::open(from).map_err(read)?;
        let mut left = file.metadata().map_err(read)?.len();
        let mut sent =
            self.send(&[number(ADD_TO_STORE), text(name), text("fixed:sha256"), number(0), number(0)].concat());
        while sent.is_ok() {
            progress.check().map_err(read)?;
            let frame = left.min(FRAME);
            sent = self.send(&number(frame));
            if frame == 0 {
                break;
            }
            if let Some(to) = self.to.as_mut().filter(|_| sent.is_ok()) {
                // From the page cache into the pipe: nothing is copied on the way.
                match io::copy(&mut (&file).take(frame), to) {
                    Ok(copied) if copied < frame => return Err(read(ErrorKind::UnexpectedEof.into())),
                    Ok(_) => left -= frame,
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => sent = Err(error),
                    Err(error) => return Err(read(error)),
                }
            }
        }
        // A Nix that takes no more says why.
        let answer = self.answer();
        match sent.and(answer) {
            Ok(path) => Ok(path),
            Err(error) => Err(NixError::Connection { said: self.end(&error) }),
        }
    }

    /// Where a file is; what else Nix knows of it is passed over.
    fn answer(&mut self) -> io::Result<PathBuf> {
        self.hear()?;
        let path = self.text()?;
        let (_deriver, _hash) = (self.text()?, self.text()?);
        self.texts()?;
        let (_registered, _size, _ultimate) = (self.number()?, self.number()?, self.number()?);
        self.texts()?;
        let _content = self.text()?;
        Ok(PathBuf::from(path))
    }

    /// Takes what Nix says before an answer.
    fn hear(&mut self) -> io::Result<()> {
        loop {
            match self.number()? {
                LAST => return Ok(()),
                LOG => drop(self.text()?),
                ERROR => {
                    let (said, _status) = (self.text()?, self.number()?);
                    return Err(io::Error::other(plain(&said)));
                }
                other => {
                    return Err(io::Error::other(format!("it says {other:#x}, and its protocol has no such word")));
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.as_mut().map_or(Err(ErrorKind::BrokenPipe.into()), |to| to.write_all(bytes))
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.from.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.number()?;
        if length > LONGEST {
            return Err(io::Error::other(format!("it says a text of {length} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(length.next_multiple_of(8)).unwrap_or_default()];
        self.from.read_exact(&mut bytes)?;
        bytes.truncate(usize::try_from(length).unwrap_or_default());
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn texts(&mut self) -> io::Result<()> {
        let count = self.number()?;
        (0..count).try_for_each(|_| self.text().map(drop))
    }

    /// Ends it, and gives back why it failed: what it has printed, where it ended by itself.
    fn end(&mut self, error: &io::Error) -> String {
        self.to = None;
        drop(self.child.wait());
        let mut printed = String::new();
        drop(self.said.rewind().and_then(|()| self.said.read_to_string(&mut printed)));
        let by_itself = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe);
        let printed = printed.trim().lines().last().filter(|_| by_itself).map(plain);
        printed.unwrap_or_else(|| error.to_string())
    }
}

impl Drop for NixConnection {
    /// In the middle of a file Nix takes away what it has of it.
    fn drop(&mut self) {
        self.to = None;
        drop(self.child.wait());
    }
}

fn number(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_string(&mut bytes, text.as_bytes()).expect("memory takes all");
    bytes
}

/// A sentence of Nix without its colours and its first word.
fn plain(said: &str) -> String {
    let mut plain = String::new();
    let mut rest = said;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.strip_prefix('m').unwrap_or(rest);
    }
    plain.push_str(rest);
    let plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    plain.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_lose_their_colours() {
        let said = "\u{1b}[31;1merror:\u{1b}[0m path '\u{1b}[35;1m/a\u{1b}[0m' is\n  not there";
        assert_eq!(plain(said), "path '/a' is not there");
        assert_eq!(plain("nothing"), "nothing");
    }

    #[test]
    fn texts_are_filled_up() {
        assert_eq!(text("ab"), [2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 0, 0, 0, 0, 0, 0]);
        assert_eq!(text("").len(), 8);
    }
}
