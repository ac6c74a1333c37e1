//! Files of a user that belong to another one: mostly root's, after a command with sudo. Podman and windlass fail there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{CheckState, HostCheck};
use crate::podman::storage::places::{Caller, Places};
use crate::sh;

/// The first such file in each folder of the user: Podman's storage (of a rootless one; where it is by default, if Podman cannot
/// say), and what windlass keeps.
pub(super) fn owner(places: Option<&Places>, caller: &Caller) -> Vec<HostCheck> {
    if caller.uid == 0 {
        return Vec::new();
    }
    let below = |variable: &str, default: &str, name: &str| {
        let set = caller.variables.get(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        Some(set.or_else(|| Some(caller.home.as_ref()?.join(default)))?.join(name))
    };
    let storage = match places {
        Some(places) => Some(places.graph_root.clone()).filter(|_| places.rootless),
        None => below("XDG_DATA_HOME", ".local/share", "containers/storage"),
    };
    let cache = below("XDG_CACHE_HOME", ".cache", "windlass");
    let state = below("XDG_STATE_HOME", ".local/state", "windlass");
    [storage, cache, state].into_iter().flatten().filter_map(|folder| check(&folder, caller.uid)).collect()
}

/// The folder itself and two levels of what is in it: what a command makes as another user begins there.
fn check(folder: &Path, user: u32) -> Option<HostCheck> {
    let inside = |folder: &PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let first: Vec<PathBuf> = inside(&folder.to_owned()).collect();
    let mut paths: Vec<PathBuf> = first.iter().flat_map(inside).chain(first.iter().cloned()).collect();
    paths.push(folder.to_owned());
    paths.sort();
    let owner = |path: &PathBuf| fs::symlink_metadata(path).ok().map(|metadata| metadata.uid());
    // What a container of this user owns has a number of its range, and lies deeper.
    let (path, uid) = paths.iter().find_map(|path| Some((path, owner(path).filter(|uid| *uid != user)?)))?;
    let message = format!("{} belongs to user {uid}, not to user {user}", path.display());
    let fix = format!("`sudo chown -R {user}: {}`", sh::word(&path.to_string_lossy()));
    Some(HostCheck::new("owner", CheckState::Problem, message, fix))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_others_own_among_a_users_files_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["storage/overlay", "cache/windlass/blobs", "home/.local/state/windlass"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        let own = fs::metadata(path("storage")).unwrap().uid();
        let look = |uid, rootless| {
            let places = Places {
                graph_root: path("storage"),
                run_root: "/r".into(),
                driver: "overlay".to_owned(),
                image_stores: Vec::new(),
                separate_store: None,
                driver_options: BTreeMap::new(),
                temporary: None,
                conf: None,
                rootless,
            };
            let variables = [("XDG_CACHE_HOME".to_owned(), path("cache").display().to_string())].into();
            let found = owner(Some(&places), &Caller { uid, home: Some(path("home")), variables });
            found.into_iter().map(|check| (check.message, check.fix.unwrap())).collect::<Vec<_>>()
        };
        let user = own + 1;
        let said = |name: &str| {
            let path = path(name).display().to_string();
            let message = format!("{path} belongs to user {own}, not to user {user}");
            (message, format!("`sudo chown -R {user}: {path}`"))
        };
        let kept = [said("cache/windlass"), said("home/.local/state/windlass")];
        assert_eq!(look(user, true), [&[said("storage")], &kept[..]].concat());
        assert_eq!(look(user, false), kept);
        assert_eq!(look(0, false), []);
        // Podman may fail because of them.
        fs::create_dir_all(path("home/.local/share/containers/storage")).unwrap();
        let caller = Caller { uid: user, home: Some(path("home")), ..Caller::default() };
        let unknown: Vec<String> = owner(None, &caller).into_iter().map(|check| check.message).collect();
        assert_eq!(unknown, [said("home/.local/share/containers/storage").0, said("home/.local/state/windlass").0]);
        if own != 0 {
            assert_eq!(look(own, true), []);
        }
    }
}
