//! `windlass load` into a real Podman: what is there afterwards, how little is done, and whether Podman agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};
use windlass::internals::disk::progress::Progress;

use crate::engine::{Podman, as_user, untimed};
use crate::env::run_ok;
use crate::podman::{built, wait_for};

/// The example stack's lean form, once for all tests of this process.
pub(crate) fn stack() -> &'static Path {
    static STACK: LazyLock<PathBuf> = LazyLock::new(|| built("ai-stack-images.lean"));
    &STACK
}

fn json_of(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every path below a folder with what a change would change, but what was read when.
fn listing(folder: &Path, list: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        let seen = format!(
            "{} {} {} {} {} {} {}",
            data.ino(),
            data.size(),
            data.mode(),
            data.uid(),
            data.mtime(),
            data.mtime_nsec(),
            data.nlink()
        );
        if data.is_dir() {
            listing(&path, list);
        }
        list.insert(path, seen);
    }
}

fn everything(podman: &Podman) -> BTreeMap<PathBuf, String> {
    let mut list = BTreeMap::new();
    for folder in [podman.places().graph_root, podman.home("storage")] {
        listing(&folder, &mut list);
    }
    list
}

/// Bytes on disk of what a folder has alone: directories, and files that no other place has.
fn own_bytes(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let data = entry.metadata().unwrap();
        if data.is_dir() {
            bytes += data.blocks() * 512 + own_bytes(&entry.path());
        } else if data.nlink() == 1 {
            bytes += data.blocks() * 512;
        }
    }
    bytes
}

#[test]
fn the_stack_is_linked_and_stock_tools_find_what_was_built() {
    let podman = Podman::linked();
    let loaded = podman.load(stack(), &[]);
    assert!(loaded.last().starts_with("3 images, 1 model: 4 loaded, 0 present; wrote "), "{loaded:?}");
    assert!(loaded.last().ends_with("; network 0 bytes") && loaded.last().contains(", linked "), "{loaded:?}");
    assert_eq!(fs::read_dir(podman.env.path("podman/tmp")).unwrap().count(), 0);

    let mut size = 0;
    for name in ["images/redis", "images/postgres", "images/llama-cpp", "models/smollm2"] {
        let directory = stack().join(name);
        let summary = json_of(directory.join("image.json"));
        let platform = &summary["platforms"][0];
        size += platform["size"].as_u64().unwrap();
        let (reference, digest) = (summary["ref"].as_str().unwrap(), summary["digest"].as_str().unwrap());
        let by_digest = format!("{}@{digest}", reference.rsplit_once(':').unwrap().0);
        let inspect: Value = serde_json::from_str(&podman.run(&["image", "inspect", &by_digest])).unwrap();
        let layers: Vec<&Value> = platform["layers"].as_array().unwrap().iter().map(|l| &l["digest"]).collect();
        assert_eq!(inspect[0]["RootFS"]["Layers"].as_array().unwrap().iter().collect::<Vec<_>>(), layers);
        assert_eq!(inspect[0]["Digest"], summary["digest"]);
        assert_eq!(format!("sha256:{}", inspect[0]["Id"].as_str().unwrap()), platform["configDigest"]);
        // The version of the package that the image is called like.
        let owners = platform["layers"].to_string();
        let version =
            owners.split('"').find_map(|owner| owner.split_once(&format!("-{}-", directory.file_name()?.to_str()?)));
        let version = version.map(|(_, version)| format!("{}:{version}", reference.rsplit_once(':').unwrap().0));
        assert_eq!(version.is_some(), matches!(name, "images/redis" | "images/llama-cpp"), "{name}");
        assert_eq!(
            inspect[0]["RepoTags"],
            json!([Some(reference.to_owned()), version].into_iter().flatten().collect::<Vec<_>>())
        );

        // What Podman gives away again is what was built, byte for byte.
        let (saved, pushed) = (podman.env.path("saved"), podman.env.path("pushed"));
        let [to, dir] = [&saved, &pushed].map(|path| path.to_str().unwrap().to_owned());
        podman.run(&["save", "--format", "oci-dir", "--uncompressed", "--output", &to, reference]);
        assert_eq!(json_of(saved.join("index.json"))["manifests"][0]["digest"], summary["digest"]);
        podman.run(&["push", reference, &format!("dir:{dir}")]);
        let hash = |path: PathBuf| {
            format!("sha256:{}", run_ok(Command::new("sha256sum").arg(path)).split(' ').next().unwrap())
        };
        assert_eq!(hash(pushed.join("manifest.json")), digest);
        for digest in layers.iter().map(|digest| digest.as_str().unwrap()) {
            assert_eq!(hash(saved.join("blobs/sha256").join(&digest[7..])), digest);
            assert_eq!(hash(pushed.join(&digest[7..])), digest);
        }
        [saved, pushed].iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
    }
    let (used, linked) = (own_bytes(&podman.home("storage")), podman.home("storage"));
    assert!(used * 100 < size, "{used} of {size}");

    let summary = json_of(stack().join("models/smollm2/image.json"));
    let owner = summary["platforms"][0]["layers"][0]["owners"][0].as_str().unwrap();
    let in_store = fs::metadata(owner).unwrap();
    let layer = summary["platforms"][0]["layers"][0]["digest"].as_str().unwrap();
    let file = linked.join("overlay").join(&layer[7..]).join("diff/models/smollm2.gguf");
    assert_eq!(
        (fs::metadata(&file).unwrap().dev(), fs::metadata(&file).unwrap().ino()),
        (in_store.dev(), in_store.ino())
    );

    let redis = json_of(stack().join("images/redis/image.json"));
    let server = redis["platforms"][0]["layers"].to_string();
    let server = server.split('"').find(|owner| owner.contains("-redis-")).unwrap().to_owned();
    let name = format!("{}@{}", redis["name"].as_str().unwrap(), redis["digest"].as_str().unwrap());
    podman.run(&["run", "--detach", "--pull=never", "--network=none", "--read-only", "--name", "redis", &name]);
    let mut ping = podman.command("podman");
    ping.args(["exec", "redis", &format!("{server}/bin/redis-cli"), "ping"]);
    assert_eq!(wait_for(ping, "PONG"), "PONG\n");

    // A container reads the model's very bytes.
    let llama = json_of(stack().join("images/llama-cpp/image.json"))["ref"].as_str().unwrap().to_owned();
    let config: Value = serde_json::from_str(&podman.run(&["image", "inspect", &llama])).unwrap();
    let all = config[0]["Config"].to_string() + &json_of(stack().join("images/llama-cpp/image.json")).to_string();
    let python = all.split('"').find(|word| word.contains("-python3-")).unwrap().to_owned();
    let python = python.split("/bin/").next().unwrap().to_owned() + "/bin/python3";
    let script = "import hashlib; print(hashlib.file_digest(open('/models/smollm2.gguf', 'rb'), 'sha256').hexdigest())";
    let run =
        ["run", "--rm", "--pull=never", "--network=none", "--read-only", "--entrypoint", &python, &llama, "-c", script];
    let seen = podman.run(&run);
    assert_eq!(seen.trim(), run_ok(Command::new("sha256sum").arg(owner)).split(' ').next().unwrap());
}

#[test]
fn a_read_only_mount_over_the_nix_store_does_not_matter() {
    let podman = Podman::linked();
    let script = r#"set -e
        mount --bind /nix/store /nix/store; mount -o remount,ro,bind /nix/store; mount -t tmpfs t /var/tmp
        if touch /nix/store/x 2>/dev/null; then echo writable; fi
        "$1" load "$2"; ls -A /var/tmp
        model=$(ls -d "$3"/overlay/*/diff/models/smollm2.gguf | head -n 1)
        test "$model" -ef "$(readlink -f /nix/store/$(basename "$4"))"; echo same
        podman run --rm --pull=never --network=none "$5" "$6/bin/redis-server" --version"#;
    let redis = json_of(stack().join("images/redis/image.json"));
    let owners = redis["platforms"][0]["layers"].to_string();
    let server = owners.split('"').find(|owner| owner.contains("-redis-")).unwrap();
    let model = json_of(stack().join("models/smollm2/image.json"));
    let mut command = podman.command("unshare");
    command.args(["--mount", "bash", "-c", script, "bash", env!("CARGO_BIN_EXE_windlass")]).arg(stack());
    command.arg(podman.home("storage")).arg(model["platforms"][0]["layers"][0]["owners"][0].as_str().unwrap());
    let said = run_ok(command.arg(redis["ref"].as_str().unwrap()).arg(server));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[4].starts_with("3 images, 1 model: 4 loaded, 0 present"), "{said}");
    assert_eq!(lines[5], "same", "{said}");
    assert!(lines[6].starts_with("Redis server v="), "{said}");
}

#[test]
fn a_second_load_reads_records_and_does_nothing_else() {
    let podman = Podman::with_nix();
    let images = ["one", "two"].map(|name| podman.app(name, name));
    for options in [&[][..], &["--via", "podman"]] {
        let load = [&["load", images[0].to_str().unwrap(), images[1].to_str().unwrap()], options].concat();
        podman.said(&load).last();
        let before = everything(&podman);
        let log = podman.env.path("trace");
        let said = run_ok(&mut podman.traced(&log, &[], &load));
        let last = untimed(said.lines().last().unwrap());
        assert_eq!(last, "2 images, 0 models: 0 loaded, 2 present; wrote 0 B; network 0 bytes");
        assert_eq!(everything(&podman), before);
        let calls = fs::read_to_string(&log).unwrap();
        assert!(calls.contains("images.json"), "it was traced");
        let writes = |call: &&str| {
            let name = call.split_once(' ').unwrap().1.trim_start().split('(').next().unwrap();
            const NEVER: [&str; 18] = [
                "socket",
                "connect",
                "fork",
                "vfork",
                "mkdir",
                "mkdirat",
                "rename",
                "renameat",
                "renameat2",
                "unlink",
                "unlinkat",
                "link",
                "linkat",
                "symlinkat",
                "ftruncate",
                "fchmodat",
                "utimensat",
                "creat",
            ];
            let for_writing = ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| call.contains(flag));
            NEVER.contains(&name) || (for_writing && !call.contains("/dev/null"))
        };
        assert_eq!(calls.lines().find(writes), None);
        assert_eq!(calls.lines().filter(|call| call.contains("execve(")).count(), 1);
        // The linked store's twice: what is in its folders is compared with records that were read after it was listed.
        for (file, most) in
            [("root/overlay-layers/layers.json", 1), ("storage/overlay-images/images.json", 2), ("/image.json", 2)]
        {
            let is_read =
                |call: &&str| call.contains(&format!("{file}\"")) && call.contains("open") && !call.contains("ENOENT");
            let read: Vec<&str> = calls.lines().filter(is_read).collect();
            assert!(read.len() <= most, "{options:?} {file}: {read:#?}");
        }
        podman.run(&["rmi", "--all", "--force", "--ignore"]);
        remove_linked(&podman);
    }
}

/// Takes everything out of the linked store.
fn remove_linked(podman: &Podman) {
    let (store, progress) = (podman.store(), Progress::new());
    let all = store.records(&progress).unwrap().images.into_iter().map(|image| image.id).collect::<BTreeSet<_>>();
    store.change(&progress).unwrap().remove_images(&all, &progress).unwrap();
}

#[test]
fn a_service_that_has_the_store_open_sees_every_change_at_once() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "service");
    let socket = format!("unix://{}", podman.env.path("socket").display());
    let mut service = podman.command("podman").args(["system", "service", "--time", "9", &socket]).spawn().unwrap();
    let exists = || podman.command("podman").args(["--url", &socket, "image", "exists", "localhost/app:1"]).status();
    let mut list = podman.command("podman");
    list.args(["--url", &socket, "images", "--format", "ready {{.Id}}"]);
    while !podman.env.path("socket").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(run_ok(&mut list), "");
    assert_eq!(exists().unwrap().code(), Some(1));
    let mut marks = BTreeSet::new();
    for _ in 0..3 {
        podman.load(&image, &[]).last();
        for lock in ["overlay-images/images.lock", "overlay-layers/layers.lock"] {
            let mark = fs::read(podman.home("storage").join(lock)).unwrap();
            assert!(mark.len() == 64 && marks.insert(mark), "{lock} says that something has changed");
        }
        assert_eq!(exists().unwrap().code(), Some(0));
        remove_linked(&podman);
        assert_eq!(exists().unwrap().code(), Some(1));
    }
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn an_image_for_another_machine_is_refused_and_of_an_index_the_right_one_is_taken() {
    let podman = Podman::with_nix();
    let (host, other) = if cfg!(target_arch = "aarch64") { ("arm64", "amd64") } else { ("amd64", "arm64") };
    let part = |architecture: &str| {
        let spec = json!({ "kind": "image", "name": "app", "tag": "1", "platform": format!("linux/{architecture}"),
            "storeDir": podman.home("store"), "content": { "texts": { "/text": architecture } } });
        podman.build(architecture, &spec)
    };
    let parts = [part(other), part(host)];
    let before = everything(&podman);
    let refused = podman.load(&parts[0], &[]);
    let (begin, end) = ("windlass: localhost/app:1 is for linux/", format!("; build it for linux/{host}\n"));
    assert!(refused.stderr.starts_with(begin) && refused.stderr.ends_with(&end), "{refused:?}");
    assert_eq!((refused.code, refused.stdout.as_str(), everything(&podman)), (1, "", before));

    let index = podman.build("index", &json!({ "kind": "index", "name": "app", "tag": "1", "images": parts }));
    let summary = json_of(index.join("image.json"));
    let platform = summary["platforms"]
        .as_array()
        .unwrap()
        .iter()
        .find(|platform| platform["platform"].to_string().contains(host));
    let id = platform.unwrap()["configDigest"].as_str().unwrap()[7..].to_owned();
    let digests = [&summary["digest"], &platform.unwrap()["digest"]].map(|digest| digest.as_str().unwrap());
    assert_ne!(digests[0], digests[1]);
    for options in [&[][..], &["--via", "podman"]] {
        podman.load(&index, options).last();
        for name in
            digests.map(|digest| format!("localhost/app@{digest}")).iter().chain([&"localhost/app:1".to_owned()])
        {
            assert_eq!(podman.run(&["image", "inspect", "--format", "{{.Id}}", name]).trim(), id, "{name} {options:?}");
        }
        assert!(podman.load(&index, options).last().contains("0 loaded, 1 present"));
        podman.run(&["rmi", "--all", "--force", "--ignore"]);
        remove_linked(&podman);
    }
}

/// What `--dry-run --json` says of each image: name, action and reason.
fn planned(podman: &Podman, image: &Path, options: &[&str]) -> String {
    let said = podman.load(image, &[options, &["--dry-run", "--json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let plan: Value = serde_json::from_str(&said.stdout).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let row = |row: &Value| format!("{} {} {}", text(row, "name"), text(row, "action"), text(row, "reason"));
    plan["images"].as_array().unwrap().iter().map(row).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_load_has_one_reason_and_a_prune_is_made_good_without_a_network() {
    let podman = Podman::with_nix();
    let (one, two) = (podman.app("one", "1"), podman.app("two", "two"));
    assert_eq!(planned(&podman, &one, &[]), "one link first time");
    assert_eq!(planned(&podman, &one, &["--via", "podman"]), "one pull first time");
    podman.load(&one, &[]).last();
    podman.load(&two, &["--via", "podman"]).last();
    assert_eq!(planned(&podman, &one, &[]), "one present present");
    assert_eq!(planned(&podman, &one, &["--force"]), "one link asked for");

    for prune in ["image", "system"] {
        podman.run(&[prune, "prune", "--all", "--force"]);
        assert_eq!(planned(&podman, &one, &[]), "one present present");
        assert_eq!(podman.sh("localhost/one:1", "cat /text"), "1");
        assert_eq!(planned(&podman, &two, &["--via", "podman"]), "two pull cache cleared");
        let mut offline = podman.windlass(&[]);
        let program = offline.get_program().to_owned();
        offline = podman.command("unshare");
        offline.arg("--net").arg(program).args(["load", two.to_str().unwrap(), "--via", "podman"]);
        let said = run_ok(&mut offline);
        assert!(said.contains(": 1 loaded, 0 present; wrote "), "{said}");
        assert_eq!(podman.sh("localhost/two:1", "cat /text"), "two");
    }
    remove_linked(&podman);
    assert_eq!(planned(&podman, &one, &[]), "one link cache cleared");
    podman.load(&one, &[]).last();
    let newer = podman.app("one", "2");
    assert_eq!(planned(&podman, &newer, &[]), "one link version changed");
    podman.load(&newer, &[]).last();
    assert_eq!(podman.sh("localhost/one:1", "cat /text"), "2");
}

#[test]
fn a_name_leads_to_what_was_loaded_last_whatever_else_had_it() {
    for options in [&[][..], &["--via", "podman"]] {
        let podman = Podman::with_nix();
        let other = podman.app("other", "other");
        podman.load(&other, &["--via", "podman"]).last();
        podman.run(&["tag", "localhost/other:1", "localhost/app:1"]);
        let app = podman.app("app", "mine");
        podman.load(&app, options).last();
        assert_eq!(podman.sh("localhost/app:1", "cat /text"), "mine", "{options:?}");
        assert_eq!(podman.sh("localhost/other:1", "cat /text"), "other");

        // Moved away behind our back: named again, and nothing loaded.
        podman.run(&["tag", "localhost/other:1", "localhost/app:1"]);
        assert_eq!(podman.sh("localhost/app:1", "cat /text"), "other");
        assert_eq!(planned(&podman, &app, options), "app name name moved");
        let said = podman.load(&app, options);
        assert!(said.last().contains("0 loaded, 1 present"), "{said:?}");
        assert_eq!(podman.sh("localhost/app:1", "cat /text"), "mine", "{options:?}");

        // The same image under another tag: the same files, one more name.
        let digest = json_of(app.join("image.json"))["digest"].clone();
        let spec = fs::read_to_string(podman.env.path("built-app.json")).unwrap();
        let mut spec: Value = serde_json::from_str(&spec).unwrap();
        spec["tag"] = "2".into();
        let again = podman.build("again", &spec);
        assert_eq!(json_of(again.join("image.json"))["digest"], digest);
        let said = podman.load(&again, options);
        assert!(said.last().contains("0 loaded, 1 present"), "{said:?}");
        let digest = format!("localhost/app@{}", digest.as_str().unwrap());
        for name in ["localhost/app:2", &digest] {
            assert_eq!(podman.sh(name, "cat /text"), "mine", "{options:?}");
        }
        assert!(podman.load(&again, options).last().contains("wrote 0 B"));
    }
}

/// root's linked store, read by a user with an own Podman: their `windlass load`, and a container that writes.
#[test]
fn a_user_runs_what_root_has_linked() {
    let podman = Podman::with_nix();
    let models = [podman.model("tools", "/", &podman.tools())];
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "storeDir": podman.home("store"), "models":
        [models[0]], "config": { "User": "999", "Cmd": ["/bin/sh", "-c", "cat /text; echo x >/data/x && cat /data/x"] },
        "content": { "texts": { "/text": "linked" } } });
    let image = podman.build("user", &spec);
    podman.load(&image, &[]).last();
    let script = "
        as $WINDLASS load $T/user; as $WINDLASS load $T/user
        as podman run --rm --pull=never --network=none -v data:/data:U localhost/app:1
        as podman images --format '{{.Repository}} {{.ReadOnly}}'
        as podman volume rm data >/dev/null";
    let said = as_user(&podman, script);
    let lines: Vec<&str> = said.lines().collect();
    // A generation of their own is all that is written.
    assert!(lines[1].starts_with("1 image, 0 models: 0 loaded, 1 present; wrote "), "{said}");
    assert_eq!(untimed(lines[3]), "1 image, 0 models: 0 loaded, 1 present; wrote 0 B; network 0 bytes", "{said}");
    assert_eq!(&lines[4..], ["linkedx", "localhost/app true"], "{said}");
}

#[test]
fn a_user_names_the_store_that_root_shares() {
    let podman = Podman::with_nix();
    podman.load(&podman.app("app", "shared"), &[]).last();
    let script = "
        printf '[storage]\\ndriver = \"overlay\"\\n' >$T/home/.config/containers/storage.conf
        as podman images --quiet
        as $WINDLASS doctor --fix --storage-dir $STORE
        as podman images --format '{{.Repository}} {{.ReadOnly}}'";
    let said = as_user(&podman, script);
    let named = format!(
        "fixed    {}/home/.config/containers/storage.conf names ",
        podman.env.path("").to_str().unwrap().trim_end_matches('/')
    );
    assert!(said.starts_with(&named) && said.ends_with("localhost/app true\n"), "{said}");
}

#[test]
fn what_is_loaded_again_by_force_does_not_disturb_who_runs_it() {
    for options in [&["--force"][..], &["--force", "--via", "podman"]] {
        let podman = Podman::with_nix();
        let image = podman.app("app", "forced");
        podman.load(&image, &options[1..]).last();
        podman.run(&["run", "--detach", "--pull=never", "--network=none", "--name", "c", "localhost/app:1"]);
        let forced = podman.load(&image, options);
        assert_eq!(podman.run(&["exec", "c", "/bin/cat", "/text"]), "forced", "{forced:?}");
        if options.len() == 1 {
            assert!(forced.last().contains("1 loaded, 0 present"), "{forced:?}");
        } else {
            let sentence = "image app: localhost/app:1 cannot be loaded anew while container c uses it\n\
                            hint: `podman rm --force c` removes the container\n";
            assert!(forced.code == 1 && forced.stderr.starts_with(sentence), "{forced:?}");
        }
        let names =
            podman.run(&["image", "inspect", "--format", "{{.RepoTags}} {{len .RepoDigests}}", "localhost/app:1"]);
        assert_eq!(names, "[localhost/app:1] 1\n");
        podman.run(&["restart", "--time", "0", "c"]);
        assert_eq!(podman.run(&["exec", "c", "/bin/cat", "/text"]), "forced");
        assert!(podman.load(&image, options.get(1..).unwrap()).last().contains("1 present"));
        podman.run(&["rm", "--force", "--time", "0", "c"]);
        assert_eq!(podman.store().leftovers(&Progress::new()).unwrap(), Vec::<PathBuf>::new());
    }
}

#[test]
fn an_image_directory_that_goes_away_is_not_missed() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "kept");
    podman.load(&image, &[]).last();
    let copy = podman.places().graph_root.join("windlass/generations/1/images/0-app");
    assert_eq!(
        fs::read_to_string(copy.join("image.json")).unwrap(),
        fs::read_to_string(image.join("image.json")).unwrap()
    );
    fs::remove_dir_all(&image).unwrap();
    remove_linked(&podman);
    let said = podman.load(&copy, &[]);
    assert!(said.last().contains("1 loaded, 0 present"), "{said:?}");
    assert_eq!(podman.sh("localhost/app:1", "cat /text"), "kept");
}
