//! Whether a tree is still what its layer's archive unpacks to, by the layer's tar-split record alone
//! ([`crate::podman::storage::tar_split`]): that finds the file that went bad, in a layer of ours and in one that Podman unpacked.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crc_fast::CrcAlgorithm::Crc64GoIso;
use rustix::fs::{OFlags, getxattr, makedev, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::rooted_path::{TreeRoot, in_proc};
use super::unpack::{OPAQUE, WHITEOUT, is_ignored};
use crate::disk::beneath::Dir;
use crate::disk::pipe::{Consumer, PipeError, Readers, fan_out};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError, bounded};
use crate::layer::padding;
use crate::layer::tar_reader::{self, TarMember, TarMemberKind, clean};
use crate::oci::digest::{Digest, Hasher};
use crate::podman::storage::tar_split::{TarSplitLine, read, sum_of_file};

/// The longest header that is looked at: an archive may have gigabytes between two members.
const LONGEST: usize = 4 * 1024 * 1024;

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
pub struct CheckedTree {
    /// The digest of the archive that record and tree give.
    pub digest: Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What is not what it was, or not there.
    pub bad: Vec<Bad>,
    /// Everything that belongs into the tree.
    pub(crate) members: BTreeSet<PathBuf>,
}

/// Reads every byte of a tree, in the order of its record, and compares types, modes, owners, links and attributes. A tree
/// of the `overlay` driver holds marks of what is removed from the layers below; others do not.
///
/// # Errors
/// If the record itself cannot be read, or the job was told to stop.
pub fn check(record: &Path, tree: &Path, overlay: bool, progress: &Progress) -> Result<CheckedTree, WriteError> {
    let file = bounded::open(record).at("open", record)?;
    check_in((file, record), Dir::open(tree)?, overlay, progress)
}

/// The same of a record that is open; with the path that messages have for it.
pub(crate) fn check_in(
    (file, record): (File, &Path),
    dir: Dir,
    overlay: bool,
    progress: &Progress,
) -> Result<CheckedTree, WriteError> {
    let tree = &dir.path().to_owned();
    let root = TreeRoot::of(dir).at("open", tree)?;
    let mut checker = Checker { root, overlay, hasher: Hasher::new(), progress };
    let (mut bad, mut members, mut gone, mut differing) = (Vec::new(), BTreeSet::new(), Vec::new(), BTreeMap::new());
    // The bytes since the last member: its padding, then the header of the next one.
    let (mut header, mut padded): (Vec<u8>, usize) = (Vec::new(), 0);
    read(file, record, &mut |line| {
        progress.check().at("read", tree)?;
        let (name, size, sum) = match line {
            TarSplitLine::Segment(bytes) => {
                checker.hasher.update(&bytes);
                if header.len() < LONGEST {
                    header.extend_from_slice(&bytes);
                }
                return Ok(());
            }
            TarSplitLine::Member { name, size, sum } => (name, size, sum),
        };
        let path = clean(&name);
        let told = tar_reader::next(&mut header.get(padded..).unwrap_or_default()).ok().flatten();
        header.clear();
        padded = usize::try_from(padding(size)).unwrap_or(0);
        let found = match path.file_name().map(OsStr::as_bytes) {
            Some(name) if name.starts_with(WHITEOUT) => checker.whiteout(&path, name, &mut gone),
            Some(_) => checker.member(&path, told.as_ref(), (size, sum), &mut members, &mut differing),
            None => return Ok(()),
        };
        let why = match found {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => why,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error).at("read", tree),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "is not there".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
        };
        members.insert(path.clone());
        bad.push(Bad { path, why });
        Ok(())
    })?;
    // The archive may have something else where it removed what is below.
    for path in gone.into_iter().filter(|path| !members.contains(path)).collect::<Vec<_>>() {
        let found = checker.root.open_at(&path, OFlags::PATH).and_then(|(file, _)| file.metadata());
        if !found.is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0) {
            let why = "does not hide any more what is below it".to_owned();
            bad.push(Bad { path: path.clone(), why });
        }
        members.insert(path);
    }
    bad.extend(differing.into_values());
    bad.sort_by(|one, other| one.path.cmp(&other.path));
    let (digest, size) = checker.hasher.finish();
    Ok(CheckedTree { digest, size, bad, members })
}

struct Checker<'a> {
    root: TreeRoot,
    overlay: bool,
    hasher: Hasher,
    progress: &'a Progress,
}

impl Checker<'_> {
    /// What is wrong with one member; its content is hashed along.
    fn member(
        &mut self,
        path: &Path,
        told: Option<&TarMember>,
        (size, sum): (u64, Option<u64>),
        members: &mut BTreeSet<PathBuf>,
        differing: &mut BTreeMap<u64, Bad>,
    ) -> io::Result<Option<String>> {
        // Most members need one look; only files with something in them are opened for reading.
        let (place, real) = self.root.open_at(path, OFlags::PATH)?;
        members.insert(real);
        let found = place.metadata()?;
        if let Some(sum) = sum {
            if !found.is_file() {
                return Ok(Some("is not a file any more".to_owned()));
            }
            let size = match told.and_then(|told| told.sparse.as_ref()) {
                Some(sparse) if size == 0 => sparse.size,
                _ => size,
            };
            if found.len() != size {
                return Ok(Some(format!("has {} bytes instead of {size}", found.len())));
            }
            let (file, _) = self.root.open_at(path, OFlags::RDONLY)?;
            if self.sum(&file, size, told)? != sum {
                return Ok(Some("has other bytes".to_owned()));
            }
        }
        let Some(told) = told else { return Ok(None) };
        if let Some(why) = self.difference(told, &place, &found) {
            return Ok(Some(why));
        }
        // For a file with several names, the last one decides.
        match attributes(told, &place, &found) {
            Some(why) => drop(differing.insert(found.ino(), Bad { path: path.to_owned(), why })),
            None => drop(differing.remove(&found.ino())),
        }
        Ok(None)
    }

    /// The CRC-64 of a file's bytes, which are hashed along unless the record has them already.
    fn sum(&mut self, file: &File, size: u64, told: Option<&TarMember>) -> io::Result<u64> {
        let failed = |error| match error {
            PipeError::Read(error) | PipeError::Write(error) => error,
        };
        if told.is_some_and(|told| told.sparse.is_some()) {
            return sum_of_file(file, size, self.progress).map_err(failed);
        }
        let mut crc = crc_fast::Digest::new(Crc64GoIso);
        let sums: Vec<Consumer<'_>> = vec![Box::new(|chunk| {
            crc.update(chunk);
            Ok(())
        })];
        let readers = Readers { here: sums, hashers: vec![&mut self.hasher] };
        fan_out(file, size, readers, self.progress).map_err(failed)?;
        Ok(crc.finalize())
    }

    /// What of a member is not as its header says.
    fn difference(&self, told: &TarMember, place: &File, found: &Metadata) -> Option<String> {
        let kind = found.file_type();
        let device = |major, minor| found.rdev() == makedev(major, minor);
        let (word, is_it) = match &told.kind {
            TarMemberKind::Directory => ("directory", kind.is_dir()),
            TarMemberKind::Symlink(_) => ("symbolic link", kind.is_symlink()),
            TarMemberKind::File => ("file", kind.is_file()),
            TarMemberKind::Fifo => ("named pipe", kind.is_fifo()),
            TarMemberKind::Character(major, minor) => ("such device", kind.is_char_device() && device(*major, *minor)),
            TarMemberKind::Block(major, minor) => ("such device", kind.is_block_device() && device(*major, *minor)),
            TarMemberKind::Link(target) => {
                let target = clean(target);
                let other = self.root.open_at(&target, OFlags::PATH).and_then(|(file, _)| file.metadata());
                let same = other.is_ok_and(|other| (other.dev(), other.ino()) == (found.dev(), found.ino()));
                return (!same).then(|| format!("is not the same file as {} any more", target.display()));
            }
        };
        if !is_it {
            return Some(format!("is no {word} any more"));
        }
        if let TarMemberKind::Symlink(expected) = &told.kind {
            let target = readlinkat(place, "", Vec::new()).ok()?;
            if target.as_bytes() != expected {
                let expected = String::from_utf8_lossy(expected);
                return Some(format!("leads to {} instead of {expected}", target.to_string_lossy()));
            }
        }
        None
    }

    /// What is wrong with a mark that something is removed from the layers below; what is to be gone there is looked at last.
    fn whiteout(&self, path: &Path, name: &[u8], gone: &mut Vec<PathBuf>) -> io::Result<Option<String>> {
        if !self.overlay {
            return Ok(None);
        }
        let (directory, real) = match self.root.directory(path.parent().unwrap_or(Path::new(""))) {
            // In something that is gone itself.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            found => found?,
        };
        if name != OPAQUE {
            gone.push(real.join(OsStr::from_bytes(&name[WHITEOUT.len()..])));
            return Ok(None);
        }
        let mut value = [0; 2];
        let found = getxattr(in_proc(&directory), "trusted.overlay.opaque", &mut value[..]);
        // Only root sees the attribute.
        let is_opaque = !geteuid().is_root() || (found == Ok(1) && value[0] == b'y');
        Ok((!is_opaque).then(|| "does not hide any more what is below its directory".to_owned()))
    }
}

/// What of a member's mode, owner and attributes is not as its header says.
fn attributes(told: &TarMember, place: &File, found: &Metadata) -> Option<String> {
    if !found.is_symlink() && found.mode() & 0o7777 != told.mode {
        return Some(format!("has the mode {:04o} instead of {:04o}", found.mode() & 0o7777, told.mode));
    }
    // For anybody but root the owners on disk are others: those of a user namespace.
    if !geteuid().is_root() {
        return None;
    }
    let TarMember { uid, gid, .. } = told;
    if (u64::from(found.uid()), u64::from(found.gid())) != (*uid, *gid) {
        return Some(format!("belongs to {}:{} instead of {uid}:{gid}", found.uid(), found.gid()));
    }
    let differs = |(key, value): &(&Vec<u8>, &Vec<u8>)| {
        let mut bytes = vec![0; value.len() + 1];
        let found = getxattr(in_proc(place), OsStr::from_bytes(key), &mut bytes[..]);
        !is_ignored(key) && !matches!(found, Ok(size) if bytes[..size] == ***value) && found != Err(Errno::OPNOTSUPP)
    };
    let (key, _) = told.xattrs.iter().filter(|_| !found.is_symlink()).find(differs)?;
    Some(format!("has not the attribute {} that it had", String::from_utf8_lossy(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::layer::{TRAILER, TarEntry as Told, TarEntryKind, header};
    use crate::podman::storage::tar_split::Writer;

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
        let mut writer = Writer::new(File::create(record).unwrap(), record);
        writer.segment(&told("d", TarEntryKind::Directory, 0o555)).unwrap();
        writer.member(b"d/", None).unwrap();
        writer.segment(&told("d/é", TarEntryKind::File(9), mode)).unwrap();
        // The check value that the CRC catalogue has for CRC-64/GO-ISO.
        writer.member("d/é".as_bytes(), Some((9, 0xb909_56c7_75a4_1001))).unwrap();
        writer.segment(&TRAILER[..503]).unwrap();
        writer.segment(&told("d/link", TarEntryKind::Symlink("é".into()), 0o777)).unwrap();
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
            let checked = check(&record, &tree, true, &progress).unwrap();
            checked.bad.iter().map(|bad| format!("{} {}", bad.path.display(), bad.why)).collect()
        };
        write(&record, &tree, 0o444);
        let good = check(&record, &tree, true, &progress).unwrap();
        assert_eq!((good.bad, good.size % 512, good.members.len()), (vec![], 0, 3));
        std::fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(bad(), ["d has the mode 0755 instead of 0555"]);
        std::fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(0o555)).unwrap();
        let file = tree.join("d/é");
        // The directory is read-only, which stops anybody but root.
        let change = |change: &dyn Fn() -> std::io::Result<()>| {
            for (mode, step) in [(0o755, change), (0o555, &|| Ok(()))] {
                std::fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(mode)).unwrap();
                step().unwrap();
            }
        };
        let put = |text: &str| {
            drop(std::fs::remove_file(&file));
            std::fs::write(&file, text)?;
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444))
        };
        change(&|| put("12345678!"));
        assert_eq!(bad(), ["d/é has other bytes"]);
        change(&|| put("1"));
        assert_eq!(bad(), ["d/é has 1 bytes instead of 9"]);
        // A link that leads out of the tree is not followed.
        change(&|| std::fs::remove_file(&file).and_then(|()| symlink("/etc/passwd", &file)));
        assert_eq!(bad(), ["d/é is not a file any more"]);
        change(&|| std::fs::remove_file(&file));
        assert_eq!(bad(), ["d/é is not there"]);
        change(&|| put("123456789"));
        let link = tree.join("d/link");
        change(&|| std::fs::remove_file(&link).and_then(|()| symlink("e", &link)));
        assert_eq!(bad(), ["d/link leads to e instead of é"]);
        std::fs::write(&record, "no gzip").unwrap();
        assert!(check(&record, &tree, true, &progress).is_err());
    }
}
