//! Reading what another user may have written: never without end, and never in the place of a file something that waits.
//!
//! A file of another user may be sparse and have any size, so that reading it whole takes the memory of the reader; in its
//! place may be a FIFO, so that opening it waits for a writer; or a device. So every file that is read whole has a `Cap`,
//! and every file that is opened for reading is a regular one. `clippy.toml` forbids `fs::read`, `fs::read_to_string` and
//! `File::open`, so that nothing goes past this.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// How large a file of a kind may be. Real ones are far smaller; what is larger is refused, and that is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cap {
    /// What people and tools write as settings: `storage.conf`, units, logins. 1 MiB, because a parser needs many times
    /// the memory of its text.
    Settings,
    /// A manifest or an index: 4 MiB, the most that registries have to take (distribution-spec, "Pushing Manifests").
    Manifest,
    /// The configuration of an image: 8 MiB, as from a registry.
    Config,
    /// What a host lists: users, mounts, processes, certificates. 16 MiB.
    List,
    /// Anything else that is read whole: specs, lock files, recipes, closures, records of Podman. 64 MiB.
    Document,
}

impl Cap {
    /// In bytes.
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::Settings => 1 << 20,
            Self::Manifest => 4 << 20,
            Self::Config => 8 << 20,
            Self::List => 16 << 20,
            Self::Document => 64 << 20,
        }
    }
}

/// Opens a regular file for reading; anything else is an error of kind `InvalidInput`, and nothing is waited for.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_sized(path).map(|(file, _)| file)
}

/// The same, with its size.
fn open_sized(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file"));
    }
    Ok((file, found.len()))
}

/// The bytes of a file. More than the cap are an error of kind `FileTooLarge`.
pub(crate) fn read(path: &Path, cap: Cap) -> io::Result<Vec<u8>> {
    let (mut file, size) = open_sized(path)?;
    sized(&mut file, size, cap)
}

/// The text of a file. One that is not UTF-8 is an error of kind `InvalidData`.
pub(crate) fn text(path: &Path, cap: Cap) -> io::Result<String> {
    String::from_utf8(read(path, cap)?).map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// What is left of an open file.
pub(crate) fn rest(file: &mut File, cap: Cap) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    sized(file, size, cap)
}

fn sized(file: &mut File, size: u64, cap: Cap) -> io::Result<Vec<u8>> {
    let too_large = || {
        let message = format!("it is larger than {} MiB, which no such file is", cap.bytes() >> 20);
        io::Error::new(ErrorKind::FileTooLarge, message)
    };
    if size > cap.bytes() {
        return Err(too_large());
    }
    // With room for all of it and one byte more, one read has all of it, and finds its end.
    let mut bytes = vec![0; usize::try_from(size + 1).unwrap_or(0)];
    let read = match file.read(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::Interrupted => 0,
        read => read?,
    };
    bytes.truncate(read);
    if size > 0 && read as u64 == size {
        return Ok(bytes);
    }
    // One byte more than the cap tells a file that grows, or one of /proc, whose size is not known before.
    file.take(cap.bytes() + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap.bytes() { Err(too_large()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_or_no_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let said = |path: &Path| read(path, Cap::Settings).unwrap_err().to_string();
        for size in [Cap::Settings.bytes() + 1, 4 << 30] {
            File::create(&path).unwrap().set_len(size).unwrap();
            assert_eq!(said(&path), "it is larger than 1 MiB, which no such file is");
        }
        File::create(&path).unwrap().set_len(Cap::Settings.bytes()).unwrap();
        assert_eq!(read(&path, Cap::Settings).unwrap().len() as u64, Cap::Settings.bytes());

        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for other in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert_eq!(said(other), "it is not a file");
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(text(&path, Cap::Document).unwrap_err().to_string(), "it is not UTF-8");
        // Files of the kernel have no size that is known before.
        assert!(text(Path::new("/proc/self/status"), Cap::List).unwrap().contains("Pid:"));
    }
}
