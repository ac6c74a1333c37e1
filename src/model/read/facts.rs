//! What is known of a model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;

/// The format of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelFormat {
    /// One file of llama.cpp, or its shards.
    Gguf,
    /// Hugging Face's format, or its shards with their index.
    Safetensors,
}

impl ModelFormat {
    /// Its name, as ModelPack and Docker write it.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
        }
    }
}

/// What the headers of a model's files say. What they do not say is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The format of its files.
    pub(crate) format: ModelFormat,
    /// What it calls itself: `general.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `general.version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it is when it is not a whole model: `adapter` (LoRA), `mmproj`, `imatrix` (`general.type`), or `vocab`, a tokenizer
    /// without tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// `general.architecture`, or the `model_type` of a `config.json`: `llama`, `qwen2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// How many numbers its tensors hold.
    pub(crate) parameters: u64,
    /// What most of them are stored as, in llama.cpp's words for GGUF (`Q4_K_M`) and in safetensors' own (`BF16`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quantization: Option<String>,
    /// Tokens that it was trained to see at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) context_length: Option<u64>,
    /// Numbers in an embedding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) embedding_length: Option<u64>,
    /// SPDX expression: `Apache-2.0`, `LicenseRef-llama3.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Who made it: `general.organization` or `general.author`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Where it is from: `general.source.url`, `general.repo_url` or `general.url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Languages, two lower-case letters each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) languages: Vec<String>,
    /// Digest of `tokenizer.chat_template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chat_template: Option<Digest>,
    /// What GGUF files that lie with the model are, by their names: its projector, adapters for it, its importance matrix
    /// (`general.type`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) beside: BTreeMap<String, String>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct InspectedFile {
    /// Its path below the directory that was inspected; its name, if it was a file.
    pub path: PathBuf,
    pub(crate) size: u64,
}

/// A model, and the files that make it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Inspected {
    /// What their headers say together.
    pub facts: Facts,
    /// The files that hold tensors, in order; one of shards opens them all, and it is the first.
    pub files: Vec<InspectedFile>,
    /// What some program will not take, though the files are what their formats say; and files that nothing loads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// A text of a header as one line for labels and tables: no control characters, at most 256 characters, not empty.
pub(crate) fn line(text: &str) -> Option<String> {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text: String = text.trim().chars().take(256).collect();
    (!text.is_empty()).then(|| text.trim_end().to_owned())
}

/// Those of the texts that are languages: two lower-case letters, each once.
pub(crate) fn languages(texts: &[String]) -> Vec<String> {
    let mut languages = Vec::new();
    for text in texts {
        if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_lowercase()) && !languages.contains(text) {
            languages.push(text.clone());
        }
    }
    languages
}
