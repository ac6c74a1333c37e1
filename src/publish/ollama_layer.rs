//! Ollama's directory as a layer: kilobytes, whatever the models weigh.
//!
//! The blobs of the weights are symbolic links to where the models lie in the image, in layers of their own at the bottom.
//! Ollama follows links wherever it reads a blob. So one copy of the weights serves every program of the image, and of all
//! images that have the same models.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::progress::Progress;
use crate::image::layout::ImageDir;
use crate::image::{BuiltLayer, LayerKind, LayerRecord};
use crate::layer::{FORMAT, Input, Mode, Recipe, digest_of};
use crate::model::forms::ollama::{OllamaError, OllamaSpec, blob_path, ollama};
use crate::publish::model_dir::{FormError, described};

/// The layer of a spec.
///
/// # Errors
/// If a model cannot be read, or Ollama would not take it.
pub(crate) fn layer(spec: &OllamaSpec, progress: &Progress) -> Result<BuiltLayer, FormError> {
    let mut names = BTreeSet::new();
    // By place: models share the blobs that they have in common.
    let mut inputs = BTreeMap::new();
    for entry in &spec.models {
        let (model, places) = described(&ImageDir::open(&entry.model)?)?;
        let made = ollama(&model, &entry.options)?;
        let text = |path: &str, text: &str| {
            let path = spec.directory.join(path);
            (path.clone(), Input::Text { path, text: text.to_owned(), mode: Mode(0o644) })
        };
        inputs.extend(made.texts.iter().map(|(digest, blob)| text(&blob_path(*digest), blob)));
        inputs.extend([text(&made.name.path(), &made.manifest)]);
        inputs.extend(made.weights.iter().map(|file| {
            let path = spec.directory.join(blob_path(file.sha256));
            (path.clone(), Input::Symlink { path, target: places[&file.sha256].clone() })
        }));
        if !names.insert(made.name.clone()) {
            return Err(OllamaError::Twice(made.name).into());
        }
    }
    let recipe = Recipe { format: FORMAT, inputs: inputs.into_values().collect(), perms: Vec::new() };
    let hashed = digest_of(&recipe, None, progress)?;
    let record = LayerRecord {
        digest: hashed.digest,
        size: hashed.size,
        packed: None,
        part: None,
        kind: LayerKind::Root,
        title: format!("{} for Ollama", names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        why: format!(
            "what OLLAMA_MODELS={} leads to; the weights are links to the models' own layers",
            spec.directory.display()
        ),
        owners: Vec::new(),
    };
    Ok(BuiltLayer::before(record, recipe, Some(hashed.noted.checksums)))
}
