//! Which generations a clean-up keeps, and which images with them. The engine says what is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::generation::{Generation, GenerationEntry};
use super::generations::{GenerationError, Generations};
use crate::disk::progress::Progress;
use crate::nix::store::{self, NixPlaces};
use crate::oci::digest::Digest;

/// Everything that was loaded into an engine, or should have been.
#[derive(Debug, Clone)]
pub struct History {
    /// The generations, ascending.
    pub all: Vec<Generation>,
    /// Loads that failed or are not finished, ascending.
    pub(crate) attempts: Vec<Generation>,
    /// The number of the current one.
    pub(crate) current: Option<u64>,
}

/// Makes a generation of these the current one: nothing is loaded, and what is not among them is let go.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn replace_current(
    generations: &Generations,
    entries: &[GenerationEntry],
    nix: &NixPlaces,
    progress: &Progress,
) -> Result<u64, GenerationError> {
    let generation = generations.add(entries, nix, progress)?;
    for (link, path) in generations.roots(generation.number)? {
        // Its paths have roots of the former generation too.
        drop(store::register(nix, &link, &path));
    }
    generations.confirm(generation.number, progress)?;
    Ok(generation.number)
}

/// Keeps store paths from Nix's garbage collector for as long as the current generation is kept; what Nix refuses.
///
/// # Errors
/// If the roots cannot be written.
pub(crate) fn keep_store_paths(
    generations: &Generations,
    nix: &NixPlaces,
    paths: &[PathBuf],
) -> Result<Vec<String>, GenerationError> {
    let Some(current) = generations.current()? else { return Ok(Vec::new()) };
    generations.keep_too(current.number, nix, paths)?;
    let roots = generations.roots(current.number)?;
    let refused = roots.into_iter().filter_map(|(link, path)| store::register(nix, &link, &path).err());
    Ok(refused.map(|error| error.to_string()).collect())
}

/// What of the current generation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The images that go.
    pub(crate) going: Vec<GenerationEntry>,
    /// What the next generation has.
    pub(crate) staying: Vec<GenerationEntry>,
}

/// What is called by one of these: an image or model by its name, or all that came with a stack and with nothing else. The
/// first name that is not known is an error.
///
/// # Errors
/// With the name that is not known.
pub(crate) fn choose(current: &Generation, wanted: &[String]) -> Result<Choice, String> {
    let has = |entry: &GenerationEntry, name: &String| *entry.name == **name || entry.origins.contains(name);
    if let Some(unknown) = wanted.iter().find(|name| !current.entries.iter().any(|entry| has(entry, name))) {
        return Err(unknown.clone());
    }
    let mut choice = Choice { going: Vec::new(), staying: Vec::new() };
    for entry in &current.entries {
        let mut left = entry.clone();
        left.origins.retain(|origin| !wanted.contains(origin));
        match wanted.iter().any(|name| *entry.name == **name) || left.origins.is_empty() {
            true => choice.going.push(entry.clone()),
            false => choice.staying.push(left),
        }
    }
    Ok(choice)
}

/// What stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The generations, by number, each with why.
    pub generations: BTreeMap<u64, String>,
    /// The images that these and the attempts need, by the digests of their configs, each with who needs it.
    pub images: BTreeMap<Digest, String>,
}

impl History {
    /// Reads it.
    ///
    /// # Errors
    /// If a generation cannot be read: then nothing may be removed.
    pub fn read(generations: &Generations) -> Result<Self, GenerationError> {
        let (all, attempts) = (generations.all()?, generations.attempts()?);
        Ok(Self { all, attempts, current: generations.current()?.map(|current| current.number) })
    }

    /// The generations and the attempts.
    pub(crate) fn both(&self) -> impl DoubleEndedIterator<Item = &Generation> {
        self.all.iter().chain(&self.attempts)
    }

    /// What stays if the last `keep` generations do, or all of them for `None`: the current one always, and of what is in
    /// use the newest generation that has it. `user` says by whom an image is used.
    pub fn retain(&self, keep: Option<usize>, user: impl Fn(&GenerationEntry) -> Option<String>) -> Retention {
        let mut kept = Retention::default();
        let first = self.all.len().saturating_sub(keep.unwrap_or_default());
        for (n, generation) in self.all.iter().enumerate() {
            let why = match keep {
                _ if self.current == Some(generation.number) => "current".to_owned(),
                None => "generations were not asked for".to_owned(),
                Some(keep) if n >= first => format!("one of the last {keep}"),
                Some(_) => continue,
            };
            kept.generations.insert(generation.number, why);
        }
        for generation in self.all.iter().rev() {
            let elsewhere: BTreeSet<Digest> = (self.all.iter())
                .filter(|other| kept.generations.contains_key(&other.number))
                .flat_map(|other| other.entries.iter().map(|entry| entry.config_digest))
                .collect();
            let mut alone = generation.entries.iter().filter(|entry| !elsewhere.contains(&entry.config_digest));
            if let Some(why) = alone.find_map(&user).filter(|_| !kept.generations.contains_key(&generation.number)) {
                kept.generations.insert(generation.number, why);
            }
        }
        for entry in self.attempts.iter().flat_map(|attempt| &attempt.entries) {
            kept.images.insert(entry.config_digest, "a load that is not finished".to_owned());
        }
        for generation in self.all.iter().filter(|generation| kept.generations.contains_key(&generation.number)) {
            let current = if self.current == Some(generation.number) { " (current)" } else { "" };
            for entry in &generation.entries {
                kept.images.insert(entry.config_digest, format!("generation {}{current}", generation.number));
            }
        }
        kept
    }
}
