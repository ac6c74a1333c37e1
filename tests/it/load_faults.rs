//! `windlass load` when things go wrong: kills, full disks, files that changed, locks, others at work, and lies.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use serde_json::{Value, json};
use windlass::internals::disk::progress::Progress;
use windlass::internals::disk::size::size as people;
use windlass::internals::engine::generations::Generations;
use windlass::internals::podman::linked::LinkedStore;

use crate::engine::{Podman, Said, text};
use crate::env::{closure, run_ok};
use crate::golden::pattern;
use crate::nix::nix;
use windlass::internals::podman::storage::places::state_of;

const MIB: usize = 1 << 20;

fn json_of(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn generations(podman: &Podman) -> Generations {
    Generations::at(state_of(&podman.places().graph_root))
}

/// Nothing of a load that did not end: in the linked store, in the graph root, and no generation but these.
fn nothing_left(podman: &Podman, numbers: &[u64]) {
    assert_eq!(podman.store().leftovers(&Progress::new()).unwrap(), Vec::<PathBuf>::new());
    let names = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let ours = |names: Vec<String>| names.into_iter().filter(|name| name.contains("windlass-")).collect::<Vec<_>>();
    let (root, folder) = (podman.places().graph_root, generations(podman).folder().to_owned());
    for folder in [&root, &folder, &folder.join("generations")] {
        assert_eq!(ours(names(folder)), Vec::<String>::new(), "{}", folder.display());
    }
    assert_eq!(generations(podman).numbers().unwrap(), numbers);
}

/// Every image that Podman lists is whole: it can be looked into, and a container of the large one runs. Whether that
/// one is there.
fn only_whole_images(podman: &Podman) -> bool {
    let listed = podman.run(&["images", "--format", "{{.Repository}} {{.Id}}"]);
    let ids: Vec<&str> = listed.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert!(listed.contains("localhost/small "), "{listed}");
    podman.run(&[&["image", "inspect"], &ids[..]].concat());
    // Its tag comes last.
    let large = listed.lines().find_map(|line| line.strip_prefix("localhost/large "));
    large.inspect(|id| is_whole(podman, id)).is_some()
}

fn is_whole(podman: &Podman, name: &str) {
    assert_eq!(podman.sh(name, "cat /text /many/many/7/7"), "largelarge 7");
}

/// A large image: the tools, some thousand small files, and a large one.
fn large(podman: &Podman, name: &str, files: usize) -> PathBuf {
    for n in 0..files {
        podman.add(name, &format!("many/{}/{n}", n % 50), format!("{name} {n}"), 0o444);
    }
    let path = podman.add(name, "large", pattern(8 * MIB), 0o444);
    let models = [podman.model("tools", "/", &podman.tools()), podman.model("many", "/many", &path)];
    podman.image(name, &models, &[("/text", name)])
}

fn killed(options: &[&str], files: usize) {
    let podman = Podman::with_nix();
    let small = podman.app("small", "small");
    podman.load(&small, &[]).last();
    let image = large(&podman, "large", files);
    let load = [&["load", image.to_str().unwrap()], options].concat();
    let id = json_of(image.join("image.json"))["platforms"][0]["configDigest"].as_str().unwrap()[7..].to_owned();
    // The kills are spread over what a load takes at most; where it has ended by then, it takes less.
    let (mut kills, mut longest) = (0, Duration::from_secs(1));
    while kills < 20 {
        let mut child = podman.windlass(&load).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not in order: what an early kill leaves meets a late one, and the other way round.
        thread::sleep(longest * (kills * 7 % 20 * 2 + 1) / 40);
        child.kill().unwrap();
        match child.wait().unwrap().success() {
            true => longest = longest * 7 / 8,
            false => kills += 1,
        }
        podman.wait_for_podman();
        if only_whole_images(&podman) {
            // The next one has all to do again, and finds what this one may have left.
            drop(podman.command("podman").args(["rmi", "--force", &id]).output());
            let progress = Progress::new();
            podman.store().change(&progress).unwrap().remove_images(&BTreeSet::from([id.clone()]), &progress).unwrap();
        }
    }
    podman.said(&load).last();
    nothing_left(&podman, &[1, 2]);
    is_whole(&podman, "localhost/large:1");
    // What a killed one has left also goes when Podman has ended its work by then.
    fs::create_dir(podman.places().graph_root.join(".pull.windlass-1")).unwrap();
    let again = podman.said(&load);
    assert_eq!(again.last(), "1 image, 0 models: 0 loaded, 1 present; wrote 0 B; network 0 bytes");
    nothing_left(&podman, &[1, 2]);
}

#[test]
fn a_linked_load_may_be_killed_at_any_moment() {
    killed(&["--via", "store"], 2000);
}

#[test]
fn a_pulled_load_may_be_killed_at_any_moment() {
    killed(&["--via", "podman"], 500);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let podman = Podman::with_nix();
    let model = podman.add("model", "model", pattern(40 * MIB), 0o444);
    let image = podman.image("app", &[podman.model("model", "/models", &model)], &[]);

    // A linked store elsewhere: everything must be copied there.
    let other = Podman::new();
    let small = other.env.mount("small", "ext4", 24 << 20);
    other.link_into(&small.0.join("storage"));
    let nix = podman.home("store");
    let load = |options: &[&str]| {
        let mut command = other.windlass(&[&["load", image.to_str().unwrap()], options].concat());
        Said::of(&command.env("NIX_STORE_DIR", &nix).output().unwrap())
    };
    let refused = load(&[]);
    assert_eq!((refused.code, refused.stdout.as_str()), (5, ""), "{refused:?}");
    let size = json_of(image.join("image.json"))["platforms"][0]["layers"][0]["size"].as_u64().unwrap();
    let place = small.0.join("storage");
    assert!(
        refused.stderr.starts_with(&format!("windlass: loading needs {} in {}, and ", people(size), place.display())),
        "{refused:?}"
    );
    let store = LinkedStore::open(&place).unwrap();
    assert_eq!(store.leftovers(&Progress::new()).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(store.records(&Progress::new()).unwrap().layers.len(), 0);
    assert_eq!(generations(&other).numbers().unwrap(), Vec::<u64>::new());

    // What looks as if it could be linked, and cannot: nothing vouches for it.
    let own = small.0.join("store");
    let path = own.join(crate::env::base_name("writable"));
    crate::golden::put(path.join("file"), pattern(12 * MIB), 0o644);
    let model = json!({ "kind": "model", "name": "writable", "tag": "1", "storeDir": own, "source": path });
    let writable = other.build("writable", &model);
    let mut full = other.windlass(&["load", writable.to_str().unwrap()]);
    let full = Said::of(&full.env("NIX_STORE_DIR", &own).output().unwrap());
    let needed = format!("windlass: loading needs 12.6 MB in {}, and ", place.display());
    assert!(full.code == 5 && full.stderr.starts_with(&needed), "{full:?}");
    assert_eq!(store.leftovers(&Progress::new()).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(generations(&other).current().unwrap(), None);
    fs::remove_dir_all(own).unwrap();
    assert_eq!(other.run(&["images", "--quiet"]), "");

    // A graph root that is too small, and a temporary directory that is full: only the first one matters.
    let root = other.env.mount("graph", "ext4", 40 << 20);
    let graph = root.0.join("root");
    let by_hand = ["--via", "podman", "--root", graph.to_str().unwrap()];
    let refused = load(&by_hand);
    assert_eq!(refused.code, 5, "{refused:?}");
    // The layer; without /dev/fuse the program's copy of it and the blob too.
    let needs = |needed| format!("loading needs {needed} in {}", graph.display());
    let (alone, thrice) = (needs("42.1 MB"), needs("126.0 MB"));
    let more = format!("{thrice} while it works (42.1 MB of them stay), and ");
    assert!([alone + ", and ", more].iter().any(|needed| refused.stderr.contains(needed)), "{refused:?}");
    // Nothing is loaded there that a clean-up would free.
    assert!(refused.stderr.contains(" are free; nothing was changed\n"), "{refused:?}");
    assert!(!refused.stderr.contains("would free"), "{refused:?}");
    let left = fs::read_dir(&graph).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("windlass-")).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());

    // No layer goes through the temporary directory. Where it is full Podman itself cannot even list its images, and what
    // it cannot confirm is taken away again.
    let tmp = podman.env.mount("tmp", "tmpfs", 64 << 10);
    let load = |options: &[&str]| {
        let mut command = podman.windlass(&[&["load", image.to_str().unwrap()], options].concat());
        Said::of(&command.env("TMPDIR", &tmp.0).output().unwrap())
    };
    assert!(load(&["--via", "podman"]).last().contains("1 loaded, 0 present"));
    podman.run(&["rmi", "--all", "--force"]);
    assert!(fs::write(tmp.0.join("filler"), vec![0; 128 << 10]).is_err());
    let full = load(&["--via", "store"]);
    assert!(full.code != 0 && full.stderr.contains("no space left on device"), "{full:?}");
    assert_eq!(podman.run(&["images", "--quiet"]), "");
    fs::remove_file(tmp.0.join("filler")).unwrap();
    assert!(load(&[]).last().contains("1 loaded, 0 present"));
}

/// A file of the linked store by its path in a layer.
fn linked_file(podman: &Podman, path: &str) -> PathBuf {
    let overlay = podman.home("storage/overlay");
    let mut layers = fs::read_dir(overlay).unwrap().map(|entry| entry.unwrap().path().join("diff").join(path));
    layers.find(|file| file.symlink_metadata().is_ok()).unwrap()
}

#[test]
fn what_nix_does_not_vouch_for_is_copied_and_compared() {
    let podman = Podman::with_nix();
    let plain = podman.env.write("plain", "as it was built");
    let writable = podman.add("writable", "file", "writable", 0o644);
    let models = |app: &str| {
        let plain = json!({ "spec": { "name": app, "files": { "plain": plain } } });
        [podman.model("tools", "/", &podman.tools()), plain, podman.model("writable", "/w", &writable)]
    };
    let image = podman.image("app", &models("plain"), &[]);
    let other = podman.app("other", "other");
    let both = [image.to_str().unwrap(), other.to_str().unwrap()];

    fs::write(&plain, "as it is now...").unwrap();
    let said = podman.said(&["load", both[0], both[1], "--via", "store"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.contains(&plain.display().to_string()), "{said:?}");
    assert!(said.stdout.lines().last().unwrap().contains(": 1 loaded, 0 present, 1 failed; wrote "), "{said:?}");
    assert_eq!(podman.run(&["images", "--format", "{{.Repository}}"]), "localhost/other\n");
    assert_eq!(podman.sh("localhost/other:1", "cat /text"), "other");
    assert_eq!(podman.store().leftovers(&Progress::new()).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(generations(&podman).current().unwrap(), None);

    fs::write(&plain, "as it was built").unwrap();
    assert!(podman.said(&["load", both[0], both[1]]).last().contains("1 loaded, 1 present"));
    for (source, file) in [(plain, "models/plain"), (writable.join("file"), "w/file")] {
        let (source, copy) = (fs::metadata(source).unwrap(), fs::metadata(linked_file(&podman, file)).unwrap());
        assert_ne!(source.ino(), copy.ino(), "{file}");
        assert_eq!(copy.nlink(), 1);
    }
    assert_eq!(podman.sh("localhost/app:1", "cat /models/plain /w/file"), "as it was builtwritable");
}

#[test]
fn other_modes_and_owners_are_copies_and_all_else_is_linked() {
    let podman = Podman::with_nix();
    let tools = podman.add("tree", "etc/secret", "secret", 0o444);
    podman.add("tree", "bin/writable", "writable", 0o555);
    podman.add("tree", "etc/plain", "plain", 0o444);
    let store = podman.home("store");
    let info = closure(store.to_str().unwrap(), &store, &[("tree", &[])]);
    let (closure, output) = (podman.env.write("closure.json", info), podman.env.path("built"));
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "storeDir": store,
        "content": { "copyToRoot": [tools] }, "models": [podman.model("tools", "/", &podman.tools())],
        "perms": [{ "regex": "^/etc/secret$", "mode": "0440", "uid": 999, "gid": 998 },
                  { "regex": "^/bin/writable$", "mode": "0755" }] });
    let spec = podman.env.write("spec.json", spec.to_string());
    let [spec, closure, out] = [&spec, &closure, &output].map(|path| path.to_str().unwrap());
    podman.env.ok(["build", spec, "--closure", closure, "--output", out]);
    podman.load(&output, &["--via", "store"]).last();
    let look = |file: &str| {
        let data = fs::metadata(linked_file(&podman, file)).unwrap();
        (data.mode() & 0o7777, data.uid(), data.gid(), data.mtime())
    };
    assert_eq!(look("etc/secret"), (0o440, 999, 998, 1));
    assert_eq!(look("bin/writable"), (0o755, 0, 0, 1));
    for (file, source) in [("etc/plain", "tree"), ("bin/sh", "tools")] {
        let source = store.join(crate::env::base_name(source)).join(file);
        assert_eq!(
            fs::metadata(linked_file(&podman, file)).unwrap().ino(),
            fs::metadata(source).unwrap().ino(),
            "{file}"
        );
    }
    let seen = podman.sh("localhost/app:1", "cat /etc/secret /bin/writable /etc/plain");
    assert_eq!(seen, "secretwritableplain");
}

#[test]
fn what_every_user_could_run_as_another_is_not_linked() {
    let podman = Podman::with_nix();
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "storeDir": podman.home("store"),
        "content": { "texts": { "/bin/suid": "suid" } }, "models": [podman.model("tools", "/", &podman.tools())],
        "perms": [{ "regex": "^/bin/suid$", "mode": "4755" }] });
    let image = podman.build("app", &spec);
    let refused = podman.load(&image, &["--via", "store"]);
    assert_eq!(refused.code, 1);
    let sentence = "/bin/suid has the set-user-ID or set-group-ID bit, and the linked store is open to every user of \
                    this host; load with `--via podman`\n";
    assert!(refused.stderr.contains(sentence), "{refused:?}");
    let records = podman.store().records(&Progress::new()).unwrap();
    assert_eq!((records.layers.len(), records.images.len()), (0, 0), "nothing of half an image is recorded");
    let pulled = podman.load(&image, &[]);
    assert!(pulled.stdout.starts_with("image app: pulled ") && !pulled.stdout.contains("pulled 0 B"), "{pulled:?}");
    let why = "warning: localhost/app:1 is pulled, because it cannot be linked: ";
    assert!(pulled.stderr.lines().any(|line| line.starts_with(why) && line.contains("/bin/suid")), "{pulled:?}");
    assert_eq!(podman.sh("localhost/app:1", "test -u /bin/suid && cat /bin/suid"), "suid");
}

#[test]
fn a_file_with_all_its_links_is_copied() {
    let podman = Podman::new();
    let disk = podman.env.path("disk.img");
    fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
    run_ok(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk));
    let place = podman.env.path("disk");
    fs::create_dir(&place).unwrap();
    run_ok(Command::new("mount").args(["-o", "loop"]).arg(&disk).arg(&place));
    let _mount = crate::env::Mount(place.clone());
    podman.link_into(&place.join("storage"));
    let (path, links) = (place.join("store").join(crate::env::base_name("busy")), place.join("links"));
    fs::create_dir_all(&links).unwrap();
    crate::golden::put(path.join("file"), "all its links", 0o444);
    crate::golden::put(path.join("rest"), "has few", 0o444);
    for file in ["file", "rest"] {
        let second = std::time::UNIX_EPOCH + Duration::from_secs(1);
        fs::File::open(path.join(file)).unwrap().set_modified(second).unwrap();
    }
    (1..65_000).for_each(|n| fs::hard_link(path.join("file"), links.join(n.to_string())).unwrap());
    assert!(fs::hard_link(path.join("file"), links.join("more")).is_err());
    let store = place.join("store");
    let model = json!({ "kind": "model", "name": "busy", "tag": "1", "storeDir": store, "source": path });
    let image = podman.build("busy", &model);
    let mut load = podman.windlass(&["load", image.to_str().unwrap(), "--via", "store"]);
    Said::of(&load.env("NIX_STORE_DIR", &store).output().unwrap()).last();
    let layer =
        json_of(image.join("image.json"))["platforms"][0]["layers"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let tree = place.join("storage/overlay").join(layer).join("diff/models");
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "all its links");
    let links = |path: PathBuf| fs::metadata(path).unwrap().nlink();
    assert_eq!((links(tree.join("file")), links(tree.join("rest"))), (1, 2));
}

/// Another process that holds one of Podman's locks.
pub(crate) fn hold(lock: &Path) -> std::process::Child {
    let script = "import fcntl,sys,time\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\ntime.sleep(2)";
    let mut child = Command::new("python3").args(["-c", script]).arg(lock).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

#[test]
fn a_lock_of_another_process_is_waited_for_and_named() {
    let podman = Podman::with_nix();
    podman.run(&["images"]);
    let linked = podman.home("storage").join("overlay-layers/layers.lock");
    let own = podman.places().graph_root.join("overlay-images/images.lock");
    for (n, lock) in [linked, own].into_iter().enumerate() {
        let image = podman.app(&format!("app{n}"), &n.to_string());
        let mut holder = hold(&lock);
        let said = podman.load(&image, &[]);
        assert!(holder.wait().unwrap().success());
        assert!(said.last().contains("1 loaded, 0 present"), "{said:?}");
        let waiting = format!("waiting for another process, which holds {}", lock.display());
        assert!(said.stderr.contains(&waiting), "{said:?}");
    }
}

#[test]
fn two_loads_at_once_are_one() {
    for options in [&["--via", "store"], &["--via", "podman"]] {
        let podman = Podman::with_nix();
        let image = large(&podman, "large", 200);
        let arguments = [&["load", image.to_str().unwrap()], &options[..]].concat();
        let start = || podman.windlass(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let both = [start(), start()].map(|child| Said::of(&child.wait_with_output().unwrap()));
        let mut last = both.each_ref().map(|said| said.last().split(';').next().unwrap().to_owned());
        last.sort();
        assert_eq!(
            last,
            ["0 loaded, 1 present", "1 loaded, 0 present"].map(|what| format!("1 image, 0 models: {what}"))
        );
        nothing_left(&podman, &[1]);
        assert_eq!(podman.run(&["images", "--format", "{{.Repository}}"]), "localhost/large\n");
        is_whole(&podman, "localhost/large:1");
    }
}

#[test]
fn podman_never_fails_while_a_load_is_at_work() {
    let podman = Podman::with_nix();
    podman.load(&podman.app("small", "small"), &[]).last();
    let image = large(&podman, "large", 2000);
    let (done, pulling) = (AtomicBool::new(false), AtomicBool::new(true));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                podman.run(&["ps", "--all"]);
                // Podman that loads an image writes its record before its manifest, and another Podman may read in between.
                // That is Podman's own, so it may be once, and only where Podman loads.
                let listed = podman.command("podman").args(["images", "--all"]).output().unwrap();
                if !(pulling.load(Ordering::Relaxed) && text(&listed.stderr).contains("file does not exist")) {
                    assert!(listed.status.success(), "{}", text(&listed.stderr));
                }
                assert_eq!(podman.sh("localhost/small:1", "cat /text"), "small");
                count += 1;
            }
            count
        });
        for options in [&["--via", "podman"][..], &["--force"], &["--force"]] {
            let said = podman.load(&image, options);
            if said.code != 0 {
                done.store(true, Ordering::Relaxed);
            }
            said.last();
            pulling.store(false, Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 1);
    });
    is_whole(&podman, "localhost/large:1");
}

#[test]
fn what_nix_collects_is_named_and_what_is_loaded_it_keeps() {
    let podman = Podman::with_nix();
    let in_store = |command: &mut Command| {
        let places = [("NIX_STORE_DIR", "store"), ("NIX_STATE_DIR", "state"), ("NIX_LOG_DIR", "log")];
        run_ok(command.envs(places.map(|(name, folder)| (name, podman.home(folder)))))
    };
    let add = |name: &str, text: &str| {
        let file = podman.env.write(format!("{name}.bin"), text);
        PathBuf::from(in_store(nix("nix-store").arg("--add").arg(file)).trim())
    };
    let collect = || in_store(nix("nix-store").arg("--gc"));
    let tools = podman.tools();
    let tools = PathBuf::from(in_store(nix("nix-store").arg("--add").arg(&tools)).trim());
    let app = |name: &str, path: &Path| {
        let models = [podman.model("tools", "/", &tools), podman.model(name, "/kept", path)];
        podman.image(name, &models, &[])
    };
    let (gone, kept) = (add("gone", "gone"), add("kept", "kept"));
    let (lost, image) = (app("lost", &gone), app("app", &kept));
    podman.load(&image, &[]).last();
    collect();
    assert!(kept.exists() && tools.exists() && !gone.exists());

    for options in [&[][..], &["--via", "podman"]] {
        let said = podman.load(&lost, options);
        assert!([1, 4].contains(&said.code) && said.stderr.contains(&gone.display().to_string()), "{said:?}");
        assert_eq!(podman.run(&["images", "--format", "{{.Repository}}"]), "localhost/app\n");
        assert_eq!(generations(&podman).current().unwrap().unwrap().number, 1);
    }
    assert!(podman.load(&image, &[]).last().contains("0 loaded, 1 present"));

    // Without its generations Nix takes the path, and the image has the file all the same.
    for number in generations(&podman).numbers().unwrap() {
        generations(&podman).remove(number).unwrap();
    }
    generations(&podman).forget_attempts(0).unwrap();
    collect();
    assert!(!kept.exists() && !tools.exists());
    let text = podman.sh("localhost/app:1", &format!("cat /kept/{}", "kept.bin"));
    assert_eq!(text, "kept");
}

#[test]
fn a_podman_that_only_says_so_is_not_believed() {
    for (programs, via) in [(&["skopeo"][..], "podman"), (&["podman", "skopeo"], "podman"), (&["podman"], "store")] {
        let podman = Podman::with_nix();
        let image = podman.app("app", "lie");
        for program in programs {
            // It says where things are, as the real one does; of what it has taken it only says so.
            let real = run_ok(Command::new("sh").args(["-c", &format!("command -v {program}")]));
            let script = format!(
                "#!/bin/sh\ncase \"$*\" in *' info '*) exec {} \"$@\" ;; esac\necho 'Loaded image: localhost/app:1'\n",
                real.trim()
            );
            let file = podman.env.write(format!("bin/{program}"), script);
            fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", podman.env.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = podman.windlass(&["load", image.to_str().unwrap(), "--via", via]);
        let said = Said::of(&command.env("PATH", &path).output().unwrap());
        assert_eq!(said.code, 4, "{programs:?} {via}: {said:?}");
        assert!(said.stderr.contains(" on PATH is "), "{said:?}");
        assert_eq!(generations(&podman).current().unwrap(), None, "{programs:?} {via}: {said:?}");

        podman.load(&image, &[]).last();
        nothing_left(&podman, &[1]);
        assert_eq!(podman.sh("localhost/app:1", "cat /text"), "lie");
    }
}

#[test]
fn what_a_container_runs_on_stays_even_if_its_records_are_lost() {
    let podman = Podman::with_nix();
    podman.load(&podman.app("app", "text"), &[]).last();
    podman.run(&["run", "--detach", "--pull=never", "--network=none", "--name", "c", "localhost/app:1"]);
    for records in ["storage/overlay-images/images.json", "storage/overlay-layers/layers.json"] {
        fs::write(podman.home(records), "[]").unwrap();
    }
    let progress = Progress::new();
    podman.store().change(&progress).unwrap().sweep(&progress).unwrap();
    assert_eq!(podman.run(&["exec", "c", "/bin/cat", "/text"]), "text");
    podman.run(&["stop", "--time", "0", "c"]);
    podman.store().change(&progress).unwrap().sweep(&progress).unwrap();
    assert_eq!(fs::read_dir(podman.home("storage/overlay")).unwrap().count(), 1);
}
