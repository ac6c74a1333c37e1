//! Ollama's directory as a layer: in containers of a real Podman, and from Nix.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::env::{Env, base_name};
use crate::lab::Lab;
use crate::model_forms::tiny_gguf;
use crate::nix::{build, eval, root, try_eval};
use crate::ollama_checker::check;

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Builds models of one file each, a layer for Ollama with all of them, and an image `ollama` with both.
fn image(lab: &Lab, models: &[(&str, Value)]) {
    let env = &lab.env;
    let (mut built, mut entries) = (Vec::new(), Vec::new());
    for (name, options) in models {
        let store = env.path("store");
        let file = env.write(store.join(base_name(&format!("{name}.gguf"))), tiny_gguf(name));
        let spec =
            json!({ "kind": "model", "name": name, "storeDir": store, "files": { format!("{name}.gguf"): file } });
        env.write(format!("{name}.json"), spec.to_string());
        lab.ok(&["build", &format!("{name}.json")]);
        built.push(json!({ "built": env.path(name) }));
        entries.push(json!({ "model": env.path(name), "options": options }));
    }
    env.write("layer.json", json!({ "kind": "ollama", "models": entries }).to_string());
    lab.ok(&["build", "layer.json"]);
    let spec = json!({
        "kind": "image", "name": "ollama", "storeDir": env.path("store"), "models": built,
        "layers": [env.path("layer")], "config": { "Cmd": ["/nothing"] },
    });
    env.write("ollama.json", spec.to_string());
    lab.ok(&["build", "ollama.json"]);
}

#[test]
fn a_container_has_models_that_ollama_would_list_and_the_weights_once() {
    for linked in [false, true] {
        let lab = Lab::new(linked);
        let options = json!({
            "template": "{{ .Prompt }}", "system": "Be brief.", "params": { "stop": ["<|end|>"], "num_ctx": 4096 },
            "licences": ["Apache License …"], "reference": "team/two:q8",
        });
        image(&lab, &[("one", json!({})), ("two", options)]);
        lab.ok(&["load", "ollama"]);
        lab.podman(&["create", "--pull=never", "--name", "ollama", &lab.reference("ollama")]);
        let root = PathBuf::from(lab.podman(&["mount", "ollama"]).trim());
        let models = check(&root, "/root/.ollama/models");
        let [one, two] = &models[..] else { panic!("{models:?}") };
        assert_eq!(one.name, "registry.ollama.ai/library/one/latest");
        assert_eq!(
            (one.weights.clone(), two.weights.clone()),
            (root.join("models/one.gguf"), root.join("models/two.gguf"))
        );
        assert_eq!(two.name, "registry.ollama.ai/team/two/q8");
        let text = |kind: &str, text: &str| (kind.to_owned(), Some(text.to_owned()));
        let layers = [
            ("model".to_owned(), None),
            text("template", "{{ .Prompt }}"),
            text("system", "Be brief."),
            text("license", "Apache License …"),
            text("params", "{\"num_ctx\":4096,\"stop\":[\"\\u003c|end|\\u003e\"]}\n"),
        ];
        assert_eq!(two.layers, layers);
        assert!(two.size > tiny_gguf("two").len() as u64);
        lab.podman(&["rm", "--force", "ollama"]);

        let summary = json_of(&lab.env.path("ollama/image.json"));
        let layers = summary["platforms"][0]["layers"].as_array().unwrap();
        let of = |key: &str| layers.iter().map(|layer| layer[key].clone()).collect::<Vec<_>>();
        assert_eq!(of("kind")[..2], [json!("model"), json!("model")]);
        assert!(
            layers[2]["title"].as_str().unwrap().ends_with(" for Ollama")
                && layers[2]["size"].as_u64().unwrap() < 20_000
        );
    }
}

#[test]
fn the_layer_is_the_same_wherever_and_for_whatever_it_is_built() {
    let digest = || {
        let lab = Lab::new(false);
        image(&lab, &[("one", json!({}))]);
        json_of(&lab.env.path("layer/layers.json"))["layers"][0]["digest"].clone()
    };
    let first = digest();
    assert_eq!(first, digest());
    // When it changes, so does every image that has it.
    assert_eq!(first, "sha256:3b43583ab5d3c4bfa4183e2d9bea756d989980085ac797bca2314985876e20f6");
}

#[test]
fn what_ollama_would_not_take_is_refused() {
    let env = Env::new();
    let file = env.write("one.gguf", tiny_gguf("one"));
    env.write("one.json", json!({ "kind": "model", "name": "one", "files": { "one.gguf": file } }).to_string());
    env.ok(["build", "one.json"]);
    env.write(
        "text.json",
        json!({ "kind": "model", "name": "text", "files": { "x": env.path("one.json") } }).to_string(),
    );
    env.ok(["build", "text.json"]);
    let said = |models: Value, directory: &str| {
        env.write("layer.json", json!({ "kind": "ollama", "models": models, "directory": directory }).to_string());
        env.refused(&mut env.windlass(["build", "layer.json"]))
    };
    let model = |name: &str, options: Value| json!({ "model": env.path(name), "options": options });
    let (one, place) = (|| model("one", json!({})), "/models");
    let twice = said(json!([one(), model("one", json!({ "reference": "library/one:latest" }))]), place).1;
    assert!(twice.starts_with("two models would both be 'registry.ollama.ai/library/one:latest'"), "{twice}");
    let text = said(json!([model("text", json!({}))]), place).1;
    assert!(text.starts_with("$T/text: none of its files is a GGUF or safetensors file"), "{text}");
    let name = said(json!([model("one", json!({ "reference": "te.am/one" }))]), place);
    assert!(
        name.0 == 2 && name.1.contains("models[0].options.reference: 'te.am/one' is not a name for Ollama"),
        "{name:?}"
    );
    let (code, text) = said(json!([one()]), "models/..");
    assert!(code == 2 && text.contains("directory: 'models/..' is not an absolute path"), "{text}");
    assert!(said(json!([]), place).1.contains("models: a directory of no models"));
}

#[test]
fn nix_makes_the_layer_beside_the_models_and_misses_none() {
    let model = r#"(w.buildModel { name = "smollm2"; files."smollm2.gguf" = pkgs.windlassModels.smollm2; })"#;
    let image = |models: &str| {
        format!(
            r#"w.buildImage {{ name = "ollama"; models = [ {models} ];
              layers = [ (w.buildOllama {{ models = [ {{ model = {model}; params.num_ctx = 4096; }} ]; }}) ]; }}"#
        )
    };
    let error = try_eval(&format!("({}).spec", image(""))).unwrap_err();
    assert!(error.contains("a layer from buildOllama needs the model 'smollm2' in the image"), "{error}");
    // What Ollama gets is in the tag of the image; where the model was built is not.
    let tag = |more: &str| eval(&format!("({} {more}).imageTag", image(model)));
    assert_eq!(tag(""), tag("// { }"));
    let path = build(&image(model)).unwrap();
    let summary = json_of(&path.join("image.json"));
    let layers = summary["platforms"][0]["layers"].as_array().unwrap();
    assert_eq!(
        (&layers[0]["kind"], &layers[1]["title"]),
        (&json!("model"), &json!("registry.ollama.ai/library/smollm2:latest for Ollama"))
    );
    let recipe = layers[1]["digest"].as_str().unwrap()[7..].to_owned();
    let recipe = json_of(&path.join(format!("recipes/{recipe}.json")));
    let weights = json_of(&build(model).unwrap().join("image.json"))["model"]["files"][0].clone();
    let link = json!({
        "type": "symlink", "target": "/models/smollm2.gguf",
        "path": format!("/root/.ollama/models/blobs/{}", weights["sha256"].as_str().unwrap().replace(':', "-")),
    });
    assert!(recipe["inputs"].as_array().unwrap().contains(&link), "{recipe}");
}

#[test]
fn the_stack_gives_ollama_the_models_that_it_can_serve() {
    let service = |more: &str| {
        let root = root().display();
        eval(&format!(
            r#"let
              fake = name: derivation {{ inherit name; system = builtins.currentSystem; builder = "/bin/sh"; }};
              one = w.buildModel {{ name = "one"; files."one.gguf" = fake "one"; }};
              many = w.buildModel {{ name = "many"; files."many" = fake "many"; }};
              s = import {root}/nix/ai-stack/ollama.nix {{
                pkgs = {{ ollama = fake "ollama"; cacert = fake "cacert"; }}; windlass = w; probe = fake "probe";
                service = (import {root}/nix/ai-stack/services.nix).ollama; {more}
              }};
              env = name: builtins.head (builtins.filter (e: builtins.match "${{name}}=.*" e != null) s.image.spec.config.Env);
            in [ (map env [ "OLLAMA_MODELS" "OLLAMA_NOPRUNE" "HOME" ]) (map (m: m.modelName) s.image.models)
                 (builtins.length s.image.spec.layers) s.container.readOnly ]"#
        ))
    };
    let with = |models: &str| json!([format!("OLLAMA_MODELS={models}"), "OLLAMA_NOPRUNE=1", "HOME=/var/lib/ollama"]);
    assert_eq!(service("models = [ one many ];"), json!([with("/models/ollama"), ["one"], 1, true]));
    let pulls = json!([with("/var/lib/ollama/models"), [], 0, true]);
    assert_eq!(service("models = [ many ];"), pulls);
    assert_eq!(service("models = [ one ]; settings.bake = false;"), pulls);
}
