//! The flake: its outputs, its one input, and the templates, with the stand-in for nixpkgs.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::env::{Env, run_ok};
use crate::nix::{nix, root};

/// `nix … --json` about a flake, with the stand-in as its nixpkgs, and with nothing that must be built to be evaluated.
fn flake(verb: &[&str], flake: &str, arguments: &[&str]) -> Value {
    let stand_in = format!("path:{}", root().join("target/nixpkgs").display());
    let mut command = nix("nix");
    command.args(verb).args([
        flake,
        "--json",
        "--no-write-lock-file",
        "--option",
        "allow-import-from-derivation",
        "false",
    ]);
    command.args(["--override-input", "nixpkgs", &stand_in]).args(arguments);
    serde_json::from_str(&run_ok(&mut command)).unwrap()
}

/// The names below an attribute set.
fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

#[test]
fn the_outputs_are_there_for_both_systems() {
    let tracked = tracked();
    let shown = flake(&["flake", "show"], &format!("path:{}", tracked.path("").display()), &[]);
    assert_eq!(
        names(&shown),
        ["checks", "devShells", "formatter", "homeModules", "lib", "nixosModules", "overlays", "packages", "templates"]
    );
    for system in ["x86_64-linux", "aarch64-linux"] {
        assert_eq!(
            names(&shown["packages"][system]),
            [
                "ai-stack-images",
                "ai-stack-images-multiarch",
                "default",
                "image-llama-cpp",
                "image-postgres",
                "image-redis",
                "model-smollm2",
                "windlass",
                "windlass-probe"
            ],
            "those that can be built from the stand-in"
        );
        assert_eq!(names(&shown["checks"][system]), ["ai-stack-images", "dev-shell", "windlass", "windlass-probe"]);
    }
    assert_eq!(names(&shown["nixosModules"]), ["ai-stack", "default", "windlass"]);
    assert_eq!(names(&shown["templates"]), ["ai-stack", "default"]);
}

#[test]
fn nixpkgs_is_the_one_input() {
    let tracked = tracked();
    let metadata = flake(&["flake", "metadata"], &format!("path:{}", tracked.path("").display()), &[]);
    assert_eq!(names(&metadata["locks"]["nodes"]["root"]["inputs"]), ["nixpkgs"]);
}

/// The tracked files alone, as somebody who has the repository as an input sees them.
fn tracked() -> Env {
    let env = Env::new();
    let list = run_ok(
        Command::new("git")
            .args(["ls-files", "-z", "flake.nix", "flake.lock", "nix", "src", "Cargo.toml", "Cargo.lock"])
            .current_dir(root()),
    );
    for file in list.split_terminator('\0') {
        env.write(file, std::fs::read(root().join(file)).unwrap());
    }
    env
}

#[test]
fn the_template_is_a_flake_that_builds_images() {
    let (env, windlass) = (Env::new(), tracked());
    env.write("flake.nix", std::fs::read(root().join("nix/templates/default/flake.nix")).unwrap());
    let input = format!("path:{}", windlass.path("").display());
    let stack = flake(
        &["build", "--no-link"],
        &format!("path:{}#images", env.path("").display()),
        &["--override-input", "windlass", &input],
    );
    let built = Path::new(stack[0]["outputs"]["out"].as_str().unwrap());
    let json: Value = serde_json::from_slice(&std::fs::read(built.join("stack.json")).unwrap()).unwrap();
    assert_eq!(json["images"][0]["name"], "redis");
}
