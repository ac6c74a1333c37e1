//! `fetchModel` in real Nix, beside what `windlass model add` has put into the store, and without it.

use std::path::PathBuf;

use serde_json::{Value, json};
use windlass::internals::nix::store::fitting_name;
use windlass::internals::oci::digest::Digest;

use crate::env::run_ok;
use crate::hub::{FakeHub, TOKEN, gguf, gguf_shards};
use crate::model_add::User;
use crate::nix::{nix, root};

/// An expression that may use `w`, the functions of nix/lib, with the program under test as their builder.
fn wrap(expression: &str) -> String {
    format!(
        "let bin = derivation {{ name = \"windlass\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
         args = [ \"-c\" \"/bin/mkdir -p $out/bin && /bin/ln -s {} $out/bin/windlass\" ]; }}; \
         w = import {}/nix/lib {{ windlass = bin; }}; in {expression}",
        env!("CARGO_BIN_EXE_windlass"),
        root().display()
    )
}

/// The store path that it builds, or what Nix says.
fn build(user: &User, expression: &str) -> Result<PathBuf, String> {
    let mut command = user.with(nix("nix-build"));
    let output = command.args(["--no-out-link", "--expr", &wrap(expression)]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout).into()) } else { Err(text(&output.stderr)) }
}

fn eval(user: &User, expression: &str) -> Result<Value, String> {
    let mut command = user.with(nix("nix-instantiate"));
    command.args(["--eval", "--strict", "--json", "--option", "allow-import-from-derivation", "false", "--expr"]);
    let output = command.arg(wrap(expression)).output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn add(user: &User, hub: &FakeHub, arguments: &[&str]) {
    run_ok(user.model(hub, &[&["add"], arguments].concat()).env("HF_TOKEN", TOKEN));
}

fn from_lock(user: &User, name: &str) -> String {
    format!("w.fetchModel {{ lock = {}; name = \"{name}\"; }}", user.env.path("models.lock.json").display())
}

#[test]
fn what_was_added_is_built_already_and_else_it_is_fetched() {
    let (user, model) = (User::new(), gguf("Tiny", "nix", 5000));
    let hub = FakeHub::start(&[("m.gguf", &model)]);
    add(&user, &hub, &["hf:org/repo/m.gguf"]);
    let downloads = hub.downloads();
    let path = build(&user, &from_lock(&user, "m")).unwrap();
    assert_eq!((&path, hub.downloads()), (&user.fixed("m.gguf", &model), downloads));

    // With the lock alone.
    let other = User::new();
    other.env.write("models.lock.json", user.lock());
    let path = build(&other, &from_lock(&other, "m")).unwrap();
    assert_eq!((&path, std::fs::read(&path).unwrap()), (&other.fixed("m.gguf", &model), model.clone()));
    assert!(hub.downloads() > downloads);
    assert!(hub.hub.asked().iter().rev().take(1).all(|asked| asked.header("authorization").is_none()));

    // Without a lock: the same path, by the hash that the hub publishes.
    let sha256 = Digest::of(&model).hex();
    let by_hub = format!(
        r#"w.fetchModel {{ hf = {{ endpoint = "{}"; repo = "org/repo"; revision = "{}"; file = "m.gguf"; }}; sha256 = "{sha256}"; }}"#,
        hub.endpoint(),
        "1".repeat(40)
    );
    let downloads = hub.downloads();
    assert_eq!(build(&other, &by_hub).unwrap(), path);
    assert_eq!(hub.downloads(), downloads);
    let by_itself = build(&User::new(), &by_hub);
    // The store of that user is gone with them; that it was built is what counts.
    assert!(by_itself.unwrap().to_string_lossy().ends_with("-m.gguf") && hub.downloads() > downloads);
    let known = eval(&user, &format!("({}).model", from_lock(&user, "m"))).unwrap();
    assert_eq!(known["files"], json!([{ "name": "m.gguf", "path": "m.gguf", "size": model.len(), "sha256": sha256 }]));
    assert_eq!(known["facts"], user.locked()["models"]["m"]["facts"]);
}

#[test]
fn a_derivation_knows_no_token_and_says_what_to_run() {
    let (user, model) = (User::new(), gguf("Tiny", "gated-nix", 5000));
    let hub = FakeHub::start(&[("m.gguf", &model)]);
    hub.state().gated = Some(401);
    add(&user, &hub, &["hf:org/repo/m.gguf"]);
    let other = User::new();
    other.env.write("models.lock.json", user.lock());
    other.env.write("home/.cache/huggingface/token", TOKEN);
    let error = build(&other, &from_lock(&other, "m")).unwrap_err();
    for part in ["gives it only with a login", "as yourself, run: windlass model fetch m", "your token in HF_TOKEN"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains(TOKEN));
    let derivation = run_ok(other.with(nix("nix-instantiate")).args(["--expr", &wrap(&from_lock(&other, "m"))]));
    assert!(!std::fs::read_to_string(derivation.trim()).unwrap().contains(TOKEN));
    // It says so, and that is enough.
    run_ok(&mut other.model(&hub, &["fetch", "m"]));
    build(&other, &from_lock(&other, "m")).unwrap();

    // Other bytes, and no network.
    hub.state().gated = None;
    hub.state().lie = Some(gguf("Tiny", "lie", 5000));
    let third = User::new();
    third.env.write("models.lock.json", user.lock());
    let error = build(&third, &from_lock(&third, "m")).unwrap_err();
    assert!(error.contains("sent other bytes, with digest sha256:"), "{error}");
    let dead = r#"w.fetchModel { url = "http://127.0.0.1:9/x/m.gguf"; sha256 = "HASH"; }"#;
    let error = build(&third, &dead.replace("HASH", &Digest::of(&model).hex())).unwrap_err();
    let said = error.contains("127.0.0.1:9 cannot be reached");
    assert!(said && error.contains("run: windlass model add http://127.0.0.1:9/x/m.gguf"), "{error}");
}

#[test]
fn a_model_image_takes_all_files_and_what_is_known_of_them() {
    let (user, [first, second]) = (User::new(), gguf_shards("nix-shards"));
    let hub = FakeHub::start(&[("two-00001-of-00002.gguf", &first), ("two-00002-of-00002.gguf", &second)]);
    add(&user, &hub, &["hf:org/repo/two-00001-of-00002.gguf"]);
    let image = |more: &str| format!("w.buildModel {{ name = \"two\"; {more} }}");
    let source = from_lock(&user, "two");
    let fetched = image(&format!("src = {source};"));
    // The licence of the model's page comes with the lock; by hand it is said.
    let by_hand = image(&format!(
        r#"files = builtins.mapAttrs (_: file: "${{file}}") ({source}).files;
           annotations."org.opencontainers.image.licenses" = "Apache-2.0";"#
    ));
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path.join("image.json")).unwrap()).unwrap() };
    let (known, hashed) = (build(&user, &fetched).unwrap(), build(&user, &by_hand).unwrap());
    assert_eq!(read(known)["digest"], read(hashed)["digest"]);
    // What is known is no part of the image's identity.
    let tags = eval(&user, &format!("map (i: i.imageTag) [ ({fetched}) ({by_hand}) ]")).unwrap();
    assert_eq!(tags[0], tags[1]);
    let spec = eval(&user, &format!("builtins.readFile ({fetched}).specFile.drvPath")).unwrap();
    for bytes in [&first, &second] {
        assert!(spec.as_str().unwrap().contains(&Digest::of(bytes).to_string()), "{spec}");
    }
}

#[test]
fn names_in_the_store_are_the_same_by_both_ways() {
    let user = User::new();
    let long = format!("{}.gguf", "x".repeat(300));
    let names = ["m.gguf", "My model (1)é.gguf", ".hidden", "a+b=c?.gguf", &long];
    let name = |name: &&str| {
        let file = serde_json::to_string(name).unwrap();
        format!(r#"(w.fetchModel {{ hf = {{ repo = "o/r"; file = {file}; }}; sha256 = "{}"; }}).name"#, "0".repeat(64))
    };
    let found = eval(&user, &format!("[ {} ]", names.iter().map(name).collect::<Vec<_>>().join(" "))).unwrap();
    assert_eq!(found, json!(names.map(fitting_name)));
}

#[test]
fn what_is_wrong_is_said_at_evaluation() {
    let user = User::new();
    let lock = |models: Value| {
        let text = json!({ "version": 1, "models": models }).to_string();
        format!("builtins.fromJSON {}", serde_json::to_string(&text).unwrap().replace("${", "\\${"))
    };
    let file = json!({ "name": "m.gguf", "path": "m.gguf", "size": 1, "sha256": "abc" });
    let model = json!({ "m": { "source": { "ref": "./m.gguf", "floating": false }, "files": [file] } });
    for (arguments, said) in [
        (format!("lock = {}; name = \"n\";", lock(model.clone())), "there is no model 'n' in the lock; there are: m"),
        (format!("lock = {};", lock(model.clone())), "a lock needs the name of a model; there are: m"),
        (format!("lock = {}; name = \"m\";", lock(model)), "sha256 is not 64 lower-case hex digits"),
        ("lock = { version = 2; models = { }; };".to_owned(), "the lock is of version 2"),
        (r#"url = "https://h/m.gguf";"#.to_owned(), "needs its sha256; `windlass model add https://h/m.gguf`"),
        (
            r#"hf = { repo = "o/r"; file = "m.gguf"; };"#.to_owned(),
            "needs its sha256; `windlass model add hf:o/r@main/m.gguf`",
        ),
        (String::new(), "name one of lock, url and hf"),
        (r#"url = "u"; hf = { };"#.to_owned(), "name one of lock, url and hf"),
    ] {
        let error = eval(&user, &format!("(w.fetchModel {{ {arguments} }}).drvPath")).unwrap_err();
        assert!(error.contains(said), "{arguments}: {error}");
    }
    // A file of the user's machine is not fetched.
    let file = json!({ "name": "m.gguf", "path": "m.gguf", "size": 1, "sha256": "0".repeat(64) });
    let model = json!({ "m": { "source": { "ref": "./m.gguf", "floating": false }, "files": [file] } });
    let error = build(&user, &format!("w.fetchModel {{ lock = {}; name = \"m\"; }}", lock(model))).unwrap_err();
    assert!(error.contains("has no address") && error.contains("run: windlass model add ./m.gguf"), "{error}");
}

/// A licence of the model's page is that of the image: its headers do not say one.
#[test]
fn a_licence_of_the_lock_is_the_images() {
    let user = User::new();
    let file = json!({ "name": "m.gguf", "path": "m.gguf", "size": 1, "sha256": "0".repeat(64), "url": "https://x.example/m.gguf" });
    let model = |facts: Value| json!({ "source": { "ref": "https://x.example/m.gguf", "floating": false }, "files": [file], "facts": facts, "licence": "MIT" });
    let facts = |licence: Value| json!({ "format": "gguf", "parameters": 1, "licence": licence });
    let of_header = facts(json!("Apache-2.0"));
    let lock = json!({ "version": 1, "models": { "page": model(facts(Value::Null)), "header": model(of_header) } });
    user.env.write("models.lock.json", lock.to_string());
    let annotations = |name: &str, more: &str| {
        let expression =
            format!("(w.buildModel {{ name = \"m\"; src = {}; {more} }}).spec.annotations", from_lock(&user, name));
        eval(&user, &expression).unwrap()
    };
    let licence = "org.opencontainers.image.licenses";
    assert_eq!(annotations("page", ""), json!({ licence: "MIT" }));
    assert_eq!(annotations("header", ""), json!({}));
    let own = format!("annotations.\"{licence}\" = \"ISC\";");
    assert_eq!(annotations("page", &own), json!({ licence: "ISC" }));
}
