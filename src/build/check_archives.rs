//! Whether the archives of a stack are what its `stack.json` and `SHA256SUMS` say. Every byte is read, once.
//!
//! The sum of a file says that it is damaged; the blobs in it, which are called by their digests, say what of it, and whether it
//! is the archive of another image.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use crate::build::stack::{StackJson, StackLayer};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::image::LayerKind;
use crate::image::bundle::SUMS;
use crate::image::json::read_versioned;
use crate::layer::padding;
use crate::layer::tar_reader::{self, TarMemberKind};
use crate::names::RelativePath;
use crate::oci::digest::{Digest, Hasher};
use crate::oci::reference::Reference;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArchiveProblem {
    /// The images and models that the file is of; none of a file of the stack itself.
    pub(crate) images: Vec<String>,
    /// The layer that went bad, if that is known: what is in it, and its digest.
    pub(crate) layer: Option<(String, Digest)>,
    /// The file, relative to the stack.
    pub(crate) file: PathBuf,
    /// What is wrong, in words that go on from the file.
    pub(crate) what: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct CheckedArchives {
    /// How many images and models.
    pub(crate) images: usize,
    /// How many layers are in the archives.
    pub(crate) layers: usize,
    /// What is left out of images, and who has it: the image, which image is expected, and how many layers and bytes.
    pub(crate) expects: Vec<ExpectedLayers>,
    /// What contradicts `stack.json` or `SHA256SUMS`.
    pub(crate) problems: Vec<ArchiveProblem>,
}

/// Layers that an image of a bundle is without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExpectedLayers {
    /// The image that is in the bundle.
    pub(crate) image: Reference,
    /// The image that has them; none where another bundle brings them, as it does with `--without models`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<Reference>,
    /// The digest of that image's manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
    pub(crate) layers: usize,
    pub(crate) bytes: u64,
}

/// An archive, as `stack.json` has it.
#[derive(Default)]
struct ExpectedArchive {
    images: Vec<String>,
    /// What its index names.
    top: Option<Digest>,
    /// Manifests and configs.
    small: BTreeSet<Digest>,
    layers: BTreeMap<Digest, String>,
}

/// What an archive holds.
struct ReadArchive {
    whole: Digest,
    size: u64,
    /// Blobs by the digest that they are called by, with that of their bytes.
    blobs: BTreeMap<String, Digest>,
    index: Vec<u8>,
    /// Why it could not be read to its end.
    broken: Option<String>,
}

/// Reads all files of a stack of archives.
///
/// # Errors
/// If the job is told to stop; what is wrong with a file is no error.
pub(crate) fn check(stack: &Path, progress: &Progress) -> io::Result<CheckedArchives> {
    let mut checked = CheckedArchives::default();
    let wrong = |file: &str, what: String| ArchiveProblem { images: Vec::new(), layer: None, file: file.into(), what };
    let sums = match bounded::text(&stack.join(SUMS), Cap::Document) {
        Ok(text) => sums(&text),
        Err(error) => {
            checked.problems.push(wrong(SUMS, unreadable(&error)));
            BTreeMap::new()
        }
    };
    let archives = match read_versioned::<StackJson>(&stack.join("stack.json")) {
        Ok(json) => expected(&json),
        Err(error) => {
            checked.problems.push(wrong("stack.json", format!("cannot be read: {error}")));
            BTreeMap::new()
        }
    };
    checked.images = archives.values().map(|archive| archive.images.len()).sum();
    checked.layers = archives.values().map(|archive| archive.layers.len()).sum();
    let others = sums.keys().filter(|path| !archives.contains_key(*path)).map(|path| (path, None));
    let all: Vec<(&PathBuf, Option<&ExpectedArchive>)> =
        archives.iter().map(|(path, archive)| (path, Some(archive))).chain(others).collect();
    let size = |path: &Path| std::fs::metadata(stack.join(path)).map_or(0, |metadata| metadata.len());
    progress.expect(all.iter().map(|(path, _)| size(path)).sum());
    let found: Vec<Vec<ArchiveProblem>> = all
        .par_iter()
        .with_max_len(1)
        .map(|(path, archive)| check_file(stack, path, *archive, (&sums, !sums.is_empty()), progress))
        .collect();
    progress.check()?;
    checked.problems.extend(found.into_iter().flatten());
    Ok(checked)
}

/// The lines of `SHA256SUMS`. One that is not a digest and a path in the stack is of no file.
pub(super) fn sums(text: &str) -> BTreeMap<PathBuf, Digest> {
    let line = |line: &str| {
        let (digest, path) = line.split_once("  ")?;
        RelativePath::new(path).ok()?;
        Some((PathBuf::from(path), Digest::from_hex(digest).ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn expected(json: &StackJson) -> BTreeMap<PathBuf, ExpectedArchive> {
    let mut archives: BTreeMap<PathBuf, ExpectedArchive> = BTreeMap::new();
    let add =
        |archive: &mut ExpectedArchive, name: String, (layers, without): (&[StackLayer], &[Digest]), with_models| {
            if !archive.images.contains(&name) {
                archive.images.push(name);
            }
            let is_in = |layer: &&StackLayer| {
                (with_models || layer.kind != LayerKind::Model) && !without.contains(&layer.digest)
            };
            let layers = layers.iter().filter(is_in);
            archive.layers.extend(layers.map(|layer| (layer.digest, layer.title.clone())));
        };
    for image in &json.images {
        let Some(path) = &image.archive else { continue };
        let archive = archives.entry(path.to_path_buf()).or_default();
        archive.top = Some(image.index_digest.unwrap_or(image.digest));
        archive.small.extend([image.digest, image.config_digest].into_iter().chain(image.index_digest));
        // A bundle tells what each archive is without; the images of a stack are all without the weights.
        let with_models = image.archive_size.is_some();
        add(archive, image.reference.to_string(), (&image.layers, &image.without), with_models);
    }
    for model in &json.models {
        let Some(path) = &model.archive else { continue };
        let archive = archives.entry(path.to_path_buf()).or_default();
        archive.top = Some(model.digest);
        archive.small.extend([model.digest, model.config_digest]);
        add(archive, model.reference.to_string(), (&model.layers, &model.without), true);
    }
    archives
}

fn check_file(
    stack: &Path,
    path: &Path,
    archive: Option<&ExpectedArchive>,
    (sums, has_sums): (&BTreeMap<PathBuf, Digest>, bool),
    progress: &Progress,
) -> Vec<ArchiveProblem> {
    let images = archive.map(|archive| archive.images.clone()).unwrap_or_default();
    let wrong = |layer: Option<(String, Digest)>, what: String| ArchiveProblem {
        images: images.clone(),
        layer,
        file: path.to_owned(),
        what,
    };
    let read = match read(&stack.join(path), archive.is_some(), progress) {
        Ok(read) => read,
        Err(error) => return vec![wrong(None, unreadable(&error))],
    };
    if read.size == 0 {
        return vec![wrong(None, "is empty".to_owned())];
    }
    let mut problems = Vec::new();
    if let Some(archive) = archive {
        let named = top_of(&read.index);
        if let (Some(named), Some(top)) = (named, archive.top)
            && named != top
        {
            problems.push(wrong(None, format!("holds another image: {named} instead of {top}")));
        } else {
            let found = |digest: &Digest| read.blobs.get(&digest.hex());
            for (digest, title) in &archive.layers {
                match found(digest) {
                    Some(bytes) if bytes == digest => {}
                    Some(_) => problems.push(wrong(Some((title.clone(), *digest)), "has other bytes in it".to_owned())),
                    None if read.broken.is_some() => {}
                    None => problems.push(wrong(Some((title.clone(), *digest)), "does not have it".to_owned())),
                }
            }
            for digest in &archive.small {
                match found(digest) {
                    Some(bytes) if bytes == digest => {}
                    Some(_) => problems.push(wrong(None, format!("has other bytes in {digest}"))),
                    None if read.broken.is_some() => {}
                    None => problems.push(wrong(None, format!("does not have {digest}"))),
                }
            }
        }
        problems.extend(read.broken.iter().map(|why| wrong(None, format!("cannot be read: {why}"))));
    }
    match sums.get(path) {
        Some(sum) if *sum != read.whole && problems.is_empty() => {
            problems.push(wrong(None, format!("does not have the sum that {SUMS} has")));
        }
        None if has_sums => problems.push(wrong(None, format!("is not in {SUMS}"))),
        _ => {}
    }
    problems
}

/// The digest that an `index.json` names.
fn top_of(index: &[u8]) -> Option<Digest> {
    let index: serde_json::Value = serde_json::from_slice(index).ok()?;
    index["manifests"][0]["digest"].as_str()?.parse().ok()
}

pub(super) fn unreadable(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound { "is not there".to_owned() } else { format!("cannot be read: {error}") }
}

/// A file whose bytes are hashed and counted as they are read.
struct HashedFile<'a> {
    file: File,
    hasher: Hasher,
    progress: &'a Progress,
}

impl Read for HashedFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.check()?;
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.progress.count_read(count as u64);
        Ok(count)
    }
}

fn read(path: &Path, is_archive: bool, progress: &Progress) -> io::Result<ReadArchive> {
    let file = HashedFile { file: bounded::open(path)?, hasher: Hasher::new(), progress };
    let mut stream = io::BufReader::with_capacity(1 << 20, file);
    let (mut blobs, mut index, mut broken) = (BTreeMap::new(), Vec::new(), None);
    if is_archive {
        broken = members(&mut stream, &mut blobs, &mut index).err();
    }
    io::copy(&mut stream, &mut io::sink())?;
    let (whole, size) = stream.into_inner().hasher.finish();
    Ok(ReadArchive { whole, size, blobs, index, broken })
}

/// Hashes the blobs of an archive.
fn members(from: &mut dyn Read, blobs: &mut BTreeMap<String, Digest>, index: &mut Vec<u8>) -> Result<(), String> {
    let mut buffer = vec![0; 1 << 20];
    while let Some(member) = tar_reader::next(from).map_err(|error| error.to_string())? {
        let path = member.path();
        let is_index = path == Path::new("index.json");
        let (mut hasher, mut left) = (Hasher::new(), member.size);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = from.read(&mut buffer[..most]).map_err(|error| error.to_string())?;
            if count == 0 {
                return Err(format!("it ends in the middle of {}", path.display()));
            }
            hasher.update(&buffer[..count]);
            if is_index && index.len() < buffer.len() {
                index.extend_from_slice(&buffer[..count]);
            }
            left -= count as u64;
        }
        io::copy(&mut from.take(padding(member.size)), &mut io::sink()).map_err(|error| error.to_string())?;
        if let Some(name) = path.strip_prefix("blobs/sha256").ok().and_then(Path::to_str)
            && member.kind == TarMemberKind::File
        {
            blobs.insert(name.to_owned(), hasher.finish().0);
        }
    }
    Ok(())
}
