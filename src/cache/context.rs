//! The files of a context that a build can see: path, executable bit, and a digest or where a link leads.
//!
//! No link is followed. Times, owners and other bits of the mode do not count, as git does not keep them; nor do folders, of which
//! git keeps none that is empty. `.git`, the file of definitions and the folder of entries are never part of a context: they change
//! with every commit or entry, and [`IgnoreRules`] for a build leave them out too.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use super::ignore::{self, IgnoreRules};
use super::stat_cache::{FileStamp, StatCache};
use super::{CacheError, wrong};
use crate::disk::AtPath;
use crate::disk::beneath::Dir;
use crate::disk::progress::Progress;
use crate::model::read::facts::ModelFormat;
use crate::oci::digest::{Digest, Hasher};

/// A file of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", untagged)]
pub(crate) enum ContextFile {
    File {
        digest: Digest,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        executable: bool,
    },
    Link {
        /// As it is written in the link.
        link: String,
    },
}

/// What was found in a context.
#[derive(Debug, Default)]
pub(crate) struct SeenContext {
    pub(crate) files: BTreeMap<String, ContextFile>,
    /// Bytes of all files.
    pub(crate) size: u64,
    /// Weights of models among them, with their sizes.
    pub(crate) weights: Vec<(String, u64)>,
    /// How many files had to be read.
    pub(crate) read: usize,
    /// All rules, for a build.
    pub(crate) rules: String,
}

/// A context that is to be looked at.
#[derive(Debug)]
pub(crate) struct ContextPlace<'a> {
    pub(crate) folder: &'a Path,
    /// The rules of its own, and where they are; `None` for one that a build sees whole.
    pub(crate) rules: Option<&'a str>,
    pub(crate) rules_file: Option<&'a Path>,
    /// What is never part of it.
    pub(crate) never: &'a [PathBuf],
    /// Where notes about contexts are kept.
    pub(crate) notes: Option<&'a Path>,
}

impl ContextPlace<'_> {
    /// The rules for a build: its own, and after them what is never part of it.
    fn all_rules(&self) -> String {
        let never = self.never.iter().filter_map(|path| path.strip_prefix(self.folder).ok());
        let never = never.map(|path| format!("{}\n", escaped(&path.to_string_lossy())));
        let Some(own) = self.rules else { return String::new() };
        let own = own.lines().map(|line| format!("{line}\n"));
        own.chain(["**/.git\n".to_owned()]).chain(never).collect()
    }

    /// Looks at every file that the rules leave in, and reads those that have changed.
    pub(crate) fn look(&self, progress: &Progress) -> Result<SeenContext, CacheError> {
        let rules = IgnoreRules::parse(&self.all_rules())
            .map_err(|message| wrong(self.rules_file.unwrap_or(self.folder), message))?;
        let root = Dir::open(self.folder)?;
        let notes = StatCache::open(self.notes, self.folder);
        let mut seen = SeenContext { rules: rules.text(), ..SeenContext::default() };
        let mut known: BTreeMap<String, (FileStamp, Digest)> = BTreeMap::new();
        let (mut unknown, mut closed, mut folders) = (Vec::new(), Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            progress.check().at("read", self.folder)?;
            let dir = root.dir(&folder)?;
            for name in dir.names()?.into_keys() {
                let joined = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                let Some(path) = name.to_str().map(joined) else {
                    // A rule could only leave out what it can name.
                    return Err(wrong(&dir.at(&name), "its name is no UTF-8; rename it".to_owned()));
                };
                let out = rules.leaves_out(&path);
                let Some(stat) = dir.look(&name)? else { continue };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory if rules.closes(&path) => closed.push(path),
                    FileType::Directory => folders.push(path),
                    _ if out => {}
                    FileType::RegularFile => {
                        let stamp = FileStamp::of(&stat);
                        seen.size += stamp.size;
                        if ModelFormat::ALL.iter().any(|format| path.ends_with(format.ending())) {
                            seen.weights.push((path.clone(), stamp.size));
                        }
                        let executable = stat.st_mode & 0o100 != 0;
                        match notes.find(&path, &stamp) {
                            Some(digest) => {
                                seen.files.insert(path.clone(), ContextFile::File { digest, executable });
                                known.insert(path, (stamp, digest));
                            }
                            None => unknown.push((path, stamp.size, executable)),
                        }
                    }
                    FileType::Symlink => {
                        let link = dir.target(&name).unwrap_or_default().into_os_string().into_string();
                        let link =
                            link.map_err(|_| wrong(&dir.at(&name), "it leads to what is no UTF-8".to_owned()))?;
                        seen.files.insert(path, ContextFile::Link { link });
                    }
                    _ => {
                        let message =
                            "it is neither a file nor a link nor a folder; leave it out with a rule".to_owned();
                        return Err(wrong(&dir.at(&name), message));
                    }
                }
            }
        }
        closed.sort();
        seen.rules.extend(closed.iter().map(|folder| format!("{}\n", escaped(folder))));
        seen.read = unknown.len();
        // Before anything is read: what changes from now on is not noted.
        let taking = if unknown.is_empty() && notes.has(&known) { None } else { notes.begin() };
        progress.expect(unknown.iter().map(|(_, size, _)| size).sum());
        let read: Vec<_> =
            unknown.par_iter().map(|(path, ..)| read(&root, path, progress)).collect::<Result<_, _>>()?;
        for ((path, _, executable), (stamp, digest)) in unknown.into_iter().zip(read) {
            seen.files.insert(path.clone(), ContextFile::File { digest, executable });
            known.insert(path, (stamp, digest));
        }
        if let Some(taking) = taking {
            notes.keep(taking, &known);
        }
        Ok(seen)
    }
}

/// A path as a rule that fits it alone.
fn escaped(path: &str) -> String {
    let special = |c: char| !c.is_alphanumeric() && !matches!(c, '/' | '_' | '-' | ' ');
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// The digest of a file, and what it was like before it was read.
fn read(root: &Dir, path: &str, progress: &Progress) -> Result<(FileStamp, Digest), CacheError> {
    let mut file = root.file(path)?;
    let at = root.at(path);
    let stamp = FileStamp::of(&rustix::fs::fstat(&file).at("read", &at)?);
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 1 << 17]);
    loop {
        progress.check().at("read", &at)?;
        match file.read(&mut buffer).at("read", &at)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                progress.count_read(count as u64);
            }
        }
    }
    Ok((stamp, hasher.finish().0))
}

/// The rules of a context, and where they are.
pub(crate) fn rules_of(context: &Path, containerfile: &Path) -> Result<(String, Option<PathBuf>), CacheError> {
    let file = ignore::file_of(context, containerfile);
    let text = ignore::text_of(file.as_deref()).map_err(|message| wrong(context, message))?;
    Ok((text, file))
}
