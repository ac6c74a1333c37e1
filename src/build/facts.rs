//! What is known of a model, in its image: labels, annotations, `image.json`, and the place where RamaLama looks.

use std::path::{Path, PathBuf};

use super::BuildError;
use crate::disk::progress::Progress;
use crate::image::layout::ImageInMemory;
use crate::image::{About, BuiltLayer, LayerKind};
use crate::layer::{FORMAT, Input, Known, LayerFile, Recipe};
use crate::model::forms::labels::{LICENCES, labels};
use crate::model::forms::record::ModelRecord;
use crate::model::read::facts::{Facts, ModelFormat};
use crate::model::read::inspect::InspectError;
use crate::model::read::layers::{LookError, Looked, look};
use crate::oci::platform::Platform;
use crate::plan::{Planned, PlannedModel};
use crate::spec::config::ImageConfig;
use crate::spec::{DEFAULT_CREATED, ModelSpec};

/// A model before its bytes are read.
#[derive(Debug, Clone)]
pub(crate) struct Outlook {
    pub(crate) name: String,
    /// Bytes of its layers with weights.
    pub(crate) weights: u64,
    /// How its layers are made.
    pub(crate) recipes: Vec<Recipe>,
    /// The digests of its files by their places in an image, where they are known.
    pub(crate) digests: Known,
    /// What its headers say.
    pub(crate) facts: Option<Facts>,
    /// Its licence, by its annotations or its files.
    pub(crate) licence: Option<String>,
    /// Files that are no models in spite of their names; of a model that was built, its own build has told them.
    pub(crate) warnings: Vec<String>,
}

/// Looks at what the layers of a model hold. Its warnings name the model.
///
/// Several models are an error where a directory was given, as `model inspect` has it: it is most often a repository with all
/// quantisations. Where the files were named one by one they are what is wanted.
pub(super) fn look_at(spec: &ModelSpec, model: &PlannedModel, progress: &Progress) -> Result<Looked, BuildError> {
    let name = &model.name;
    let looked = look(model.layers.iter().map(|layer| &layer.recipe), progress).map_err(|error| match error {
        LookError::Layer(source) => BuildError::Layer { title: name.to_string(), source },
        LookError::Inspect(source) => BuildError::Model { name: name.to_string(), source },
    })?;
    let mut looked = looked;
    let several = std::mem::take(&mut looked.several);
    if !several.is_empty() {
        if let Some(path) = spec.source.clone() {
            let source = InspectError::SeveralModels { path, names: several };
            return Err(BuildError::Model { name: name.to_string(), source });
        }
        let names = several.join(", ");
        looked.warnings.push(format!("has several models in it ({names}): nothing can be said of it as one, and no form of it can be exported; make a model of each"));
    }
    let warnings = looked.warnings.iter().map(|warning| format!("model '{name}': {warning}")).collect();
    Ok(Looked { warnings, ..looked })
}

/// What a model's image says beside its layers. What the spec says goes before what the files say.
pub(super) fn about(spec: &ModelSpec, looked: &Looked) -> About {
    let said = looked.facts.as_ref().map(|facts| labels(&spec.name, facts)).unwrap_or_default();
    let mut annotations = said.clone();
    annotations.extend(spec.annotations.clone());
    let in_place = |(key, value): (String, String)| {
        let value = spec.annotations.get(&key).cloned().unwrap_or(value);
        (key, value)
    };
    let config = ImageConfig { labels: said.into_iter().map(in_place).collect(), ..ImageConfig::default() };
    About {
        platform: Platform::of_data(),
        os_version: None,
        os_features: Vec::new(),
        created: DEFAULT_CREATED.to_owned(),
        author: None,
        config,
        annotations,
        inherited: None,
    }
}

/// What `image.json` says of a model.
pub(super) fn record(spec: &ModelSpec, looked: &Looked, layers: &[BuiltLayer]) -> ModelRecord {
    let mut facts = looked.facts.clone();
    if let (Some(facts), Some(licence)) = (&mut facts, spec.annotations.get(LICENCES)) {
        facts.licence = Some(licence.clone());
    }
    let files: Vec<LayerFile> = layers.iter().flat_map(|layer| layer.files.clone()).collect();
    ModelRecord { facts, files }
}

/// The licence of a model that was built, as its image says it.
pub(super) fn licence_of(image: &ImageInMemory) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_slice(&image.top.bytes).ok()?;
    manifest["annotations"][LICENCES].as_str().map(str::to_owned)
}

/// Where RamaLama looks for the one file of a model (ramalama-oci(5)).
const RAMALAMA: &str = "/models/model.file";

/// A link to the one file of a model, where RamaLama looks for it: a layer above those of the model, in its own image
/// only. In a layer of the model it would change bytes that are shared, and two models in one image would both have one.
pub(super) fn ramalama(model: &PlannedModel, looked: &Looked) -> Option<Planned> {
    let is_gguf = looked.facts.as_ref().is_some_and(|facts| facts.format == ModelFormat::Gguf);
    let link = Path::new(RAMALAMA);
    let target: PathBuf = looked.file.as_ref().filter(|_| is_gguf)?.strip_prefix(link.parent()?).ok()?.to_owned();
    if model.targets().any(|place| place.starts_with(link)) || looked.file.as_deref() == Some(link) {
        return None;
    }
    let inputs = vec![Input::Symlink { path: link.to_owned(), target }];
    Some(Planned {
        kind: LayerKind::Root,
        part: None,
        title: "model.file".to_owned(),
        why: "RamaLama looks for a model under this name; images that have the model in them do without".to_owned(),
        recipe: Recipe { format: FORMAT, inputs, perms: Vec::new() },
        built: None,
        digests: None,
    })
}
