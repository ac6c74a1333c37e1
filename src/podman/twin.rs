//! A second tree of the same files, for layers that are the same archive over other layers: directories are made anew,
//! everything else gets a second name. Nothing in a layer is ever changed in place.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, linkat, llistxattr, lsetxattr, utimensat};
use rustix::io::Errno;

use crate::blobs::{At, WriteError};
use crate::progress::Progress;

/// The longest attribute, and the longest list of them, that Linux knows.
const LONGEST: usize = 64 * 1024;

/// Makes at `to`, which must not exist, the tree that is at `from`; how many links that took.
///
/// # Errors
/// With the path at fault: above all a file that has all the names that its file system allows.
pub(super) fn twin(from: &Path, to: &Path, progress: &Progress) -> Result<u64, WriteError> {
    progress.check().at("write", to)?;
    let mut links = 0;
    fs::create_dir(to).at("create", to)?;
    for entry in fs::read_dir(from).at("read", from)? {
        let entry = entry.at("read", from)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let found = entry.metadata().at("read", &from)?;
        if found.is_dir() {
            links += twin(&from, &to, progress)?;
        } else {
            linkat(CWD, &from, CWD, &to, AtFlags::empty()).at("link", &to)?;
            links += 1;
            progress.count_linked(if found.is_file() { found.size() } else { 0 });
        }
    }
    let found = fs::metadata(from).at("read", from)?;
    dress(to, &found, &attributes(from)?)?;
    Ok(links)
}

/// The extended attributes of a directory.
pub(super) fn attributes(directory: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, WriteError> {
    let mut names = vec![0; LONGEST];
    let length = match llistxattr(directory, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length.at("read", directory)?,
    };
    let mut attributes = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; LONGEST];
        let length = lgetxattr(directory, name, &mut value[..]).at("read", directory)?;
        value.truncate(length);
        attributes.insert(name.to_owned(), value);
    }
    Ok(attributes)
}

/// Gives a directory, in which everything is, the owner, attributes, mode and time of another.
pub(super) fn dress(
    directory: &Path,
    told: &Metadata,
    attributes: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<(), WriteError> {
    chown(directory, Some(told.uid()), Some(told.gid())).at("set the owner of", directory)?;
    for (name, value) in attributes {
        lsetxattr(directory, &name[..], value, XattrFlags::empty()).at("set an attribute of", directory)?;
    }
    fs::set_permissions(directory, Permissions::from_mode(told.mode() & 0o7777)).at("set the mode of", directory)?;
    let time = Timespec { tv_sec: told.mtime(), tv_nsec: told.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, directory, &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", directory)
}
