//! What looks like a secret is not built: each kind, how it is allowed, and what is said. No message has the secret in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::env::{Env, run_ok};
use crate::machine::{SHOP, messages};
use crate::nix::{build, eval};

const TOKEN: &str = "sk-aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0fG3iJ5lM7oP9rS1uVw";
/// What must be in no message.
const SECRETS: [&str; 3] = [TOKEN, "hunter2", "MC4CAQAwBQYDK2VwBCIEIF"];
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFmM8mGxr7vzGvJ8wJk1n0Vn0r6yQn1l2m3o4p5q6r7s\n-----END PRIVATE KEY-----\n";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQnVv0c2dYw0zJ8xJm0c3q2m9XyUwCgYIKoZIzj0EAwIw\n-----END CERTIFICATE-----\n";

/// The exit code of a build, and what it says.
fn verdict(env: &Env, spec: &Value) -> (i32, String) {
    env.write("spec.json", spec.to_string());
    let output = env.windlass(["build", "spec.json", "--output", "out"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    for secret in SECRETS {
        assert!(!said.contains(secret), "{said}");
    }
    let code = output.status.code().unwrap();
    assert_eq!(env.path("out").exists(), code == 0, "{said}");
    if code == 0 {
        fs::remove_dir_all(env.path("out")).unwrap();
    }
    (code, env.scrub(&said))
}

fn image(content: Value, more: Value) -> Value {
    let mut spec = json!({ "kind": "image", "name": "app", "mountPoints": false, "content": content });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// What is said of these places of image `app`, each line without what they all have.
fn told(env: &Env, spec: &Value) -> Vec<String> {
    let (code, said) = verdict(env, spec);
    if code == 0 {
        return Vec::new();
    }
    assert_eq!(code, 2, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[0],
        "windlass: this looks secret, and everyone with the image or an account on this host could read it:"
    );
    assert!(
        lines.last().unwrap().starts_with("leave it out; or, where it is not a secret, allow it in the spec of "),
        "{said}"
    );
    let found = lines[1..lines.len() - 1].iter().map(|line| line.strip_prefix("  image 'app'").unwrap_or(line));
    found.map(|line| line.trim_start_matches(", layer 'files'").trim_start_matches(": ").to_owned()).collect()
}

#[test]
fn files_are_known_by_name_and_by_bytes() {
    let env = Env::new();
    let gnupg = [0x95_u8, 1, 0xfe, 4, 0x5f, 0, 0, 0, 1, 0x10, 0].repeat(4);
    let der = [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70][..], &[7; 36]].concat();
    let age = format!(
        "# created: 2026-01-01\nAGE-SECRET-KEY-1{}\n",
        "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L".repeat(2)[..58].to_owned()
    );
    let combined = format!("{CERTIFICATE}{PEM}");
    let bad: [(&str, &[u8], &str); 33] = [
        (".env", b"A=hunter2\n", "is an environment file"),
        (".env.production", b"# x\nexport A='hunter2'\n", "is an environment file"),
        ("id_rsa", b"hunter2", "is a private key of SSH"),
        (".ssh/id_ed25519", PEM.as_bytes(), "is a private key of SSH"),
        ("etc/shadow", b"root:$y$j9T$abc$def:1::::::\n", "is a file of password hashes"),
        ("etc/gshadow", b"wheel:!$6$abc$def::\n", "is a file of password hashes"),
        (".htpasswd", b"me:$2y$05$abc\n", "is a file of password hashes"),
        (".netrc", b"machine a login b password hunter2\n", "is a file with a login"),
        (".pgpass", b"*:*:*:*:hunter2\n", "is a file with passwords of PostgreSQL"),
        (".my.cnf", b"[client]\npassword=hunter2\n", "is a file with a password of MySQL"),
        ("auth.json", b"{\"auths\":{\"a\":{\"auth\":\"aHVudGVyMg==\"}}}", "is a file with logins to registries"),
        (".docker/config.json", b"{\"auths\":{\"a\":{\"auth\":\"eA==\"}}}", "is a file with logins to registries"),
        (".kube/config", b"users:\n- user:\n    token: hunter2\n", "is a file with a login to Kubernetes"),
        (".aws/credentials", b"[a]\naws_secret_access_key = hunter2\n", "is a file with keys of AWS"),
        (".npmrc", b"//registry/:_authToken=hunter2\n", "is a file with a token of npm"),
        (".pypirc", b"[pypi]\npassword = hunter2\n", "is a file with a token of PyPI"),
        (".cargo/credentials.toml", b"[registry]\ntoken = \"hunter2\"\n", "is a file with a token of Cargo"),
        (".git-credentials", b"https://me:hunter2@host\n", "is a file with logins of Git"),
        (".vault-token", b"hunter2", "is a token of Vault"),
        ("huggingface/token", b"hunter2", "is a token of Hugging Face"),
        ("a.kdbx", b"hunter2", "is a key store"),
        ("a.ppk", b"hunter2", "is a private key of PuTTY"),
        (
            "wg0.conf",
            b"[Interface]\nPrivateKey = aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0fG3iJ5lM7oP9r=\n",
            "is a private key of WireGuard",
        ),
        (
            "account.json",
            b"{\"private_key\": \"-----BEGIN PRIVATE KEY-----\\nMC4CAQAwBQYDK2VwBCIEIF\\n\"}",
            "is a file with a key of a service account",
        ),
        ("server.key", PEM.as_bytes(), "has a private key in it"),
        ("any", PEM.as_bytes(), "has a private key in it"),
        ("both.pem", combined.as_bytes(), "has a private key in it"),
        ("both", combined.as_bytes(), "has a private key in it"),
        ("putty", b"PuTTY-User-Key-File-3: ssh-ed25519\n", "has a private key of PuTTY in it"),
        ("gnupg", &gnupg, "has a private key in it"),
        ("der.key", &der, "has a private key in it"),
        ("keys.txt", age.as_bytes(), "has a private key of age in it"),
        (
            "settings.py",
            b"KEY = 'sk-aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0fG3iJ5lM7oP9rS1uVw'\n",
            "has an API key of OpenAI or DeepSeek in it",
        ),
    ];
    for (path, bytes, reason) in bad {
        let file = env.write(Path::new("in").join(path), bytes);
        let expected = format!("/{path} (from $T/in/{path}) {reason}");
        assert_eq!(told(&env, &image(json!({ "copyToRoot": [env.path("in")] }), json!({}))), [expected]);
        // The name that it has on the host counts as well, and a text of the spec is a file too.
        let moved = told(&env, &image(json!({ "files": { "/x": file } }), json!({})));
        let by_bytes = reason.starts_with("has") && !["both.pem", "server.key", "der.key"].contains(&path);
        let by_name = reason.starts_with("is");
        if by_bytes || by_name {
            assert_eq!(moved, [format!("/x (from $T/in/{path}) {reason}")]);
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            let place = format!("/{path}");
            assert_eq!(
                told(&env, &image(json!({ "texts": { place: text } }), json!({}))),
                [format!("/{path} {reason}")]
            );
        }
        fs::remove_dir_all(env.path("in")).unwrap();
    }
    // The same names with nothing secret in them, and things that look alike.
    let good: [(&str, &[u8]); 20] = [
        (".env", b""),
        (".env", b"# A=1\nB=\n"),
        (".env.example", b"A=hunter2\n"),
        ("id_rsa.pub", b"ssh-rsa AAAA\n"),
        ("ca-bundle.pem", CERTIFICATE.as_bytes()),
        ("public.key", b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"),
        ("how.md", b"Put this there:\n-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFmM8mGxr7vz\n-----END PRIVATE KEY-----\n"),
        ("keys.pem", b"-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n"),
        ("etc/shadow", b"root:!x:::::::\nnobody:*:::::::\n"),
        ("usr/share/shadow", b"root:$y$j9T$abc$def:1::::::\n"),
        (".netrc", b"machine a login b\n"),
        (".docker/config.json", b"{\"credsStore\":\"pass\"}"),
        ("auth.json", b"{\"auths\":{}}"),
        (".kube/config", b"users: []\n"),
        (".npmrc", b"registry=https://a\n//a/:_authToken=${TOKEN}\n"),
        (".git-credentials", b""),
        ("nginx.conf", b"ssl_certificate_key /run/secrets/key;\n"),
        ("package.json", b"{\"private_key\": null}"),
        ("README", b"AKIAIOSFODNN7EXAMPLE, sk-learn-is-a-library-for-machine-learning, ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"),
        ("blob.bin", &[0x95, 0, 0, 4, 0, 0, 0, 0, 1]),
    ];
    for (path, bytes) in good {
        env.write(Path::new("in").join(path), bytes);
        let empty: Vec<String> = Vec::new();
        assert_eq!(told(&env, &image(json!({ "copyToRoot": [env.path("in")] }), json!({}))), empty, "{path}");
        fs::remove_dir_all(env.path("in")).unwrap();
    }
}

#[test]
fn the_config_is_looked_at() {
    let env = Env::new();
    let github = "ghp_aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0fG3iJ5";
    let config = json!({
        "Env": [
            format!("OPENAI={TOKEN}"), "DB_PASSWORD=hunter2", "URL=postgres://me:hunter2@db/x", "API_KEY=hunter2",
            "API_KEY_FILE=/run/secrets/a", "TOKEN=", "SECRET=changeme", "AUTH_TOKEN=${TOKEN}", "PATH=/bin", "TOKENIZERS_PARALLELISM=false",
        ],
        "Entrypoint": ["redis-server", "--requirepass", "hunter2"],
        "Cmd": ["app", format!("--token={github}")],
        "Labels": { "a.b": github, "secret": "hunter2" },
    });
    let spec = image(json!({}), json!({ "config": config, "annotations": { "c.d": TOKEN } }));
    assert_eq!(
        told(&env, &spec),
        [
            "OPENAI in the environment has an API key of OpenAI or DeepSeek in it",
            "DB_PASSWORD in the environment looks like a secret",
            "URL in the environment looks like a secret",
            "API_KEY in the environment looks like a secret",
            "Entrypoint gives a secret by --requirepass",
            "Cmd has a token of GitHub in it",
            "a.b has a token of GitHub in it",
            "c.d has an API key of OpenAI or DeepSeek in it",
        ]
    );
    let all = ["OPENAI", "DB_PASSWORD", "URL", "API_KEY", "Entrypoint", "Cmd", "a.b", "c.d"];
    let mut allowed = spec;
    allowed["allowSecrets"] = json!(all);
    assert_eq!(verdict(&env, &allowed).0, 0);
    // What the environment of a container has is a warning: it is in no image.
    env.write("spec.json", image(json!({}), json!({})).to_string());
    let service = json!({ "image": "app", "environment": { "DB_PASSWORD": "hunter2", "A": "b" } });
    let mut plain = image(json!({}), json!({}));
    plain.as_object_mut().unwrap().remove("kind");
    let stack = json!({ "kind": "stack", "name": "s", "images": [plain], "services": { "db": service } });
    let (code, said) = verdict(&env, &stack);
    let warning =
        "warning: services.db.environment: DB_PASSWORD looks like a secret, and everybody on this host can read it";
    assert!(code == 0 && said.starts_with(warning), "{said}");
}

#[test]
fn what_others_cannot_read_does_not_become_readable() {
    let env = Env::new();
    let set = |path: &str, mode| fs::set_permissions(env.path(path), PermissionsExt::from_mode(mode)).unwrap();
    for name in ["in/private", "in/group", "in/shut/a", "in/open", "in/empty"] {
        env.write(name, if name == "in/empty" { "" } else { "text" });
    }
    for (path, mode) in
        [("in", 0o700), ("in/private", 0o600), ("in/group", 0o640), ("in/shut", 0o750), ("in/empty", 0o400)]
    {
        set(path, mode);
    }
    let spec = image(json!({ "files": { "/srv": env.path("in") } }), json!({}));
    let expected = [
        "/srv/group (from $T/in/group) is a file that others on this host may not read",
        "/srv/private (from $T/in/private) is a file that others on this host may not read",
        "/srv/shut (from $T/in/shut) is a directory that others on this host may not enter",
    ];
    assert_eq!(told(&env, &spec), expected);
    let (_, said) = verdict(&env, &spec);
    let typed = r#""allowSecrets": ["/srv/group", "/srv/private", "/srv/shut"] (in Nix: allowSecrets = [ "/srv/group" "/srv/private" "/srv/shut" ];)"#;
    assert!(said.ends_with(&format!("{typed}\n")), "{said}");
    for allowed in [json!(["/srv"]), json!(["/srv/**"]), json!(["/srv/group", "/srv/pri*", "/srv/shut"])] {
        let mut spec = spec.clone();
        spec["allowSecrets"] = allowed;
        assert_eq!(verdict(&env, &spec).0, 0, "{spec}");
    }
    // A model, and a layer by itself.
    let model = json!({ "kind": "model", "name": "m", "files": { "a.bin": env.path("in/private") } });
    let (code, said) = verdict(&env, &model);
    let line =
        "model 'm', layer 'm': /models/a.bin (from $T/in/private) is a file that others on this host may not read";
    assert!(code == 2 && said.contains(line), "{said}");
    let mut allowed = model.clone();
    allowed["allowSecrets"] = json!(["/models/a.bin"]);
    assert_eq!(verdict(&env, &allowed).0, 0);
    let layer = json!({ "kind": "layer", "name": "l", "content": { "files": { "/a": env.path("in/private") } } });
    let (code, said) = verdict(&env, &layer);
    assert!(code == 2 && said.contains("  layer 'l', layer 'files': /a (from $T/in/private) is a file that"), "{said}");
    // All that is built together is one report, and the model's part is its own to allow.
    let mut both = image(json!({ "files": { "/a": env.path("in/group") } }), json!({}));
    let mut inner = model;
    inner.as_object_mut().unwrap().remove("kind");
    both["models"] = json!([{ "spec": inner }]);
    let (code, said) = verdict(&env, &both);
    assert_eq!(
        (code, said.matches(" is a file that others").count(), said.matches("leave it out; or").count()),
        (2, 2, 2),
        "{said}"
    );
}

#[test]
fn an_entry_that_nothing_needs_is_refused_and_allowing_changes_no_byte() {
    let env = Env::new();
    let text = image(json!({ "texts": { "/a": "b" } }), json!({ "allowSecrets": ["/a", "API_KEY"] }));
    let (code, said) = verdict(&env, &text);
    assert_eq!(
        (code, said.as_str()),
        (
            2,
            "windlass: image 'app': allowSecrets has '/a', and nothing there looks like a secret: leave it out\n\
             image 'app': allowSecrets has 'API_KEY', and nothing there looks like a secret: leave it out\n"
        )
    );
    for (entry, sentence) in [
        (
            "a/.env",
            "windlass: spec.json: allowSecrets[0]: 'a/.env' is neither an absolute path in the image nor the name of a variable\n",
        ),
        (
            "*_KEY",
            "windlass: spec.json: allowSecrets[0]: '*_KEY' is neither an absolute path in the image nor the name of a variable\n",
        ),
    ] {
        assert_eq!(verdict(&env, &image(json!({}), json!({ "allowSecrets": [entry] }))), (2, sentence.to_owned()));
    }
    let content = json!({ "texts": { "/app/x/.env": "A=hunter2\n" } });
    let allowed = |entry: &str| {
        env.write("spec.json", image(content.clone(), json!({ "allowSecrets": [entry] })).to_string());
        env.ok(["build", "spec.json", "--output", "out"]).lines().nth(1).unwrap().to_owned()
    };
    assert_eq!(allowed("/app/x/.env"), allowed("/app"));
}

#[test]
fn a_plan_shows_what_a_build_would_refuse() {
    let env = Env::new();
    env.write("in/.env", "A=hunter2\n");
    let config = json!({ "Env": ["DB_PASSWORD=hunter2"] });
    let content = json!({ "files": { "/app": env.path("in") } });
    env.write("spec.json", image(content, json!({ "config": config, "allowSecrets": ["/none"] })).to_string());
    let output = env.windlass(["plan", "spec.json"]).output().unwrap();
    let said = env.scrub(&String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && said.starts_with("warning: this would not be built:\n"), "{said}");
    let refused = env.scrub(&env.fails(["build", "spec.json", "--output", "out"]).1);
    assert_eq!(
        said.lines().skip(1).collect::<Vec<_>>(),
        refused.trim_start_matches("windlass: ").lines().collect::<Vec<_>>()
    );
    let report: Value = serde_json::from_str(&env.scrub(&env.ok(["plan", "spec.json", "--json"]))).unwrap();
    let expected = json!({
        "found": [
            { "of": "image 'app'", "layer": "files", "place": "/app/.env", "source": "$T/in/.env", "reason": "is an environment file" },
            { "of": "image 'app'", "place": "DB_PASSWORD", "reason": "in the environment looks like a secret" },
        ],
        "unused": [{ "of": "image 'app'", "entry": "/none" }],
    });
    assert_eq!(report["secrets"], expected);
}

#[test]
fn the_order_does_not_depend_on_threads() {
    let env = Env::new();
    let models: Vec<Value> = (0..8)
        .map(|n| {
            let (key, name) = (env.write(format!("m{n}/{n}.key"), PEM), format!("m{n}"));
            json!({ "spec": { "name": name, "files": { format!("{n}.key"): key } } })
        })
        .collect();
    let layers = image(json!({ "texts": { "/.env": "A=hunter2" } }), json!({ "models": models }));
    let first = verdict(&env, &layers);
    assert_eq!(first.1.matches("has a private key in it").count(), 8, "{}", first.1);
    for threads in ["1", "2", "7"] {
        env.write("spec.json", layers.to_string());
        let mut command = env.windlass(["build", "spec.json", "--output", "out"]);
        let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert_eq!(env.scrub(&String::from_utf8(output.stderr).unwrap()), first.1);
    }
}

#[test]
fn keys_of_a_package_for_its_tests_are_public_and_others_are_not() {
    let env = Env::new();
    let hash = "718k4azkfjw8l2sbgdlrwirdigdmx76w";
    for (path, is_public) in [
        ("lib/python3.13/test/certdata/keycert.pem", true),
        ("share/doc/openssl/server.key", true),
        ("lib/cryptography_vectors/rsa.pem", true),
        ("lib/node_modules/a/fixtures/.env", true),
        ("lib/node_modules/app/.env", false),
        ("etc/ssl/server.key", false),
        ("lib/latest/a.key", false),
        ("test", false),
    ] {
        let bytes = if path.ends_with(".env") { "A=hunter2\n" } else { PEM };
        let package = format!("store/{hash}-package");
        let file = env.write(Path::new(&package).join(path), bytes);
        let spec = |source: &Path| image(json!({ "files": { "/x": source } }), json!({}));
        for source in [env.path(&package), file] {
            assert_eq!(told(&env, &spec(&source)).is_empty(), is_public, "{path}");
        }
        fs::remove_dir_all(env.path("store")).unwrap();
        // Outside of a store a directory says nothing.
        env.write(Path::new("tree").join(path), bytes);
        assert_eq!(told(&env, &spec(&env.path("tree"))).len(), 1, "{path}");
        fs::remove_dir_all(env.path("tree")).unwrap();
    }
}

#[test]
fn keys_that_real_programs_make_are_found() {
    let env = Env::new();
    env.write("x", "");
    let make = |program: &str, arguments: &[&str]| {
        run_ok(Command::new(program).args(arguments).current_dir(env.path("")).env("GNUPGHOME", env.path("gnupg")));
    };
    make("openssl", &["genpkey", "-algorithm", "ed25519", "-out", "a.txt"]);
    make("openssl", &["genrsa", "-traditional", "-out", "b.txt", "2048"]);
    make("openssl", &["ecparam", "-name", "prime256v1", "-genkey", "-out", "c.txt"]);
    make("openssl", &["genpkey", "-algorithm", "rsa", "-aes256", "-pass", "pass:hunter2", "-out", "d.txt"]);
    make("openssl", &["genpkey", "-algorithm", "ed25519", "-outform", "DER", "-out", "e.key"]);
    make("openssl", &["rsa", "-in", "b.txt", "-traditional", "-outform", "DER", "-out", "f.key"]);
    make(
        "openssl",
        &["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=a", "-keyout", "g.txt", "-out", "cert.pem"],
    );
    for name in ["a.txt", "b.txt", "c.txt", "d.txt", "e.key", "f.key", "g.txt", "cert.pem"] {
        fs::set_permissions(env.path(name), PermissionsExt::from_mode(0o644)).unwrap();
        let found = told(&env, &image(json!({ "files": { format!("/{name}"): env.path(name) } }), json!({})));
        let expected = format!("/{name} (from $T/{name}) has a private key in it");
        assert_eq!(found, if name == "cert.pem" { Vec::new() } else { vec![expected] });
    }
}

#[test]
fn nix_refuses_it_and_allows_it_and_the_tag_does_not_depend_on_that() {
    let env = Env::new();
    let key = env.write("id_ed25519", PEM);
    env.write("app/.env", "A=hunter2\n");
    let (key, app) = (key.display(), env.path("app"));
    let of = |function: &str, name: &str, more: &str| format!(r#"w.{function} {{ name = "{name}"; {more} }}"#);
    let content = format!(r#"files = {{ "/key" = {key}; "/app" = {}; }};"#, app.display());
    let config = r#"config.Env = [ "DB_PASSWORD=hunter2" ];"#;
    let error = build(&of("buildImage", "a", &format!("{content} {config}"))).unwrap_err();
    for part in [
        "image 'a', layer 'files, mount points': /app/.env (from /nix/store/",
        "-app/.env) is an environment file",
        "-id_ed25519) is a private key of SSH",
        "image 'a': DB_PASSWORD in the environment looks like a secret",
        r#"(in Nix: allowSecrets = [ "/app/.env" "/key" "DB_PASSWORD" ];)"#,
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let allow = r#"allowSecrets = [ "/app/.env" "/key" "DB_PASSWORD" ];"#;
    let good = of("buildImage", "a", &format!("{content} {config} {allow}"));
    build(&good).unwrap();
    build(&format!("(w.buildStack {{ images = [ ({good}) ]; }}).lean")).unwrap();
    let tags =
        eval(&format!("map (i: i.imageRef) [ ({good}) ({}) ]", of("buildImage", "a", &format!("{content} {config}"))));
    assert_eq!(tags[0], tags[1]);
    let wrong = build(&of("buildImage", "a", r#"allowSecrets = [ "/none" ];"#)).unwrap_err();
    assert!(wrong.contains("image 'a': allowSecrets has '/none', and nothing there looks like a secret"), "{wrong}");

    // The source of a package, as many bring it into the store.
    let source = of("buildLayer", "l", &format!("deps = [ {} ];", app.display()));
    let error = build(&source).unwrap_err();
    assert!(
        error.contains("layer 'l', layer 'app': /nix/store/") && error.contains("-app/.env is an environment file"),
        "{error}"
    );
    build(&of(
        "buildLayer",
        "l",
        &format!(r#"deps = [ {} ]; allowSecrets = [ "/nix/store/*-app/.env" ];"#, app.display()),
    ))
    .unwrap();
    let model = |more: &str| of("buildModel", "m", &format!(r#"files."a.pem" = {key}; {more}"#));
    assert!(build(&model("")).unwrap_err().contains("model 'm', layer 'm': /models/a.pem (from /nix/store/"));
    build(&model(r#"allowSecrets = [ "/models" ];"#)).unwrap();
}

#[test]
fn the_modules_know_the_same_names() {
    let names = [
        ("POSTGRES_PASSWORD", "hunter2"),
        ("openai_api_key", "x1"),
        ("DB_PASS", "a"),
        ("AWS_SECRET_ACCESS_KEY", "a"),
        ("ENCRYPTION_KEY", "a"),
        ("MYSQL_ROOT_PWD", "a"),
        ("x.password", "a"),
        ("ANY", TOKEN),
        ("POSTGRES_PASSWORD_FILE", "/run/x"),
        ("SECRET", "changeme"),
        ("SECRET", ""),
        ("SECRET", "None"),
        ("AUTH_TOKEN", "${TOKEN}"),
        ("MAX_TOKENS", "5"),
        ("TOKEN_URL", "http://a"),
        ("PWD", "/srv"),
        ("BYPASS", "all"),
        ("TOKENIZERS_PARALLELISM", "1"),
        ("JWT", "a"),
        ("DATABASE_URL", "postgres://me:hunter2@db/x"),
        ("DATABASE_URL", "postgres://me@db/x"),
    ];
    let list: String = names
        .iter()
        .map(|(name, value)| format!("[ {name:?} {} ] ", serde_json::to_string(value).unwrap().replace("${", "\\${")))
        .collect();
    let root = crate::nix::root().display();
    let looks = eval(&format!(
        "let looksSecret = import {root}/nix/modules/secrets.nix {{ lib = import {root}/tests/nixpkgs/lib; }}; \
         in map (pair: looksSecret (builtins.elemAt pair 0) (builtins.elemAt pair 1)) [ {list} ]"
    ));
    let ours: Vec<bool> = names
        .iter()
        .map(|(name, value)| windlass::internals::secrets::values::in_value(name, value).is_some())
        .collect();
    assert_eq!(looks, json!(ours), "{names:?}");
    assert!(ours.iter().filter(|secret| **secret).count() == 10, "{ours:?}");

    let machine = crate::machine::evaluated(
        SHOP,
        [&format!(
            r#"{{ virtualisation.windlass.containers.app.environment = {{ ANY = "{TOKEN}"; ENCRYPTION_KEY = "a"; B = "c"; }}; }}"#
        )],
    );
    let said = messages(&machine[0], "assertions").join("\n");
    assert_eq!(said.matches("looks like a secret").count(), 2, "{said}");
    assert!(!said.contains(TOKEN), "{said}");
}
