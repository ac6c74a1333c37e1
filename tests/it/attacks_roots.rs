//! What another user of the host does to windlass' own folder in a graph root, done by such a user.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::attacks::Attack;
use crate::engine::Podman;

/// Swaps a folder and a link to another, for ever.
const SWAP: &str = r#"
import ctypes, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
name = sys.argv[3].encode()
os.symlink(sys.argv[2], "link")
libc.renameat2(-100, name, -100, b"link", 2)
print("ready", flush=True)
while True:
    libc.renameat2(-100, name, -100, b"link", 2)
"#;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn load(podman: &Podman, round: usize) -> crate::engine::Said {
    let spec =
        json!({ "kind": "image", "name": "app", "tag": "1", "content": { "texts": { "/x": round.to_string() } } });
    let app = podman.build(&format!("app-{round}"), &spec);
    podman.load(&app, &["--via", "store"])
}

#[test]
fn what_is_swapped_in_a_graph_root_leads_root_nowhere() {
    let podman = Podman::linked();
    let root = podman.places().graph_root;
    let victim = podman.env.path("victim");
    for name in ["generations", "models", "1", "images"] {
        fs::create_dir_all(victim.join(name)).unwrap();
    }
    set_mode(&victim, 0o700);
    let there = || {
        let mut names: Vec<_> =
            walkdir(&victim).into_iter().map(|path| path.strip_prefix(&victim).unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let before = there();
    for path in [podman.env.path(""), podman.env.path("podman"), root.clone()] {
        set_mode(&path, 0o755);
    }
    load(&podman, 0).last();
    let state = root.join("windlass");
    // As an older windlass left the folder under a umask of 0, and one of root's loads after another.
    for (round, name) in ["generations", "lock", "current", "generations", "generations"].iter().enumerate() {
        set_mode(&state, 0o777);
        let attack = Attack::start(SWAP, &[state.as_os_str(), victim.as_os_str(), OsStr::new(name)]);
        let said = load(&podman, round + 1);
        if said.code != 0 {
            assert!(said.stderr.contains("none is followed here"), "{name}: {said:?}");
        }
        drop(attack);
        assert_eq!(there(), before, "{name}");
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o755, "it is closed");
        // Whichever of the two has the name now.
        if fs::symlink_metadata(state.join(name)).unwrap().is_symlink() {
            fs::remove_file(state.join(name)).unwrap();
            fs::rename(state.join("link"), state.join(name)).unwrap();
        } else {
            fs::remove_file(state.join("link")).unwrap();
        }
    }
    load(&podman, 9).last();
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));

    // A graph root that others can write to is not used, and says so before anything is written.
    set_mode(&root, 0o777);
    let attack = Attack::start(SWAP, &[root.as_os_str(), victim.as_os_str(), OsStr::new("windlass")]);
    for round in 10..13 {
        let said = load(&podman, round);
        assert!(said.code != 0 && said.stderr.contains("podman/root"), "{said:?}");
        assert!(
            said.stderr.contains("users other than 0 can write to it (mode 0777)")
                || said.stderr.contains("none is followed here"),
            "{said:?}"
        );
        assert_eq!(there(), before);
    }
    drop(attack);
    set_mode(&root, 0o755);
    if fs::symlink_metadata(&state).unwrap().is_symlink() {
        fs::remove_file(&state).unwrap();
        fs::rename(root.join("link"), &state).unwrap();
    } else {
        fs::remove_file(root.join("link")).unwrap();
    }
    load(&podman, 14).last();

    // One that another user has put there whole.
    fs::rename(&state, root.join("aside")).unwrap();
    fs::create_dir_all(state.join("generations/7")).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    for verb in [&["status"][..], &["generations"], &["gc"], &["rollback"]] {
        let said = podman.said(verb);
        let all = format!("{}{}", said.stdout, said.stderr);
        assert!(said.code != 0 && all.contains("windlass: it belongs to user 65534"), "{verb:?} {said:?}");
    }
    fs::remove_dir_all(&state).unwrap();
    symlink(root.join("aside"), &state).unwrap();
    let said = podman.said(&["generations"]);
    assert!(said.code != 0 && said.stderr.contains("windlass: it is a link"), "{said:?}");
}

/// Everything below a directory.
fn walkdir(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(walkdir(&path));
        }
        all.push(path);
    }
    all
}

/// `verify --full` reads trees and records of a store; where a link lies in their place, it is not followed, and says so.
#[test]
fn verify_opens_no_tree_through_a_link() {
    let podman = Podman::linked();
    load(&podman, 1).last();
    let storage = podman.home("storage");
    let trees = fs::read_dir(storage.join("overlay")).unwrap().map(|entry| entry.unwrap().path());
    let tree = trees.filter(|path| path.join("diff/x").is_file()).map(|path| path.join("diff")).next().unwrap();
    let copy = podman.env.path("copy");
    fs::rename(&tree, &copy).unwrap();
    symlink(&copy, &tree).unwrap();
    for arguments in [&["verify"][..], &["verify", "--full"]] {
        let said = podman.said(arguments);
        assert!(said.code == 4 && said.stdout.contains("none is followed here"), "{arguments:?} {said:?}");
    }
    fs::remove_file(&tree).unwrap();
    fs::rename(&copy, &tree).unwrap();
    let secret = podman.env.write("secret", "root's alone");
    let link = tree.parent().unwrap().join("link");
    fs::remove_file(&link).unwrap();
    symlink(secret, &link).unwrap();
    let said = podman.said(&["verify"]);
    assert!(said.code == 4 && !said.stdout.contains("root's alone"), "{said:?}");
    assert!(said.stdout.contains("cannot be read: it is a link, and none is followed here"), "{said:?}");
}
