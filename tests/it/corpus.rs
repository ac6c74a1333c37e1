//! The corpus of the fuzz targets, replayed: what must hold of every reader holds of these inputs, without libFuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use crate::nix::root;

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is the library of the fuzz targets too")]
mod fuzz;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_target_has_its_files() {
    let known: BTreeSet<String> = fuzz::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    for folder in ["corpus", "dictionaries", "fuzz_targets"] {
        assert_eq!(names(&root().join("fuzz").join(folder)), known, "fuzz/{folder}");
    }
    let bytes: u64 = known.iter().flat_map(|name| inputs(name)).map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < 300_000, "the corpus has {bytes} bytes; make it smaller with `cargo fuzz cmin`");
}

/// What is fuzzed is what is shipped.
#[test]
fn the_targets_are_built_with_the_same_libraries() {
    let locked = |path: &str| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let package = |text: &str| {
            let field = |key: &str| Some(text.split(&format!("{key} = \"")).nth(1)?.split('"').next()?.to_owned());
            field("name").zip(field("version"))
        };
        text.split("[[package]]").filter_map(package).collect::<BTreeSet<(String, String)>>()
    };
    let (shipped, fuzzed) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    let others = |name: &String| !shipped.iter().any(|(other, _)| other == name);
    let different: Vec<_> = fuzzed.difference(&shipped).filter(|(name, _)| !others(name)).collect();
    assert!(different.is_empty(), "copy Cargo.lock to fuzz/Cargo.lock and build there: {different:?}");
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let mut inputs: Vec<PathBuf> =
        fs::read_dir(root().join("fuzz/corpus").join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    inputs
}

#[test]
fn the_corpus_of_every_target_holds() {
    let mut failed = Vec::new();
    for (name, check) in fuzz::ALL {
        let mut taken = BTreeSet::new();
        for path in inputs(name) {
            let input = fs::read(&path).unwrap();
            match catch_unwind(|| check(&input)) {
                Ok(is_taken) => drop(taken.insert(is_taken)),
                Err(_) => failed.push(path),
            }
        }
        assert!(taken.len() == 2 || !failed.is_empty(), "{name}: of its inputs none is taken, or none is refused");
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
