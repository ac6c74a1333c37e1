//! A stack: several images and their models, planned together, as one directory.
//!
//! ```text
//! lean (`buildStack`'s passthru `lean`)      with archives (`ai-stack-images`)
//!   stack.json                                 stack.json
//!   services.json    if it has any             services.json
//!   images/<name>/   image directories         images/<name>.tar   without the weights
//!   models/<name>/   image directories         models/<name>.tar   one model each, once
//!                                              load.sh  SHA256SUMS
//! ```
//!
//! `stack.json` is for scripts. It only ever grows; a key that changes its meaning is a new `version`. `services.json` says
//! how containers of the images are run; no digest depends on it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::build::Stack;
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, WriteError};
use crate::image::archive::{self, ArchiveOptions, Without};
use crate::image::json::read_versioned;
use crate::image::layout::{ImageDir, ImageInMemory, LayoutError, VERSION};
use crate::image::summary::Summary;
use crate::image::{LayerKind, LayerRecord, ModelPart, PackedLayer};
use crate::model::forms::record::ModelRecord;
use crate::names::{Name, RelativePath};
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, file_name};
use crate::sh;
use crate::spec::service::{ServiceConfig, ServicesJson};

/// `stack.json`. Paths are relative to the directory that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StackJson {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// The images by name; one entry for each platform.
    pub images: Vec<StackImage>,
    /// The models by name.
    pub models: Vec<StackModel>,
}

/// One image of a stack, for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StackImage {
    /// The last part of its name: `redis`.
    pub(crate) name: Name,
    /// Full name and tag: `localhost/redis:…`.
    #[serde(rename = "ref")]
    pub(crate) reference: Reference,
    /// What it runs on.
    pub(crate) platform: Platform,
    /// Digest of the manifest.
    pub(crate) digest: Digest,
    /// Digest of the index, for one of several platforms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index_digest: Option<Digest>,
    /// Digest of the config.
    pub(crate) config_digest: Digest,
    /// Its archive; not in a lean stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<RelativePath>,
    /// Bytes of its archive, where a bundle of archives has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) archive_size: Option<u64>,
    /// Layers that this archive was written without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) without: Vec<Digest>,
    /// Its image directory; only in a lean stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<RelativePath>,
    /// Bytes of all its layers, those of models too.
    #[serde(deserialize_with = "crate::names::size")]
    pub(crate) size: u64,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<StackLayer>,
    /// Names of its models, lowest first.
    pub(crate) models: Vec<Name>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StackLayer {
    /// Digest of its bytes.
    pub(crate) digest: Digest,
    /// Size in bytes.
    #[serde(deserialize_with = "crate::names::size")]
    pub(crate) size: u64,
    /// What is in it, for one that is compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) packed: Option<PackedLayer>,
    /// What it is for.
    pub(crate) kind: LayerKind,
    /// For a layer of a model that has several: which part of it this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) part: Option<ModelPart>,
    /// What is in it, in a few words.
    #[serde(default)]
    pub(crate) title: String,
    /// The store paths it comes from.
    pub(crate) owners: Vec<String>,
}

/// One model of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StackModel {
    pub(crate) name: Name,
    /// Full name and tag of its image.
    #[serde(rename = "ref")]
    pub(crate) reference: Reference,
    /// Digest of its image's manifest.
    pub(crate) digest: Digest,
    /// Digest of its image's config.
    pub(crate) config_digest: Digest,
    /// Its archive; not in a lean stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<RelativePath>,
    /// Bytes of its archive, where a bundle of archives has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) archive_size: Option<u64>,
    /// Layers that this archive was written without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) without: Vec<Digest>,
    /// Its image directory; only in a lean stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<RelativePath>,
    /// Bytes of its layers.
    #[serde(deserialize_with = "crate::names::size")]
    pub(crate) size: u64,
    /// Its layers, bottom first: one, unless its files are shards that lie in layers of their own.
    pub(crate) layers: Vec<StackLayer>,
    /// What is known of its files; not of a model that an older windlass built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<ModelRecord>,
}

impl From<&LayerRecord> for StackLayer {
    fn from(layer: &LayerRecord) -> Self {
        let LayerRecord { digest, size, packed, kind, part, title, owners, .. } = layer.clone();
        Self { digest, size, packed, kind, part, title, owners }
    }
}

/// Where an entry's files are.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Lean,
    Archives,
}

impl Form {
    fn paths(self, folder: &str, name: &Name) -> (Option<RelativePath>, Option<RelativePath>) {
        let file = |suffix: &str| {
            RelativePath::new(format!("{folder}/{name}{suffix}")).expect("a name is one part of a relative path")
        };
        match self {
            Self::Lean => (None, Some(file(""))),
            Self::Archives => (Some(file(".tar")), None),
        }
    }
}

pub(super) fn describe(images: &[&Summary], models: &[(&Name, &Summary)], form: Form) -> StackJson {
    let image = |summary: &Summary| {
        let name = summary.name.file_name();
        let (archive, directory) = form.paths("images", &name);
        let entry = |platform: &crate::image::summary::PlatformRecord| StackImage {
            name: name.clone(),
            reference: summary.reference.clone(),
            platform: platform.platform.clone(),
            digest: platform.digest,
            index_digest: (summary.digest != platform.digest).then_some(summary.digest),
            config_digest: platform.config_digest,
            archive: archive.clone(),
            archive_size: None,
            without: Vec::new(),
            directory: directory.clone(),
            size: platform.size,
            layers: platform.layers.iter().map(StackLayer::from).collect(),
            models: platform.models.clone(),
        };
        summary.platforms.iter().map(entry).collect::<Vec<_>>()
    };
    let model = |(name, summary): &(&Name, &Summary)| {
        let (archive, directory) = form.paths("models", name);
        let platform = &summary.platforms[0];
        StackModel {
            name: (*name).clone(),
            reference: summary.reference.clone(),
            digest: platform.digest,
            config_digest: platform.config_digest,
            archive,
            archive_size: None,
            without: Vec::new(),
            directory,
            size: platform.size,
            layers: platform.layers.iter().map(StackLayer::from).collect(),
            model: summary.model.clone(),
        }
    };
    StackJson {
        version: VERSION,
        images: images.iter().flat_map(|summary| image(summary)).collect(),
        models: models.iter().map(model).collect(),
    }
}

/// Writes a lean stack into `directory`, which must exist.
///
/// # Errors
/// With the path at fault.
pub(crate) fn write_lean(stack: &Stack, directory: &Path, progress: &Progress) -> Result<(), WriteError> {
    let write = |folder: &str, name: &str, image: &ImageInMemory| {
        let path = directory.join(folder).join(name);
        fs::create_dir_all(&path).at("create", &path)?;
        image.write_lean(&path, progress)
    };
    for folder in ["images", "models"] {
        fs::create_dir_all(directory.join(folder)).at("create", directory)?;
    }
    stack.images.iter().try_for_each(|image| write("images", &file_name(&image.summary.name), image))?;
    stack.models.iter().try_for_each(|(name, image)| write("models", name, image))?;
    let images: Vec<_> = stack.images.iter().map(|image| &image.summary).collect();
    let models: Vec<_> = stack.models.iter().map(|(name, image)| (name, &image.summary)).collect();
    if let Some(services) = services_file(&stack.services) {
        write_file(&directory.join(SERVICES), &services, progress)?;
    }
    write_file(&directory.join("stack.json"), &canonical::to_pretty(&describe(&images, &models, Form::Lean)), progress)
}

/// The file beside `stack.json`.
pub(super) const SERVICES: &str = "services.json";

/// What it holds; a stack without services has none.
pub(super) fn services_file(services: &BTreeMap<String, ServiceConfig>) -> Option<Vec<u8>> {
    let json = || canonical::to_pretty(&ServicesJson { version: VERSION, services: services.clone() });
    (!services.is_empty()).then(json)
}

/// The services of a stack, lean or with archives.
///
/// # Errors
/// If there is a `services.json` that cannot be read.
pub fn read_services(stack: &Path) -> Result<BTreeMap<String, ServiceConfig>, LayoutError> {
    let path = stack.join(SERVICES);
    if path.symlink_metadata().is_err() {
        return Ok(BTreeMap::new());
    }
    Ok(read_versioned::<ServicesJson>(&path)?.services)
}

/// A lean stack on disk.
#[derive(Debug, Clone)]
pub struct StackDir {
    /// Its images.
    pub(crate) images: Vec<ImageDir>,
    /// Its models by name.
    pub(crate) models: Vec<(Name, ImageDir)>,
    /// How containers of its images are run.
    pub(crate) services: BTreeMap<String, ServiceConfig>,
}

impl StackDir {
    /// Reads a lean stack and checks the small blobs of everything in it.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let (stack, unreadable) = Self::open_readable(path)?;
        unreadable.into_iter().next().map_or(Ok(stack), |first| Err(first.error))
    }

    /// The same, without the images and models that cannot be read.
    ///
    /// # Errors
    /// If it is not known which there are.
    pub(crate) fn open_readable(path: &Path) -> Result<(Self, Vec<UnreadableImage>), LayoutError> {
        let json: StackJson = read_versioned(&path.join("stack.json"))?;
        let lean = |directory: Option<&RelativePath>| match directory {
            Some(directory) => ImageDir::open(&path.join(directory)),
            None => Err(LayoutError::Format {
                path: path.join("stack.json"),
                message:
                    "is a stack of archives; use the lean stack that it was made from, or `podman load -i` each archive"
                        .to_owned(),
            }),
        };
        let (mut images, mut models, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        let mut not = |name: &Name, reference: &Reference, error| {
            unreadable.push(UnreadableImage { name: name.clone(), reference: reference.clone(), error });
        };
        let mut last = None;
        for image in &json.images {
            // An index has an entry for each platform and is one directory.
            if last.replace(&image.reference) == Some(&image.reference) {
                continue;
            }
            match lean(image.directory.as_ref()) {
                Ok(found) => images.push(found),
                Err(error) => not(&image.name, &image.reference, error),
            }
        }
        for model in &json.models {
            match lean(model.directory.as_ref()) {
                Ok(found) => models.push((model.name.clone(), found)),
                Err(error) => not(&model.name, &model.reference, error),
            }
        }
        Ok((Self { images, models, services: read_services(path)? }, unreadable))
    }

    /// Images and models, for what treats them alike.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ImageDir> {
        self.images.iter().chain(self.models.iter().map(|(_, model)| model))
    }
}

/// An image or a model of a stack that cannot be read.
#[derive(Debug)]
pub(crate) struct UnreadableImage {
    /// What it is called in its stack.
    pub(crate) name: Name,
    pub(crate) reference: Reference,
    /// Why not.
    pub(crate) error: LayoutError,
}

/// A model's archive that exists already, with its digest.
#[derive(Debug, Clone)]
pub(crate) struct ModelArchive {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The digest of the whole file.
    pub(crate) digest: Digest,
}

/// Writes the archives of a stack into `directory`, which must exist: every model once, the images without weights.
/// Models whose archives exist already are linked to.
///
/// # Errors
/// See [`LayoutError`].
pub(crate) fn write_archives(
    stack: &StackDir,
    directory: &Path,
    existing: &BTreeMap<String, ModelArchive>,
    options: ArchiveOptions<'_>,
) -> Result<(), LayoutError> {
    let images: Vec<&Summary> = stack.images.iter().map(ImageDir::summary).collect();
    let models: Vec<_> = stack.models.iter().map(|(name, model)| (name, model.summary())).collect();
    let json = describe(&images, &models, Form::Archives);
    for folder in ["images", "models"] {
        fs::create_dir_all(directory.join(folder)).at("create", directory)?;
    }
    let (all, weightless) = (Without::default(), Without { models: true, ..Without::default() });
    let mut work: Vec<(PathBuf, &ImageDir, &Without)> = Vec::new();
    let mut sums: Vec<(PathBuf, Digest)> = Vec::new();
    for (name, model) in &stack.models {
        let path = PathBuf::from(format!("models/{name}.tar"));
        if let Some(archive) = existing.get(&**name) {
            std::os::unix::fs::symlink(&archive.path, directory.join(&path)).at("link", &directory.join(&path))?;
            sums.push((path, archive.digest));
        } else {
            work.push((path, model, &all));
        }
    }
    let image =
        |image| (format!("images/{}.tar", file_name(&ImageDir::summary(image).name)).into(), image, &weightless);
    work.extend(stack.images.iter().map(image));
    for (_, image, without) in &work {
        options.progress.expect(archive::payload(image, without));
    }
    let written: Vec<(PathBuf, Digest)> = work
        .iter()
        .par_bridge()
        .map(|(path, image, without)| {
            let digest = archive::write(image, &directory.join(path), true, ArchiveOptions { without, ..options })?;
            let (digest, _) = digest.expect("the digest of everything was asked for");
            Ok((path.clone(), digest))
        })
        .collect::<Result<_, LayoutError>>()?;
    sums.extend(written);
    let mut add = |name: &str, bytes: &[u8]| {
        sums.push((PathBuf::from(name), Digest::of(bytes)));
        write_file(&directory.join(name), bytes, options.progress)
    };
    add("stack.json", &canonical::to_pretty(&json))?;
    if let Some(services) = services_file(&stack.services) {
        add(SERVICES, &services)?;
    }
    add("load.sh", load_script(&json).as_bytes())?;
    let script = directory.join("load.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).at("make executable", &script)?;
    sums.sort();
    let lines: String = sums.iter().map(|(path, digest)| format!("{}  {}\n", digest.hex(), path.display())).collect();
    Ok(write_file(&directory.join("SHA256SUMS"), lines.as_bytes(), options.progress)?)
}

/// `load.sh`: POSIX shell, and Podman, Docker, containerd or k3s, for hosts without windlass. Names and digests are of alphabets that need no
/// quoting, and are quoted all the same.
fn load_script(stack: &StackJson) -> String {
    let by_digest = |reference: &Reference, digest: Digest| format!("{}@{digest}", reference.name());
    // What Docker and containerd may call an image by.
    let ids = |all: &[Digest]| all.iter().map(Digest::to_string).collect::<Vec<_>>().join(",");
    let file = |path: &Option<RelativePath>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let (mut names, mut lines): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    for model in &stack.models {
        let StackModel { name, reference, digest, config_digest, archive, .. } = model;
        names.push(name);
        let (by_digest, file) = (by_digest(reference, *digest), file(archive));
        let ids = ids(&[*digest, *config_digest]);
        lines.push(sh::line(["load", "model", name, reference, &by_digest, &ids, &file, "any"]));
    }
    let mut previous = None;
    for image in &stack.images {
        let StackImage { name, reference, archive, models, .. } = image;
        let digest = image.index_digest.unwrap_or(image.digest);
        // The platforms of an index share one archive.
        if previous == Some(reference) {
            continue;
        }
        previous = Some(reference);
        names.push(name);
        let needs = stack.models.iter().filter(|model| models.contains(&model.name));
        let needs = needs.flat_map(|model| {
            let by_digest = by_digest(&model.reference, model.digest);
            [model.name.to_string(), by_digest, ids(&[model.digest, model.config_digest])]
        });
        let needs: Vec<String> = needs.collect();
        // Podman takes a variant that it does not have for another spelling of its own.
        let of_image = || stack.images.iter().filter(|other| other.reference == *reference);
        let ids = ids(&[digest].into_iter().chain(of_image().map(|image| image.config_digest)).collect::<Vec<_>>());
        let platforms =
            of_image().map(|StackImage { platform, .. }| format!("{}/{}", platform.os, platform.architecture));
        let platforms = platforms.collect::<Vec<_>>().join(",");
        let (by_digest, file) = (by_digest(reference, digest), file(archive));
        let words = ["load", "image", name, reference, &by_digest, &ids, &file, &platforms];
        lines.push(sh::line(words.into_iter().chain(needs.iter().map(String::as_str))));
    }
    include_str!("load.sh").replace("@NAMES@", &names.join(" ")).replace("@LOADS@", &lines.join("\n"))
}
