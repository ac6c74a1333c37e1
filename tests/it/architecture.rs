//! The direction of the dependencies, as the table in src/lib.rs tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// `module -> what it may use`, from the table.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(sources().join("lib.rs")).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("//! | `")?.split('|');
        let module = cells.next()?.trim().trim_end_matches('`').to_owned();
        let uses = cells.next()?.split('`').map(str::trim).filter(|word| !word.is_empty());
        Some((module, uses.map(str::to_owned).collect()))
    };
    text.lines().filter_map(row).collect()
}

/// The text of a module without its tests.
fn code(module: &str) -> String {
    let file = sources().join(format!("{module}.rs"));
    let files = if file.is_file() {
        vec![file]
    } else {
        fs::read_dir(sources().join(module)).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    };
    files.iter().map(read).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_module_uses_what_the_table_says_and_nothing_to_its_right() {
    let table = table();
    let declared = fs::read_to_string(sources().join("lib.rs")).unwrap();
    let declared: BTreeSet<&str> =
        declared.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, table.keys().map(String::as_str).collect(), "every module has a row");
    for (module, told) in table.iter().filter(|(module, _)| *module != "cli") {
        let code = code(module);
        let used = code
            .split("crate::")
            .skip(1)
            .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap().to_owned());
        let used: BTreeSet<String> = used.filter(|name| table.contains_key(name)).collect();
        assert_eq!(&used, told, "{module}: the table in lib.rs says something else");
        assert!(told.iter().all(|other| !table[other].contains(module)), "{module}: a circle");
        for word in ["anyhow", "clap::", "std::env::var", "println!"] {
            assert!(!code.contains(word), "{module} has {word}: that is for cli");
        }
    }
}

#[test]
fn every_test_file_is_run() {
    let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it"));
    let main = fs::read_to_string(tests.join("main.rs")).unwrap();
    for entry in fs::read_dir(tests).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") {
            assert!(main.contains(&format!("mod {module};")), "{name} is not in main.rs");
        }
    }
}
