//! What a load that was interrupted leaves in Podman without an image, and what `windlass gc` says and does of it; networks of
//! the modules; and what a container really runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::env::{Env, Mount, run_ok};
use crate::lab::Lab;

/// A host whose graph root is a file system of this many bytes, with this driver.
fn small_host(driver: &str, bytes: u64) -> (Mount, Lab) {
    let env = Env::new();
    let folder = env.path("podman");
    let root = folder.join("root");
    fs::create_dir_all(&root).unwrap();
    run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=700"), "tmpfs"]).arg(&root));
    let mount = Mount(root);
    let lab = Lab::at(env, folder.clone(), false);
    let conf = folder.join("storage.conf");
    let text = fs::read_to_string(&conf).unwrap().replace("\"overlay\"", &format!("\"{driver}\""));
    fs::write(conf, text).unwrap();
    (mount, lab)
}

fn used(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

/// Fills the disk so that the lower layer of an image fits and the upper one does not, and has skopeo copy it there.
fn interrupted_load(lab: &Lab, name: &str, lower: usize) {
    let image = lab.build(name, 9, lower);
    lab.ok(&["export", &image, "--format", "oci", "--output", &format!("{image}.oci")]);
    let fill = lab.graph_root().join("fill");
    let stat = rustix::fs::statvfs(lab.graph_root()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    // The upper layer has a shell, of 1 MB and more.
    fs::write(&fill, vec![1; usize::try_from(free).unwrap() - lower - 900_000]).unwrap();
    let from = format!("oci:{image}.oci");
    let temporary = lab.env.path("podman/tmp");
    let mut skopeo = lab.command("skopeo");
    skopeo.arg("--insecure-policy").arg("--tmpdir").arg(temporary).args([
        "copy",
        &from,
        "containers-storage:localhost/x:1",
    ]);
    let output = skopeo.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no space left on device"), "{output:?}");
    fs::remove_file(fill).unwrap();
}

fn layers(lab: &Lab, driver: &str) -> Vec<Value> {
    let json = fs::read(lab.graph_root().join(format!("{driver}-layers/layers.json"))).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// A process that looks like one that copies an image into this host's Podman.
struct Loader(Child);

impl Loader {
    fn start(lab: &Lab, program: &str, word: &str) -> Self {
        let script = format!("exec -a {program} tail -f /dev/null {word} 2>/dev/null");
        let child = lab.command("bash").args(["-c", &script]).spawn().unwrap();
        let named = || fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().starts_with(program.as_bytes());
        let end = Instant::now() + Duration::from_secs(10);
        while !named() {
            assert!(Instant::now() < end, "it has no such name");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn layers_that_a_full_disk_left_are_named_and_removed() {
    for (driver, chain) in [("overlay", 1), ("vfs", 1)] {
        let (_mount, lab) = small_host(driver, 40 << 20);
        let kept = lab.load(1, 300_000);
        let before = (used(&lab.graph_root()), layers(&lab, driver).len());
        interrupted_load(&lab, "big", 6_000_000);
        let left = used(&lab.graph_root()) - before.0;
        assert!(left >= 6_000_000, "{driver}: {left}");
        lab.podman(&["image", "prune", "--all", "--force", "--filter", "label=none=none"]);
        assert_eq!(layers(&lab, driver).len(), before.1 + chain, "no prune finds it");

        // Not while something may be at work on it.
        let loaders =
            [("skopeo", "copy", "skopeo copy"), ("/x/.podman-wrapped", "pull", "podman pull"), ("crio", "", "crio")];
        for (program, word, said) in loaders {
            let loader = Loader::start(&lab, program, word);
            let (told, report) = (lab.windlass(&["gc"]).output().unwrap(), lab.json(&["gc", "--apply"]));
            let warning = format!("process {} (`{said}`) may be loading an image", loader.0.id());
            assert!(String::from_utf8_lossy(&told.stderr).contains(&warning), "{told:?}");
            assert_eq!((report["remove"].as_array().unwrap().len(), layers(&lab, driver).len()), (0, before.1 + chain));
        }

        let told = lab.ok(&["gc"]);
        assert!(told.contains(", which a load left in Podman without an image: frees 6.0 MB\n"), "{told}");
        assert!(told.contains("0 containers, 1 leftover; would free 6.0 MB;"), "{told}");
        let report = lab.json(&["gc", "--apply"]);
        assert_eq!(report["remove"][0]["removed"], true, "{report:#}");
        assert_eq!(layers(&lab, driver).len(), before.1);
        let freed = left - (used(&lab.graph_root()) - before.0);
        assert!(freed.abs_diff(report["bytes"].as_u64().unwrap()) * 20 < freed, "{freed}: {report:#}");
        assert!(lab.has(&kept) && lab.podman(&["images", "--quiet"]).lines().count() == 1);
        lab.ok(&["verify", "--full"]);
        assert_eq!(lab.json(&["gc"])["remove"].as_array().unwrap().len(), 0);
        lab.ok(&["load", "big-9"]);
        lab.ok(&["verify", "--full"]);
    }
}

#[test]
fn unfinished_layers_and_folders_without_a_record_go_and_recorded_ones_stay() {
    let (_mount, lab) = small_host("overlay", 60 << 20);
    lab.load(1, 300_000);
    interrupted_load(&lab, "big", 6_000_000);
    let json = lab.graph_root().join("overlay-layers/layers.json");
    let mut all = layers(&lab, "overlay");
    let recorded: Vec<PathBuf> =
        all.iter().map(|layer| lab.graph_root().join("overlay").join(layer["id"].as_str().unwrap())).collect();
    let big = all.iter_mut().find(|layer| layer["diff-size"].as_u64().unwrap() > 5_000_000).unwrap();
    big["flags"] = serde_json::json!({ "incomplete": true });
    let half = big["id"].as_str().unwrap().to_owned();
    fs::write(&json, serde_json::to_vec(&all).unwrap()).unwrap();
    let stray = lab.graph_root().join("overlay").join("ab".repeat(32));
    fs::create_dir_all(stray.join("diff")).unwrap();
    fs::write(stray.join("diff/file"), [7; 700_000]).unwrap();
    let split = lab.graph_root().join(format!("overlay-layers/{}.tar-split.gz", "ab".repeat(32)));
    fs::write(&split, "x").unwrap();
    // Not called like a layer.
    let other = lab.graph_root().join("overlay/backup");
    fs::create_dir(&other).unwrap();

    let told = lab.ok(&["gc"]);
    assert!(
        told.contains(&format!(
            "remove unfinished layer {half:.12}, which a killed load left in Podman: frees 6.0 MB\n"
        )),
        "{told}"
    );
    let stray_name = lab.env.scrub(stray.to_str().unwrap());
    assert!(
        lab.env.scrub(&told).contains(&format!("remove {stray_name}, which no record of Podman names: frees 70")),
        "{told}"
    );
    lab.ok(&["gc", "--apply"]);
    assert!(!stray.exists() && !split.exists() && other.exists());
    assert!(layers(&lab, "overlay").iter().all(|layer| layer["id"] != half.as_str()));
    assert!(!lab.graph_root().join("overlay").join(&half).exists());
    for path in recorded.iter().filter(|path| !path.ends_with(&half)) {
        assert!(path.join("diff").is_dir(), "{}", path.display());
    }
    lab.ok(&["verify", "--full"]);
}

/// A refusal names what a clean-up would free, where it would free something.
#[test]
fn a_refusal_says_what_a_clean_up_would_free_and_nothing_of_nothing() {
    let (_mount, lab) = small_host("overlay", 20 << 20);
    lab.load(1, 300_000);
    let image = lab.build("huge", 3, 30_000_000);
    let (code, refused) = lab.fails(&["load", &image]);
    assert!(code == 5 && refused.contains("nothing was changed") && !refused.contains("would free"), "{refused}");
    interrupted_load(&lab, "big", 6_000_000);
    let (code, refused) = lab.fails(&["load", &image]);
    assert!(code == 5 && refused.contains("hint: `windlass gc --apply` would free 6.0 MB"), "{refused}");
}

#[test]
fn networks_of_the_modules_go_once_nothing_makes_or_uses_them() {
    let lab = Lab::new(false);
    // Networks are of the host otherwise, not of a graph root.
    let conf = lab.env.path("podman/containers.conf");
    let folder = lab.env.path("networks");
    fs::create_dir(&folder).unwrap();
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nnetwork_config_dir = \"{}\"\n", folder.display())).unwrap();
    let image = lab.load(1, 1000);
    for name in ["unused", "used", "made"] {
        lab.podman(&["network", "create", "--label", &format!("windlass.network={name}"), name]);
    }
    lab.podman(&["network", "create", "theirs"]);
    lab.podman(&["create", "--name", "inside", "--pull=never", "--network", "used", &image]);
    let home = lab.env.path("home");
    lab.env.write("home/.config/systemd/user/windlass-network-made.service", "");
    let passwd =
        lab.env.write("passwd", format!("root:x:0:0::/root:/bin/sh\nher:x:1001:1001::{}:/bin/sh\n", home.display()));
    let gc = |arguments: &[&str]| -> Value {
        let mut command = lab.command("unshare");
        let script = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
        command.args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"]).arg(&passwd);
        command.arg(env!("CARGO_BIN_EXE_windlass")).args(["gc", "--json"]).args(arguments);
        serde_json::from_str(&run_ok(&mut command)).unwrap()
    };
    let names = |report: &Value| -> Vec<String> {
        report["remove"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&gc(&[])), [""; 0], "not unless asked for");
    let report = gc(&["--only", "networks", "--apply"]);
    assert_eq!(names(&report), ["network unused"], "{report:#}");
    let why = |name: &str| {
        let kept = report["keep"].as_array().unwrap().iter().find(|kept| kept["name"] == name);
        kept.map(|kept| kept["why"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!(why("network used"), "used by container inside");
    assert_eq!(why("network made"), "windlass-network-made.service makes it");
    let there = lab.podman(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(!there.contains("unused") && ["used", "made", "theirs"].iter().all(|name| there.contains(name)), "{there}");
    lab.podman(&["rm", "inside"]);
    assert_eq!(names(&gc(&["--only", "networks", "--apply"])), ["network used"]);
}

/// A container runs what it was made with, whatever its image is called by now.
#[test]
fn a_container_is_told_with_the_image_that_it_really_runs() {
    let lab = Lab::new(false);
    let first = lab.load(1, 1000);
    lab.podman(&["tag", &first, "localhost/live:1"]);
    lab.start("runner", "localhost/live:1", &[]);
    let second = lab.load(2, 1000);
    let why = || {
        let report = lab.json(&["gc", "--keep-generations", "1"]);
        let keep = report["keep"].as_array().unwrap();
        let kept = keep.iter().find(|kept| kept["name"] == "generation 1").unwrap();
        kept["why"].as_str().unwrap().to_owned()
    };
    assert!(why().ends_with("is used by container runner"), "{}", why());
    lab.podman(&["tag", &second, "localhost/live:1"]);
    let said = format!(
        "container runner, which runs {first}; localhost/live:1, its name when it was made, is another image now"
    );
    assert!(why().ends_with(&said), "{}", why());
    // Without any name it is called by its digest, as the container records it.
    let id = lab.podman(&["container", "inspect", "--format", "{{.Image}}", "runner"]);
    let digest = lab.podman(&["image", "inspect", "--format", "{{.Digest}}", id.trim()]);
    lab.podman(&["untag", id.trim()]);
    let said = format!("container runner, which runs image {:.12} ({});", id.trim(), digest.trim());
    assert!(why().contains(&said), "{}", why());
    assert_eq!(lab.json(&["gc", "--apply", "--keep-generations", "1"])["remove"].as_array().unwrap().len(), 0);
    lab.podman(&["exec", "runner", "/bin/busybox", "true"]);
}
