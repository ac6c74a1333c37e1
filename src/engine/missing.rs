//! What a bundle leaves out, because an image has it that is expected to be here, and is not.

use super::kind::EngineKind;
use crate::class::{Class, Classified};
use crate::image::LayerRecord;
use crate::image::summary::ExpectedImage;
use crate::oci::reference::Reference;

/// An image cannot be loaded without layers that its bundle leaves out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference} was exported without {}{}", listed(.layers), lacked(*.engine, .expects))]
pub(crate) struct MissingBase {
    /// Who lacks it.
    pub(crate) engine: EngineKind,
    pub(crate) reference: Reference,
    /// What is missing.
    pub(crate) layers: Vec<LayerRecord>,
    /// The images that have it.
    pub(crate) expects: Vec<ExpectedImage>,
}

fn listed(layers: &[LayerRecord]) -> String {
    let each = |layer: &LayerRecord| format!("layer {} ({})", layer.title, layer.digest.short());
    layers.iter().map(each).collect::<Vec<_>>().join(" and ")
}

fn lacked(engine: EngineKind, expects: &[ExpectedImage]) -> String {
    let each = |old: &ExpectedImage| format!("{} ({})", old.reference, old.digest);
    match expects {
        [] => format!(", and {engine} does not have it; nothing of the image was written"),
        _ => {
            let all = expects.iter().map(each).collect::<Vec<_>>().join(" and ");
            format!(", which it expects of {all}, and {engine} does not have it; nothing of the image was written")
        }
    }
}

impl Classified for MissingBase {
    fn class(&self) -> Class {
        Class::Environment
    }

    fn hint(&self) -> Option<String> {
        let Some(old) = self.expects.first() else {
            return Some(
                "load the bundle that has it first, as `windlass export --only-models` makes one of models".to_owned(),
            );
        };
        let old = &old.reference;
        Some(format!("load {old} first, or a bundle that `windlass export` makes without --since"))
    }
}
