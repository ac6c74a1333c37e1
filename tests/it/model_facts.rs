//! What a model's image says of it: files, facts, labels and the link for RamaLama; and what is not a model is refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, LinkedPodman, linked_podman, run_ok};
use crate::model_files::gguf;

pub(crate) fn json_of(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Builds a spec without store paths into a folder of the spec's name; the report.
pub(crate) fn build(podman: &LinkedPodman, name: &str, spec: &Value) -> Value {
    podman.env.write(format!("{name}.json"), spec.to_string());
    podman.env.write("none", "{}");
    let path = |name: &str| podman.env.path(name).to_str().unwrap().to_owned();
    let (spec, none, output) = (path(&format!("{name}.json")), path("none"), path(name));
    let report = podman
        .command("windlass", &["build", &spec, "--closure", &none, "--output", &output, "--json"])
        .output()
        .unwrap();
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    serde_json::from_slice(&report.stdout).unwrap()
}

/// A model of this file, `tiny`.
pub(crate) fn tiny(podman: &LinkedPodman, file: &Path) -> Value {
    json!({ "kind": "model", "name": "tiny", "storeDir": podman.env.path("store"), "files": { "tiny.gguf": file } })
}

fn blob(image: &Path, digest: &Value) -> Value {
    json_of(image.join("blobs/sha256").join(&digest.as_str().unwrap()["sha256:".len()..]))
}

#[test]
fn a_model_image_says_what_it_is_from_one_read() {
    let podman = linked_podman();
    let bytes = gguf("{{ messages }}", &[3_000_000, 2_500_000]);
    let file = podman.store_file("tiny.gguf", &bytes);
    let spec = tiny(&podman, &file);
    let report = build(&podman, "plain", &spec);
    assert_eq!(report["warnings"], json!([]));
    // Headers and the one read that hashes the layer and the file.
    let read = report["read"].as_u64().unwrap();
    assert!((bytes.len() as u64..bytes.len() as u64 + 100_000).contains(&read), "{report}");
    let image = podman.env.path("plain");
    let summary = json_of(image.join("image.json"));
    let sha256 = Digest::of(&bytes);
    let facts = json!({ "format": "gguf", "name": "Tiny", "architecture": "llama", "parameters": 5_500_000, "quantization": "I8",
        "licence": "Apache-2.0", "chatTemplate": Digest::of(b"{{ messages }}") });
    let files = json!([{ "path": "/models/tiny.gguf", "size": bytes.len(), "sha256": sha256 }]);
    assert_eq!(summary["model"], json!({ "facts": facts, "files": files }));

    // Labels of the config, and the same as annotations of the manifest.
    let platform = &summary["platforms"][0];
    let said = json!({
        "org.containers.type": "ai.image.model.raw", "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": "Tiny", "org.windlass.model.architecture": "llama",
        "org.windlass.model.chat-template": facts["chatTemplate"], "org.windlass.model.format": "gguf",
        "org.windlass.model.parameters": "5500000", "org.windlass.model.quantization": "I8",
    });
    assert_eq!(blob(&image, &summary["digest"])["annotations"], said);
    assert_eq!(blob(&image, &platform["configDigest"])["config"]["Labels"], said);

    // A digest that is given is believed, and makes no other image.
    let mut known = spec.clone();
    known["sha256"] = json!({ "tiny.gguf": sha256 });
    build(&podman, "known", &known);
    assert_eq!(json_of(podman.env.path("known/image.json")), summary);
    known["sha256"] = json!({ "tiny.gguf": Digest::of(b"another") });
    build(&podman, "believed", &known);
    let believed = json_of(podman.env.path("believed/image.json"));
    assert_eq!(believed["model"]["files"][0]["sha256"], json!(Digest::of(b"another")));
    assert_eq!(believed["digest"], summary["digest"]);

    // What the user says goes first, in both places.
    let mut own = spec.clone();
    own["annotations"] = json!({ "org.opencontainers.image.licenses": "MIT", "mine": "1" });
    build(&podman, "own", &own);
    let own = json_of(podman.env.path("own/image.json"));
    let annotations = &blob(&podman.env.path("own"), &own["digest"])["annotations"];
    let labels = &blob(&podman.env.path("own"), &own["platforms"][0]["configDigest"])["config"]["Labels"];
    assert_eq!((&annotations["mine"], &labels["mine"]), (&json!("1"), &Value::Null));
    assert_eq!([annotations, labels].map(|said| said["org.opencontainers.image.licenses"].clone()), ["MIT", "MIT"]);
    assert_eq!(own["model"]["facts"]["licence"], "MIT");
    assert_eq!(own["platforms"][0]["layers"][0], platform["layers"][0], "the layer is the same");

    // An image with the model in it names it, and has nothing else of the model's own image.
    let model = podman.env.path("plain");
    let app = json!({ "kind": "image", "name": "app", "storeDir": podman.env.path("store"), "models": [{ "built": model }],
        "mountPoints": false });
    build(&podman, "app", &app);
    let app = json_of(podman.env.path("app/image.json"));
    assert_eq!(app["platforms"][0]["layers"], json!([platform["layers"][0]]));
    assert_eq!(blob(&podman.env.path("app"), &app["digest"])["annotations"], json!({ "org.windlass.models": "tiny" }));
    let text = podman.ok("windlass", &["inspect", model.to_str().unwrap()]);
    let told = format!(
        "  model     gguf, llama, 5.5M parameters, I8, Apache-2.0\n  file      {sha256}     5.5 MB  /models/tiny.gguf\n"
    );
    assert!(text.contains(&told), "{text}");
}

/// What is known of a model that was built is in its image: a stack around it asks the model itself nothing.
#[test]
fn a_model_that_was_built_is_not_read_again() {
    let podman = linked_podman();
    let file = podman.store_file("tiny.gguf", &gguf("t", &[3_000_000]));
    build(&podman, "tiny", &tiny(&podman, &file));
    let source = json!({ "built": podman.env.path("tiny") });
    let app = json!({ "name": "app", "storeDir": podman.env.path("store"), "models": [source],
        "content": { "texts": { "/etc/version": "2" } } });
    let stack = json!({ "kind": "stack", "name": "s", "images": [app], "licences": { "allow": ["Apache-2.0"] } });
    podman.env.write("stack.json", stack.to_string());
    podman.env.write("none", "{}");
    let path = |name: &str| podman.env.path(name).to_str().unwrap().to_owned();
    let build = ["build", &path("stack.json"), "--closure", &path("none"), "--output", &path("stack")];
    let plan = ["plan", &path("stack.json"), "--closure", &path("none")];
    // A file for each thread: in one file a call of one is cut in two by a call of another.
    fs::create_dir(path("trace")).unwrap();
    let trace = path("trace/of");
    let options = [
        "--follow-forks",
        "--output-separately",
        "--quiet=all",
        "--decode-fds=path",
        "--trace=read,pread64",
        "--output",
        &trace,
    ];
    for (arguments, read) in [(&build[..], 0), (&plan, 0), (&["verify", &path("tiny"), "--full"], 3_000_000)] {
        let program = podman.env.program().display().to_string();
        run_ok(&mut podman.command("strace", &[&options[..], &[&program], arguments].concat()));
        let mut lines = String::new();
        for trace in fs::read_dir(path("trace")).unwrap().map(|entry| entry.unwrap().path()) {
            lines += &fs::read_to_string(&trace).unwrap();
            fs::remove_file(trace).unwrap();
        }
        let of_model = lines.lines().filter(|line| line.contains("tiny.gguf>"));
        let bytes: u64 = of_model.filter_map(|line| line.rsplit_once(" = ")?.1.parse::<u64>().ok()).sum();
        assert!(if read == 0 { bytes == 0 } else { bytes >= read }, "{arguments:?}: {bytes} bytes");
    }
}

#[test]
fn ramalama_finds_the_model_in_its_own_image() {
    let podman = linked_podman();
    let bytes = gguf("t", &[1_000_000]);
    let file = podman.store_file("tiny.gguf", &bytes);
    build(&podman, "tiny", &tiny(&podman, &file));
    let reference = json_of(podman.env.path("tiny/image.json"))["ref"].as_str().unwrap().to_owned();
    let image = podman.env.path("tiny").to_str().unwrap().to_owned();
    podman.ok("windlass", &["load", &image, "--via", "podman"]);
    let kind = "{{index .Labels \"org.containers.type\"}}";
    assert_eq!(podman.ok("podman", &["image", "inspect", "--format", kind, &reference]), "ai.image.model.raw\n");
    let mounted = run_ok(&mut podman.command("podman", &["image", "mount", &reference]));
    let models = Path::new(mounted.trim()).join("models");
    assert_eq!(fs::read_link(models.join("model.file")).unwrap(), Path::new("tiny.gguf"));
    assert!(fs::read(models.join("model.file")).unwrap() == bytes);
    podman.ok("podman", &["image", "umount", &reference]);

    // Where RamaLama does not look, where there is no model, where something is already, and for shards, which are found by their
    // names alone, there is no link.
    let other = podman.store_file("notes", b"no model");
    let shards = podman.env.path("shards");
    podman.ok("windlass", &["model", "split", file.to_str().unwrap(), "--output", shards.to_str().unwrap()]);
    for (name, spec, count) in [
        ("elsewhere", json!({ "mountPath": "/weights", "files": { "tiny.gguf": file } }), 1),
        ("below", json!({ "files": { "a/tiny.gguf": file } }), 2),
        ("notes", json!({ "files": { "notes": other } }), 1),
        ("split", json!({ "source": shards }), 1),
        ("taken", json!({ "files": { "tiny.gguf": file, "model.file": other } }), 1),
    ] {
        let mut spec = spec;
        (spec["kind"], spec["name"], spec["storeDir"]) = (json!("model"), json!(name), json!(podman.env.path("store")));
        build(&podman, name, &spec);
        let layers = json_of(podman.env.path(name).join("image.json"))["platforms"][0]["layers"].clone();
        assert_eq!(layers.as_array().unwrap().len(), count, "{name}");
    }
    let export =
        ["export", &image.replace("tiny", "below"), "--format", "oci", "--output", &image.replace("tiny", "oci")];
    podman.ok("windlass", &export);
    let below = json_of(podman.env.path("below/image.json"));
    let link = below["platforms"][0]["layers"][1]["digest"].as_str().unwrap()["sha256:".len()..].to_owned();
    let listed = run_ok(Command::new("tar").arg("-tvf").arg(podman.env.path("oci/blobs/sha256").join(link)));
    assert!(listed.trim_end().ends_with("models/model.file -> a/tiny.gguf"), "{listed}");
}

#[test]
fn what_was_saved_in_the_place_of_a_model_is_named_and_nothing_is_built() {
    let env = Env::new();
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123\n", "a".repeat(64));
    let whole = gguf("t", &[100_000]);
    for (name, bytes, sentence) in [
        ("page.gguf", b"<!DOCTYPE html><html>Sign in".to_vec(), "web page"),
        ("pointer.safetensors", pointer.into_bytes(), "Git LFS"),
        ("cut.gguf", whole[..whole.len() - 5000].to_vec(), "it ends at byte"),
    ] {
        let file = env.write(name, bytes);
        let spec = json!({ "kind": "model", "name": "m", "files": { name: file } });
        env.write("spec.json", spec.to_string());
        env.write("none", "{}");
        let (code, said) =
            env.refused(&mut env.windlass(["build", "spec.json", "--closure", "none", "--output", "out"]));
        assert!(
            code != 0 && said.starts_with("model 'm': $T/") && said.contains(name) && said.contains(sentence),
            "{said}"
        );
    }
    // Files that are no models may lie beside one, and what only has its name is warned of.
    let (model, readme) = (env.write("m.gguf", &whole), env.write("README.md", "<!doctype html>"));
    let odd = env.write("odd.gguf", "weights");
    let spec =
        json!({ "kind": "model", "name": "m", "files": { "m.gguf": model, "README.md": readme, "x/odd.gguf": odd } });
    env.write("spec.json", spec.to_string());
    let report = env.ok(["build", "spec.json", "--closure", "none", "--output", "out", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let warning = env.scrub(report["warnings"][0].as_str().unwrap());
    assert!(warning.starts_with("model 'm': $T/odd.gguf is not a model: "), "{warning}");
    let summary = json_of(env.path("out/image.json"));
    assert_eq!(summary["model"]["facts"]["name"], "Tiny");
    let files: Vec<&str> =
        summary["model"]["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(files, ["/models/README.md", "/models/m.gguf", "/models/x/odd.gguf"]);
}

#[test]
fn a_list_of_models_says_what_they_are_and_who_has_them() {
    let podman = linked_podman();
    let file = podman.store_file("tiny.gguf", &gguf("t", &[2_000_000]));
    let other = podman.store_file("other.bin", b"something else");
    build(&podman, "tiny", &tiny(&podman, &file));
    let store = podman.env.path("store");
    let app = json!({ "name": "app", "tag": "1", "storeDir": store, "models": [{ "built": podman.env.path("tiny") }],
        "content": { "files": { "/bin/busybox": "/bin/busybox" } }, "config": { "Cmd": ["/bin/busybox", "sleep", "100"] } });
    let plain = json!({ "spec": { "name": "other", "storeDir": store, "files": { "other.bin": other } } });
    build(&podman, "stack", &json!({ "kind": "stack", "name": "both", "images": [app], "models": [plain] }));
    let stack = json_of(podman.env.path("stack/stack.json"));
    let tiny = stack["models"].as_array().unwrap().iter().find(|model| model["name"] == "tiny").unwrap();
    assert_eq!(tiny["model"], json_of(podman.env.path("tiny/image.json"))["model"]);
    podman.ok("windlass", &["load", podman.env.path("stack").to_str().unwrap()]);
    podman.ok("podman", &["create", "--pull=never", "--name", "box", "localhost/app:1"]);
    podman.ok("windlass", &["model", "use", "tiny", "--slot", "chat"]);
    let list = podman.ok("windlass", &["model", "list"]);
    let row = |name: &str| {
        let line = list.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{list}"));
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        row("model")[..9],
        ["model", "parameters", "quantization", "size", "context", "licence", "place", "active", "in images"]
    );
    assert_eq!(
        row("tiny")[..9],
        ["tiny", "2M", "I8", "2.0 MB", "-", "Apache-2.0", "linked", "active in chat", "app (box)"]
    );
    assert_eq!(row("other")[1..9], ["-", "-", "2.6 kB", "-", "-", "linked", "-", "-"]);
    let list: Value = serde_json::from_str(&podman.ok("windlass", &["model", "list", "--json"])).unwrap();
    let model = list["models"].as_array().unwrap().iter().find(|model| model["name"] == "tiny").unwrap();
    assert_eq!(model["model"], tiny["model"]);
    assert_eq!(
        (&model["usedBy"], &model["slots"]),
        (&json!([{ "image": "app", "containers": ["box"] }]), &json!(["chat"]))
    );
    // What is bound is the tree of the model, not that of the link above it.
    let tree = Path::new(model["tree"].as_str().unwrap().trim_start_matches("$T")).to_owned();
    assert!(
        tree.ends_with("models") && podman.env.path(tree.strip_prefix("/").unwrap()).join("tiny.gguf").is_file(),
        "{tree:?}"
    );
}
