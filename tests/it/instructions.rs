//! What hot paths cost, in instructions: whatever else the machine does, the same program does the same work. A time would say nothing on
//! a machine with two busy cores; `./dev bench` measures times.
//!
//! `instructions.json` has what each took when it was written, in a debug build and under callgrind, whose processor has no
//! instructions for SHA-256. Another count than that by more than 3 % fails: one that is larger is a walk, a copy or a hash too
//! many, or is worth it; one that is smaller would hide the next that is larger. `UPDATE_INSTRUCTIONS=1` writes the counts of now.
//!
//! Layers are hashed by the library itself: Debian 12's valgrind knows no `openat2`, with which windlass opens where it writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use windlass::internals::disk::progress::Progress;
use windlass::internals::layer::{FORMAT, Input, Recipe, digest_of};

use crate::env::{Env, run_ok};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/instructions.json");
/// In a hundred.
const TOLERANCE: u64 = 3;

/// In which folder the work is to be done.
const FOLDER: &str = "WINDLASS_TEST_FOLDER";

fn noise(seed: u32, size: u32) -> Vec<u8> {
    (0..size / 4).flat_map(|n| (n ^ seed).wrapping_mul(0x9e37_79b1).rotate_left(seed % 31).to_le_bytes()).collect()
}

fn package(folder: &Path, number: u32) -> PathBuf {
    folder.join("store").join(format!("{}-package{number}", number.to_string().repeat(32)))
}

/// Store paths with small files and a large one, and a model.
fn inputs() -> Env {
    let env = Env::new();
    let mut graph = Vec::new();
    for number in 0..4 {
        let path = package(&env.path(""), number);
        for file in 0..100 {
            let place = path.join(format!("share/{}/file-{file:03}", file % 7));
            env.write(place, noise(number * 1000 + file, 160 * (file + 1)));
        }
        env.write(path.join("lib/large.so"), noise(number, 1 << 20));
        let hash = format!("sha256:{}", "0".repeat(64));
        graph.push(json!({ "path": path, "narHash": hash, "narSize": 2 << 20, "references": [] }));
    }
    let deps: Vec<_> = graph.iter().map(|info| info["path"].clone()).collect();
    let image = json!({ "kind": "image", "name": "app", "storeDir": env.path("store"), "content": { "deps": deps } });
    env.write("app.json", image.to_string());
    env.write("closure.json", json!(graph).to_string());
    env.write("model.gguf", noise(77, 4 << 20));
    env
}

/// Not a test of its own: what [`count`] runs under callgrind.
#[test]
fn layers_are_hashed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let progress = Progress::new();
    let recipe = |inputs| Recipe { format: FORMAT, inputs, perms: Vec::new() };
    let hashed = match std::env::var("WINDLASS_TEST_WORK").unwrap().as_str() {
        "closure" => {
            let of = |number| Input::StorePath { path: package(&folder, number), nar_hash: None };
            digest_of(&recipe((0..4).map(of).collect()), None, &progress)
        }
        _ => {
            let (source, target) = (folder.join("model.gguf"), "/models/model.gguf".into());
            let model = Input::Copy { source, target, follow: None, nar_hash: None };
            // Its own digest is wanted too.
            digest_of(&recipe(vec![model]), Some(&BTreeMap::new()), &progress)
        }
    };
    assert!(hashed.unwrap().size > 4 << 20);
}

/// How many instructions a program takes. One thread works, so that none waits for another.
fn count(env: &Env, program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> u64 {
    // Without its symbols, which valgrind would read each time.
    let (stripped, report) = (env.path("stripped"), env.path("callgrind.out"));
    run_ok(Command::new("strip").arg("-o").arg(&stripped).arg(program));
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", report.display()));
    command.arg(&stripped).args(arguments).current_dir(env.path("")).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("RAYON_NUM_THREADS", "1").env("RUST_TEST_THREADS", "1");
    run_ok(command.envs(variables.iter().copied()));
    let report = std::fs::read_to_string(report).unwrap();
    let totals = report.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    totals.trim().parse().unwrap()
}

#[test]
fn hot_paths_take_as_many_instructions_as_they_did() {
    let env = inputs();
    let mut found = BTreeMap::new();
    let windlass = Path::new(env!("CARGO_BIN_EXE_windlass"));
    let plan = count(&env, windlass, &["plan", "app.json", "--closure", "closure.json"], &[]);
    found.insert("closure: plan".to_owned(), plan);
    let (own, folder) = (std::env::current_exe().unwrap(), env.path("").display().to_string());
    for work in ["closure", "model"] {
        let variables = [(FOLDER, &*folder), ("WINDLASS_TEST_WORK", work)];
        let hashed = count(&env, &own, &["--exact", "instructions::layers_are_hashed"], &variables);
        found.insert(format!("{work}: hashed"), hashed);
    }

    let path = Path::new(TABLE);
    if std::env::var_os("UPDATE_INSTRUCTIONS").is_some() {
        std::fs::write(path, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
        return;
    }
    let expected: BTreeMap<String, u64> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    let differ = |(name, found): (&String, &u64)| {
        let expected = expected[name];
        let is_same = found.abs_diff(expected) * 100 <= expected * TOLERANCE;
        (!is_same).then(|| format!("{name}: {found} instructions, and it was {expected}"))
    };
    let differences: Vec<String> = found.iter().filter_map(differ).collect();
    assert!(differences.is_empty(), "{differences:#?}; UPDATE_INSTRUCTIONS=1 writes what is right");
}
