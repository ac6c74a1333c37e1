//! Models in an inventory.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Inventory;
use crate::image::LayerKind;
use crate::image::layout::ImageDir;
use crate::image::summary::ImageKind;
use crate::layer::LayerFile;
use crate::model::forms::labels::LICENCES;
use crate::model::read::facts::Facts;
use crate::oci::digest::Digest;
use crate::oci::reference::Reference;

/// A model. Of one that is only inside another image its name and its layers are known, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InventoryModel {
    /// Name and tag of its own image.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<Reference>,
    /// Digest of the manifest of its own image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
    /// Its layers.
    pub(crate) layers: BTreeSet<Digest>,
    /// The numbers of the images that have it, its own with them.
    pub(crate) images: BTreeSet<usize>,
    /// What its files say of themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) facts: Option<Facts>,
    /// Its files, each with its digest.
    pub(crate) files: Vec<LayerFile>,
    /// SPDX expression; what its image says counts before what its files say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) licence: Option<String>,
    /// The annotations of its image.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Inventory {
    /// Adds what an image says of models; its entries of `images` are the last ones.
    pub(super) fn add_model(&mut self, image: &ImageDir) {
        let summary = image.summary();
        let first = self.images.len() - summary.platforms.len();
        for (number, entry) in self.images.iter().enumerate().skip(first) {
            for name in &entry.models {
                self.models.entry(name.clone()).or_default().images.insert(number);
            }
            for digest in &entry.layers {
                let of = self.layers.get(digest).filter(|layer| layer.kind == LayerKind::Model);
                if let Some(model) = of.and_then(|layer| self.models.get_mut(layer.model.as_ref()?)) {
                    model.layers.insert(*digest);
                }
            }
        }
        let Some(name) = self.images.get(first).filter(|_| summary.kind == ImageKind::Model) else { return };
        let Some(model) = name.models.first().and_then(|name| self.models.get_mut(name)) else { return };
        let manifest: serde_json::Value = serde_json::from_slice(&image.image().top.bytes).unwrap_or_default();
        let annotations: BTreeMap<String, String> =
            serde_json::from_value(manifest["annotations"].clone()).unwrap_or_default();
        let record = summary.model.clone().unwrap_or_default();
        let said = record.facts.as_ref().and_then(|facts| facts.licence.clone());
        model.reference = Some(summary.reference.clone());
        model.digest = Some(summary.digest);
        model.licence = annotations.get(LICENCES).cloned().or(said);
        model.facts = record.facts;
        model.files = record.files;
        model.annotations = annotations;
    }
}
