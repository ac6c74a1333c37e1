//! False alarms: what is said of packages that the whole world has. Every file of every package that the tests have is looked at
//! as a build does, each package as a store path of its own.
//!
//! `SECRETS_LOOK_AT` names more trees, with `:` between them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use windlass::internals::layer::{FORMAT, Input, Recipe, secrets};
use windlass::internals::secrets::SecretFinding;

use crate::env::{Env, base_name, run_ok};
use crate::nix::{build, nix};

fn parts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/parts")
}

/// The files of a tree, and what is found among them.
fn look(path: &Path) -> (u64, Vec<SecretFinding>) {
    let inputs = vec![Input::StorePath { path: path.to_owned(), nar_hash: None }];
    let recipe = Recipe { format: FORMAT, inputs, perms: Vec::new() };
    let mut files = 0;
    recipe
        .members(&mut |member| {
            files += u64::from(matches!(member.content, windlass::internals::layer::MemberContent::File(..)));
            Ok(())
        })
        .unwrap();
    (files, secrets(&recipe).unwrap())
}

/// The packages of Debian that the stand-in for nixpkgs is made of, those of Python beside them, and the closures of the example
/// stack.
#[test]
fn packages_raise_no_alarm() {
    let env = Env::new();
    let mut trees: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(parts().join("trixie")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        if entry.extension().is_some_and(|ending| ending == "deb") {
            let tree = env.path("store").join(base_name(&name));
            std::fs::create_dir_all(&tree).unwrap();
            run_ok(Command::new("dpkg-deb").arg("--extract").arg(&entry).arg(&tree));
            trees.push(tree);
        }
    }
    assert!(trees.len() > 40, "{trees:?}");
    trees.extend(["python", "checkers", "all-MiniLM-L6-v2"].map(|name| parts().join(name)));
    let stack = ["llama-cpp", "openssl", "postgresql_17", "python3", "redis", "xllamacpp"];
    let outputs: Vec<PathBuf> = stack.iter().map(|name| build(&format!("pkgs.{name}")).unwrap()).collect();
    let closure = run_ok(nix("nix-store").args(["--query", "--requisites"]).args(&outputs));
    assert!(closure.lines().count() > 20, "{closure}");
    trees.extend(closure.lines().map(PathBuf::from));
    // Certificates of authorities, as Debian has them.
    trees.extend(["/etc/ssl/certs", "/usr/share/ca-certificates"].map(PathBuf::from));
    let more = std::env::var_os("SECRETS_LOOK_AT").unwrap_or_default();
    trees.extend(std::env::split_paths(&more).filter(|path| !path.as_os_str().is_empty()));
    let (mut files, mut found) = (0, Vec::new());
    for tree in &trees {
        let (count, findings) = look(tree);
        files += count;
        found.extend(findings);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} trees, {files} files, {} findings", trees.len(), found.len()).unwrap();
    for SecretFinding { place, reason, .. } in &found {
        writeln!(out, "{place} {reason}").unwrap();
    }
    assert!(files > 5_000, "{files}");
    assert_eq!(found, [], "in {files} files of {} trees", trees.len());
}
