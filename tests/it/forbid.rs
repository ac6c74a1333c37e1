//! `forbid`: what an image must not have, by the names of store paths.

use serde_json::{Value, json};

use crate::env::{Env, base_name, closure};
use crate::nix::{build, eval};

/// A store of small files, `app -> {engine -> {cuda_cudart-12.8, libm-cuda}, lib}`, and its closure.
fn store(env: &Env) -> String {
    let paths: [(&str, &[&str]); 5] = [
        ("app", &["engine", "lib"]),
        ("engine", &["cuda_cudart-12.8", "libm-cuda"]),
        ("cuda_cudart-12.8", &["lib"]),
        ("libm-cuda", &[]),
        ("lib", &[]),
    ];
    for (name, _) in paths {
        env.write(std::path::Path::new("store").join(base_name(name)), format!("I am {name}"));
    }
    let store = env.path("store").display().to_string();
    env.write("closure.json", closure(&store, &env.path("store"), &paths));
    store
}

/// What `windlass build` says to an image of this content.
fn verdict(env: &Env, kind: &str, more: &Value) -> Result<String, (i32, String)> {
    let mut spec = json!({ "kind": kind, "name": "app", "storeDir": env.path("store") });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    env.write("spec.json", spec.to_string());
    let arguments = ["build", "spec.json", "--output", "out", "--closure", "closure.json"];
    let output = env.windlass(arguments).output().unwrap();
    if output.status.success() {
        let said = String::from_utf8(output.stdout).unwrap();
        return Ok(said.lines().nth(1).unwrap_or_default().to_owned());
    }
    Err(env.refused(&mut env.windlass(arguments)))
}

#[test]
fn a_name_that_fits_is_refused_with_the_way_to_it() {
    let env = Env::new();
    let path = |name: &str| format!("{}/{}", env.path("store").display(), base_name(name));
    store(&env);
    let way = |names: &[&str]| names.iter().map(|name| base_name(name)).collect::<Vec<_>>().join(" -> ");
    let cuda = base_name("cuda_cudart-12.8");
    let refused = |content: Value, forbid: Value, names: &[&str]| {
        let (code, sentence) = verdict(&env, "image", &json!({ "content": content, "forbid": forbid })).unwrap_err();
        let expression = forbid[0].as_str().unwrap();
        let expected = format!("image 'app': {cuda} is forbidden by '{expression}'; it comes by way of {}", way(names));
        assert_eq!((code, sentence), (1, expected));
    };
    let all = ["app", "engine", "cuda_cudart-12.8"];
    refused(json!({ "deps": [path("app")] }), json!(["^cuda"]), &all);
    refused(json!({ "contents": [path("app")] }), json!(["cudart-12\\.8$", "^cuda"]), &all);
    refused(json!({ "deps": [path("app"), path("engine")] }), json!(["^cuda"]), &all[1..]);
    refused(json!({ "deps": [path("cuda_cudart-12.8")] }), json!(["^cuda"]), &all[2..]);
    refused(json!({ "symlinks": { "/bin/app": path("app") } }), json!(["^cuda"]), &all);
    // Moved elsewhere, it is in the image all the same, and so is what it refers to.
    refused(json!({ "files": { "/lib/cuda": path("cuda_cudart-12.8") } }), json!(["^cuda"]), &all[2..]);
    refused(json!({ "files": { "/lib/engine": path("engine") } }), json!(["^cuda"]), &all[1..]);

    // Names only: nothing of the hash, and nothing of the folder.
    let allowed =
        json!({ "content": { "deps": [path("app")] }, "forbid": ["^libcu", "store", &base_name("app")[..32]] });
    let digest = verdict(&env, "image", &allowed).unwrap();
    let without = json!({ "content": { "deps": [path("app")] } });
    assert_eq!(verdict(&env, "image", &without).unwrap(), digest, "it is no part of the image");
}

#[test]
fn layers_built_by_themselves_are_looked_at() {
    let env = Env::new();
    store(&env);
    let path = |name: &str| format!("{}/{}", env.path("store").display(), base_name(name));
    verdict(&env, "layer", &json!({ "name": "base", "content": { "deps": [path("engine")] } })).unwrap();
    std::fs::rename(env.path("out"), env.path("base")).unwrap();
    let image = |content: Value| json!({ "content": content, "layers": [env.path("base")], "forbid": ["^cuda"] });
    let (_, sentence) = verdict(&env, "image", &image(json!({}))).unwrap_err();
    let [engine, cuda] = ["engine", "cuda_cudart-12.8"].map(base_name);
    let layer = sentence.split('\'').nth(5).unwrap_or_default();
    let expected = format!(
        "image 'app': {cuda} is forbidden by '^cuda'; it comes by way of layer '{layer}' -> {engine} -> {cuda}"
    );
    assert_eq!(sentence, expected);
    // What the image itself names comes first.
    let (_, sentence) = verdict(&env, "image", &image(json!({ "deps": [path("app")] }))).unwrap_err();
    assert!(sentence.ends_with(&format!("by way of {} -> {engine} -> {cuda}", base_name("app"))), "{sentence}");
}

#[test]
fn what_is_no_expression_is_told_by_its_key() {
    let env = Env::new();
    store(&env);
    for (forbid, sentence) in [
        (json!(["^cuda", "("]), "spec.json: forbid[1]: '(' is not a regular expression: unclosed group"),
        (json!("^cuda"), "spec.json: forbid: invalid type: string \"^cuda\", expected a sequence"),
    ] {
        let refused = verdict(&env, "image", &json!({ "forbid": forbid })).unwrap_err();
        assert_eq!(refused, (2, sentence.to_owned()));
    }
}

#[test]
fn nix_refuses_it_and_other_images_do_not_notice() {
    let image = |more: &str| format!(r#"w.buildImage {{ name = "a"; deps = [ pkgs.redis ]; {more} }}"#);
    let error = build(&image(r#"forbid = [ "^openssl-" ];"#)).unwrap_err();
    let expected = "image 'a': ";
    let line = error.lines().find(|line| line.contains(expected)).unwrap_or_else(|| panic!("{error}"));
    assert!(line.contains("-openssl-") && line.contains("is forbidden by '^openssl-'; it comes by way of "), "{line}");
    assert!(line.contains("-redis-") && line.contains(" -> "), "{line}");
    let stack = format!("w.buildStack {{ images = [ ({}) ]; }}", image(r#"forbid = [ "^openssl-" ];"#));
    assert!(build(&stack).unwrap_err().contains("is forbidden by '^openssl-'"));

    let error = build(&image(r#"forbid = [ "[" ];"#)).unwrap_err();
    assert!(error.contains("forbid[0]: '[' is not a regular expression: unclosed character class"), "{error}");
    let layer = r#"layers = [ (w.buildLayer { name = "l"; deps = [ pkgs.redis ]; }) ]; forbid = [ "^openssl-" ];"#;
    assert!(build(&format!(r#"w.buildImage {{ name = "a"; {layer} }}"#)).unwrap_err().contains("way of layer '"));

    assert_eq!(eval(&format!("({}).spec ? forbid", image(""))), json!(false));
    let tags = eval(&format!("map (i: i.imageRef) [ ({}) ({}) ]", image(""), image("forbid = [ ];")));
    assert_eq!(tags[0], tags[1]);
    build(&image(r#"forbid = [ "^cuda" ];"#)).unwrap();
}
