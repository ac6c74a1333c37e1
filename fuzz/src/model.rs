//! A folder with a model of safetensors and what lies beside it: the card, the configuration, the template, the index.
//! What is told of it is a line of text, and no file outside of the folder is read.

use std::fs;

use windlass::internals::disk::progress::Progress;
use windlass::internals::model::read::inspect::inspect;

use super::gguf::known;
use super::sections;

/// What a folder may have; of anything else there is nothing to read.
const NAMES: [&str; 9] = [
    "model.safetensors",
    "m-1.safetensors",
    "m-2.safetensors",
    "model.gguf",
    "model.safetensors.index.json",
    "config.json",
    "README.md",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// A header of safetensors with its data, which are zeros: the sections have the text of it.
fn tensors(header: &[u8]) -> Vec<u8> {
    let end = |text: &str| {
        text.split("\"data_offsets\":[")
            .skip(1)
            .filter_map(|rest| rest.split(']').next()?.split(',').nth(1)?.trim().parse::<usize>().ok())
            .max()
    };
    let data = std::str::from_utf8(header).ok().and_then(end).unwrap_or(0).min(1 << 16);
    [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; data]].concat()
}

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in sections(data) {
        let Some(name) = NAMES.iter().find(|known| **known == name) else { continue };
        let content = if name.ends_with(".safetensors") { tensors(content) } else { content.to_vec() };
        fs::write(dir.path().join(name), content).unwrap();
    }
    let Ok(inspected) = inspect(dir.path(), &Progress::new()) else { return false };
    known(&inspected.facts);
    let json = serde_json::to_string(&inspected.facts).unwrap();
    assert_eq!(serde_json::from_str::<windlass::internals::model::read::facts::Facts>(&json).unwrap(), inspected.facts);
    true
}
