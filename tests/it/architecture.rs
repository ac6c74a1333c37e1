//! The direction of the dependencies, as the tables in `src/lib.rs` and in the wings' own `mod.rs` tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The wings that have wings of their own, each with a table in its `mod.rs`.
pub(crate) const NESTED: [&str; 3] = ["compose", "model", "podman"];

/// What shows the tests the wings: a list, and not a wing.
const FACE: &str = "internals";

pub(crate) fn sources() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

/// `wing -> what it may use`: the first and the last cell of each row of the table in a file.
pub(crate) fn table(file: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(file).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("//! | `")?.trim_end().trim_end_matches('|').split('|').collect();
        let wing = cells[0].trim().trim_end_matches('`').to_owned();
        let uses = cells.last()?.split('`').map(str::trim).filter(|word| !word.is_empty());
        Some((wing, uses.map(str::to_owned).collect()))
    };
    text.lines().filter_map(row).collect()
}

/// The files of a wing: one, or all in its folder and the folders below it.
fn files(folder: &Path, wing: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { below(&path, found) } else { found.push(path) }
        }
    }
    let (file, mut found) = (folder.join(format!("{wing}.rs")), Vec::new());
    if file.is_file() {
        return vec![file];
    }
    below(&folder.join(wing), &mut found);
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    found
}

/// The text of a file without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The words that follow `prefix` in a text.
fn after<'t>(text: &'t str, prefix: &'t str) -> impl Iterator<Item = &'t str> {
    let word = |rest: &'t str| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
    text.match_indices(prefix).filter_map(move |(at, _)| word(&text[at + prefix.len()..]))
}

/// The wings in `folder` that each wing there names, by paths that begin with `root`, or that lead up to `folder`.
pub(crate) fn arrows(folder: &Path, root: &str, wings: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
    let used = |wing: &String| {
        let mut used = BTreeSet::new();
        for path in files(folder, wing) {
            let depth = path.strip_prefix(folder).unwrap().components().count() - 1;
            let is_module = usize::from(path.file_name().is_some_and(|name| name == "mod.rs"));
            let (text, up) = (code(&path), "super::".repeat(depth + 1 - is_module));
            used.extend(after(&text, root).map(str::to_owned));
            // `use super::super::x`, and nothing that goes further up.
            let ups = text.match_indices(&up).filter(|(at, _)| !text[..*at].ends_with("super::"));
            used.extend(ups.filter_map(|(at, _)| after(&text[at..], &up).next().map(str::to_owned)));
        }
        used.retain(|name| wings.contains(name) && name != wing);
        (wing.clone(), used)
    };
    wings.iter().map(used).collect()
}

/// A wing that leads back to itself.
pub(crate) fn circle(table: &BTreeMap<String, BTreeSet<String>>) -> Option<&String> {
    let mut left: BTreeSet<&String> = table.keys().collect();
    // Those that use nothing that is left are taken away, until all are, or those of a circle remain.
    while let Some(&next) = left.iter().find(|wing| table[**wing].iter().all(|used| !left.contains(used))) {
        left.remove(next);
    }
    left.pop_first()
}

#[test]
fn every_wing_uses_what_its_table_says_and_nothing_to_its_right() {
    let checked = |file: PathBuf, folder: &Path, root: &str| {
        let told = table(&file);
        let declared = fs::read_to_string(&file).unwrap();
        let declared: BTreeSet<String> = declared
            .lines()
            .map(|line| line.trim_start_matches("pub(crate) ").trim_start_matches("pub "))
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
            .filter(|module| *module != FACE)
            .map(str::to_owned)
            .collect();
        assert_eq!(declared, told.keys().cloned().collect(), "{}: every wing has a row", file.display());
        let mut found = arrows(folder, root, &declared);
        // The command line may use all of them.
        found.remove("cli");
        let mut told = told;
        told.remove("cli");
        let drawn: Vec<String> = found
            .iter()
            .map(|(wing, used)| format!("{wing} -> {}", used.iter().cloned().collect::<Vec<_>>().join(" ")))
            .collect();
        assert_eq!(
            told,
            found,
            "{}: the table says something else; the wings are:\n{}",
            file.display(),
            drawn.join("\n")
        );
        assert_eq!(circle(&told), None, "{}: a circle", file.display());
    };
    checked(sources().join("lib.rs"), sources(), "crate::");
    for wing in NESTED {
        let folder = sources().join(wing);
        checked(folder.join("mod.rs"), &folder, &format!("crate::{wing}::"));
    }
}

#[test]
fn nothing_is_public_but_the_command_line_and_what_tests_use() {
    let public = |file: &str| -> Vec<String> {
        let text = code(&sources().join(file));
        text.lines().filter(|line| line.trim_start().starts_with("pub ")).map(str::to_owned).collect()
    };
    assert_eq!(public("lib.rs"), ["pub mod cli;", "pub mod internals;"]);
    let texts = |folder: &str| all_below(folder, ".rs").iter().map(|file| code(file)).collect::<Vec<_>>().join("\n");
    let users = texts("tests/it") + &texts("fuzz/src");
    // A list by hand: no `*`, and nothing that no test names.
    let shown = code(&sources().join("internals.rs"));
    assert!(!shown.contains('*'), "src/internals.rs names each thing");
    for (at, start) in shown.match_indices("pub use ") {
        let path = shown[at + start.len()..].split(';').next().unwrap();
        let names = path.rsplit("::").next().unwrap();
        for name in names.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|name| !name.is_empty()) {
            assert!(after(&users, name).next().is_some(), "src/internals.rs shows {name}, which no test uses");
        }
    }
}

#[test]
fn only_the_command_line_knows_a_terminal_or_the_environment() {
    for wing in table(&sources().join("lib.rs")).keys().filter(|wing| *wing != "cli") {
        for file in files(sources(), wing) {
            let code = code(&file);
            for word in ["clap::", "std::env::var", "println!"] {
                assert!(!code.contains(word), "{} has {word}: that is for cli", file.display());
            }
        }
    }
}

#[test]
fn every_error_says_the_class_of_each_of_its_variants() {
    let (mut files, mut errors) = (Vec::new(), 0);
    for wing in table(&sources().join("lib.rs")).keys().filter(|wing| *wing != "cli") {
        files.extend(self::files(sources(), wing));
    }
    for file in files {
        let code = code(&file);
        for (at, declared) in code.match_indices("enum ").filter(|(at, _)| {
            let attributes = code[..*at].rsplit("\n\n").next().unwrap_or_default();
            attributes.contains("thiserror::Error")
        }) {
            let name = code[at + declared.len()..].split(' ').next().unwrap();
            let class = code.split_once(&format!("impl Classified for {name} {{"));
            let (_, class) = class.unwrap_or_else(|| panic!("{}: {name} says no class", file.display()));
            let class = class.split("\n}\n").next().unwrap().split("fn hint").next().unwrap();
            // What the compiler checks ends where a wildcard begins.
            assert!(
                !class.contains("_ =>"),
                "{}: {name} has a class for variants that it does not name",
                file.display()
            );
            errors += 1;
        }
    }
    assert!(errors > 60, "only {errors} were found");
}

#[test]
fn an_error_passes_on_the_hint_of_its_cause() {
    let texts: Vec<String> = all_below("src", ".rs").iter().map(|file| code(file)).collect();
    // What an error says as `Classified`, by its name.
    let mut said: BTreeMap<&str, &str> = BTreeMap::new();
    for text in &texts {
        for (at, start) in text.match_indices("impl Classified for ") {
            let rest = &text[at + start.len()..];
            let name = rest.split(' ').next().unwrap();
            said.insert(name, rest.split("\n}\n").next().unwrap());
        }
    }
    let hints = |name: &str| said.get(name).is_some_and(|said| said.contains("fn hint"));
    let mut passed = 0;
    for text in &texts {
        for name in after(text, "enum ").filter(|name| said.contains_key(name)) {
            let (_, variants) = text.split_once(&format!("enum {name} {{")).unwrap();
            for line in variants.split("\n}\n").next().unwrap().lines() {
                // A variant that is nothing but its cause.
                let Some((variant, cause)) = line.trim().split_once('(') else { continue };
                let cause = cause.trim_end_matches([')', ',', '>']).rsplit([' ', '<', ':']).next().unwrap();
                let is_passed = said[name].contains(&format!("Self::{variant}(error) => error.class()"));
                if is_passed && hints(cause) {
                    let hint = format!("Self::{variant}(error) => error.hint()");
                    assert!(said[name].contains(&hint), "{name}::{variant} keeps the hint of {cause} to itself");
                    passed += 1;
                }
            }
        }
    }
    assert!(passed > 1, "only {passed} were found");
}

/// Every file below a folder of this crate that ends so.
fn all_below(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.sort();
    found
}

/// The texts in quotes of a program, of one line each.
fn texts(code: &str) -> impl Iterator<Item = &str> {
    code.lines().flat_map(|line| line.split('"').skip(1).step_by(2))
}

/// The types, traits and aliases that a text defines. The types of a trait are not among them: they are called as it says.
fn types(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let defined = line.trim_start();
        let is_inner = defined.len() < line.len();
        let defined = defined.trim_start_matches("pub ");
        let defined = match defined.strip_prefix("pub(") {
            Some(rest) => rest.split_once(") ")?.1,
            None => defined,
        };
        let (kind, rest) = defined.split_once(' ')?;
        let is_type = matches!(kind, "struct" | "enum" | "union" | "trait") || kind == "type" && !is_inner;
        is_type.then(|| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap())
    })
}

#[test]
fn every_type_has_a_name_of_its_own() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in all_below("src", ".rs") {
        for name in types(&fs::read_to_string(&file).unwrap()) {
            let home = file.strip_prefix(sources()).unwrap().display().to_string();
            homes.entry(name.to_owned()).or_default().push(home);
        }
    }
    assert!(homes.len() > 800, "only {} types were found", homes.len());
    let shared: Vec<String> = homes
        .iter()
        .filter(|(_, homes)| homes.len() > 1)
        .map(|(name, homes)| format!("{name}: {}", homes.join(", ")))
        .collect();
    // A reader who meets one in the middle of a file, or in a message of the compiler, knows which it is.
    assert_eq!(shared, [""; 0], "give each its noun, as GcPlan and LoadPlan have theirs");
}

#[test]
fn no_file_is_longer_than_500_lines() {
    let mut seen = 0;
    for folder in ["src", "tests", "fuzz/src", "fuzz/fuzz_targets"] {
        for file in all_below(folder, ".rs") {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 500, "{} has {lines} lines: find the two things that it is about", file.display());
            seen += 1;
        }
    }
    assert!(seen > 400, "only {seen} files were found");
}

#[test]
fn docs_say_more_than_the_name_of_what_they_stand_at() {
    let said = ["The file", "What is wrong", "Its name", "The name", "The path", "Its path", "Its size", "The image"];
    for file in all_below("src", ".rs") {
        let (text, mut is_shown) = (fs::read_to_string(&file).unwrap(), false);
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            if !line.starts_with([' ', '/', '#', '}']) {
                // The compiler asks for documentation of what others see.
                is_shown = line.starts_with("pub ");
            }
            let doc = line.trim().strip_prefix("/// ").and_then(|doc| doc.strip_suffix('.'));
            let is_empty = doc.is_some_and(|doc| said.contains(&doc)) && !is_shown;
            assert!(!is_empty, "{}:{}: {line}", file.display(), at + 1);
        }
    }
}

#[test]
fn only_their_table_says_how_the_files_of_models_are_called() {
    let is_ending = |text: &str| {
        // An ending, or a name that is made of one: no example, no sentence for people, no media type of another tool.
        let ends =
            [".gguf", "[.]gguf", ".safetensors", ".safetensors.index.json"].iter().any(|end| text.ends_with(end));
        ends && !text.contains([' ', '/']) && (text.starts_with('.') || text.contains(['{', '(']))
    };
    let mut seen = 0;
    for file in
        all_below("src", ".rs").into_iter().chain(all_below("nix/lib", ".nix")).chain(all_below("nix/ai-stack", ".nix"))
    {
        let code: Vec<String> =
            code(&file).lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned).collect();
        let code = code.join("\n");
        let found: Vec<&str> = texts(&code).filter(|text| is_ending(text)).collect();
        assert_eq!(found, [""; 0], "{}: model/read/formats.json has the endings", file.display());
        seen += usize::from(code.contains("Format::") && code.contains("ending()") || code.contains("formats.nix"));
    }
    assert!(seen > 5, "only {seen} files ask the table");
}

#[test]
fn only_their_table_has_the_ports_and_directories_of_services() {
    let table = fs::read_to_string(sources().join("compose/import/services.json")).unwrap();
    let table: BTreeMap<String, serde_json::Value> = serde_json::from_str(&table).unwrap();
    let strings = |row: &serde_json::Value, key: &str| -> Vec<String> {
        row[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect()
    };
    let ports: BTreeSet<String> = table.values().flat_map(|row| strings(row, "ports")).collect();
    let places: Vec<String> = table.values().filter_map(|row| Some(row["state"].as_str()?.to_owned())).collect();
    // The checks know the ports of NixOS' own services.
    let modules = all_below("nix/modules", "ai-stack.nix");
    for file in all_below("nix/ai-stack", ".nix").into_iter().chain(modules) {
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let has = |port: &str| line.split(|c: char| !c.is_ascii_digit()).any(|number| number == port);
            assert!(!ports.iter().any(|port| has(port)), "{}: {line}", file.display());
            let is_typed = |place: &String| line.split(['"', ' ', '=']).any(|word| word == place);
            assert!(!places.iter().any(is_typed), "{}: {line}", file.display());
        }
    }
    for name in table.keys() {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("nix/ai-stack/{name}.nix")).is_file(), "{name}");
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
