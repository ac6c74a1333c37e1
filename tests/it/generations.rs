//! Generations and going back to one.

use std::fs;

use crate::env::run_ok;
use crate::lab::Lab;

#[test]
fn back_and_forth_gives_exactly_what_a_generation_had() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let first = lab.load(1, 1000);
        let second = lab.load(2, 1000);
        let other = lab.build("other", 1, 1000);
        lab.ok(&["load", &other]);

        let told = lab.ok(&["generations"]);
        for sentence in ["(changed)", "1 image, 0 models", "2 images, 0 models  whole  current", "image other"] {
            assert!(told.contains(sentence), "{sentence}: {told}");
        }
        assert_eq!(told.lines().last(), Some("3 generations, 3 is current, 0 no longer whole"));

        let entries = |number: usize| lab.json(&["generations"])["generations"][number - 1]["images"].clone();
        let names = |number| {
            let images = entries(number);
            images.as_array().unwrap().iter().map(|image| image["ref"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(1), [first.as_str()]);
        assert_eq!(names(3), [second.clone(), lab.reference(&other)]);
        // Its tag was given to something else meanwhile.
        let foreign = lab.podman(&["image", "inspect", "--format", "{{.Id}}", &second]);
        lab.podman(&["tag", foreign.trim(), &first]);

        let dry = lab.ok(&["rollback", "1", "--dry-run"]);
        assert!(dry.starts_with("generation 1 is whole: 1 present, 0 to load\n"), "{dry}");
        assert!(dry.contains("other: out: sha256:"), "{dry}");
        assert_eq!(lab.json(&["generations"])["generations"][2]["current"], true);
        let back = lab.ok(&["rollback", "1"]);
        assert!(back.contains(" → "), "{back}");
        assert_eq!(lab.json(&["generations"])["generations"][0]["current"], true);
        assert_eq!(names(1), [first.as_str()], "no other came with it");
        let id = |name: &str| lab.podman(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_ne!(id(&first), id(&second), "the tag was moved back");

        let none = lab.fails(&["rollback"]);
        let sentence = "windlass: there is no generation before 1\nhint: `windlass generations` lists them\n";
        assert_eq!(none, (2, sentence.to_owned()));
        assert!(lab.fails(&["rollback", "9"]).1.contains("there is no generation '9'; there are: 1, 2, 3"));
        lab.ok(&["rollback", "3"]);
        // What a load brings again is the same generation.
        lab.ok(&["load", &other]);
        let all = lab.json(&["generations"])["generations"].clone();
        assert_eq!((all.as_array().unwrap().len(), &all[2]["current"]), (3, &true.into()));
        lab.ok(&["rollback"]);
        assert_eq!(lab.json(&["generations"])["generations"][1]["current"], true);
    }
}

#[test]
fn containers_of_the_former_generation_are_told() {
    let lab = Lab::new(true);
    let first = lab.load(1, 1000);
    let second = lab.load(2, 1000);
    lab.start("plain", &second, &[]);
    lab.start("unit", &second, &["--label", "PODMAN_SYSTEMD_UNIT=app.service"]);
    lab.start("old", &first, &[]);
    let told = lab.ok(&["rollback"]);
    let plain = format!(
        "container plain runs the former app: podman stop plain && podman rm plain, then podman run … {first}\n"
    );
    assert!(told.contains(&plain), "{told}");
    assert!(told.contains("container unit runs the former app: systemctl restart app.service\n"), "{told}");
    assert!(!told.contains("container old"), "{told}");
    assert!(told.ends_with("1 image changed, 2 containers to start anew; wrote 2 B\n"), "{told}");
}

#[test]
fn what_is_not_whole_is_refused_before_anything_changes() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let first = lab.load(1, 1000);
        let second = lab.load(2, 1000);
        // Present: it needs nothing else.
        let source = lab.env.path("store").join(crate::env::base_name("app-1"));
        let hidden = lab.env.path("hidden");
        fs::rename(&source, &hidden).unwrap();
        assert!(lab.ok(&["generations"]).contains("0 no longer whole"));
        lab.ok(&["rollback"]);
        lab.ok(&["rollback", "2"]);
        // Gone from Podman, and from where it came.
        if linked {
            let store = windlass::internals::podman::linked::LinkedStore::open(&lab.storage()).unwrap();
            let progress = windlass::internals::disk::progress::Progress::new();
            let id = lab.podman(&["image", "inspect", "--format", "{{.Id}}", &first]).trim().to_owned();
            store.change(&progress).unwrap().remove_images(&[id].into(), &progress).unwrap();
        } else {
            lab.podman(&["rmi", "--force", &first]);
            lab.podman(&["image", "prune", "--all", "--force"]);
            lab.ok(&["load", "app"]);
        }
        let tree = lab.env.tree();
        let (code, sentence) = lab.fails(&["rollback", "1"]);
        assert_eq!((code, sentence.ends_with("is gone\n")), (1, true), "{sentence}");
        assert!(
            sentence.starts_with("windlass: generation 1 is no longer whole, and nothing was changed: app: $T/store/")
        );
        assert_eq!(lab.env.tree(), tree);
        assert!(lab.has(&second));
        assert!(lab.ok(&["generations"]).contains("2 generations, 2 is current, 1 no longer whole"));
        fs::rename(&hidden, &source).unwrap();
        lab.ok(&["rollback", "1"]);
        assert!(lab.has(&first));
    }
}

#[test]
fn after_a_prune_behind_our_back_everything_comes_back_offline() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        lab.load(1, 1000);
        let current = lab.load(2, 1000);
        lab.podman(&["image", "prune", "--all", "--force"]);
        assert_eq!(lab.has(&current), linked, "the linked store is out of Podman's reach");
        lab.podman(&["system", "prune", "--all", "--force"]);
        let mut load = lab.command("unshare");
        let said = run_ok(load.args(["--net", env!("CARGO_BIN_EXE_windlass"), "load", "app"]));
        let expected = if linked { "0 loaded, 1 present" } else { "1 loaded, 0 present" };
        assert!(said.contains(expected), "{said}");
        assert!(lab.has(&current));
        lab.ok(&["rollback"]);
    }
}
