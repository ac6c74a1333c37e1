//! A file that may be cut, for file systems that hold no large one: `<name>`, or else `<name>.part-00`, `<name>.part-01`, …

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::bounded;

/// No file is cut into more: their numbers have two digits.
pub(crate) const MOST_PARTS: u64 = 100;

/// What a part of a file is called.
#[must_use]
pub(crate) fn part(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".part-{number:02}"));
    name.into()
}

/// The files that hold the bytes of a file, in their order, each with its size: the file itself, or its parts.
///
/// # Errors
/// If there is neither, or one cannot be looked at.
pub(crate) fn files_of(path: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let size = |path: &Path| match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(|found| Some(found.len())),
    };
    if let Some(size) = size(path)? {
        return Ok(vec![(path.to_owned(), size)]);
    }
    let mut parts = Vec::new();
    for number in 0..MOST_PARTS {
        let part = part(path, number);
        let Some(size) = size(&part)? else { break };
        parts.push((part, size));
    }
    if parts.is_empty() { Err(ErrorKind::NotFound.into()) } else { Ok(parts) }
}

/// A file to be read, from its parts where it is cut.
#[derive(Debug)]
pub(crate) struct JoinedFile {
    /// Its parts in their order, each with its size.
    parts: Vec<(File, u64)>,
    position: u64,
}

/// Opens a file, or its parts where it is cut.
///
/// # Errors
/// See [`files_of`].
pub(crate) fn open_whole(path: &Path) -> io::Result<JoinedFile> {
    let open = |(path, size): (PathBuf, u64)| Ok((bounded::open(&path)?, size));
    Ok(JoinedFile { parts: files_of(path)?.into_iter().map(open).collect::<io::Result<_>>()?, position: 0 })
}

impl JoinedFile {
    /// Where the next byte is read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Goes on reading at this byte.
    pub(crate) fn go_to(&mut self, position: u64) {
        self.position = position;
    }
}

impl Read for JoinedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut offset = self.position;
        for (file, size) in &self.parts {
            if offset < *size {
                let room = usize::try_from(*size - offset).unwrap_or(usize::MAX).min(buffer.len());
                let read = file.read_at(&mut buffer[..room], offset)?;
                self.position += read as u64;
                return Ok(read);
            }
            offset -= size;
        }
        Ok(0)
    }
}
