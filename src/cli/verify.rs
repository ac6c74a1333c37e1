//! `windlass verify`

use std::path::PathBuf;

use anyhow::Result;
use rayon::prelude::*;
use serde::Serialize;

use super::failure::Unverified;
use super::printer::{Printer, count, size};
use super::session::Session;
use crate::image::LayerRecord;
use crate::layout::ImageDir;
use crate::stack::StackDir;

/// Check an image directory or a lean stack.
///
/// Index, manifests and configs are always compared with their digests. A layer is checked by names and sizes or, with
/// --full, by every byte of its blob or of the store paths it is made from.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An image directory or a lean stack.
    path: PathBuf,
    /// Read every byte.
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    images: usize,
    layers: usize,
    read: u64,
    problems: Vec<String>,
}

pub(super) fn run(args: &Args, printer: &Printer, session: &Session) -> Result<()> {
    let images: Vec<ImageDir> = if args.path.join("stack.json").is_file() {
        StackDir::open(&args.path)?.all().cloned().collect()
    } else {
        vec![ImageDir::open(&args.path)?]
    };
    let mut layers: Vec<(&ImageDir, &LayerRecord)> = Vec::new();
    for image in &images {
        for layer in image.summary().layers() {
            // A layer that several images have is made from the same paths: once is enough, unless it is a blob.
            let known = |(other, known): &(&ImageDir, &LayerRecord)| {
                known.digest == layer.digest && other.layer_blob(known).is_ok_and(|blob| blob.is_none())
            };
            if !layers.iter().any(known) {
                layers.push((image, layer));
            }
        }
    }
    let progress = session.progress();
    layers.iter().for_each(|(_, layer)| progress.expect(if args.full { layer.size } else { 0 }));
    let drawing = session.draw("verifying");
    let results: Vec<_> = layers
        .par_iter()
        .with_max_len(1)
        .map(|(image, layer)| image.verify_layer(layer, args.full, progress))
        .collect();
    drop(drawing);
    progress.check()?;
    let mut problems = Vec::new();
    for ((image, _), result) in layers.iter().zip(results) {
        if let Err(error) = result {
            problems.push(format!("{}: {error}", image.summary().reference));
        }
    }
    let report = Report { images: images.len(), layers: layers.len(), read: progress.read(), problems };
    if printer.json() {
        printer.value(&report)?;
    } else {
        report.problems.iter().try_for_each(|problem| printer.line(problem))?;
        printer.line(format!(
            "{}, {}: {}; read {}",
            count(report.images, "image"),
            count(report.layers, "layer"),
            if report.problems.is_empty() { "all good".to_owned() } else { count(report.problems.len(), "problem") },
            size(report.read)
        ))?;
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    Err(Unverified(format!("{} failed verification", count(report.problems.len(), "layer"))).into())
}
