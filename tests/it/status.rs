//! `windlass status`: what is loaded, what it takes, and what scripts and monitors get of it.

use std::fs;

use serde_json::Value;

use crate::env::linked_podman;

#[test]
fn status_tells_each_image_and_writes_nothing() {
    let podman = linked_podman();
    podman.stack();
    let nothing = podman.ok("windlass", &["status"]);
    assert!(nothing.contains("generation    none"), "{nothing}");
    assert!(nothing.ends_with("\n0 images, 0 models: 0 present\n"), "{nothing}");
    let (code, missing) = podman.run("windlass", &["status", "stack"]);
    assert!(code == 1 && missing.contains("\n1 image, 1 model: 0 present, 2 missing\n"), "{missing}");

    podman.ok("windlass", &["load", "stack"]);
    let before = podman.env.tree();
    let status = |arguments: &[&str]| -> (i32, String) {
        let arguments = [&["status"], arguments].concat();
        let output = podman.command("windlass", &arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), podman.env.scrub(&String::from_utf8(text).unwrap()))
    };
    let (code, loaded) = status(&[]);
    assert_eq!(code, 0, "{loaded}");
    for line in [
        "graph root    $T/podman/root (overlay, rootful)\n",
        "linked store  $T/linked: 2 images, 4 layers\n",
        "generation    1\n",
        "\nmodel tiny  present, linked  3.0 MB  ",
        "\nimage app   present, linked  3.1 MB  ",
        "\n1 image, 1 model: 2 present\n",
    ] {
        assert!(loaded.contains(line), "{line}: {loaded}");
    }
    let (_, sizes) = status(&["stack", "--sizes"]);
    let head = sizes.lines().find(|line| line.starts_with("image ")).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(head, ["image", "state", "size", "own", "shared", "copied", "digest", "ref", "from"]);
    let model = sizes.lines().find(|line| line.starts_with("model ")).unwrap();
    assert!(model.contains("  0 B  3.0 MB with 1     0 B  "), "{sizes}");

    let json: Value = serde_json::from_str(&status(&["--json", "--sizes"]).1).unwrap();
    let (app, model) = (&json["images"][0], &json["images"][1]);
    assert_eq!((app["name"].as_str(), model["kind"].as_str()), (Some("app"), Some("model")));
    assert_eq!((&model["exclusive"], &model["shared"], &model["sharedWith"]), (&0.into(), &model["size"], &1.into()));
    assert_eq!(model["onDisk"]["linked"], 3_000_000);
    assert_eq!(app["size"].as_u64().unwrap() - app["exclusive"].as_u64().unwrap(), model["size"].as_u64().unwrap());
    assert_eq!(json["images"][0]["digest"].as_str().unwrap().len(), 71);

    let (code, metrics) = status(&["--metrics", "-"]);
    assert_eq!(code, 0);
    for line in ["windlass_generation 1\n", "windlass_images{state=\"present\"} 2\n", "kind=\"exclusive\"} "] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(metrics.contains("type=\"model\",store=\"$T/linked\"} 1\n"), "{metrics}");

    assert_eq!(status(&["--check-free", "1"]).0, 0);
    let (code, full) = status(&["--check-free", "9000TB"]);
    assert!(code == 5 && full.contains("free, less than 9000.0 TB; `windlass gc`"), "{full}");
    assert_eq!(podman.env.tree(), before, "nothing is written");
    podman.ok("windlass", &["status", "--metrics", "windlass.prom"]);
    let written = fs::read_to_string(podman.env.path("windlass.prom")).unwrap();
    assert!(written.starts_with("# HELP windlass_image_present"), "{written}");

    // Somebody gives the name to another image; `repair` gives it back.
    let names: Vec<&str> = [app, model].iter().map(|image| image["ref"].as_str().unwrap()).collect();
    podman.ok("podman", &["tag", names[1], names[0]]);
    let (code, changed) = status(&[]);
    let other = format!("its name leads to {}", model["digest"].as_str().unwrap());
    assert!(code == 1 && changed.contains(&other) && changed.contains(": 1 present, 1 changed"), "{changed}");
    let repaired = podman.ok("windlass", &["repair"]);
    assert!(repaired.ends_with("1 image good, 1 image mended, 0 problems left\n"), "{repaired}");
    assert_eq!(status(&[]).0, 0);
    // A name more is a record in Podman's own store, over layers of the linked one.
    podman.ok("podman", &["tag", names[0], "localhost/mine:1"]);
    assert!(status(&[]).1.contains("image app   present, linked  "));
    podman.ok("windlass", &["verify", "--full"]);

    for layer in fs::read_dir(podman.env.path("linked/overlay")).unwrap() {
        let diff = layer.unwrap().path().join("diff");
        if diff.is_dir() {
            fs::rename(&diff, diff.with_file_name("away")).unwrap();
        }
    }
    let (code, damaged) = status(&[]);
    assert!(code == 1 && damaged.contains("has no files") && damaged.contains(": 0 present, 2 damaged"), "{damaged}");
}
