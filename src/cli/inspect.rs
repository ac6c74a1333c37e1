//! `windlass inspect`

use std::path::PathBuf;

use serde::Serialize;

use super::failure::Result;
use super::printer::{Printer, count, size};
use super::tree::{self, PathBytes};
use super::view::{self, ViewedImage};
use crate::layer::LayerFile;

/// Show what an image directory or a stack holds.
///
/// For each image its reference and digests, and a table of its layers, bottom first, with their sizes, what each is
/// for, the store paths it comes from, and whether its bytes are on disk (blob) or described (recipe). For a model also what
/// its files say of themselves, and the digest of each.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// An image directory, a lean stack, or a stack of archives.
    path: PathBuf,
    /// List every store path of every layer.
    #[arg(long)]
    owners: bool,
    /// Draw the layers as a tree, each with its store paths and their bytes.
    #[arg(long, conflicts_with = "owners")]
    tree: bool,
}

/// What a path holds, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct InspectReport {
    images: Vec<ViewedImage>,
}

pub(super) fn run(args: &InspectArgs, printer: &Printer) -> Result<()> {
    let images = view::look(&args.path)?;
    if printer.json() {
        return printer.value(&InspectReport { images });
    }
    let bytes = if args.tree { PathBytes::at(&args.path)? } else { PathBytes::default() };
    for image in &images {
        if args.tree {
            printer.line(format!("{}  {}, {}", image.reference, image.platform, size(image.size)))?;
            tree::print(&image.layers, &bytes, printer)?;
        } else {
            show(image, args.owners, printer)?;
        }
        printer.line("")?;
    }
    let layers: usize = images.iter().map(|image| image.layers.len()).sum();
    let bytes = images.iter().map(|image| image.size).sum();
    printer.line(format!("{}, {}, {}", count(images.len(), "image"), count(layers, "layer"), size(bytes)))
}

fn show(image: &ViewedImage, all: bool, printer: &Printer) -> Result<()> {
    printer.line(format!("{}  {}", image.reference, image.platform))?;
    printer.line(format!("  manifest  {}", image.digest))?;
    printer.line(format!("  config    {}", image.config_digest))?;
    if let Some(model) = &image.model {
        if let Some(facts) = &model.facts {
            printer.line(format!("  model     {}", view::in_words(facts).join(", ")))?;
        }
        for LayerFile { path, size: bytes, sha256 } in &model.files {
            printer.line(format!("  file      {sha256}  {:>9}  {}", size(*bytes), path.display()))?;
        }
    }
    let mut rows = vec![["  ", "kind", "size", "layer", "on disk", "from"].map(str::to_owned).to_vec()];
    for (n, layer) in image.layers.iter().enumerate() {
        let mut names = view::owners(layer, all).into_iter();
        rows.push(vec![
            format!("  {}", n + 1),
            layer.kind.word().to_owned(),
            size(layer.size),
            layer.digest.map(|digest| digest.short()).unwrap_or_default(),
            layer.on_disk.unwrap_or("-").to_owned(),
            names.next().unwrap_or_else(|| layer.title.clone()),
        ]);
        let blank = || vec![String::new(); 5];
        rows.extend(names.map(|name| [blank(), vec![name]].concat()));
    }
    printer.table(&rows)
}
