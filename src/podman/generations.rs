//! What was loaded into a Podman, load after load, so that each can be kept, compared and gone back to.
//!
//! ```text
//! <graph root>/windlass/
//!   lock                          held by the one windlass that changes what is loaded
//!   current                       the number of the generation that is loaded now
//!   generations/<number>/
//!     generation.json             the images and models, with their digests
//!     attempt                     of a load that Podman has not confirmed: it is no generation yet
//!     images/<name>/              image directories that are not in the Nix store, copied (kilobytes)
//!     roots/<name> -> /nix/store/…  what Nix must not collect
//! ```
//!
//! The folder lies in the graph root because it speaks of what that graph root has. Loading the same again makes no new
//! generation. A new one gets the number after the highest that is there; going back makes an old generation current and
//! removes nothing. Only what Podman has confirmed is a generation. A load that failed, or is not finished, keeps its roots
//! as an attempt, so that Nix and a clean-up leave it what the next try needs; the next attempt takes its place.
//!
//! A root is known to Nix through a link in `gcroots/auto` (Nix manual, *Garbage collector roots*): when the generation is
//! removed, or the graph root is, the link leads nowhere and Nix drops it by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lock;
use super::survey::by_digest;
use crate::beneath::Dir;
use crate::blobs::{self, At, Staging, WriteError};
use crate::canonical;
use crate::digest::Digest;
use crate::image::LayerRecord;
use crate::layout::{ImageDir, ImageKind, LayoutError, PlatformRecord, VERSION, read_versioned};
use crate::names::Name;
use crate::nix_store::NixPlaces;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::{Reference, Repository};

/// Why generations cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// A file.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// An image directory or a generation that cannot be read.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// A number that is not there.
    #[error("there is no generation {number}; there are: {}", list(.there))]
    Unknown {
        /// What was asked for.
        number: u64,
        /// What there is.
        there: Vec<u64>,
    },
}

fn list(numbers: &[u64]) -> String {
    if numbers.is_empty() {
        return "none".to_owned();
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// One image or model of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// What it is called in its stack: `redis`.
    pub name: Name,
    /// Whether it is an image or a model.
    pub kind: ImageKind,
    /// What it came with: names of stacks, or of the image. A load replaces all that came with the same.
    pub origins: BTreeSet<String>,
    /// Name with its registry, without the tag.
    pub repository: Repository,
    /// Name and tag.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Digest of the manifest, or of the index where there are several platforms.
    pub digest: Digest,
    /// Digest of the manifest of this platform.
    pub manifest_digest: Digest,
    /// Digest of the config: Podman's image ID.
    pub config_digest: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// Bytes of all its layers.
    pub size: u64,
    /// Names of its models.
    pub models: Vec<Name>,
    /// Its image directory; relative to the generation where it was copied.
    pub directory: PathBuf,
}

impl Entry {
    /// Describes one platform of an image directory.
    #[must_use]
    pub fn new(image: &ImageDir, platform: &PlatformRecord, name: &Name, origins: &BTreeSet<String>) -> Self {
        let summary = image.summary();
        Self {
            name: name.clone(),
            kind: summary.kind,
            origins: origins.clone(),
            repository: summary.name.clone(),
            reference: summary.reference.clone(),
            digest: summary.digest,
            manifest_digest: platform.digest,
            config_digest: platform.config_digest,
            platform: platform.platform.clone(),
            size: platform.layers.iter().map(LayerRecord::diff_size).sum(),
            models: platform.models.clone(),
            directory: fs::canonicalize(image.path()).unwrap_or_else(|_| image.path().to_owned()),
        }
    }

    /// The names that a load gives it: name and tag, and the name with each of its digests.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = vec![self.reference.to_string(), by_digest(&self.repository, self.manifest_digest)];
        if self.digest != self.manifest_digest {
            names.push(by_digest(&self.repository, self.digest));
        }
        names
    }

    /// Whether both are the same image, wherever their directories are.
    fn is_same(&self, other: &Self) -> bool {
        let identity = |entry: &Self| Self { directory: PathBuf::new(), ..entry.clone() };
        identity(self) == identity(other)
    }
}

/// In the folder of an attempt.
const ATTEMPT: &str = "attempt";

/// What was loaded at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// [`VERSION`].
    pub version: u32,
    /// Its number, from 1.
    pub number: u64,
    /// Images and models, by kind and name.
    pub entries: Vec<Entry>,
}

/// The generations of one graph root.
#[derive(Debug, Clone)]
pub struct Generations {
    folder: PathBuf,
}

impl Generations {
    /// Of this graph root; nothing is made.
    #[must_use]
    pub fn of(graph_root: &Path) -> Self {
        Self { folder: graph_root.join("windlass") }
    }

    /// Those in this folder, which [`folder`](Self::folder) gave.
    #[must_use]
    pub const fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Their folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes what is loaded for changing it, waiting for another windlass that does.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn lock(&self, progress: &Progress) -> Result<File, WriteError> {
        fs::create_dir_all(&self.folder).at("create", &self.folder)?;
        lock::file(&self.folder.join("lock"), progress)
    }

    /// Where one of them is.
    #[must_use]
    pub fn folder_of(&self, number: u64) -> PathBuf {
        self.folder.join("generations").join(number.to_string())
    }

    /// The numbers of all generations, ascending.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn numbers(&self) -> Result<Vec<u64>, WriteError> {
        let mut numbers = self.folders()?;
        numbers.retain(|number| !self.is_attempt(*number));
        Ok(numbers)
    }

    fn is_attempt(&self, number: u64) -> bool {
        self.folder_of(number).join(ATTEMPT).exists()
    }

    /// The numbers of all generations and attempts, ascending.
    fn folders(&self) -> Result<Vec<u64>, WriteError> {
        let folder = self.folder.join("generations");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at("read", &folder)?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            numbers.extend(entry.at("read", &folder)?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// One generation, with the paths of its image directories made absolute.
    ///
    /// # Errors
    /// If there is none with this number, or it cannot be read.
    pub fn read(&self, number: u64) -> Result<Generation, GenerationError> {
        if !self.folders()?.contains(&number) {
            return Err(GenerationError::Unknown { number, there: self.numbers()? });
        }
        let folder = self.folder_of(number);
        let mut generation: Generation = read_versioned(&folder.join("generation.json"))?;
        for entry in &mut generation.entries {
            entry.directory = folder.join(&entry.directory);
        }
        Ok(generation)
    }

    /// When a generation was made, in seconds after the epoch.
    #[must_use]
    pub fn made(&self, number: u64) -> Option<i64> {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.folder_of(number).join("generation.json")).ok().map(|metadata| metadata.mtime())
    }

    /// The generation that is loaded now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn current(&self) -> Result<Option<Generation>, GenerationError> {
        let path = self.folder.join("current");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.at("read", &path)?,
        };
        match text.trim().parse() {
            Ok(number) => self.read(number).map(Some),
            Err(_) => Err(WriteError { action: "read", path, source: io::ErrorKind::InvalidData.into() }.into()),
        }
    }

    /// Every generation, ascending.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn all(&self) -> Result<Vec<Generation>, GenerationError> {
        self.numbers()?.into_iter().map(|number| self.read(number)).collect()
    }

    /// Loads that failed or are not finished, ascending. What they hold may be loaded, or needed by the next try.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn attempts(&self) -> Result<Vec<Generation>, GenerationError> {
        let numbers = self.folders()?.into_iter().filter(|number| self.is_attempt(*number));
        numbers.map(|number| self.read(number)).collect()
    }

    /// Makes an attempt a generation, and the current one: Podman has confirmed all of it.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn confirm(&self, number: u64, progress: &Progress) -> Result<(), WriteError> {
        let mark = self.folder_of(number).join(ATTEMPT);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("remove", &mark),
            _ => {}
        }
        self.make_current(number, progress)
    }

    /// What the generation after a load holds: what is there, without what came with the same origins alone, and the new.
    /// With `only_named` nothing goes but what has a new entry.
    #[must_use]
    pub fn merge(current: Option<&Generation>, mut new: Vec<Entry>, only_named: bool) -> Vec<Entry> {
        let origins: BTreeSet<String> = new.iter().flat_map(|entry| entry.origins.iter().cloned()).collect();
        let mut entries: Vec<Entry> = Vec::new();
        for mut old in current.into_iter().flat_map(|current| current.entries.iter().cloned()) {
            let mut successors =
                new.iter_mut().filter(|entry| entry.kind == old.kind && entry.repository == old.repository).peekable();
            if successors.peek().is_some() {
                // What came with something else too is still wanted when this origin has it no more.
                let same = successors.find(|entry| entry.reference == old.reference && entry.digest == old.digest);
                same.into_iter().for_each(|entry| entry.origins.append(&mut old.origins));
                continue;
            }
            if !only_named {
                old.origins.retain(|origin| !origins.contains(origin));
            }
            entries.extend(Some(old).filter(|old| !old.origins.is_empty()));
        }
        entries.extend(new);
        entries.sort_by(|a, b| (a.kind as u8, &a.name, &a.reference).cmp(&(b.kind as u8, &b.name, &b.reference)));
        entries
    }

    /// Whether a generation holds these.
    #[must_use]
    pub fn is_same(generation: &Generation, entries: &[Entry]) -> bool {
        generation.entries.len() == entries.len()
            && generation.entries.iter().zip(entries).all(|(old, new)| old.is_same(new))
    }

    /// Writes a new attempt, with roots for all that it needs from the Nix store: first is what it holds kept from Nix's
    /// garbage collector, then loaded, then it is [confirmed](Self::confirm). Older attempts are for
    /// [`forget_attempts`](Self::forget_attempts), when the roots are registered.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn add(&self, entries: &[Entry], nix: &NixPlaces, progress: &Progress) -> Result<Generation, GenerationError> {
        let number = self.folders()?.last().map_or(1, |last| last + 1);
        let folder = self.folder_of(number);
        let parent = self.folder.join("generations");
        fs::create_dir_all(&parent).at("create", &parent)?;
        let staging = Staging::directory(&folder)?;
        let mut generation = Generation { version: VERSION, number, entries: entries.to_vec() };
        let mut roots: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (n, entry) in generation.entries.iter_mut().enumerate() {
            let image = ImageDir::open(&entry.directory)?;
            if let Some((name, path)) = store_path(&nix.store, &entry.directory) {
                roots.insert(name, path);
                continue;
            }
            let copy = PathBuf::from(format!("images/{n}-{}", entry.name));
            let target = staging.path().join(&copy);
            fs::create_dir_all(&target).at("create", &target)?;
            image.image().write_lean(&target, progress)?;
            entry.directory = copy;
            let sources = image.image().recipes.values().flat_map(|made| made.recipe.sources());
            roots.extend(sources.filter_map(|source| store_path(&nix.store, source)));
        }
        let links = staging.path().join("roots");
        fs::create_dir_all(&links).at("create", &links)?;
        for (name, path) in &roots {
            symlink(path, links.join(name)).at("create", &links.join(name))?;
        }
        blobs::write_file(&staging.path().join(ATTEMPT), b"", progress)?;
        let json = staging.path().join("generation.json");
        blobs::write_file(&json, &canonical::to_pretty(&generation), progress)?;
        staging.publish()?;
        self.read(number)
    }

    /// Removes all attempts but this one.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn forget_attempts(&self, but: u64) -> Result<(), WriteError> {
        let numbers = self.folders()?.into_iter().filter(|number| *number != but && self.is_attempt(*number));
        numbers.collect::<Vec<_>>().into_iter().try_for_each(|number| self.remove(number))
    }

    /// The links of a generation that Nix must take for roots, each with the store path that it keeps.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn roots(&self, number: u64) -> Result<Vec<(PathBuf, PathBuf)>, WriteError> {
        let folder = self.folder_of(number).join("roots");
        let mut roots = Vec::new();
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let link = entry.at("read", &folder)?.path();
            let target = fs::read_link(&link).at("read", &link)?;
            roots.push((link, target));
        }
        roots.sort();
        Ok(roots)
    }

    /// Says which generation is loaded now.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn make_current(&self, number: u64, progress: &Progress) -> Result<(), WriteError> {
        let staging = Staging::file(&self.folder.join("current"))?;
        blobs::write_file(staging.path(), format!("{number}\n").as_bytes(), progress)?;
        staging.publish()
    }

    /// What killed runs have left: stagings, and generations that were being removed.
    ///
    /// # Errors
    /// If the folders cannot be read.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, WriteError> {
        let folder = self.folder.join("generations");
        let mut leftovers = blobs::leftovers(&self.folder)?;
        leftovers.extend(blobs::leftovers(&folder)?);
        let removed = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "removed");
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        leftovers.extend(entries.map(|entry| entry.path()).filter(removed));
        leftovers.sort();
        Ok(leftovers)
    }

    /// Removes a generation; what it loaded stays.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn remove(&self, number: u64) -> Result<(), WriteError> {
        let folder = self.folder_of(number);
        // Out of sight first: a half-removed one must not be read.
        let (all, gone) = (Dir::open(folder.parent().unwrap_or(&folder))?, format!(".{number}.removed"));
        all.remove(&gone)?;
        all.rename(number.to_string().as_ref(), &all, gone.as_ref())?;
        all.remove(&gone)
    }
}

/// The store path that a path is in, and its name.
pub(super) fn store_path(store: &Path, path: &Path) -> Option<(String, PathBuf)> {
    let name = path.strip_prefix(store).ok()?.components().next()?.as_os_str().to_str()?.to_owned();
    Some((name.clone(), store.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(repository: &str, version: u8, origin: &str) -> Entry {
        let digest = Digest::of(&[version]);
        Entry {
            name: Name::new(repository).unwrap(),
            kind: ImageKind::Image,
            origins: [origin.to_owned()].into(),
            repository: format!("localhost/{repository}").parse().unwrap(),
            reference: Reference::new(repository, &version.to_string()).unwrap(),
            digest,
            manifest_digest: digest,
            config_digest: digest,
            platform: Platform::default(),
            size: 0,
            models: Vec::new(),
            directory: PathBuf::new(),
        }
    }

    #[test]
    fn what_two_stacks_have_goes_with_the_last_one() {
        let mut current: Option<Generation> = None;
        let mut load = |entries: &[(&str, u8)], origin: &str, only_named: bool| {
            let new = entries.iter().map(|(name, version)| entry(name, *version, origin)).collect();
            let entries = Generations::merge(current.as_ref(), new, only_named);
            let same = current.as_ref().is_some_and(|current| Generations::is_same(current, &entries));
            let told = entries.iter().map(|entry| {
                let origins: Vec<&str> = entry.origins.iter().map(String::as_str).collect();
                format!("{} {}", entry.reference.trim_start_matches("localhost/"), origins.concat())
            });
            let told = told.collect::<Vec<_>>().join(", ");
            current = Some(Generation { version: VERSION, number: 1, entries });
            (told, same)
        };
        let all = "app:1 a, m:1 ab, web:1 b".to_owned();
        assert_eq!(load(&[("app", 1), ("m", 1)], "a", false), ("app:1 a, m:1 a".to_owned(), false));
        assert_eq!(load(&[("web", 1), ("m", 1)], "b", false), (all.clone(), false));
        // Both again, in turn, change nothing.
        assert_eq!(load(&[("app", 1), ("m", 1)], "a", false), (all.clone(), true));
        assert_eq!(load(&[("web", 1), ("m", 1)], "b", false), (all.clone(), true));
        assert_eq!(load(&[("web", 2)], "b", true), ("app:1 a, m:1 ab, web:2 b".to_owned(), false));
        assert_eq!(load(&[("app", 2)], "a", false), ("app:2 a, m:1 b, web:2 b".to_owned(), false));
        assert_eq!(load(&[("web", 2)], "b", false), ("app:2 a, web:2 b".to_owned(), false));
    }
}
