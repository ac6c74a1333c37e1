//! Whether a bundle has all that its images need: by names and sizes, or by every byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::check_archives::{ArchiveProblem, CheckedArchives, ExpectedLayers, sums};
use super::stack::StackDir;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::image::LayerRecord;
use crate::image::bundle::{BLOBS, SUMS};
use crate::image::layout::{ImageDir, LayoutError, Summary};
use crate::image::summary::{ExpectedImage, LayerPatch};
use crate::oci::digest::Digest;

/// Checks a bundle. Each layer is looked at once, and told with all images that have it.
///
/// # Errors
/// If `stack.json` cannot be read, or the job is told to stop; what is wrong with a file is no error.
pub(crate) fn check(bundle: &Path, full: bool, progress: &Progress) -> Result<CheckedArchives, LayoutError> {
    let mut problems = Vec::new();
    let problem = |images: Vec<String>, file: &Path, what: String| ArchiveProblem {
        images,
        layer: None,
        file: file.strip_prefix(bundle).unwrap_or(file).to_owned(),
        what,
    };
    let (stack, unreadable) = StackDir::open_readable(bundle)?;
    let mut images = unreadable.len();
    for image in &unreadable {
        let (file, what) = told(&image.error).unwrap_or((bundle, image.error.to_string()));
        problems.push(problem(vec![image.reference.to_string()], file, what));
    }
    let mut layers: BTreeMap<Digest, (&ImageDir, &LayerRecord, Vec<String>)> = BTreeMap::new();
    let mut expects = Vec::new();
    let mut patches: BTreeMap<Digest, (&ImageDir, &LayerPatch, Vec<String>)> = BTreeMap::new();
    for image in stack.all() {
        images += 1;
        expects.extend(expected(image.summary()));
        for patch in &image.summary().patches {
            let (_, _, names) = patches.entry(patch.digest).or_insert((image, patch, Vec::new()));
            names.push(image.summary().reference.to_string());
        }
        let without = |layer: &&LayerRecord| image.summary().leaves_out(layer);
        for layer in image.summary().layers().into_iter().filter(|layer| !without(layer)) {
            let (_, _, names) = layers.entry(layer.digest).or_insert((image, layer, Vec::new()));
            names.push(image.summary().reference.to_string());
        }
    }
    progress.expect(if full { layers.values().map(|(_, layer, _)| layer.size).sum() } else { 0 });
    let look = |(image, layer, names): &(&ImageDir, &LayerRecord, Vec<String>)| {
        let error = image.verify_layer(layer, full, progress).err()?;
        let blob = bundle.join(BLOBS).join(layer.digest.hex());
        let (file, what) = told(&error).unwrap_or((&blob, error.to_string()));
        Some(ArchiveProblem { layer: Some((layer.title.clone(), layer.digest)), ..problem(names.clone(), file, what) })
    };
    let all: Vec<_> = layers.values().collect();
    problems.extend(all.par_iter().with_max_len(1).filter_map(|layer| look(layer)).collect::<Vec<_>>());
    for (image, patch, names) in patches.values() {
        if let Err(error) = image.verify_patch(patch, full, progress) {
            let blob = bundle.join(BLOBS).join(patch.digest.hex());
            let (file, what) = told(&error).unwrap_or((&blob, error.to_string()));
            problems.push(problem(names.clone(), file, what));
        }
    }
    progress.check().map_err(|source| LayoutError::Read { path: bundle.to_owned(), source })?;
    match bounded::text(&bundle.join(SUMS), Cap::Document) {
        Ok(text) => {
            // What no image names of the blobs is small too: what a delta says to other tools.
            let is_layer = |path: &PathBuf| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let name = name.split('.').next().and_then(|name| Digest::from_hex(name).ok());
                name.is_none_or(|digest| layers.contains_key(&digest) || patches.contains_key(&digest))
            };
            let is_small = |path: &PathBuf| !path.starts_with(BLOBS) || (unreadable.is_empty() && !is_layer(path));
            for (path, digest) in sums(&text).into_iter().filter(|(path, _)| is_small(path)) {
                let is_told = |problem: &ArchiveProblem| problem.file == path;
                let what = match bounded::read(&bundle.join(&path), Cap::Document) {
                    Ok(bytes) if Digest::of(&bytes) == digest => continue,
                    Ok(_) => format!("does not have the sum that {SUMS} has"),
                    Err(error) => super::check_archives::unreadable(&error),
                };
                if !problems.iter().any(is_told) {
                    problems.push(problem(Vec::new(), &path, what));
                }
            }
        }
        Err(error) => problems.push(problem(Vec::new(), Path::new(SUMS), super::check_archives::unreadable(&error))),
    }
    Ok(CheckedArchives { images, layers: layers.len(), expects, problems })
}

/// What an image of a bundle is without, by who has it.
fn expected(summary: &Summary) -> Vec<ExpectedLayers> {
    let is_without = |layer: &LayerRecord| summary.leaves_out(layer) && summary.patch_of(layer).is_none();
    let left_out: Vec<&LayerRecord> = summary.layers().into_iter().filter(|layer| is_without(layer)).collect();
    let of = |old: Option<&ExpectedImage>, layers: Vec<&&LayerRecord>| ExpectedLayers {
        image: summary.reference.clone(),
        of: old.map(|old| old.reference.clone()),
        digest: old.map(|old| old.digest),
        layers: layers.len(),
        bytes: layers.iter().map(|layer| layer.size).sum(),
    };
    let has = |old: &ExpectedImage, layer: &LayerRecord| old.layers.contains(&layer.digest);
    let known = summary.expects.iter();
    let known = known.map(|old| of(Some(old), left_out.iter().filter(|layer| has(old, layer)).collect()));
    let rest = left_out.iter().filter(|layer| !summary.expects.iter().any(|old| has(old, layer)));
    let rest = of(None, rest.collect());
    known.chain([rest]).filter(|expected| expected.layers > 0).collect()
}

/// The file at fault, and what is wrong in words that go on from it.
fn told(error: &LayoutError) -> Option<(&Path, String)> {
    match error {
        LayoutError::Missing { path } => Some((path, "is not there".to_owned())),
        LayoutError::Damaged { path, found } => Some((path, format!("has other bytes: their digest is {found}"))),
        LayoutError::Truncated { path, expected, found } => {
            Some((path, format!("has {found} bytes instead of {expected}")))
        }
        LayoutError::Read { path, source } => Some((path, super::check_archives::unreadable(source))),
        LayoutError::Format { path, message } => Some((path, message.clone())),
        _ => None,
    }
}
