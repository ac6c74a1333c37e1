//! Bundles on sticks: FAT32 and exFAT, full ones, and ones that are pulled out in the middle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::bundle::{Source, WEIGHTS, ids, load, sums_fit, text_of};
use crate::engine::{Podman, Said};
use crate::env::{Env, run_ok};
use crate::golden::pattern;

/// A stick of this file system, whose driver is a program: this kernel may have none.
struct Stick {
    place: PathBuf,
    image: PathBuf,
    device: Option<String>,
}

impl Stick {
    const SIZE: u64 = 300 << 20;

    fn fat32(env: &Env) -> Self {
        let stick = Self::empty(env, "fat32");
        run_ok(Command::new("mkfs.vfat").args(["-F", "32"]).arg(&stick.image));
        stick.put_in();
        stick
    }

    fn exfat(env: &Env) -> Self {
        let mut stick = Self::empty(env, "exfat");
        run_ok(Command::new("mkfs.exfat").arg(&stick.image));
        let device = run_ok(Command::new("losetup").args(["--find", "--show"]).arg(&stick.image));
        stick.device = Some(device.trim().to_owned());
        stick.put_in();
        stick
    }

    fn empty(env: &Env, name: &str) -> Self {
        let image = env.write(format!("{name}.img"), "");
        fs::File::options().write(true).open(&image).unwrap().set_len(Self::SIZE).unwrap();
        let place = env.path(name);
        fs::create_dir(&place).unwrap();
        Self { place, image, device: None }
    }

    fn put_in(&self) {
        let mut command = match &self.device {
            Some(device) => {
                let mut command = Command::new("mount.exfat-fuse");
                command.arg(device);
                command
            }
            None => {
                let mut command = Command::new("fusefat");
                command.args(["-o", "rw+"]).arg(&self.image);
                command
            }
        };
        run_ok(command.arg(&self.place).stderr(Stdio::null()));
    }

    fn take_out(&self) {
        run_ok(Command::new("umount").arg(&self.place));
    }

    /// Takes it out without a word: its driver is gone, and what it had not written yet.
    fn pull_out(&self) {
        run_ok(Command::new("pkill").args(["-KILL", "-f", &format!("fusefat .*{}", self.image.display())]));
        run_ok(Command::new("umount").args(["--lazy"]).arg(&self.place));
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["--lazy", "--quiet"]).arg(&self.place).status());
        if let Some(device) = &self.device {
            drop(Command::new("losetup").args(["--detach", device]).status());
        }
    }
}

fn export(source: &Source, bundle: &Path, options: &[&str]) -> Said {
    source.podman.said(&[&["export", "stack", "--bundle", bundle.to_str().unwrap()], options].concat())
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: not within ten seconds");
}

/// Gives a file or directory of a stick its name in capitals, as it may come back from other systems. A name that differs in
/// case alone is the same name there.
fn capitalise(path: &Path) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let beside = path.with_file_name("BESIDE");
    fs::rename(path, &beside).unwrap();
    fs::rename(beside, path.with_file_name(name.to_uppercase())).unwrap();
}

#[test]
fn fat32_and_exfat_hold_one() {
    let source = Source::new();
    for stick in [Stick::fat32(&source.podman.env), Stick::exfat(&source.podman.env)] {
        source.stack("one");
        let bundle = stick.place.join("ai");
        let first = export(&source, &bundle, &["--max-file", "1MiB"]);
        assert!(first.last().contains("(3 cut into parts)"), "{first:?}");
        sums_fit(&bundle);
        // What is there is known again after the stick was elsewhere.
        stick.take_out();
        stick.put_in();
        assert!(export(&source, &bundle, &["--max-file", "1MiB"]).last().contains("wrote 0 B"));

        // Names in capitals are the same names.
        for name in ["images/app", "stack.json", "SHA256SUMS", "README.txt"] {
            capitalise(&bundle.join(name));
        }
        source.stack("two");
        let said = export(&source, &bundle, &["--max-file", "1MiB"]);
        // Two parts of a layer, a manifest and a config.
        assert!(said.last().ends_with("removed 4 old files"), "{said:?}");
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(bundle.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert!(names("images").contains(&"APP".to_owned()), "{:?}", names("images"));
        let checked = source.podman.said(&["verify", bundle.to_str().unwrap(), "--full"]);
        assert!(checked.last().contains("all good"), "{checked:?}");
        let podman = Podman::linked();
        assert!(load(&podman, &bundle, &[]).last().starts_with("2 images, 1 model: 3 loaded"));
        assert_eq!(text_of(&podman, &source.reference("app")), "two");
        stick.take_out();
    }
}

#[test]
fn a_stick_that_is_pulled_out_while_it_is_written_is_finished_by_the_next_run() {
    let source = Source::new();
    let weights = pattern(60_000_000);
    let large = source.podman.env.write("large", &weights);
    let spec = serde_json::json!({ "kind": "image", "name": "large", "content": { "files": { "/large": large } },
        "config": { "Cmd": ["/large"] } });
    source.podman.build("stack", &spec);
    let stick = Stick::fat32(&source.podman.env);
    let bundle = stick.place.join("ai");
    let blobs = bundle.join("blobs/sha256");
    let is_writing = || {
        let mut entries = fs::read_dir(&blobs).into_iter().flatten().flatten();
        entries.any(|entry| entry.metadata().is_ok_and(|found| found.len() > 1_000_000))
    };
    let child = start(&mut source.podman.windlass(&["export", "stack", "--bundle", bundle.to_str().unwrap()]));
    wait_until("the export writes", is_writing);
    stick.pull_out();
    let said = Said::of(&child.wait_with_output().unwrap());
    let place = stick.place.to_str().unwrap();
    assert!(said.code == 1 && said.stderr.contains(place) && said.stderr.contains("not connected"), "{said:?}");
    // What a driver had in its memory is lost with it: as after a real one, the checker goes first.
    drop(Command::new("fsck.vfat").args(["-a", "-w"]).arg(&stick.image).stdout(Stdio::null()).status());
    stick.put_in();
    let said = export(&source, &bundle, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    sums_fit(&bundle);
    assert!(source.podman.said(&["verify", bundle.to_str().unwrap(), "--full"]).last().contains("all good"));

    // … and while it is read.
    stick.take_out();
    stick.put_in();
    let podman = Podman::linked();
    let child = start(&mut podman.windlass(&["load", bundle.to_str().unwrap()]));
    let storage = podman.home("storage");
    let begun = || run_ok(Command::new("du").args(["-sk"]).arg(&storage)).split('\t').next().unwrap().parse::<u64>();
    let before = begun().unwrap();
    wait_until("the load writes", || begun().unwrap() > before + 1000);
    stick.pull_out();
    let said = Said::of(&child.wait_with_output().unwrap());
    assert!(said.code != 0 && said.stderr.contains("large") && said.stderr.contains(place), "{said:?}");
    podman.wait_for_podman();
    assert!(ids(&podman).is_empty(), "{:?}", ids(&podman));
    stick.put_in();
    assert!(load(&podman, &bundle, &[]).last().starts_with("1 image, 0 models: 1 loaded"));
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
}

#[test]
fn a_stick_without_room_for_more_files_keeps_what_it_had() {
    let source = Source::new();
    source.podman.load(&source.path("stack"), &[]).last();
    // Bytes enough, which is asked before; but files it takes only a few.
    let place = source.path("few");
    fs::create_dir(&place).unwrap();
    run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", "size=100M,nr_inodes=9", "tmpfs"]).arg(&place));
    let mount = crate::env::Mount(place);
    let bundle = mount.0.join("ai");
    let said = export(&source, &bundle, &[]);
    assert!(said.code == 5 && said.stderr.contains("No space left on device"), "{said:?}");
    assert!(said.stderr.contains(bundle.to_str().unwrap()), "{said:?}");
    run_ok(Command::new("mount").args(["-o", "remount,nr_inodes=90"]).arg(&mount.0));
    let said = export(&source, &bundle, &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    // The weights went first, and are not written again.
    assert!(report["written"].as_u64().unwrap() < WEIGHTS as u64, "{said:?}");
    sums_fit(&bundle);
}

#[test]
fn a_load_from_it_may_be_killed_at_any_moment() {
    let source = Source::unlike("killed");
    source.export(&[]);
    let podman = Podman::linked();
    let (mut kills, mut longest) = (0, Duration::from_millis(600));
    while kills < 20 {
        let mut child = start(&mut podman.windlass(&["load", source.bundle().to_str().unwrap()]));
        std::thread::sleep(longest * (kills * 7 % 20 * 2 + 1) / 40);
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            longest = longest * 7 / 8;
            let said = podman.said(&["unload", "app", "web", "weights"]);
            assert_eq!(said.code, 0, "after {kills} kills: {said:?}");
        } else {
            kills += 1;
        }
        podman.wait_for_podman();
    }
    let said = load(&podman, &source.bundle(), &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(ids(&podman).len(), 3);
    assert!(podman.said(&["verify", "--full"]).last().contains("all good"));
    assert_eq!(text_of(&podman, &source.reference("app")), "one");
}

/// A reader that was not written for windlass: the standard library of Python.
const READER: &str = r#"
import hashlib, json, sys, tarfile
blob = lambda digest: f"blobs/{digest.replace(':', '/')}"
index = json.load(open("index.json"))
for entry in index["manifests"]:
    name = entry["annotations"]["org.opencontainers.image.ref.name"]
    data = open(blob(entry["digest"]), "rb").read()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == entry["digest"] and len(data) == entry["size"]
    manifest = json.loads(data)
    config = json.load(open(blob(manifest["config"]["digest"])))
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert "sha256:" + hashlib.sha256(open(blob(layer["digest"]), "rb").read()).hexdigest() == diff_id
        with tarfile.open(blob(layer["digest"])) as tar:
            text = [tar.extractfile(member).read().decode() for member in tar if member.name.strip("./") == "text"]
            print(name, *text)
"#;

#[test]
fn python_and_umoci_read_one() {
    let source = Source::new();
    source.export(&[]);
    let told = run_ok(Command::new("python3").args(["-c", READER]).current_dir(source.bundle()));
    assert!(told.lines().any(|line| line == format!("{} one", source.reference("app"))), "{told}");
    let listed = run_ok(Command::new("umoci").args(["ls", "--layout"]).arg(source.bundle()));
    let expected: Vec<String> = source.built().into_iter().map(|(reference, _)| reference).collect();
    assert!(expected.iter().all(|reference| listed.lines().any(|line| line == reference)), "{listed}");
}

#[test]
fn what_a_bundle_must_have_is_named_where_it_is_gone() {
    let source = Source::new();
    source.export(&[]);
    for name in ["stack.json", "oci-layout", "index.json"] {
        let (path, away) = (source.bundle().join(name), source.path("away"));
        fs::rename(&path, &away).unwrap();
        for said in [load(&Podman::linked(), &source.bundle(), &[]), source.podman.said(&["verify", "bundle"])] {
            assert!(said.code != 0 && (said.stderr + &said.stdout).contains(name), "{name}: {:?}", said.code);
        }
        fs::rename(away, path).unwrap();
    }
}
