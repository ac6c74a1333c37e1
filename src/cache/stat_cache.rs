//! The digests of files that have not changed since they were last read, so that a context need not be read again.
//!
//! A file is the same while device, inode, size, modification and change time are. A file that changed so shortly before it was
//! read that another change could have the same times is not noted (git calls such entries racy), so it is read again next time.
//! The notes are a user's own and can be removed at any moment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use rustix::process::geteuid;

use crate::disk::Staging;
use crate::disk::bounded::{self, Cap};
use crate::oci::digest::Digest;

const FIRST_LINE: &str = "windlass context 1";
/// The coarsest times that a file system has, in nanoseconds: FAT counts in two seconds.
const COARSEST: i128 = 2_000_000_000;

/// What tells that a file is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: i128,
    changed: i128,
}

impl FileStamp {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanos = |seconds: i64, nanos: u64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: nanos(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanos(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The notes about one context.
#[derive(Debug)]
pub(crate) struct StatCache {
    /// The file of the notes; `None` where there is no place for it.
    file: Option<PathBuf>,
    known: BTreeMap<String, (FileStamp, Digest)>,
}

impl StatCache {
    /// The notes about a context, in a folder for all of them.
    pub(crate) fn open(folder: Option<&Path>, context: &Path) -> Self {
        let name = &Digest::of(context.as_os_str().as_encoded_bytes()).hex()[..32];
        let file = folder.map(|folder| folder.join(name));
        let known = file.as_deref().and_then(read).unwrap_or_default();
        Self { file, known }
    }

    /// The digest of a file that is as it was.
    pub(super) fn find(&self, path: &str, stamp: &FileStamp) -> Option<Digest> {
        self.known.get(path).filter(|(known, _)| known == stamp).map(|(_, digest)| *digest)
    }

    /// What time it is by the clock of a file system, before files are read; `None` if nothing can be noted.
    pub(super) fn begin(&self) -> Option<StatNotes> {
        let folder = self.file.as_deref()?.parent()?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).ok()?;
        // Root leaves no files among those of a user.
        let found = fs::symlink_metadata(folder).ok()?;
        if !found.is_dir() || found.uid() != geteuid().as_raw() {
            return None;
        }
        let staging = Staging::file(self.file.as_deref()?).ok()?;
        let stat = rustix::fs::stat(staging.path()).ok()?;
        Some(StatNotes { now: FileStamp::of(&stat).modified, staging })
    }

    /// Notes these files instead of those that are noted. That it cannot be done is no error.
    pub(super) fn keep(&self, notes: StatNotes, files: &BTreeMap<String, (FileStamp, Digest)>) {
        let settled = |stamp: &FileStamp| stamp.changed.max(stamp.modified) + COARSEST <= notes.now;
        let settled = files.iter().filter(|(path, (stamp, _))| settled(stamp) && !path.contains('\n'));
        let mut text = format!("{FIRST_LINE}\n");
        for (path, (FileStamp { device, inode, size, modified, changed }, digest)) in settled {
            let _ = writeln!(text, "{device} {inode} {size} {modified} {changed} {} {path}", digest.hex());
        }
        if fs::write(notes.staging.path(), text).is_ok() {
            drop(notes.staging.publish());
        }
    }

    /// Whether exactly these are noted already.
    pub(super) fn has(&self, files: &BTreeMap<String, (FileStamp, Digest)>) -> bool {
        self.known == *files
    }
}

/// Notes that are being taken.
#[derive(Debug)]
pub(super) struct StatNotes {
    now: i128,
    staging: Staging,
}

fn read(file: &Path) -> Option<BTreeMap<String, (FileStamp, Digest)>> {
    let found = fs::symlink_metadata(file).ok()?;
    // One that another user could have written is not believed.
    if found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return None;
    }
    let text = bounded::text(file, Cap::Document).ok()?;
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return None;
    }
    lines.map(line).collect()
}

fn line(line: &str) -> Option<(String, (FileStamp, Digest))> {
    let mut words = line.splitn(7, ' ');
    let stamp = FileStamp {
        device: words.next()?.parse().ok()?,
        inode: words.next()?.parse().ok()?,
        size: words.next()?.parse().ok()?,
        modified: words.next()?.parse().ok()?,
        changed: words.next()?.parse().ok()?,
    };
    let digest = Digest::from_hex(words.next()?).ok()?;
    Some((words.next()?.to_owned(), (stamp, digest)))
}
