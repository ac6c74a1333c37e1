//! Models in a plan: the layers of each, their order below everything else, and what costs more than it need.
//!
//! A model is one layer, unless its spec asks for one for each file of weights ([`Layering::Files`]). Then all that
//! describes it (the first shard of a metadata-first split, `config.json`) is a layer above, so that a new chat template
//! is a layer of megabytes. In an image the weights of all models come first, the largest model lowest, and then what
//! describes them: no layer of weights has anything below it but other weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Planned;
use crate::image::{BuiltLayer, LayerKind, ModelPart};
use crate::layer::{FORMAT, Input, LayerError, Recipe, measure};
use crate::model::read::named::is_only_weights;
use crate::names::Name;
use crate::spec::{Layering, ModelSpec};

/// A model, ready to be put under images.
#[derive(Debug, Clone)]
pub(crate) struct PlannedModel {
    pub(crate) name: Name,
    /// Bytes of the layers with its weights.
    pub(crate) weights: u64,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<Planned>,
}

impl PlannedModel {
    /// A model that is not built yet; [`measure`](Self::measure) gives its size.
    #[must_use]
    pub(crate) fn new(spec: &ModelSpec, inputs: Vec<Input>) -> Self {
        let name = &spec.name;
        let parts = match spec.layers {
            Layering::One => vec![(false, inputs)],
            Layering::Files => divide(inputs),
        };
        let is_whole = parts.len() == 1;
        // Parts of a pipeline have files of one name, each in its folder.
        let names: Vec<String> =
            parts.iter().filter(|(weights, _)| *weights).map(|(_, inputs)| title(inputs)).collect();
        let is_only = |name: &String| names.iter().filter(|other| *other == name).count() < 2;
        let title = |inputs: &[Input]| {
            let below = |place: &Path| Some(place.strip_prefix(&spec.mount_path).ok()?.to_string_lossy().into_owned());
            let whole = || inputs.iter().filter_map(target).next().and_then(below);
            Some(title(inputs)).filter(is_only).or_else(whole).unwrap_or_else(|| title(inputs))
        };
        let layer = |(weights, inputs): (bool, Vec<Input>)| {
            let (title, why) = match (is_whole, weights) {
                (true, _) => (name.to_string(), "a model lies at the bottom, where nothing can change its chain"),
                (_, true) => (title(&inputs), "weights lie at the bottom, where nothing can change their chain"),
                (_, false) => (
                    format!("{name} metadata"),
                    "what describes a model changes more easily than weights do, so it lies above all of them",
                ),
            };
            Planned {
                kind: LayerKind::Model,
                part: (!is_whole).then(|| ModelPart { model: name.clone(), weights }),
                title,
                why: why.to_owned(),
                recipe: Recipe { format: FORMAT, inputs, perms: Vec::new() },
                built: None,
                digests: Some(spec.known()),
            }
        };
        Self { name: name.clone(), weights: 0, layers: parts.into_iter().map(layer).collect() }
    }

    /// A model that exists, with its layers, bottom first.
    #[must_use]
    pub(crate) fn of_layers(name: Name, layers: Vec<BuiltLayer>) -> Self {
        let weights = layers.iter().filter(|layer| layer.record.is_weights()).map(|layer| layer.record.size).sum();
        Self { name, weights, layers: layers.into_iter().map(Planned::from_layer).collect() }
    }

    /// Finds out how large its weights are, from names and sizes alone.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub(crate) fn measure(&mut self) -> Result<(), LayerError> {
        let weights = self.layers.iter().filter(|layer| layer.is_weights());
        self.weights = weights.map(|layer| measure(&layer.recipe)).sum::<Result<_, _>>()?;
        Ok(())
    }

    /// The places in an image that it puts something at.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &PathBuf> {
        self.layers.iter().flat_map(|layer| layer.recipe.targets())
    }
}

/// Each file that holds tensors, by name, and all else together.
fn divide(inputs: Vec<Input>) -> Vec<(bool, Vec<Input>)> {
    let (mut weights, rest): (Vec<Input>, Vec<Input>) = inputs
        .into_iter()
        .partition(|input| target(input).is_some_and(|place| is_only_weights(&place.to_string_lossy())));
    weights.sort_by(|a, b| target(a).cmp(&target(b)));
    let mut parts: Vec<_> = weights.into_iter().map(|input| (true, vec![input])).collect();
    if !rest.is_empty() {
        parts.push((false, rest));
    }
    parts
}

fn target(input: &Input) -> Option<&Path> {
    match input {
        Input::Copy { target, .. } => Some(target),
        _ => None,
    }
}

fn title(inputs: &[Input]) -> String {
    let name = inputs.iter().filter_map(target).next().and_then(Path::file_name);
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// Puts models in the order in which their weights lie: the largest lowest, ties by name, each once.
pub(super) fn sort(models: &mut Vec<PlannedModel>) {
    models.sort_by(|a, b| b.weights.cmp(&a.weights).then_with(|| a.name.cmp(&b.name)));
    models.dedup_by(|a, b| a.name == b.name);
}

/// The layers of an image's models, bottom first: all weights, then all else.
pub(super) fn stacked(models: Vec<PlannedModel>) -> Vec<Planned> {
    let layers = models.into_iter().flat_map(|model| model.layers);
    let (mut layers, rest): (Vec<Planned>, Vec<Planned>) = layers.partition(Planned::is_weights);
    layers.extend(rest);
    layers
}

/// Two models where one puts something at or below a place of the other.
pub(super) fn collision(models: &[PlannedModel]) -> Option<(String, String, PathBuf)> {
    for (n, one) in models.iter().enumerate() {
        for two in &models[n + 1..] {
            for (a, b) in one.targets().flat_map(|a| two.targets().map(move |b| (a, b))) {
                if a.starts_with(b) || b.starts_with(a) {
                    return Some((one.name.to_string(), two.name.to_string(), a.max(b).clone()));
                }
            }
        }
    }
    None
}

/// What costs more than it need: weights that lie on different chains in different images are stored once for each
/// chain, because only a common beginning is shared. Each image with its models and the bytes of their weights, lowest
/// first.
#[must_use]
pub(crate) fn warnings<'a>(images: impl IntoIterator<Item = (&'a str, Vec<(&'a str, u64)>)>) -> Vec<String> {
    let mut seen: BTreeMap<&str, Vec<(Vec<&str>, &str)>> = BTreeMap::new();
    let mut warnings = Vec::new();
    for (image, models) in images {
        for (n, (model, size)) in models.iter().enumerate() {
            let below: Vec<&str> = models[..n].iter().map(|(name, _)| *name).collect();
            let chains = seen.entry(model).or_default();
            if !chains.iter().any(|(other, _)| *other == below) {
                if let Some((_, first)) = chains.first() {
                    warnings.push(format!(
                        "model '{model}' lies on other models in image '{image}' than in image '{first}': Podman stores its {size} bytes once more; give both images the same models, or deliver it as a mount"
                    ));
                }
                chains.push((below, image));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_on_another_chain_is_warned_of() {
        let images = [("a", vec![("big", 9), ("small", 1)]), ("b", vec![("big", 9)]), ("c", vec![("small", 1)])];
        let warnings = warnings(images);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with(
            "model 'small' lies on other models in image 'c' than in image 'a': Podman stores its 1 bytes"
        ));
    }

    fn model(name: &str, layering: &str, files: &[&str], weights: u64) -> PlannedModel {
        let files: BTreeMap<&str, String> = files.iter().map(|file| (*file, format!("/srv/{file}"))).collect();
        let mount = format!("/models/{name}");
        let spec = serde_json::json!({ "name": name, "files": files, "mountPath": mount, "layers": layering });
        let spec: ModelSpec = serde_json::from_value(spec).unwrap();
        PlannedModel { weights, ..PlannedModel::new(&spec, spec.inputs(None)) }
    }

    fn titles(layers: &[Planned]) -> Vec<&str> {
        layers.iter().map(|layer| layer.title.as_str()).collect()
    }

    const SHARDS: [&str; 3] = ["s-00001-of-00003.gguf", "s-00002-of-00003.gguf", "s-00003-of-00003.gguf"];

    #[test]
    fn files_of_weights_lie_below_what_describes_them() {
        assert_eq!(titles(&model("s", "one", &SHARDS, 0).layers), ["s"]);
        let split = model("s", "files", &SHARDS, 0);
        assert_eq!(titles(&split.layers), [SHARDS[1], SHARDS[2], "s metadata"]);
        assert_eq!(split.layers.iter().map(Planned::is_weights).collect::<Vec<_>>(), [true, true, false]);
        let tensors = model("h", "files", &["config.json", "model.safetensors", "tokenizer.json"], 0);
        assert_eq!(titles(&tensors.layers), ["model.safetensors", "h metadata"]);
        // One layer is the whole model, whatever was asked for.
        for files in [&["m.gguf"][..], &["README.md"]] {
            let [asked, plain] = ["files", "one"].map(|layering| model("m", layering, files, 0).layers.remove(0));
            assert_eq!((&asked.recipe, &asked.title, &asked.part), (&plain.recipe, &plain.title, &None));
        }
    }

    #[test]
    fn all_weights_lie_below_all_else() {
        let mut models = vec![
            model("one", "one", &["one.gguf"], 7),
            model("small", "files", &["a.safetensors", "config.json"], 5),
            model("s", "files", &SHARDS, 9),
        ];
        sort(&mut models);
        let stacked = stacked(models);
        assert_eq!(titles(&stacked), [SHARDS[1], SHARDS[2], "one", "a.safetensors", "s metadata", "small metadata"]);
    }
}
