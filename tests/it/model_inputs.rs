//! Model files as they really lie about: in folders, cut into pieces, renamed, with an index of another version, beside what
//! goes with them; and files that are right and that some program does not load. What is asked of them, `model inspect`, `build`
//! and `model add`, has one answer.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Output;

use serde_json::{Value, json};

use crate::env::Env;
use crate::hub::FakeHub;
use crate::model_add::User;
use crate::model_writer::{Gguf, Said, safetensors};

/// What became of a run: its exit code, and what it said to people.
type Said3 = (i32, String);

fn said(env: &Env, arguments: &[&str]) -> Said3 {
    let Output { status, stdout, stderr } = env.windlass(arguments).output().unwrap();
    let text = env.scrub(&format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)));
    (status.code().unwrap_or(-1), text)
}

/// Builds the model of a directory, with each file of weights a layer.
fn build(env: &Env, folder: &str) -> Said3 {
    drop(fs::remove_dir_all(env.path("out")));
    let spec = json!({ "kind": "model", "name": "m", "tag": "1", "source": env.path(folder), "layers": "files" });
    env.write("spec.json", spec.to_string());
    said(env, &["build", "spec.json", "--output", "out"])
}

/// The layers of the model that was built: title, and whether it has weights.
fn layers(env: &Env) -> Vec<(String, bool)> {
    let image: Value = serde_json::from_slice(&fs::read(env.path("out/image.json")).unwrap()).unwrap();
    let layers = image["platforms"][0]["layers"].as_array().unwrap().clone();
    let layer = |layer: &Value| {
        (layer["title"].as_str().unwrap().to_owned(), layer["part"]["weights"].as_bool().unwrap_or(true))
    };
    layers.iter().map(layer).filter(|(title, _)| title != "model.file").collect()
}

/// `model inspect`, `build` and `model add` of a directory all end so, and say this.
fn refused(env: &Env, hub: &FakeHub, folder: &str, code: i32, message: &str) {
    let path = env.path(folder);
    let inspected = said(env, &["model", "inspect", path.to_str().unwrap()]);
    assert!(inspected.0 == code && inspected.1.contains(message), "inspect {folder}: {inspected:?}");
    let built = build(env, folder);
    assert!(built.0 == code && built.1.contains(message), "build {folder}: {built:?}");
    assert!(!env.path("out").exists());
    let user = User::new();
    let added = user.model(hub, &["add", path.to_str().unwrap()]).output().unwrap();
    let (found, text) = (added.status.code(), env.scrub(&String::from_utf8_lossy(&added.stderr)));
    assert!(found == Some(code) && text.contains(message), "add {folder}: {found:?} {text}");
}

/// All of these take it, and the first two say this.
fn warned(env: &Env, folder: &str, message: &str) {
    let inspected = said(env, &["model", "inspect", env.path(folder).to_str().unwrap()]);
    assert!(inspected.0 == 0 && inspected.1.contains(message), "inspect {folder}: {inspected:?}");
    let line = inspected.1.lines().find(|line| line.contains(message)).unwrap();
    assert!(line.starts_with(&format!("warning: $T/{folder}/")), "{line}");
    let built = build(env, folder);
    assert!(built.0 == 0 && built.1.contains(message) && built.1.contains("warning: model 'm': "), "build: {built:?}");
}

fn tiny(tensor: &str) -> Vec<u8> {
    Gguf::model().tensor(tensor, &[8], 0, 32).bytes()
}

fn tensor(name: &str) -> Vec<u8> {
    safetensors(&[(name, "F32", &[2], 8)])
}

#[test]
fn what_a_format_allows_and_a_program_does_not_load_is_a_warning() {
    let env = Env::new();
    // ggml counts the zero at the end of a name.
    for (folder, length, is_long) in [("n63", 63, false), ("n64", 64, true), ("n77", 77, true)] {
        env.write(format!("{folder}/m.gguf"), tiny(&"n".repeat(length)));
        let message = format!("has a name of {length} bytes, and ggml takes fewer than 64: llama.cpp does not load");
        if is_long {
            warned(&env, folder, &message);
        } else {
            let inspected = said(&env, &["model", "inspect", folder]);
            assert!(inspected.0 == 0 && !inspected.1.contains("warning"), "{inspected:?}");
        }
    }
    env.write("deep/m.gguf", Gguf::model().tensor("t", &[2, 1, 1, 1, 4], 0, 32).bytes());
    warned(&env, "deep", "tensor 't' has 5 dimensions, and ggml takes 4 at most");
    env.write("aligned/m.gguf", Gguf::model().aligned(48).tensor("t", &[8], 0, 32).bytes());
    warned(&env, "aligned", "general.alignment is 48, which is not a power of two: llama.cpp does not load");

    for (folder, config, message) in [
        (
            "infinity",
            r#"{"model_type": "bert", "hidden_size": 7, "norm": [Infinity, -Infinity]}"#,
            "it has Infinity or NaN",
        ),
        (
            "nan",
            r#"{"model_type": "bert", "hidden_size": 7, "max_position_embeddings": NaN}"#,
            "it has Infinity or NaN",
        ),
        ("mark", "\u{feff}{\"model_type\": \"bert\", \"hidden_size\": 7}", "it begins with a byte order mark"),
    ] {
        env.write(format!("{folder}/model.safetensors"), tensor("a"));
        env.write(format!("{folder}/config.json"), config);
        warned(&env, folder, message);
        let facts: Value = serde_json::from_str(&env.ok(["model", "inspect", "--json", folder])).unwrap();
        assert_eq!((&facts["facts"]["architecture"], &facts["facts"]["embeddingLength"]), (&json!("bert"), &json!(7)));
        assert!(facts["facts"].get("contextLength").is_none() && facts["warnings"].as_array().unwrap().len() == 1);
    }
    // No JSON of any kind is still damage.
    env.write("broken/model.safetensors", tensor("a"));
    env.write("broken/config.json", r#"{"hidden_size": Infinitely}"#);
    let hub = FakeHub::start(&[]);
    refused(&env, &hub, "broken", 4, "'Infinitely' is not a value of JSON; the file is damaged");
}

#[test]
fn an_index_of_another_version_is_a_warning() {
    let env = Env::new();
    let index = |folder: &str, map: Value| {
        env.write(format!("{folder}/model.safetensors.index.json"), json!({ "weight_map": map }).to_string());
    };
    let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    for folder in ["stale", "left"] {
        env.write(format!("{folder}/{first}"), tensor("a"));
        env.write(format!("{folder}/{second}"), tensor("b"));
    }
    index("stale", json!({ "a": first, "renamed": second }));
    warned(&env, "stale", "it has other tensors than model.safetensors.index.json says");
    // Merged into one file, and the index left where it was.
    index("merged", json!({ "a": first, "b": second }));
    env.write("merged/model.safetensors", tensor("a"));
    warned(&env, "merged", "is of shards that are not there, and model.safetensors is the whole model");
    assert_eq!(layers(&env), [("model.safetensors".to_owned(), true), ("m metadata".to_owned(), false)]);
    // The same weights once more, which nothing reads.
    index("left", json!({ "a": first, "b": second }));
    env.write("left/consolidated.safetensors", tensor("a"));
    warned(&env, "left", "model.safetensors.index.json does not name it");
}

#[test]
fn what_is_not_whole_is_an_error_whoever_asks() {
    let (env, hub) = (Env::new(), FakeHub::start(&[]));
    let shard = |index: u16, name: &str| Gguf::model().shard(index, 2, 2).tensor(name, &[8], 0, 32).bytes();
    env.write("empty/m-00001-of-00002.gguf", shard(0, "a"));
    env.write("empty/m-00002-of-00002.gguf", "");
    refused(&env, &hub, "empty", 4, "$T/empty/m-00002-of-00002.gguf is not a model: it is an empty file; get it again");
    // What is not a model at all is not passed over either, where its name makes it a shard of one.
    env.write("empty/m-00002-of-00002.gguf", vec![7; 4096]);
    refused(&env, &hub, "empty", 4, "$T/empty/m-00002-of-00002.gguf is not a model: it is of an unknown kind");
    env.write("missing/sub/m-00001-of-00002.gguf", shard(0, "a"));
    refused(
        &env,
        &hub,
        "missing",
        4,
        "$T/missing/sub/m-00002-of-00002.gguf is missing: m-00001-of-00002.gguf needs it",
    );
    env.write("renamed/model-a.gguf", shard(0, "a"));
    env.write("renamed/model-b.gguf", shard(1, "b"));
    let message =
        "$T/renamed/model-a.gguf does not fit: it is shard 1 of 2, and its name would end in -00001-of-00002.gguf";
    refused(&env, &hub, "renamed", 4, message);
    env.write("index/model.safetensors.index.json", json!({ "weight_map": { "a": "a.safetensors" } }).to_string());
    refused(&env, &hub, "index", 4, "$T/index/a.safetensors is missing: model.safetensors.index.json needs it");

    let whole = tiny("a");
    for piece in ["m.Q8_0.gguf.part1of2", "m.Q8_0.gguf-split-a", "m.Q8_0.gguf.aria2", "m.Q8_0.gguf.001"] {
        env.write(format!("pieces/{piece}"), &whole[..100]);
        let message = format!("$T/pieces/{piece} is a piece of m.Q8_0.gguf, which is not there: get the whole file");
        refused(&env, &hub, "pieces", 4, &message);
        fs::remove_file(env.path("pieces").join(piece)).unwrap();
    }
    // Beside the whole it is only a file more.
    env.write("joined/m.gguf", &whole);
    env.write("joined/m.gguf.part1of2", &whole[..100]);
    assert_eq!(build(&env, "joined").0, 0);

    env.write("texts/README.md", "# A model");
    env.write("texts/config.json", "{}");
    env.write("texts/tokenizer.json", "{}");
    refused(&env, &hub, "texts", 2, "there is no model in ");
    // Another format may be one.
    env.write("texts/model.onnx", "onnx");
    assert_eq!(build(&env, "texts").0, 0);
}

#[test]
fn a_model_in_folders_is_found_and_each_file_is_a_layer() {
    let (env, hub) = (Env::new(), FakeHub::start(&[]));
    let name = |title: &str| (title.to_owned(), true);
    let metadata = ("m metadata".to_owned(), false);
    // One model, in a folder, with an ending in capitals.
    env.write("nested/Q8_0/Tiny.GGUF", tiny("a"));
    env.write("nested/README.md", "# Tiny");
    let facts: Value = serde_json::from_str(&env.ok(["model", "inspect", "--json", "nested"])).unwrap();
    assert_eq!(facts["files"][0]["path"], "Q8_0/Tiny.GGUF");
    assert_eq!(build(&env, "nested").0, 0);
    assert_eq!(layers(&env), [name("Tiny.GGUF"), metadata.clone()]);
    // The first shard describes the model, and lies above the weights.
    for (n, tensor) in [(1_u16, "a"), (2, "b")] {
        let shard = Gguf::model().shard(n - 1, 2, 2).tensor(tensor, &[8], 0, 32).bytes();
        env.write(format!("shards/Q4/t-{n:05}-of-00002.gguf"), shard);
    }
    assert_eq!(build(&env, "shards").0, 0);
    assert_eq!(layers(&env), [name("t-00002-of-00002.gguf"), metadata.clone()]);
    // Every quantisation there is: one has to be named, to whatever asks.
    for folder in ["Q4_K_M", "Q8_0"] {
        env.write(format!("many/{folder}/t-{folder}.gguf"), tiny("a"));
    }
    let several = "several models in ";
    refused(&env, &hub, "many", 2, several);
    assert!(build(&env, "many").1.contains("Q4_K_M/t-Q4_K_M.gguf, Q8_0/t-Q8_0.gguf; name the file of one"));
    // Named one by one they are wanted, and no form of them is to be had.
    let files = ["Q4_K_M", "Q8_0"].map(|q| (format!("{q}.gguf"), env.path(format!("many/{q}/t-{q}.gguf"))));
    let spec = json!({ "kind": "model", "name": "m", "files": std::collections::BTreeMap::from(files) });
    env.write("spec.json", spec.to_string());
    let built = said(&env, &["build", "spec.json", "--output", "out"]);
    assert!(
        built.0 == 0 && built.1.contains("warning: model 'm': has several models in it (Q4_K_M.gguf, Q8_0.gguf)"),
        "{built:?}"
    );

    // A pipeline of diffusers: its parts together, the variants that were not asked for left aside.
    env.write("pipeline/model_index.json", r#"{"_class_name": "StableDiffusionPipeline"}"#);
    for part in ["unet", "vae"] {
        env.write(format!("pipeline/{part}/diffusion_pytorch_model.safetensors"), tensor(part));
        env.write(format!("pipeline/{part}/config.json"), "{}");
    }
    env.write("pipeline/unet/diffusion_pytorch_model.fp16.safetensors", tensor("unet"));
    let facts: Value = serde_json::from_str(&env.ok(["model", "inspect", "--json", "pipeline"])).unwrap();
    let expected = json!({ "format": "safetensors", "architecture": "StableDiffusionPipeline", "parameters": 4, "quantization": "F32" });
    assert_eq!(facts["facts"], expected);
    assert_eq!(facts["files"].as_array().unwrap().len(), 2);
    assert_eq!(build(&env, "pipeline").0, 0);
    let of = |path: &str| name(path);
    let expected = [
        of("diffusion_pytorch_model.fp16.safetensors"),
        of("unet/diffusion_pytorch_model.safetensors"),
        of("vae/diffusion_pytorch_model.safetensors"),
        metadata.clone(),
    ];
    assert_eq!(layers(&env), expected);

    // Modules below the model belong to it (sentence-transformers), and links to folders are followed, but never for ever.
    env.write("modules/model.safetensors", tensor("a"));
    env.write("real/model.safetensors", tensor("dense"));
    symlink("../real", env.path("modules/2_Dense")).unwrap();
    symlink(".", env.path("modules/loop")).unwrap();
    let facts: Value = serde_json::from_str(&env.ok(["model", "inspect", "--json", "modules"])).unwrap();
    assert_eq!(facts["facts"]["parameters"], 2);
    let built = build(&env, "modules");
    assert!(built.0 == 1 && built.1.contains("leads back to"), "{built:?}");
    fs::remove_file(env.path("modules/loop")).unwrap();
    assert_eq!(build(&env, "modules").0, 0);
    assert_eq!(layers(&env), [name("2_Dense/model.safetensors"), name("model.safetensors")]);
}

#[test]
fn a_file_by_two_names_is_warned_of() {
    let env = Env::new();
    let bytes = Gguf::model().tensor("a", &[1 << 18], 0, 1 << 20).bytes();
    env.write("blobs/0123", &bytes);
    for (folder, link) in [("soft", true), ("hard", false)] {
        fs::create_dir_all(env.path(folder)).unwrap();
        for name in ["a.gguf", "b.gguf.bak"] {
            let (from, to) = (env.path("blobs/0123"), env.path(folder).join(name));
            if link { symlink(from, to).unwrap() } else { fs::hard_link(from, to).unwrap() }
        }
        let built = build(&env, folder);
        let expected = "warning: model 'm': /models/a.gguf and /models/b.gguf.bak are one file, which is stored twice";
        assert!(built.0 == 0 && built.1.contains(expected), "{built:?}");
    }
}

/// What goes with a model is known by its header, whatever it is called, and keeps its role in every form.
#[test]
fn adapters_projectors_matrices_and_vocabularies_keep_their_roles() {
    let env = Env::new();
    let kind = |kind: &str| Gguf::new(3).key("general.type", Said::Text(kind)).tensor("t", &[8], 0, 32).bytes();
    env.write("all/Tiny-Q8_0.gguf", tiny("a"));
    env.write("all/sees.gguf", kind("mmproj"));
    env.write("all/style.gguf", kind("adapter"));
    env.write("all/calibrated.gguf", kind("imatrix"));
    let vocabulary = Gguf::model().key("tokenizer.ggml.model", Said::Text("gpt2"));
    env.write("all/words.gguf", vocabulary.bytes());
    let inspected = env.ok(["model", "inspect", "all"]);
    let beside = "calibrated.gguf (imatrix), sees.gguf (mmproj), style.gguf (adapter), words.gguf (vocab)";
    assert!(inspected.contains(beside), "{inspected}");
    assert_eq!(build(&env, "all").0, 0);
    let types = |format: &str| -> Vec<(String, String)> {
        drop(fs::remove_dir_all(env.path(format)));
        env.ok(["export", "out", "--format", format, "--output", format]);
        let index: Value = serde_json::from_slice(&fs::read(env.path(format).join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let blob = env.path(format).join("blobs/sha256").join(&digest[7..]);
        let manifest: Value = serde_json::from_slice(&fs::read(blob).unwrap()).unwrap();
        let layer = |layer: &Value| {
            let path = layer["annotations"]["org.cncf.model.filepath"].as_str().unwrap().to_owned();
            (
                path,
                layer["mediaType"]
                    .as_str()
                    .unwrap()
                    .rsplit_once("model.")
                    .map_or_else(|| layer["mediaType"].as_str().unwrap().to_owned(), |(_, end)| end.to_owned()),
            )
        };
        manifest["layers"].as_array().unwrap().iter().map(layer).collect()
    };
    let named = |pairs: [(&str, &str); 5]| pairs.map(|(path, kind)| (path.to_owned(), kind.to_owned())).to_vec();
    assert_eq!(
        types("modelpack"),
        named([
            ("Tiny-Q8_0.gguf", "weight.v1.raw"),
            ("calibrated.gguf", "weight.config.v1.raw"),
            ("sees.gguf", "weight.v1.raw"),
            ("style.gguf", "weight.v1.raw"),
            ("words.gguf", "weight.config.v1.raw"),
        ])
    );
    assert_eq!(
        types("docker-model"),
        named([
            ("Tiny-Q8_0.gguf", "application/vnd.docker.ai.gguf.v3"),
            ("calibrated.gguf", "file"),
            ("sees.gguf", "application/vnd.docker.ai.mmproj"),
            ("style.gguf", "application/vnd.docker.ai.gguf.v3.lora"),
            ("words.gguf", "file"),
        ])
    );
    env.ok(["export", "out", "--format", "ollama", "--output", "ollama"]);
    let manifest = fs::read(env.path("ollama/manifests/registry.ollama.ai/library/m/latest")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let kinds: Vec<&str> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap())
        .collect();
    assert_eq!(kinds, ["model", "projector", "adapter"]);

    // The lock says the same of the same files.
    let (hub, user) = (FakeHub::start(&[]), User::new());
    let mut add = user.model(&hub, &["add", env.path("all").to_str().unwrap(), "--name", "m", "--file", "*.gguf"]);
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let image: Value = serde_json::from_slice(&fs::read(env.path("out/image.json")).unwrap()).unwrap();
    assert_eq!(user.locked()["models"]["m"]["facts"], image["model"]["facts"]);
    for format in ["modelpack", "docker-model"] {
        let printed = user.model(&hub, &["manifest", "m", "--format", format]).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let index = fs::read_to_string(env.path(format).join("index.json")).unwrap();
        assert!(index.contains(printed.lines().last().unwrap()), "{format}: {printed} {index}");
    }
    // One of them alone is not a model that Ollama serves, and keeps its role.
    env.write("lora/style.gguf", kind("adapter"));
    assert_eq!(build(&env, "lora").0, 0);
    assert_eq!(types("docker-model")[0].1, "application/vnd.docker.ai.gguf.v3.lora");
    let (_, message) = env.fails(["export", "out", "--format", "ollama", "--output", "none"]);
    assert!(message.contains("is not a model of its own but of the kind 'adapter'"), "{message}");
}
