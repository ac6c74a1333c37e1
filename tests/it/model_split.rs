//! Models of several layers: `windlass model split`, and how little moves when only what describes a model changes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::engine::Podman;
use crate::env::{Env, base_name, run_ok};
use crate::model_files::gguf;
use crate::model_forms::embedding_gguf;
use crate::nix::{build, eval, try_eval};

fn json_of(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The names of the layers of an image directory, bottom first.
fn titles(image: &Path) -> Vec<String> {
    let layers = json_of(image.join("image.json"))["platforms"][0]["layers"].take();
    layers.as_array().unwrap().iter().map(|layer| layer["title"].as_str().unwrap().to_owned()).collect()
}

fn digests(image: &Path) -> Vec<String> {
    let layers = json_of(image.join("image.json"))["platforms"][0]["layers"].take();
    layers.as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

/// A file system's own listing of names and bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(Result::unwrap)
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_file_is_split_once_whole_or_not_at_all() {
    let env = Env::new();
    env.write("m.gguf", gguf("{{ a }}", &[300_000, 200_000, 700_000, 100]));
    let split = |more: &[&str]| env.ok([&["model", "split", "m.gguf", "--output", "out"], more].concat());
    assert_eq!(
        split(&[]),
        "m-00001-of-00002.gguf   288 B  0 tensors\nm-00002-of-00002.gguf  1.2 MB  4 tensors\n\
         out: 2 shards; wrote 1.2 MB; llama.cpp is given the first\n"
    );
    // Again, cut otherwise: the former result is replaced as a whole.
    let json: Value = serde_json::from_str(&split(&["--max-size", "600000", "--json"])).unwrap();
    let shards = json["shards"].as_array().unwrap().iter();
    let shards: Vec<_> = shards.map(|shard| (&shard["name"], &shard["tensors"])).collect();
    let expected = [0, 2, 1, 1].map(Value::from);
    let names = [1, 2, 3, 4].map(|n| Value::from(format!("m-0000{n}-of-00004.gguf")));
    assert_eq!(shards, names.iter().zip(&expected).collect::<Vec<_>>());
    assert_eq!(files(&env.path("out")).len(), 4);

    let refused = |arguments: &[&str]| env.refused(&mut env.windlass([&["model", "split"], arguments].concat()));
    env.write("other/readme", "x");
    let (code, sentence) = refused(&["m.gguf", "--output", "other"]);
    assert_eq!(
        (code, sentence.as_str()),
        (2, "other exists, and is not a directory with shards of m and nothing else; give another --output")
    );
    let (code, sentence) = refused(&["out/m-00002-of-00004.gguf", "--output", "new"]);
    assert!(code == 1 && sentence.starts_with("out/m-00002-of-00004.gguf is shard 2 of 4 already: "), "{sentence}");
    env.write("page.gguf", "<!DOCTYPE html>");
    let (code, sentence) = refused(&["page.gguf", "--output", "new"]);
    assert!(code == 4 && sentence.starts_with("page.gguf is not a model: it is a web page"), "{sentence}");
    let (code, sentence) = refused(&["none.gguf", "--output", "new"]);
    assert!(code == 2 && sentence == "none.gguf: there is no such file or directory", "{sentence}");
    let (code, sentence) = refused(&["other", "--output", "new"]);
    assert!(code == 1 && sentence.starts_with("read other: "), "{sentence}");
}

/// A store of a Podman's own, with split models in it.
struct Models {
    podman: Podman,
}

impl Models {
    const TENSORS: [u64; 3] = [3_000_000, 2_500_000, 2_000_000];

    /// A model in the store that was split so that each shard has a tensor.
    fn add(&self, name: &str, template: &str, tensors: &[u64]) -> PathBuf {
        let env = &self.podman.env;
        env.write(format!("{name}.gguf"), gguf(template, tensors));
        let (file, output) = (env.path(format!("{name}.gguf")), env.path(format!("shards-{name}")));
        let arguments =
            ["model", "split", file.to_str().unwrap(), "--max-size", "1", "--output", output.to_str().unwrap()];
        env.ok(arguments);
        let path = format!("{name}-{}", template.len());
        for (file, bytes) in files(&output) {
            self.podman.add(&path, &file, bytes, 0o444);
        }
        self.podman.home("store").join(base_name(&path))
    }

    fn spec(&self, name: &str, source: &Path, layers: &str) -> Value {
        json!({ "name": name, "source": source, "storeDir": self.podman.home("store"), "layers": layers,
            "mountPath": format!("/models/{name}") })
    }

    /// A stack of an image `app` with these models, built at this name.
    fn stack(&self, output: &str, models: &[Value]) -> PathBuf {
        let sources: Vec<Value> = models.iter().map(|spec| json!({ "spec": spec })).collect();
        let texts = json!({ "texts": { "/app": "v1" } });
        let store = self.podman.home("store");
        let image = json!({ "name": "app", "storeDir": store, "models": sources, "content": texts });
        let spec = json!({ "kind": "stack", "name": "s", "images": [image], "models": sources });
        self.podman.build(output, &spec)
    }
}

#[test]
fn a_new_template_is_one_new_layer_that_podman_writes() {
    let models = Models { podman: Podman::with_nix() };
    let stack = |output: &str, template: &str| {
        let source = models.add("m", template, &Models::TENSORS);
        models.stack(output, &[models.spec("m", &source, "files")])
    };
    let (old, new) = (stack("old", "{{ a }}"), stack("new", &"{{ another }}".repeat(5000)));
    let shards = ["m-00002-of-00004.gguf", "m-00003-of-00004.gguf", "m-00004-of-00004.gguf", "m metadata"];
    assert_eq!(titles(&old.join("models/m"))[..4], shards);
    assert_eq!(titles(&old.join("images/app"))[..4], shards);
    for directory in ["models/m", "images/app"] {
        let (old, new) = (digests(&old.join(directory)), digests(&new.join(directory)));
        assert_eq!((&old[..3], old.len()), (&new[..3], new.len()));
        assert_ne!(old[3], new[3]);
    }

    let env = &models.podman.env;
    let diff: Value = serde_json::from_str(&env.ok(["diff", "old", "new", "--json"].map(|word| {
        if word == "old" || word == "new" { env.path(word).display().to_string() } else { word.to_owned() }
    })))
    .unwrap();
    for change in diff["changes"].as_array().unwrap() {
        let of = |key: &str| -> Vec<String> {
            change[key].as_array().unwrap().iter().map(|layer| layer["title"].as_str().unwrap().to_owned()).collect()
        };
        // What lies above it is written again from what is there.
        let above: &[&str] = if change["name"] == "app" { &["files, mount points"] } else { &[] };
        assert_eq!(of("rewritten"), above, "{change}");
        assert!(change["bytesToWrite"].as_u64().unwrap() < 100_000, "{change}");
    }
    let new_blobs: usize =
        diff["changes"].as_array().unwrap().iter().map(|change| change["newBlobs"].as_array().unwrap().len()).sum();
    assert_eq!(new_blobs, 1, "{diff}");

    // Pulled: what Podman has it is not given again.
    let load = |stack: &Path| -> Value {
        let said = models.podman.load(stack, &["--via", "podman", "--json"]);
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.stdout).unwrap()
    };
    let written = |stack: &Path| load(stack)["written"].as_u64().unwrap();
    let (first, second) = (written(&old), written(&new));
    assert!(first > 7_500_000 && second * 10 < first, "{first} bytes, then {second}");

    // The whole model is there, as an image to be mounted and below the app.
    let shards = files(&models.podman.home("store").join(base_name(&format!("m-{}", "{{ another }}".len() * 5000))));
    for name in ["m", "app"] {
        let reference =
            json_of(new.join(format!("{}/{name}/image.json", if name == "m" { "models" } else { "images" })));
        let mounted = models.podman.run(&["image", "mount", reference["ref"].as_str().unwrap()]);
        assert!(files(&Path::new(mounted.trim()).join("models/m")) == shards, "{name}");
        models.podman.run(&["image", "umount", reference["ref"].as_str().unwrap()]);
    }
    // A stack of archives has it all in the model's one, and loads without windlass.
    let archives = env.path("archives");
    env.ok(["export", new.to_str().unwrap(), "--output", archives.to_str().unwrap()]);
    let other = Podman::new();
    let said = run_ok(other.command("sh").arg(archives.join("load.sh")));
    assert_eq!(said.lines().last(), Some("2 loaded, 0 present"));
    let size = |name: &str| fs::metadata(archives.join(name)).unwrap().len();
    assert!(size("models/m.tar") > 7_500_000 && size("images/app.tar") < 200_000);
}

#[test]
fn a_linked_model_of_several_layers_is_bound_checked_and_removed() {
    let models = Models { podman: Podman::with_nix() };
    // Names of this test alone: a layer that a container runs on stays, whichever store that has it from.
    let source = models.add("bound", "{{ a }}", &Models::TENSORS);
    let stack = models.stack("stack", &[models.spec("bound", &source, "files")]);
    let podman = &models.podman;
    podman.load(&stack, &["--via", "store"]).last();
    let verified = podman.said(&["verify", "--full"]);
    assert_eq!(verified.last(), "2 images, 5 layers: all good; read 7.5 MB");
    podman.said(&["model", "use", "bound"]).last();
    let list: Value = serde_json::from_str(&podman.said(&["model", "list", "--json"]).stdout).unwrap();
    let model = &list["models"][0];
    assert_eq!((&model["place"], &model["tree"], &model["file"]), (&json!("linked"), &json!(source), &Value::Null));
    let slot = podman.env.path("podman/root/windlass/models/default/tree");
    assert_eq!(files(&slot), files(&source));

    // A later load finds all of it.
    let again = podman.load(&stack, &["--via", "store"]);
    assert!(again.last().starts_with("1 image, 1 model: 0 loaded, 2 present; wrote 0 B"), "{again:?}");
    // Nothing of it goes while it is active; with another stack loaded and the slot moved, all of it does.
    let other = models.add("next", "{{ a }}", &[1_000_000, 1000]);
    podman.load(&models.stack("stack", &[models.spec("next", &other, "files")]), &["--via", "store"]).last();
    podman.said(&["model", "use", "next"]).last();
    let cleaned = podman.said(&["gc", "--apply", "--keep-generations", "1"]);
    cleaned.last();
    let left: BTreeSet<String> = fs::read_dir(podman.home("storage/overlay"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("diff/models"))
        .filter(|models| models.exists())
        .flat_map(|models| files_of(&models))
        .collect();
    let expected = (1..=3).map(|n| format!("next-{n:05}-of-00003.gguf")).collect();
    assert_eq!(left, expected, "{cleaned:?}");
}

fn files_of(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    entries.flat_map(|path| files(&path)).map(|(name, _)| name).collect()
}

#[test]
fn embeddings_of_another_length_are_told_before_the_model_is_used() {
    let models = Models { podman: Podman::with_nix() };
    let podman = &models.podman;
    let spec = |name: &str, length: u32| {
        let file = podman.add(name, "m.gguf", embedding_gguf(name, length), 0o444).join("m.gguf");
        json!({ "name": name, "source": file, "storeDir": podman.home("store"), "mountPath": format!("/models/{name}") })
    };
    let stack = models.stack("stack", &[spec("small", 768), spec("large", 1024), spec("other", 1024)]);
    podman.load(&stack, &[]).last();
    let change = |arguments: &[&str]| podman.said(&[&["model", "use", "--slot", "embed"], arguments].concat());
    assert_eq!((change(&["small"]).code, change(&["small"]).stderr.as_str()), (0, ""));
    let warning = "windlass: warning: embeddings of large have 1024 numbers, and those of the model before had 768: vectors that \
                   were stored with that cannot be searched with this; make them anew\n";
    for options in [&["large", "--dry-run"][..], &["large"]] {
        let said = change(options);
        assert_eq!((said.code, said.stderr.as_str()), (0, warning.trim_start_matches("windlass: ")), "{options:?}");
    }
    // If the length is the same, there is nothing to say.
    assert_eq!((change(&["other"]).code, change(&["other"]).stderr.as_str()), (0, ""));
}

#[test]
fn all_weights_lie_below_what_describes_models() {
    let models = Models { podman: Podman::with_nix() };
    let (m, n) = (models.add("m", "{{ a }}", &Models::TENSORS), models.add("n", "{{ b }}", &[40_000, 30_000]));
    let one = models.podman.add("one", "one.gguf", gguf("", &[5_000_000]), 0o444);
    let specs = [models.spec("n", &n, "files"), models.spec("one", &one, "one"), models.spec("m", &m, "files")];
    let stack = models.stack("stack", &specs);
    let expected = [
        "m-00002-of-00004.gguf",
        "m-00003-of-00004.gguf",
        "m-00004-of-00004.gguf",
        "one",
        "n-00002-of-00003.gguf",
        "n-00003-of-00003.gguf",
        "m metadata",
        "n metadata",
    ];
    let app = stack.join("images/app");
    assert_eq!(titles(&app)[..8], expected);
    assert_eq!(json_of(app.join("image.json"))["platforms"][0]["models"], json!(["m", "one", "n"]));

    // An image that is built upon it, with a model of its own between theirs.
    let own = models.add("own", "{{ c }}", &[1_000_000, 900_000]);
    let spec = json!({ "kind": "image", "name": "above", "storeDir": models.podman.home("store"), "fromImage": app,
        "models": [{ "spec": models.spec("own", &own, "files") }], "content": { "texts": { "/above": "x" } } });
    let above = models.podman.build("above", &spec);
    let weights = ["own-00002-of-00003.gguf", "own-00003-of-00003.gguf"].map(str::to_owned);
    let expected = expected.map(str::to_owned);
    let expected = [&expected[..4], &weights, &expected[4..7], &["own metadata".to_owned()], &expected[7..]].concat();
    assert_eq!(titles(&above)[..11], expected);
    assert_eq!(json_of(above.join("image.json"))["platforms"][0]["models"], json!(["m", "one", "own", "n"]));
    // The plan of a spec knows the same before anything is hashed.
    let file = models.podman.env.path("stack.json");
    let plan = models.podman.env.ok(["plan", file.to_str().unwrap()]);
    assert!(plan.find("m metadata").unwrap() > plan.find("n-00003-of-00003.gguf").unwrap(), "{plan}");
}

#[test]
fn nix_splits_a_file_once_for_all_that_is_made_of_it() {
    let env = Env::new();
    let file = |name: &str, template: &str| env.write(name, gguf(template, &[400_000, 300_000])).display().to_string();
    let (old, new) = (file("old.gguf", "{{ a }}"), file("new.gguf", "{{ b }}"));
    let model = |file: &str, more: &str| {
        format!(
            r#"(w.buildModel {{ name = "m"; files."sub/m.gguf" = {file}; split = "metadata"; splitSize = 450000; {more} }})"#
        )
    };
    let [before, after] = [&old, &new].map(|file| build(&model(file, "")).unwrap());
    let expected = ["m-00002-of-00003.gguf", "m-00003-of-00003.gguf", "m metadata"];
    assert_eq!([&titles(&before)[..3], &titles(&after)[..3]], [expected, expected]);
    assert_eq!(digests(&before)[..2], digests(&after)[..2]);
    let recipe = json_of(before.join("recipes").join(format!("{}.json", &digests(&before)[2][7..])));
    assert_eq!(recipe["inputs"][0]["target"], "/models/sub/m-00001-of-00003.gguf");
    // The split is a derivation of its own: what else is said of the model does not make it anew.
    let shards = |more: &str| eval(&format!("{}.spec.source", model(&old, more)));
    assert_eq!(shards(""), shards(r#"annotations.a = "b"; mountPath = "/other";"#));
    assert_ne!(shards(""), eval(&format!("{}.spec.source", model(&new, ""))));
    // Shards, or files of weights, that are there already.
    let directory = eval(&format!("{}.spec.source", model(&old, "")));
    let given = format!(
        r#"(w.buildModel {{ name = "m"; mountPath = "/models/sub"; src = builtins.storePath {directory}; split = "files"; }})"#
    );
    assert_eq!(digests(&build(&given).unwrap()), digests(&before));

    let wrong = |expression: &str| try_eval(&format!("{expression}.spec")).unwrap_err();
    for (arguments, sentence) in [
        (r#"files = { "a.gguf" = ./a; "b.gguf" = ./b; }; split = "metadata";"#, "is for one GGUF file"),
        (r#"files."a.bin" = ./a; split = "metadata";"#, "and the name of a.bin does not end in .gguf"),
        (r#"files."a.gguf" = ./a; split = "tensors";"#, "expected \"metadata\" or \"files\""),
    ] {
        let error = wrong(&format!(r#"(w.buildModel {{ name = "m"; {arguments} }})"#));
        assert!(error.contains("buildModel: model 'm': ") && error.contains(sentence), "{error}");
    }
}
