//! docs/options.md is what the modules declare, with the stand-in's lib and with nixpkgs'.

use crate::machine::with_modules;
use crate::nix::{eval, root};

#[test]
fn the_documentation_of_the_options_is_current() {
    let root = root();
    let made =
        eval(&with_modules(&format!("import {}/tests/modules/options.nix {{ inherit lib pkgs; }}", root.display())));
    let made = made.as_str().unwrap();
    let written = std::fs::read_to_string(root.join("docs/options.md")).unwrap();
    let line = made.lines().zip(written.lines()).position(|(made, written)| made != written);
    assert!(
        made == written,
        "docs/options.md is not current, from line {:?}: write it with ./dev docs",
        line.map(|line| line + 1)
    );
    for option in ["virtualisation.windlass.containers.<name>.health.command", "services.ai-stack.models.<name>.src"] {
        assert!(made.contains(&format!("\n### `{option}`\n")), "{option}");
    }
    // An option without a description helps no user.
    let entries: Vec<&str> = made.split("\n### ").skip(1).collect();
    assert!(entries.len() > 130, "{}", entries.len());
    for entry in entries {
        let description = entry.split("\n\n").nth(1).unwrap();
        assert!(!description.is_empty() && !description.starts_with('*'), "{entry}");
    }
}
