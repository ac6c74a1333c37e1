//! Where the closure graph comes from: a file, or `nix path-info`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::failure::{Context, Result, environment, failed, usage};
use crate::disk::bounded::{self, Cap};
use crate::nix::closure::ClosureGraph;
use crate::nix::store_path::{StoreDir, StorePath};
use crate::spec::content::StoreRoot;
use crate::spec::{ImageSpec, Spec};

/// The graph that a spec needs; empty where it names no store path.
pub(super) fn graph(spec: &Spec, file: Option<&Path>) -> Result<ClosureGraph> {
    let (store, roots) = match spec {
        Spec::Image(image) => (image.store_dir.clone(), image.roots()),
        Spec::Stack(stack) => {
            let store = stack.images.first().map(|image| image.store_dir.clone()).unwrap_or_default();
            (store, stack.images.iter().flat_map(ImageSpec::roots).collect())
        }
        Spec::Layer(layer) => (layer.store_dir.clone(), layer.content.roots(&layer.store_dir)),
        Spec::Model(_) | Spec::Upstream(_) | Spec::Oci(_) | Spec::Index(_) | Spec::Ollama(_) => {
            return Ok(ClosureGraph::default());
        }
    };
    if let Some(file) = file {
        let json = bounded::text(file, Cap::Document).with_context(|| format!("read {}", file.display()))?;
        let graph = ClosureGraph::parse(&store, &json).with_context(|| file.display().to_string())?;
        let has = |root: &&StoreRoot| graph.iter().any(|info| info.path.hash_part() == root.path().hash_part());
        if let Some(root) = roots.iter().find(|root| !has(root)) {
            let missing = store.display(root.path());
            return Err(usage(format!("{} does not have {missing}, which the spec names", file.display())));
        }
        return Ok(graph);
    }
    if roots.is_empty() {
        return Ok(ClosureGraph::default());
    }
    let roots: BTreeSet<StorePath> = roots.iter().map(|root| on_disk(&store, root)).collect();
    ask_nix(&store, &roots)
}

/// A path that a text mentions may have taken the full stop after it as part of its name.
fn on_disk(store: &StoreDir, root: &StoreRoot) -> StorePath {
    let path = root.path();
    let exists = |path: &StorePath| Path::new(&store.display(path)).symlink_metadata().is_ok();
    let shorter = StorePath::from_base_name(path.base_name().trim_end_matches(['.', '?']));
    match (root, shorter) {
        (StoreRoot::Mentioned(_), Ok(shorter)) if !exists(path) && exists(&shorter) => shorter,
        _ => path.clone(),
    }
}

fn ask_nix(store: &StoreDir, roots: &BTreeSet<StorePath>) -> Result<ClosureGraph> {
    let first = roots.first().map(|path| store.display(path)).unwrap_or_default();
    let output = Command::new("nix")
        .args(["--extra-experimental-features", "nix-command", "--offline", "path-info", "--json", "--recursive", "--"])
        .args(roots.iter().map(|path| store.display(path)))
        .output()
        .map_err(|error| {
            let why = format!("the references of {first} are needed, and `nix` cannot be asked ({error})");
            environment(format!("{why}; install Nix, or give them with --closure FILE"))
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ");
        return Err(failed(format!("`nix path-info` does not know the closure of {first}: {said}")));
    }
    let json = String::from_utf8(output.stdout).context("`nix path-info` printed something that is not UTF-8")?;
    ClosureGraph::parse(store, &json).context("`nix path-info`")
}
