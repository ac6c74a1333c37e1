//! Modes and owners that commands set in a tree, as rules for the layer that the tree is moved into.
//!
//! The Nix store keeps neither: every file there is root's, and a mode is whether it can be executed. `nix/root.nix` runs the
//! commands under fakeroot, and writes down beside the tree what they set: for each entry `MODE UID GID TYPE PATH`, ended by a
//! NUL, as `find . -mindepth 1 -printf '%m %U %G %y %P\0'` gives them.
//!
//! Reproducibility: the rules depend on what is in the file, and not on the order there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::layer::{Mode, Perm};

/// Why a file with modes and owners cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OwnersError {
    /// It cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that cannot be read.
    #[error("{path}: '{record}' is not 'MODE UID GID TYPE PATH'; build the tree again with `buildRoot`", path = path.display())]
    Record {
        path: PathBuf,
        /// What is there.
        record: String,
    },
}

impl Classified for OwnersError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Record { .. } => Class::Failed,
        }
    }
}

/// Bytes of alternatives in one regular expression: far below what the library compiles.
const LONGEST: usize = 32 * 1024;

/// The rules for what a tree brings; `file` says what was set in it.
///
/// # Errors
/// See [`OwnersError`].
pub(crate) fn rules(tree: &Path, file: &Path) -> Result<Vec<Perm>, OwnersError> {
    let bytes =
        bounded::read(file, Cap::Document).map_err(|source| OwnersError::Read { path: file.to_owned(), source })?;
    let mut owners: BTreeMap<(u32, u32), Vec<&[u8]>> = BTreeMap::new();
    let mut modes: BTreeMap<Mode, Vec<&[u8]>> = BTreeMap::new();
    for record in bytes.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        let bad =
            || OwnersError::Record { path: file.to_owned(), record: String::from_utf8_lossy(record).into_owned() };
        let OwnersEntry { mode, owner, is_link, path } = entry(record).ok_or_else(bad)?;
        owners.entry(owner).or_default().push(path);
        if !is_link {
            modes.entry(mode).or_default().push(path);
        }
    }
    let owners = grouped(owners).map(|((uid, gid), regex)| Perm { uid: Some(uid), gid: Some(gid), ..new(tree, regex) });
    let modes = grouped(modes).map(|(mode, regex)| Perm { mode: Some(mode), ..new(tree, regex) });
    Ok(owners.chain(modes).collect())
}

struct OwnersEntry<'a> {
    mode: Mode,
    owner: (u32, u32),
    is_link: bool,
    path: &'a [u8],
}

fn entry(record: &[u8]) -> Option<OwnersEntry<'_>> {
    let mut parts = record.splitn(5, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let mode = u32::from_str_radix(word()?, 8).ok().filter(|mode| *mode <= 0o7777)?;
    let owner = (word()?.parse().ok()?, word()?.parse().ok()?);
    let is_link = match word()? {
        "l" => true,
        "d" | "f" => false,
        _ => return None,
    };
    let path = parts.next().filter(|path| !path.is_empty())?;
    Some(OwnersEntry { mode: Mode(mode), owner, is_link, path })
}

fn new(tree: &Path, regex: String) -> Perm {
    Perm { path: Some(tree.to_owned()), regex, mode: None, uid: None, gid: None, uname: None, gname: None }
}

/// What was set, with regular expressions of the places that have it; what most have comes first, for everything.
fn grouped<K: Ord + Copy>(groups: BTreeMap<K, Vec<&[u8]>>) -> impl Iterator<Item = (K, String)> {
    // If two are equally common, the lower one.
    let most = groups.iter().rev().max_by_key(|(_, paths)| paths.len()).map(|(value, _)| *value);
    let first = most.into_iter().map(|value| (value, ".*".to_owned()));
    let others = groups.into_iter().filter(move |(value, _)| Some(*value) != most);
    first.chain(others.flat_map(|(value, paths)| alternatives(paths).into_iter().map(move |regex| (value, regex))))
}

fn alternatives(mut paths: Vec<&[u8]>) -> Vec<String> {
    paths.sort_unstable();
    let mut all = vec![String::new()];
    for path in paths {
        let escaped = escape(path);
        let last = all.last_mut().expect("there is one from the start");
        if last.is_empty() {
            *last = escaped;
        } else if last.len() + escaped.len() < LONGEST {
            last.push('|');
            last.push_str(&escaped);
        } else {
            all.push(escaped);
        }
    }
    all.into_iter().map(|alternatives| format!("^/(?:{alternatives})$")).collect()
}

/// A name of any bytes in a regular expression.
fn escape(path: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::new();
    for chunk in path.utf8_chunks() {
        escaped.push_str(&regex::escape(chunk.valid()));
        for byte in chunk.invalid() {
            write!(escaped, "(?-u:\\x{byte:02X})").expect("a string takes everything");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(records: &[u8]) -> Result<Vec<Perm>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), records).unwrap();
        rules(Path::new("/nix/store/tree"), file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_most_have_is_said_once_and_the_rest_by_name() {
        let rules = of(b"755 0 0 d etc\0\
            644 0 0 f etc/a+b\0\
            4755 0 0 f bin/su\0\
            777 1000 100 l home\0\
            755 0 0 d caf\xe9\0")
        .unwrap();
        let said = |perm: &Perm| (perm.regex.clone(), perm.mode, perm.uid.zip(perm.gid));
        let expected = [
            (".*", None, Some((0, 0))),
            ("^/(?:home)$", None, Some((1000, 100))),
            (".*", Some(Mode(0o755)), None),
            ("^/(?:etc/a\\+b)$", Some(Mode(0o644)), None),
            ("^/(?:bin/su)$", Some(Mode(0o4755)), None),
        ];
        assert_eq!(
            rules.iter().map(said).collect::<Vec<_>>(),
            expected.map(|(regex, mode, owner)| (regex.to_owned(), mode, owner))
        );
        let rules = of(&[&b"700 5 5 d caf\xe9"[..], b"755 0 0 d a", b"755 0 0 d b"].join(&0)).unwrap();
        let regex = rules[1].compile().unwrap();
        assert!(regex.is_match(b"/caf\xe9") && !regex.is_match(b"/cafe"));
    }

    #[test]
    fn many_names_are_several_rules_that_compile() {
        let name = |n: u32| format!("some/long/directory/of/a/package/with/a/file/{n}");
        let mut records = Vec::new();
        for n in 0..4001 {
            let mode = if n % 2 == 0 { "644" } else { "600" };
            records.extend(format!("{mode} 0 0 f {}\0", name(n)).into_bytes());
        }
        let rules = of(&records).unwrap();
        assert!(rules.len() > 4, "{}", rules.len());
        let mode = |n: u32| {
            let path = format!("/{}", name(n));
            rules
                .iter()
                .filter(|perm| perm.compile().unwrap().is_match(path.as_bytes()))
                .filter_map(|perm| perm.mode)
                .next_back()
        };
        assert_eq!([0, 1, 3999, 4000].map(mode), [0o644, 0o600, 0o600, 0o644].map(|mode| Some(Mode(mode))));
    }

    #[test]
    fn a_record_that_is_none_is_named() {
        for record in ["755 0 0 d", "x 0 0 f a", "755 0 0 c dev/null", "755 root 0 f a"] {
            let error = of(format!("{record}\0").as_bytes()).unwrap_err();
            assert!(error.contains(&format!("'{record}' is not 'MODE UID GID TYPE PATH'")), "{error}");
        }
    }
}
