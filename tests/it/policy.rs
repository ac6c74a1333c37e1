//! `policy` of a stack: what may not be there fails the build before anything is hashed, with what to change.

use std::path::Path;

use serde_json::{Value, json};

use crate::env::{Env, base_name, closure};
use crate::foreign::Foreign;
use crate::nix::{build, try_eval};

/// A stack of two images over `app -> lib`, with a model, and these rules.
fn stack(env: &Env, policy: &Value) -> Result<String, (i32, String)> {
    let paths: [(&str, &[&str]); 3] = [("app-1.0", &["lib-3"]), ("lib-3", &[]), ("run.sh", &[])];
    let store = env.path("store");
    let at = |name: &str| store.join(base_name(name));
    for (name, _) in paths {
        env.write(at(name), format!("I am {name}"));
    }
    env.write("closure.json", closure(store.to_str().unwrap(), &store, &paths));
    let packages = json!([
        { "pname": "app", "version": "1.0", "outputs": { "out": at("app-1.0") }, "licences": [{ "spdx": "MIT" }] },
        { "pname": "lib", "version": "3", "outputs": { "out": at("lib-3") }, "licences": [{ "spdx": "GPL-3.0-only" }] },
    ]);
    let image = |name: &str, deps: Vec<&str>| {
        let deps: Vec<_> = deps.into_iter().map(at).collect();
        json!({ "name": name, "tag": "1", "storeDir": store, "packages": packages, "content": { "deps": deps } })
    };
    let model = json!({ "spec": { "name": "m", "files": { "m.bin": env.write("m.bin", "m") } }, "sources": ["https://models.example/a/m.bin"] });
    let spec = json!({
        "kind": "stack", "name": "s", "images": [image("one", vec!["app-1.0"]), image("two", vec!["lib-3", "run.sh"])],
        "models": [model], "policy": policy,
    });
    env.write("spec.json", spec.to_string());
    drop(std::fs::remove_dir_all(env.path("out")));
    let arguments = ["build", "spec.json", "--output", "out", "--closure", "closure.json"];
    let output = env.windlass(arguments).output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stderr).unwrap());
    }
    assert!(!env.path("out").exists());
    Err((output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap()))
}

#[test]
fn each_rule_names_the_package_and_the_images_and_what_to_change() {
    let env = Env::new();
    let refused = |policy: Value, lines: &[&str]| {
        let (code, said) = stack(&env, &policy).unwrap_err();
        let said: Vec<String> =
            said.lines().map(|line| line.trim_start_matches("windlass: ").trim().to_owned()).collect();
        assert_eq!((code, said), (1, lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()), "{policy}");
        let plan = env.windlass(["plan", "spec.json", "--closure", "closure.json", "--json"]).output().unwrap();
        let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
        let told: Vec<&str> = plan["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        for line in lines {
            assert!(told.contains(&format!("this would not be built: {line}").as_str()), "{line}: {told:?}");
        }
    };
    refused(
        json!({ "licences": { "deny": ["GPL-*"] } }),
        &[
            "lib 3 in images 'one', 'two' has the licence GPL-3.0-only, which 'GPL-*' in policy.licences.deny refuses: leave the package out, \
           or take that rule away",
        ],
    );
    refused(
        json!({ "licences": { "allow": ["GPL-3.0-only"], "unknown": "deny" }, "unlicensed": ["m"] }),
        &[
            "app 1.0 in image 'one' has the licence MIT, which is not in policy.licences.allow: leave the package out, or add its licence \
             there",
            "run.sh in image 'two' has no known licence, and policy.licences.unknown is \"deny\": name its package in `packages` of the \
             image, or its name in policy.unlicensed",
        ],
    );
    refused(
        json!({ "licences": { "unknown": "deny" }, "unlicensed": ["run.sh"] }),
        &[
            "nothing says which licence model 'm' has, and policy.licences.unknown is \"deny\"; say it in the model's annotations as \
           org.opencontainers.image.licenses, or leave the model out",
        ],
    );
    refused(
        json!({ "models": ["models.example/b"] }),
        &[
            "model 'm' was fetched from models.example/a/m.bin, which is not in policy.models: take it from a place that is, or add its \
           place there",
        ],
    );
    let report = |name: &str, severity: &str| {
        env.write(
            "scan.json",
            json!([{ "product": name, "version": "3", "cve_number": "CVE-2099-1", "severity": severity }]).to_string(),
        )
    };
    let rule = |more: Value| {
        let mut rule = json!({ "report": env.path("scan.json"), "most": "medium" });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "vulnerabilities": rule })
    };
    report("lib", "CRITICAL");
    refused(
        rule(json!({})),
        &[
            "lib 3 in images 'one', 'two' has CVE-2099-1, of severity critical (scan.json), and policy.vulnerabilities.most is \"medium\": \
           take a version or a patch without it, or add \"CVE-2099-1\" to policy.vulnerabilities.allow",
        ],
    );
    // What is allowed, not so bad, or of another package, is no reason.
    for (name, severity, more) in [
        ("lib", "CRITICAL", json!({ "allow": ["CVE-2099-1"] })),
        ("lib", "medium", json!({})),
        ("app", "high", json!({})),
    ] {
        report(name, severity);
        assert!(stack(&env, &rule(more)).is_ok(), "{name} {severity}");
    }
    let said = stack(&env, &json!({ "licences": { "allow": ["MIT", "GPL-3.0-only"] }, "models": ["models.example"] }))
        .unwrap();
    assert!(
        said.contains(
            "image 'two': nothing says which licence run.sh has; name the packages in `packages` of the image"
        ),
        "{said}"
    );
}

#[test]
fn what_is_no_rule_is_told_by_its_key() {
    let env = Env::new();
    for (policy, sentence) in [
        (json!({ "licences": { "deny": ["a*b"] } }), "policy.licences.deny: 'a*b' is no SPDX identifier"),
        (json!({ "age": { "days": 1, "asOf": "today" } }), "policy.age.asOf: 'today' is not a date like 2026-11-30"),
        (
            json!({ "registries": ["https://ghcr.io"] }),
            "policy.registries: 'https://ghcr.io' is not a host or a path on one",
        ),
        (json!({ "sources": [] }), "policy.sources: unknown field `sources`"),
        (
            json!({ "vulnerabilities": { "report": "/x", "most": "bad" } }),
            "policy.vulnerabilities.most: unknown variant `bad`",
        ),
    ] {
        let (code, said) = stack(&env, &policy).unwrap_err();
        assert!(code == 2 && said.contains(sentence), "{code} {said}");
    }
    env.write("scan.json", "{}");
    let (code, said) = stack(&env, &json!({ "vulnerabilities": { "report": env.path("scan.json") } })).unwrap_err();
    assert!(
        code == 1 && said.contains("scan.json: is not a report that windlass reads: give CycloneDX"),
        "{code} {said}"
    );
}

#[test]
fn nix_refuses_images_of_other_registries_old_ones_and_unsigned_ones() {
    let env = Env::new();
    let foreign = Foreign::new(&env);
    let mut lock = foreign.lock("others");
    let write = |lock: &Value| env.write("images.lock.json", lock.to_string());
    let path = write(&lock);
    let stack = |policy: &str| {
        format!(
            r#"w.buildStack {{ policy = {{ {policy} }}; images = [ (w.buildImage {{ name = "above"; texts."/v" = "1";
            fromImage = w.fetchImage {{ lock = {}; name = "others"; }}; }}) ]; }}"#,
            path.display()
        )
    };
    let refused = |policy: &str, sentence: &str| {
        let error = build(&format!("({}).lean", stack(policy))).unwrap_err();
        assert!(error.contains(sentence), "{policy}: {error}");
    };
    let of = "example.com/others/others:1.0 in image 'above' ";
    refused(
        r#"registries = [ "ghcr.io" ];"#,
        &format!("{of}is from example.com/others/others, which is not in policy.registries"),
    );
    let key = format!("sha256:{}", "1".repeat(64));
    refused(
        &format!(r#"signers = [ "{key}" ];"#),
        &format!("{of}has no signature that was verified, and policy.signers asks for one"),
    );
    lock["images"]["others"]["verified"] = json!({ "key": key, "method": "cosign-key", "scope": "root" });
    write(&lock);
    let other = format!("sha256:{}", "2".repeat(64));
    refused(
        &format!(r#"signers = [ "{other}" ];"#),
        &format!("{of}is signed by {key}, which is not in policy.signers"),
    );
    refused(
        r#"age = { days = 30; asOf = "2030-01-01"; };"#,
        &format!("{of}was made 2066 days before 2030-01-01, and policy.age.days is 30: lock a newer one"),
    );
    // Nothing is built of what may not be, and all of it is built of what may.
    let allowed = format!(r#"registries = [ "example.com/others" ]; signers = [ "{key}" ];"#);
    let lean = build(&format!("({}).lean", stack(&allowed))).unwrap();
    let plain = build(&format!("({}).lean", stack(""))).unwrap();
    let image = |lean: &Path| std::fs::read(lean.join("images/above/image.json")).unwrap();
    assert_eq!(image(&lean), image(&plain), "rules are no part of an image");
    let error = try_eval(&format!("({}).drvPath", stack("oops = 1;"))).map(|_| ());
    assert!(error.is_ok(), "the spec says it, when it is read");
    refused("oops = 1;", "policy.oops: unknown field `oops`");
    // Where a model was fetched from is known while this is evaluated, and told.
    let model = |place: &str| {
        let file = r#"{ outPath = builtins.toFile "m.bin" "m"; url = "https://models.example/m.bin"; }"#;
        let model = format!(r#"w.buildModel {{ name = "m"; files."m.bin" = {file}; }}"#);
        format!(r#"(w.buildStack {{ images = [ ]; models = [ ({model}) ]; policy.models = [ "{place}" ]; }}).lean"#)
    };
    let error = build(&model("huggingface.co")).unwrap_err();
    assert!(
        error.contains("model 'm' was fetched from models.example/m.bin, which is not in policy.models"),
        "{error}"
    );
    assert!(build(&model("models.example")).is_ok());
    // A report is an input, and nothing of it is read while this is evaluated.
    let report = env.write("scan.json", r#"{"matches":[]}"#);
    assert!(build(&format!("({}).lean", stack(&format!("vulnerabilities.report = {};", report.display())))).is_ok());
}
