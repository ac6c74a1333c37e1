//! Documents that Go's readers cannot read, as real Go says (tests/fixtures/strict/table.go).

use windlass::internals::oci::strict::{DocumentKind, check, is_time};

const TABLE: &str = include_str!("../fixtures/strict/table.txt");

fn document(kind: &str) -> DocumentKind {
    match kind {
        "config" => DocumentKind::Config,
        "manifest" => DocumentKind::Manifest,
        "index" => DocumentKind::Index,
        kind => panic!("{kind}"),
    }
}

/// `config/history/1/created`: the second of a list.
fn nested(path: &str, value: &str) -> String {
    let wrap = |inner: String, part: &str| match part {
        "0" => format!("[{inner}]"),
        "1" => format!("[{{}},{inner}]"),
        part => format!("{{\"{part}\":{inner}}}"),
    };
    path.split('/').rev().fold(value.to_owned(), wrap)
}

#[test]
fn times_are_those_that_go_and_rfc_3339_have() {
    let mut count = 0;
    for line in TABLE.lines().filter_map(|line| line.strip_prefix("time\t")) {
        let (text, verdict) = line.rsplit_once('\t').unwrap();
        assert_eq!(is_time(text), verdict == "+", "{text:?} ({verdict})");
        count += 1;
    }
    assert!(count > 80, "{count}");
}

#[test]
fn a_document_is_refused_if_one_of_gos_types_refuses_it() {
    let values: Vec<&str> = TABLE.lines().filter_map(|line| line.strip_prefix("value\t")).collect();
    // Stricter on purpose: Docker takes a text for a command of one word in the fields that OCI does not have, and writes
    // none; Go takes a list of numbers for bytes.
    let stricter = |path: &str, value: &str| {
        let words = ["Cmd", "Entrypoint", "Shell", "\u{17f}hell"].iter().any(|name| path.ends_with(name));
        words && value.starts_with('"') || path.ends_with("data") && value.starts_with('[')
    };
    let (mut count, mut wrong) = (0, Vec::new());
    for line in TABLE.lines() {
        let (kind, rest) = line.split_once('\t').unwrap();
        if let Some(kind) = kind.strip_prefix("whole ") {
            let (text, verdict) = rest.rsplit_once('\t').unwrap();
            assert_eq!(check(document(kind), text.as_bytes()).is_ok(), verdict == "+", "{kind}: {text}");
        }
        if !matches!(kind, "config" | "manifest" | "index") {
            continue;
        }
        let (path, verdicts) = rest.split_once('\t').unwrap();
        assert_eq!(verdicts.len(), values.len());
        for (value, verdict) in values.iter().zip(verdicts.chars()).filter(|(value, _)| !stricter(path, value)) {
            count += 1;
            let checked = check(document(kind), nested(path, value).as_bytes());
            if checked.is_ok() != (verdict == '+') {
                wrong.push(format!("{verdict} {kind} {path} {value}: {checked:?}"));
            }
        }
    }
    assert!(count > 5000, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
