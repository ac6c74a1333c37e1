//! What `plan`, `build` and `push` warn of: every way to pay twice for weights, and licences that a stack does not allow.

use std::fs::File;

use serde_json::{Value, json};

use crate::env::{LinkedPodman, linked_podman};
use crate::model_facts::build;
use crate::model_files::gguf;
use crate::nix;
use crate::push::windlass;
use crate::registry_server::RealRegistry;

fn plan(podman: &LinkedPodman, name: &str) -> Value {
    let path = |name: &str| podman.env.path(name).to_str().unwrap().to_owned();
    podman.env.write("none", "{}");
    let mut arguments = vec!["plan".to_owned(), path(name), "--json".to_owned()];
    if podman.env.path(name).is_file() {
        arguments.extend(["--closure".to_owned(), path("none")]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    serde_json::from_str(&podman.ok("windlass", &arguments)).unwrap()
}

fn warnings(report: &Value) -> Vec<String> {
    report["warnings"].as_array().unwrap().iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_way_to_pay_twice_is_told() {
    let podman = linked_podman();
    let store = podman.env.path("store");
    let big = podman.store_file("big.gguf", &gguf("t", &[3_000_000]));
    let small = podman.store_file("small.gguf", &gguf("t", &[1_500_000]));
    let model = |name: &str, place: &str, file| json!({ "spec": { "name": name, "storeDir": store, "files": { place: file } } });
    let (one, two) = (model("big", "big.gguf", &big), model("small", "small.gguf", &small));
    // Weights by their name, and by their size and what they begin with; a video is not weights.
    let large = |name: &str, start: &[u8]| {
        let path = podman.env.write(name, start);
        File::options().write(true).open(&path).unwrap().set_len(256 << 20).unwrap();
        path
    };
    let again = podman.env.write("again.gguf", std::fs::read(&small).unwrap());
    let files = json!({ "/srv/again.gguf": again, "/srv/tiny.gguf": podman.env.write("t.gguf", "small"),
        "/srv/weights": large("w", b"GGUF"), "/srv/model.onnx": large("o", b"\x08"), "/srv/film.mkv": large("f", b"\x1aE\xdf\xa3") });
    let image = |name: &str, models: Value, content: Value| json!({ "name": name, "tag": "1", "storeDir": store, "models": models, "content": content, "mountPoints": false });
    let images = [
        image("a", json!([one, two]), json!({ "files": files })),
        image("b", json!([two]), json!({ "texts": { "/b": "b" } })),
        image("c", json!([one]), json!({ "texts": { "/c": "c" } })),
    ];
    let copy = model("copy", "copy.gguf", &big);
    let spec = json!({ "kind": "stack", "name": "s", "images": images, "models": [copy] });
    podman.env.write("stack.json", spec.to_string());
    let planned = plan(&podman, "stack.json");
    let told = warnings(&planned);
    let misplaced = |path: &str, size: u64| {
        format!(
            "image 'a' has a model in its root layer 'files': {path}, {size} bytes; whatever else changes there, or below it, stores and \
             sends them again; leave it out there and name it in 'models' (buildModel), so that it lies at the bottom"
        )
    };
    let [big, small] = [big, small].map(|file| std::fs::metadata(file).unwrap().len());
    assert_eq!(
        told[..3],
        [
            misplaced("/srv/again.gguf", small),
            misplaced("/srv/model.onnx", 256 << 20),
            misplaced("/srv/weights", 256 << 20)
        ]
    );
    let order = "model 'small' lies on other models in image 'b' than in image 'a': Podman stores its ";
    assert!(told[3].starts_with(order), "{told:?}");
    let same = format!(
        "models 'big' and 'copy' have the same {big} bytes, at /models/big.gguf and at /models/copy.gguf: they are stored once for each; \
         leave one of them out, or give both the same files and the same mountPath"
    );
    assert_eq!(told[4..], [same]);
    let facts: Vec<_> = planned["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (&model["name"], &model["facts"]["parameters"]))
        .collect();
    assert_eq!(
        facts,
        [(&json!("big"), &json!(3_000_000)), (&json!("copy"), &json!(3_000_000)), (&json!("small"), &json!(1_500_000))]
    );
    let path = |name: &str| podman.env.path(name).to_str().unwrap().to_owned();
    let text = podman.ok("windlass", &["plan", &path("stack.json"), "--closure", &path("none")]);
    assert!(text.contains("\nmodel small: 1.5 MB, gguf, llama, 1.5M parameters, I8, Apache-2.0\n"), "{text}");

    // The same when it is built, and of what was built.
    assert_eq!(warnings(&build(&podman, "stack", &spec)), told);
    let built = plan(&podman, "stack");
    assert_eq!((warnings(&built), &built["models"][2]), (told.clone(), &planned["models"][2]));
    // A storage driver that copies, on another host: Podman keeps to the one it was first used with.
    let conf = podman.env.path("podman/storage.conf");
    let settings = std::fs::read_to_string(&conf).unwrap();
    let copies = settings.replace("overlay", "vfs").replace("podman/root", "podman/copies");
    std::fs::write(&conf, copies.replace("podman/run", "podman/run-copies")).unwrap();
    let more = warnings(&plan(&podman, "stack.json")).pop().unwrap();
    assert!(more.starts_with("Podman's storage driver is vfs, which makes a copy of all weights"), "{more}");

    // An order that all share, each model once and in its own layer: nothing.
    let images =
        [image("a", json!([one, two]), json!({})), image("c", json!([one]), json!({ "texts": { "/c": "c" } }))];
    std::fs::write(&conf, settings).unwrap();
    let good = json!({ "kind": "stack", "name": "s", "images": images });
    assert_eq!(warnings(&build(&podman, "good", &good)), Vec::<String>::new());
    assert_eq!(warnings(&plan(&podman, "good")), Vec::<String>::new());
}

#[test]
fn packed_weights_are_warned_of() {
    let podman = linked_podman();
    podman.stack();
    let registry = RealRegistry::start(&podman.env);
    let to = format!("docker://{}/ai", registry.host);
    for (compression, warned) in [("none", false), ("zstd", true)] {
        let stack = podman.env.path("stack");
        let arguments = ["push", stack.to_str().unwrap(), &to, "--insecure", "--compression", compression];
        let output = windlass(&podman, &arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        assert_eq!(said.starts_with("warning: weights get about 6 % smaller"), warned, "{said}");
    }
}

#[test]
fn a_stack_has_models_of_allowed_licences_only() {
    let podman = linked_podman();
    let store = podman.env.path("store");
    let apache = podman.store_file("apache.gguf", &gguf("t", &[2_000_000]));
    let unknown = podman.store_file("unknown.bin", b"weights");
    let spec = |licences: Value, models: &[&str]| {
        let model = |name: &&str| {
            let (place, file) = if *name == "apache" { ("a.gguf", &apache) } else { ("u.bin", &unknown) };
            json!({ "spec": { "name": name, "storeDir": store, "files": { place: file } } })
        };
        let models: Vec<Value> = models.iter().map(model).collect();
        json!({ "kind": "stack", "name": "s", "models": models, "licences": licences })
    };
    podman.env.write("none", "{}");
    let path = |name: &str| podman.env.path(name).to_str().unwrap().to_owned();
    for (licences, models, sentence) in [
        (
            json!({ "deny": ["apache-*"] }),
            vec!["apache"],
            "model 'apache' has the licence Apache-2.0, which 'apache-*' in licences.deny refuses; leave the model out, or take that rule away",
        ),
        (
            json!({ "allow": ["MIT"], "deny": [] }),
            vec!["apache"],
            "model 'apache' has the licence Apache-2.0, and licences.allow has only MIT; leave the model out, or add its licence there",
        ),
        (
            json!({ "unknown": "deny" }),
            vec!["apache", "nobody"],
            "nothing says which licence model 'nobody' has, and licences.unknown is \"deny\"; say it in the model's annotations as \
             org.opencontainers.image.licenses, or leave the model out",
        ),
    ] {
        podman.env.write("bad.json", spec(licences.clone(), &models).to_string());
        let arguments = ["build", &path("bad.json"), "--closure", &path("none"), "--output", &path("bad")];
        let (code, said) = podman.run("windlass", &arguments);
        assert_eq!((code, said), (1, format!("windlass: {sentence}\n")));
        assert!(!podman.env.path("bad").exists());
        let told = warnings(&plan(&podman, "bad.json"));
        assert_eq!(told[0], format!("this would not be built: {sentence}"));
    }
    podman.env.write("bad.json", spec(json!({ "deny": ["a*b"] }), &["apache"]).to_string());
    let (code, said) =
        podman.run("windlass", &["build", &path("bad.json"), "--closure", &path("none"), "--output", &path("bad")]);
    assert!(code == 2 && said.contains("licences.deny: 'a*b' is no SPDX identifier"), "{code} {said}");
    // A warning, unless the spec says what it is.
    let allow = json!({ "allow": ["Apache-2.0"] });
    let warned = warnings(&build(&podman, "warned", &spec(allow.clone(), &["apache", "nobody"])));
    assert_eq!(
        warned,
        [
            "nothing says which licence model 'nobody' has; say it in the model's annotations as org.opencontainers.image.licenses"
        ]
    );
    let mut said = spec(allow, &["apache", "nobody"]);
    said["models"][1]["spec"]["annotations"] = json!({ "org.opencontainers.image.licenses": "Apache-2.0 OR MIT" });
    assert_eq!(warnings(&build(&podman, "said", &said)), Vec::<String>::new());
    // Nothing is demanded where the spec demands nothing.
    assert_eq!(warnings(&build(&podman, "free", &spec(json!({}), &["nobody"]))), Vec::<String>::new());
}

#[test]
fn nix_hands_the_policy_on_and_the_build_fails_with_the_model_s_name() {
    let podman = linked_podman();
    let file = podman.env.write("m.gguf", gguf("t", &[100_000]));
    let stack = |licences: &str| {
        let models = format!(r#"models = [ (w.buildModel {{ name = "m"; files."m.gguf" = {}; }}) ];"#, file.display());
        format!(r#"(w.buildStack {{ name = "s"; images = [ ]; {models} {licences} }})"#)
    };
    let error = nix::build(&stack(r#"licences.deny = [ "Apache-2.0" ];"#)).unwrap_err();
    assert!(
        error.contains("model 'm' has the licence Apache-2.0, which 'Apache-2.0' in licences.deny refuses"),
        "{error}"
    );
    let error = nix::build(&stack("licences.alow = [ ];")).unwrap_err();
    assert!(error.contains("licences.alow: unknown field `alow`"), "{error}");
    let out = nix::build(&stack(r#"licences = { allow = [ "Apache-*" ]; };"#)).unwrap();
    let lean: Value = serde_json::from_slice(&std::fs::read(out.join("stack.json")).unwrap()).unwrap();
    assert_eq!(lean["models"][0]["model"]["facts"]["licence"], "Apache-2.0");
    // Where nothing is asked for, the derivation is that of a stack without a policy.
    let drv = |licences: &str| nix::eval(&format!("{}.lean.drvPath", stack(licences)));
    let nothing = drv("");
    assert_eq!(drv(r#"licences = { allow = null; deny = [ ]; unknown = "warn"; };"#), nothing);
    assert_ne!(drv("licences.deny = [ \"MIT\" ];"), nothing);
}
