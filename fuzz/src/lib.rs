//! What must hold of every reader of windlass, whatever it is given: the bodies of the fuzz targets.
//!
//! Each module has one `check`, which takes any bytes, panics if a promise is broken, and says whether the bytes were
//! taken for what the reader reads. `fuzz_targets/` hands it what libFuzzer thinks of; the test `corpus` of the main
//! crate compiles these modules too, and hands them the corpus.
//!
//! A text with several files in it has each after a line `=== NAME`, see [`sections`].

use std::path::{Component, Path};

pub mod closure;
pub mod compose;
pub mod document;
pub mod gguf;
pub mod jail;
pub mod layout;
pub mod lock;
pub mod model;
pub mod names;
pub mod patch;
pub mod recipe;
pub mod records;
pub mod safetensors;
pub mod spec;
pub mod stack;
pub mod storage_conf;
pub mod unpack;

/// A target: whether the bytes were taken.
pub type Check = fn(&[u8]) -> bool;

/// All targets, by the names of their files in `fuzz_targets/`.
pub const ALL: [(&str, Check); 16] = [
    ("closure", closure::check),
    ("compose", compose::check),
    ("document", document::check),
    ("gguf", gguf::check),
    ("layout", layout::check),
    ("lock", lock::check),
    ("model", model::check),
    ("names", names::check),
    ("patch", patch::check),
    ("recipe", recipe::check),
    ("records", records::check),
    ("safetensors", safetensors::check),
    ("spec", spec::check),
    ("stack", stack::check),
    ("storage_conf", storage_conf::check),
    ("unpack", unpack::check),
];

/// The files in a text: what follows each line `=== NAME`.
pub fn sections(data: &[u8]) -> Vec<(&str, &[u8])> {
    let mut found: Vec<(&str, &[u8])> = Vec::new();
    let (mut rest, mut open) = (data, None);
    let mut start = data;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (line, next) = rest.split_at(end);
        if let Some(name) = line.strip_prefix(b"=== ").and_then(|name| std::str::from_utf8(name).ok()) {
            if let Some(name) = open.replace(name.trim_end()) {
                found.push((name, &start[..start.len() - rest.len()]));
            }
            start = next;
        }
        rest = next;
    }
    found.extend(open.map(|name| (name, start)));
    found
}

/// That a path leads nowhere else.
pub fn stays_inside(path: &Path) {
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    let text = path.to_str().is_some_and(|text| !text.is_empty() && !text.chars().any(char::is_control));
    assert!(inside && text, "{path:?} was taken for a path that stays inside");
}
