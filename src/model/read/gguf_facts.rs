//! From a GGUF header to what is known of the model.

use std::collections::BTreeMap;

use super::facts::{Facts, ModelFormat, languages, line};
use super::ggml;
use super::gguf::GgufHeader;
use super::gguf_values::GgufValue;
use crate::model::licence;

/// What a model is: `first` is the header of its file, or of its first shard, and `elements` counts the numbers of each
/// type of tensor in all of its shards.
#[must_use]
pub(crate) fn facts_of(first: &GgufHeader, elements: &BTreeMap<u32, u64>) -> Facts {
    let text = |key: &str| first.text(key).and_then(line);
    let architecture = text("general.architecture");
    let of_architecture =
        |key: &str| architecture.as_ref().and_then(|architecture| first.number(&format!("{architecture}.{key}")));
    let kind = match (text("general.type"), architecture.as_deref()) {
        // Projectors from before there was `general.type`.
        (None, Some("clip")) => Some("mmproj".to_owned()),
        (kind, _) => kind.filter(|kind| kind != "model"),
    };
    // `convert_hf_to_gguf.py --vocab-only`, and llama.cpp's own `ggml-vocab-*.gguf`.
    let is_vocabulary = || elements.is_empty() && first.get("tokenizer.ggml.model").is_some();
    let kind = kind.or_else(|| is_vocabulary().then(|| "vocab".to_owned()));
    Facts {
        format: ModelFormat::Gguf,
        name: text("general.name"),
        version: text("general.version"),
        kind,
        parameters: elements.values().fold(0, |sum, count| sum.saturating_add(*count)),
        quantization: quantization(first, elements),
        context_length: of_architecture("context_length"),
        embedding_length: of_architecture("embedding_length"),
        licence: licence::spdx(
            first.text("general.license"),
            first.text("general.license.name"),
            first.text("general.license.link"),
        ),
        vendor: text("general.organization").or_else(|| text("general.author")),
        source: ["general.source.url", "general.repo_url", "general.url"].into_iter().find_map(text),
        languages: languages(texts(first.get("general.languages"))),
        chat_template: first.get("tokenizer.chat_template").and_then(GgufValue::text_digest),
        beside: BTreeMap::new(),
        architecture,
    }
}

/// What the file says it is; else the type that most of its numbers have, and its number if it has no name.
fn quantization(first: &GgufHeader, elements: &BTreeMap<u32, u64>) -> Option<String> {
    /// llama.cpp adds this to what it has guessed.
    const GUESSED: u64 = 1024;
    let told = first.number("general.file_type").and_then(|number| ggml::file_type(number & !GUESSED));
    let most = || elements.iter().rev().max_by_key(|(_, count)| **count).map(|(kind, _)| *kind);
    let name = |kind| ggml::tensor_type(kind).map_or_else(|| format!("type-{kind}"), |known| known.name.to_owned());
    told.map(str::to_owned).or_else(|| most().map(name))
}

fn texts(value: Option<&GgufValue>) -> &[String] {
    match value {
        Some(GgufValue::Texts(texts)) => texts,
        Some(GgufValue::Text(text)) => std::slice::from_ref(text),
        _ => &[],
    }
}
