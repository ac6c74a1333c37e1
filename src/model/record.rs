//! What `image.json` and `stack.json` say of a model.

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use crate::layer::LayerFile;

/// What is known of a model's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRecord {
    /// What its headers say, where they can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// All of its files, in the order of its layers.
    pub files: Vec<LayerFile>,
}
