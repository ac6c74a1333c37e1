//! What `image.json` and `stack.json` say of a model.

use serde::{Deserialize, Serialize};

use crate::layer::LayerFile;
use crate::model::read::facts::Facts;

/// What is known of a model's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelRecord {
    /// What its headers say, where they can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) facts: Option<Facts>,
    /// All of its files, in the order of its layers.
    pub(crate) files: Vec<LayerFile>,
}
