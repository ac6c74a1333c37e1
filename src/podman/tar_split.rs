//! tar-split records: what containers-storage keeps of a layer's archive beside the unpacked tree, so that `podman save`
//! and `podman push` give the very bytes again (github.com/vbatts/tar-split, `tar/storage`).
//!
//! A gzip file of JSON values, one a line. A *segment* (type 2) holds bytes of the archive that are no file's content:
//! headers, padding, the end. A *file* (type 1) stands for the content of a file of the tree, with its size and CRC-64
//! (GO-ISO, big-endian). In the order of the archive, both together are the archive.
//!
//! With such a record a tree is checked without any other source: that is how [`check`] finds the file that went bad, in
//! a layer of ours and in one that Podman unpacked.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm::Crc64GoIso;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2, readlinkat};
use rustix::process::geteuid;
use serde::Deserialize;

use crate::blobs::{At, WriteError};
use crate::digest::{Digest, Hasher};
use crate::layer::padding;
use crate::pipe::{Consumer, PipeError, fan_out};
use crate::progress::Progress;

const FILE: u8 = 1;
const SEGMENT: u8 = 2;
/// The longest segment in bytes.
const LONGEST: usize = 1024 * 1024;

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
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.segment.extend_from_slice(bytes);
        // Behind the end of an archive there may be gigabytes.
        if self.segment.len() > LONGEST { self.end_segment() } else { Ok(()) }
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

    /// A member whose content lies in the segments before it, because the file in the tree has holes that the archive has
    /// not; `sum` is the CRC-64 of the file with its holes. containers-storage skips what has no size.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn with_holes(&mut self, name: &[u8], sum: u64) -> Result<(), WriteError> {
        self.member(name, Some((0, sum)))
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

/// A member of an archive that is not in the tree as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Where it should be, below the tree.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What a tree turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The digest of the archive that record and tree give.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What is not what it was, or not there.
    pub bad: Vec<Bad>,
    /// Everything that belongs into the tree.
    pub members: BTreeSet<PathBuf>,
}

/// Reads every byte of a tree, in the order of its record, and compares types, modes, owners and links.
///
/// # Errors
/// If the record itself cannot be read, or the job was told to stop.
pub fn check(record: &Path, tree: &Path, progress: &Progress) -> Result<Checked, WriteError> {
    let root = File::open(tree).at("open", tree)?;
    let mut lines = BufReader::new(GzDecoder::new(BufReader::new(File::open(record).at("open", record)?)));
    let (mut hasher, mut bad, mut members, mut line) = (Hasher::new(), Vec::new(), BTreeSet::new(), String::new());
    // The bytes since the last member: its padding, then the header of the next one.
    let (mut header, mut padded) = (Vec::new(), 0);
    loop {
        line.clear();
        if lines.read_line(&mut line).at("read", record)? == 0 {
            break;
        }
        progress.check().at("read", tree)?;
        let entry: Entry = serde_json::from_str(&line).map_err(io::Error::from).at("read", record)?;
        let payload = Entry::bytes(entry.payload.as_ref()).at("read", record)?;
        match entry.r#type {
            SEGMENT => {
                hasher.update(&payload);
                header.extend_from_slice(&payload);
            }
            FILE => {
                let path: PathBuf = entry.path().at("read", record)?.components().filter(is_name).collect();
                let expected = (entry.size > 0).then_some((entry.size, payload));
                let header = std::mem::take(&mut header);
                let header = header.get(padded..).unwrap_or_default();
                padded = usize::try_from(padding(entry.size)).unwrap_or(0);
                match member(&root, &path, header, expected, &mut hasher, progress) {
                    Ok(None) => {}
                    Ok(Some(why)) => bad.push(Bad { path: path.clone(), why }),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error).at("read", tree),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        bad.push(Bad { path: path.clone(), why: "is not there".to_owned() });
                    }
                    Err(error) => bad.push(Bad { path: path.clone(), why: format!("cannot be read: {error}") }),
                }
                members.insert(path);
            }
            _ => {}
        }
    }
    let (digest, size) = hasher.finish();
    Ok(Checked { digest, size, bad, members })
}

fn is_name(component: &Component<'_>) -> bool {
    matches!(component, Component::Normal(_))
}

/// What is wrong with one member; its content is hashed along. No link is followed on the way.
fn member(
    root: &File,
    path: &Path,
    header: &[u8],
    content: Option<(u64, Vec<u8>)>,
    hasher: &mut Hasher,
    progress: &Progress,
) -> io::Result<Option<String>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let open = |flags: OFlags| {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve).map(File::from)
    };
    // Most members need one look; only links are never opened for reading.
    let place = open(OFlags::PATH)?;
    let found = place.metadata()?;
    if let Some((size, sum)) = content {
        if !found.is_file() {
            return Ok(Some("is no file any more".to_owned()));
        }
        if found.len() != size {
            return Ok(Some(format!("has {} bytes instead of {size}", found.len())));
        }
        let file = open(OFlags::RDONLY)?;
        if crc(&file, size, hasher, progress)?.to_be_bytes() != sum[..] {
            return Ok(Some("has other bytes".to_owned()));
        }
    }
    Ok(difference(header, &place, &found))
}

/// What of a member is not as its header says. What a header may say and this project's layers never have (hard links,
/// devices, whiteouts) is not compared.
fn difference(header: &[u8], place: &File, found: &Metadata) -> Option<String> {
    let mut archive = tar::Archive::new(header);
    let entry = archive.entries().ok()?.next()?.ok()?;
    let header = entry.header();
    let (kind, is_kind) = match header.entry_type() {
        tar::EntryType::Directory => ("directory", found.is_dir()),
        tar::EntryType::Symlink => ("symbolic link", found.is_symlink()),
        tar::EntryType::Regular | tar::EntryType::Continuous => ("file", found.is_file()),
        _ => return None,
    };
    if !is_kind {
        return Some(format!("is no {kind} any more"));
    }
    if found.is_symlink() {
        let target = readlinkat(place, "", Vec::new()).ok()?;
        let expected = entry.link_name_bytes()?;
        if target.as_bytes() != &expected[..] {
            return Some(format!(
                "leads to {} instead of {}",
                target.to_string_lossy(),
                String::from_utf8_lossy(&expected)
            ));
        }
    } else if let Ok(mode) = header.mode()
        && found.mode() & 0o7777 != mode & 0o7777
    {
        return Some(format!("has the mode {:04o} instead of {:04o}", found.mode() & 0o7777, mode & 0o7777));
    }
    // For anybody but root the owners on disk are others: those of a user namespace.
    if let (true, Ok(uid), Ok(gid)) = (geteuid().is_root(), header.uid(), header.gid())
        && (u64::from(found.uid()), u64::from(found.gid())) != (uid, gid)
    {
        return Some(format!("belongs to {}:{} instead of {uid}:{gid}", found.uid(), found.gid()));
    }
    None
}

/// The CRC-64 of a file's bytes, which are hashed along.
fn crc(file: &File, size: u64, hasher: &mut Hasher, progress: &Progress) -> io::Result<u64> {
    let mut crc = crc_fast::Digest::new(Crc64GoIso);
    let sums: Vec<Consumer<'_>> = vec![Box::new(|chunk| {
        crc.update(chunk);
        Ok(())
    })];
    let hashing: Consumer<'_> = Box::new(|chunk| {
        hasher.update(chunk);
        Ok(())
    });
    fan_out(file, size, sums, vec![hashing], progress).map_err(|error| match error {
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

    use crate::layer::{Entry as Told, Kind, TRAILER, header};

    /// A layer with a directory, a file and a link; `mode` of the file.
    fn write(record: &Path, tree: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(tree.join("d")).unwrap();
        std::fs::write(tree.join("d/é"), "123456789").unwrap();
        std::os::unix::fs::symlink("é", tree.join("d/link")).unwrap();
        std::fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(0o555)).unwrap();
        std::fs::set_permissions(tree.join("d/é"), PermissionsExt::from_mode(0o444)).unwrap();
        let (uid, gid) = (geteuid().as_raw().into(), rustix::process::getegid().as_raw().into());
        let told = |path: &str, kind, mode| {
            let path = path.as_bytes().to_vec();
            header(&Told { path, kind, mode, uid, gid, uname: String::new(), gname: String::new() }, 0)
        };
        let mut writer = Writer::create(record).unwrap();
        writer.segment(&told("d", Kind::Directory, 0o555)).unwrap();
        writer.member(b"d/", None).unwrap();
        writer.segment(&told("d/é", Kind::File(9), mode)).unwrap();
        // The check value that the CRC catalogue has for CRC-64/GO-ISO.
        writer.member("d/é".as_bytes(), Some((9, 0xb909_56c7_75a4_1001))).unwrap();
        writer.segment(&TRAILER[..503]).unwrap();
        writer.segment(&told("d/link", Kind::Symlink("é".into()), 0o777)).unwrap();
        writer.member(b"d/link", None).unwrap();
        writer.segment(&TRAILER).unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn what_was_written_is_checked_and_what_went_bad_is_named() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (record, tree) = (folder.path().join("r"), folder.path().join("t"));
        let progress = Progress::new();
        let bad = || -> Vec<String> {
            let checked = check(&record, &tree, &progress).unwrap();
            checked.bad.iter().map(|bad| format!("{} {}", bad.path.display(), bad.why)).collect()
        };
        write(&record, &tree, 0o444);
        let good = check(&record, &tree, &progress).unwrap();
        assert_eq!((good.bad, good.size % 512, good.members.len()), (vec![], 0, 3));
        std::fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(bad(), ["d has the mode 0755 instead of 0555"]);
        std::fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(0o555)).unwrap();
        let file = tree.join("d/é");
        let put = |text: &str| {
            drop(std::fs::remove_file(&file));
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).unwrap();
        };
        put("12345678!");
        assert_eq!(bad(), ["d/é has other bytes"]);
        put("1");
        assert_eq!(bad(), ["d/é has 1 bytes instead of 9"]);
        // A link that leads out of the tree is not followed.
        std::fs::remove_file(&file).unwrap();
        symlink("/etc/passwd", &file).unwrap();
        assert_eq!(bad(), ["d/é is no file any more"]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(bad(), ["d/é is not there"]);
        put("123456789");
        std::fs::remove_file(tree.join("d/link")).unwrap();
        symlink("e", tree.join("d/link")).unwrap();
        assert_eq!(bad(), ["d/link leads to e instead of é"]);
        std::fs::write(&record, "no gzip").unwrap();
        assert!(check(&record, &tree, &progress).is_err());
    }
}
