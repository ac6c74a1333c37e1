//! What a file of a model is, by its name: the one answer, by the table of [`formats`](super::formats), for `model inspect`, plans, builds, forms and `model add`.
//!
//! Names are compared without regard to case, as llama.cpp's tools and Hugging Face's do not care either. What is in a file is
//! told by its bytes ([`super::sniff`]); a name says what it should be.

use super::facts::ModelFormat;
use super::formats::CompanionRole;
use super::shards::ShardName;

/// How deep below its root a model's files are looked for.
pub(crate) const DEEPEST: usize = 8;
/// What lies at the root of a diffusers pipeline: its parts are models in folders, and all of them together are the model.
pub(crate) const PIPELINE: &str = "model_index.json";

/// What a file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// Tensors, in this format.
    Weights(ModelFormat),
    /// Which safetensors shard has which tensor.
    Index,
    /// A piece of a file that was cut for an upload, or that is not whole yet, and the name of the whole.
    Piece(&'a str),
    /// How a conversation is put into one text.
    ChatTemplate,
    /// The text of a licence.
    Licence,
    /// For people.
    Text,
    /// Configuration, tokenizer.
    Config,
    /// Anything else, which may be weights of a format that is not read.
    Other,
}

/// What a file of this name should be; folders in front of it do not matter.
#[must_use]
pub(crate) fn named(path: &str) -> Named<'_> {
    let base = file_name(path);
    let name = base.to_ascii_lowercase();
    if let Some(format) = ModelFormat::ALL.into_iter().find(|format| name.ends_with(format.ending())) {
        Named::Weights(format)
    } else if ModelFormat::ALL.into_iter().filter_map(ModelFormat::index_ending).any(|ending| name.ends_with(ending)) {
        Named::Index
    } else if let Some(end) = piece(&name) {
        Named::Piece(&base[..end])
    } else {
        match CompanionRole::of_name(&name) {
            Some(CompanionRole::ChatTemplate) => Named::ChatTemplate,
            Some(CompanionRole::Licence) => Named::Licence,
            Some(CompanionRole::Text) => Named::Text,
            Some(CompanionRole::Config) => Named::Config,
            None => Named::Other,
        }
    }
}

/// Whether a file of this name should hold tensors.
#[must_use]
pub(crate) fn is_weights(path: &str) -> bool {
    matches!(named(path), Named::Weights(_))
}

/// Whether it holds tensors and nothing that describes them: the first shard of a GGUF split is what describes the model.
#[must_use]
pub(crate) fn is_only_weights(path: &str) -> bool {
    match named(path) {
        Named::Weights(ModelFormat::Gguf) => ShardName::parse(file_name(path)).is_none_or(|shard| shard.number != 1),
        Named::Weights(ModelFormat::Safetensors) => true,
        _ => false,
    }
}

/// A name without the folders in front of it.
#[must_use]
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The folders in front of a name, with the last `/`.
#[must_use]
pub(crate) fn folder(path: &str) -> &str {
    &path[..path.len() - file_name(path).len()]
}

/// Where the name of the whole ends, in that of a piece: `m.gguf.part1of2`, `m.gguf-split-a`, `m.safetensors.aria2`.
fn piece(name: &str) -> Option<usize> {
    let after = |format: ModelFormat| Some(name.find(format.ending())? + format.ending().len());
    let after = ModelFormat::ALL.into_iter().filter_map(after).max()?;
    let rest = name[after..].strip_prefix(['.', '-', '_'])?;
    let is_number = rest.len() <= 4 && rest.bytes().all(|byte| byte.is_ascii_digit());
    let words = ["part", "split", "incomplete", "download", "crdownload", "aria2", "tmp"];
    (is_number || words.iter().any(|word| rest.starts_with(word))).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_files_should_be() {
        let (gguf, safetensors) = (Named::Weights(ModelFormat::Gguf), Named::Weights(ModelFormat::Safetensors));
        for (name, expected) in [
            ("M.GGUF", gguf),
            ("a/b/model-00001-of-00002.SafeTensors", safetensors),
            ("model.safetensors.index.json", Named::Index),
            ("Model.Safetensors.Index.JSON", Named::Index),
            ("m.Q8_0.gguf.part1of2", Named::Piece("m.Q8_0.gguf")),
            ("x/M.gguf-split-a", Named::Piece("M.gguf")),
            ("m.safetensors.incomplete", Named::Piece("m.safetensors")),
            ("m.gguf.001", Named::Piece("m.gguf")),
            ("m.gguf.md", Named::Text),
            ("m.gguf.sha256", Named::Other),
            ("tokenizer.model", Named::Config),
            ("chat_template.json", Named::ChatTemplate),
            ("LICENSE.md", Named::Licence),
            ("README.md", Named::Text),
            ("model.onnx", Named::Other),
            ("m", Named::Other),
        ] {
            assert_eq!(named(name), expected, "{name}");
        }
        let only = ["m.gguf", "m-00002-of-00002.GGUF", "a/m-00001-of-00002.safetensors"];
        assert!(only.iter().all(|name| is_only_weights(name)));
        assert!(!is_only_weights("a/m-00001-of-00002.gguf") && !is_only_weights("config.json"));
        assert_eq!((folder("a/b/c"), folder("c"), file_name("a/b/c")), ("a/b/", "", "c"));
    }
}
