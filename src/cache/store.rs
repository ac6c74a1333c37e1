//! From an image to an entry, and what is taken away again.
//!
//! Podman writes the image into a folder of the cache. Its layers, read and compared, are renamed to their names among the blobs,
//! so that each is written once, and what was damaged there is replaced. The entry is made beside its place and renamed last: a
//! kill leaves the old entries, and files that the next run uses or removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::entries::{self, BLOBS, CacheEntry, ENTRY, EntryFacts, INPUTS};
use super::key::BuildInputs;
use super::{CacheError, not_of_another, wrong};
use crate::build::bundle;
use crate::build::bundle_content::ImageBundle;
use crate::build::import_image;
use crate::build::upstream_image;
use crate::disk::beneath::Dir;
use crate::disk::bounded;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, leftovers_in};
use crate::image::bundle::SUMS;
use crate::image::layout::ImageDir;
use crate::layer::output::Verify;
use crate::layer::{padding, tar_reader};
use crate::model::read::facts::ModelFormat;
use crate::names::Name;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::spec::OciSpec;

/// The largest file: Git LFS of GitHub takes none of 2 GB.
const MOST: u64 = 1_900_000_000;
/// Layers of this size or less are not searched for weights.
const SMALL: u64 = 4 << 20;
const ATTRIBUTES: &str = "# Written by windlass: blobs are binary, and go to Git LFS where it is installed.\n* -text\nblobs/sha256/* filter=lfs diff=lfs merge=lfs -text\n";

/// A cache that one run changes.
#[derive(Debug)]
pub(crate) struct CacheChange {
    cache: PathBuf,
    /// The folder, locked for as long as this lives.
    _lock: File,
}

/// What a clean-up takes away, or would.
#[derive(Debug, Default)]
pub(crate) struct PrunePlan {
    pub(crate) entries: Vec<PathBuf>,
    /// Files of blobs that no entry needs.
    pub(crate) blobs: Vec<PathBuf>,
    pub(crate) bytes: u64,
    pub(crate) kept: usize,
}

impl CacheChange {
    /// Makes the folder of a cache, and waits for others that change it.
    pub(crate) fn begin(cache: &Path, progress: &Progress) -> Result<Self, CacheError> {
        let there = cache.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        not_of_another(there)?;
        let blobs = cache.join(BLOBS);
        if fs::symlink_metadata(&blobs).is_ok_and(|found| !found.is_dir()) {
            return Err(wrong(&blobs, "it is not a folder, and no link is followed here".to_owned()));
        }
        let sha256 = blobs.join("sha256");
        fs::create_dir_all(&sha256).at("create", &sha256)?;
        let (root, lock) = bundle::lock(cache, progress)?;
        if root.look(".gitattributes")?.is_none() {
            root.add(".gitattributes", ATTRIBUTES.as_bytes(), 0o644)?;
        }
        Ok(Self { cache: cache.to_owned(), _lock: lock })
    }

    /// A folder for an OCI directory with an image that is to be kept; dropped, it is gone.
    pub(crate) fn incoming(&self) -> Result<Staging, CacheError> {
        Ok(Staging::directory(&self.cache.join("incoming"))?)
    }

    /// Makes an entry of the image in an OCI directory of [`incoming`](Self::incoming).
    pub(crate) fn keep(
        &self,
        name: &Name,
        inputs: &BuildInputs,
        layout: &Path,
        created: i64,
        progress: &Progress,
    ) -> Result<CacheEntry, CacheError> {
        self.sweep()?;
        let (repository, tag) = inputs.image.rsplit_once(':').unwrap_or((&inputs.image, ""));
        let spec = OciSpec {
            name: repository.to_owned(),
            tag: Some(tag.to_owned()),
            platform: inputs.platform.clone(),
            layout: layout.to_owned(),
            reference: None,
        };
        let image = upstream_image::image(&import_image::upstream(&spec)?, progress)?;
        let lean = layout.join("lean");
        fs::create_dir(&lean).at("create", &lean)?;
        image.write_lean(&lean, progress)?;
        let image = ImageDir::open(&lean)?;
        let summary = image.summary().clone();
        let mut moved = BTreeSet::new();
        for layer in summary.layers().into_iter().filter(|layer| layer.size <= MOST) {
            if moved.insert(layer.digest) {
                let file = Path::new(crate::image::bundle::BLOBS).join(layer.digest.hex());
                publish(&layout.join(&file), &self.cache.join(&file))?;
            }
        }
        let platform = &summary.platforms[0];
        let facts = EntryFacts {
            version: entries::VERSION,
            key: inputs.key(),
            image: summary.reference.clone(),
            digest: summary.digest,
            config_digest: platform.config_digest,
            size: platform.size,
            created,
        };
        let folder = self.cache.join(&**name);
        fs::create_dir_all(&folder).at("create", &folder)?;
        let path = folder.join(entries::folder_name(facts.key, facts.digest));
        let staging = Staging::directory(&path)?;
        let at = staging.path().to_owned();
        symlink("../../blobs", at.join(BLOBS)).at("create", &at.join(BLOBS))?;
        let mut bundle = ImageBundle::new(Some(MOST)).over_shared_blobs();
        bundle.add_image(image)?;
        bundle.write(&at, Verify::Always, progress)?;
        for (file, bytes) in [(INPUTS, entries::inputs_file(inputs)), (ENTRY, canonical::to_pretty(&facts))] {
            crate::disk::files::write_file(&at.join(file), &bytes, progress)?;
        }
        staging.publish()?;
        let entry = CacheEntry { path, facts };
        // What was built from the same before is never asked for again.
        let (all, _) = entries::of(&self.cache, name)?;
        for old in all.iter().filter(|old| old.facts.key == entry.facts.key && old.path != entry.path) {
            remove(&old.path)?;
        }
        Ok(entry)
    }

    /// Takes away what killed runs have left.
    fn sweep(&self) -> Result<(), CacheError> {
        let root = Dir::open(&self.cache)?;
        for folder in root.names()?.into_keys().map(|name| root.at(name)).chain([self.cache.clone()]) {
            if folder.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                let parent = Dir::open(&folder)?;
                leftovers_in(&parent)?
                    .iter()
                    .filter_map(|path| path.file_name())
                    .try_for_each(|name| parent.remove(name))?;
            }
        }
        Ok(())
    }

    /// Takes away what a plan has: entries first, so that none is there without its blobs.
    pub(crate) fn prune(&self, plan: &PrunePlan) -> Result<(), CacheError> {
        self.sweep()?;
        plan.entries.iter().try_for_each(|entry| remove(entry))?;
        for blob in &plan.blobs {
            fs::remove_file(blob).at("remove", blob)?;
        }
        // The folder of an image that is gone; one that has something of others stays.
        plan.entries.iter().filter_map(|entry| entry.parent()).for_each(|folder| drop(fs::remove_dir(folder)));
        Ok(())
    }
}

/// What is not among the newest entries of each image, and blobs that nothing needs. Entries of an image that is not defined any
/// more go too. Whatever else lies in the folder is not ours. Nothing is changed.
pub(crate) fn plan(cache: &Path, images: &[(&Name, usize)]) -> Result<PrunePlan, CacheError> {
    let mut plan = PrunePlan::default();
    let mut needed = BTreeSet::new();
    if !cache.exists() {
        return Ok(plan);
    }
    let folders = Dir::open(cache)?.names()?;
    let folders = folders.into_keys().filter_map(|name| Name::new(name.into_string().ok()?).ok());
    for name in folders.filter(|name| **name != *BLOBS && cache.join(&**name).is_dir()) {
        let keep = images.iter().find(|(known, _)| **known == name).map_or(0, |(_, keep)| *keep);
        let (all, unreadable) = entries::of(cache, &name)?;
        plan.entries.extend(unreadable.into_iter().map(|(path, _)| path));
        let mut keys = BTreeSet::new();
        for entry in all {
            let is_kept = keys.len() < keep && keys.insert(entry.facts.key);
            match entry.blobs() {
                Ok(blobs) if is_kept => {
                    needed.extend(blobs);
                    plan.kept += 1;
                }
                // One whose blobs are not known could not be loaded.
                _ => plan.entries.push(entry.path),
            }
        }
    }
    let folder = cache.join(crate::image::bundle::BLOBS);
    let names = if folder.exists() { Dir::open(&folder)?.names()? } else { BTreeMap::new() };
    for (name, _) in names {
        let Some(text) = name.to_str() else { continue };
        if crate::build::bundle_files::is_name_of_blob(text) && !needed.contains(text) {
            let path = folder.join(text);
            plan.bytes += path.symlink_metadata().map_or(0, |found| found.len());
            plan.blobs.push(path);
        }
    }
    Ok(plan)
}

/// Takes an entry away: without its sums it is not an entry any more.
fn remove(entry: &Path) -> Result<(), CacheError> {
    let parent = Dir::open(&crate::disk::files::parent_of(entry))?;
    let name = entry.file_name().unwrap_or_default();
    for file in [ENTRY, SUMS] {
        drop(fs::remove_file(entry.join(file)));
    }
    Ok(parent.remove(name)?)
}

/// Makes a file durable and gives it a name on the same file system; whatever had that name is replaced.
fn publish(from: &Path, to: &Path) -> Result<(), CacheError> {
    let file = bounded::open(from).at("open", from)?;
    file.set_permissions(fs::Permissions::from_mode(0o644)).at("set the mode of", from)?;
    file.sync_all().at("sync", from)?;
    Ok(fs::rename(from, to).at("rename to", to)?)
}

/// Weights of models in the layers of an OCI directory, with their sizes.
pub(crate) fn weights(layout: &Path, progress: &Progress) -> Result<Vec<(String, u64)>, CacheError> {
    let folder = layout.join(crate::image::bundle::BLOBS);
    let mut found = Vec::new();
    for name in Dir::open(&folder)?.names()?.into_keys() {
        let path = folder.join(&name);
        if path.metadata().at("read", &path)?.len() <= SMALL {
            continue;
        }
        let mut file = io::BufReader::with_capacity(1 << 16, bounded::open(&path).at("open", &path)?);
        // What is no archive, the import tells.
        while let Ok(Some(member)) = tar_reader::next(&mut file) {
            progress.check().at("read", &path)?;
            let name = member.path().display().to_string();
            if ModelFormat::ALL.iter().any(|format| name.ends_with(format.ending())) {
                found.push((name, member.size));
            }
            let all = member.size + padding(member.size);
            if io::copy(&mut file.by_ref().take(all), &mut io::sink()).at("read", &path)? < all {
                break;
            }
        }
    }
    Ok(found)
}

/// The digest of a folder that is another context: of everything in it.
pub(super) fn digest_of(files: &impl serde::Serialize) -> Digest {
    Digest::of(&canonical::to_bytes(files))
}
