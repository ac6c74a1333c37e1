//! The image directory: what `windlass build` writes.
//!
//! ```text
//! image/
//!   oci-layout  index.json     the standard files of an OCI image layout
//!   blobs/sha256/<hex>         index, manifests, configs always; a layer only where it was materialised
//!   recipes/<hex>.json         for each layer: the store paths and rules that its bytes come from
//!   recipes/<hex>.crc64        for each layer: the CRC-64 of each of its files
//!   image.json                 summary: name, ref, digests, sizes, layers with their owners
//!   closure.json               the store paths of its layers, what Nix recorded of them and which refers to which
//!   packages.json              what nixpkgs says of the packages that these are of, where the Nix functions were told
//! ```
//!
//! *Lean* (no layer blob) and *full* (every layer blob) differ in what is on disk, never in a digest. Reading one checks
//! every small blob against its digest, so a holder of an [`ImageDir`] has what `index.json` names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::bundle::{BLOBS, bundle_of};
use super::closure::ImageClosure;
use super::json::{format_error, parse_json, read_json, read_versioned};
pub use super::layout_error::LayoutError;
use super::recipes::{checksums_path, read_checksums, read_recipes, write_recipes};
use super::summary::LayerPatch;
pub(crate) use super::summary::{PlatformRecord, Summary};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::parts::files_of;
use crate::disk::pipe::{PipeError, Readers};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::image::{BuiltLayer, LayerRecord, SmallBlob, digest_in, index_json, oci_layout};
use crate::layer::output::{Output, Verify};
use crate::layer::{Checksums, Input, LayerError, Recipe, Sink, digest_of, measure};
use crate::nix::nar::nar_hash;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::strict::{self, Refused};

/// The version of `image.json`, `layers.json` and `stack.json`.
pub(crate) const VERSION: u32 = 1;

/// An image in memory: everything but the bytes of its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInMemory {
    /// The summary.
    pub(crate) summary: Summary,
    /// The blob that `index.json` names.
    pub(crate) top: SmallBlob,
    /// The other small blobs: configs, and the manifests below an index.
    pub(crate) blobs: Vec<SmallBlob>,
    /// How layers are made; for each layer that has no recipe there must be a blob.
    pub(crate) recipes: BTreeMap<Digest, Recipe>,
    /// The sums of the files of layers. [`ImageDir::open`] leaves them out, [`ImageDir::to_memory`] reads them.
    pub(crate) checksums: BTreeMap<Digest, Checksums>,
    /// What Nix recorded of its store paths. [`ImageDir::open`] leaves it out, [`ImageDir::to_memory`] reads it.
    pub(crate) closure: ImageClosure,
}

impl ImageInMemory {
    /// Index, manifests and configs.
    pub fn small_blobs(&self) -> impl Iterator<Item = &SmallBlob> {
        std::iter::once(&self.top).chain(&self.blobs)
    }

    /// Compares its index, manifests and configs with the types of all readers.
    ///
    /// # Errors
    /// With the first field that one of them refuses.
    pub(crate) fn check_readable(&self) -> Result<(), Refused> {
        let bytes = |digest| {
            let blob = self.small_blobs().find(|blob| blob.digest == digest);
            blob.map_or(&[][..], |blob| blob.bytes.as_slice())
        };
        if self.top.media_type == MediaType::ImageIndex {
            strict::check(strict::DocumentKind::Index, &self.top.bytes)?;
        }
        let mut platforms = self.summary.platforms.iter();
        platforms.try_for_each(|platform| strict::check_image(bytes(platform.digest), bytes(platform.config_digest)))
    }

    /// Writes everything but layer blobs into `directory`, which must exist.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn write_lean(&self, directory: &Path, progress: &Progress) -> Result<(), WriteError> {
        self.write_oci(directory, progress)?;
        let recipes = self.recipes.iter().map(|(digest, recipe)| (*digest, recipe, self.checksums.get(digest)));
        write_recipes(directory, recipes, progress)?;
        self.closure.write(directory, progress)?;
        write_file(&directory.join("image.json"), &canonical::to_pretty(&self.summary), progress)
    }

    /// Writes the files of an OCI image layout but for layer blobs.
    ///
    /// # Errors
    /// With the path at fault.
    pub(crate) fn write_oci(&self, directory: &Path, progress: &Progress) -> Result<(), WriteError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        for blob in self.small_blobs() {
            write_file(&blobs.join(blob.digest.hex()), &blob.bytes, progress)?;
        }
        write_file(&directory.join("index.json"), &index_json(&self.top, &self.summary.reference), progress)?;
        write_file(&directory.join("oci-layout"), &oci_layout(), progress)
    }
}

/// An image directory on disk.
#[derive(Debug, Clone)]
pub struct ImageDir {
    path: PathBuf,
    /// The OCI layout with its blobs: its own, or that of the bundle that it is in.
    layout: PathBuf,
    in_bundle: bool,
    image: ImageInMemory,
    /// Whether its documents were found to be readable: that is asked more than once.
    is_readable: OnceLock<()>,
}

impl ImageDir {
    /// Reads an image directory and checks its small blobs.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let bundle = bundle_of(path);
        let (in_bundle, layout) = (bundle.is_some(), bundle.unwrap_or_else(|| path.to_owned()));
        let missing = |folder: &Path, missing| match in_bundle {
            true => LayoutError::Missing { path: folder.join(missing) },
            false => LayoutError::NotAnImage { path: folder.to_owned(), missing },
        };
        let summary: Summary = read_versioned(&path.join("image.json"))
            .map_err(|error| if error.is_no_file() { missing(path, "image.json") } else { error })?;
        if *summary.name != *summary.reference.name() {
            let message = format!("name is {}, and ref is {}", summary.name, summary.reference);
            return Err(LayoutError::Format { path: path.join("image.json"), message });
        }
        let index_path = layout.join("index.json");
        let index: ImageIndex = read_json(&index_path)
            .map_err(|error| if error.is_no_file() { missing(&layout, "index.json") } else { error })?;
        if !layout.join("oci-layout").is_file() {
            return Err(missing(&layout, "oci-layout"));
        }
        let entry = match index.manifests().as_slice() {
            [entry] if digest_in(entry) == Some(summary.digest) => Some(entry),
            entries if in_bundle => entries.iter().find(|entry| digest_in(entry) == Some(summary.digest)),
            _ => None,
        };
        let Some(entry) = entry else {
            let message = format!("expected one entry with the digest that image.json has, {}", summary.digest);
            return Err(LayoutError::Format { path: index_path, message });
        };
        let top = read_blob(&layout, summary.digest, entry.media_type())?;
        check_size(&summary, &index_path, entry, &top)?;
        let top_path = blob_path(&layout, summary.digest);
        let children = match top.media_type {
            MediaType::ImageIndex => parse_json::<ImageIndex>(&top_path, &top.bytes)?.manifests().clone(),
            _ => Vec::new(),
        };
        let mut blobs = Vec::new();
        for platform in &summary.platforms {
            let manifest = if platform.digest == summary.digest {
                top.clone()
            } else {
                let child = children.iter().find(|child| digest_in(child) == Some(platform.digest));
                let child = child.ok_or_else(|| {
                    let message =
                        format!("does not name {}, which image.json has for {}", platform.digest, platform.platform);
                    LayoutError::Format { path: top_path.clone(), message }
                })?;
                let blob = read_blob(&layout, platform.digest, &MediaType::ImageManifest)?;
                check_size(&summary, &top_path, child, &blob)?;
                blobs.push(blob.clone());
                blob
            };
            let manifest: ImageManifest = serde_json::from_slice(&manifest.bytes)
                .map_err(|e| format_error(&blob_path(&layout, platform.digest), &e))?;
            let layers: Vec<_> = manifest.layers().iter().map(|layer| (digest_in(layer), layer.size())).collect();
            let told: Vec<_> = platform.layers.iter().map(|layer| (Some(layer.digest), layer.size)).collect();
            if layers != told || digest_in(manifest.config()) != Some(platform.config_digest) {
                let message =
                    format!("says something else of {} than its manifest {}", platform.platform, platform.digest);
                return Err(LayoutError::Format { path: path.join("image.json"), message });
            }
            let config = read_blob(&layout, platform.config_digest, &MediaType::ImageConfig)?;
            check_size(&summary, &blob_path(&layout, platform.digest), manifest.config(), &config)?;
            blobs.push(config);
        }
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        let mut recipes = read_recipes(path, summary.layers().into_iter())?;
        if in_bundle {
            let whole =
                fs::canonicalize(&layout).map_err(|source| LayoutError::Read { path: layout.clone(), source })?;
            if whole.to_str().is_none() {
                return Err(format_error(&layout, &"is no UTF-8, and names of layers are; rename the directory"));
            }
            for layer in summary.layers().into_iter().filter(|layer| !summary.without.contains(&layer.digest)) {
                recipes.insert(layer.digest, Recipe::of_blob(blob_path(&whole, layer.digest)));
            }
        }
        let (checksums, closure) = (BTreeMap::new(), ImageClosure::default());
        let image = ImageInMemory { summary, top, blobs, recipes, checksums, closure };
        Ok(Self { path: path.to_owned(), layout, in_bundle, image, is_readable: OnceLock::new() })
    }

    /// The same with these of its platforms only; its digest stays, and an index names the others as ones that are elsewhere.
    #[must_use]
    pub(crate) fn only(mut self, is_wanted: &dyn Fn(&PlatformRecord) -> bool) -> Self {
        let ImageInMemory { summary, blobs, .. } = &mut self.image;
        summary.platforms.retain(is_wanted);
        let kept = |blob: &SmallBlob| {
            let mut platforms = summary.platforms.iter();
            platforms.any(|platform| [platform.digest, platform.config_digest].contains(&blob.digest))
        };
        blobs.retain(kept);
        self
    }

    /// Checks that every program which reads images can read this one; [`strict`] says why that matters. An image that was
    /// built by an older windlass may be another.
    ///
    /// # Errors
    /// With the field that one of them refuses.
    pub fn check_readable(&self) -> Result<(), LayoutError> {
        let unreadable = |refused: Refused| LayoutError::Unreadable {
            path: self.path.clone(),
            reference: self.summary().reference.to_string(),
            what: refused.to_string(),
        };
        if self.is_readable.get().is_none() {
            self.image.check_readable().map_err(unreadable)?;
            self.is_readable.get_or_init(|| ());
        }
        Ok(())
    }

    /// What the directory holds.
    #[must_use]
    pub const fn image(&self) -> &ImageInMemory {
        &self.image
    }

    /// All that is known of it but the bytes of its layers, for writing it elsewhere.
    ///
    /// # Errors
    /// If its `closure.json`, `packages.json` or sums cannot be read.
    pub(crate) fn to_memory(&self) -> Result<ImageInMemory, LayoutError> {
        let mut checksums = BTreeMap::new();
        for record in self.summary().layers() {
            checksums.extend(self.checksums(record)?.map(|sums| (record.digest, sums)));
        }
        Ok(ImageInMemory { closure: ImageClosure::read(&self.path)?, checksums, ..self.image.clone() })
    }

    /// `image.json`.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.image.summary
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The OCI layout with its blobs.
    #[must_use]
    pub(crate) fn layout(&self) -> &Path {
        &self.layout
    }

    /// Whether it is in a bundle, where a layer is its blob.
    #[must_use]
    pub(crate) const fn is_in_bundle(&self) -> bool {
        self.in_bundle
    }

    /// The layers of one platform with their recipes, for use in another image.
    ///
    /// # Errors
    /// If a layer has no recipe.
    pub(crate) fn layers(&self, platform: &PlatformRecord) -> Result<Vec<BuiltLayer>, LayoutError> {
        let layer = |record: &LayerRecord| {
            Ok(BuiltLayer::before(record.clone(), self.recipe(record)?.clone(), self.checksums(record)?))
        };
        platform.layers.iter().map(layer).collect()
    }

    /// How the bytes of a layer are made.
    ///
    /// # Errors
    /// If it has no recipe.
    pub(crate) fn recipe(&self, record: &LayerRecord) -> Result<&Recipe, LayoutError> {
        self.image.recipes.get(&record.digest).ok_or_else(|| LayoutError::NoLayer {
            path: self.path.clone(),
            digest: record.digest,
            title: record.title.clone(),
        })
    }

    /// The sums of a layer's files; `None` where an older windlass built it, or it is a blob.
    ///
    /// # Errors
    /// If they are not what they should be.
    pub(crate) fn checksums(&self, record: &LayerRecord) -> Result<Option<Checksums>, LayoutError> {
        if self.in_bundle { Ok(None) } else { read_checksums(&self.path, record.digest) }
    }

    /// The blob of a layer, if it is on disk, whole or [cut](crate::disk::parts); its size is checked.
    ///
    /// # Errors
    /// If it has another size than it should, or a bundle should have it.
    pub fn layer_blob(&self, record: &LayerRecord) -> Result<Option<PathBuf>, LayoutError> {
        let path = blob_path(&self.layout, record.digest);
        let found: u64 = match files_of(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let is_lost = self.in_bundle && !self.summary().without.contains(&record.digest);
                return if is_lost { Err(LayoutError::Missing { path }) } else { Ok(None) };
            }
            Err(source) => return Err(LayoutError::Read { path, source }),
            Ok(files) => files.iter().map(|(_, size)| size).sum(),
        };
        let expected = record.size;
        if found == expected { Ok(Some(path)) } else { Err(LayoutError::Truncated { path, expected, found }) }
    }

    /// Where a patch of its bundle lies.
    #[must_use]
    pub(crate) fn patch_path(&self, patch: &LayerPatch) -> PathBuf {
        blob_path(&self.layout, patch.digest)
    }

    /// Compares a patch with its size, and with `full` its bytes with their digest.
    ///
    /// # Errors
    /// If it is not what it should be.
    pub(crate) fn verify_patch(&self, patch: &LayerPatch, full: bool, progress: &Progress) -> Result<(), LayoutError> {
        let path = self.patch_path(patch);
        let found = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LayoutError::Missing { path }),
            Err(source) => return Err(LayoutError::Read { path, source }),
            Ok(found) => found.len(),
        };
        if found != patch.size {
            return Err(LayoutError::Truncated { path, expected: patch.size, found });
        }
        if full { check_blob(path, patch.digest, progress) } else { Ok(()) }
    }

    /// Gives the bytes of a layer to an output, and compares their digest as far as the output reads them.
    ///
    /// # Errors
    /// If they cannot be had, cannot be written, or are not what they should be.
    pub(crate) fn write_layer(&self, record: &LayerRecord, output: &mut Output<'_>) -> Result<(), LayoutError> {
        let before = output.offset();
        output.begin_blob();
        let to = output.path().to_owned();
        self.stream_layer(record, output, &to)?;
        let size = output.offset() - before;
        let found = output.end_blob().map_or(record.digest, |(found, _)| found);
        self.compare_layer(record, found, size)
    }

    /// Gives the bytes of a layer to what is called `to`, and compares nothing.
    ///
    /// # Errors
    /// If they cannot be had or written.
    pub(crate) fn stream_layer(&self, record: &LayerRecord, sink: &mut dyn Sink, to: &Path) -> Result<(), LayoutError> {
        if let Some(path) = self.layer_blob(record)? {
            return copy_blob(&path, sink, to);
        }
        self.recipe(record)?.stream(sink).map_err(|source| match source {
            LayerError::Sink(source) => WriteError { action: "write", path: to.to_owned(), source }.into(),
            source => layer_error(record, source),
        })
    }

    /// Compares what a layer's bytes turned out to be with what it should be.
    ///
    /// # Errors
    /// With the blob, or what the layer is made from.
    pub(crate) fn compare_layer(&self, record: &LayerRecord, found: Digest, size: u64) -> Result<(), LayoutError> {
        if (found, size) == (record.digest, record.size) {
            return Ok(());
        }
        match self.layer_blob(record)? {
            Some(path) => Err(LayoutError::Damaged { path, found }),
            None => Err(changed(record, self.recipe(record)?)),
        }
    }

    /// Checks that every layer can be had: with `full` by reading every byte, else by names and sizes.
    ///
    /// # Errors
    /// With the layer, and the store path or blob at fault.
    pub(crate) fn verify_layer(
        &self,
        record: &LayerRecord,
        full: bool,
        progress: &Progress,
    ) -> Result<(), LayoutError> {
        if let Some(path) = self.layer_blob(record)? {
            return if full { check_blob(path, record.digest, progress) } else { Ok(()) };
        }
        let (recipe, checksums) = (self.recipe(record)?, self.checksums(record)?);
        let failed = |source| layer_error(record, source);
        if !full {
            let size = measure(recipe).map_err(failed)?;
            return if size == record.size { Ok(()) } else { Err(changed(record, recipe)) };
        }
        let found = digest_of(recipe, None, progress).map_err(failed)?;
        if found.digest != record.digest {
            return Err(changed(record, recipe));
        }
        if checksums.is_some_and(|checksums| checksums != found.noted.checksums) {
            let message = "does not have the sums of the layer's files; build or copy the image again".to_owned();
            return Err(LayoutError::Format { path: checksums_path(&self.path, record.digest), message });
        }
        Ok(())
    }
}

/// Reads a blob, and compares it with its digest.
fn check_blob(path: PathBuf, digest: Digest, progress: &Progress) -> Result<(), LayoutError> {
    let nowhere = Path::new("/dev/null");
    let mut sink = Output::create(nowhere, Verify::Always, false, progress)?;
    sink.begin_blob();
    copy_blob(&path, &mut sink, nowhere)?;
    match sink.end_blob() {
        Some((found, _)) if found != digest => Err(LayoutError::Damaged { path, found }),
        _ => Ok(()),
    }
}

fn copy_blob(path: &Path, sink: &mut dyn Sink, to: &Path) -> Result<(), LayoutError> {
    let reading = |source| LayoutError::Read { path: path.to_owned(), source };
    for (part, size) in files_of(path).map_err(reading)? {
        let file = bounded::open(&part).map_err(reading)?;
        sink.file(&file, size, false, Readers::default()).map_err(|error| match error {
            PipeError::Read(source) => reading(source),
            PipeError::Write(source) => WriteError { action: "write", path: to.to_owned(), source }.into(),
        })?;
    }
    Ok(())
}

/// Says which layer could not be had.
pub(crate) fn layer_error(record: &LayerRecord, source: LayerError) -> LayoutError {
    LayoutError::Layer { digest: record.digest, title: record.title.clone(), source: Box::new(source) }
}

/// Finds out which of a layer's paths no longer is what Nix recorded.
pub(crate) fn changed(record: &LayerRecord, recipe: &Recipe) -> LayoutError {
    let mut culprits = Vec::new();
    for input in &recipe.inputs {
        if let Input::StorePath { path: source, nar_hash: Some(expected) }
        | Input::Copy { source, nar_hash: Some(expected), .. } = input
            && !matches!(nar_hash(source), Ok((found, _)) if found == *expected)
        {
            culprits.push(source.display().to_string());
        }
    }
    if culprits.is_empty() {
        culprits = recipe.sources().iter().map(|path| path.display().to_string()).collect();
    }
    LayoutError::Changed { digest: record.digest, title: record.title.clone(), culprits }
}

fn blob_path(directory: &Path, digest: Digest) -> PathBuf {
    directory.join(BLOBS).join(digest.hex())
}

fn read_blob(directory: &Path, digest: Digest, media_type: &MediaType) -> Result<SmallBlob, LayoutError> {
    let path = blob_path(directory, digest);
    let cap = if matches!(media_type, MediaType::ImageConfig) { Cap::Config } else { Cap::Manifest };
    let bytes = bounded::read(&path, cap).map_err(|source| LayoutError::Read { path: path.clone(), source })?;
    let found = Digest::of(&bytes);
    if found != digest {
        return Err(LayoutError::Damaged { path, found });
    }
    Ok(SmallBlob { media_type: media_type.clone(), digest, bytes })
}

/// Compares a blob with the size that `at` says it has: its digest is right, but other programs refuse such an image.
fn check_size(summary: &Summary, at: &Path, descriptor: &Descriptor, blob: &SmallBlob) -> Result<(), LayoutError> {
    let (told, found) = (descriptor.size(), blob.bytes.len() as u64);
    if told == found {
        return Ok(());
    }
    let message = format!("says that {} of {} has {told} bytes, and it has {found}", blob.digest, summary.reference);
    Err(LayoutError::Format { path: at.to_owned(), message })
}
