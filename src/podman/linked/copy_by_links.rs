//! A second tree of the same files, for layers that are the same archive over other layers: directories are made anew,
//! everything else gets a second name. Nothing in a layer is ever changed in place.

use std::ffi::OsString;

use rustix::fs::{AtFlags, FileType, linkat};

use crate::disk::beneath::Dir;
use crate::disk::progress::Progress;
use crate::disk::walk::TreeCursor;
use crate::disk::{AtPath, WriteError};

/// Makes at `name` in `to`, where nothing is, the tree `from`; how many links that took.
///
/// # Errors
/// With the path at fault: above all a file that has all the names that its file system allows.
pub(crate) fn copy_tree(from: Dir, to: &Dir, name: &str, progress: &Progress) -> Result<u64, WriteError> {
    let (mut from, mut to) = (TreeCursor::at(from), TreeCursor::at(to.make(name, 0o700)?));
    let mut links = 0;
    // The directories that are still to be made, level by level.
    let mut levels = vec![level(&from, &to, &mut links, progress)?];
    loop {
        match levels.last_mut().and_then(Vec::pop) {
            Some(name) => {
                from.down(&name)?;
                to.make(&name, 0o700)?;
                levels.push(level(&from, &to, &mut links, progress)?);
            }
            None => {
                to.dir().dress(&from.dir().stat()?, &from.dir().attributes()?)?;
                levels.pop();
                if levels.is_empty() {
                    return Ok(links);
                }
                from.up()?;
                to.up()?;
            }
        }
    }
}

/// Links everything in one directory but directories, which come back.
fn level(
    from: &TreeCursor,
    to: &TreeCursor,
    links: &mut u64,
    progress: &Progress,
) -> Result<Vec<OsString>, WriteError> {
    let mut directories = Vec::new();
    for (name, kind) in from.dir().names()? {
        progress.check().at("write", to.dir().path())?;
        if kind == FileType::Directory {
            directories.push(name);
            continue;
        }
        linkat(from.dir(), &name, to.dir(), &name, AtFlags::empty()).at("link", &to.dir().at(&name))?;
        *links += 1;
        let size = from.dir().look(&name)?.filter(|_| kind == FileType::RegularFile).map_or(0, |found| found.st_size);
        progress.count_linked(size.try_into().unwrap_or(0));
    }
    Ok(directories)
}
