//! Bundles: what stock tools read of them, what a host without Nix loads of them, and what becomes of damaged ones.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::engine::{Podman, Said};
use crate::env::run_ok;
use crate::foreign::{Foreign, read};
use crate::golden::pattern;

pub(crate) const WEIGHTS: usize = 3_000_000;

/// A stack of two images that share a model, built where there is a Nix store; the bundle is beside it.
pub(crate) struct Source {
    pub(crate) podman: Podman,
    /// Behind the bytes of the model, which lies below everything else.
    salt: &'static str,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self::unlike("")
    }

    /// One whose layers no other test has: what any process of the host has mounted counts as in use.
    pub(crate) fn unlike(salt: &'static str) -> Self {
        let source = Self { podman: Podman::with_nix(), salt };
        source.stack("one");
        source
    }

    /// Builds the stack; `app` has this text.
    pub(crate) fn stack(&self, text: &str) {
        let weights = [&pattern(WEIGHTS), self.salt.as_bytes()].concat();
        let weights = self.podman.add("weights", "weights", weights, 0o444);
        let store = self.podman.home("store");
        let image = |name: &str, text: &str| {
            json!({ "name": name, "storeDir": store, "models": [self.podman.model("weights", "/models", &weights)],
                "content": { "files": { "/bin/busybox": "/usr/bin/busybox" }, "texts": { "/text": text } },
                "config": { "Cmd": ["/bin/busybox", "cat", "/text"] } })
        };
        let images = [image("app", text), image("web", "web")];
        let graph = crate::env::closure(store.to_str().unwrap(), &store, &[("weights", &[])]);
        let graph = self.podman.env.write("closure.json", graph);
        let spec = json!({ "kind": "stack", "name": "both", "images": images });
        let spec = self.podman.env.write("stack-spec.json", spec.to_string());
        drop(fs::remove_dir_all(self.path("stack")));
        let [spec, graph] = [&spec, &graph].map(|path| path.to_str().unwrap());
        self.podman.env.ok(["build", spec, "--closure", graph, "--output", "stack"]);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.podman.env.path(name)
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.path("bundle")
    }

    /// What an export of the stack says.
    pub(crate) fn export(&self, options: &[&str]) -> Value {
        let said = self.podman.said(&[&["export", "stack", "--bundle", "bundle", "--json"], options].concat());
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.stdout).unwrap()
    }

    /// Full names, with the digests of what the build made.
    pub(crate) fn built(&self) -> Vec<(String, String)> {
        let folders = [("images", "app"), ("images", "web"), ("models", "weights")];
        let summary =
            |(folder, name): (&str, &str)| read(&self.path("stack").join(folder).join(name).join("image.json"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        folders.map(summary).map(|summary| (text(&summary["ref"]), text(&summary["digest"]))).to_vec()
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        self.built().into_iter().find(|(reference, _)| reference.contains(&format!("/{name}:"))).unwrap().0
    }

    /// The blob of an image's layer of this kind.
    fn blob(&self, image: &str, kind: &str) -> PathBuf {
        let summary = read(&self.path("stack/images").join(image).join("image.json"));
        let layers = summary["platforms"][0]["layers"].as_array().unwrap();
        let layer = layers.iter().rfind(|layer| layer["kind"] == kind).unwrap();
        self.bundle().join("blobs/sha256").join(&layer["digest"].as_str().unwrap()[7..])
    }

    fn verify(&self, options: &[&str]) -> Said {
        self.podman.said(&[&["verify", "bundle"], options].concat())
    }
}

/// Runs windlass for a Podman on a host that has all programs of this one but Nix.
pub(crate) fn without_nix(podman: &Podman, arguments: &[&str]) -> Said {
    let (nowhere, bin) = (podman.env.path("no-nix"), podman.env.path("no-nix/bin"));
    if !bin.exists() {
        fs::create_dir_all(&bin).unwrap();
        for entry in ["/usr/sbin", "/usr/bin"].iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if !name.to_str().unwrap().starts_with("nix") {
                drop(std::os::unix::fs::symlink(&path, bin.join(name)));
            }
        }
    }
    let mut command = podman.windlass(arguments);
    command.env("PATH", bin).env("NIX_STORE_DIR", nowhere.join("store")).env("NIX_STATE_DIR", nowhere.join("var"));
    Said::of(&command.output().unwrap())
}

pub(crate) fn load(podman: &Podman, bundle: &Path, options: &[&str]) -> Said {
    without_nix(podman, &[&["load", bundle.to_str().unwrap()], options].concat())
}

pub(crate) fn text_of(podman: &Podman, image: &str) -> String {
    podman.run(&["run", "--rm", "--pull=never", "--network=none", image])
}

pub(crate) fn ids(podman: &Podman) -> BTreeSet<String> {
    let format = "{{.Repository}}:{{.Tag}} {{.Id}} {{.Digest}}";
    podman.run(&["images", "--no-trunc", "--format", format]).lines().map(str::to_owned).collect()
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

pub(crate) fn sums_fit(bundle: &Path) {
    run_ok(Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(bundle));
    let sums = fs::read_to_string(bundle.join("SHA256SUMS")).unwrap();
    let listed: BTreeSet<PathBuf> = sums.lines().map(|line| bundle.join(&line[66..])).collect();
    let there: BTreeSet<PathBuf> = files(bundle).into_iter().filter(|path| !path.ends_with("SHA256SUMS")).collect();
    assert_eq!(listed, there);
}

/// skopeo finds every image and model in it by its full name, with the manifest that was built.
fn skopeo_reads(source: &Source) {
    let bundle = source.bundle();
    let folder = tempfile::tempdir().unwrap();
    for (reference, digest) in source.built() {
        // As its README.txt says it.
        let from = format!("oci:.:{reference}");
        let skopeo = |arguments: &[&str]| run_ok(Command::new("skopeo").args(arguments).current_dir(&bundle));
        let manifest = skopeo(&["inspect", "--raw", &from]);
        assert_eq!(Digest::of(manifest.as_bytes()).to_string(), digest);
        let to = format!("dir:{}", folder.path().join(&digest[7..]).display());
        skopeo(&["--insecure-policy", "copy", "--quiet", &from, &to]);
    }
}

#[test]
fn stock_tools_take_images_by_their_names() {
    let source = Source::new();
    let report = source.export(&[]);
    assert_eq!((&report["images"], &report["models"]), (&json!(2), &json!(1)), "{report}");
    sums_fit(&source.bundle());
    skopeo_reads(&source);
    let podman = Podman::new();
    let app = source.reference("app");
    // Podman 4.3 makes the path the image's name.
    let from = format!("oci:bundle:{app}");
    let id = run_ok(podman.command("podman").args(["pull", "--quiet", &from]).current_dir(source.path("")));
    let built = read(&source.path("stack/images/app/image.json"))["platforms"][0]["configDigest"].clone();
    assert_eq!(format!("sha256:{}", id.trim()), built.as_str().unwrap());
    let readme = fs::read_to_string(source.bundle().join("README.txt")).unwrap();
    assert!(source.built().iter().all(|(reference, _)| readme.contains(reference)), "{readme}");
}

#[test]
fn a_host_without_nix_loads_it_as_the_stack_is_loaded() {
    let source = Source::new();
    source.export(&[]);
    source.podman.load(&source.path("stack"), &[]).last();
    let expected = ids(&source.podman);
    for podman in [Podman::linked(), Podman::new()] {
        let planned = load(&podman, &source.bundle(), &["--dry-run"]);
        assert!(planned.last().starts_with("3 to load, 0 present"), "{planned:?}");
        let loaded = load(&podman, &source.bundle(), &[]);
        assert!(loaded.last().starts_with("2 images, 1 model: 3 loaded, 0 present; wrote "), "{loaded:?}");
        assert_eq!(ids(&podman), expected);
        assert_eq!(text_of(&podman, &source.reference("app")), "one");
        let again = load(&podman, &source.bundle(), &[]);
        assert_eq!(again.last(), "2 images, 1 model: 0 loaded, 3 present; wrote 0 B; network 0 bytes");
        let verified = without_nix(&podman, &["verify", "--full"]);
        assert!(verified.last().contains("all good"), "{verified:?}");
        // The stick may be gone by then.
        let away = source.path("away");
        fs::rename(source.bundle(), &away).unwrap();
        assert!(without_nix(&podman, &["verify", "--full"]).last().contains("all good"));
        assert_eq!(without_nix(&podman, &["status"]).code, 0);
        fs::rename(away, source.bundle()).unwrap();
    }
}

#[test]
fn what_is_there_is_not_written_again() {
    let source = Source::new();
    let first = source.export(&[]);
    assert!(first["missing"].as_u64().unwrap() > WEIGHTS as u64);
    // Each byte once.
    let (bytes, count) = (first["bytes"].as_u64().unwrap(), |key: &str| first[key].as_u64().unwrap());
    assert!((bytes - 60_000..bytes + 60_000).contains(&count("read")), "{first}");
    assert!((bytes..bytes + 60_000).contains(&(count("written") + count("cloned"))), "{first}");
    let inodes = || -> BTreeSet<(PathBuf, u64)> {
        files(&source.bundle()).into_iter().map(|path| (path.clone(), fs::metadata(path).unwrap().ino())).collect()
    };
    let before = inodes();
    let second = source.export(&[]);
    assert_eq!((&second["missing"], &second["written"], &second["removed"]), (&json!(0), &json!(0), &json!(0)));
    assert_eq!(inodes(), before);

    let old = source.blob("app", "root");
    source.stack("two");
    let planned = source.export(&["--dry-run"]);
    let new = source.blob("app", "root");
    assert!(old.exists() && !new.exists());
    let third = source.export(&[]);
    let size = fs::metadata(&new).unwrap().len();
    assert_eq!((&planned["missing"], &third["missing"]), (&json!(size), &json!(size)));
    let written = third["written"].as_u64().unwrap();
    assert!((size..size + 60_000).contains(&written), "{written} for {size}");
    assert!(!old.exists() && source.blob("app", "model").exists());
    sums_fit(&source.bundle());
    skopeo_reads(&source);
    let podman = Podman::linked();
    load(&podman, &source.bundle(), &[]).last();
    assert_eq!(text_of(&podman, &source.reference("app")), "two");
}

#[test]
fn large_blobs_are_cut_and_loaded_as_they_are() {
    const MOST: u64 = 1 << 20;
    let source = Source::new();
    source.export(&[]);
    let whole = source.blob("app", "model");
    assert!(whole.exists());
    let report = source.export(&["--max-file", "1MiB"]);
    assert!(report["cut"].as_u64().unwrap() > 0 && !whole.exists(), "{report}");
    let sizes = files(&source.bundle()).into_iter().map(|path| fs::metadata(path).unwrap().len());
    assert_eq!(sizes.max().unwrap(), MOST);
    sums_fit(&source.bundle());
    let again = source.export(&["--max-file", "1MiB"]);
    assert_eq!((&again["missing"], &again["written"]), (&json!(0), &json!(0)));
    assert!(source.verify(&["--full"]).last().contains("all good"));
    for podman in [Podman::linked(), Podman::new()] {
        load(&podman, &source.bundle(), &[]).last();
        assert_eq!(text_of(&podman, &source.reference("app")), "one");
        assert!(without_nix(&podman, &["verify", "--full"]).last().contains("all good"));
    }

    // A part that is lost, or another one in its place.
    let part = whole.with_file_name(format!("{}.part-01", whole.file_name().unwrap().to_str().unwrap()));
    let bytes = fs::read(&part).unwrap();
    fs::write(&part, vec![0; bytes.len()]).unwrap();
    assert_eq!(source.verify(&[]).code, 0);
    let (full, loaded) = (source.verify(&["--full"]), load(&Podman::linked(), &source.bundle(), &[]));
    for said in [full, loaded] {
        assert!(said.code == 4 && said.stderr.contains("app") | said.stdout.contains("/app:"), "{said:?}");
    }
    let join = |shell: &[&str], path: &str| {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(source.bundle().join("join.sh")).env_clear().env("PATH", path);
        Said::of(&command.output().unwrap())
    };
    let (dash, busybox) = (["/usr/bin/dash"], ["/usr/bin/busybox", "sh"]);
    let refused = join(&dash, "/usr/bin:/bin");
    assert!(refused.code == 4 && refused.stderr.contains("are not what they were") && !whole.exists(), "{refused:?}");
    fs::write(&part, bytes).unwrap();

    // Without sha256sum there is openssl.
    let tools = source.path("tools");
    fs::create_dir(&tools).unwrap();
    for tool in ["dirname", "cut", "cat", "mv", "rm", "openssl"] {
        std::os::unix::fs::symlink(Path::new("/usr/bin").join(tool), tools.join(tool)).unwrap();
    }
    for (shell, path) in [(&dash[..], tools.to_str().unwrap()), (&busybox[..], "/usr/bin:/bin")] {
        drop(fs::remove_file(&whole));
        let said = join(shell, path);
        assert!(said.code == 0 && said.stdout.contains("is put together"), "{said:?}");
        assert!(join(shell, path).stdout.contains("is there"));
        skopeo_reads(&source);
    }
    let few = source.podman.said(&["export", "stack", "--bundle", "bundle", "--max-file", "100"]);
    assert!(few.code == 2 && few.stderr.contains("into more than 100 parts"), "{few:?}");
}

#[test]
fn what_is_damaged_is_named_and_the_others_load() {
    let source = Source::new();
    source.export(&[]);
    let (app, web) = (source.reference("app"), source.reference("web"));
    let blob = source.blob("app", "root");
    let config = read(&source.path("stack/images/app/image.json"))["platforms"][0]["configDigest"].clone();
    let config = source.bundle().join("blobs/sha256").join(&config.as_str().unwrap()[7..]);
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    // What is done to a file, and whether that is seen without reading all of it.
    type Damage<'d> = (&'d Path, &'d dyn Fn(&Path), bool);
    let other = source.blob("web", "root");
    let damages: [Damage<'_>; 6] = [
        (&blob, &flip, false),
        (&blob, &|path| fs::remove_file(path).unwrap(), true),
        (&blob, &|path| fs::rename(path, path.with_file_name("0".repeat(64))).unwrap(), true),
        (&blob, &|path| assert!(fs::copy(&other, path).is_ok()), false),
        (&blob, &|path| fs::File::options().write(true).open(path).unwrap().set_len(700).unwrap(), true),
        (&config, &flip, true),
    ];
    for (n, (file, damage, is_seen)) in damages.into_iter().enumerate() {
        let bytes = fs::read(file).unwrap();
        damage(file);
        let name = file.file_name().unwrap().to_str().unwrap();
        // Both ways for one that is only seen while it is read, and for one that is seen before.
        let podmans = if n < 2 { vec![Podman::linked(), Podman::new()] } else { vec![Podman::linked()] };
        for podman in podmans {
            let said = load(&podman, &source.bundle(), &[]);
            assert_eq!(said.code, 4, "{n}: {said:?}");
            assert!(said.stderr.contains(name) && said.stderr.contains("app"), "{n}: {said:?}");
            let there: Vec<String> =
                ids(&podman).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
            assert!(there.contains(&web) && !there.contains(&app) && there.len() == 2, "{n}: {there:?}");
            assert_eq!(text_of(&podman, &web), "web");
        }
        let seen = source.verify(&[]);
        assert_eq!(seen.code, if is_seen { 4 } else { 0 }, "{n}: {seen:?}");
        let full = source.verify(&["--full"]);
        assert_eq!(full.code, 4, "{n}: {full:?}");
        assert!(
            full.stdout.contains(name) && full.stdout.contains(&app) && !full.stdout.contains(&web),
            "{n}: {full:?}"
        );
        drop(fs::remove_file(file.with_file_name("0".repeat(64))));
        fs::write(file, bytes).unwrap();
        assert_eq!(source.verify(&["--full"]).code, 0, "{n}");
    }
    // A layer that both have.
    fs::remove_file(source.blob("app", "model")).unwrap();
    let seen = source.verify(&[]);
    assert!(seen.code == 4 && [&app, &web].iter().all(|name| seen.stdout.contains(*name)), "{seen:?}");
    // It is mended where it is written from; what has its size is read on request.
    source.export(&[]);
    flip(&blob);
    assert_eq!(source.export(&[])["written"], 0);
    let size = fs::metadata(&blob).unwrap().len();
    assert_eq!(source.export(&["--verify", "always"])["written"], size);
    assert_eq!(source.verify(&["--full"]).code, 0);
    // A small file that no digest names.
    fs::write(source.bundle().join("README.txt"), "another\n").unwrap();
    let seen = source.verify(&[]);
    assert!(seen.stdout.contains("README.txt does not have the sum that SHA256SUMS has"), "{seen:?}");
}

#[test]
fn an_export_may_be_killed_at_any_moment() {
    let source = Source::new();
    let arguments = ["export", "stack", "--bundle", "bundle", "--max-file", "100kB"];
    let (mut kills, mut longest) = (0, Duration::from_millis(400));
    while kills < 20 {
        let mut child = source.podman.windlass(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(longest * (kills * 7 % 20 * 2 + 1) / 40);
        child.kill().unwrap();
        match child.wait().unwrap().success() {
            true => {
                longest = longest * 7 / 8;
                // All is to do again.
                fs::remove_dir_all(source.bundle()).unwrap();
            }
            false => kills += 1,
        }
    }
    source.export(&["--max-file", "100kB"]);
    sums_fit(&source.bundle());
    assert!(source.verify(&["--full"]).last().contains("all good"));

    // One that is brought up to date stays what it was until the new one is there.
    for kill in 0..10 {
        source.stack(&format!("text {kill}"));
        let mut child = source.podman.windlass(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(longest * kill / 10);
        child.kill().unwrap();
        child.wait().unwrap();
        let loaded = load(&Podman::new(), &source.bundle(), &["--image", "web"]);
        assert_eq!(loaded.code, 0, "{loaded:?}");
    }
    source.export(&["--max-file", "100kB"]);
    sums_fit(&source.bundle());
}

#[test]
fn two_exports_at_once_make_one_bundle() {
    let source = Source::new();
    let start = |options: &[&str]| {
        let mut command = source.podman.windlass(&[&["export", "stack", "--bundle", "bundle"], options].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(&[]), start(&["--max-file", "1MiB"])].map(|child| Said::of(&child.wait_with_output().unwrap()));
    assert!(both.iter().all(|said| said.code == 0), "{both:?}");
    sums_fit(&source.bundle());
    assert!(source.verify(&["--full"]).last().contains("all good"));
}

#[test]
fn weights_go_in_a_bundle_of_their_own() {
    let source = Source::new();
    source.export(&["--without", "models"]);
    sums_fit(&source.bundle());
    assert!(!source.blob("app", "model").exists());
    assert!(source.verify(&["--full"]).last().contains("all good"));
    let said = source.podman.said(&["export", "stack", "--bundle", "weights", "--only-models"]);
    assert!(said.last().starts_with("weights: 0 images, 1 model, 1 layer of 3.0 MB"), "{said:?}");
    for podman in [Podman::linked(), Podman::new()] {
        let alone = load(&podman, &source.bundle(), &[]);
        assert!(alone.code == 7 && alone.stderr.contains("was exported without"), "{alone:?}");
        load(&podman, &source.path("weights"), &[]).last();
        assert!(load(&podman, &source.bundle(), &[]).last().starts_with("2 images, 0 models: 2 loaded"));
        assert_eq!(text_of(&podman, &source.reference("web")), "web");
    }
}

#[test]
fn images_of_others_stay_as_they_came() {
    let podman = Podman::linked();
    let others = Foreign::oci(&podman.env).build(&podman.env, "others");
    podman.load(&others, &[]).last();
    podman.env.ok(["export", "others", "--bundle", "bundle"]);
    for target in [Podman::linked(), Podman::new()] {
        load(&target, &podman.env.path("bundle"), &[]).last();
        assert_eq!(ids(&target), ids(&podman));
        assert_eq!(text_of(&target, read(&others.join("image.json"))["ref"].as_str().unwrap()), "two\n");
    }
    // A bundle is a stack like others: it can be taken on to the next stick.
    podman.env.ok(["export", "bundle", "--bundle", "next"]);
    assert!(podman.said(&["verify", "next", "--full"]).last().contains("all good"));
}

#[test]
fn what_does_not_fit_or_is_not_ours_is_refused_before_anything_is_written() {
    let source = Source::new();
    let stick = source.podman.env.mount("stick", "tmpfs", 1_000_000);
    let place = stick.0.join("bundle");
    let full = source.podman.said(&["export", "stack", "--bundle", place.to_str().unwrap()]);
    assert!(full.code == 5 && full.stderr.contains(" free; free some, or write elsewhere"), "{full:?}");
    assert!(!place.exists());
    for (name, file) in [("layout", "index.json"), ("text", "README.txt")] {
        let kept = source.podman.env.write(format!("{name}/{file}"), "mine");
        let said = source.podman.said(&["export", "stack", "--bundle", name]);
        assert!(said.code == 2 && said.stderr.contains(&format!("{name}/{file} is there, and no bundle")), "{said:?}");
        assert_eq!((fs::read(kept).unwrap(), files(&source.path(name)).len()), (b"mine".to_vec(), 1));
    }
    // What lies beside a bundle stays.
    let beside = source.podman.env.write("bundle/photo.jpg", "mine");
    source.export(&[]);
    source.export(&["--only-models"]);
    assert!(beside.exists() && !source.bundle().join("images/app").exists());
}
