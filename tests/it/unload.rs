//! Names that people can type, what to type after a load, and letting go of images.

use serde_json::Value;

use crate::env::{base_name, completions};
use crate::lab::Lab;

/// An image of `redis-VERSION` from the store, built in the place of a stack, and loaded.
fn load(lab: &Lab, version: u32) -> (String, String) {
    let reference = {
        let image = lab.build("redis", version, 20_000);
        let place = lab.env.path("app");
        drop(std::fs::remove_dir_all(&place));
        crate::env::run_ok(std::process::Command::new("cp").arg("-r").arg(lab.env.path(&image)).arg(place));
        lab.reference(&image)
    };
    (reference, lab.ok(&["load", "app"]))
}

fn id(lab: &Lab, name: &str) -> String {
    lab.podman(&["image", "inspect", "--format", "{{.Id}}", name])
}

#[test]
fn a_version_is_a_tag_that_loads_and_rollbacks_move_and_that_others_keep() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let (first, _) = load(&lab, 1);
        assert_eq!(id(&lab, "localhost/redis:1"), id(&lab, &first));
        // The same version of other bytes: the name moves.
        std::fs::write(lab.env.path("again"), "x").unwrap();
        let (second, _) = load(&lab, 2);
        assert_eq!(id(&lab, "localhost/redis:2"), id(&lab, &second));
        lab.podman(&["tag", &second, "localhost/redis:1"]);
        lab.ok(&["rollback"]);
        assert_eq!(id(&lab, "localhost/redis:1"), id(&lab, &first), "the rollback moved it back");
        // It is never taken from an image that windlass did not load.
        let busybox = lab.env.write("own.tar", "");
        crate::env::run_ok(std::process::Command::new("tar").args(["-cf"]).arg(&busybox).args(["-T", "/dev/null"]));
        lab.podman(&["import", busybox.to_str().unwrap(), "localhost/redis:3"]);
        let foreign = id(&lab, "localhost/redis:3");
        let image = lab.build("redis", 3, 20_000);
        let said = lab.windlass(&["load", &image]).output().unwrap();
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains("warning: localhost/redis:3 is another image's name, and stays with it\n"), "{said}");
        assert_eq!(id(&lab, "localhost/redis:3"), foreign);
    }
}

#[test]
fn after_a_load_it_is_said_what_to_type_and_run_is_a_word_for_it() {
    let lab = Lab::new(true);
    let image = lab.build("redis", 1, 1000);
    let said = lab.windlass(&["load", &image]).output().unwrap();
    let summary: Value =
        serde_json::from_slice(&std::fs::read(lab.env.path(&image).join("image.json")).unwrap()).unwrap();
    let name = format!("localhost/redis@{}", summary["digest"].as_str().unwrap());
    assert_eq!(String::from_utf8(said.stderr).unwrap(), format!("next: podman run --pull=never {name}\n"));
    // Shells know what is loaded.
    let offered = |line: &str| completions(&lab.env, &lab.variables, line);
    for (line, names) in [
        ("windlass run re", &["redis"][..]),
        ("windlass run redis --rm red", &[]),
        ("windlass unload re", &["redis"]),
        ("windlass verify --image re", &["redis"]),
        ("windlass rollback 1", &["1"]),
    ] {
        assert_eq!(offered(line), names, "{line}");
    }
    let options = ["run", "redis", "--rm", "--network=none", "--name=typed", "--", "/bin/busybox", "echo", "it runs"];
    assert_eq!(lab.ok(&options), "it runs\n");
    // A command without options, and a container that stays as a record.
    assert_eq!(lab.ok(&["run", "redis", "--", "/bin/busybox", "echo", "--name"]), "--name\n");
    let ends = lab.windlass(&["run", "redis", "--rm", "--network=none", "--", "/bin/busybox", "sh", "-c", "exit 43"]);
    assert_eq!({ ends }.status().unwrap().code(), Some(43));
    let unknown = lab.fails(&["run", "qdrant"]);
    assert_eq!(
        unknown,
        (2, "windlass: there is no image 'qdrant' among what is loaded; there are: redis\n".to_owned())
    );
}

#[test]
fn what_is_unloaded_goes_and_a_rollback_brings_it_back() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let (first, _) = load(&lab, 1);
        let other = lab.build("other", 1, 20_000);
        lab.ok(&["load", &other]);
        let other = lab.reference(&other);

        // What a container uses is refused by name, and nothing changes.
        lab.start("c", &first, &[]);
        let (code, said) = lab.fails(&["unload", "redis", "other"]);
        let sentence = " is used by container c; nothing was changed\n";
        assert!(code == 1 && said.starts_with("windlass: image redis (") && said.ends_with(sentence), "{code} {said}");
        assert!(lab.has(&first) && lab.has(&other));
        lab.podman(&["rm", "--force", "--time", "0", "c"]);

        let dry = lab.ok(&["unload", "redis", "--dry-run"]);
        assert!(
            dry.starts_with("would unload image redis  localhost/redis:") && dry.contains("; nothing was changed\n"),
            "{dry}"
        );
        assert!(lab.has(&first));
        let unloaded = lab.json(&["unload", "redis"]);
        assert_eq!((&unloaded["applied"], &unloaded["generation"]), (&true.into(), &3.into()));
        assert!(unloaded["bytes"].as_u64().unwrap() > if linked { 0 } else { 20_000 }, "{unloaded}");
        assert!(!lab.has(&first) && !lab.has("localhost/redis:1") && lab.has(&other));
        assert!(lab.ok(&["status"]).ends_with("1 image, 0 models: 1 present\n"));
        assert!(lab.ok(&["generations"]).contains("3 generations, 3 is current, 0 no longer whole"));
        assert_eq!(lab.fails(&["unload", "redis"]).0, 2);
        lab.ok(&["rollback"]);
        assert!(lab.has(&first) && lab.has("localhost/redis:1") && lab.has(&other));

        // All that came with a stack, by its path or by its name; then a clean-up lets go of what it was made of.
        let told = lab.ok(&["unload", "app"]);
        assert!(
            told.contains("unloaded 1 image, 0 models; freed ") && told.contains("generation 4 is current"),
            "{told}"
        );
        assert!(!lab.has(&first) && lab.has(&other));
        lab.ok(&["gc", "--apply", "--keep-generations", "1"]);
        let roots = lab.graph_root().join("windlass/generations/4/roots");
        assert!(!roots.join(base_name("redis-1")).exists());
        assert!(!lab.graph_root().join("windlass/generations/1").exists());
        assert!(lab.has(&other) && !lab.has(&first));
        let (code, said) = lab.fails(&["unload", "app"]);
        assert_eq!(
            (code, said.as_str()),
            (2, "windlass: there is no image or stack 'app' among what is loaded; there are: $T/other-1, other\n")
        );
    }
}

#[test]
fn a_load_that_failed_is_no_generation_and_gc_drops_no_good_one_for_it() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let (first, _) = load(&lab, 1);
        let second = lab.build("redis", 2, 20_000);
        let source = lab.env.path("store").join(base_name("redis-2"));
        let kept = std::fs::read(&source).unwrap();
        std::fs::remove_file(&source).unwrap();
        for _ in 0..3 {
            let (code, said) = lab.fails(&["load", &second]);
            assert_eq!(code, 1, "{said}");
            assert!(lab.ok(&["generations"]).ends_with("1 generation, 1 is current, 0 no longer whole\n"));
        }
        // The attempt keeps its root for the next try, and it is only one.
        let folders = std::fs::read_dir(lab.graph_root().join("windlass/generations")).unwrap().count();
        assert_eq!(folders, 2);
        lab.ok(&["gc", "--apply", "--keep-generations", "1"]);
        assert!(lab.has(&first));
        assert!(lab.ok(&["generations"]).ends_with("1 generation, 1 is current, 0 no longer whole\n"));
        std::fs::write(&source, kept).unwrap();
        crate::env::run_ok(std::process::Command::new("chmod").arg("0444").arg(&source));
        crate::env::run_ok(std::process::Command::new("touch").args(["--date", "@1"]).arg(&source));
        lab.ok(&["load", &second]);
        assert!(lab.ok(&["generations"]).contains(" is current, 0 no longer whole\n"));
        lab.ok(&["rollback"]);
        assert!(lab.has(&first));
    }
}
