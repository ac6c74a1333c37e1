//! tar-split records: what containers-storage keeps of a layer's archive beside the unpacked tree, so that `podman save`
//! and `podman push` give the very bytes again (github.com/vbatts/tar-split, `tar/storage`).
//!
//! A gzip file of JSON values, one a line. A *segment* (type 2) holds bytes of the archive that are no file's content:
//! headers, padding, the end. A *file* (type 1) stands for the content of a file of the tree, with its size and CRC-64
//! (GO-ISO, big-endian). In the order of the archive, both together are the archive.
//!
//! With such a record a tree is checked without any other source: that is how [`check`] finds the file that went bad, in
//! a layer of ours and in one that Podman unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm::Crc64GoIso;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::Deserialize;

use crate::blobs::{At, WriteError};
use crate::digest::{Digest, Hasher};
use crate::pipe::{Consumer, PipeError, fan_out};
use crate::progress::Progress;

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// Writes a record.
#[derive(Debug)]
pub struct Writer {
    out: GzEncoder<BufWriter<File>>,
    path: PathBuf,
    segment: Vec<u8>,
    position: u64,
    line: String,
}

impl Writer {
    /// A record in a new file at `path`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        let file = File::create(path).at("create", path)?;
        // The headers of a layer are alike: more effort would gain little.
        let out = GzEncoder::new(BufWriter::new(file), Compression::fast());
        Ok(Self { out, path: path.to_owned(), segment: Vec::new(), position: 0, line: String::new() })
    }

    /// Bytes of the archive that are no file's content.
    pub fn segment(&mut self, bytes: &[u8]) {
        self.segment.extend_from_slice(bytes);
    }

    /// A member follows whose header was given as a segment; `content` is the size and the CRC-64 of a file's bytes.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn member(&mut self, name: &[u8], content: Option<(u64, u64)>) -> Result<(), WriteError> {
        self.end_segment()?;
        let name = match std::str::from_utf8(name) {
            Ok(name) => format!("\"name\":{}", serde_json::Value::from(name)),
            Err(_) => format!("\"name_raw\":\"{}\"", BASE64.encode(name)),
        };
        let content = match content {
            Some((size, sum)) => format!("\"size\":{size},\"payload\":\"{}\"", BASE64.encode(sum.to_be_bytes())),
            None => "\"payload\":null".to_owned(),
        };
        self.entry(FILE, &format!("{name},{content}"))
    }

    /// Everything is there; the compressed size.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn finish(mut self) -> Result<u64, WriteError> {
        self.end_segment()?;
        let file = self.out.finish().and_then(|out| Ok(out.into_inner()?)).at("write", &self.path)?;
        Ok(file.metadata().at("read", &self.path)?.len())
    }

    fn end_segment(&mut self) -> Result<(), WriteError> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let mut fields = String::with_capacity(self.segment.len() * 4 / 3 + 16);
        fields.push_str("\"payload\":\"");
        BASE64.encode_string(&self.segment, &mut fields);
        fields.push('"');
        self.segment.clear();
        self.entry(SEGMENT, &fields)
    }

    fn entry(&mut self, kind: u8, fields: &str) -> Result<(), WriteError> {
        use std::fmt::Write as _;
        self.line.clear();
        let position = self.position;
        writeln!(self.line, "{{\"type\":{kind},{fields},\"position\":{position}}}").expect("a String takes all");
        self.position += 1;
        self.out.write_all(self.line.as_bytes()).at("write", &self.path)
    }
}

#[derive(Deserialize)]
struct Entry {
    r#type: u8,
    #[serde(default)]
    name: String,
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    payload: Option<String>,
}

impl Entry {
    fn bytes(text: Option<&String>) -> io::Result<Vec<u8>> {
        BASE64.decode(text.map_or("", String::as_str)).map_err(io::Error::other)
    }

    fn path(&self) -> io::Result<PathBuf> {
        let raw = match &self.name_raw {
            Some(raw) => Self::bytes(Some(raw))?,
            None => self.name.clone().into_bytes(),
        };
        Ok(std::ffi::OsString::from_vec(raw).into())
    }
}

/// What a tree turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The digest of the archive that record and tree give.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The files whose content is not what it was, or that are not there.
    pub bad: Vec<PathBuf>,
}

/// Reads every byte of a tree, in the order of its record.
///
/// # Errors
/// If the record itself cannot be read, or the job was told to stop.
pub fn check(record: &Path, tree: &Path, progress: &Progress) -> Result<Checked, WriteError> {
    let tree_fd = File::open(tree).at("open", tree)?;
    let mut lines = BufReader::new(GzDecoder::new(BufReader::new(File::open(record).at("open", record)?)));
    let (mut hasher, mut bad, mut line) = (Hasher::new(), Vec::new(), String::new());
    loop {
        line.clear();
        if lines.read_line(&mut line).at("read", record)? == 0 {
            break;
        }
        let entry: Entry = serde_json::from_str(&line).map_err(io::Error::from).at("read", record)?;
        match entry.r#type {
            SEGMENT => hasher.update(&Entry::bytes(entry.payload.as_ref()).at("read", record)?),
            FILE if entry.size > 0 => {
                let name = entry.path().at("read", record)?;
                let expected = Entry::bytes(entry.payload.as_ref()).at("read", record)?;
                match sum(&tree_fd, &name, entry.size, &mut hasher, progress) {
                    Ok(found) if found.to_be_bytes() == expected[..] => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error).at("read", tree),
                    _ => bad.push(name),
                }
            }
            _ => {}
        }
    }
    let (digest, size) = hasher.finish();
    Ok(Checked { digest, size, bad })
}

/// The CRC-64 of a file below a directory, whose bytes are hashed along. No link is followed on the way.
fn sum(tree: &File, name: &Path, size: u64, hasher: &mut Hasher, progress: &Progress) -> io::Result<u64> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(openat2(tree, name, flags, Mode::empty(), resolve)?);
    if file.metadata()?.len() != size {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut crc = crc_fast::Digest::new(Crc64GoIso);
    let sums: Vec<Consumer<'_>> = vec![Box::new(|chunk| {
        crc.update(chunk);
        Ok(())
    })];
    let hashing: Consumer<'_> = Box::new(|chunk| {
        hasher.update(chunk);
        Ok(())
    });
    fan_out(&file, size, sums, vec![hashing], progress).map_err(|error| match error {
        PipeError::Read(error) | PipeError::Write(error) => error,
    })?;
    Ok(crc.finalize())
}

/// The CRC-64 of bytes.
pub(super) fn sum_of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64GoIso, bytes)
}

/// The CRC-64 of a file's bytes.
pub(super) fn sum_of_file(file: &File, size: u64, progress: &Progress) -> Result<u64, PipeError> {
    let mut crc = crc_fast::Digest::new(Crc64GoIso);
    let summing: Consumer<'_> = Box::new(|chunk| {
        crc.update(chunk);
        Ok(())
    });
    fan_out(file, size, vec![summing], Vec::new(), progress)?;
    Ok(crc.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_checked_and_a_bad_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (record, tree) = (folder.path().join("r"), folder.path().join("t"));
        std::fs::create_dir_all(tree.join("d")).unwrap();
        std::fs::write(tree.join("d/é"), "123456789").unwrap();
        // The check value that the CRC catalogue has for CRC-64/GO-ISO.
        let sum = 0xb909_56c7_75a4_1001;
        let mut writer = Writer::create(&record).unwrap();
        writer.segment(b"head");
        writer.member(b"d/", None).unwrap();
        writer.segment(b"more");
        writer.member("d/é".as_bytes(), Some((9, sum))).unwrap();
        writer.segment(b"tail");
        writer.finish().unwrap();
        let progress = Progress::new();
        let good = check(&record, &tree, &progress).unwrap();
        assert_eq!(good, Checked { digest: Digest::of(b"headmore123456789tail"), size: 21, bad: vec![] });

        std::fs::write(tree.join("d/é"), "12345678!").unwrap();
        assert_eq!(check(&record, &tree, &progress).unwrap().bad, [PathBuf::from("d/é")]);
        // A link that leads out of the tree is not followed.
        std::fs::remove_file(tree.join("d/é")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.join("d/é")).unwrap();
        assert_eq!(check(&record, &tree, &progress).unwrap().bad, [PathBuf::from("d/é")]);
        std::fs::write(&record, "no gzip").unwrap();
        assert!(check(&record, &tree, &progress).is_err());
    }
}
