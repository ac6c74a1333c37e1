//! The flake: its outputs, its one input, and the templates, with the stand-in for nixpkgs.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::engine::{Podman, Said};
use crate::env::{Env, run_ok};
use crate::nix::{build, eval, nix, root};

/// `nix … --json` about a flake, with the stand-in as its nixpkgs, and with nothing that must be built to be evaluated.
pub(crate) fn flake(verb: &[&str], flake: &str, arguments: &[&str]) -> Value {
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
        [
            "apps",
            "checks",
            "devShells",
            "flakeModules",
            "formatter",
            "homeModules",
            "lib",
            "nixosModules",
            "overlays",
            "packages",
            "templates"
        ]
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
    // With Nix 2.25 and later `nix fmt` gives it the directory.
    assert_eq!(shown["formatter"]["x86_64-linux"]["name"], "nixfmt-tree");
    assert_eq!(names(&shown["nixosModules"]), ["ai-stack", "default", "windlass"]);
    assert_eq!(names(&shown["templates"]), ["ai-stack", "default"]);
}

#[test]
fn nixpkgs_is_the_one_input() {
    let tracked = tracked();
    let metadata = flake(&["flake", "metadata"], &format!("path:{}", tracked.path("").display()), &[]);
    assert_eq!(names(&metadata["locks"]["nodes"]["root"]["inputs"]), ["nixpkgs"]);
}

/// The tracked files alone, as one who has the repository as an input sees them.
pub(crate) fn tracked() -> Env {
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
fn an_image_is_loaded_pushed_and_verified_by_its_own_programs() {
    let env = Env::new();
    let programs = build(
        r#"let f = import ./nix { inherit pkgs; windlass = bin; };
           image = f.buildImage { name = "redis"; config.Cmd = [ "${pkgs.redis}/bin/redis-server" ]; };
           stack = f.buildStack { name = "shop"; images = [ image ]; };
        in pkgs.runCommand "programs" { } "mkdir $out; cd $out; ln -s ${image} image; ln -s ${image.archive} archive; ln -s ${stack.lean} stack; ln -s ${image.load}/bin/* ${image.copyToDockerDaemon}/bin/* . ; ln -s ${stack.push}/bin/* . ; ln -s ${image.tests.verify} verified""#,
    )
    .unwrap();
    let text = |name: &str| std::fs::read_to_string(programs.join(name)).unwrap();
    let place = |name: &str| std::fs::canonicalize(programs.join(name)).unwrap().display().to_string();
    assert!(text("load-image-redis").contains(&format!("/bin/windlass load {} \"$@\"\n", place("image"))));
    assert!(text("push-shop").contains(&format!("/bin/windlass push {} \"$@\"\n", place("stack"))));
    assert!(text("docker-load-image-redis").contains(&format!("docker load --input {} \"$@\"\n", place("archive"))));
    assert!(text("verified").contains("all good"), "{}", text("verified"));
    // They run: with a Podman of its own, and a directory for a registry's name, which push refuses.
    let mut load = Command::new(programs.join("load-image-redis"));
    let output = load.args(["--help"]).current_dir(env.path("")).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("Load images into Podman"), "{output:?}");
}

#[test]
fn the_demo_loads_the_stack_and_redis_answers() {
    let podman = Podman::new();
    let root = root().display();
    let expression = format!(
        "let flake = builtins.getFlake \"path:{root}/target/nixpkgs\"; \
         outputs = (import {root}/flake.nix).outputs {{ self = outputs; nixpkgs = flake; }}; in \
         pkgs.runCommand \"demo\" {{ }} \"ln -s ${{builtins.dirOf outputs.apps.${{builtins.currentSystem}}.demo.program}} $out\""
    );
    let program = build(&expression).unwrap().join("windlass-demo");
    let said = Said::of(&podman.command(program.to_str().unwrap()).output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("redis-cli ping\nPONG\n"), "{said:?}");
    assert_eq!(podman.run(&["ps", "--all", "--quiet"]), "", "its container is gone");
    // Without a podman it says what to do.
    let mut alone = Command::new("/bin/sh");
    alone
        .arg(crate::nix::root().join("nix/demo.sh"))
        .args(["windlass", "stack", "image", "client"])
        .env("PATH", "/nowhere");
    let said = Said::of(&alone.output().unwrap());
    assert_eq!(said.code, 7, "{said:?}");
    assert!(said.stderr.contains("on NixOS set virtualisation.podman.enable = true"), "{said:?}");
}

#[test]
fn a_flake_module_gives_packages_programs_and_checks() {
    let module = |digest: &str| {
        format!(
            r#"(let
              windlass = bin;
              mkLib = {{ pkgs }}: import ./nix {{ inherit pkgs windlass; }};
              # As flake-parts hands it over, for one system.
              options.perSystem = pkgs.lib.mkOption {{ type = pkgs.lib.types.raw; }};
              flake-parts-lib.mkPerSystemOption = module: module;
              evaluated = (import ./nix/flake-module.nix {{ inherit mkLib; }}) {{ inherit (pkgs) lib; inherit flake-parts-lib; }};
              outputs = {{ lib, ... }}: {{ options = lib.genAttrs [ "packages" "apps" "checks" ] (_: lib.mkOption {{ type = lib.types.attrsOf lib.types.raw; }}); }};
              user = {{ config, ... }}: {{
                windlass.images.redis = config.windlass.lib.buildImage {{ name = "redis"; config.Cmd = [ "${{pkgs.redis}}/bin/redis-server" ]; }};
                {digest}
              }};
            in (pkgs.lib.evalModules {{ modules = [ evaluated.options.perSystem outputs user {{ _module.args = {{ inherit pkgs; }}; }} ]; }}).config)"#
        )
    };
    let plain = module("");
    let made = eval(&format!(
        "{{ packages = builtins.attrNames {plain}.packages; apps = builtins.mapAttrs (_: app: app.program) {plain}.apps; checks = builtins.attrNames {plain}.checks; }}"
    ));
    assert_eq!(made["packages"], serde_json::json!(["redis"]));
    assert_eq!(names(&made["apps"]), ["load-redis", "push-redis"]);
    assert!(made["apps"]["load-redis"].as_str().unwrap().ends_with("-load-image-redis/bin/load-image-redis"), "{made}");
    assert_eq!(made["checks"], serde_json::json!(["redis-verify"]));
    let image = build(&format!("{plain}.packages.redis")).unwrap();
    let summary: Value = serde_json::from_slice(&std::fs::read(image.join("image.json")).unwrap()).unwrap();
    let digest = summary["digest"].as_str().unwrap();
    let check = |digest: &str| {
        build(&format!("{}.checks.redis-digest", module(&format!("windlass.digests.redis = \"{digest}\";"))))
    };
    assert_eq!(std::fs::read_to_string(check(digest).unwrap()).unwrap().trim(), digest);
    let other = format!("sha256:{}", "0".repeat(64));
    let error = check(&other).unwrap_err();
    assert!(error.contains("redis has not the digest that windlass.digests.redis says"), "{error}");
    assert!(error.contains(digest), "{error}");
}

#[test]
fn the_template_is_a_flake_that_builds_images() {
    let (env, windlass) = (Env::new(), tracked());
    env.write("flake.nix", std::fs::read(root().join("nix/templates/default/flake.nix")).unwrap());
    let input = format!("path:{}", windlass.path("").display());
    let stack = flake(
        &["build", "--no-link"],
        &format!("path:{}#images.lean", env.path("").display()),
        &["--override-input", "windlass", &input],
    );
    let built = Path::new(stack[0]["outputs"]["out"].as_str().unwrap());
    let json: Value = serde_json::from_slice(&std::fs::read(built.join("stack.json")).unwrap()).unwrap();
    assert_eq!(json["images"][0]["name"], "redis");
}
