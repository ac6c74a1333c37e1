//! Cleaning up: what goes, what stays and why, and what is never touched.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use windlass::internals::disk::served::ServedPlace;

use crate::env::{Env, run_ok};
use crate::lab::Lab;

/// Everything below a folder with its size, time and inode.
fn state(lab: &Lab) -> Vec<String> {
    let mut state = Vec::new();
    for path in lab.env.tree() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let (time, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        state.push(format!("{} {} {time}.{nanoseconds} {}", path.display(), metadata.len(), metadata.ino()));
    }
    state
}

/// Bytes on the disk of all that is below a folder, each file once.
fn bytes(folder: &Path) -> u64 {
    let said = run_ok(Command::new("find").arg(folder).args(["-printf", "%i %b\\n"]));
    let files: BTreeSet<&str> = said.lines().collect();
    files.iter().map(|file| file.split_once(' ').unwrap().1.parse::<u64>().unwrap() * 512).sum()
}

/// The names of what was, or would be, removed.
fn gone(report: &Value) -> Vec<&str> {
    report["remove"].as_array().unwrap().iter().map(|removal| removal["name"].as_str().unwrap()).collect()
}

fn why(report: &Value, name: &str) -> String {
    let keep = report["keep"].as_array().unwrap();
    let kept = keep.iter().find(|kept| kept["name"].as_str().unwrap().contains(name));
    kept.unwrap_or_else(|| panic!("{name} is not kept: {report:#}"))["why"].as_str().unwrap().to_owned()
}

/// The tag of a reference, which is in the names of the report.
fn tag(reference: &str) -> &str {
    reference.rsplit_once(':').unwrap().1
}

#[test]
fn a_dry_run_says_all_and_changes_nothing() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let references: Vec<String> = (1..=5).map(|version| lab.load(version, 300_000)).collect();
        let before = state(&lab);
        let told = lab.ok(&["gc"]);
        let report = lab.json(&["gc"]);
        assert_eq!(state(&lab), before);
        let image = |n: usize| format!("image app ({})", tag(&references[n]));
        assert_eq!(gone(&report), [&image(0), &image(1), "generation 1", "generation 2"]);
        assert_eq!(why(&report, &image(4)), "generation 5 (current)");
        assert_eq!(why(&report, "generation 3"), "one of the last 3");
        assert!(told.contains(&format!("keep {}: generation 4\n", image(3))), "{told}");
        assert!(told.contains("not ours: 0 images, 0 B\n"), "{told}");
        let last = told.lines().last().unwrap();
        assert!(
            last.starts_with("would remove 2 images, 2 generations, 0 containers, 0 leftovers; would free "),
            "{last}"
        );
        assert!(last.ends_with("; nothing was changed, --apply does it"), "{last}");

        // What it says is what happens.
        let places = [lab.graph_root(), lab.env.path("storage")];
        let size = || places.iter().filter(|path| path.is_dir()).map(|path| bytes(path)).sum::<u64>();
        let full = size();
        let applied = lab.json(&["gc", "--apply"]);
        assert_eq!((gone(&applied), &applied["bytes"]), (gone(&report), &report["bytes"]));
        let (said, freed) = (report["bytes"].as_u64().unwrap(), full - size());
        let nix = report["collectable"].as_u64().unwrap();
        assert!(freed.abs_diff(said + nix) * 100 <= freed, "said {said} and {nix}, freed {freed}");
        // In whole blocks.
        assert_eq!(nix, if linked { 2 * 303_104 } else { 0 });
        assert_eq!(gone(&lab.json(&["gc"])), [""; 0]);
        assert!((0..5).all(|n| lab.has(&references[n]) == (n >= 2)));
    }
}

#[test]
fn what_containers_use_stays_running_or_not_and_mounted_too() {
    let lab = Lab::new(false);
    let references: Vec<String> = (1..=8).map(|version| lab.load(version, 1000)).collect();
    let [running, created, exited, mounted, was_mounted, unused, named, current] = &references[..] else { panic!() };
    lab.podman(&["volume", "create", "data"]);
    lab.start(
        "running",
        running,
        &["--volume", "data:/data", "--mount", &format!("type=image,source={mounted},destination=/m")],
    );
    lab.podman(&["create", "--name", "created", "--pull=never", created]);
    lab.podman(&[
        "create",
        "--name",
        "mounting",
        "--mount",
        &format!("type=image,source={was_mounted},destination=/m"),
        current,
    ]);
    lab.start("exited", exited, &[]);
    lab.podman(&["stop", "--time", "0", "exited"]);
    // A user's own name for one of ours, and a user's own image.
    lab.podman(&["tag", named, "example.com/mine:1"]);
    let tar = lab.env.write("mine.tar", "");
    run_ok(Command::new("tar").args(["-cf"]).arg(&tar).arg("--files-from=/dev/null"));
    lab.podman(&["import", tar.to_str().unwrap(), "example.com/theirs:1"]);

    let report = lab.json(&["gc", "--apply", "--keep-generations", "1"]);
    assert_eq!(why(&report, tag(running)), "generation 1");
    assert_eq!(why(&report, "generation 1"), format!("image app ({}) is used by container running", tag(running)));
    assert!(why(&report, "generation 2").ends_with("is used by container created"));
    assert!(why(&report, "generation 3").ends_with("is used by container exited"));
    assert!(why(&report, "generation 4").ends_with("is used by container running, which mounts it"));
    assert!(why(&report, "generation 5").ends_with("is used by container mounting, which mounts it"));
    let ours = format!("our names of image app ({}), which is called example.com/mine:1 too", tag(named));
    assert_eq!(gone(&report), [&format!("image app ({})", tag(unused)), &ours, "generation 6", "generation 7"]);
    assert_eq!(report["notOurs"]["images"], 1);
    for kept in [running, created, exited, mounted, was_mounted, current] {
        assert!(lab.has(kept), "{kept}");
    }
    assert!(!lab.has(unused) && !lab.has(named) && lab.has("example.com/mine:1") && lab.has("example.com/theirs:1"));
    lab.podman(&["volume", "inspect", "data"]);
    lab.podman(&["start", "created", "mounting", "exited"]);
    lab.podman(&["exec", "running", "/bin/busybox", "true"]);

    // No clean-up, however hard, stops a container or takes a volume.
    lab.podman(&["stop", "--time", "0", "created", "exited"]);
    let (code, sentence) = lab.fails(&["gc", "--aggressive", "--apply"]);
    assert_eq!((code, sentence.contains("add --yes")), (2, true), "{sentence}");
    let report = lab.json(&["gc", "--aggressive", "--apply", "--yes"]);
    let removed = gone(&report);
    assert_eq!(&removed[..2], ["container created", "container exited"], "{removed:?}");
    assert!(lab.has(running) && lab.has(mounted) && lab.has(was_mounted) && lab.has(current));
    assert!(!lab.has(created) && !lab.has(exited));
    let names = lab.podman(&["ps", "--all", "--format", "{{.Names}}"]);
    assert_eq!(names.lines().collect::<BTreeSet<_>>(), ["mounting", "running"].into());
    lab.podman(&["volume", "inspect", "data"]);
    assert!(lab.has("example.com/mine:1") && lab.has("example.com/theirs:1"));
}

#[test]
fn the_linked_store_is_used_by_others_too() {
    let lab = Lab::new(true);
    let references: Vec<String> = (1..=8).map(|version| lab.load(version, 1000)).collect();
    let [running, created, theirs, tagged, mounted, loaded, unused, current] = &references[..] else { panic!() };
    lab.start("running", running, &[]);
    lab.podman(&["create", "--name", "created", "--pull=never", created]);
    lab.podman(&["tag", tagged, "example.com/mine:1"]);

    // Another user's Podman with a stopped container, and one more graph root that loads the same.
    let home = lab.env.path("home");
    let root = home.join(".local/share/containers/storage");
    let conf = |root: &Path| {
        let text = fs::read_to_string(lab.env.path("podman/storage.conf")).unwrap();
        text.replace(lab.graph_root().to_str().unwrap(), root.to_str().unwrap())
    };
    let other = |root: &Path, name: &str, program: &str, arguments: &[&str]| {
        fs::create_dir_all(root).unwrap();
        let conf = lab.env.write(name, conf(root));
        run_ok(lab.command(program).args(arguments).env("CONTAINERS_STORAGE_CONF", conf))
    };
    other(&root, "home.conf", "podman", &["create", "--name", "theirs", "--pull=never", theirs]);
    let noted = lab.env.path("noted");
    fs::create_dir(lab.env.path("loaded")).unwrap();
    other(&noted, "noted.conf", env!("CARGO_BIN_EXE_windlass"), &["load", "app-6"]);
    // And one that an unknown container mounts.
    let id = lab.podman(&["image", "inspect", "--format", "{{.Id}}", mounted]);
    let images: Value =
        serde_json::from_slice(&fs::read(lab.storage().join("overlay-images/images.json")).unwrap()).unwrap();
    let image = images.as_array().unwrap().iter().find(|image| image["id"] == id.trim()).unwrap();
    let layer = image["layer"].as_str().unwrap();
    let link = fs::read_to_string(lab.storage().join("overlay").join(layer).join("link")).unwrap();
    let lower = lab.storage().join("overlay/l").join(link.trim());
    for name in ["merged", "lower"] {
        fs::create_dir(lab.env.path(name)).unwrap();
    }
    let options = format!("lowerdir={}:{}", lower.display(), lab.env.path("lower").display());
    run_ok(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(lab.env.path("merged")));

    // In a mount namespace with users of its own.
    let passwd =
        lab.env.write("passwd", format!("root:x:0:0::/root:/bin/sh\nher:x:1001:1001::{}:/bin/sh\n", home.display()));
    let gc = |arguments: &[&str]| -> Value {
        let mut command = lab.command("unshare");
        let script = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
        command.args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"]).arg(&passwd);
        command.arg(env!("CARGO_BIN_EXE_windlass")).args(["gc", "--json", "--keep-generations", "1"]).args(arguments);
        serde_json::from_str(&run_ok(&mut command)).unwrap()
    };
    let report = gc(&["--apply"]);
    run_ok(Command::new("umount").arg(lab.env.path("merged")));
    assert!(why(&report, "generation 1").ends_with("is used by container running"));
    assert!(why(&report, "generation 2").ends_with("is used by container created"));
    assert!(why(&report, "generation 3").contains("is used by container theirs of /"), "{report:#}");
    assert!(why(&report, "generation 4").contains("is used by image example.com/mine:1 of /"), "{report:#}");
    assert!(why(&report, "generation 5").ends_with("is used by a mount"));
    assert!(why(&report, tag(loaded)).starts_with("generation 1 of /"));
    assert_eq!(gone(&report), [&format!("image app ({})", tag(unused)), "generation 6", "generation 7"]);
    for kept in [running, created, theirs, tagged, mounted, loaded, current] {
        assert!(lab.has(kept), "{kept}");
    }
    assert!(!lab.has(unused));
    lab.podman(&["exec", "running", "/bin/busybox", "ls", "/bin"]);

    // All of them gone, all of it goes.
    lab.podman(&["rm", "--force", "--all", "--time", "0"]);
    lab.podman(&["rmi", "example.com/mine:1"]);
    fs::remove_dir_all(&home).unwrap();
    drop(Command::new("umount").arg("--lazy").arg(noted.join("overlay")).output());
    fs::remove_dir_all(&noted).unwrap();
    gc(&["--apply"]);
    let images: Value =
        serde_json::from_slice(&fs::read(lab.storage().join("overlay-images/images.json")).unwrap()).unwrap();
    assert_eq!(images.as_array().unwrap().len(), 1);
    assert!(lab.has(current));
    assert_eq!(fs::read_dir(lab.storage().join("users")).unwrap().count(), 1, "who is gone has no note");
}

#[test]
fn twenty_versions_with_a_clean_up_each_take_no_more_than_three() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let size = || bytes(&lab.graph_root()) + if linked { bytes(&lab.storage()) } else { 0 };
        let mut sizes = Vec::new();
        for version in 1..=20 {
            lab.load(version, 200_000);
            lab.ok(&["gc", "--apply"]);
            sizes.push(size());
        }
        let (fourth, last) = (sizes[3], sizes[19]);
        assert!(last.abs_diff(fourth) < 50_000, "{sizes:?}");
        assert_eq!(lab.json(&["generations"])["generations"].as_array().unwrap().len(), 3);
        assert_eq!(lab.podman(&["images", "--quiet"]).lines().count(), 3);
    }
}

#[test]
fn classes_are_chosen_and_leftovers_are_swept() {
    let lab = Lab::new(true);
    (1..=5).for_each(|version| drop(lab.load(version, 1000)));
    let root = lab.graph_root();
    let leftovers = [
        root.join(".pull.windlass-99999999/blob"),
        root.join("windlass/generations/.7.windlass-99999999/generation.json"),
        root.join("windlass/generations/.2.removed/generation.json"),
        lab.storage().join("new/abc/diff/file"),
        lab.storage().join("overlay/abc/diff/file"),
    ];
    for path in &leftovers {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, [b'x'; 1000]).unwrap();
    }
    let (generations, storage) = (root.join("windlass/generations"), lab.storage());
    let folders = [
        root.join(".pull.windlass-99999999"),
        generations.join(".7.windlass-99999999"),
        generations.join(".2.removed"),
        storage.join("new/abc"),
        storage.join("overlay/abc"),
    ];
    let freed = windlass::internals::disk::size::size(folders.iter().map(|folder| bytes(folder)).sum());
    let told = lab.ok(&["gc", "--apply", "--only", "temp"]);
    assert!(told.starts_with("Cleaning up temporary build artifacts only…\nremoved "), "{told}");
    assert!(told.contains("\nCleaned temporary artifacts, preserved base images\n"), "{told}");
    let last = format!("removed 0 images, 0 generations, 0 containers, 5 leftovers; freed {freed}\n");
    assert!(told.ends_with(&last), "{told}");
    assert!(leftovers.iter().all(|path| !path.exists()));
    // A generation says what is ours, so it does not go before its images where only it knows them.
    let pulled = Lab::new(false);
    (1..=5).for_each(|version| drop(pulled.load(version, 1000)));
    let report = pulled.json(&["gc", "--only", "generations"]);
    assert_eq!(gone(&report), [""; 0]);
    assert!(why(&report, "generation 1").ends_with("is in Podman, and images were not asked for"));
    assert_eq!(gone(&lab.json(&["gc", "--only", "generations"])), ["generation 1", "generation 2"]);
    lab.ok(&["gc", "--only", "generations", "--apply"]);
    assert_eq!(gone(&lab.json(&["gc", "--only", "images", "--apply"])).len(), 2, "those without an owner");
    assert_eq!(lab.podman(&["images", "--quiet"]).lines().count(), 3);
    // Going back leaves the current one behind the last ones.
    lab.ok(&["rollback", "3"]);
    let report = lab.json(&["gc", "--keep-generations", "1"]);
    assert_eq!(why(&report, "generation 3"), "current");
    assert_eq!(why(&report, "generation 5"), "one of the last 1");
}

#[test]
fn watermarks_remove_the_oldest_until_it_is_enough() {
    let env = Env::new();
    let disk = env.mount("disk", "tmpfs", 64 << 20);
    let lab = Lab::at(env, disk.0.join("podman"), false);
    // Each takes a little more than eight percent, in place.
    for version in 1..=4 {
        lab.load(version, 3_600_000);
    }
    let idle = lab.ok(&["gc", "--apply", "--above", "85%"]);
    assert!(idle.contains("% in use, not above 85%; nothing to remove"), "{idle}");
    for version in 5..=6 {
        lab.load(version, 3_600_000);
    }
    let (code, sentence) = lab.fails(&["gc", "--above", "50%", "--down-to", "60%"]);
    assert_eq!((code, sentence.as_str()), (2, "windlass: --down-to 60% is more than --above 50%; give less\n"));
    let report = lab.json(&["gc", "--apply", "--above", "45%", "--down-to", "40%"]);
    let generations = lab.json(&["generations"])["generations"].clone();
    let left: Vec<u64> = generations.as_array().unwrap().iter().map(|row| row["number"].as_u64().unwrap()).collect();
    assert_eq!(left, [3, 4, 5, 6], "{report:#}");
    let stat = percent(&disk.0);
    assert!(stat <= 40, "{stat}");
    // Never the current one, and never below one.
    lab.ok(&["gc", "--apply", "--above", "1%", "--down-to", "0%"]);
    assert_eq!(lab.podman(&["images", "--quiet"]).lines().count(), 1);

    // What does not fit is refused, with what a clean-up would free.
    lab.load(7, 12_000_000);
    lab.load(8, 9_000_000);
    lab.load(9, 1000);
    lab.load(10, 1000);
    lab.load(11, 1000);
    lab.build("big", 1, 45_000_000);
    let (code, sentence) = lab.fails(&["load", "big-1"]);
    assert_eq!(code, 5, "{sentence}");
    assert!(sentence.contains("\nhint: `windlass gc --apply` would free "), "{sentence}");
    lab.build("huge", 1, 60_000_000);
    let (code, sentence) = lab.fails(&["load", "huge-1"]);
    assert_eq!(code, 5, "{sentence}");
    // The layer, and what Podman copies of the one that it has; without /dev/fuse the program's copy of it and the blob too.
    let needed = if ServedPlace::is_possible() { "64." } else { "186." };
    assert!(sentence.contains(&format!("\nwindlass: loading needs {needed}")), "{sentence}");
    assert!(sentence.contains("\nhint: `windlass gc --apply` would free "), "{sentence}");
    drop(lab);
    drop(disk);
}

/// How full a file system is, as df says it.
fn percent(path: &Path) -> u64 {
    let said = run_ok(Command::new("df").args(["--output=pcent"]).arg(path));
    said.lines().last().unwrap().trim().trim_end_matches('%').parse().unwrap()
}

#[test]
fn a_killed_clean_up_is_finished_by_the_next() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let mut version = 0;
        for round in 0..6_u64 {
            for _ in 0..4 {
                version += 1;
                lab.load(version, 1000);
            }
            let start = Instant::now();
            let mut child = lab.windlass(&["gc", "--apply"]).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(round * if linked { 7 } else { 90 }));
            child.kill().unwrap();
            child.wait().unwrap();
            let killed = start.elapsed();
            lab.wait_for_podman();
            // Podman works, and the current images are there.
            assert_ne!(lab.podman(&["images", "--quiet"]), "", "killed after {killed:?}");
            lab.ok(&["gc", "--apply"]);
            assert_eq!(gone(&lab.json(&["gc"])), [""; 0], "killed after {killed:?}");
            assert_eq!(lab.podman(&["images", "--quiet"]).lines().count(), 3, "killed after {killed:?}");
            assert_eq!(
                lab.json(&["generations"])["generations"].as_array().unwrap().len(),
                3,
                "killed after {killed:?}"
            );
            assert!(lab.ok(&["load", "app"]).contains("0 loaded, 1 present"));
        }
    }
}

#[test]
fn generations_that_cannot_be_looked_at_now_are_not_gone() {
    let lab = Lab::new(true);
    lab.load(1, 1000);
    let looping = lab.env.path("loop");
    std::os::unix::fs::symlink(&looping, &looping).unwrap();
    let store = windlass::internals::podman::linked::LinkedStore::open(&lab.storage()).unwrap();
    store.note_user(&looping.join("windlass")).unwrap();
    let (code, said) = lab.fails(&["gc", "--apply", "--keep-generations", "0"]);
    assert_eq!((code, said.contains("open $T/loop/windlass: ")), (1, true), "{said}");
    assert_eq!(store.users().unwrap().len(), 2);
    // Nor does a pipe keep anybody waiting.
    std::fs::remove_file(&looping).unwrap();
    std::fs::create_dir_all(looping.join("windlass/generations/1")).unwrap();
    run_ok(Command::new("mkfifo").arg(looping.join("windlass/generations/1/generation.json")));
    let (code, said) = lab.fails(&["gc"]);
    assert_eq!((code, said.contains("it is not a file")), (1, true), "{said}");
}
