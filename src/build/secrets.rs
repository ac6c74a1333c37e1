//! What looks like a secret in what is built: all of it in one report, before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::BuildError;
use super::models::{self, BuiltModel};
use crate::image::{BuiltLayer, LayerKind};
use crate::layer::{self, Recipe, Survey};
use crate::names::Name;
use crate::nix::closure::ClosureGraph;
use crate::plan::{ImagePlan, Planned};
use crate::secrets::values::{in_arguments, in_value, token};
use crate::secrets::{SecretFinding, Verdict};
use crate::spec::config::ImageConfig;
use crate::spec::service::ServiceConfig;
use crate::spec::{ImageSpec, LayerSpec, ModelSource, ModelSpec};

/// What was found out about layers before they are made.
pub(crate) type Surveys = BTreeMap<Recipe, Survey>;

/// The error, unless there is nothing.
pub(super) fn pass(verdict: Verdict) -> Result<(), BuildError> {
    if verdict.is_good() { Ok(()) } else { Err(BuildError::Secrets(verdict)) }
}

/// The report of an image whose layers were made: those of models have a report of their own.
pub(super) fn of_image(plan: &ImagePlan, made: &BTreeMap<Recipe, BuiltLayer>) -> Verdict {
    let own = plan.layers.iter().filter(|planned| planned.kind != LayerKind::Model);
    let found = own.flat_map(|planned| made[&planned.recipe].secrets.iter().map(|finding| (&*planned.title, finding)));
    image(&plan.spec, found)
}

/// The report of layers that are built by themselves.
pub(super) fn of_layers(spec: &LayerSpec, planned: &[Planned], made: &BTreeMap<Recipe, BuiltLayer>) -> Verdict {
    let found = planned
        .iter()
        .flat_map(|planned| made[&planned.recipe].secrets.iter().map(|finding| (Some(&*planned.title), finding)));
    Verdict::of(&format!("layer '{}'", spec.name), &spec.allow_secrets, &found.collect::<Vec<_>>())
}

/// The report of a model.
pub(super) fn of_model(spec: &ModelSpec, layers: &[BuiltLayer]) -> Verdict {
    let found =
        layers.iter().flat_map(|layer| layer.secrets.iter().map(|finding| (Some(&*layer.record.title), finding)));
    model(spec, &found.collect::<Vec<_>>())
}

/// The report of all models that were built now.
pub(super) fn of_models(models: &BTreeMap<Name, BuiltModel>) -> Verdict {
    let mut verdict = Verdict::default();
    models.values().for_each(|model| verdict.extend(model.verdict.clone()));
    verdict
}

/// What the environment of containers should not have. It is a warning as in the modules: services have no list of what is
/// allowed, and nothing of them is in an image.
pub(super) fn of_services(services: &BTreeMap<String, ServiceConfig>) -> Vec<String> {
    let of = |(name, service): (&String, &ServiceConfig)| {
        let found = service.environment.iter().filter_map(|(key, value)| Some((key, in_value(key, value)?)));
        let said = |(key, reason)| {
            format!(
                "services.{name}.environment: {key} {reason}, and everybody on this host can read it in services.json: put it in a \
                 file, and name that in 'secrets' or 'environmentFiles'"
            )
        };
        found.map(said).collect::<Vec<_>>()
    };
    services.iter().flat_map(of).collect()
}

/// Looks at all layers of these plans that are not built, each once and several at a time, before anything is made.
///
/// # Errors
/// If one cannot be read.
pub(crate) fn survey(plans: &[ImagePlan]) -> Result<Surveys, BuildError> {
    let layers = plans.iter().flat_map(|plan| &plan.layers).filter(|planned| planned.built.is_none());
    let recipes: BTreeMap<&Recipe, &Planned> = layers.map(|planned| (&planned.recipe, planned)).collect();
    let look = |(recipe, planned): (&Recipe, &Planned)| {
        let failed = |source| BuildError::Layer { title: planned.title.clone(), source };
        Ok((recipe.clone(), layer::survey(recipe).map_err(failed)?))
    };
    recipes.into_iter().par_bridge().map(look).collect()
}

/// The same report before anything is built, for which no more than the first bytes of files is read.
///
/// # Errors
/// See [`BuildError`].
pub(crate) fn foreseen<'a>(
    plans: &[ImagePlan],
    sources: impl IntoIterator<Item = &'a ModelSource>,
    surveys: &Surveys,
    graph: &ClosureGraph,
) -> Result<Verdict, BuildError> {
    let mut verdict = Verdict::default();
    let mut told = BTreeSet::new();
    let look = |planned: &Planned| match (&planned.built, surveys.get(&planned.recipe)) {
        (Some(_), _) => Ok(Vec::new()),
        (None, Some(survey)) => Ok(survey.secrets.clone()),
        (None, None) => {
            layer::secrets(&planned.recipe).map_err(|source| BuildError::Layer { title: planned.title.clone(), source })
        }
    };
    for spec in sources.into_iter().filter_map(|source| source.spec.as_ref()).filter(|spec| told.insert(&spec.name)) {
        let layers = models::new(spec, graph)?.layers;
        let found: Vec<Vec<SecretFinding>> = layers.iter().map(look).collect::<Result<_, _>>()?;
        let found = layers.iter().zip(&found);
        let found = found.flat_map(|(layer, found)| found.iter().map(|finding| (Some(&*layer.title), finding)));
        verdict.extend(model(spec, &found.collect::<Vec<_>>()));
    }
    for plan in plans {
        let own: Vec<&Planned> = plan.layers.iter().filter(|planned| planned.kind != LayerKind::Model).collect();
        let found: Vec<Vec<SecretFinding>> = own.iter().map(|planned| look(planned)).collect::<Result<_, _>>()?;
        let found = own.iter().zip(&found);
        let found = found.flat_map(|(planned, found)| found.iter().map(|finding| (&*planned.title, finding)));
        verdict.extend(image(&plan.spec, found));
    }
    Ok(verdict)
}

fn model(spec: &ModelSpec, found: &[(Option<&str>, &SecretFinding)]) -> Verdict {
    let annotations: Vec<SecretFinding> = spec.annotations.iter().filter_map(|(key, value)| text(key, value)).collect();
    let all: Vec<_> = found.iter().copied().chain(annotations.iter().map(|finding| (None, finding))).collect();
    Verdict::of(&format!("model '{}'", spec.name), &spec.allow_secrets, &all)
}

fn image<'a>(spec: &'a ImageSpec, in_layers: impl Iterator<Item = (&'a str, &'a SecretFinding)>) -> Verdict {
    let mut values = in_config(&spec.config);
    values.extend(spec.annotations.iter().filter_map(|(key, value)| text(key, value)));
    let all = in_layers.map(|(title, finding)| (Some(title), finding));
    let all: Vec<_> = all.chain(values.iter().map(|finding| (None, finding))).collect();
    Verdict::of(&format!("image '{}'", spec.name), &spec.allow_secrets, &all)
}

/// Variables, commands and labels. What an image inherits is not looked at: its maker has published it.
fn in_config(config: &ImageConfig) -> Vec<SecretFinding> {
    let variable = |entry: &String| {
        let (name, value) = entry.split_once('=')?;
        Some(finding(name, format!("in the environment {}", in_value(name, value)?)))
    };
    let mut found: Vec<SecretFinding> = config.env.iter().filter_map(variable).collect();
    for (key, arguments) in [("Entrypoint", &config.entrypoint), ("Cmd", &config.cmd)] {
        let shape = arguments.iter().find_map(|argument| token(argument.as_bytes()));
        let reason = shape.map(|what| format!("has {what} in it"));
        let given = || Some(format!("gives a secret by {}", in_arguments(arguments)?));
        found.extend(reason.or_else(given).map(|reason| finding(key, reason)));
    }
    found.extend(config.labels.iter().filter_map(|(key, value)| text(key, value)));
    found
}

/// A label or an annotation: these have names of their own kind, so only the shape of a token counts.
fn text(key: &str, value: &str) -> Option<SecretFinding> {
    token(value.as_bytes()).map(|what| finding(key, format!("has {what} in it")))
}

fn finding(place: &str, reason: String) -> SecretFinding {
    SecretFinding { place: place.to_owned(), source: None, reason }
}
