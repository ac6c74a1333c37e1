//! Where the closure graph comes from: a file, or `nix path-info`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::failure::Environment;
use crate::closure::ClosureGraph;
use crate::spec::{ImageSpec, Spec};
use crate::store::{StoreDir, StorePath};

/// The graph that a spec needs; empty where it names no store path.
pub(super) fn graph(spec: &Spec, file: Option<&Path>) -> Result<ClosureGraph> {
    let mut roots: BTreeSet<StorePath> = BTreeSet::new();
    let mut store = StoreDir::default();
    let mut image = |image: &ImageSpec| {
        roots.extend(image.roots().into_iter().map(|(path, _)| path));
        store = image.store_dir.clone();
    };
    match spec {
        Spec::Image(spec) => image(spec),
        Spec::Stack(stack) => stack.images.iter().for_each(image),
        Spec::Layer(layer) => {
            store = layer.store_dir.clone();
            roots.extend(layer.content.roots(&store).into_iter().map(|(path, _)| path));
        }
        // They need no closure; one that is given must be readable all the same.
        Spec::Model(model) => store = model.store_dir.clone(),
        Spec::Index(_) => {}
    }
    if let Some(file) = file {
        let json = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        return ClosureGraph::parse(&store, &json).with_context(|| file.display().to_string());
    }
    if roots.is_empty() {
        return Ok(ClosureGraph::default());
    }
    ask_nix(&store, &roots)
}

fn ask_nix(store: &StoreDir, roots: &BTreeSet<StorePath>) -> Result<ClosureGraph> {
    let first = roots.first().map(|path| store.display(path)).unwrap_or_default();
    let output = Command::new("nix")
        .args(["--extra-experimental-features", "nix-command", "--offline", "path-info", "--json", "--recursive", "--"])
        .args(roots.iter().map(|path| store.display(path)))
        .output()
        .map_err(|error| {
            let why = format!("the references of {first} are needed, and `nix` cannot be asked ({error})");
            Environment(format!("{why}; install Nix, or give them with --closure FILE"))
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ");
        anyhow::bail!("`nix path-info` does not know the closure of {first}: {said}");
    }
    let json = String::from_utf8(output.stdout).context("`nix path-info` printed something that is not UTF-8")?;
    ClosureGraph::parse(store, &json).context("`nix path-info`")
}
