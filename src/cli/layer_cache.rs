//! `windlass export --format erofs-cache`: layers as file systems that containerd mounts.

use std::collections::BTreeSet;
use std::path::Path;

use super::export::{ExportArgs, ExportReport, check_space, parse_without};
use super::failure::{Result, usage};
use super::printer::{Printer, count};
use super::push::Packing;
use super::session::Session;
use super::targets::lean;
use crate::build::stack::StackDir;
use crate::disk::files::parent_of;
use crate::disk::progress::Progress;
use crate::image::LayerRecord;
use crate::image::archive::Without;
use crate::image::erofs_cache::{has_layer, write_layer};
use crate::image::layout::ImageDir;
use crate::layer::output::Verify;
use crate::oci::digest::Digest;

/// What a cache has of the layers of some images.
struct CachePlan<'i> {
    missing: Vec<(&'i ImageDir, &'i LayerRecord)>,
    present: BTreeSet<Digest>,
}

impl<'i> CachePlan<'i> {
    /// Looks into the cache; what is there is written again with `rewrites`.
    fn new(images: &'i [ImageDir], cache: &Path, without: &Without, rewrites: bool) -> Result<Self> {
        let (mut seen, mut plan) = (BTreeSet::new(), Self { missing: Vec::new(), present: BTreeSet::new() });
        for image in images {
            for layer in image.summary().layers().into_iter().filter(|layer| !without.leaves_out(layer)) {
                if !seen.insert(layer.diff_id()) {
                    continue;
                }
                if !rewrites && has_layer(cache, layer.diff_id())? {
                    plan.present.insert(layer.diff_id());
                } else {
                    plan.missing.push((image, layer));
                }
            }
        }
        Ok(plan)
    }

    fn payload(&self) -> u64 {
        self.missing.iter().map(|(_, layer)| layer.diff_size()).sum()
    }

    /// Each layer that is missing appears whole, one after the other.
    fn write(&self, cache: &Path, verify: Verify, progress: &Progress) -> Result<()> {
        for layer in &self.missing {
            write_layer(*layer, cache, verify, progress)?;
        }
        Ok(())
    }
}

pub(super) fn run(args: &ExportArgs, cache: &Path, printer: &Printer, session: &Session) -> Result<()> {
    if args.compression != Packing::None {
        return Err(usage(
            "--compression is for archives; a layer cache has file systems that are mounted as they are",
        ));
    }
    if cache.exists() && !cache.is_dir() {
        let message = format!("{} is no directory, and a layer cache is one; give another --output", cache.display());
        return Err(usage(message));
    }
    let mut images = Vec::new();
    for from in &args.from {
        let from = lean(from);
        if from.join("stack.json").is_file() {
            images.extend(StackDir::open(&from)?.all().cloned());
        } else {
            images.push(ImageDir::open(&from)?);
        }
    }
    let mut without = Without::default();
    if !args.without.is_empty() {
        let [image] = &images[..] else {
            return Err(usage("--without is for one image; the cache of several has the layers of all"));
        };
        without = parse_without(image, &args.without)?;
    }
    let plan = CachePlan::new(&images, cache, &without, args.verify.is_always())?;
    let parent = if cache.is_dir() { cache.to_owned() } else { parent_of(cache) };
    let wanted: Vec<_> = images.iter().map(|image| (image.clone(), without.clone())).collect();
    check_space(&wanted, plan.payload(), (cache, &parent))?;
    let progress = session.progress();
    progress.expect(plan.payload());
    let drawing = session.draw("exporting");
    plan.write(cache, args.verify.of(images.iter()), progress)?;
    drop(drawing);

    let (made, present) = (plan.missing.len(), plan.present.len());
    let report = ExportReport::new(cache, &wanted, progress).with_present(plan.present);
    if printer.json() {
        return printer.value(&report);
    }
    report.print_left_out(printer)?;
    printer.line(format!("{} written, {present} present", count(made, "layer")))?;
    report.print(printer)
}
