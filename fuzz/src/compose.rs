//! Compose files with their variables: what is imported is a Nix file without a syntax error in which no text of the
//! compose file is code, every key is accounted for, and the same file gives the same result.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use rnix::{Root, SyntaxKind};
use windlass::internals::compose::import::import;
use windlass::internals::compose::read::variables::{ComposeVariables, interpolate, parse_env_file};
use windlass::internals::compose::read::{ImportOptions, yaml};

use super::sections;

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let files: BTreeMap<&str, &[u8]> = sections(data).into_iter().collect();
    let own = files.get("compose.yml").copied().unwrap_or(data);
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in
        [("compose.yml", Some(&own)), (".env", files.get(".env")), ("common.yml", files.get("common.yml"))]
    {
        if let Some(content) = content {
            fs::write(dir.path().join(name), content).unwrap();
        }
    }
    if let Ok(text) = std::str::from_utf8(own) {
        variables(text);
        drop(yaml::parse(text, 0));
    }
    let file = dir.path().join("compose.yml");
    let options = ImportOptions {
        file,
        directory: PathBuf::from("/srv/app"),
        profiles: vec!["*".to_owned()],
        ..ImportOptions::default()
    };
    let Ok(imported) = import(&options) else { return false };
    let again = import(&options).expect("it was imported once");
    assert_eq!((&again.nix, &again.notes), (&imported.nix, &imported.notes));
    let counts = &imported.counts;
    assert_eq!(counts.ai_stack + counts.others + counts.left_out + counts.provided, counts.services);
    assert!(counts.taken + counts.left <= imported.account.len());
    is_data(&imported.nix);
    true
}

fn variables(text: &str) {
    let mut variables = ComposeVariables::from([("A".to_owned(), "a".into())]);
    if parse_env_file(text, &mut variables).is_ok() {
        assert!(variables.keys().all(|name| !name.is_empty() && !name.contains(['=', '\n', '\0'])), "{variables:?}");
    }
    if let Ok(done) = interpolate(text, &variables) {
        assert!(done.value.len() <= text.len() + (128 << 10), "{} bytes", done.value.len());
    }
}

/// That a Nix file has no syntax error, and nothing in it is computed but what windlass itself writes.
fn is_data(nix: &str) {
    let parsed = Root::parse(nix);
    assert!(parsed.errors().is_empty(), "{:?}\n{nix}", parsed.errors());
    for node in parsed.syntax().descendants() {
        let kind = node.kind();
        // An interpolation would be a node of its own.
        let known = matches!(
            kind,
            SyntaxKind::NODE_ROOT
                | SyntaxKind::NODE_ATTR_SET
                | SyntaxKind::NODE_ATTRPATH_VALUE
                | SyntaxKind::NODE_ATTRPATH
                | SyntaxKind::NODE_IDENT
                | SyntaxKind::NODE_STRING
                | SyntaxKind::NODE_LIST
                | SyntaxKind::NODE_LITERAL
                | SyntaxKind::NODE_UNARY_OP
                // `{ lib, ... }:` and `lib.mapAttrs (_: lib.mkForce) { … }`.
                | SyntaxKind::NODE_LAMBDA
                | SyntaxKind::NODE_PATTERN
                | SyntaxKind::NODE_PAT_ENTRY
                | SyntaxKind::NODE_IDENT_PARAM
                | SyntaxKind::NODE_APPLY
                | SyntaxKind::NODE_SELECT
                | SyntaxKind::NODE_PAREN
        );
        assert!(known, "{kind:?} `{node}` in\n{nix}");
        let own = match kind {
            SyntaxKind::NODE_LAMBDA => {
                nix.starts_with("# ")
                    && (["{ lib, ... }:", "{ lib, pkgs, ... }:", "{ pkgs, ... }:"]
                        .iter()
                        .any(|head| node.text().to_string().starts_with(head))
                        || node.text() == "_: lib.mkForce")
            }
            SyntaxKind::NODE_IDENT => {
                let is_name = node.parent().is_some_and(|parent| parent.kind() == SyntaxKind::NODE_ATTRPATH);
                is_name || ["true", "false", "null", "lib", "pkgs", "_"].contains(&node.text().to_string().as_str())
            }
            SyntaxKind::NODE_APPLY => node.text().to_string().starts_with("lib.mapAttrs (_: lib.mkForce)"),
            SyntaxKind::NODE_SELECT => {
                ["lib.mapAttrs", "lib.mkForce", "pkgs.valkey"].iter().any(|own| node.text() == *own)
            }
            _ => true,
        };
        assert!(own, "{kind:?} `{node}` is code in\n{nix}");
    }
}
