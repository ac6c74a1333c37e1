//! The image directory: what `windlass build` writes.
//!
//! ```text
//! image/
//!   oci-layout  index.json     the standard files of an OCI image layout
//!   blobs/sha256/<hex>         index, manifests, configs always; a layer only where it was materialised
//!   recipes/<hex>.json         for each layer: the store paths and rules that its bytes come from
//!   recipes/<hex>.crc64        for each layer: the CRC-64 of each of its files
//!   image.json                 summary: name, ref, digests, sizes, layers with their owners
//! ```
//!
//! *Lean* (no layer blob) and *full* (every layer blob) differ in what is on disk, never in a digest. Reading one checks
//! every small blob against its digest, so a holder of an [`ImageDir`] has what `index.json` names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::json::{format_error, parse_json, read_json, read_versioned};
pub(crate) use super::recipes::Description;
use super::recipes::checksums_path;
pub(crate) use super::recipes::{read_recipes, write_recipes};
pub(crate) use super::summary::{PlatformRecord, Summary};
use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::pipe::{PipeError, Readers};
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::image::{BuiltLayer, LayerRecord, SmallBlob, digest_in, index_json, oci_layout};
use crate::layer::output::{Output, Verify};
use crate::layer::{Input, LayerError, Recipe, Sink, digest_of, measure};
use crate::nix::nar::nar_hash;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::strict::{self, Refused};

/// The version of `image.json`, `layers.json` and `stack.json`.
pub(crate) const VERSION: u32 = 1;

/// Why an image directory cannot be read, written or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is no image directory.
    #[error("{path} is not an image directory: {missing} is missing; expected what `windlass build` writes", path = path.display())]
    NotAnImage {
        /// The directory.
        path: PathBuf,
        /// What should be in it.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {message}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A blob's bytes are not those of its name.
    #[error("{path} is damaged: its bytes have the digest {found}; build or copy the image again", path = path.display())]
    Damaged {
        /// The blob.
        path: PathBuf,
        /// The digest of what is there.
        found: Digest,
    },
    /// A layer blob of the wrong length.
    #[error("{path} is damaged: it has {found} bytes instead of {expected}; build or copy the image again", path = path.display())]
    Truncated {
        /// The blob.
        path: PathBuf,
        /// The size in the manifest.
        expected: u64,
        /// The size on disk.
        found: u64,
    },
    /// A layer that is neither there nor described.
    #[error("{path} has neither a blob nor a recipe for layer {digest} ({title}): it was exported without; use the image directory it came from", path = path.display())]
    NoLayer {
        /// The image directory.
        path: PathBuf,
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
    },
    /// The bytes of a layer cannot be made.
    #[error("layer {title} ({digest}): {source}", digest = digest.short())]
    Layer {
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
        /// Why.
        source: Box<LayerError>,
    },
    /// The bytes of a layer are not what they were when it was built.
    #[error("layer {title} ({digest}) can no longer be made: {culprits} changed since it was built; restore it (`nix-store --repair-path` for a store path), or build again", digest = digest.short(), culprits = culprits.join(", "))]
    Changed {
        /// The layer.
        digest: Digest,
        /// What is in it.
        title: String,
        /// The paths at fault, or all of the layer where their hashes are not known.
        culprits: Vec<String>,
    },
    /// A config, manifest or index that some reader cannot read.
    #[error(
        "{reference}: {what}; while Podman has such an image it lists none at all: give it another value, and build it again ({path})",
        path = path.display()
    )]
    Unreadable {
        /// The image directory.
        path: PathBuf,
        /// The image.
        reference: String,
        /// The field and its value.
        what: String,
    },
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for LayoutError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Layer { source, .. } => source.class(),
            Self::Write(error) => error.class(),
            Self::Damaged { .. } | Self::Truncated { .. } | Self::Changed { .. } | Self::Unreadable { .. } => {
                Class::Unverified
            }
            Self::NotAnImage { .. } | Self::Format { .. } | Self::NoLayer { .. } => Class::Failed,
        }
    }
}

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
    pub(crate) recipes: BTreeMap<Digest, Description>,
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
        let recipes = self
            .recipes
            .iter()
            .map(|(digest, Description { recipe, checksums })| (*digest, recipe, checksums.as_ref()));
        write_recipes(directory, recipes, progress)?;
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
    image: ImageInMemory,
}

impl ImageDir {
    /// Reads an image directory and checks its small blobs.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        for missing in ["image.json", "index.json", "oci-layout"] {
            if !path.join(missing).is_file() {
                return Err(LayoutError::NotAnImage { path: path.to_owned(), missing });
            }
        }
        let summary: Summary = read_versioned(&path.join("image.json"))?;
        if *summary.name != *summary.reference.name() {
            let message = format!("name is {}, and ref is {}", summary.name, summary.reference);
            return Err(LayoutError::Format { path: path.join("image.json"), message });
        }
        let index_path = path.join("index.json");
        let index: ImageIndex = read_json(&index_path)?;
        let entry = match index.manifests().as_slice() {
            [entry] if digest_in(entry) == Some(summary.digest) => entry,
            _ => {
                let message = format!("expected one entry with the digest that image.json has, {}", summary.digest);
                return Err(LayoutError::Format { path: index_path, message });
            }
        };
        let top = read_blob(path, summary.digest, entry.media_type())?;
        check_size(&summary, &index_path, entry, &top)?;
        let top_path = blob_path(path, summary.digest);
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
                let blob = read_blob(path, platform.digest, &MediaType::ImageManifest)?;
                check_size(&summary, &top_path, child, &blob)?;
                blobs.push(blob.clone());
                blob
            };
            let manifest: ImageManifest = serde_json::from_slice(&manifest.bytes)
                .map_err(|e| format_error(&blob_path(path, platform.digest), &e))?;
            let layers: Vec<_> = manifest.layers().iter().map(|layer| (digest_in(layer), layer.size())).collect();
            let told: Vec<_> = platform.layers.iter().map(|layer| (Some(layer.digest), layer.size)).collect();
            if layers != told || digest_in(manifest.config()) != Some(platform.config_digest) {
                let message =
                    format!("says something else of {} than its manifest {}", platform.platform, platform.digest);
                return Err(LayoutError::Format { path: path.join("image.json"), message });
            }
            let config = read_blob(path, platform.config_digest, &MediaType::ImageConfig)?;
            check_size(&summary, &blob_path(path, platform.digest), manifest.config(), &config)?;
            blobs.push(config);
        }
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        let recipes = read_recipes(path, summary.layers().into_iter())?;
        let image = ImageInMemory { summary, top, blobs, recipes };
        Ok(Self { path: path.to_owned(), image })
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
        self.image.check_readable().map_err(unreadable)
    }

    /// What the directory holds.
    #[must_use]
    pub const fn image(&self) -> &ImageInMemory {
        &self.image
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

    /// The layers of one platform with their recipes, for use in another image.
    ///
    /// # Errors
    /// If a layer has no recipe.
    pub(crate) fn layers(&self, platform: &PlatformRecord) -> Result<Vec<BuiltLayer>, LayoutError> {
        let layer = |record: &LayerRecord| {
            let Description { recipe, checksums } = self.description(record)?.clone();
            Ok(BuiltLayer { record: record.clone(), recipe, checksums, files: Vec::new(), secrets: Vec::new() })
        };
        platform.layers.iter().map(layer).collect()
    }

    /// What is kept of a layer in place of its bytes.
    ///
    /// # Errors
    /// If it has no recipe.
    pub(crate) fn description(&self, record: &LayerRecord) -> Result<&Description, LayoutError> {
        self.image.recipes.get(&record.digest).ok_or_else(|| LayoutError::NoLayer {
            path: self.path.clone(),
            digest: record.digest,
            title: record.title.clone(),
        })
    }

    /// The blob of a layer, if it is on disk; its size is checked.
    ///
    /// # Errors
    /// If it has another size than it should.
    pub fn layer_blob(&self, record: &LayerRecord) -> Result<Option<PathBuf>, LayoutError> {
        let path = blob_path(&self.path, record.digest);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LayoutError::Read { path, source }),
            Ok(metadata) if metadata.len() == record.size => Ok(Some(path)),
            Ok(metadata) => Err(LayoutError::Truncated { path, expected: record.size, found: metadata.len() }),
        }
    }

    /// Gives the bytes of a layer to an output, and compares their digest as far as the output reads them.
    ///
    /// # Errors
    /// If they cannot be had, cannot be written, or are not what they should be.
    pub(crate) fn write_layer(&self, record: &LayerRecord, output: &mut Output<'_>) -> Result<(), LayoutError> {
        let before = output.offset();
        output.begin_blob();
        if let Some(path) = self.layer_blob(record)? {
            copy_blob(&path, record, output)?;
            return match output.end_blob() {
                Some((found, _)) if found != record.digest => Err(LayoutError::Damaged { path, found }),
                _ => Ok(()),
            };
        }
        let Description { recipe, .. } = self.description(record)?;
        recipe.stream(output).map_err(|source| match source {
            LayerError::Sink(source) => output.failed(source).into(),
            source => layer_error(record, source),
        })?;
        let size = output.offset() - before;
        match output.end_blob() {
            Some((found, _)) if found != record.digest => Err(changed(record, recipe)),
            _ if size != record.size => Err(changed(record, recipe)),
            _ => Ok(()),
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
            if full {
                let mut sink = Output::create(Path::new("/dev/null"), Verify::Always, false, progress)?;
                sink.begin_blob();
                copy_blob(&path, record, &mut sink)?;
                if let Some((found, _)) = sink.end_blob().filter(|(found, _)| *found != record.digest) {
                    return Err(LayoutError::Damaged { path, found });
                }
            }
            return Ok(());
        }
        let Description { recipe, checksums } = self.description(record)?;
        let failed = |source| layer_error(record, source);
        if !full {
            let size = measure(recipe).map_err(failed)?;
            return if size == record.size { Ok(()) } else { Err(changed(record, recipe)) };
        }
        let found = digest_of(recipe, None, progress).map_err(failed)?;
        if found.digest != record.digest {
            return Err(changed(record, recipe));
        }
        if checksums.as_ref().is_some_and(|checksums| *checksums != found.noted.checksums) {
            let message = "does not have the sums of the layer's files; build or copy the image again".to_owned();
            return Err(LayoutError::Format { path: checksums_path(&self.path, record.digest), message });
        }
        Ok(())
    }
}

fn copy_blob(path: &Path, record: &LayerRecord, output: &mut Output<'_>) -> Result<(), LayoutError> {
    let reading = |source| LayoutError::Read { path: path.to_owned(), source };
    let file = bounded::open(path).map_err(reading)?;
    output.file(&file, record.size, false, Readers::default()).map_err(|error| match error {
        PipeError::Read(source) => reading(source),
        PipeError::Write(source) => output.failed(source).into(),
    })
}

fn layer_error(record: &LayerRecord, source: LayerError) -> LayoutError {
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
    directory.join("blobs/sha256").join(digest.hex())
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
