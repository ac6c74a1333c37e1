//! What people say of models for Ollama: specs of the kind "ollama", and what is in a Modelfile.

use std::path::{Component, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ollama::OllamaName;

/// Where Ollama looks by default when its user is root.
pub(crate) const DEFAULT_DIRECTORY: &str = "/root/.ollama/models";

/// Models for Ollama, as a layer: `"kind": "ollama"`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OllamaSpec {
    /// Name of the layer, for tables and history.
    #[serde(default = "default_name")]
    pub(crate) name: String,
    /// What `OLLAMA_MODELS` is in the image.
    #[serde(default = "default_directory")]
    pub directory: PathBuf,
    /// The models.
    pub models: Vec<ModelfileEntry>,
}

impl OllamaSpec {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// With the key, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !self.directory.is_absolute()
            || !self.directory.components().all(is_plain)
            || self.directory.parent().is_none()
        {
            let message = format!("'{}' is not an absolute path below /, without '..'", self.directory.display());
            return Err(("directory".to_owned(), message));
        }
        if self.models.is_empty() {
            return Err(("models".to_owned(), "a directory of no models; name one".to_owned()));
        }
        let wrong = |(n, entry): (usize, &ModelfileEntry)| {
            let reference = entry.options.reference.as_deref()?;
            let error = OllamaName::parse(reference).err()?;
            Some((format!("models[{n}].options.reference"), error.to_string()))
        };
        self.models.iter().enumerate().find_map(wrong).map_or(Ok(()), Err)
    }
}

/// One model for Ollama.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelfileEntry {
    /// The image directory that the model was built into. The image that gets the layer has to have the model too.
    pub(crate) model: PathBuf,
    /// What is different from what Ollama would make of the GGUF file alone.
    #[serde(default)]
    pub(crate) options: ModelfileOptions,
}

/// What a Modelfile would say of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ModelfileOptions {
    /// What Ollama calls it, `[HOST/][NAMESPACE/]NAME[:TAG]`; by default the model's name, and `latest`.
    pub(crate) reference: Option<String>,
    /// `TEMPLATE`: a Go template. Without one, Ollama uses the chat template of the GGUF file.
    pub(crate) template: Option<String>,
    /// `SYSTEM`.
    pub(crate) system: Option<String>,
    /// `PARAMETER`s by name; several of one name (`stop`) are a list.
    pub(crate) params: Map<String, Value>,
    /// `LICENSE`s: texts.
    pub(crate) licences: Vec<String>,
    /// `RENDERER`: a prompt format that is part of Ollama.
    pub(crate) renderer: Option<String>,
    /// `PARSER`: likewise, for answers.
    pub(crate) parser: Option<String>,
}

fn default_name() -> String {
    "ollama".to_owned()
}

fn default_directory() -> PathBuf {
    PathBuf::from(DEFAULT_DIRECTORY)
}
