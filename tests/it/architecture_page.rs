//! ARCHITECTURE.md and CONTRIBUTING.md name files that are there, and count what is there.

use std::fs;
use std::path::Path;

use crate::architecture::{NESTED, arrows, circle, sources, table};

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
#[expect(clippy::print_stdout, reason = "`--no-capture` shows the drawing")]
fn the_table_of_wings_and_arrows_is_what_the_code_has() {
    let row = |name: &str, file: &str, folder: &Path, root: &str| {
        let wings = table(&folder.join(file)).into_keys().collect();
        let found = arrows(folder, root, &wings);
        let circles = u8::from(circle(&found).is_some());
        format!("| {name} | {} | {} | {circles} |", wings.len(), found.values().map(|used| used.len()).sum::<usize>())
    };
    let mut rows = vec![row("the crate", "lib.rs", sources(), "crate::")];
    for wing in NESTED {
        rows.push(row(&format!("`{wing}`"), "mod.rs", &sources().join(wing), &format!("crate::{wing}::")));
    }
    let rows = rows.join("\n");
    println!("{rows}");
    assert!(page("ARCHITECTURE.md").contains(&format!("\n{rows}\n")), "ARCHITECTURE.md should have\n{rows}");
}

#[test]
fn the_files_that_they_name_are_there() {
    let mut seen = 0;
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let page = page(name);
        let words = page.split('`').skip(1).step_by(2);
        for word in words.filter(|word| [".rs", ".json", ".nix"].iter().any(|end| word.ends_with(end))) {
            // What stands for any name, or for a file of the user's.
            if word.contains(|c: char| c.is_ascii_uppercase() && !word.starts_with("Cargo")) || word.contains('*') {
                continue;
            }
            let places = ["", "src/", "src/model/read/", "src/podman/"];
            let is_there =
                places.iter().any(|place| Path::new(env!("CARGO_MANIFEST_DIR")).join(place).join(word).exists());
            assert!(is_there, "{name} names {word}, which is not there");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} files were found");
}
