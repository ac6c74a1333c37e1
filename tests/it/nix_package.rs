//! What nixpkgs does with the package and with the test of a machine, on a machine without nixpkgs.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::env::{Env, run_ok};
use crate::nix::{eval, nix, root, try_eval, wrap};

/// One of Nix's build users, for what matters: anybody but root.
const USER: u32 = 65534;

#[test]
fn the_packages_own_files_are_built_and_tested_as_nix_does() {
    let source = format!("(pkgs.callPackage {}/nix/package.nix {{ }}).src", root().display());
    let source = run_ok(nix("nix").args(["eval", "--impure", "--raw", "--expr", &wrap(&source)]));
    // At the same place each time, and under a version of its own: cargo keeps one build of it, beside the one under test and with
    // what that has compiled of other packages.
    let tree = root().join("target/package");
    drop(std::fs::remove_dir_all(&tree));
    run_ok(Command::new("cp").args(["--recursive", "--no-preserve=mode", &source]).arg(&tree));
    let version = |suffix: &str| format!("name = \"windlass\"\nversion = \"{}{suffix}\"", env!("CARGO_PKG_VERSION"));
    for file in ["Cargo.toml", "Cargo.lock"].map(|name| tree.join(name)) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(&version("")).count(), 1, "{}", file.display());
        std::fs::write(&file, text.replace(&version(""), &version("+nix"))).unwrap();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| root().join("target").into());
    let cargo = |arguments: &[&str], folder: &Path| {
        let mut cargo = Command::new("unshare");
        cargo.args(["--net", "cargo"]).args(arguments).args(["--lib", "--locked", "--offline"]);
        cargo.current_dir(folder).env("CARGO_TARGET_DIR", &target);
        // Build scripts look at what a test is told of its package, and would run again.
        let starts = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
        for (name, _) in std::env::vars().filter(|(name, _)| starts.iter().any(|start| name.starts_with(start))) {
            cargo.env_remove(name);
        }
        run_ok(&mut cargo)
    };
    // A file that the package leaves out is missed here, where it is compiled in, or below, where a test reads it.
    cargo(&["check", "--profile", "test"], &tree);
    let messages = cargo(&["test", "--no-run", "--message-format=json"], root());
    let tests: Vec<String> = messages
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|message| message["profile"]["test"] == true && message["executable"].is_string())
        .map(|message| message["executable"].as_str().unwrap().to_owned())
        .collect();
    // windlass, and the crate beside it.
    assert_eq!(tests.len(), 2, "{tests:?}");
    let env = Env::new();
    std::fs::set_permissions(env.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (copy, build) = (env.path("unit-tests"), env.path("build"));
    std::fs::create_dir(&build).unwrap();
    chown(&build, Some(USER), Some(USER)).unwrap();
    let mut passed = 0;
    for program in &tests {
        std::fs::copy(program, &copy).unwrap();
        let mut run = Command::new("unshare");
        run.args(["--net", "--mount", "sh", "-c", "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"", "sh"]);
        run.arg(&tree).arg(root());
        run.args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        run.arg(&copy).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        run.env("TMPDIR", &build).env("HOME", "/homeless-shelter").current_dir(&build);
        let said = run_ok(&mut run);
        let ok: Option<u32> =
            said.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok());
        passed += ok.unwrap_or_else(|| panic!("{said}"));
        assert!(said.contains(" 0 ignored;"), "{said}");
    }
    assert!(passed > 200, "{passed}");
}

#[test]
fn a_hardening_flag_that_nixpkgs_does_not_know_is_refused() {
    let error = try_eval(r#"(pkgs.stdenv.mkDerivation { pname = "windlass"; hardeningDisable = [ "pie" ]; }).version"#);
    assert!(error.unwrap_err().contains("unsupported hardening flags: pie"));
    let probe = format!("(import {}/nix {{ inherit pkgs; windlass = bin; }}).probe.version", root().display());
    assert_eq!(eval(&probe), "1");
}

/// What the driver of NixOS gives a script, as far as ours uses it: names, and the types of what they take and return.
const DRIVER: &str = "
from typing import Callable, ContextManager


class Machine:
    def succeed(self, *commands: str, timeout: int | None = None) -> str: ...
    def fail(self, *commands: str, timeout: int | None = None) -> str: ...
    def wait_until_succeeds(self, command: str, timeout: int = 900) -> str: ...
    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = 900) -> None: ...


subtest: Callable[[str], ContextManager[None]]
machine: Machine
";

/// One of the programs that the driver reads a script with, and what it found.
fn checked(checker: &[&str], builtins: &str, file: &Path) -> Result<String, String> {
    let mut command = Command::new("python3");
    command.arg("-m").args(checker).arg(file).current_dir(file.parent().unwrap());
    command.env("PYTHONPATH", root().join("target/parts/checkers")).env("PYFLAKES_BUILTINS", builtins);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn the_script_of_the_machine_test_is_what_its_driver_takes() {
    let module = format!("(import {}/nix/tests/ai-stack.nix {{ self = {{ }}; }})", root().display());
    let script = eval(&format!("{module}.testScript"));
    let script = script.as_str().unwrap();
    let env = Env::new();
    let typed = |name: &str, script: &str| {
        let file = env.write(name, format!("{}{script}", DRIVER.replace(": ...", ": raise Exception()")));
        checked(&["mypy", "--no-implicit-optional", "--pretty", "--no-color-output"], "", &file)
    };
    let said = typed("script.py", script).unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("no issues found in 1 source file"), "{said}");
    // It does read what is in there.
    let error = typed("wrong.py", &format!("{script}\nbefore = started(\"redis\")\nbefore = 1, 2\n")).unwrap_err();
    assert!(error.contains("[assignment]"), "{error}");
    let lint = |name: &str, script: &str| checked(&["pyflakes"], "machine,subtest", &env.write(name, script));
    assert_eq!(lint("lint.py", script), Ok(String::new()));
    assert!(lint("unknown.py", &format!("{script}\nmachines.start()\n")).unwrap_err().contains("undefined name"));
}
