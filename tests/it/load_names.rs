//! Names and contents that images of one load share, and those that people gave.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::engine::Podman;

fn names(podman: &Podman, id_of: &str) -> Vec<String> {
    let inspect: Value = serde_json::from_str(&podman.run(&["image", "inspect", id_of])).unwrap();
    inspect[0]["RepoTags"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// An image of one text, and an index of just that image: one config, one manifest, and one digest more.
fn image_and_index(podman: &Podman) {
    let image = |name: &str| {
        json!({ "kind": "image", "name": name, "tag": "1", "storeDir": podman.home("store"),
            "content": { "texts": { "/text": "shared" } } })
    };
    podman.build("one", &image("one"));
    podman.build("two", &image("two"));
    podman.build("index", &json!({ "kind": "index", "name": "index", "tag": "1", "images": [podman.env.path("one")] }));
}

#[test]
fn one_image_may_have_many_names_and_digests() {
    for via in ["store", "podman"] {
        let podman = Podman::with_nix();
        image_and_index(&podman);
        let load = |which: &[&str], options: &[&str]| {
            let paths: Vec<_> = which.iter().map(|name| podman.env.path(name)).collect();
            let paths = paths.iter().map(|path| path.to_str().unwrap());
            let arguments: Vec<&str> =
                ["load", "--via", via].into_iter().chain(options.iter().copied()).chain(paths).collect();
            podman.said(&arguments)
        };
        assert!(load(&["one", "two"], &[]).last().contains("2 loaded, 0 present"));
        load(&["index"], &[]).last();
        let all = ["localhost/index:1", "localhost/one:1", "localhost/two:1"];
        let digest: Value = serde_json::from_slice(&fs::read(podman.env.path("index/image.json")).unwrap()).unwrap();
        let by_digest = format!("localhost/index@{}", digest["digest"].as_str().unwrap());
        let check = |when: &str| {
            for name in all.into_iter().chain([by_digest.as_str()]) {
                let found = podman.command("podman").args(["image", "exists", name]).status().unwrap();
                assert!(found.success(), "{via} {when}: {name}");
            }
            let mut names = names(&podman, all[0]);
            names.sort();
            assert_eq!(names, all, "{via} {when}");
        };
        check("loaded");
        // What one of them is loaded again for the others keep.
        load(&["one"], &["--force"]).last();
        if via == "podman" {
            // Podman gives no image the digest of an index back: with the index that comes again.
            load(&["index"], &[]).last();
        }
        check("forced");
        assert!(load(&["index", "one", "two"], &[]).last().contains("0 loaded, 3 present"));
    }
}

#[test]
fn names_that_people_gave_stay() {
    for via in ["store", "podman"] {
        let podman = Podman::with_nix();
        let image = podman.app("app", "mine");
        podman.load(&image, &["--via", via]).last();
        podman.run(&["tag", "localhost/app:1", "example.com/mine:7"]);
        podman.load(&image, &["--via", via, "--force"]).last();
        assert_eq!(podman.sh("example.com/mine:7", "cat /text"), "mine", "{via}");
        assert_eq!(podman.sh("localhost/app:1", "cat /text"), "mine", "{via}");
    }
}

#[test]
fn what_a_container_of_podmans_own_store_uses_is_refused_whole() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "used");
    podman.load(&image, &["--via", "podman"]).last();
    podman.run(&["tag", "localhost/app:1", "example.com/mine:7"]);
    podman.run(&["create", "--pull=never", "--name", "c", "localhost/app:1"]);
    let before = names(&podman, "localhost/app:1");
    let forced = podman.load(&image, &["--via", "podman", "--force"]);
    let sentence = "image app: localhost/app:1 cannot be loaded anew while container c uses it\nhint: `podman rm --force c` removes the container\n";
    assert_eq!((forced.code, forced.stderr.starts_with(sentence)), (1, true), "{forced:?}");
    assert_eq!(names(&podman, "localhost/app:1"), before);
}

#[test]
fn one_name_for_two_images_is_refused() {
    let podman = Podman::with_nix();
    let images = ["first", "second"].map(|text| {
        let built = podman.image("app", &[], &[("/text", text)]);
        let place = podman.env.path(text);
        fs::rename(built, &place).unwrap();
        place
    });
    let [one, two] = images.each_ref().map(|path: &std::path::PathBuf| path.to_str().unwrap());
    let refused = podman.said(&["load", one, two]);
    let sentence =
        format!("windlass: {one} and {two} are both localhost/app:1, and not the same image; load one of them\n");
    assert_eq!((refused.code, refused.stderr), (2, sentence));
    // The same one twice is one.
    assert!(podman.said(&["load", one, one]).last().starts_with("1 image, 0 models: 1 loaded"));
}

#[test]
fn what_cannot_be_swept_is_told_and_stops_nothing() {
    let podman = Podman::with_nix();
    let image = podman.app("app", "text");
    let stuck = podman.home("storage/new/stuck");
    fs::create_dir(&stuck).unwrap();
    let immutable = |flag: &str| assert!(Command::new("chattr").arg(flag).arg(&stuck).status().unwrap().success());
    immutable("+i");
    let said = podman.load(&image, &[]);
    let again = podman.load(&image, &[]);
    immutable("-i");
    assert!(said.last().starts_with("1 image, 0 models: 1 loaded"));
    assert!(again.last().starts_with("1 image, 0 models: 0 loaded, 1 present"));
    assert!(said.stderr.contains("warning: ") && said.stderr.contains(stuck.to_str().unwrap()), "{said:?}");
    podman.load(&image, &[]).last();
    assert!(!stuck.exists());
}
