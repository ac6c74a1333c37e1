//! Where a result goes that a verb writes to `--output`: one rule for all verbs.
//!
//! `-` is standard output, as is `/dev/stdout`. A device, a FIFO or a socket is written through and stays what it is. A file is
//! written beside its place, made durable and replaced in one step, also where a link leads to it; what was there is gone, as
//! users of `-o` expect. A directory is replaced only where windlass made what is in it.

use std::fs;
use std::io::{self, IsTerminal, PipeWriter};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::failure::{Context, Result, usage};
use crate::disk::Staging;
use crate::disk::files::write_file;
use crate::disk::progress::Progress;

/// A file that is being written.
#[derive(Debug)]
pub(super) enum Destination {
    /// Standard output.
    Stream,
    /// A device or a FIFO that is there already.
    Through(PathBuf),
    /// A socket that is there already.
    Socket(Connection),
    /// A new file.
    File(Staging),
}

impl Destination {
    /// Looks at what is there.
    pub(super) fn new(path: &Path) -> Result<Self> {
        if is_stream(path) {
            return Ok(Self::Stream);
        }
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => Err(usage(format!("{} is a directory; give a file", path.display()))),
            Ok(there) if there.file_type().is_socket() => Ok(Self::Socket(Connection::open(path)?)),
            Ok(there) if !there.is_file() => Ok(Self::Through(path.to_owned())),
            Ok(_) => {
                let real = path.canonicalize().with_context(|| format!("open {}", path.display()))?;
                Ok(Self::File(Staging::file(&real)?))
            }
            Err(_) => Ok(Self::File(Staging::file(path)?)),
        }
    }

    /// Whether it is not a file of its own, so that its file system says nothing of the space that there is.
    pub(super) const fn is_through(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// Where the bytes of an archive go.
    pub(super) fn path(&self) -> Result<&Path> {
        match self {
            Self::Stream => {
                let stdout = io::stdout();
                if stdout.is_terminal() {
                    return Err(usage("an archive is nothing for a terminal; give --output a file"));
                }
                let there = rustix::fs::fstat(&stdout)?;
                if rustix::fs::FileType::from_raw_mode(there.st_mode).is_file() && there.st_size > 0 {
                    let message = "standard output is a file with something in it; give --output a file of its own";
                    return Err(usage(message));
                }
                Ok(Path::new("/proc/self/fd/1"))
            }
            Self::Through(path) => Ok(path),
            Self::Socket(connection) => Ok(&connection.path),
            Self::File(staging) => Ok(staging.path()),
        }
    }

    /// Writes a text whole; [`publish`](Self::publish) ends it.
    pub(super) fn write(&self, text: &str, printer: &super::printer::Printer) -> Result<()> {
        match self {
            Self::Stream => printer.bytes(text.as_bytes()),
            Self::Through(_) | Self::Socket(_) | Self::File(_) => {
                Ok(write_file(self.path()?, text.as_bytes(), &Progress::new())?)
            }
        }
    }

    /// Everything is written: a file gets its name.
    pub(super) fn publish(self) -> Result<()> {
        match self {
            Self::File(staging) => Ok(staging.publish()?),
            Self::Socket(connection) => connection.close(),
            Self::Stream | Self::Through(_) => Ok(()),
        }
    }
}

/// A connection to a socket of this machine. A socket has no name that can be opened, so what is written goes through a pipe.
#[derive(Debug)]
pub(super) struct Connection {
    socket: PathBuf,
    /// The end of the pipe that is written to, and its name.
    pipe: PipeWriter,
    path: PathBuf,
    sender: JoinHandle<io::Result<()>>,
}

impl Connection {
    fn open(socket: &Path) -> Result<Self> {
        let failed = || format!("connect to the socket {}", socket.display());
        let mut stream = UnixStream::connect(socket).with_context(failed)?;
        let (mut read, pipe) = io::pipe().with_context(failed)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", pipe.as_raw_fd()));
        let sender = std::thread::spawn(move || {
            io::copy(&mut read, &mut stream)?;
            stream.shutdown(Shutdown::Write)
        });
        Ok(Self { socket: socket.to_owned(), pipe, path, sender })
    }

    /// Waits until all is sent.
    fn close(self) -> Result<()> {
        drop(self.pipe);
        let sent = self.sender.join().unwrap_or_else(|_| Err(io::Error::other("the thread that sends has failed")));
        sent.with_context(|| format!("write to the socket {}", self.socket.display()))
    }
}

/// Whether this is another name of standard output.
pub(super) fn is_stream(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}
