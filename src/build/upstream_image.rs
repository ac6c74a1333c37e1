//! Images that were not built here: made into an image directory, and built upon.
//!
//! Manifest and config stay as they are, byte for byte, so the digests do. Every layer is a file that is there already
//! (in the Nix store a fixed-output path, by its OCI digest), read once to learn what is in it.
//!
//! Sources: OCI image-spec 1.1 (*manifest.md*, *config.md*, *layer.md*) and Docker's *Image Manifest Version 2, Schema 2*.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::image::{History, ImageConfiguration, ImageManifest, MediaType};
use rayon::prelude::*;
use serde_json::Value;

use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::image::closure::ImageClosure;
use crate::image::layout::{ImageDir, ImageInMemory, LayoutError, VERSION};
use crate::image::summary::{ImageKind, ImageOrigin, PlatformRecord, Summary};
use crate::image::{BuiltLayer, Inherited, LayerKind, LayerRecord, PackedLayer, SmallBlob, digest_in, kept};
use crate::layer::{LayerError, Recipe, TarEntryKind, padding, tar_reader};
use crate::names::Name;
use crate::oci::compression::Compression;
use crate::oci::digest::{Digest, Hasher};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::oci::strict;
use crate::spec::UpstreamSpec;

/// Why an image that was not built here cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum UpstreamImageError {
    /// A file cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Manifest, config and layers do not fit together.
    #[error("{name}: {message}")]
    Unfit { name: String, message: String },
    /// What is put over a base.
    #[error(transparent)]
    Above(#[from] LayerError),
    /// The image directory of a base.
    #[error("{0}")]
    Layout(Box<LayoutError>),
    /// A file has other bytes than its digest says.
    #[error("{path} is damaged: it should have the digest {expected}, and has {found}; fetch it again (`windlass upstream fetch`)", path = path.display())]
    Damaged {
        path: PathBuf,
        /// What the manifest or config says.
        expected: Digest,
        /// What was found.
        found: Digest,
    },
    /// A layer that cannot be unpacked, or unpacks to something that its config does not say.
    #[error("layer {digest} of {name}: {message}", digest = digest.short())]
    Layer { name: String, digest: Digest, message: String },
}

impl Classified for UpstreamImageError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Above(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Unfit { .. } | Self::Damaged { .. } | Self::Layer { .. } => Class::Failed,
        }
    }
}

impl From<LayoutError> for UpstreamImageError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(Box::new(error))
    }
}

/// Bytes of a layer's archive above which the ratio below counts: less is never a danger.
const BOMB_FROM: u64 = 8 << 30;
/// How much larger than the layer its archive may be. Real layers are at 2 to 10; zeros, in gzip, at a thousand.
const BOMB_RATIO: u64 = 200;

/// Makes an image directory of an image that was not built here.
///
/// # Errors
/// See [`UpstreamImageError`].
pub(crate) fn image(spec: &UpstreamSpec, progress: &Progress) -> Result<ImageInMemory, UpstreamImageError> {
    let unfit = |message: String| UpstreamImageError::Unfit { name: spec.name.clone(), message };
    strict::check(strict::DocumentKind::Manifest, spec.manifest.as_bytes())
        .map_err(|error| unfit(error.to_string()))?;
    let manifest: ImageManifest =
        serde_json::from_str(&spec.manifest).map_err(|error| unfit(format!("its manifest is not valid: {error}")))?;
    let top = {
        let bytes = spec.manifest.clone().into_bytes();
        let media_type = manifest.media_type().clone().unwrap_or(MediaType::ImageManifest);
        SmallBlob { media_type, digest: Digest::of(&bytes), bytes }
    };
    let config_digest = digest_in(manifest.config()).ok_or_else(|| unfit("its config has no SHA-256".to_owned()))?;
    let reading = |source| UpstreamImageError::Read { path: spec.config.clone(), source };
    let bytes = bounded::read(&spec.config, Cap::Config).map_err(reading)?;
    let found = Digest::of(&bytes);
    if found != config_digest {
        return Err(UpstreamImageError::Damaged { path: spec.config.clone(), expected: config_digest, found });
    }
    let (told, found) = (manifest.config().size(), bytes.len() as u64);
    if told != found {
        return Err(unfit(format!("its manifest says that the config has {told} bytes, and it has {found}")));
    }
    strict::check_image(spec.manifest.as_bytes(), &bytes).map_err(|error| unfit(error.to_string()))?;
    let config: ImageConfiguration =
        serde_json::from_slice(&bytes).map_err(|error| unfit(format!("its config is not valid: {error}")))?;
    let platform = platform_of(&config);
    if !platform.runs_on(&spec.platform) {
        return Err(unfit(format!("is for {platform}, and {} was asked for", spec.platform)));
    }
    let diff_ids: Option<Vec<Digest>> = config.rootfs().diff_ids().iter().map(|id| id.parse().ok()).collect();
    let diff_ids = diff_ids.ok_or_else(|| unfit("its config has a diff ID that is no SHA-256".to_owned()))?;
    let counts = [manifest.layers().len(), diff_ids.len(), spec.layers.len()];
    if counts.iter().any(|count| *count != counts[0]) {
        let [layers, diff_ids, files] = counts;
        let message = format!("its manifest has {layers} layers, its config {diff_ids}, and {files} files were given");
        return Err(unfit(message));
    }
    let parts: Vec<_> = manifest.layers().iter().zip(diff_ids).zip(&spec.layers).collect();
    let layer = |((descriptor, diff_id), path): ((&oci_spec::image::Descriptor, Digest), &PathBuf)| {
        let digest =
            digest_in(descriptor).ok_or_else(|| unfit(format!("a layer, {}, has no SHA-256", descriptor.digest())))?;
        let expected =
            ExpectedLayer { digest, size: descriptor.size(), diff_id, media_type: descriptor.media_type().to_string() };
        read_layer(spec, path, &expected, progress)
    };
    parts.iter().for_each(|((descriptor, _), _)| progress.expect(descriptor.size()));
    let layers: Vec<BuiltLayer> = parts.into_par_iter().map(layer).collect::<Result<_, _>>()?;

    let records: Vec<LayerRecord> = layers.iter().map(|layer| layer.record.clone()).collect();
    let short = top.digest.short();
    let reference =
        Reference::new(&spec.name, spec.tag.as_deref().unwrap_or(&short)).map_err(|error| unfit(error.to_string()))?;
    let size = records.iter().map(|record| record.size).sum();
    let record =
        PlatformRecord { platform, digest: top.digest, config_digest, size, layers: records, models: Vec::new() };
    let origin = Some(ImageOrigin {
        reference: spec.source.clone(),
        digest: spec.index.unwrap_or(top.digest),
        signed_by: spec.signed_by.clone(),
        created: config.created().clone(),
        sboms: spec.sboms.clone(),
    });
    let summary = Summary {
        version: VERSION,
        kind: ImageKind::Upstream,
        name: reference.repository(),
        reference,
        digest: top.digest,
        origin,
        base: None,
        model: None,
        without: Vec::new(),
        expects: Vec::new(),
        patches: Vec::new(),
        platforms: vec![record],
    };
    let (recipes, checksums) = kept(&layers);
    let config = SmallBlob { media_type: MediaType::ImageConfig, digest: config_digest, bytes };
    Ok(ImageInMemory { summary, top, blobs: vec![config], recipes, checksums, closure: ImageClosure::default() })
}

/// The platform that a config names.
#[must_use]
pub(crate) fn platform_of(config: &ImageConfiguration) -> Platform {
    Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone().filter(|variant| !variant.is_empty()),
    }
}

/// What manifest and config say of a layer.
struct ExpectedLayer {
    digest: Digest,
    size: u64,
    diff_id: Digest,
    media_type: String,
}

/// Reads a layer once: its own digest, and that of the archive in it.
fn read_layer(
    spec: &UpstreamSpec,
    path: &Path,
    expected: &ExpectedLayer,
    progress: &Progress,
) -> Result<BuiltLayer, UpstreamImageError> {
    let failed =
        |message: String| UpstreamImageError::Layer { name: spec.name.clone(), digest: expected.digest, message };
    let reading = |source| UpstreamImageError::Read { path: path.to_owned(), source };
    let Some(said) = Compression::of_media_type(&expected.media_type) else {
        return Err(failed(format!("is of type {}, which cannot be unpacked", expected.media_type)));
    };
    let file = bounded::open(path).map_err(reading)?;
    // The media type may be wrong; the diff ID tells whether what comes out is the layer.
    let compression = Compression::of_file(&file).map_err(|error| failed(error.to_string()))?;
    let size = file.metadata().map_err(reading)?.len();
    if size != expected.size {
        return Err(failed(format!("{} has {size} bytes, and the manifest says {}", path.display(), expected.size)));
    }
    let mut packed = Tap { inner: file, hasher: Hasher::new(), progress };
    let mut archive = Hasher::new();
    let limit = BOMB_FROM.max(size.saturating_mul(BOMB_RATIO));
    {
        let mut reader = compression.decoder(&mut packed).map_err(|error| failed(error.to_string()))?;
        let mut buffer = vec![0; 1 << 17];
        let mut total = 0;
        loop {
            progress.check().map_err(reading)?;
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    total += count as u64;
                    archive.update(&buffer[..count]);
                    if total > limit {
                        let message = format!("its {size} bytes unpack to more than {limit}: no real layer does");
                        return Err(failed(message));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(format!("cannot be unpacked: {error}"))),
            }
        }
    }
    // What a decoder leaves unread belongs to the layer too.
    io::copy(&mut packed, &mut io::sink()).map_err(reading)?;
    let (found, _) = packed.hasher.finish();
    if found != expected.digest {
        return Err(UpstreamImageError::Damaged { path: path.to_owned(), expected: expected.digest, found });
    }
    let (diff_id, diff_size) = archive.finish();
    if diff_id != expected.diff_id {
        let lies = if compression == said {
            String::new()
        } else {
            format!(" (its type is {}, and its bytes are not)", expected.media_type)
        };
        return Err(failed(format!("unpacks to {diff_id}, and the config says {}{lies}", expected.diff_id)));
    }
    let packed = (compression != Compression::None).then(|| PackedLayer {
        // Docker's layers are the same bytes under another name (image-spec, *media-types.md*).
        media_type: compression.media_type().to_owned(),
        diff_id,
        diff_size,
    });
    let owner = path.display().to_string();
    let record = LayerRecord {
        digest: expected.digest,
        size,
        packed,
        kind: LayerKind::Base,
        part: None,
        title: title(spec),
        why: "as it came: no byte of it changes".to_owned(),
        owners: vec![owner],
    };
    Ok(BuiltLayer::before(record, Recipe::of_blob(path.to_owned()), None))
}

/// The repository that a layer came with: `qdrant/qdrant:v1.16.2`.
fn title(spec: &UpstreamSpec) -> String {
    spec.source.clone().unwrap_or_else(|| spec.name.clone())
}

/// Hashes and counts what is read through it.
struct Tap<'p> {
    inner: File,
    hasher: Hasher,
    progress: &'p Progress,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.progress.count_read(count as u64);
        Ok(count)
    }
}

/// An image that another is built upon.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamImage {
    /// Its layers, bottom first.
    pub(crate) layers: Vec<BuiltLayer>,
    /// Names of its models, lowest first; their layers are the lowest of its layers, see [`models_of`](crate::image::models_of).
    pub(crate) models: Vec<Name>,
    /// What its config hands down.
    pub(crate) inherited: Inherited,
    /// What is known of its store paths.
    pub(crate) closure: ImageClosure,
}

impl UpstreamImage {
    /// Reads an image directory for being built upon.
    ///
    /// # Errors
    /// If it cannot be read, or is for another platform.
    pub(crate) fn open(path: &Path, platform: &Platform) -> Result<Self, UpstreamImageError> {
        let image = ImageDir::open(path)?;
        image.check_readable()?;
        let summary = image.summary();
        let unfit = |message: String| UpstreamImageError::Unfit { name: summary.reference.to_string(), message };
        let record = match (&summary.platforms[..], summary.kind) {
            (_, ImageKind::Model) => return Err(unfit("is a model; name it in 'models'".to_owned())),
            ([one], _) if one.platform.runs_on(platform) => one,
            (all, _) => all.iter().find(|record| record.platform == *platform).ok_or_else(|| {
                let there: Vec<String> = all.iter().map(|record| record.platform.to_string()).collect();
                unfit(format!("is for {}, and an image for {platform} is to be built on it", there.join(", ")))
            })?,
        };
        let config = image.image().small_blobs().find(|blob| blob.digest == record.config_digest);
        let config: Option<Value> = config.and_then(|blob| serde_json::from_slice(&blob.bytes).ok());
        let Some(Value::Object(mut config)) = config else {
            return Err(unfit("its config is not an object".to_owned()));
        };
        let mut take = |key: &str| config.remove(key).unwrap_or_default();
        let history = serde_json::from_value::<Vec<History>>(take("history")).unwrap_or_default();
        let of_layers = history.iter().filter(|entry| entry.empty_layer() != Some(true)).count();
        let inherited = Inherited {
            config: take("config").as_object().cloned().unwrap_or_default(),
            // One that does not tell of every layer would make the new history a wrong one.
            history: if of_layers == record.layers.len() && record.models.is_empty() { history } else { Vec::new() },
            os: ["os.version", "os.features"]
                .map(|key| (key.to_owned(), take(key)))
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect(),
            layers: record.layers.len(),
            origin: summary.origin.clone().or_else(|| summary.base.clone()),
        };
        let mut layers = image.layers(record)?;
        for layer in layers.iter_mut().filter(|layer| layer.record.kind != LayerKind::Model) {
            layer.record.kind = LayerKind::Base;
        }
        Ok(Self { layers, models: record.models.clone(), inherited, closure: ImageClosure::read(path)? })
    }
}

/// What a base has at the place of a model that lies below it: its path in the image, and that of the model.
///
/// # Errors
/// If a layer of the base cannot be read.
pub(crate) fn hides<'a>(
    base: &[BuiltLayer],
    targets: &[&'a Path],
) -> Result<Option<(PathBuf, &'a Path)>, UpstreamImageError> {
    let mut found = None;
    if targets.is_empty() {
        return Ok(found);
    }
    for layer in base {
        entries(layer, &mut |place, kind| {
            if found.is_none() {
                found =
                    hidden(place, *kind == UpstreamEntry::Directory, targets).map(|target| (place.to_owned(), target));
            }
        })?;
    }
    Ok(found)
}

/// A link of a base that a directory of a layer above it would take the place of, with what it leads to: `/bin`, which is
/// `usr/bin` in most images, would be empty but for what is put there.
///
/// # Errors
/// If a layer cannot be read.
pub(crate) fn covers(base: &[&BuiltLayer], above: &Recipe) -> Result<Option<(PathBuf, PathBuf)>, UpstreamImageError> {
    let mut directories = BTreeSet::new();
    of_recipe(above, &mut |place, kind| {
        if *kind == UpstreamEntry::Directory {
            directories.insert(place.to_owned());
        }
    })?;
    let mut links: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    if directories.is_empty() {
        return Ok(None);
    }
    for layer in base {
        entries(layer, &mut |place, kind| match kind {
            UpstreamEntry::Link(target) if directories.contains(place) => {
                drop(links.insert(place.to_owned(), target.clone()));
            }
            _ => links.retain(|link, _| hidden(place, *kind == UpstreamEntry::Directory, &[link]).is_none()),
        })?;
    }
    Ok(links.into_iter().next())
}

/// What an entry of a layer is, as far as it matters to the layers around it.
#[derive(Debug, PartialEq, Eq)]
enum UpstreamEntry {
    Directory,
    Link(PathBuf),
    Other,
}

type VisitEntry<'v> = dyn FnMut(&Path, &UpstreamEntry) + 'v;

/// Every entry of a layer, by its place in the image.
fn entries(layer: &BuiltLayer, visit: &mut VisitEntry<'_>) -> Result<(), UpstreamImageError> {
    let Some(blob) = layer.recipe.blob() else { return of_recipe(&layer.recipe, visit) };
    let failed = |source| UpstreamImageError::Read { path: blob.to_owned(), source };
    let file = bounded::open(blob).map_err(failed)?;
    let compression = Compression::of_media_type(layer.record.media_type().as_ref()).unwrap_or(Compression::None);
    let mut archive = compression.decoder(file).map_err(failed)?;
    let next =
        |archive: &mut dyn Read| tar_reader::next(archive).map_err(|error| failed(io::Error::other(error.to_string())));
    while let Some(member) = next(&mut archive)? {
        let kind = match &member.kind {
            tar_reader::TarMemberKind::Directory => UpstreamEntry::Directory,
            tar_reader::TarMemberKind::Symlink(target) => UpstreamEntry::Link(OsStr::from_bytes(target).into()),
            _ => UpstreamEntry::Other,
        };
        visit(&Path::new("/").join(member.path()), &kind);
        let rest = member.size + padding(member.size);
        io::copy(&mut archive.by_ref().take(rest), &mut io::sink()).map_err(failed)?;
    }
    Ok(())
}

fn of_recipe(recipe: &Recipe, visit: &mut VisitEntry<'_>) -> Result<(), UpstreamImageError> {
    recipe.members(&mut |member| {
        let kind = match &member.entry.kind {
            TarEntryKind::Directory => UpstreamEntry::Directory,
            TarEntryKind::Symlink(target) => UpstreamEntry::Link(OsStr::from_bytes(target).into()),
            TarEntryKind::File(_) => UpstreamEntry::Other,
        };
        visit(&member.entry.place(), &kind);
        Ok(())
    })?;
    Ok(())
}

/// Which of these places an entry of a layer takes away from the layers below it (image-spec, *layer.md*, whiteouts).
fn hidden<'a, P: AsRef<Path> + ?Sized>(place: &Path, is_directory: bool, targets: &[&'a P]) -> Option<&'a Path> {
    let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parent = place.parent().unwrap_or(Path::new("/"));
    targets.iter().map(|target| (*target).as_ref()).find(|target| match name.strip_prefix(".wh.") {
        Some(".wh..opq") => target.starts_with(parent) && *target != parent,
        Some(gone) => target.starts_with(parent.join(gone)),
        None if is_directory => *target == place,
        None => target.starts_with(place),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_a_model_is_told_from_what_lies_beside_it() {
        let targets = [Path::new("/models/a.gguf")];
        for (place, is_directory, hides) in [
            ("/models", true, false),
            ("/models", false, true),
            ("/models/a.gguf", false, true),
            ("/models/a.gguf", true, true),
            ("/models/b.gguf", false, false),
            ("/models/.wh.a.gguf", false, true),
            ("/models/.wh.b.gguf", false, false),
            ("/.wh.models", false, true),
            ("/models/.wh..wh..opq", false, true),
            ("/.wh..wh..opq", false, true),
            ("/etc/.wh..wh..opq", false, false),
            ("/modelsx", false, false),
        ] {
            assert_eq!(hidden(Path::new(place), is_directory, &targets).is_some(), hides, "{place}");
        }
    }
}
