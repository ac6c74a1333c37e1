//! The builder of the derivations in `nix/lib/`: no shell, no stdenv, this program alone.
//!
//! With structured attributes Nix (2.8 to 2.26 seen) names a JSON file in `NIX_ATTRS_JSON_FILE`. It holds the
//! derivation's attributes; `outputs.out` is where the result goes, and each key of `exportReferencesGraph` is replaced
//! by the closure of what it names. Nix itself throws away a failed output, so nothing is staged here.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::failure::Environment;
use super::printer::Printer;
use super::session::Session;
use crate::archive::Options;
use crate::blobs::Verify;
use crate::canonical;
use crate::closure::ClosureGraph;
use crate::spec::Spec;
use crate::store::StoreDir;

/// What a derivation asks for, in its attribute `windlass`.
#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Action {
    /// Write a spec as a file, so that Nix finds the references of everything it mentions.
    Spec { spec: Value },
    /// Build the spec in a file, under this tag.
    Build { spec_file: PathBuf, tag: Option<String>, store_dir: StoreDir },
    /// Export an image directory or a lean stack.
    Export { from: PathBuf, format: super::export::Format },
}

pub(super) fn run(printer: &Printer, session: &Session) -> Result<()> {
    let missing = |what: &str| {
        Environment(format!("{what}; `windlass nix-builder` is run by Nix, for derivations with __structuredAttrs"))
    };
    let file = std::env::var_os("NIX_ATTRS_JSON_FILE").ok_or_else(|| missing("NIX_ATTRS_JSON_FILE is not set"))?;
    let json = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let mut attributes: Value = serde_json::from_str(&json).with_context(|| file.display().to_string())?;
    let output = attributes["outputs"]["out"].as_str().ok_or_else(|| missing("the attributes have no outputs.out"))?;
    let output = PathBuf::from(output);
    let action: Action =
        serde_path_to_error::deserialize(attributes["windlass"].take()).context("attribute 'windlass'")?;
    let progress = session.progress();
    match action {
        Action::Spec { spec } => {
            Spec::from_value(spec.clone())?;
            fs::write(&output, canonical::to_pretty(&spec)).with_context(|| format!("write {}", output.display()))?;
        }
        Action::Build { spec_file, tag, store_dir } => {
            let json = fs::read_to_string(&spec_file).with_context(|| format!("read {}", spec_file.display()))?;
            let mut spec: Value = serde_json::from_str(&json).with_context(|| spec_file.display().to_string())?;
            if let Some(tag) = tag {
                spec["tag"] = Value::String(tag);
            }
            let spec = Spec::from_value(spec)?;
            let graph = ClosureGraph::from_value(&store_dir, &attributes["closure"])?;
            fs::create_dir(&output).with_context(|| format!("create {}", output.display()))?;
            super::build::write(&spec, &graph, false, &output, progress)?;
        }
        Action::Export { from, format } => {
            let without = crate::archive::Without::default();
            let options = Options { without: &without, verify: Verify::Auto, progress };
            super::export::write(&from, format, &output, options)?;
        }
    }
    printer.note(format!(
        "windlass: read {}, wrote {}",
        super::printer::size(progress.read()),
        super::printer::size(progress.written())
    ));
    Ok(())
}
