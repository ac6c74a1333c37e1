//! Podman is the authority on where its things are: what it does not read is not there, whatever a file says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use windlass::internals::disk::progress::Progress;
use windlass::internals::podman::linked::LinkedStore;

use crate::engine::{Podman, Said};

/// Writes the settings of this Podman with these additional image stores.
fn name(podman: &Podman, stores: &[&str]) {
    let conf = podman.env.path("podman/storage.conf");
    let text = fs::read_to_string(&conf).unwrap();
    let text = text.split("[storage.options]").next().unwrap();
    let list: Vec<String> = stores.iter().map(|store| format!("{store:?}")).collect();
    fs::write(conf, format!("{text}[storage.options]\nadditionalimagestores = [{}]\n", list.join(", "))).unwrap();
}

/// How many processes a run of windlass starts beside its own.
fn processes(podman: &Podman, arguments: &[&str]) -> usize {
    let log = podman.env.path("trace");
    let output = podman.traced(&log, &["-e", "trace=execve"], arguments).output().unwrap();
    assert!(output.status.success(), "{:?}", Said::of(&output));
    fs::read_to_string(log).unwrap().lines().filter(|line| line.ends_with("= 0")).count() - 1
}

/// Every file below a folder, with all that changes when it is written.
fn everything(folder: &Path) -> String {
    let listed = Command::new("find").arg(folder).args(["-printf", "%p %s %T@ %C@\n"]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn what_podman_does_not_read_is_not_present_and_nothing_is_written_for_it() {
    let podman = Podman::with_nix();
    let (image, store) = (podman.app("app", "x"), podman.home("storage"));
    assert!(podman.load(&image, &[]).last().contains("1 loaded, 0 present"));
    assert!(podman.load(&image, &[]).last().contains("0 loaded, 1 present"));
    let images = || podman.run(&["images", "--quiet"]);
    assert!(!images().is_empty());

    // The store is whole and has the image, and no file names it any more.
    name(&podman, &[]);
    assert_eq!(images(), "");
    let generations = podman.places().graph_root.join("windlass");
    let before = (everything(&generations), everything(&store));
    let refused = podman.load(&image, &["--via", "store"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(refused.stderr.contains("Podman reads no additional image store of windlass"), "{refused:?}");
    let given = podman.load(&image, &["--storage-dir", store.to_str().unwrap()]);
    assert_eq!(given.code, 7, "{given:?}");
    assert!(given.stderr.contains(": Podman reads no such image store; `windlass doctor --storage-dir"), "{given:?}");
    assert_eq!((everything(&generations), everything(&store)), before);
    assert!(podman.load(&image, &[]).last().contains("1 loaded, 0 present"), "through Podman");
    assert!(!images().is_empty());

    // Named again, it is there at once, without a word to windlass.
    podman.run(&["rmi", "--all", "--force"]);
    name(&podman, &[store.to_str().unwrap()]);
    assert!(podman.load(&image, &[]).last().contains("0 loaded, 1 present"));
    assert!(!images().is_empty());
}

#[test]
fn podman_is_asked_once_and_again_when_something_has_changed() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "x");
    let load = ["load", image.to_str().unwrap()];
    podman.said(&load).last();
    assert_eq!(processes(&podman, &load), 0);
    assert_eq!(processes(&podman, &["status"]), 0);
    let asks = |what: &str| {
        assert!(processes(&podman, &load) > 0, "{what}");
        assert_eq!(processes(&podman, &load), 0, "{what}, once");
    };
    for name in ["storage.conf", "containers.conf"] {
        let conf = podman.env.path("podman").join(name);
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + "# more\n").unwrap();
        asks(name);
    }
    // The store that the answer names is gone: nothing is believed, and Podman's own sentence is shown.
    let gone = podman.home("gone");
    fs::rename(podman.home("storage"), &gone).unwrap();
    let said = podman.said(&load);
    assert_eq!(said.code, 7, "{said:?}");
    assert!(
        said.stderr.contains("`podman info` fails: ") && said.stderr.contains("can't stat imageStore dir"),
        "{said:?}"
    );
    assert!(said.stderr.contains("`windlass doctor --fix --storage-dir "), "{said:?}");
    fs::rename(&gone, podman.home("storage")).unwrap();
    asks("the store that is back");
}

#[test]
fn no_podman_and_one_that_is_none_are_named_with_what_to_do() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "x");
    let arguments = ["load", image.to_str().unwrap()];
    let load = |path: &str| Said::of(&podman.windlass(&arguments).env("PATH", path).output().unwrap());
    podman.said(&arguments).last();
    let none = load("/nonexistent");
    let sentence = "windlass: podman is not on PATH; install Podman 4.3 or newer, or add the directory that it is in\n";
    assert_eq!((none.code, none.stderr.as_str()), (7, sentence), "even where all is there");
    let script = podman.env.write("bin/podman", "#!/bin/sh\necho hello\n");
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let first = format!("{}:{}", script.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let other = load(&first);
    assert_eq!(other.code, 7, "{other:?}");
    assert!(other.stderr.contains("info printed 'hello', which does not say where its images are"), "{other:?}");
    assert!(other.stderr.ends_with("; put Podman 4.3 or newer first on PATH\n"), "{other:?}");
    fs::write(&script, "#!/bin/sh\nsleep 60\n").unwrap();
    let start = Instant::now();
    let slow = load(&first);
    assert_eq!(slow.code, 7, "{slow:?}");
    assert!(slow.stderr.contains("did not answer `podman info` within 30 seconds"), "{slow:?}");
    assert!(start.elapsed() < Duration::from_secs(50));
}

#[test]
fn each_wrong_store_in_storage_conf_has_podmans_sentence_and_what_to_do() {
    let podman = Podman::with_nix();
    let store = podman.home("storage").display().to_string();
    let doctor = |arguments: &[&str]| podman.said(&[&["doctor", "--storage-dir", &store], arguments].concat());
    let conf = podman.env.path("podman/storage.conf").display().to_string();
    let file = podman.env.write("file", "").display().to_string();
    let missing = podman.home("missing").display().to_string();
    let cases = [
        (
            "relative/path",
            "is not absolute",
            format!("write the absolute path of the store instead of 'relative/path' in {conf}"),
        ),
        (&file, "must be a directory", format!("name a directory instead of '{file}' in {conf}")),
        (
            &missing,
            "can't stat imageStore dir",
            format!("`windlass doctor --fix --storage-dir {missing}` makes it, or take it out of {conf}"),
        ),
    ];
    for (wrong, sentence, next) in &cases {
        name(&podman, &[&store, wrong]);
        let said = doctor(&[]);
        assert_eq!(said.code, 7, "{wrong}: {said:?}");
        assert!(said.stdout.contains(sentence) && said.stdout.contains(next), "{wrong}: {said:?}");
        let before = fs::read(&conf).unwrap();
        assert_eq!(doctor(&["--fix"]).code, 7, "{wrong}");
        assert_eq!(fs::read(&conf).unwrap(), before, "{wrong}");
    }
    // What it says to do is not a circle.
    let made = podman.said(&["doctor", "--fix", "--storage-dir", &missing]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(LinkedStore::is_at(Path::new(&missing)));
    // Two stores of ours: said, and both are read.
    assert!(
        made.stdout.contains(&format!("Podman reads 2 linked stores of windlass: {store} and {missing}")),
        "{made:?}"
    );
    let image = podman.app("app", "x");
    assert!(podman.load(&image, &["--storage-dir", &missing]).last().contains("1 loaded, 0 present"));
    assert!(podman.load(&image, &[]).last().contains("0 loaded, 1 present"), "wherever it is");
    let second = LinkedStore::open(Path::new(&missing)).unwrap();
    assert_eq!(second.records(&Progress::new()).unwrap().images.len(), 1);
    assert_eq!(podman.store().records(&Progress::new()).unwrap().images.len(), 0);
    // A file that Podman cannot parse.
    fs::write(&conf, "[storage\n").unwrap();
    let torn = doctor(&["--fix"]);
    assert_eq!(torn.code, 7, "{torn:?}");
    assert!(torn.stdout.contains("podman info: podman info fails, and other commands with it: "), "{torn:?}");
    assert_eq!(fs::read_to_string(&conf).unwrap(), "[storage\n");
}
