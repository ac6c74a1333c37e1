//! Signatures of models, in both directions with OpenSSF's own `model-signing`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::env::{Env, run_ok};
use crate::hub::gguf;
use crate::model_add::User;

/// A key as PKCS#8, and its public key.
fn key(env: &Env, name: &str) {
    let (secret, public) = (env.path(format!("{name}.pem")), env.path(format!("{name}.pub")));
    let options = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out";
    run_ok(Command::new("openssl").args(options.split(' ')).arg(&secret));
    run_ok(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&secret).arg("-out").arg(&public));
}

/// The PyPI package, as `tests/parts.sh fetch` has brought it.
fn model_signing(env: &Env, arguments: &[&str]) -> Result<String, String> {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/parts/signing");
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", parts).current_dir(env.path("")).env("PYTHONDONTWRITEBYTECODE", "1");
    let Output { status, stdout, stderr } =
        python.args(["-c", "from model_signing._cli import main; main()"]).args(arguments).output().unwrap();
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    if status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn what_model_signing_signs_is_verified_and_what_windlass_signs_it_verifies() {
    let user = User::new();
    let env = &user.env;
    key(env, "ours");
    key(env, "theirs");
    env.write("tiny/m.gguf", gguf("Tiny", "one", 5000));
    env.write("tiny/LICENSE", "do as you like\n");
    let sign = |path: &str, signature: &str, more: &[&str]| {
        let fixed = ["sign", "key", "--private_key", "ours.pem", "--signature", signature, path];
        model_signing(env, &[&fixed[..], more].concat()).unwrap();
    };
    sign("tiny", "all.sig", &[]);
    sign("tiny", "some.sig", &["--ignore-paths", "tiny/LICENSE"]);
    sign("tiny/m.gguf", "one.sig", &[]);
    let model = |arguments: &[&str]| {
        let Output { status, stdout, stderr } =
            user.with(env.windlass([&["model"], arguments].concat())).output().unwrap();
        (status.code().unwrap(), env.scrub(&String::from_utf8([stdout, stderr].concat()).unwrap()))
    };
    let with = ["--file", "LICENSE"];
    let add = |signature: &str, key: &str, more: &[&str]| {
        model(&[&["add", "./tiny", "--name", "tiny", "--signature", signature, "--signature-key", key], more].concat())
    };
    env.write("no.sig", "{}");
    for (signature, key, more, words) in [
        ("all.sig", "theirs.pub", &with[..], "all.sig: it is not signed by this key: a signature is of another key"),
        (
            "all.sig",
            "ours.pub",
            &[],
            "all.sig: what was signed is not this model: signed and not in the model: 'LICENSE'",
        ),
        ("some.sig", "ours.pub", &with, "in the model and not signed: 'LICENSE'"),
        ("no.sig", "ours.pub", &with, "no.sig: it is not signed by this key: it has no DSSE envelope"),
        ("ours.pub", "ours.pub", &with, "ours.pub: not a signature of OpenSSF model-signing: invalid number"),
    ] {
        let (code, said) = add(signature, key, more);
        assert!(code == 4 && said.contains(words), "{signature}: {code} {said}");
        assert!(!env.path("models.lock.json").exists(), "{signature}");
    }
    let (code, said) = add("all.sig", "ours.pem", &with);
    assert!(code == 2 && said.contains("ours.pem: not a public key of ECDSA P-256"), "{said}");
    let (code, said) = model(&["add", "./tiny", "--signature", "all.sig"]);
    assert!(code == 2 && said.contains("--signature-key"), "{said}");
    env.write("tiny/LICENSE", "do not\n");
    let (code, said) = add("all.sig", "ours.pub", &with);
    assert!(code == 4 && said.contains("'LICENSE' has sha256:") && said.contains(" was signed"), "{said}");
    assert!(!env.path("models.lock.json").exists());
    env.write("tiny/LICENSE", "do as you like\n");
    let (code, said) = add("all.sig", "ours.pub", &with);
    assert!(
        code == 0 && said.contains("pinned tiny: 2 files") && said.contains("; signed by the key sha256:"),
        "{said}"
    );
    let one = ["add", "./tiny/m.gguf", "--name", "one", "--signature", "one.sig", "--signature-key", "ours.pub"];
    assert_eq!(model(&one).0, 0);

    // The other way round.
    let (code, said) = model(&["sign", "tiny", "--key", "ours.pem", "--output", "model.sig"]);
    assert!(code == 0 && said.starts_with("model.sig: 2 files of tiny signed by the key sha256:"), "{said}");
    let first = fs::read(env.path("model.sig")).unwrap();
    model(&["sign", "tiny", "--key", "ours.pem", "--output", "model.sig"]);
    assert_eq!(fs::read(env.path("model.sig")).unwrap(), first, "the same model has the same signature");
    let verify =
        |key: &str| model_signing(env, &["verify", "key", "--public_key", key, "--signature", "model.sig", "tiny"]);
    assert!(verify("ours.pub").unwrap().contains("Verification succeeded"));
    assert!(verify("theirs.pub").is_err());
    env.write("tiny/m.gguf", gguf("Tiny", "two", 5000));
    let said = verify("ours.pub").unwrap_err();
    assert!(said.contains("m.gguf"), "{said}");
    let (code, said) = add("model.sig", "ours.pub", &with);
    assert!(code == 4 && said.contains("'m.gguf' has sha256:"), "{said}");
    let (code, said) = model(&["sign", "other", "--key", "ours.pem"]);
    assert!(code == 2 && said.contains("other"), "{said}");
}
