//! `windlass status`: what is loaded, what it takes, and what scripts and monitors get of it.

use std::fs;

use serde_json::Value;

use crate::env::linked_podman;
use crate::foreign::Foreign;
use crate::registry_server::RealRegistry;

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

    // Another image gets the name; `repair` gives it back.
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

#[test]
fn each_image_says_why_it_is_there_or_is_not() {
    let podman = linked_podman();
    let env = &podman.env;
    let foreign = Foreign::new(env);
    let registry = RealRegistry::start(env);
    foreign.push(env, &registry.host, "a/others");
    let reference = format!("{}/a/others:1.0", registry.host);
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let add = ["upstream", "add", "others", &reference, "--insecure", "--platform", &platform];
    podman.ok("windlass", &[&add[..], &["--reason", "1.1 drops the old protocol"]].concat());
    foreign.build(env, "others");
    podman.stack();

    let why = |paths: &[&str]| podman.run("windlass", &[&["status", "--why"][..], paths].concat()).1;
    let never = why(&["stack", "others"]);
    assert!(never.contains("\nimage app: no generation has it: $T/stack was never loaded here"), "{never}");
    let rationale =
        format!("  others of images.lock.json, {reference}: 1.1 drops the old protocol; not verified: no policy; ");
    assert!(never.contains(&rationale), "{never}");

    podman.ok("windlass", &["load", "stack", "others"]);
    let loaded = why(&[]);
    assert!(loaded.contains("\nmodel tiny: loaded from "), "{loaded}");
    assert!(loaded.contains(" UTC with generation 1; the current generation 1 has it\n"), "{loaded}");
    assert!(loaded.contains(&rationale), "{loaded}");
    assert_eq!(loaded.matches("images.lock.json").count(), 1, "of the image that it is, and of no other: {loaded}");
    let json: Value = serde_json::from_str(&podman.ok("windlass", &["status", "--why", "--json"])).unwrap();
    let others = json["images"].as_array().unwrap().iter().find(|row| row["name"] == "others").unwrap();
    assert_eq!(others["reasons"]["upstream"][0]["reason"], "1.1 drops the old protocol");
    assert_eq!(others["reasons"]["generations"], serde_json::json!([1]));

    // An image that is not ours takes the name, and is named.
    let name =
        json["images"].as_array().unwrap().iter().find(|row| row["name"] == "app").unwrap()["ref"].as_str().unwrap();
    let tar = env.write("mine.tar", "");
    crate::env::run_ok(std::process::Command::new("tar").arg("-cf").arg(&tar).arg("--files-from=/dev/null"));
    podman.ok("podman", &["import", tar.to_str().unwrap(), "example.com/mine:1"]);
    podman.ok("podman", &["tag", "example.com/mine:1", name]);
    let changed = why(&[]);
    assert!(
        changed.contains(", and its name was given to ") && changed.contains(", which windlass did not load\n"),
        "{changed}"
    );
    // One of ours that takes it is called by its own name.
    podman.ok("podman", &["untag", "example.com/mine:1", name]);
    let tiny =
        json["images"].as_array().unwrap().iter().find(|row| row["name"] == "tiny").unwrap()["ref"].as_str().unwrap();
    podman.ok("podman", &["tag", tiny, name]);
    assert!(why(&[]).contains(&format!(", and its name was given to {tiny} of generation 1\n")));
}

#[test]
fn what_a_prune_took_is_told_with_what_brings_it_back() {
    let podman = linked_podman();
    podman.stack();
    podman.ok("windlass", &["load", "stack", "--via", "podman"]);
    podman.ok("podman", &["rmi", "--all", "--force"]);
    let (code, gone) = podman.run("windlass", &["status", "--why"]);
    assert_eq!(code, 1);
    assert!(
        gone.contains("the current generation 1 has it, and Podman has it no more: `podman rmi`, a prune"),
        "{gone}"
    );
    podman.ok("windlass", &["repair"]);
    assert_eq!(podman.run("windlass", &["status", "--why"]).0, 0);
}
