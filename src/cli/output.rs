//! Where a result goes that a verb writes to `--output`: one rule for all verbs.
//!
//! `-` is standard output, as is `/dev/stdout`. A device or a FIFO is written through and stays what it is. A file is written
//! beside its place, made durable and replaced in one step, also where a link leads to it; what was there is gone, as users
//! of `-o` expect. A directory is replaced only where windlass made what is in it, and a socket is refused.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::failure::Usage;
use crate::blobs::{Staging, write_file};
use crate::progress::Progress;

/// A file that is being written.
#[derive(Debug)]
pub(super) enum Destination {
    /// Standard output.
    Stream,
    /// What is there already, and is no file.
    Through(PathBuf),
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
            Ok(there) if there.is_dir() => Err(Usage(format!("{} is a directory; give a file", path.display())).into()),
            Ok(there) if there.file_type().is_socket() => {
                Err(Usage(format!("{} is a socket; give a file, or - and send it there yourself", path.display()))
                    .into())
            }
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
                    return Err(Usage("an archive is nothing for a terminal; give --output a file".to_owned()).into());
                }
                let there = rustix::fs::fstat(&stdout)?;
                if rustix::fs::FileType::from_raw_mode(there.st_mode).is_file() && there.st_size > 0 {
                    let message = "standard output is a file with something in it; give --output a file of its own";
                    return Err(Usage(message.to_owned()).into());
                }
                Ok(Path::new("/proc/self/fd/1"))
            }
            Self::Through(path) => Ok(path),
            Self::File(staging) => Ok(staging.path()),
        }
    }

    /// Writes a text whole; [`publish`](Self::publish) ends it.
    pub(super) fn write(&self, text: &str, printer: &super::printer::Printer) -> Result<()> {
        match self {
            Self::Stream => printer.bytes(text.as_bytes()),
            Self::Through(path) => Ok(write_file(path, text.as_bytes(), &Progress::new())?),
            Self::File(staging) => Ok(write_file(staging.path(), text.as_bytes(), &Progress::new())?),
        }
    }

    /// Everything is written: a file gets its name.
    pub(super) fn publish(self) -> Result<()> {
        match self {
            Self::File(staging) => Ok(staging.publish()?),
            Self::Stream | Self::Through(_) => Ok(()),
        }
    }
}

/// Whether this is another name of standard output.
pub(super) fn is_stream(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}
