//! Builds in Nix's own sandbox, where a builder sees its inputs and nothing of the machine, and fixed-output derivations
//! have a network.

use std::path::PathBuf;
use std::process::Command;

use windlass::internals::oci::digest::Digest;

use crate::bad_registry::{Answer, BadRegistry};
use crate::env::{Env, run_ok};
use crate::foreign::{Foreign, read};
use crate::hub::gguf;
use crate::nix::{SANDBOX, build, nix, wrap};
use crate::registry_server::RealRegistry;

/// All that there is to build, of bytes that no store has yet: fetched, built, split, planned and exported.
struct Everything {
    env: Env,
    expression: String,
    _registry: RealRegistry,
    _web: BadRegistry,
}

impl Everything {
    fn new() -> Self {
        let env = Env::new();
        let text = env.path("").file_name().unwrap().to_string_lossy().into_owned();
        let registry = RealRegistry::start(&env);
        Foreign::with(&env, &text).push(&env, &registry.host, "a/others");
        let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
        let reference = format!("{}/a/others:1.0", registry.host);
        env.ok(["upstream", "add", "others", &reference, "--insecure", "--platform", &platform]);
        let model = gguf("Tiny", &text, 5000);
        let sum = Digest::of(&model).hex();
        let web = BadRegistry::start(move |_, _| Answer::ok(model.clone()));
        let expression = format!(
            r#"(let
              others = w.fetchImage {{ lock = {}; name = "others"; }};
              file = w.fetchModel {{ url = "http://{}/m.gguf"; sha256 = "{sum}"; }};
              whole = w.buildModel {{ name = "whole"; src = file; }};
              split = w.buildModel {{ name = "split"; src = file; split = "metadata"; }};
              app = w.buildImage {{ name = "app"; contents = [ pkgs.zlib ]; texts."/text" = "{text}"; models = [ whole ]; }};
              above = w.buildImage {{ name = "above"; fromImage = others; texts."/text" = "{text}"; }};
            in w.buildStack {{ images = [ others app above ]; models = [ split ]; }})"#,
            env.path("images.lock.json").display(),
            web.host
        );
        Self { env, expression, _registry: registry, _web: web }
    }

    fn build(&self) -> PathBuf {
        let mut build = nix("nix-build");
        build.args(SANDBOX).args(["--no-out-link", "--expr", &wrap(&self.expression)]);
        // What a daemon has where a proxy looks into connections; no sandbox has such a path.
        run_ok(build.env("NIX_SSL_CERT_FILE", self.env.write("own.pem", "none"))).trim().into()
    }
}

#[test]
fn all_is_built_in_the_sandbox_and_the_same_without() {
    // The link to the program is made with the machine's own shell.
    build("bin").unwrap();
    let everything = Everything::new();
    let stack = everything.build();
    let json = read(&stack.join("stack.json"));
    assert_eq!(json["images"].as_array().unwrap().len(), 3, "{json}");
    run_ok(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&stack));
    assert!(everything.env.ok(["verify", "--full", stack.to_str().unwrap()]).contains("all good"));

    // Nix builds all of ours again without it, and compares.
    let derivation = run_ok(nix("nix-store").args(["--query", "--deriver"]).arg(&stack));
    let all = run_ok(nix("nix-store").args(["--query", "--requisites", derivation.trim()]));
    let ours = |line: &&str| ["stack", "whole", "split", "others"].iter().any(|name| line.contains(name));
    let again: Vec<&str> = all.lines().filter(|line| line.ends_with(".drv")).filter(ours).collect();
    assert_eq!(again.len(), 12, "{again:?}");
    run_ok(nix("nix-store").args(["--realise", "--check"]).args(&again));
}
