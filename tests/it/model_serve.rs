//! llama.cpp's server on a real model, without a network: from the image's own layer, from an image that is mounted, and
//! from a metadata-first split.

use std::process::Command;

use serde_json::Value;

use crate::engine::Podman;
use crate::nix::{build, eval};
use crate::podman::wait_for;

/// Models whole and split, an image of the server with each, and one with none.
const PARTS: &str = r#"rec {
  file = pkgs.windlassModels.smollm2;
  whole = w.buildModel { name = "smollm2"; files."smollm2.gguf" = file; };
  split = w.buildModel { name = "split"; src = file; split = "metadata"; splitSize = 40000000; };
  server = name: models: w.buildImage {
    inherit name models;
    config.Entrypoint = [ "${pkgs.llama-cpp}/bin/llama-server" "--ctx-size" "256" "--host" "127.0.0.1" ];
  };
  images = [ (server "baked" [ whole ]) (server "baked-split" [ split ]) (server "bare" [ ]) ];
  stack = w.buildStack { inherit images; };
}"#;

#[test]
fn the_server_answers_from_a_layer_from_a_mounted_image_and_from_a_split() {
    let podman = Podman::new();
    let stack = build(&format!("(let p = {PARTS}; in p.stack.lean)")).unwrap();
    podman.load(&stack, &[]).last();
    let refs = eval(&format!(
        "let p = {PARTS}; in builtins.listToAttrs (map (i: {{ name = i.stackName; value = i.imageRef; }}) (p.images ++ [ p.whole p.split ]))"
    ));
    let reference = |name: &str| refs[name].as_str().unwrap().to_owned();
    let mount = |name: &str| format!("--mount=type=image,source={},destination=/mnt", reference(name));
    let answer = |image: &str, mount: Option<&str>, file: &str| {
        let mut options =
            vec!["run", "--detach", "--pull=never", "--network=none", "--read-only", "--tmpfs=/tmp", "--name=llama"];
        options.extend(mount);
        let reference = reference(image);
        options.extend([&reference, "--model", file]);
        podman.run(&options);
        let process = podman.run(&["inspect", "--format", "{{.State.Pid}}", "llama"]).trim().to_owned();
        let mut ask = Command::new("nsenter");
        ask.args(["--target", &process, "--net", "curl", "--silent", "--show-error"]);
        ask.arg("http://127.0.0.1:8080/v1/completions");
        ask.args(["--data", r#"{"prompt": "The capital of France is", "max_tokens": 6, "temperature": 0}"#]);
        let answer: Value = serde_json::from_str(&wait_for(ask, "choices")).unwrap();
        podman.run(&["rm", "--force", "--time", "0", "llama"]);
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let baked = answer("baked", None, "/models/smollm2.gguf");
    assert!(baked.contains("Paris"), "{baked}");
    assert_eq!(answer("bare", Some(&mount("smollm2")), "/mnt/models/smollm2.gguf"), baked);
    let first = "models/split-00001-of-00004.gguf";
    assert_eq!(answer("baked-split", None, &format!("/{first}")), baked);
    assert_eq!(answer("bare", Some(&mount("split")), &format!("/mnt/{first}")), baked);
}
