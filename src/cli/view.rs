//! One picture of images, wherever they are described: an image directory, a lean stack, or a stack of archives.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::Result;
use crate::build::stack::{StackDir, StackJson, StackLayer};
use crate::image::json::read_versioned;
use crate::image::layout::ImageDir;
use crate::image::summary::Summary;
use crate::image::{LayerKind, LayerRecord, ModelPart, PackedLayer};
use crate::model::forms::record::ModelRecord;
use crate::model::read::facts::Facts;
use crate::names::Name;
use crate::nix::store_path::StorePath;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// One image for one platform, or one model.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ViewedImage {
    pub(super) name: Name,
    #[serde(rename = "ref")]
    pub(super) reference: Reference,
    pub(super) platform: Platform,
    pub(super) digest: Digest,
    pub(super) config_digest: Digest,
    pub(super) size: u64,
    pub(super) models: Vec<Name>,
    pub(super) layers: Vec<SeenLayer>,
    /// What is known of a model's files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<ModelRecord>,
    /// How a container of it runs: `config` of its config; not known for a stack of archives.
    #[serde(skip)]
    pub(super) config: Option<Map<String, Value>>,
}

impl ViewedImage {
    /// The variables that its config sets, `NAME=value` each.
    pub(super) fn environment(&self) -> impl Iterator<Item = &str> {
        self.config
            .as_ref()
            .and_then(|config| config.get("Env")?.as_array())
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
    }
}

/// One layer.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SeenLayer {
    pub(super) digest: Option<Digest>,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) packed: Option<PackedLayer>,
    pub(super) kind: LayerKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) part: Option<ModelPart>,
    pub(super) title: String,
    pub(super) why: String,
    pub(super) owners: Vec<String>,
    /// `blob`, `recipe` or `absent`; not known for a stack of archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) on_disk: Option<&'static str>,
}

/// What a path holds: images first, then the models' own images.
pub(super) fn look(path: &Path) -> Result<Vec<ViewedImage>> {
    if !path.join("stack.json").is_file() {
        return Ok(of_directory(&ImageDir::open(path)?));
    }
    let json: StackJson = read_versioned(&path.join("stack.json"))?;
    if json.images.iter().all(|image| image.directory.is_some())
        && json.models.iter().all(|model| model.directory.is_some())
    {
        return Ok(StackDir::open(path)?.all().flat_map(of_directory).collect());
    }
    let images = json.images.into_iter().map(|image| ViewedImage {
        name: image.name,
        reference: image.reference,
        platform: image.platform,
        digest: image.digest,
        config_digest: image.config_digest,
        size: image.size,
        models: image.models,
        layers: image.layers.iter().map(SeenLayer::from).collect(),
        model: None,
        config: None,
    });
    let models = json.models.into_iter().map(|model| ViewedImage {
        models: vec![model.name.clone()],
        name: model.name,
        reference: model.reference,
        platform: Platform::of_data(),
        digest: model.digest,
        config_digest: model.config_digest,
        size: model.size,
        layers: model.layers.iter().map(SeenLayer::from).collect(),
        model: model.model,
        config: None,
    });
    Ok(images.chain(models).collect())
}

/// Whether a path is a stack whose images are archives.
pub(super) fn is_of_archives(path: &Path) -> Result<bool> {
    if !path.join("stack.json").is_file() {
        return Ok(false);
    }
    let json: StackJson = read_versioned(&path.join("stack.json"))?;
    Ok(json.images.iter().any(|image| image.directory.is_none())
        || json.models.iter().any(|model| model.directory.is_none()))
}

/// How a container of an image runs, as its config says.
fn config(image: &ImageDir, config: Digest) -> Option<Map<String, Value>> {
    #[derive(Deserialize)]
    struct ViewedWhole {
        #[serde(default)]
        config: Map<String, Value>,
    }
    let blob = image.image().small_blobs().find(|blob| blob.digest == config);
    let whole = blob.and_then(|blob| serde_json::from_slice::<ViewedWhole>(&blob.bytes).ok());
    whole.map(|whole| whole.config)
}

pub(super) fn of_directory(image: &ImageDir) -> Vec<ViewedImage> {
    let Summary { name, reference, platforms, model, .. } = image.summary();
    let layer = |record: &LayerRecord| {
        let on_disk = match image.layer_blob(record) {
            Ok(Some(_)) => "blob",
            _ if image.image().recipes.contains_key(&record.digest) => "recipe",
            _ => "absent",
        };
        SeenLayer { on_disk: Some(on_disk), ..SeenLayer::from(record) }
    };
    let seen = |platform: &crate::image::summary::PlatformRecord| ViewedImage {
        name: name.file_name(),
        reference: reference.clone(),
        platform: platform.platform.clone(),
        digest: platform.digest,
        config_digest: platform.config_digest,
        size: platform.size,
        models: platform.models.clone(),
        layers: platform.layers.iter().map(layer).collect(),
        model: model.clone(),
        config: config(image, platform.config_digest),
    };
    platforms.iter().map(seen).collect()
}

impl SeenLayer {
    /// Bytes that a host writes for it.
    pub(super) fn diff_size(&self) -> u64 {
        self.packed.as_ref().map_or(self.size, |packed| packed.diff_size)
    }
}

impl From<&LayerRecord> for SeenLayer {
    fn from(record: &LayerRecord) -> Self {
        let LayerRecord { digest, size, packed, kind, part, title, why, owners } = record.clone();
        Self { digest: Some(digest), size, packed, kind, part, title, why, owners, on_disk: None }
    }
}

impl From<&StackLayer> for SeenLayer {
    fn from(layer: &StackLayer) -> Self {
        let StackLayer { digest, size, packed, kind, part, title, owners } = layer.clone();
        Self { digest: Some(digest), size, packed, kind, part, title, why: String::new(), owners, on_disk: None }
    }
}

/// What people call a path: its last part, of a store path without the hash.
pub(super) fn short(path: &str) -> &str {
    let last = path.rsplit('/').next().unwrap_or(path);
    StorePath::from_base_name(last).map_or(last, |_| last.split_once('-').map_or(last, |(_, name)| name))
}

/// The owners of a layer in a few words, or all of them.
pub(super) fn owners(layer: &SeenLayer, all: bool) -> Vec<String> {
    const SHOWN: usize = 4;
    if all {
        return layer.owners.clone();
    }
    let mut names: Vec<String> = layer.owners.iter().take(SHOWN).map(|owner| short(owner).to_owned()).collect();
    if layer.owners.len() > SHOWN {
        names.push(format!("and {} more (--owners)", layer.owners.len() - SHOWN));
    }
    names
}

/// A model in a few words: parameters, quantisation, context, licence; what is not known is left out.
pub(super) fn in_words(facts: &Facts) -> Vec<String> {
    let mut words = vec![facts.format.as_str().to_owned()];
    words.extend(facts.architecture.clone());
    words.push(format!("{} parameters", parameters(facts.parameters)));
    words.extend(facts.quantization.clone());
    words.extend(facts.context_length.map(|tokens| format!("context {tokens}")));
    words.push(facts.licence.clone().unwrap_or_else(|| "licence unknown".to_owned()));
    words
}

/// A number of parameters as people write it: `134.5M`.
pub(super) fn parameters(count: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M"), (1000, "K")];
    let Some((unit, letter)) = units.into_iter().find(|(unit, _)| count >= *unit) else { return count.to_string() };
    // Tenths, rounded half up, in whole numbers.
    let tenths = (u128::from(count) * 10 + u128::from(unit) / 2) / u128::from(unit);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{letter}"),
        (whole, tenth) => format!("{whole}.{tenth}{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_told_in_tenths() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1K"),
            (107_328, "107.3K"),
            (134_515_008, "134.5M"),
            (7_000_000_000, "7B"),
            (671_026_419_200, "671B"),
            (1_050_000_000_000, "1.1T"),
        ] {
            assert_eq!(parameters(count), text);
        }
    }
}
