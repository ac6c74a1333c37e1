//! One blob, every form: ModelPack, Docker Model Runner, Ollama.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::disk::progress::Progress;
use windlass::internals::image::layout::ImageDir;
use windlass::internals::layer::output::Verify;
use windlass::internals::model::forms::artifact::Artifact;
use windlass::internals::model::forms::docker_model::docker_model;
use windlass::internals::model::forms::modelpack::modelpack;
use windlass::internals::oci::digest::Digest;
use windlass::internals::podman::load::artifacts::add;
use windlass::internals::publish::model_dir::ModelDir;

use crate::env::{Env, linked_podman, run_ok};
use crate::ollama_checker::check;
use crate::registry_server::RealRegistry;

fn bytes_of(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A model that is not a model: one tensor of 32 numbers in Q8_0, and what a header says.
pub(crate) fn tiny_gguf(name: &str) -> Vec<u8> {
    embedding_gguf(name, 32)
}

/// The same, whose embeddings have so many numbers by its header.
pub(crate) fn embedding_gguf(name: &str, length: u32) -> Vec<u8> {
    let text = |key: &str, value: &str| [bytes_of(key), 8_u32.to_le_bytes().into(), bytes_of(value)].concat();
    let number =
        |key: &str, value: u32| [bytes_of(key), 4_u32.to_le_bytes().into(), value.to_le_bytes().into()].concat();
    let keys = [
        text("general.architecture", "llama"),
        text("general.name", name),
        text("general.license", "apache-2.0"),
        number("general.file_type", 7),
        number("llama.context_length", 8192),
        number("llama.embedding_length", length),
    ];
    let mut file: Vec<u8> = b"GGUF".into();
    file.extend([&3_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &(keys.len() as u64).to_le_bytes()].concat());
    file.extend(keys.concat());
    file.extend(bytes_of("token_embd.weight"));
    file.extend([&1_u32.to_le_bytes()[..], &32_u64.to_le_bytes(), &8_u32.to_le_bytes(), &0_u64.to_le_bytes()].concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend([7; 34]);
    file
}

/// Builds the model `smollm2` of one such file; its image directory is `smollm2`.
fn build(env: &Env) -> Value {
    let file = env.write("Tiny-Q8_0.gguf", tiny_gguf("Tiny <&> model"));
    let spec = json!({ "kind": "model", "name": "smollm2", "files": { "smollm2.gguf": file } });
    env.write("smollm2.json", spec.to_string());
    env.ok(["build", "smollm2.json"]);
    json_of(env, "smollm2/image.json")
}

fn json_of(env: &Env, name: &str) -> Value {
    serde_json::from_slice(&fs::read(env.path(name)).unwrap()).unwrap()
}

/// The manifest of an OCI directory, with its digest.
fn manifest_of(directory: &Path) -> (String, Value) {
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let digest = read(&directory.join("index.json"))["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let blob = directory.join("blobs/sha256").join(&digest[7..]);
    assert_eq!(Digest::of(&fs::read(&blob).unwrap()).to_string(), digest);
    (digest, read(&blob))
}

/// Holds a value against a JSON schema, as far as that one uses the language: a word that is not known here fails.
fn validate(schema: &Value, root: &Value, value: &Value, at: &str) {
    for (word, wanted) in schema.as_object().unwrap() {
        let fits = match word.as_str() {
            "$ref" => {
                let definition = wanted.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                validate(&root["$defs"][definition], root, value, at);
                true
            }
            "type" => match wanted.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                other => panic!("type {other}"),
            },
            "properties" => {
                let keys = wanted.as_object().unwrap().iter();
                keys.filter_map(|(key, schema)| Some((key, schema, value.get(key)?)))
                    .for_each(|(key, schema, value)| validate(schema, root, value, &format!("{at}.{key}")));
                true
            }
            "additionalProperties" => {
                assert_eq!(wanted, false);
                value.as_object().unwrap().keys().all(|key| schema["properties"].get(key).is_some())
            }
            "required" => wanted.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
            "items" => {
                value.as_array().unwrap().iter().for_each(|item| validate(wanted, root, item, &format!("{at}[]")));
                true
            }
            "minItems" => value.as_array().unwrap().len() as u64 >= wanted.as_u64().unwrap(),
            "minLength" => value.as_str().unwrap().len() as u64 >= wanted.as_u64().unwrap(),
            "enum" => wanted.as_array().unwrap().contains(value),
            "pattern" => {
                assert_eq!(wanted, "^[a-z]{2}$");
                let text = value.as_str().unwrap();
                text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_lowercase())
            }
            "format" => panic!("a time, and no time is in an artifact: {value}"),
            "description" | "$schema" | "$id" | "$defs" => true,
            other => panic!("{at}: the schema has a word that this test does not check: {other}"),
        };
        assert!(fits, "{at}: {value} is not what {word} {wanted} asks for");
    }
}

fn assert_modelpack(config: &Value) {
    let schema: Value = serde_json::from_str(include_str!("../fixtures/modelpack/config-schema.json")).unwrap();
    validate(&schema, &schema, config, "config");
}

#[test]
fn a_modelpack_artifact_is_the_file_itself_and_what_the_schema_asks_for() {
    let env = Env::new();
    build(&env);
    let output = env.ok(["export", "smollm2", "--format", "modelpack", "--output", "pack"]);
    assert!(output.starts_with("pack: read "), "{output}");
    let (digest, manifest) = manifest_of(&env.path("pack"));
    assert_eq!(manifest["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
    let config = manifest["config"]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let config = json_of(&env, &format!("pack/blobs/sha256/{config}"));
    assert_modelpack(&config);
    assert_eq!(
        config["config"],
        json!({ "architecture": "llama", "format": "gguf", "paramSize": "0.1K", "quantization": "Q8_0" })
    );
    assert_eq!(config["descriptor"]["licenses"], json!(["Apache-2.0"]));
    let file = fs::read(env.path("Tiny-Q8_0.gguf")).unwrap();
    let layer = &manifest["layers"][0];
    assert_eq!((&layer["digest"], &layer["size"]), (&json!(Digest::of(&file)), &json!(file.len())));
    assert_eq!(config["modelfs"]["diffIds"], json!([Digest::of(&file)]));
    assert_eq!(layer["annotations"]["org.opencontainers.image.title"], "smollm2.gguf");
    assert_eq!(manifest["annotations"]["org.windlass.model.context-length"], "8192");

    // Other tools read it, the archive too, and find the same.
    let copy = |from: &str, to: &str| {
        let path = |name: &str| env.path(name).display().to_string();
        let (kind, name) = from.split_once(':').unwrap();
        run_ok(
            Command::new("skopeo")
                .args(["--insecure-policy", "copy", "--preserve-digests"])
                .args([format!("{kind}:{}", path(name)), format!("oci:{}", path(to))]),
        );
        assert_eq!(manifest_of(&env.path(to)).0, digest);
    };
    copy("oci:pack", "copy");
    env.ok(["export", "smollm2", "--format", "modelpack", "--output", "pack.tar"]);
    copy("oci-archive:pack.tar", "copy-of-archive");
}

#[test]
fn what_docker_model_runner_loads_is_one_file_with_the_manifest_at_its_top() {
    let env = Env::new();
    build(&env);
    env.ok(["export", "smollm2", "--format", "docker-model", "--output", "smollm2.dmr.tar"]);
    env.write("tar/.keep", "");
    run_ok(Command::new("tar").arg("-xf").arg(env.path("smollm2.dmr.tar")).arg("-C").arg(env.path("tar")));
    let (digest, manifest) = manifest_of(&env.path("tar"));
    let raw = fs::read(env.path("tar/manifest.json")).unwrap();
    assert_eq!(Digest::of(&raw).to_string(), digest);
    // Its reader takes every regular file of three levels for a blob, and hashes it.
    let blobs: Vec<_> =
        fs::read_dir(env.path("tar/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(blobs.len(), 3);
    for blob in blobs {
        assert_eq!(Digest::of(&fs::read(&blob).unwrap()).hex(), blob.file_name().unwrap().to_str().unwrap());
    }
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.ai.model.config.v0.1+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.docker.ai.gguf.v3");
    let config = &manifest["config"]["digest"].as_str().unwrap()[7..];
    let config = json_of(&env, &format!("tar/blobs/sha256/{config}"));
    let size = fs::metadata(env.path("Tiny-Q8_0.gguf")).unwrap().len();
    let expected = json!({
        "architecture": "llama", "context_size": 8192, "format": "gguf", "parameters": "32", "quantization": "Q8_0",
        "size": format!("{size}B"),
    });
    assert_eq!(config["config"], expected);
}

#[test]
fn the_directory_of_a_host_is_one_that_ollama_takes() {
    let env = Env::new();
    build(&env);
    env.ok(["export", "smollm2", "--format", "ollama", "--output", "models"]);
    let models = check(Path::new("/"), env.path("models").to_str().unwrap());
    let [model] = &models[..] else { panic!("{models:?}") };
    assert_eq!(model.name, "registry.ollama.ai/library/smollm2/latest");
    let expected = json!({
        "model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "32",
        "file_type": "Q8_0", "architecture": "amd64", "os": "linux",
    });
    assert_eq!(model.config, expected);
    assert_eq!(model.layers, [("model".to_owned(), None)]);
    // Again, over what is there; and nothing that windlass did not write is replaced.
    env.ok(["export", "smollm2", "--format", "ollama", "--output", "models"]);
    env.write("mine/file", "");
    let (code, said) = env.fails(["export", "smollm2", "--format", "ollama", "--output", "mine"]);
    assert_eq!(
        (code, said.as_str()),
        (2, "windlass: mine exists, and windlass did not write it; give another --output\n")
    );
}

#[test]
fn files_of_the_nix_store_are_linked_and_others_are_copied_and_checked() {
    let podman = linked_podman();
    let env = &podman.env;
    let file = podman.store_file("vouched.gguf", &tiny_gguf("vouched"));
    let spec = json!({
        "kind": "model", "name": "vouched", "storeDir": env.path("store"), "files": { "vouched.gguf": file },
    });
    env.write("vouched.json", spec.to_string());
    env.ok(["build", "vouched.json"]);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    for verify in ["auto", "always", "never"] {
        let output = env.path(verify);
        let to = output.to_str().unwrap();
        let said = env.ok(["export", "vouched", "--format", "ollama", "--output", to, "--verify", verify, "--json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        // The file is the Nix store's, but the image directory is not: what that says is compared, unless told otherwise.
        let size = fs::metadata(&file).unwrap().len();
        assert_eq!(said["read"].as_u64().unwrap() >= size, verify != "never", "{verify}: {said}");
        let weights = check(Path::new("/"), to).remove(0).weights;
        // Where the file system shares data, it is another file.
        let is_shared = run_ok(Command::new("stat").args(["-f", "-c%T"]).arg(&file)).trim().starts_with("ext");
        assert_eq!(inode(&weights) == inode(&file), is_shared);
    }

    build(env);
    env.ok(["export", "smollm2", "--format", "ollama", "--output", "copied"]);
    let copied = check(Path::new("/"), env.path("copied").to_str().unwrap()).remove(0).weights;
    assert_ne!(inode(&copied), inode(&env.path("Tiny-Q8_0.gguf")));
    // What changed since is found out, even where its size is the same.
    let mut other = tiny_gguf("Tiny <&> model");
    *other.last_mut().unwrap() = 8;
    env.write("Tiny-Q8_0.gguf", other);
    let (code, said) = env.fails(["export", "smollm2", "--format", "modelpack", "--output", "changed"]);
    assert!(code == 4 && said.contains("Tiny-Q8_0.gguf changed since the model was built"), "{code} {said}");
    assert!(!env.path("changed").exists());
}

#[test]
fn a_store_that_is_mounted_over_itself_is_linked_all_the_same() {
    let podman = linked_podman();
    let env = &podman.env;
    let file = podman.store_file("mounted.gguf", &tiny_gguf("mounted"));
    let spec = json!({
        "kind": "model", "name": "mounted", "storeDir": env.path("store"), "files": { "mounted.gguf": file },
    });
    env.write("mounted.json", spec.to_string());
    env.ok(["build", "mounted.json"]);
    // As NixOS does: one file system, two mounts, between which `ln` makes no link.
    let script = r#"cd "$2"; mount --bind store store; mount -o remount,ro,bind store
        if ln "$3" plain 2>/dev/null; then exit 9; fi
        exec "$1" export mounted --format modelpack --output pack"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-ec", script, "bash", env!("CARGO_BIN_EXE_windlass")]);
    run_ok(command.arg(env.path("")).arg(&file));
    let blob = env.path("pack/blobs/sha256").join(Digest::of(&fs::read(&file).unwrap()).hex());
    let (one, two) = (fs::metadata(&blob).unwrap(), fs::metadata(&file).unwrap());
    // Where the file system shares data, it is another file.
    let can_clone = !run_ok(Command::new("stat").args(["-f", "-c%T"]).arg(&file)).trim().starts_with("ext");
    assert!(can_clone || (one.dev(), one.ino()) == (two.dev(), two.ino()), "{}", blob.display());
}

#[test]
fn an_artifact_is_pushed_as_it_is_and_once() {
    let env = Env::new();
    build(&env);
    env.ok(["export", "smollm2", "--format", "docker-model", "--output", "pack"]);
    let registry = RealRegistry::start(&env);
    let to = format!("docker://{}/ai/smollm2:1", registry.host);
    let push = |to: &str, format: &str| -> Value {
        let arguments = ["push", "smollm2", to, "--insecure", "--json", "--format", format];
        serde_json::from_str(&run_ok(env.windlass(arguments).env("HOME", env.path("home")))).unwrap()
    };
    let first = push(&to, "docker-model");
    let digest = manifest_of(&env.path("pack")).0;
    assert_eq!((&first["images"][0]["digest"], &first["uploaded"]), (&json!(digest), &json!(2)));
    let again = push(&to, "docker-model");
    assert_eq!((&again["images"][0]["digest"], &again["bytes"]), (&json!(digest), &json!(0)));
    // The other form has the same weights.
    let other = push(&to.replace(":1", ":2"), "modelpack");
    assert_eq!((&other["uploaded"], &other["present"]), (&json!(1), &json!(1)));
    let inspect = Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &to]).output().unwrap();
    assert_eq!(Digest::of(&inspect.stdout).to_string(), digest);
    let pulled = format!("oci:{}", env.path("pulled").display());
    run_ok(Command::new("skopeo").args([
        "--insecure-policy",
        "copy",
        "--src-tls-verify=false",
        "--preserve-digests",
        &to,
        &pulled,
    ]));
    assert_eq!(manifest_of(&env.path("pulled")).0, digest);
    let weights = Digest::of(&fs::read(env.path("Tiny-Q8_0.gguf")).unwrap()).hex();
    assert_eq!(fs::read(env.path("pulled/blobs/sha256").join(weights)).unwrap(), tiny_gguf("Tiny <&> model"));
}

#[test]
fn podmans_artifact_store_gets_the_artifact_beside_what_is_there() {
    let podman = linked_podman();
    let env = &podman.env;
    build(env);
    let graph_root = env.path("graph");
    let progress = Progress::new();
    let model = ModelDir::open(&ImageDir::open(&env.path("smollm2")).unwrap()).unwrap();
    let artifact = modelpack(&model.model);
    let add = |name: &str, artifact: &Artifact| add(&graph_root, name, &model, artifact, Verify::Auto, &progress);
    // What Podman's own store looks like before its first artifact.
    env.write("graph/artifacts/index.json", r#"{"schemaVersion":2,"manifests":null,"annotations":{"mine":"stays"}}"#);
    assert!(add("localhost/a:1", &artifact).unwrap());
    assert!(!add("localhost/a:1", &artifact).unwrap());
    assert!(add("localhost/b:1", &artifact).unwrap());
    let other = docker_model(&model.model);
    let taken = add("localhost/a:1", &other).unwrap_err().to_string();
    assert!(
        taken.starts_with(&format!("localhost/a:1 is another artifact already, {}: ", artifact.manifest.digest)),
        "{taken}"
    );
    assert!(add("localhost/c:1", &other).unwrap());
    let index = json_of(env, "graph/artifacts/index.json");
    let entries = index["manifests"].as_array().unwrap().iter();
    let named = entries.map(|entry| (&entry["annotations"]["org.opencontainers.image.ref.name"], &entry["digest"]));
    let (one, two) = (json!(artifact.manifest.digest), json!(other.manifest.digest));
    let names = ["a", "b", "c"].map(|name| json!(format!("localhost/{name}:1")));
    assert_eq!(named.collect::<Vec<_>>(), [(&names[0], &one), (&names[1], &one), (&names[2], &two)]);
    assert_eq!(index["annotations"]["mine"], "stays");
    let mut blobs = fs::read_dir(graph_root.join("artifacts/blobs/sha256")).unwrap().map(|entry| entry.unwrap());
    assert!(blobs.all(|blob| Digest::of(&fs::read(blob.path()).unwrap()).hex() == blob.file_name().to_str().unwrap()));
    // One copy of the weights for both, and skopeo reads the store as what it is.
    assert_eq!(fs::read_dir(graph_root.join("artifacts/blobs/sha256")).unwrap().count(), 5);
    let from = format!("oci:{}:localhost/a:1", graph_root.join("artifacts").display());
    let to = format!("oci:{}", env.path("copy").display());
    run_ok(Command::new("skopeo").args(["--insecure-policy", "copy", "--preserve-digests", &from, &to]));
    assert_eq!(manifest_of(&env.path("copy")).0, artifact.manifest.digest.to_string());

    env.write("graph/artifacts/index.json", "[]");
    assert!(
        add("localhost/a:1", &artifact)
            .unwrap_err()
            .to_string()
            .contains("index.json is not the index of an OCI layout")
    );
    // Debian 12's Podman has no such store.
    if podman.ok("podman", &["--version"]).starts_with("podman version 4.") {
        let (code, said) = podman.run("windlass", &["model", "artifact", "smollm2"]);
        assert!(
            code == 7 && said.contains("has no artifact store, Podman 5.4 is the first one with it"),
            "{code} {said}"
        );
    }
}

#[test]
fn a_manifest_is_known_from_the_lock_alone() {
    let env = Env::new();
    let image = build(&env);
    let file = &image["model"]["files"][0];
    let locked = json!({
        "source": { "ref": "hf:org/tiny/Tiny-Q8_0.gguf", "repo": "org/tiny", "revision": "0".repeat(40), "floating": false },
        "files": [{
            "name": "Tiny-Q8_0.gguf", "path": "Tiny-Q8_0.gguf", "size": file["size"],
            "sha256": file["sha256"].as_str().unwrap().trim_start_matches("sha256:"),
            "url": "https://registry.example/Tiny-Q8_0.gguf",
        }],
        "facts": image["model"]["facts"],
    });
    let mut text = locked.clone();
    text.as_object_mut().unwrap().remove("facts");
    let lock = json!({ "version": 1, "models": { "smollm2": locked, "text": text } });
    env.write("models.lock.json", lock.to_string());
    let export = |format: &str| {
        env.ok(["export", "smollm2", "--format", format, "--output", format]);
        manifest_of(&env.path(format)).0
    };
    for format in ["modelpack", "docker-model"] {
        let printed = env.ok(["model", "manifest", "smollm2", "--format", format]);
        let (manifest, digest) = printed.trim_end().split_once('\n').unwrap();
        assert_eq!((Digest::of(manifest.as_bytes()).to_string(), digest), (export(format), &*export(format)));
    }
    env.ok(["export", "smollm2", "--format", "ollama", "--output", "ollama"]);
    let manifest = fs::read(env.path("ollama/manifests/registry.ollama.ai/library/smollm2/latest")).unwrap();
    let arguments = ["model", "manifest", "smollm2", "--format", "ollama", "--lock", "models.lock.json", "--json"];
    let printed: Value = serde_json::from_str(&env.ok(arguments)).unwrap();
    assert_eq!((&printed["digest"], &printed["size"]), (&json!(Digest::of(&manifest)), &json!(manifest.len())));
    assert_eq!(printed["config"]["file_type"], "Q8_0");
    let (code, said) = env.fails(["model", "manifest", "text", "--format", "modelpack"]);
    assert!(code == 2 && said.contains("nothing is known of model 'text'"), "{code} {said}");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let env = Env::new();
    build(&env);
    env.write("app.json", json!({ "kind": "image", "name": "app" }).to_string());
    env.ok(["build", "app.json"]);
    let said = |arguments: &[&str]| {
        let (code, said) = env.fails(arguments);
        (code, said.trim_end().strip_prefix("windlass: ").unwrap().to_owned())
    };
    assert_eq!(
        said(&["export", "app", "--format", "modelpack", "--output", "x"]),
        (1, "app: is not a model; build it from a spec with \"kind\": \"model\"".to_owned())
    );
    let to = "docker://127.0.0.1:1/x";
    assert_eq!(
        said(&["push", "app", to, "--format", "modelpack"]),
        (2, "app is not a model; --format is for models".to_owned())
    );
    let (code, text) = said(&["push", "smollm2", to, "--format", "modelpack", "--compression", "zstd"]);
    assert!(code == 2 && text.starts_with("--compression is for layers of images"), "{text}");
    let (code, text) = said(&["export", "smollm2", "--format", "ollama", "--without", "models", "--output", "x"]);
    assert!(code == 2 && text.starts_with("--without is for images"), "{text}");
}
