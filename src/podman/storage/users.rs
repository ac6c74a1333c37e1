//! Other users of the host, whose Podman must go on working when root changes what all of them read.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::ask::{ask_as, on_path};
use super::places::{Caller, Overrides, Places, PlacesError};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::engine::process;

/// How many users are asked at most: they stand for the others, who read the same files.
const MOST: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// A user who has numbers for a rootless Podman.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootlessUser {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

/// Some users with subordinate IDs; first those who have used Podman.
pub(crate) fn rootless(system: &Path) -> Vec<RootlessUser> {
    let read = |name: &str| bounded::read(&system.join("etc").join(name), Cap::List).unwrap_or_default();
    let (passwd, subuid) = (read("passwd"), read("subuid"));
    let (passwd, subuid) = (String::from_utf8_lossy(&passwd), String::from_utf8_lossy(&subuid));
    let owners: Vec<&str> = subuid.lines().filter_map(|line| line.split(':').next()).collect();
    let user = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let user =
            RootlessUser { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() };
        let has_ids = owners.contains(&name) || owners.contains(&uid);
        (has_ids && user.uid != 0 && user.home.is_absolute() && user.home.is_dir()).then_some(user)
    };
    let mut users: Vec<RootlessUser> = passwd.lines().filter_map(user).collect();
    users.sort_by_key(|user| (!user.home.join(".local/share/containers").is_dir(), user.uid));
    users.truncate(MOST);
    users
}

impl RootlessUser {
    /// What this user's Podman answers, asked as that user, who is not logged in. Only root can ask so.
    pub(crate) fn ask(&self, path: &str, progress: &Progress) -> Result<Places, PlacesError> {
        let home = self.home.display().to_string();
        let mut variables = vec![("PATH", path), ("HOME", &home), ("USER", &self.name), ("LOGNAME", &self.name)];
        variables.push(("PODMAN_IGNORE_CGROUPSV1_WARNING", "1"));
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let caller = Caller { uid: self.uid, home: Some(self.home.clone()), variables };
        ask_aside(caller, Some((self.uid, self.gid)), progress)
    }
}

/// Whether the Podman of this rootless user can have its images on overlay.
pub(crate) fn takes_overlay(caller: &Caller, progress: &Progress) -> bool {
    let mut caller = caller.clone();
    caller.variables.insert("STORAGE_DRIVER".to_owned(), "overlay".to_owned());
    ask_aside(caller, None, progress).is_ok_and(|places| places.driver == "overlay")
}

/// Asks a rootless Podman with images and run-time files in a folder of their own that goes again, so that it changes nothing
/// of the user's; as that user, for root.
fn ask_aside(mut caller: Caller, user: Option<(u32, u32)>, progress: &Progress) -> Result<Places, PlacesError> {
    let start = |source| PlacesError::Start { program: "podman".into(), source };
    // A short name where the user can reach it, whatever root's TMPDIR is.
    let folder = tempfile::Builder::new().prefix("windlass-").tempdir_in("/tmp").map_err(start)?;
    let own = |path: &Path| user.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid))).map_err(start);
    own(folder.path())?;
    let mut private = vec![("XDG_DATA_HOME", "data"), ("XDG_RUNTIME_DIR", "run"), ("XDG_CACHE_HOME", "cache")];
    // Podman would make it.
    if caller.home.as_ref().is_some_and(|home| !home.join(".config").is_dir()) {
        private.push(("XDG_CONFIG_HOME", "config"));
    }
    for (name, directory) in private {
        if name == "XDG_CONFIG_HOME" && caller.variables.contains_key(name) {
            continue;
        }
        let directory = folder.path().join(directory);
        fs::DirBuilder::new().mode(0o700).create(&directory).map_err(start)?;
        own(&directory)?;
        caller.variables.insert(name.to_owned(), directory.display().to_string());
    }
    let program = on_path(&caller, "podman").ok_or(PlacesError::NoPodman)?;
    let become_user = |command: &mut Command| {
        command.current_dir("/");
        if let Some((uid, gid)) = user {
            // From root the standard library drops root's other groups too.
            command.uid(uid).gid(gid);
        }
    };
    let answer = ask_as(&caller, &Overrides::default(), &program, become_user, progress, LIMIT);
    // A rootless Podman leaves a process that holds its user namespace.
    let mut end = Command::new(&program);
    end.args(["system", "migrate"]).env_clear().envs(&caller.variables);
    become_user(&mut end);
    drop(process::run_within("podman", &mut end, progress, Some(LIMIT)));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_with_numbers_and_a_home_are_found_and_those_who_use_podman_first() {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path();
        fs::create_dir_all(system.join("etc")).unwrap();
        let home = |name: &str| system.join(name).display().to_string();
        for name in ["a", "b/.local/share/containers", "c", "root"] {
            fs::create_dir_all(system.join(name)).unwrap();
        }
        let line = |name: &str, uid: u32| format!("{name}:x:{uid}:{uid}::{}:/bin/sh\n", home(name));
        let passwd = [line("root", 0), line("a", 1000), line("b", 1001), line("c", 1002), line("gone", 1003)].concat();
        fs::write(system.join("etc/passwd"), passwd + "torn:line\n").unwrap();
        assert_eq!(rootless(system), []);
        fs::write(system.join("etc/subuid"), "root:1:9\na:100000:65536\n1001:200000:65536\ngone:1:1\n").unwrap();
        let names: Vec<String> = rootless(system).into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["b", "a"]);
    }
}
