//! Images handed over to a real Podman: what it then has, what is left behind, and what is said when it goes wrong.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass::internals::disk::progress::Progress;
use windlass::internals::disk::served::ServedPlace;
use windlass::internals::engine::process::ProgramError;
use windlass::internals::image::layout::{ImageDir, LayoutError};
use windlass::internals::oci::digest::Digest;
use windlass::internals::podman::load::pull::{PullError, Pulled, pull};
use windlass::internals::podman::storage::client::PodmanClient;
use windlass::internals::podman::storage::places::{Overrides, Places};

use crate::engine::{Podman, text};
use crate::env::{Env, run_ok};

const MIB: usize = 1 << 20;

/// An image `app` with a model of so many MiB and a small layer with this text.
fn image(env: &Env, mebibytes: usize, text: &str) -> ImageDir {
    if !env.path("model.bin").exists() {
        env.write("model.bin", (0..mebibytes * MIB).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>());
    }
    let source = env.write(format!("{text}.txt"), text);
    let model = json!({ "name": "weights", "files": { "model.bin": env.path("model.bin") } });
    let spec = json!({
        "kind": "image", "name": "app", "tag": text, "models": [{ "spec": model }],
        "content": { "files": { "/text": source } },
    });
    build(env, text, &spec)
}

fn build(env: &Env, name: &str, spec: &Value) -> ImageDir {
    let (file, output) = (format!("{name}.json"), env.path(format!("built-{name}")));
    env.write(&file, spec.to_string());
    env.ok(["build", &file, "--output", output.to_str().unwrap()]);
    ImageDir::open(&output).unwrap()
}

/// Hands over the first platform, of which Podman has nothing.
fn pulled(podman: &Podman, image: &ImageDir) -> Result<Pulled, PullError> {
    let platform = &image.summary().platforms[0];
    pull(&podman.engine(), &podman.places(), image, platform, &BTreeSet::new(), &Progress::new())
}

/// The image's layers but the first `count` are what Podman has.
fn all_but(image: &ImageDir, count: usize) -> BTreeSet<Digest> {
    image.summary().layers().iter().skip(count).map(|layer| layer.digest).collect()
}

/// No working directory in the graph root, and nothing in the user's own temporary one.
fn nothing_left(podman: &Podman) {
    nothing_of_ours(&podman.places());
    assert_eq!(fs::read_dir(podman.env.path("podman/tmp")).unwrap().count(), 0);
}

fn nothing_of_ours(places: &Places) {
    let names = fs::read_dir(&places.graph_root).unwrap().map(|entry| entry.unwrap().file_name());
    let ours: Vec<_> = names.filter(|name| name.to_string_lossy().contains("windlass")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

/// A program of this name before all others on PATH.
fn shadow(podman: &Podman, program: &str, script: &str) -> String {
    let file = podman.env.write(format!("bin/{program}"), format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{}", file.parent().unwrap().display(), std::env::var("PATH").unwrap())
}

/// A PATH on which there are these programs, and what Podman needs, but no other.
fn only(podman: &Podman, programs: &[&str]) -> PathBuf {
    let folder = podman.env.path("only");
    fs::create_dir_all(&folder).unwrap();
    for program in programs {
        let found = run_ok(Command::new("sh").args(["-c", &format!("command -v {program}")]));
        std::os::unix::fs::symlink(found.trim(), folder.join(program)).unwrap();
    }
    folder
}

/// What stock tools say of the image, and the bytes of its files in a container.
fn is_whole(podman: &Podman, image: &ImageDir, id: Digest) {
    let summary = image.summary();
    let by_digest = format!("{}@{}", summary.name, summary.digest);
    for name in [&*by_digest, &*summary.reference] {
        let told = podman.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(told.trim(), id.hex(), "{name}");
    }
    let mounted = podman.run(&["image", "mount", &by_digest]);
    let model = Path::new(mounted.trim()).join("models/model.bin");
    assert_eq!(fs::read(model).unwrap(), fs::read(podman.env.path("model.bin")).unwrap());
    podman.run(&["image", "umount", &by_digest]);
}

#[test]
fn only_missing_layers_are_handed_over_and_a_second_tag_stays() {
    let podman = Podman::new();
    let (one, two) = (image(&podman.env, 4, "one"), image(&podman.env, 4, "two"));
    let first = pulled(&podman, &one).unwrap();
    assert_eq!((first.program, first.layers), ("skopeo", 2));
    is_whole(&podman, &one, one.summary().platforms[0].config_digest);
    nothing_left(&podman);

    // The model is there; even its source may be gone.
    fs::rename(podman.env.path("model.bin"), podman.env.path("away")).unwrap();
    let platform = &two.summary().platforms[0];
    let model = BTreeSet::from([platform.layers[0].digest]);
    let second = pull(&podman.engine(), &podman.places(), &two, platform, &model, &Progress::new()).unwrap();
    let large = platform.layers[0].size;
    // The first wrote the model at least. The kernel counts for a process: nextest gives each test one of its own.
    let model = (4 * MIB) as u64;
    assert!(second.layers == 1 && second.bytes < large && first.bytes >= model, "{first:?} {second:?}");
    fs::rename(podman.env.path("away"), podman.env.path("model.bin")).unwrap();
    is_whole(&podman, &two, platform.config_digest);
    is_whole(&podman, &one, one.summary().platforms[0].config_digest);
    nothing_left(&podman);

    let engine = podman.engine();
    let progress = Progress::new();
    let (there, gone) = (&*two.summary().reference, "localhost/app:on");
    let ids = engine.exists(&[gone, there, "localhost/app:t", &first.name, there], &progress).unwrap();
    let id = Some(platform.config_digest);
    assert_eq!(ids, [None, id, None, Some(one.summary().platforms[0].config_digest), id]);
    assert_eq!(engine.version(&progress).unwrap(), podman.run(&["version", "--format", "{{.Client.Version}}"]).trim());
    engine.tag(there, "localhost/app:on", &progress).unwrap();
    engine.untag(there, "localhost/app:on", &progress).unwrap();
    let failed = engine.remove_image("localhost/app:on", &progress).unwrap_err().to_string();
    assert_eq!(
        failed,
        "podman could not remove localhost/app:on: localhost/app:on: image not known; see whether `podman info` works"
    );
}

#[test]
fn a_podman_without_skopeo_takes_the_image_under_its_own_name_alone() {
    let podman = Podman::new();
    let one = image(&podman.env, 2, "one");
    let path = only(&podman, &["podman", "runc", "conmon"]);
    let engine = podman.engine().with_variable("PATH", path);
    let platform = &one.summary().platforms[0];
    let done = pull(&engine, &podman.places(), &one, platform, &BTreeSet::new(), &Progress::new()).unwrap();
    assert_eq!(done.program, "podman");
    is_whole(&podman, &one, platform.config_digest);
    assert_eq!(podman.run(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), "localhost/app:one\n");
    nothing_left(&podman);

    let engine = podman.engine().with_variable("PATH", podman.env.path("nowhere"));
    let none = pull(&engine, &podman.places(), &one, platform, &BTreeSet::new(), &Progress::new()).unwrap_err();
    assert!(matches!(none, PullError::Engine(ProgramError::Missing { program: "podman" })), "{none}");
    nothing_left(&podman);
}

#[test]
fn of_an_index_the_platform_that_is_asked_for_is_taken_and_both_digests_hold() {
    let podman = Podman::new();
    podman.env.write("model.bin", [3; 5000]);
    let part = |platform: &str| {
        let model = json!({ "name": "weights", "files": { "model.bin": podman.env.path("model.bin") } });
        let spec = json!({ "kind": "image", "name": "app", "platform": platform, "models": [{ "spec": model }] });
        build(&podman.env, &platform.replace('/', "-"), &spec).path().to_owned()
    };
    let parts = [part("linux/arm64/v8"), part("linux/amd64")];
    let index = build(&podman.env, "index", &json!({ "kind": "index", "name": "multi", "tag": "1", "images": parts }));
    for engine in [podman.engine(), podman.engine().with_variable("PATH", only(&podman, &["podman", "runc"]))] {
        for platform in &index.summary().platforms {
            pull(&engine, &podman.places(), &index, platform, &BTreeSet::new(), &Progress::new()).unwrap();
            let summary = index.summary();
            let names = [summary.digest, platform.digest].map(|digest| format!("{}@{digest}", summary.name));
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let ids = engine.exists(&names, &Progress::new()).unwrap();
            assert_eq!(ids, [Some(platform.config_digest); 2], "{}", platform.platform);
            podman.run(&["rmi", "--all", "--force"]);
        }
    }
}

#[test]
fn a_layer_of_an_additional_store_is_not_built_upon() {
    let (other, podman) = (Podman::new(), Podman::new());
    let one = image(&podman.env, 2, "one");
    pulled(&other, &one).unwrap();
    let store = other.places().graph_root;
    let conf = podman.env.path("podman/storage.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}[storage.options]\nadditionalimagestores = [{:?}]\n", store.to_str().unwrap()))
        .unwrap();
    assert!(podman.run(&["images"]).contains("localhost/app"), "the store is seen");
    let two = image(&podman.env, 2, "two");
    assert_eq!(pulled(&podman, &two).unwrap().layers, 2);
    let layers = podman.places().graph_root.join("overlay-layers/layers.json");
    let layers: Value = serde_json::from_slice(&fs::read(layers).unwrap()).unwrap();
    assert_eq!(layers.as_array().unwrap().len(), 2);

    // With places by hand Podman still sees the stores of its configuration.
    let fresh = podman.env.path("fresh");
    let places = Places { graph_root: fresh.clone(), image_stores: vec![store], ..podman.places() };
    let given = Overrides { root: Some(fresh), ..Overrides::default() };
    let engine = podman.engine_at(&given, &places);
    let seen = engine.exists(&["localhost/app:one", "localhost/app:two"], &Progress::new()).unwrap();
    assert_eq!(seen, [Some(one.summary().platforms[0].config_digest), None]);
    pull(&engine, &places, &two, &two.summary().platforms[0], &BTreeSet::new(), &Progress::new()).unwrap();
    drop(Command::new("umount").arg("--lazy").arg(podman.env.path("fresh/overlay")).output());
}

#[test]
fn a_full_image_is_linked_not_copied() {
    let podman = Podman::new();
    let lean = image(&podman.env, 4, "one");
    let full = podman.env.path("full");
    podman.env.ok(["build", "one.json", "--full", "--output", full.to_str().unwrap()]);
    let full = ImageDir::open(&full).unwrap();
    let progress = Progress::new();
    let platform = &full.summary().platforms[0];
    pull(&podman.engine(), &podman.places(), &full, platform, &BTreeSet::new(), &progress).unwrap();
    assert!(progress.written() < MIB as u64 / 10, "{}", progress.written());
    is_whole(&podman, &lean, platform.config_digest);
}

#[test]
fn bytes_that_changed_are_named_by_their_path() {
    let podman = Podman::new();
    let one = image(&podman.env, 2, "one");
    let model = podman.env.path("model.bin");
    let mut bytes = fs::read(&model).unwrap();
    bytes[MIB] ^= 1;
    fs::write(&model, &bytes).unwrap();
    let error = pulled(&podman, &one).unwrap_err();
    let PullError::Layout(LayoutError::Changed { title, culprits, .. }) = &error else { panic!("{error}") };
    assert_eq!((title.as_str(), &culprits[..]), ("weights", &[model.display().to_string()][..]));
    nothing_left(&podman);

    bytes.push(0);
    fs::write(&model, &bytes).unwrap();
    assert!(matches!(pulled(&podman, &one), Err(PullError::Layout(LayoutError::Changed { .. }))));
    fs::remove_file(&model).unwrap();
    assert!(matches!(pulled(&podman, &one), Err(PullError::Layout(LayoutError::Layer { .. }))));

    // A layer that Podman does not have, although we were told so.
    let platform = &one.summary().platforms[0];
    let gone = pull(&podman.engine(), &podman.places(), &one, platform, &all_but(&one, 0), &Progress::new());
    assert!(matches!(gone, Err(PullError::LayerGone { .. })), "{gone:?}");
    nothing_left(&podman);
    assert_eq!(podman.run(&["images", "--all", "--quiet"]), "");
    let layers = fs::read_to_string(podman.places().graph_root.join("overlay-layers/layers.json"));
    assert!(layers.map_or(true, |layers| layers == "[]" || layers == "null"));
}

#[test]
fn what_was_finished_before_a_failure_is_taken_over_by_the_next_try() {
    let podman = Podman::new();
    let one = image(&podman.env, 2, "one");
    let file = podman.env.path("one.txt");
    fs::write(&file, "eno").unwrap();
    assert!(matches!(pulled(&podman, &one), Err(PullError::Layout(LayoutError::Changed { .. }))));
    nothing_left(&podman);
    fs::write(&file, "one").unwrap();
    let layers = podman.places().graph_root.join("overlay-layers/layers.json");
    let layers: Value = serde_json::from_slice(&fs::read(layers).unwrap()).unwrap();
    assert_eq!(layers[0]["diff-digest"], one.summary().layers()[0].digest.to_string());
    let model = BTreeSet::from([one.summary().layers()[0].digest]);
    let platform = &one.summary().platforms[0];
    pull(&podman.engine(), &podman.places(), &one, platform, &model, &Progress::new()).unwrap();
    is_whole(&podman, &one, platform.config_digest);
}

#[test]
fn who_only_says_so_is_not_believed() {
    let podman = Podman::new();
    let one = image(&podman.env, 1, "one");
    let with = |path: &str| {
        let engine = podman.engine().with_variable("PATH", path);
        let platform = &one.summary().platforms[0];
        pull(&engine, &podman.places(), &one, platform, &BTreeSet::new(), &Progress::new()).unwrap_err().to_string()
    };
    let skopeo = with(&shadow(&podman, "skopeo", "exit 0"));
    assert!(skopeo.starts_with("skopeo said that localhost/app@sha256:"), "{skopeo}");
    fs::remove_file(podman.env.path("bin/skopeo")).unwrap();

    // Only a Podman, and it does nothing; nor does it say that it knows an image.
    let liar = shadow(&podman, "podman", "echo 'Loaded image: localhost/app:one'");
    let liar = liar.split(':').next().unwrap();
    let podman_alone = with(liar);
    let end = "answered 'Loaded image: localhost/app:one': the podman on PATH is another program";
    assert!(podman_alone.ends_with(end), "{podman_alone}");
    let nothing =
        "case \"$*\" in *inspect*) shift 5; for n; do echo \"Error: $n: image not known\" >&2; done; exit 125; esac";
    shadow(&podman, "podman", nothing);
    let silent = with(liar);
    assert!(silent.starts_with("podman said that localhost/app@sha256:"), "{silent}");
    nothing_left(&podman);
}

#[test]
fn what_does_not_fit_is_refused_before_and_cleaned_up_after() {
    let podman = Podman::new();
    let one = image(&podman.env, 12, "one");
    let small = podman.env.mount("small", "ext4", 48 << 20);
    let places = Places { graph_root: small.0.join("root"), ..podman.places() };
    let given = Overrides { root: Some(places.graph_root.clone()), ..Overrides::default() };
    let engine = podman.engine_at(&given, &places);
    let platform = &one.summary().platforms[0];
    let load = |engine: &PodmanClient| pull(engine, &places, &one, platform, &BTreeSet::new(), &Progress::new());

    let filler = small.0.join("filler");
    fs::write(&filler, vec![1; 32 * MIB]).unwrap();
    let refused = load(&engine).unwrap_err();
    let PullError::NoSpace { needed, free, layers, .. } = &refused else { panic!("{refused}") };
    assert!(needed > free && *layers == platform.size, "{refused}");
    // The layers alone: what is served lies nowhere else, and neither do the copies of the program that takes it.
    let copies = if ServedPlace::is_possible() { 1 } else { 3 };
    assert_eq!(*needed, copies * layers, "{refused}");
    fs::remove_file(&filler).unwrap();
    // Podman alone keeps its copies.
    fs::write(&filler, vec![1; 20 * MIB]).unwrap();
    let refused = load(&engine.clone().with_variable("PATH", "/nowhere")).unwrap_err();
    let copies = if ServedPlace::is_possible() { 2 } else { 3 };
    assert!(matches!(refused, PullError::NoSpace { needed, .. } if needed == copies * platform.size), "{refused}");
    fs::remove_file(&filler).unwrap();

    // What the sum cannot know: another program writes meanwhile.
    let script = format!("head -c 100000000 /dev/zero >{}; PATH=${{PATH#*:}} exec skopeo \"$@\"", filler.display());
    let full = load(&engine.clone().with_variable("PATH", shadow(&podman, "skopeo", &script))).unwrap_err();
    assert!(matches!(full, PullError::Full { .. }), "{full}");
    nothing_of_ours(&places);
    fs::remove_file(&filler).unwrap();
    if ServedPlace::is_possible() {
        // No room for a copy of the model.
        fs::write(&filler, vec![1; 20 * MIB]).unwrap();
        // It changes when it is copied and not yet unpacked.
        let model = podman.env.path("model.bin");
        let script = format!(
            "for a; do [ \"$before\" = --tmpdir ] && to=$a/copy; before=$a; done\n\
             cp \"$(find -L windlass-*/blobs/sha256 -type f -size +1M -print -quit)\" \"$to\" || exit\n\
             printf x | dd of={} conv=notrunc status=none\n\
             cat \"$to\" >/dev/null || echo \"read $to: input/output error\" >&2; exit 1",
            model.display()
        );
        let good = fs::read(&model).unwrap();
        let changed = load(&engine.clone().with_variable("PATH", shadow(&podman, "skopeo", &script))).unwrap_err();
        assert!(
            matches!(&changed, PullError::Layout(LayoutError::Changed { title, .. }) if title == "weights"),
            "{changed}"
        );
        fs::write(&model, good).unwrap();
    }
    let done = load(&engine).unwrap();
    if ServedPlace::is_possible() {
        assert_eq!(done.bytes, platform.size);
    }
    let model = run_ok(Command::new("find").arg(places.graph_root.join("overlay")).args(["-name", "model.bin"]));
    assert!(fs::read(model.trim()).unwrap() == fs::read(podman.env.path("model.bin")).unwrap());
    nothing_of_ours(&places);
    drop(Command::new("umount").arg("--lazy").arg(places.graph_root.join("overlay")).output());
}

#[test]
fn a_stop_ends_skopeo_too_and_the_next_try_succeeds() {
    let podman = Podman::new();
    let one = image(&podman.env, 64, "one");
    for delay in [50, 150, 300] {
        let progress = Progress::new();
        let platform = &one.summary().platforms[0];
        let (stop, start) = (progress.stop_flag(), Instant::now());
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let result = pull(&podman.engine(), &podman.places(), &one, platform, &BTreeSet::new(), &progress);
        stopper.join().unwrap();
        assert!(result.is_err_and(|error| error.to_string().contains("stopped by a signal")), "{delay}");
        assert!(start.elapsed() < Duration::from_secs(5));
        nothing_left(&podman);
    }
    pulled(&podman, &one).unwrap();
    is_whole(&podman, &one, one.summary().platforms[0].config_digest);
    nothing_left(&podman);
}

/// Not a test by itself: the process that the next ones kill, or trace.
#[test]
fn in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os("PULL_IN") else { return };
    let folder = PathBuf::from(folder);
    let places = Places {
        graph_root: folder.join("podman/root"),
        run_root: folder.join("podman/run"),
        driver: "overlay".to_owned(),
        image_stores: Vec::new(),
        separate_store: None,
        driver_options: std::collections::BTreeMap::new(),
        temporary: None,
        conf: Some(folder.join("podman/storage.conf")),
        rootless: !rustix::process::geteuid().is_root(),
    };
    let image = ImageDir::open(&folder.join("built-one")).unwrap();
    let engine = PodmanClient::new(&Overrides::default(), &places);
    pull(&engine, &places, &image, &image.summary().platforms[0], &BTreeSet::new(), &Progress::new()).unwrap();
}

fn process(podman: &Podman, wrap: &[&str]) -> Command {
    let mut command = podman.command(wrap.first().copied().unwrap_or("env"));
    command.args(wrap.iter().skip(1)).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "pull::in_a_process_of_its_own"]).env("PULL_IN", podman.env.path(""));
    command
}

#[test]
fn killed_at_any_moment_the_next_run_leaves_nothing_over() {
    let podman = Podman::new();
    let one = image(&podman.env, 64, "one");
    for delay in [30, 80, 130, 200, 300, 400, 600] {
        let mut child = process(&podman, &[]).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        podman.wait_for_podman();
    }
    pulled(&podman, &one).unwrap();
    is_whole(&podman, &one, one.summary().platforms[0].config_digest);
    nothing_left(&podman);
}

/// What lies in the layout that skopeo is given: the kind of each blob, how many bytes it has, and its device; the device of the place;
/// and what is mounted meanwhile.
const LOOK: &str =
    "for blob in windlass-*/blobs/sha256/*; do stat --format '%F' \"$blob\"; stat --dereference --format %s \"$blob\"
                        stat --dereference --format %d \"$blob\"; done >\"$LOOKED\"
                    stat --format %d . >>\"$LOOKED\"
                    cat /proc/self/mountinfo >\"$LOOKED.mounts\"
                    PATH=${PATH#*:} exec skopeo \"$@\"";

#[test]
fn a_layer_is_made_while_it_is_read_and_where_that_cannot_be_it_is_a_file() {
    let podman = Podman::new();
    let one = image(&podman.env, 8, "one");
    let platform = &one.summary().platforms[0];
    let (looked, path) = (podman.env.path("looked"), shadow(&podman, "skopeo", LOOK));
    // The second time there is something else at the place of the device.
    let none = ["unshare", "--mount", "sh", "-c", "mount --bind /dev/null /dev/fuse && exec \"$@\"", "sh"];
    for (wrap, kind, is_elsewhere) in [(&[][..], "symbolic link", true), (&none[..], "regular file", false)] {
        let output = process(&podman, wrap).env("PATH", &path).env("LOOKED", &looked).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let looked = fs::read_to_string(&looked).unwrap();
        let lines: Vec<&str> = looked.lines().collect();
        for layer in &platform.layers {
            let size = layer.size.to_string();
            let found: Vec<_> =
                lines.chunks_exact(3).filter(|blob| blob[1] == size).map(|blob| (blob[0], blob[2])).collect();
            assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [kind], "{looked}");
            assert_eq!(Some(&found[0].1) != lines.last(), is_elsewhere, "{looked}");
        }
        // While skopeo reads there, no directory shows it.
        let mounts = fs::read_to_string(podman.env.path("looked.mounts")).unwrap();
        assert!(mounts.contains(" / / "), "{mounts}");
        assert!(!mounts.contains(" - fuse windlass "), "{mounts}");
        is_whole(&podman, &one, platform.config_digest);
        nothing_left(&podman);
        podman.run(&["rmi", "--all", "--force"]);
    }
}

#[test]
fn no_network_is_asked_for_and_nothing_written_to_var_tmp() {
    let podman = Podman::new();
    let one = image(&podman.env, 1, "one");
    let log = podman.env.path("trace");
    let alone = only(&podman, &["podman", "runc"]);
    for path in [std::env::var("PATH").unwrap(), alone.display().to_string()] {
        let options = ["-f", "-qq", "-e", "trace=socket,connect,openat,mkdirat,mkdir", "-o", log.to_str().unwrap()];
        let path = format!("PATH={path}");
        let traced = [&["unshare", "--net", "strace"], &options[..], &["-E", &path, "--"]].concat();
        let output = process(&podman, &traced).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let calls = fs::read_to_string(&log).unwrap();
        for word in ["AF_INET", "\"/var/tmp/"] {
            assert!(!calls.contains(word), "{word}: {}", calls.lines().find(|call| call.contains(word)).unwrap());
        }
        is_whole(&podman, &one, one.summary().platforms[0].config_digest);
        podman.run(&["rmi", "--all", "--force"]);
    }
}
