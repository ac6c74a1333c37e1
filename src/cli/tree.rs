//! A tree for a terminal: layers, the store paths in them, and the bytes of both.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use super::failure::Result;
use super::printer::{Printer, count, size};
use super::targets::{lean, targets};
use super::view::{SeenLayer, short};
use crate::image::LayerKind;
use crate::image::layout::ImageDir;
use crate::inventory::Inventory;
use crate::nix::closure::ClosureGraph;

/// Bytes of store paths, by their names with the hash.
#[derive(Debug, Default)]
pub(super) struct PathBytes(BTreeMap<String, u64>);

impl PathBytes {
    /// Those of what a path leads to; a stack of archives says nothing of them.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let Ok(targets) = targets(&[lean(path)], &[]) else { return Ok(Self::default()) };
        let images: Vec<&ImageDir> = targets.iter().map(|target| &target.image).collect();
        let inventory = Inventory::read(&images)?;
        let bytes = inventory.paths.iter().filter_map(|(name, path)| Some((base(name).to_owned(), path.nar_size?)));
        Ok(Self(bytes.collect()))
    }

    /// Those of a closure.
    pub(super) fn of(graph: &ClosureGraph) -> Self {
        Self(graph.iter().map(|info| (info.path.base_name().to_owned(), info.nar_size)).collect())
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Prints the layers of an image from the bottom up, each with its store paths, the largest first.
pub(super) fn print(layers: &[SeenLayer], bytes: &PathBytes, printer: &Printer) -> Result<()> {
    for (n, layer) in layers.iter().enumerate() {
        let (branch, trunk) = if n + 1 < layers.len() { ("├─", "│ ") } else { ("└─", "  ") };
        let mut paths: Vec<(Option<u64>, &str)> =
            layer.owners.iter().map(|owner| (bytes.0.get(base(owner)).copied(), owner.as_str())).collect();
        paths.sort_by_key(|(bytes, owner)| (Reverse(*bytes), short(owner)));
        // Links to store paths take none of their bytes.
        let linked = layer.kind == LayerKind::Root;
        let number = if paths.is_empty() { String::new() } else { format!(", {}", count(paths.len(), "path")) };
        printer.line(format!("  {branch} {:>9}  {}: {}{number}", size(layer.size), layer.kind.word(), layer.title))?;
        for (n, (bytes, owner)) in paths.iter().enumerate() {
            let leaf = if n + 1 < paths.len() { "├─" } else { "└─" };
            let bytes = bytes.filter(|_| !linked).map_or_else(String::new, size);
            printer.line(format!("  {trunk}  {leaf} {bytes:>9}  {}", short(owner)))?;
        }
    }
    Ok(())
}
