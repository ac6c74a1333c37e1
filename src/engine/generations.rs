//! What was loaded into an engine, load after load, so that each can be kept, compared and gone back to.
//!
//! ```text
//! <state>/                        of Podman: <graph root>/windlass
//!   lock                          held by the one windlass that changes what is loaded
//!   current                       the number of the generation that is loaded now
//!   generations/<number>/
//!     generation.json             the images and models, with their digests
//!     attempt                     of a load that the engine has not confirmed: it is not a generation yet
//!     images/<name>/              image directories that are not in the Nix store, copied (kilobytes)
//!     roots/<name> -> /nix/store/…  what Nix must not collect
//! ```
//!
//! The engine says where its state is ([`Engine::state`](super::Engine::state)). Loading the same again makes no new
//! generation. A new one gets the number after the highest that is there; going back makes an old generation current and
//! removes nothing. Only what the engine has confirmed is a generation. A load that failed, or is not finished, keeps its roots
//! as an attempt, so that Nix and a clean-up leave it what the next try needs; the next attempt takes its place.
//!
//! A root is known to Nix through a link in `gcroots/auto` (Nix manual, *Garbage collector roots*): when the generation is
//! removed, or the state is, the link leads nowhere and Nix drops it by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::generation::{Generation, GenerationEntry};
use crate::class::{Class, Classified};
use crate::disk::beneath::Dir;
use crate::disk::files::write_file;
use crate::disk::own_folder::{MOST_NAMES, OwnFolder};
use crate::disk::progress::Progress;
use crate::disk::{self, AtPath, Staging, WriteError, own_lock};
use crate::image::closure::ImageClosure;
use crate::image::json::parse_versioned;
use crate::image::layout::{ImageDir, LayoutError, VERSION};
use crate::image::recipes::sources;
use crate::names::no_such;
use crate::nix::store::NixPlaces;
use crate::oci::canonical;

/// Why generations cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// A file.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An image directory or a generation that cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A number that is not there.
    #[error("{}", no_such("generation", .number, "", .there))]
    Unknown {
        /// What was asked for.
        number: u64,
        /// What there is.
        there: Vec<u64>,
    },
}

impl Classified for GenerationError {
    fn class(&self) -> Class {
        match self {
            Self::Write(error) => error.class(),
            Self::Layout(error) => error.class(),
            Self::Unknown { .. } => Class::Usage,
        }
    }
}

/// The folder of all generations.
const ALL: &str = "generations";

/// What one holds.
const JSON: &str = "generation.json";

/// The file with the number of the one that is loaded now.
const CURRENT: &str = "current";

/// In the folder of an attempt.
const ATTEMPT: &str = "attempt";

/// The generations of one engine.
#[derive(Debug, Clone)]
pub struct Generations {
    state: OwnFolder,
    /// What messages call the folder of all.
    folder: PathBuf,
}

impl Generations {
    /// Those in this folder, which is the caller's own; nothing is made. What another user has put there is refused.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self { state: OwnFolder::own(&folder), folder }
    }

    /// Those in a folder that may be another user's: they are only read.
    #[must_use]
    pub(crate) fn of_another(folder: PathBuf) -> Self {
        Self { state: OwnFolder::of_another(&folder), folder }
    }

    /// How what is in their folder is reached.
    pub(crate) const fn state(&self) -> &OwnFolder {
        &self.state
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
    pub(crate) fn lock(&self, progress: &Progress) -> Result<File, WriteError> {
        own_lock::take(&self.state.make(&[])?, "lock", progress)
    }

    /// Where one of them is.
    #[must_use]
    pub(crate) fn folder_of(&self, number: u64) -> PathBuf {
        self.folder.join(ALL).join(number.to_string())
    }

    /// The numbers of all generations, ascending.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn numbers(&self) -> Result<Vec<u64>, WriteError> {
        self.of_kind(false)
    }

    /// The numbers of all attempts, or of all that are none.
    fn of_kind(&self, attempts: bool) -> Result<Vec<u64>, WriteError> {
        let mut numbers = Vec::new();
        for number in self.folders()? {
            let folder = self.find(number)?;
            let marked = folder.is_some_and(|folder| folder.look(ATTEMPT).is_ok_and(|mark| mark.is_some()));
            numbers.extend(Some(number).filter(|_| marked == attempts));
        }
        Ok(numbers)
    }

    /// The folder of one of them, open.
    fn find(&self, number: u64) -> Result<Option<Dir>, WriteError> {
        self.state.find(&[ALL, &number.to_string()])
    }

    /// The numbers of all generations and attempts, ascending.
    fn folders(&self) -> Result<Vec<u64>, WriteError> {
        let Some(all) = self.state.find(&[ALL])? else { return Ok(Vec::new()) };
        let names = all.few_names(MOST_NAMES)?;
        let mut numbers: Vec<u64> = names.keys().filter_map(|name| name.to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// One generation, with the paths of its image directories made absolute.
    ///
    /// # Errors
    /// If no generation has this number, or it cannot be read.
    pub fn read(&self, number: u64) -> Result<Generation, GenerationError> {
        let Some(folder) = self.find(number)? else {
            return Err(GenerationError::Unknown { number, there: self.numbers()? });
        };
        let path = folder.at(JSON);
        let missing = || WriteError { action: "read", path: path.clone(), source: io::ErrorKind::NotFound.into() };
        let json = self.state.read(&folder, JSON)?.ok_or_else(missing)?;
        let mut generation: Generation = parse_versioned(&path, &json)?;
        for entry in &mut generation.entries {
            entry.directory = folder.path().join(&entry.directory);
        }
        Ok(generation)
    }

    /// When a generation was made, in seconds after the epoch.
    #[must_use]
    pub(crate) fn made(&self, number: u64) -> Option<i64> {
        self.find(number).ok()??.look(JSON).ok()?.map(|found| found.st_mtime)
    }

    /// The generation that is loaded now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn current(&self) -> Result<Option<Generation>, GenerationError> {
        let Some(folder) = self.state.find(&[])? else { return Ok(None) };
        let Some(text) = self.state.read(&folder, CURRENT)? else { return Ok(None) };
        let path = folder.at(CURRENT);
        match std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()) {
            Some(number) => self.read(number).map(Some),
            None => Err(WriteError { action: "read", path, source: io::ErrorKind::InvalidData.into() }.into()),
        }
    }

    /// Every generation, ascending.
    ///
    /// # Errors
    /// If one cannot be read.
    pub(crate) fn all(&self) -> Result<Vec<Generation>, GenerationError> {
        self.numbers()?.into_iter().map(|number| self.read(number)).collect()
    }

    /// Loads that failed or are not finished, ascending. What they hold may be loaded, or needed by the next try.
    ///
    /// # Errors
    /// If one cannot be read.
    pub(crate) fn attempts(&self) -> Result<Vec<Generation>, GenerationError> {
        self.of_kind(true)?.into_iter().map(|number| self.read(number)).collect()
    }

    /// Makes an attempt a generation, and the current one: the engine has confirmed all of it.
    ///
    /// # Errors
    /// With the path at fault.
    pub(crate) fn confirm(&self, number: u64, progress: &Progress) -> Result<(), WriteError> {
        if let Some(folder) = self.find(number)? {
            folder.remove(ATTEMPT)?;
        }
        self.make_current(number, progress)
    }

    /// What the generation after a load holds: what is there, without what came with the same origins alone, and the new.
    /// With `only_named` nothing goes but what has a new entry.
    #[must_use]
    pub(crate) fn merge(
        current: Option<&Generation>,
        mut new: Vec<GenerationEntry>,
        only_named: bool,
    ) -> Vec<GenerationEntry> {
        let origins: BTreeSet<String> = new.iter().flat_map(|entry| entry.origins.iter().cloned()).collect();
        let mut entries: Vec<GenerationEntry> = Vec::new();
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
    pub(crate) fn is_same(generation: &Generation, entries: &[GenerationEntry]) -> bool {
        generation.entries.len() == entries.len()
            && generation.entries.iter().zip(entries).all(|(old, new)| old.is_same(new))
    }

    /// Writes a new attempt, with roots for all that it needs from the Nix store: first is what it holds kept from Nix's
    /// garbage collector, then loaded, then it is [confirmed](Self::confirm). Older attempts are for
    /// [`forget_attempts`](Self::forget_attempts), when the roots are registered.
    ///
    /// # Errors
    /// With the path at fault.
    pub(crate) fn add(
        &self,
        entries: &[GenerationEntry],
        nix: &NixPlaces,
        progress: &Progress,
    ) -> Result<Generation, GenerationError> {
        let number = self.folders()?.last().map_or(1, |last| last + 1);
        let staging = Staging::directory_in(&self.state.make(&[ALL])?, &number.to_string())?;
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
            image.to_memory()?.write_lean(&target, progress)?;
            entry.directory = copy;
            let sources = sources(&image.image().recipes);
            roots.extend(sources.filter_map(|source| store_path(&nix.store, source)));
            // What a bundle brought has no recipes; its store paths may have been put back.
            let closure =
                if image.is_in_bundle() { ImageClosure::read(image.path())? } else { ImageClosure::default() };
            let there = closure.paths().filter(|path| path.symlink_metadata().is_ok());
            roots.extend(there.filter_map(|path| store_path(&nix.store, path)));
        }
        let links = staging.path().join("roots");
        fs::create_dir_all(&links).at("create", &links)?;
        for (name, path) in &roots {
            symlink(path, links.join(name)).at("create", &links.join(name))?;
        }
        write_file(&staging.path().join(ATTEMPT), b"", progress)?;
        let json = staging.path().join(JSON);
        write_file(&json, &canonical::to_pretty(&generation), progress)?;
        staging.publish()?;
        self.read(number)
    }

    /// Removes all attempts but this one.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn forget_attempts(&self, but: u64) -> Result<(), WriteError> {
        let numbers = self.of_kind(true)?.into_iter().filter(|number| *number != but);
        numbers.collect::<Vec<_>>().into_iter().try_for_each(|number| self.remove(number))
    }

    /// The links of a generation that Nix must take for roots, each with the store path that it keeps.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn roots(&self, number: u64) -> Result<Vec<(PathBuf, PathBuf)>, WriteError> {
        let Some(folder) = self.state.find(&[ALL, &number.to_string(), "roots"])? else { return Ok(Vec::new()) };
        let names = folder.names()?;
        Ok(names.keys().filter_map(|name| Some((folder.at(name), folder.target(name)?))).collect())
    }

    /// Makes roots for more store paths that a generation needs, for [`roots`](Self::roots) to name.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn keep_too(&self, number: u64, nix: &NixPlaces, paths: &[PathBuf]) -> Result<(), WriteError> {
        let folder = self.state.make(&[ALL, &number.to_string(), "roots"])?;
        for (name, path) in paths.iter().filter_map(|path| store_path(&nix.store, path)) {
            if folder.look(&name)?.is_none() {
                folder.link_to(&path, &name)?;
            }
        }
        Ok(())
    }

    /// Says which generation is loaded now.
    ///
    /// # Errors
    /// With the path at fault.
    pub(crate) fn make_current(&self, number: u64, progress: &Progress) -> Result<(), WriteError> {
        let staging = Staging::file_in(&self.state.make(&[])?, CURRENT)?;
        write_file(staging.path(), format!("{number}\n").as_bytes(), progress)?;
        staging.publish()
    }

    /// What killed runs have left: stagings, and generations that were being removed.
    ///
    /// # Errors
    /// If the folders cannot be read.
    pub(crate) fn leftovers(&self) -> Result<Vec<PathBuf>, WriteError> {
        let Some(folder) = self.state.find(&[])? else { return Ok(Vec::new()) };
        let mut leftovers = disk::leftovers_in(&folder)?;
        if let Some(all) = self.state.find(&[ALL])? {
            leftovers.extend(disk::leftovers_in(&all)?);
            let names = all.names()?.into_keys().map(|name| all.at(name));
            leftovers.extend(names.filter(|path| path.extension().is_some_and(|extension| extension == "removed")));
        }
        leftovers.sort();
        Ok(leftovers)
    }

    /// Removes a generation; what it loaded stays.
    ///
    /// # Errors
    /// With the path at fault.
    pub fn remove(&self, number: u64) -> Result<(), WriteError> {
        // Out of sight first: a half-removed one must not be read.
        let (all, gone) = (self.state.make(&[ALL])?, format!(".{number}.removed"));
        all.remove(&gone)?;
        all.rename(number.to_string().as_ref(), &all, gone.as_ref())?;
        all.remove(&gone)
    }
}

/// The store path that a path is in, and its name.
pub(crate) fn store_path(store: &Path, path: &Path) -> Option<(String, PathBuf)> {
    let name = path.strip_prefix(store).ok()?.components().next()?.as_os_str().to_str()?.to_owned();
    Some((name.clone(), store.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::summary::ImageKind;
    use crate::names::Name;
    use crate::oci::digest::Digest;
    use crate::oci::platform::Platform;
    use crate::oci::reference::Reference;

    fn entry(repository: &str, version: u8, origin: &str) -> GenerationEntry {
        let digest = Digest::of(&[version]);
        GenerationEntry {
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
            version: None,
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
