//! Other users of the host, and what their processes have mounted: who else may use an image.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::conf_files::ConfFiles;
use super::places::Caller;
use crate::disk::bounded::{self, Cap};

/// Where to look for others that use the same images.
#[derive(Debug, Clone)]
pub(crate) struct OtherUsers {
    /// The host's users: `/etc/passwd`.
    pub(crate) passwd: PathBuf,
    /// The host's processes: `/proc`.
    pub(crate) proc: PathBuf,
}

impl Default for OtherUsers {
    fn default() -> Self {
        Self { passwd: "/etc/passwd".into(), proc: "/proc".into() }
    }
}

impl OtherUsers {
    /// The graph roots of the host's users, as far as they are there. A sentence for each file that might name more of them
    /// and cannot be read goes to `warnings`.
    pub(crate) fn graph_roots(&self, warnings: &mut Vec<String>) -> BTreeSet<PathBuf> {
        let text = bounded::read(&self.passwd, Cap::List).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let (mut roots, mut unread) = (BTreeSet::new(), Vec::new());
        for line in text.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, uid, _, _, home, ..] = fields[..] else { continue };
            let Ok(uid) = uid.parse() else { continue };
            if !home.starts_with('/') {
                continue;
            }
            roots.insert(Path::new(home).join(".local/share/containers/storage"));
            // Another user's Podman is not asked: what any file says that may count for it is a root, which only keeps more.
            let caller = Caller { uid, home: Some(home.into()), ..Caller::default() };
            roots.extend(ConfFiles { system: Path::new("/"), caller: &caller }.graph_roots(&mut unread));
        }
        // Those of the system are read for each user.
        let unread: BTreeSet<String> = unread.iter().map(ToString::to_string).collect();
        warnings
            .extend(unread.iter().map(|error| format!("where a user of this host has images is not known: {error}")));
        roots.extend(fs::canonicalize("/var/lib/containers/storage").ok());
        roots.into_iter().filter_map(|root| fs::canonicalize(root).ok()).collect()
    }

    /// The home directories of the host's users but root's.
    pub(crate) fn homes(&self) -> Vec<PathBuf> {
        let text = bounded::read(&self.passwd, Cap::List).unwrap_or_default();
        let home = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, uid, _, _, home, ..] = fields[..] else { return None };
            (uid != "0" && home.starts_with('/')).then(|| PathBuf::from(home))
        };
        String::from_utf8_lossy(&text).lines().filter_map(home).collect()
    }

    /// What overlay mounts name as their layers: link names (26 letters and digits) and layer IDs.
    #[must_use]
    pub(crate) fn mounted(&self) -> BTreeSet<String> {
        let (mut names, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let processes = fs::read_dir(&self.proc).into_iter().flatten().flatten();
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        for process in processes.filter(|entry| entry.file_name().to_str().is_some_and(is_process)) {
            let process = process.path();
            let arguments = bounded::read(&process.join("cmdline"), Cap::List).unwrap_or_default();
            if arguments.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"fuse-overlayfs")) {
                layers_in(&String::from_utf8_lossy(&arguments), &mut names);
            }
            // Processes that share their mounts have the same list.
            let namespace = fs::read_link(process.join("ns/mnt")).ok();
            if namespace.is_none_or(|namespace| seen.insert(namespace)) {
                let mounts = bounded::read(&process.join("mountinfo"), Cap::List).unwrap_or_default();
                for line in String::from_utf8_lossy(&mounts).lines().filter(|line| line.contains("overlay")) {
                    layers_in(line, &mut names);
                }
            }
        }
        names
    }
}

/// Everything between separators that a layer may be called.
pub(crate) fn layers_in(text: &str, names: &mut BTreeSet<String>) {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_name = |word: &&str| {
        let link = word.len() == 26 && word.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'));
        link || (word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    names.extend(words.filter(is_name).map(str::to_owned));
}
