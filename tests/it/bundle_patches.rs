//! Layers that a delta tells by what older ones have of them: how few bytes that takes, and what a wrong byte on either side does.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bundle::{Source, files, ids, load, sums_fit, text_of, without_nix};
use crate::engine::Podman;
use crate::foreign::read;

fn export(source: &Source, arguments: &[&str]) -> Value {
    let said = source.podman.said(&[&["export", "stack", "--bundle"], arguments, &["--json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str(&said.stdout).unwrap()
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap()
}

/// A stack "one" as a bundle, and one with "two" as patches of it; the path of the patch.
fn patched() -> (Source, PathBuf) {
    let source = Source::new();
    export(&source, &["bundle"]);
    source.stack("two");
    let report = export(&source, &["delta", "--since", "bundle", "--patch"]);
    assert_eq!((number(&report, "blobs"), number(&report, "patched")), (1, 1), "{report}");
    let image = read(&source.path("delta/images/app/image.json"));
    let digest = image["patches"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let patch = source.path("delta/blobs/sha256").join(digest);
    assert_eq!(fs::metadata(&patch).unwrap().len(), number(&report, "bytes"), "{report}");
    (source, patch)
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_patch_becomes_the_very_layer_where_the_old_one_is() {
    let (source, patch) = patched();
    let [base, delta] = ["bundle", "delta"].map(|name| source.path(name));
    let layer = read(&source.path("stack/images/app/image.json"))["platforms"][0]["layers"].take();
    let layer = layer.as_array().unwrap().last().unwrap().clone();
    assert!(fs::metadata(&patch).unwrap().len() * 100 < number(&layer, "size"), "only a text is new");
    sums_fit(&delta);
    let verified = source.podman.said(&["verify", "delta", "--full"]);
    assert!(verified.last().contains("all good"), "{verified:?}");
    let before = files(&delta);
    let again = export(&source, &["delta", "--since", "bundle", "--patch"]);
    assert_eq!((number(&again, "written"), number(&again, "patched"), files(&delta)), (0, 1, before), "{again}");
    // Other tools are told what it is.
    let index = read(&delta.join("index.json"));
    let parts = index["manifests"].as_array().unwrap().iter().flat_map(|entry| {
        let manifest = read(&delta.join("blobs/sha256").join(&entry["digest"].as_str().unwrap()[7..]));
        manifest["layers"].as_array().unwrap().clone()
    });
    let is_it = |part: &Value| part["mediaType"] == "application/vnd.windlass.layer-patch.v1+zstd";
    let told: Vec<Value> = parts.filter(is_it).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["annotations"]["io.github.containers.delta.to"], layer["digest"]);

    let app = source.built()[0].clone();
    for (podman, via) in [(Podman::linked(), "auto"), (Podman::new(), "auto"), (Podman::linked(), "podman")] {
        let refused = load(&podman, &delta, &[]);
        assert!(refused.code == 7 && refused.stderr.contains(&app.0), "{refused:?}");
        assert!(ids(&podman).is_empty());
        load(&podman, &base, &["--via", via]).last();
        let planned = load(&podman, &delta, &["--dry-run"]);
        assert!(planned.last().starts_with("1 to load, 2 present"), "{planned:?}");
        assert!(load(&podman, &delta, &[]).last().contains("1 loaded, 2 present"));
        assert!(
            ids(&podman).iter().any(|line| line.starts_with(&app.0) && line.ends_with(&app.1)),
            "{:?}",
            ids(&podman)
        );
        assert_eq!(text_of(&podman, &app.0), "two");
        assert_eq!(
            load(&podman, &delta, &[]).last(),
            "2 images, 1 model: 0 loaded, 3 present; wrote 0 B; network 0 bytes"
        );
        assert!(without_nix(&podman, &["verify", "--full"]).last().contains("all good"));
    }
    let podman = Podman::linked();
    let both = without_nix(&podman, &["load", base.to_str().unwrap(), delta.to_str().unwrap()]);
    assert!(both.last().contains("4 loaded") && text_of(&podman, &app.0) == "two", "{both:?}");

    // Where the old bytes are not at hand, the layer goes whole.
    fs::copy(base.join("stack.json"), source.path("alone.json")).unwrap();
    let whole = export(&source, &["whole", "--since", "alone.json", "--patch"]);
    assert_eq!((number(&whole, "patched"), number(&whole, "bytes")), (0, number(&layer, "size")), "{whole}");
}

#[test]
fn a_wrong_byte_in_a_patch_or_in_what_it_is_of_refuses_the_layer_by_name() {
    let (source, patch) = patched();
    let app = source.built()[0].0.clone();
    let good = fs::read(&patch).unwrap();
    for (podman, is_linked) in [(Podman::linked(), true), (Podman::new(), false)] {
        load(&podman, &source.bundle(), &[]).last();
        let loaded = ids(&podman);
        flip(&patch);
        let name = patch.file_name().unwrap().to_str().unwrap();
        let said = load(&podman, &source.path("delta"), &[]);
        assert!(said.code == 4 && said.stderr.contains(name) && said.stderr.contains("app"), "{said:?}");
        let verified = source.podman.said(&["verify", "delta", "--full"]);
        assert!(verified.code == 4 && verified.stdout.contains(name) && verified.stdout.contains(&app), "{verified:?}");
        fs::write(&patch, &good).unwrap();

        // The old program, as it is on this host.
        let place = if is_linked { podman.home("storage") } else { podman.env.path("podman/root") };
        let is_it = |path: &PathBuf| path.ends_with("diff/bin/busybox");
        let old: Vec<PathBuf> = files(&place.join("overlay")).into_iter().filter(is_it).collect();
        assert!(!old.is_empty(), "{place:?}");
        old.iter().for_each(|path| flip(path));
        let said = load(&podman, &source.path("delta"), &[]);
        let says = "cannot be put together again from the older layers that Podman has";
        assert!(said.code == 4 && said.stderr.contains(says) && said.stderr.contains("app"), "{said:?}");
        assert_eq!(ids(&podman), loaded);
        old.iter().for_each(|path| flip(path));
        load(&podman, &source.path("delta"), &[]).last();
        assert_eq!(text_of(&podman, &app), "two");
    }
}
