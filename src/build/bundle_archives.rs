//! Bundles of archives: one for each image and model, which tools load that know nothing of windlass.
//!
//! ```text
//! bundle/
//!   images/<name>.tar      each image, with all that is not left out of it
//!   models/<name>.tar      each model
//!   stack.json             what is in them, with the size of each and the layers that it is without
//!   services.json          as in a stack
//!   README.txt  SHA256SUMS
//! ```
//!
//! An archive whose image is the same, and that `SHA256SUMS` has, is not written again. The sum of one that is to be replaced
//! goes first, so that a kill leaves no sum of something else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::bundle::{BundleError, BundleFiles, BundleWritten, README, lock, publish, refuse_foreign};
use super::bundle_content::ImageBundle;
use super::bundle_files::{beside, create_beside};
use super::check_archives::sums;
use super::stack::{Form, SERVICES, StackImage, StackJson, StackModel, describe, services_file};
use crate::disk::AtPath;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::image::archive::{self, ArchiveOptions, Without};
use crate::image::bundle::SUMS;
use crate::image::json::read_versioned;
use crate::image::layout::ImageDir;
use crate::image::summary::ImageKind;
use crate::layer::output::Verify;
use crate::names::RelativePath;
use crate::oci::canonical;
use crate::oci::digest::Digest;

/// How the README.txt of one begins.
const FIRST_LINE: &str =
    "This directory has archives of container images, written by `windlass export --bundle --tar`.\n";

/// An archive that a bundle has.
#[derive(Debug)]
struct BundleArchive<'a> {
    path: PathBuf,
    image: &'a ImageDir,
    without: Without,
    /// Its size and its sum, where it is there.
    there: Option<(u64, Digest)>,
}

impl BundleArchive<'_> {
    fn payload(&self) -> u64 {
        archive::payload(self.image, &self.without)
    }

    /// The layers that it is without.
    fn left_out(&self) -> Vec<Digest> {
        let layers = self.image.summary().layers().into_iter();
        layers.filter(|layer| self.without.leaves_out(layer)).map(|layer| layer.digest).collect()
    }
}

/// What writing a bundle of archives would do.
#[derive(Debug)]
pub(crate) struct ArchivesPlan<'a>(Vec<BundleArchive<'a>>);

impl ArchivesPlan<'_> {
    /// How many archives there are.
    pub(crate) fn archives(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the layers in them.
    pub(crate) fn size(&self) -> u64 {
        self.0.iter().map(BundleArchive::payload).sum()
    }

    /// The same of those that are not there.
    pub(crate) fn missing(&self) -> u64 {
        self.0.iter().filter(|archive| archive.there.is_none()).map(BundleArchive::payload).sum()
    }

    /// Bytes of weights that are in more than one archive, without those of the first.
    pub(crate) fn repeated(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let layers = self.0.iter().flat_map(|archive| {
            archive.image.summary().layers().into_iter().filter(|layer| !archive.without.leaves_out(layer))
        });
        layers.filter(|layer| layer.is_weights() && !seen.insert(layer.digest)).map(|layer| layer.size).sum()
    }
}

/// What `stack.json` has of an archive.
fn known(json: &StackJson) -> BTreeMap<PathBuf, (Digest, Option<u64>, &[Digest])> {
    let image = |image: &'_ StackImage| {
        let path = image.archive.as_ref()?.to_path_buf();
        Some((path, image.index_digest.unwrap_or(image.digest), image.archive_size))
    };
    let images = json.images.iter().filter_map(|entry| {
        let (path, digest, size) = image(entry)?;
        Some((path, (digest, size, entry.without.as_slice())))
    });
    let models = json.models.iter().filter_map(|entry: &StackModel| {
        let path = entry.archive.as_ref()?.to_path_buf();
        Some((path, (entry.digest, entry.archive_size, entry.without.as_slice())))
    });
    images.chain(models).collect()
}

impl ImageBundle {
    /// Compares with the archives that are in a directory, by what is told of them and by their sizes.
    ///
    /// # Errors
    /// If something else is there, or a layer cannot be had.
    pub(crate) fn plan_archives(&self, directory: &Path) -> Result<ArchivesPlan<'_>, BundleError> {
        refuse_foreign(directory, FIRST_LINE)?;
        let sums = sums(&bounded::text(&directory.join(SUMS), Cap::Document).unwrap_or_default());
        let json = read_versioned::<StackJson>(&directory.join("stack.json")).ok();
        let known = json.as_ref().map(known).unwrap_or_default();
        let mut archives = Vec::new();
        for image in self.all() {
            let (folder, name) = match image.summary().kind {
                ImageKind::Model => ("models", self.name_of(image)),
                _ => ("images", image.summary().name.file_name()),
            };
            let (path, without) = (PathBuf::from(format!("{folder}/{name}.tar")), self.without(image));
            let mut archive = BundleArchive { path, image, without, there: None };
            archive.there = known.get(&archive.path).and_then(|(digest, size, without)| {
                let is_it = *digest == image.summary().digest && **without == *archive.left_out();
                let found = fs::metadata(directory.join(&archive.path)).ok()?.len();
                (is_it && *size == Some(found)).then_some((found, *sums.get(&archive.path)?))
            });
            for layer in image.summary().layers().into_iter().filter(|layer| !archive.without.leaves_out(layer)) {
                if image.layer_blob(layer)?.is_none() {
                    image.recipe(layer)?;
                }
            }
            archives.push(archive);
        }
        Ok(ArchivesPlan(archives))
    }

    /// Writes the archives that are missing or others, and removes those that belong to no image any more; how many that were.
    ///
    /// # Errors
    /// With the file or the layer at fault.
    pub(crate) fn write_archives(
        &self,
        directory: &Path,
        verify: Verify,
        progress: &Progress,
    ) -> Result<BundleWritten, BundleError> {
        let (root, _lock) = lock(directory, progress)?;
        let mut files = BundleFiles { directory, progress, sums: BTreeMap::new() };
        let ArchivesPlan(archives) = self.plan_archives(directory)?;
        let before = archives_of(directory);
        files.put(README, self.readme_of_archives(&archives).as_bytes())?;
        for archive in &archives {
            files.sums.extend(archive.there.map(|(_, sum)| (archive.path.clone(), sum)));
        }
        if archives.iter().any(|archive| archive.there.is_none()) {
            files.put_sums()?;
        }
        let mut sizes: BTreeMap<PathBuf, (u64, Vec<Digest>)> = BTreeMap::new();
        for archive in &archives {
            let size = match archive.there {
                Some((size, _)) => {
                    progress.count_kept(archive.payload());
                    size
                }
                None => {
                    let folder = archive.path.parent().and_then(Path::to_str).unwrap_or_default();
                    files.folder(folder)?;
                    let (sum, size) = write(archive, directory, verify, progress)?;
                    files.sums.insert(archive.path.clone(), sum);
                    size
                }
            };
            sizes.insert(archive.path.clone(), (size, archive.left_out()));
        }
        // Before the file that names them is replaced: a kill after it would leave what is not known to be ours.
        let mut removed = remove(&files, before.iter().flat_map(|path| [path.clone(), beside(path)]))?;
        let images: Vec<_> = self.images.iter().map(ImageDir::summary).collect();
        let models: Vec<_> = self.models.iter().map(|(name, model)| (name, model.summary())).collect();
        let mut json = describe(&images, &models, Form::Archives);
        let of = |path: &Option<RelativePath>| {
            let told = path.as_ref().and_then(|path| sizes.get(&path.to_path_buf()));
            told.map_or((None, Vec::new()), |(size, without)| (Some(*size), without.clone()))
        };
        json.images.iter_mut().for_each(|image| (image.archive_size, image.without) = of(&image.archive));
        json.models.iter_mut().for_each(|model| (model.archive_size, model.without) = of(&model.archive));
        files.put("stack.json", &canonical::to_pretty(&json))?;
        if let Some(services) = services_file(&self.services) {
            files.put(SERVICES, &services)?;
        }
        files.finish(&root)?;
        removed += remove(&files, [PathBuf::from(SERVICES)])?;
        for folder in ["images", "models"] {
            // One that has something of others stays.
            drop(fs::remove_dir(directory.join(folder)));
        }
        Ok(BundleWritten { removed, ..BundleWritten::default() })
    }

    fn readme_of_archives(&self, archives: &[BundleArchive<'_>]) -> String {
        // Models first: what is without its weights needs them there.
        let mut ordered: Vec<&BundleArchive<'_>> = archives.iter().collect();
        ordered.sort_by_key(|archive| archive.image.summary().kind != ImageKind::Model);
        let line = |archive: &&BundleArchive<'_>| {
            format!("  podman load -i {:<32}  {}\n", archive.path.display(), archive.image.summary().reference)
        };
        let loads: String = ordered.iter().map(line).collect();
        let left_out = if self.without.models {
            "\nThe layers of models are left out: load the models first, from where they are.\n"
        } else {
            ""
        };
        let expected: String =
            self.expected().iter().map(|old| format!("  {} ({})\n", old.reference, old.digest)).collect();
        let expected = match &*expected {
            "" => String::new(),
            all => format!("\nLayers are left out that are expected where they are loaded, from\n{all}"),
        };
        format!(
            "{FIRST_LINE}\n{loads}{left_out}{expected}\nThe same files are read by `docker load -i FILE`, `ctr images import FILE` and \
             `skopeo copy oci-archive:FILE …`.\n\nIs it whole?       sha256sum --check --quiet SHA256SUMS\n"
        )
    }
}

/// Writes an archive beside its name, then under it; its sum and its size.
fn write(
    archive: &BundleArchive<'_>,
    directory: &Path,
    verify: Verify,
    progress: &Progress,
) -> Result<(Digest, u64), BundleError> {
    let path = directory.join(&archive.path);
    let beside = beside(&path);
    // What a killed run has left there goes first, as for blobs.
    drop(create_beside(&beside)?);
    let options = ArchiveOptions { without: &archive.without, verify, progress };
    let written = archive::write(archive.image, &beside, true, options);
    let written = written.inspect_err(|_| drop(fs::remove_file(&beside)))?;
    publish(&beside, &path)?;
    Ok(written.expect("the digest of everything was asked for"))
}

/// The archives that a directory has by its own account: other files that lie beside them are not ours.
fn archives_of(directory: &Path) -> BTreeSet<PathBuf> {
    let json = read_versioned::<StackJson>(&directory.join("stack.json")).ok();
    let told = json.as_ref().map(known).unwrap_or_default().into_keys();
    let sums = sums(&bounded::text(&directory.join(SUMS), Cap::Document).unwrap_or_default());
    let is_archive = |path: &PathBuf| {
        let folder = path.parent().and_then(Path::to_str);
        matches!(folder, Some("images" | "models")) && path.extension().is_some_and(|extension| extension == "tar")
    };
    told.chain(sums.into_keys()).filter(is_archive).collect()
}

/// Removes these files where no sum names them; how many there were.
fn remove(files: &BundleFiles<'_>, paths: impl IntoIterator<Item = PathBuf>) -> Result<usize, BundleError> {
    let mut removed = 0;
    for path in paths.into_iter().filter(|path| !files.sums.contains_key(path)) {
        let path = files.directory.join(path);
        match fs::remove_file(&path) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            error => error.at("remove", &path)?,
        }
    }
    Ok(removed)
}
