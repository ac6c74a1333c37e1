//! The NAR hash of what is on disk: Nix's own checksum of a store path, computed anew.
//!
//! A lean image keeps no layer bytes; they are made again from the store when they are needed. When they then do not
//! match their digest, the digest alone cannot say which of a layer's hundred store paths has changed. Nix recorded a
//! `narHash` for each, so comparing them one by one names the path at fault (`nix store verify` says the same, but
//! needs the store's database, which a builder or a rescue system does not have).
//!
//! The format is the one that Nix calls `nix-archive-1`. Everything is a *string*: its length in 8 bytes, little
//! endian, its bytes, and zeros up to a multiple of 8.
//!
//! ```text
//! nar  = "nix-archive-1" node
//! node = "(" "type" "regular" ["executable" ""] "contents" <bytes> ")"
//!      | "(" "type" "symlink" "target" <bytes> ")"
//!      | "(" "type" "directory" { "entry" "(" "name" <bytes> "node" node ")" } ")"      sorted by the names' bytes
//! ```
//!
//! Reproducibility: depends on names, contents, link targets and the owner's `x` bit, and on nothing else.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::class::{Class, Classified};
use crate::disk::bounded;
use crate::nix::store_path::NarHash;
use crate::oci::digest::Hasher;

/// Why a path has no NAR hash.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be in a store path.
    #[error("{} is {kind}: a store path holds only files, directories and symlinks", path.display())]
    Kind {
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It was written to meanwhile.
    #[error("{} changed while it was read: expected {expected} bytes", path.display())]
    Changed {
        path: PathBuf,
        /// Its size at the beginning.
        expected: u64,
    },
}

impl Classified for NarError {
    fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } => source.class(),
            Self::Kind { .. } | Self::Changed { .. } => Class::Failed,
        }
    }
}

/// The hash and the length of the NAR of a file, directory or symlink; a symlink is not followed.
///
/// # Errors
/// If anything below cannot be read, changes meanwhile, or is neither of the three.
pub fn nar_hash(path: &Path) -> Result<(NarHash, u64), NarError> {
    let mut nar = Nar { out: NarWriter::begin(Hasher::new()).map_err(at(path))?, buffer: vec![0; 1 << 18] };
    nar.node(path)?;
    let (digest, size) = nar.out.out.finish();
    Ok((NarHash::from_bytes(*digest.as_bytes()), size))
}

struct Nar {
    out: NarWriter<Hasher>,
    buffer: Vec<u8>,
}

impl Nar {
    /// Recursive, as deep as the directories are: the system's limit for the length of a path is the limit.
    fn node(&mut self, path: &Path) -> Result<(), NarError> {
        let metadata = fs::symlink_metadata(path).map_err(at(path))?;
        let kind = metadata.file_type();
        if kind.is_file() {
            self.out.begin_file(metadata.permissions().mode() & 0o100 != 0, metadata.len()).map_err(at(path))?;
            self.contents(path, metadata.len())?;
            self.out.end_file(metadata.len()).map_err(at(path))?;
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(at(path))?;
            self.out.symlink(target.as_os_str().as_bytes()).map_err(at(path))?;
        } else if kind.is_dir() {
            let names = fs::read_dir(path).and_then(|dir| dir.map(|entry| Ok(entry?.file_name())).collect());
            let mut names: Vec<_> = names.map_err(at(path))?;
            names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
            self.out.begin_directory().map_err(at(path))?;
            for name in names {
                self.out.begin_entry(name.as_bytes()).map_err(at(path))?;
                self.node(&path.join(name))?;
                self.out.end().map_err(at(path))?;
            }
            self.out.end().map_err(at(path))?;
        } else {
            let kind = match kind {
                kind if kind.is_socket() => "a socket",
                kind if kind.is_fifo() => "a FIFO",
                _ => "a device",
            };
            return Err(NarError::Kind { path: path.to_owned(), kind });
        }
        Ok(())
    }

    fn contents(&mut self, path: &Path, size: u64) -> Result<(), NarError> {
        // One byte more than there should be, to notice a file that grows.
        let mut file = bounded::open(path).map_err(at(path))?.take(size.saturating_add(1));
        let mut seen = 0;
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(n) => {
                    self.out.contents(&self.buffer[..n]).map_err(at(path))?;
                    seen += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at(path)(error)),
            }
        }
        if seen != size {
            return Err(NarError::Changed { path: path.to_owned(), expected: size });
        }
        Ok(())
    }
}

/// Writes the grammar above, piece by piece.
pub(crate) struct NarWriter<W: Write> {
    pub(crate) out: W,
}

impl<W: Write> NarWriter<W> {
    /// An archive that goes there.
    ///
    /// # Errors
    /// As the writer has them.
    pub(crate) fn begin(out: W) -> io::Result<Self> {
        let mut nar = Self { out };
        nar.string(b"nix-archive-1")?;
        Ok(nar)
    }

    /// Before the [`contents`](Self::contents) of a file of this size; [`end_file`](Self::end_file) comes after them.
    pub(crate) fn begin_file(&mut self, executable: bool, size: u64) -> io::Result<()> {
        self.strings(&["(", "type", "regular"])?;
        if executable {
            self.strings(&["executable", ""])?;
        }
        self.string(b"contents")?;
        self.out.write_all(&size.to_le_bytes())
    }

    /// Some of the bytes of a file.
    pub(crate) fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// After the contents of a file of this size.
    pub(crate) fn end_file(&mut self, size: u64) -> io::Result<()> {
        self.pad(size)?;
        self.string(b")")
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, target: &[u8]) -> io::Result<()> {
        self.strings(&["(", "type", "symlink", "target"])?;
        self.string(target)?;
        self.string(b")")
    }

    /// A directory; after its entries comes [`end`](Self::end).
    pub(crate) fn begin_directory(&mut self) -> io::Result<()> {
        self.strings(&["(", "type", "directory"])
    }

    /// An entry of a directory, which come in the order of their names' bytes; after what it is comes [`end`](Self::end).
    pub(crate) fn begin_entry(&mut self, name: &[u8]) -> io::Result<()> {
        self.strings(&["entry", "(", "name"])?;
        self.string(name)?;
        self.string(b"node")
    }

    /// After a directory, or an entry of one.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.string(b")")
    }

    fn strings(&mut self, strings: &[&str]) -> io::Result<()> {
        strings.iter().try_for_each(|string| self.string(string.as_bytes()))
    }

    /// As [`write_string`].
    pub(crate) fn string(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_string(&mut self.out, bytes)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        pad(&mut self.out, size)
    }
}

/// A string of Nix's formats, which the daemon's protocol has too: its length, its bytes, and zeros up to a multiple of 8.
pub(super) fn write_string(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)?;
    pad(out, bytes.len() as u64)
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    const ZEROS: [u8; 8] = [0; 8];
    out.write_all(&ZEROS[..(size.wrapping_neg() % 8) as usize])
}

fn at(path: &Path) -> impl Fn(io::Error) -> NarError + '_ {
    move |source| NarError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::oci::digest::Digest;

    /// Written out by hand from the grammar: every length, every padding.
    const EXECUTABLE: &[u8] = b"\
        \x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\
        \x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\
        \x04\0\0\0\0\0\0\0type\0\0\0\0\
        \x07\0\0\0\0\0\0\0regular\0\
        \x0a\0\0\0\0\0\0\0executable\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\
        \x08\0\0\0\0\0\0\0contents\
        \x03\0\0\0\0\0\0\0hi\n\0\0\0\0\0\
        \x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";

    #[test]
    fn agrees_with_the_grammar() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("run");
        fs::write(&file, "hi\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let (hash, size) = nar_hash(&file).unwrap();
        assert_eq!(hash.as_bytes(), Digest::of(EXECUTABLE).as_bytes());
        assert_eq!(size, EXECUTABLE.len() as u64);
        // Only the owner's bit counts, and no other mode bit.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o655)).unwrap();
        assert_eq!(nar_hash(&file).unwrap().1, size - 32);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!(nar_hash(&file).unwrap().0, hash);
    }

    #[test]
    fn names_what_it_cannot_take() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert!(nar_hash(&absent).unwrap_err().to_string().starts_with(&format!("cannot read {}: ", absent.display())));
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let message = nar_hash(dir.path()).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("{} is a socket: a store path holds only files, directories and symlinks", socket.display())
        );
    }
}
