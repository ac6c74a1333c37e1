//! What another user of the host does to the linked store, done by such a user.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::engine::Podman;
use crate::env::{closure, run_ok};

/// The attacker: a user without any right.
const USER: &str = "65534";

/// What the attacker does, in Python: `renameat2` has no tool that is everywhere.
const SWAP: &str = r#"
import ctypes, os, sys
os.chdir(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
os.symlink(sys.argv[2], "link")
print("ready", flush=True)
while True:
    libc.renameat2(-100, b"sub", -100, b"link", 2)
"#;

fn attacker(program: &str, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", program]).args(arguments);
    command
}

/// Starts a program of the attacker that says when it is ready, and kills it when it is dropped.
pub(crate) struct Attack(Child);

impl Attack {
    pub(crate) fn start(script: &str, arguments: &[&OsStr]) -> Self {
        let arguments = [&[OsStr::new("-c"), OsStr::new(script)], arguments].concat();
        let mut child = attacker("/usr/bin/python3", &arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self(child)
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// An image with a directory that others can write to, loaded into a store that is as an older windlass left it: open.
fn open_store() -> (Podman, PathBuf, PathBuf) {
    let podman = Podman::linked();
    let folder = podman.env.path("input");
    for name in ["open/sub/below", "etc"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::write(folder.join("open/sub/file"), "file").unwrap();
    let spec = json!({ "kind": "image", "name": "app", "tag": "1",
        "models": [podman.model("tools", "/", &podman.tools())],
        "content": { "copyToRoot": [folder] },
        "perms": [{ "regex": "^/open", "mode": "0777" }] });
    let app = podman.build("app", &spec);
    podman.load(&app, &["--via", "store"]).last();
    assert_eq!(mode(&podman.home("storage")), 0o700);
    set_mode(&podman.home("storage"), 0o755);
    let trees = fs::read_dir(podman.home("storage/overlay")).unwrap();
    let tree = trees.map(|entry| entry.unwrap().path().join("diff")).find(|tree| tree.join("open").is_dir()).unwrap();
    (podman, app, tree)
}

#[test]
fn a_directory_swapped_for_a_link_leads_root_nowhere() {
    let (podman, app, tree) = open_store();
    let victim = podman.env.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("secret"), "secret").unwrap();
    [(&victim, 0o700), (&victim.join("secret"), 0o600)].iter().for_each(|(path, mode)| set_mode(path, *mode));
    let attack = Attack::start(SWAP, &[tree.join("open").as_os_str(), victim.as_os_str()]);
    for round in 0..25 {
        // It may say that something moved under its hands; it may not touch what is elsewhere.
        let arguments: &[&str] = if round % 5 == 4 { &["repair"] } else { &["load", app.to_str().unwrap(), "--force"] };
        podman.said(arguments);
        let inside: Vec<_> = fs::read_dir(&victim).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(
            (mode(&victim), mode(&victim.join("secret")), inside),
            (0o700, 0o600, vec!["secret".into()]),
            "{round}"
        );
    }
    drop(attack);
    podman.load(&app, &["--force"]).last();
    assert!(tree.join("open/sub/file").is_file() && fs::symlink_metadata(tree.join("open/link")).is_err());
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
}

#[test]
fn nobody_else_reaches_what_is_in_the_store() {
    let (podman, app, tree) = open_store();
    let script = "echo 'echo taken over' > \"$1\"/tmp/.profile; echo x > \"$1\"/open/planted";
    let plant = |tree: &Path| {
        let status =
            attacker("sh", &["-c".as_ref(), script.as_ref(), "sh".as_ref(), tree.as_os_str()]).output().unwrap();
        status.status.success()
    };
    let storage = podman.home("storage");
    let layers = fs::read_dir(storage.join("overlay")).unwrap().map(|entry| entry.unwrap().path().join("diff"));
    let with_tmp = layers.into_iter().find(|tree| tree.join("tmp").is_dir()).unwrap();
    // While it is open, that works.
    assert!(plant(&tree) || fs::metadata(with_tmp.join("tmp")).unwrap().mode() & 0o1777 == 0o1777);
    let said = podman.load(&app, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("was open to every user of this host"), "{said:?}");
    assert!(
        said.stderr.contains("`windlass doctor --share --storage-dir") && said.stderr.contains("closed to all"),
        "{said:?}"
    );
    assert_eq!(mode(&storage), 0o700);
    assert!(!plant(&tree) && !plant(&with_tmp));
    let found = attacker("ls", &[storage.as_os_str()]).output().unwrap();
    assert!(String::from_utf8_lossy(&found.stderr).contains("Permission denied"), "{found:?}");
    // What was planted before is found, and mended.
    let said = podman.said(&["verify", "--full"]);
    assert!(said.code == 4 && said.stdout.contains("/open/planted does not belong there"), "{said:?}");
    assert_eq!(podman.said(&["repair", "--full"]).code, 0);
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
    assert!(!podman.load(&app, &[]).stderr.contains("was open"), "once");
    // Root's containers do not notice, whatever users they have.
    for options in [&[][..], &["--uidmap=0:100000:65536"], &["--user=1000"], &["--userns=auto"]] {
        let name = ["localhost/app:1", "cat", "/open/sub/file"];
        let run = ["run", "--rm", "--pull=never", "--network=none"];
        let output = podman.command("podman").args([&run[..], options, &name].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // There are hosts without ids for it.
        if options == ["--userns=auto"] && said.contains("containers") && said.contains("subuid") {
            continue;
        }
        assert_eq!(String::from_utf8_lossy(&output.stdout), "file", "{options:?}: {said}");
    }
}

#[test]
fn a_tree_of_any_depth_stops_neither_load_nor_repair() {
    let (podman, app, tree) = open_store();
    let deep = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(3000):\n os.mkdir('d')\n os.chdir('d')\nprint('ready', flush=True)";
    drop(Attack::start(deep, &[tree.join("open").as_os_str()]));
    let windlass = podman.windlass(&["load", app.to_str().unwrap(), "--force"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 128; ulimit -s 1024; exec \"$@\"", "sh"]).arg(windlass.get_program());
    limited.args(windlass.get_args()).envs(windlass.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run_ok(&mut limited);
    assert!(fs::symlink_metadata(tree.join("open/d")).is_err());
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
}

#[test]
fn a_store_of_another_user_is_refused_by_name() {
    let podman = Podman::new();
    let folder = tempfile::Builder::new().prefix("windlass-test-").tempdir_in("/tmp").unwrap();
    set_mode(folder.path(), 0o1777);
    let (store, victim) = (folder.path().join("store"), podman.env.path("victim"));
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("kept"), "kept").unwrap();
    let script = "mkdir -p $1/overlay/l $1/overlay-layers $1/overlay-images; echo '{\"version\":1}' >$1/windlass.json
        touch $1/windlass.lock; for kind in layers images; do echo '[]' >$1/overlay-$kind/$kind.json; touch $1/overlay-$kind/$kind.lock; done
        ln -s $2 $1/new";
    run_ok(&mut attacker(
        "sh",
        &["-c", script, "sh", store.to_str().unwrap(), victim.to_str().unwrap()].map(OsStr::new),
    ));
    let given = ["--storage-dir", store.to_str().unwrap()];
    for verb in [&["doctor", "--fix"][..], &["doctor", "--make-store"], &["doctor", "--share"], &["doctor", "--close"]]
    {
        let said = podman.said(&[verb, &given].concat());
        assert_eq!(said.code, 7, "{verb:?} {said:?}");
        let all = said.stdout + &said.stderr;
        assert!(all.contains("it belongs to user 65534, and must belong to user 0"), "{verb:?} {all}");
    }
    let conf = podman.env.path("podman/storage.conf");
    assert!(!fs::read_to_string(&conf).unwrap().contains("windlass-test-"));
    // Nor is it used where storage.conf names it.
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text + &format!("[storage.options]\nadditionalimagestores = [{store:?}]\n")).unwrap();
    let app = podman
        .build("app", &json!({ "kind": "image", "name": "app", "tag": "1", "content": { "texts": { "/x": "x" } } }));
    let said = podman.load(&app, &["--via", "store"]);
    assert!(said.code == 7 && said.stderr.contains("it belongs to user 65534"), "{said:?}");
    // One of root's in which a folder is a link, or which others can write to.
    let store = podman.env.path("own");
    podman.env.ok(["doctor", "--make-store", "--storage-dir", store.to_str().unwrap()]);
    fs::remove_dir(store.join("new")).unwrap();
    symlink(&victim, store.join("new")).unwrap();
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text.replace(&format!("{:?}", folder.path().join("store")), &format!("{store:?}"))).unwrap();
    let said = podman.load(&app, &["--via", "store"]);
    assert!(said.code != 0 && said.stderr.contains("own/new: it is a link"), "{said:?}");
    fs::remove_file(store.join("new")).unwrap();
    fs::create_dir(store.join("new")).unwrap();
    set_mode(&store.join("new"), 0o777);
    let said = podman.load(&app, &["--via", "store"]);
    assert!(said.code != 0 && said.stderr.contains("own/new: users other than 0 can write to it"), "{said:?}");
    assert_eq!(fs::read_to_string(victim.join("kept")).unwrap(), "kept");
}

/// Builds an image of one store path, and what a stick has of it; the digest that it promises.
fn on_a_stick(podman: &Podman, text: &str) -> PathBuf {
    let tree = podman.add("tree", "etc/motd", text, 0o444);
    let store = podman.home("store");
    let info = closure(store.to_str().unwrap(), &store, &[("tree", &[])]);
    let (closure, output) = (podman.env.write("closure.json", info), podman.env.path("stick"));
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "storeDir": store,
        "content": { "copyToRoot": [tree] }, "models": [podman.model("tools", "/", &podman.tools())] });
    let spec = podman.env.write("spec.json", spec.to_string());
    let [spec, closure, out] = [&spec, &closure, &output].map(|path| path.to_str().unwrap());
    podman.env.ok(["build", spec, "--closure", closure, "--output", out]);
    output
}

/// Changes the text of the recipe that names `from`.
fn edit_recipe(image: &Path, from: &str, to: &str) {
    let recipes = fs::read_dir(image.join("recipes")).unwrap().map(|entry| entry.unwrap().path());
    let names_it = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(from));
    let recipe = recipes.filter(|path| path.extension().is_some_and(|end| end == "json")).find(names_it).unwrap();
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, text.replace(from, to)).unwrap();
}

#[test]
fn a_digest_never_stands_for_something_else() {
    let podman = Podman::with_nix();
    let stick = on_a_stick(&podman, "the right one");
    // The same as Nix's own, except for what is in it.
    let evil = podman.add("evil", "etc/motd", "the wrong one", 0o444);
    let good = podman.home("store").join(crate::env::base_name("tree"));
    let tampered = podman.env.path("tampered");
    run_ok(Command::new("cp").arg("-r").arg(&stick).arg(&tampered));
    edit_recipe(&tampered, good.to_str().unwrap(), evil.to_str().unwrap());
    let said = podman.load(&tampered, &["--via", "store"]);
    assert!(said.code == 4 || said.code == 1, "{said:?}");
    assert!(
        said.stderr.contains("layer") && !podman.run(&["images", "--quiet"]).contains(|c: char| c.is_ascii_hexdigit())
    );
    // The true one is not there, and comes.
    assert!(podman.load(&stick, &["--via", "store"]).last().contains("1 loaded, 0 present"));
    assert_eq!(podman.sh("localhost/app:1", "cat /etc/motd"), "the right one");
    // A file that only root can read does not become readable for all under a digest that another user wrote.
    let secret = podman.add("secret", "etc/motd", "root's alone!", 0o400);
    let stolen = podman.env.path("stolen");
    run_ok(Command::new("cp").arg("-r").arg(&stick).arg(&stolen));
    edit_recipe(&stolen, good.to_str().unwrap(), secret.to_str().unwrap());
    let said = podman.load(&stolen, &["--via", "store", "--force"]);
    assert_ne!(said.code, 0, "{said:?}");
    assert_eq!(podman.sh("localhost/app:1", "cat /etc/motd"), "the right one");
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
}

/// Adds a file or directory to the Nix store as Nix does.
fn add_to_nix(podman: &Podman, path: &Path) -> PathBuf {
    PathBuf::from(run_ok(podman.command("nix-store").arg("--add").arg(path)).trim())
}

#[test]
fn what_nix_vouches_for_is_linked_without_being_read_and_nothing_else_is() {
    let podman = Podman::with_nix();
    let tree = podman.env.path("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/motd"), "the right one").unwrap();
    let tree = add_to_nix(&podman, &tree);
    let (hash, size) = windlass::internals::nix::nar::nar_hash(&tree).unwrap();
    let info = json!({ (tree.to_str().unwrap()): { "narHash": hash.to_string(), "narSize": size, "references": [] } });
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "storeDir": podman.home("store"),
        "content": { "copyToRoot": [tree] } });
    let output = podman.env.path("image");
    let [spec, closure] =
        [("spec.json", spec), ("closure.json", info)].map(|(name, json)| podman.env.write(name, json.to_string()));
    let [spec, closure, out] = [&spec, &closure, &output].map(|path| path.to_str().unwrap());
    podman.env.ok(["build", spec, "--closure", closure, "--output", out]);
    let image = add_to_nix(&podman, &output);

    // Only a reader could notice: the size, the mode and the time are the same.
    let motd = tree.join("etc/motd");
    fs::write(&motd, "the wrong one").unwrap();
    fs::File::open(&motd).unwrap().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
    let read = podman.load(&output, &["--via", "store"]);
    assert!(read.code == 4 && read.stderr.contains(tree.to_str().unwrap()), "{read:?}");
    let said = podman.load(&image, &["--via", "store"]);
    assert!(said.last().contains("1 loaded, 0 present"), "{said:?}");
    let full = podman.said(&["verify", "--full"]);
    assert!(full.code == 4 && full.stdout.contains("etc/motd"), "{full:?}");

    // Nothing is believed of an image directory that was changed after Nix took it.
    fs::write(image.join("more"), "x").unwrap();
    let said = podman.load(&image, &["--via", "store", "--force"]);
    assert_eq!(said.code, 4, "{said:?}");
}

#[test]
fn verify_compares_recipes_with_what_was_built() {
    let podman = Podman::with_nix();
    let stick = on_a_stick(&podman, "the right one");
    podman.load(&stick, &["--via", "store"]).last();
    assert!(podman.said(&["verify"]).last().contains("all good"));
    // What an older windlass took under this digest: another file of the same size.
    let trees = fs::read_dir(podman.home("storage/overlay")).unwrap().map(|entry| entry.unwrap().path().join("diff"));
    let file = trees.into_iter().map(|tree| tree.join("etc/motd")).find(|file| file.is_file()).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, "the wrong one").unwrap();
    set_mode(&file, 0o444);
    let said = podman.said(&["verify"]);
    assert!(said.code == 4 && said.stdout.contains("etc/motd has other bytes than"), "{said:?}");
    assert_eq!(podman.said(&["repair"]).code, 0);
    assert_eq!(podman.sh("localhost/app:1", "cat /etc/motd"), "the right one");
    // And a recipe that was changed after the load.
    let copies = fs::read_dir(podman.places().graph_root.join("windlass/generations/1/images")).unwrap();
    let copy = copies.map(|entry| entry.unwrap().path()).next().unwrap();
    let evil = podman.add("evil", "etc/motd", "a longer text than that", 0o444);
    let good = podman.home("store").join(crate::env::base_name("tree"));
    edit_recipe(&copy, good.to_str().unwrap(), evil.to_str().unwrap());
    let said = podman.said(&["verify"]);
    assert!(said.code == 4 && said.stdout.contains("has other files than the layer's recipe gives"), "{said:?}");
}

const HOLD: &str = r#"
import fcntl, sys, time
file = open(sys.argv[1])
{ "flock": lambda: fcntl.flock(file, fcntl.LOCK_EX), "fcntl": lambda: fcntl.lockf(file, fcntl.LOCK_SH) }[sys.argv[2]]()
print("ready", flush=True)
time.sleep(600)
"#;

#[test]
fn locks_that_others_hold_are_named_and_not_waited_for_without_end() {
    let (podman, app, _) = open_store();
    let storage = podman.home("storage");
    let cannot = |path: PathBuf| {
        let output =
            attacker("/usr/bin/python3", &[OsStr::new("-c"), HOLD.as_ref(), path.as_os_str(), "flock".as_ref()])
                .output()
                .unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("PermissionError"), "{} {output:?}", path.display());
    };
    // Our own file: no other user can open it, even in a store and a graph root that are open.
    let root = podman.places().graph_root;
    set_mode(&podman.env.path(""), 0o755);
    [podman.env.path("podman"), root.clone()].iter().for_each(|path| set_mode(path, 0o755));
    cannot(storage.join("windlass.lock"));
    cannot(root.join("windlass/lock"));
    // Podman's, which an attacker has opened before the store was closed: the process is named, after a while.
    for lock in ["overlay-images/images.lock", "overlay-layers/layers.lock"] {
        set_mode(&storage, 0o755);
        let attack = Attack::start(HOLD, &[storage.join(lock).as_os_str(), "fcntl".as_ref()]);
        let mut command = podman.windlass(&["load", app.to_str().unwrap(), "--force"]);
        let output = command.env("WINDLASS_LOCK_WAIT", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let holder = format!("waited 1 seconds, and process {} (python3) holds it", attack.0.id());
        assert!(!output.status.success() && said.contains(lock) && said.contains(&holder), "{said}");
        drop(attack);
        podman.load(&app, &["--force"]).last();
    }
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
}

/// Shared, a store is read by all and written by windlass alone, also after a boot at which nothing mounted it.
#[test]
fn a_shared_store_is_read_only_for_all_but_windlass() {
    let (podman, app, tree) = open_store();
    set_mode(&podman.home("storage"), 0o700);
    let script = r#"set -e
        mkdir -p "$T/units" /etc/systemd/system; mount --bind "$T/units" /etc/systemd/system
        as() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
        mode() { stat --format %a "$STORE"; findmnt --noheadings --output OPTIONS --target "$STORE" | grep -o '^r[ow]'; }
        if as ls "$STORE" 2>/dev/null; then exit 9; fi
        $W doctor --share --storage-dir "$STORE" | grep '^fixed\|sharing'
        mode; cat "$T/units/"*.mount | tail -9
        as cat "$STORE/overlay-images/images.json" | grep -c localhost/app:1
        if as sh -c 'echo x >"$1/open/planted"' sh "$TREE" 2>&1; then exit 9; fi
        if sh -c 'echo x >"$1/open/planted"' sh "$TREE" 2>&1; then exit 9; fi
        $W load "$APP" --force | tail -1 | sed 's/;.*//'
        podman run --rm --pull=never --network=none localhost/app:1 cat /open/sub/file; echo
        umount "$STORE"; mode
        # What systemd does where the mount fails.
        tail -5 "$T/units/"*.service; systemd-analyze verify "$T/units/"*.service >&2
        sh -c "$(sed -n 's/^ExecStart=//p' "$T/units/"*.service)"; mode; chmod 0755 "$STORE"
        $W load "$APP" 2>&1 >/dev/null
        mode
        $W doctor --close --storage-dir "$STORE" | grep '^fixed\|sharing'
        mode; ls "$T/units" "$T/units/local-fs.target.wants"
        umount /etc/systemd/system; mount -t tmpfs tmpfs /etc/systemd
        if $W doctor --share --storage-dir "$STORE" 2>"$T/said"; then exit 9; fi
        cat "$T/said"; mode"#;
    let command = podman.windlass(&[]);
    let mut namespace = Command::new("unshare");
    namespace.args(["--mount", "bash", "-c", script]).env_clear().env("W", command.get_program());
    namespace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    namespace.env("T", podman.env.path("").to_str().unwrap().trim_end_matches('/'));
    namespace.env("STORE", podman.home("storage")).env("APP", &app).env("TREE", &tree);
    let said = run_ok(&mut namespace).replace(tree.to_str().unwrap(), "$TREE");
    let said = said.replace(podman.home("").to_str().unwrap().trim_end_matches('/'), "$S");
    let escaped = podman.home("storage").to_str().unwrap()[1..].replace('-', "\\x2d").replace('/', "-");
    insta::assert_snapshot!(podman.env.scrub(&said).replace(&escaped, "STORE"));
}
