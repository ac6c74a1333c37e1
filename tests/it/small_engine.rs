//! The seam for engines: a small engine, a folder with a file for each image, is loaded into, kept, gone back to and cleaned up
//! by the same code as Podman.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use windlass::internals::class::{Class, Classified};
use windlass::internals::disk::WriteError;
use windlass::internals::disk::progress::Progress;
use windlass::internals::engine::generation::GenerationEntry;
use windlass::internals::engine::generations::GenerationError;
use windlass::internals::engine::keep::History;
use windlass::internals::engine::load::{LoadResult, Loading, load};
use windlass::internals::engine::rollback::{RollbackPart, activate, parts};
use windlass::internals::engine::target::{
    DecideError, LoadMethod, LoadOptions, LoadReason, LoadStep, LoadTarget, LoadWay, Presence, TargetState, plan,
};
use windlass::internals::engine::{Engine, Former};
use windlass::internals::image::layout::ImageDir;
use windlass::internals::names::Name;
use windlass::internals::nix::store::NixPlaces;
use windlass::internals::oci::digest::Digest;

use crate::env::Env;

/// `images/<config>` has an image's manifest, `names/<name>` the config of what has the name.
struct Folder {
    root: PathBuf,
    nix: NixPlaces,
    /// Bytes that fit.
    free: u64,
    /// The next image that is put there is damaged: the engine will not confirm it.
    damages: Cell<bool>,
    /// It is killed after the next image that is put there.
    dies: Cell<bool>,
}

#[derive(Debug, thiserror::Error)]
enum FolderError {
    #[error(transparent)]
    Decide(#[from] DecideError),
    #[error(transparent)]
    Generations(#[from] GenerationError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} was not put there as it is")]
    NotThere(String),
}

impl Classified for FolderError {
    fn class(&self) -> Class {
        match self {
            Self::Decide(error) => error.class(),
            Self::Generations(error) => error.class(),
            Self::Write(error) => error.class(),
            Self::Io(error) => error.class(),
            Self::NotThere(_) => Class::Unverified,
        }
    }
}

/// For each image its config and, by name, what had the name.
type Note = BTreeMap<String, BTreeMap<String, Option<String>>>;

impl Folder {
    fn new(env: &Env) -> Self {
        let nix = NixPlaces { store: env.path("store"), state: env.path("nix") };
        let (damages, dies) = (Cell::new(false), Cell::new(false));
        let engine = Self { root: env.path("engine"), nix, free: u64::MAX, damages, dies };
        for folder in ["images", "names"] {
            fs::create_dir_all(engine.root.join(folder)).unwrap();
        }
        fs::create_dir_all(engine.nix.state.join("gcroots")).unwrap();
        engine
    }

    fn image(&self, config: &str) -> PathBuf {
        self.root.join("images").join(config)
    }

    fn names_file(&self, name: &str) -> PathBuf {
        self.root.join("names").join(name.replace('/', "%"))
    }

    fn called(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.names_file(name)).ok()
    }

    fn note_file(&self) -> PathBuf {
        self.state().join("note.json")
    }

    /// Whether it has the image that such a manifest describes.
    fn has(&self, config: Digest, manifest: Digest) -> bool {
        fs::read(self.image(&config.hex())).is_ok_and(|bytes| Digest::of(&bytes) == manifest)
    }

    fn undo(&self, note: &Note, configs: impl Iterator<Item = String>) -> io::Result<()> {
        for config in configs {
            for (name, former) in &note[&config] {
                match former {
                    Some(former) => fs::write(self.names_file(name), former)?,
                    None if self.called(name).as_ref() == Some(&config) => fs::remove_file(self.names_file(name))?,
                    None => {}
                }
            }
            let path = self.image(&config);
            if path.exists() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// What it says that it has: `app:1`, as names lead.
    fn says(&self) -> Vec<String> {
        let names = fs::read_dir(self.root.join("names")).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap().replace('%', "/"));
        let mut there: Vec<String> = names
            .filter(|name| !name.contains('@') && self.image(&self.called(name).unwrap()).exists())
            .map(|name| name.trim_start_matches("localhost/").to_owned())
            .collect();
        there.sort();
        there
    }
}

impl Engine for Folder {
    type Error = FolderError;
    type Note = Note;

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    fn nix(&self) -> &NixPlaces {
        &self.nix
    }

    fn look(&self, targets: &[LoadTarget], _: LoadOptions, _: &Progress) -> Result<Vec<TargetState>, FolderError> {
        let look = |target: &LoadTarget| {
            let (platform, reference) = (target.platform()?, &target.image.summary().reference);
            let (config, store) = (platform.config_digest, self.root.clone());
            let presence = match self.image(&config.hex()).exists() {
                true if self.has(config, platform.digest) => {
                    Presence::Present { store, named: self.called(reference) == Some(config.hex()) }
                }
                true => Presence::Damaged { store, why: "other bytes".to_owned() },
                false => Presence::Missing,
            };
            let to_write = platform.layers.iter().map(|layer| layer.size).sum();
            Ok(TargetState { presence, way: LoadWay::new(LoadMethod::Pull, self.root.clone(), to_write) })
        };
        targets.iter().map(look).collect()
    }

    fn holds(&self, images: &[Former<'_>], _: &Progress) -> Result<Vec<bool>, FolderError> {
        Ok(images.iter().map(|(entry, _)| self.has(entry.config_digest, entry.manifest_digest)).collect())
    }

    fn check_space(&self, steps: &[LoadStep]) -> Result<(), FolderError> {
        let needed = steps.iter().map(|step| step.peak).sum();
        let (place, free, stays) = (self.root.clone(), self.free, needed);
        if needed > free { Err(DecideError::NoSpace { place, needed, stays, free }.into()) } else { Ok(()) }
    }

    fn has_leftovers(&self, _: &Progress) -> Result<bool, FolderError> {
        Ok(self.note_file().exists())
    }

    fn settle(&self, _: &Progress) -> Result<Vec<String>, FolderError> {
        let Ok(text) = fs::read(self.note_file()) else { return Ok(Vec::new()) };
        let note: Note = serde_json::from_slice(&text).unwrap();
        self.undo(&note, note.keys().cloned())?;
        self.forget(Note::new())?;
        Ok(note.keys().map(|config| format!("{} was taken away", &config[..12])).collect())
    }

    fn note(&self, loading: &mut Loading<'_, Self>) -> Result<Note, FolderError> {
        let mut note = Note::new();
        for outcome in loading.outcomes.iter().filter(|outcome| outcome.step.how != LoadMethod::Present) {
            let names = outcome.step.entry.names().into_iter().map(|name| (name.clone(), self.called(&name)));
            note.insert(outcome.step.entry.config_digest.hex(), names.collect());
        }
        fs::write(self.note_file(), serde_json::to_vec(&note).unwrap())?;
        Ok(note)
    }

    fn put(&self, loading: &mut Loading<'_, Self>, _: &mut Note) -> Result<u64, FolderError> {
        let mut written = 0;
        for (target, outcome) in loading.targets.iter().zip(&mut loading.outcomes) {
            let (entry, platform) = (&outcome.step.entry, target.platform()?);
            if outcome.step.how == LoadMethod::Pull {
                let manifest = target.image.path().join("blobs/sha256").join(platform.digest.hex());
                let mut bytes = fs::read(manifest)?;
                if self.damages.take() {
                    bytes.pop();
                }
                written += u64::try_from(bytes.len()).unwrap();
                fs::write(self.image(&entry.config_digest.hex()), bytes)?;
            }
            for name in entry.names() {
                fs::write(self.names_file(&name), entry.config_digest.hex())?;
            }
            if self.dies.take() {
                loading.progress.stop();
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            if !self.has(entry.config_digest, entry.manifest_digest) {
                outcome.error = Some(FolderError::NotThere(entry.reference.to_string()));
            }
            (loading.done)(outcome);
        }
        Ok(written)
    }

    fn take_away(&self, note: &Note, configs: &BTreeSet<Digest>, _: &Progress) -> Result<(), FolderError> {
        Ok(self.undo(note, configs.iter().map(Digest::hex))?)
    }

    fn forget(&self, _: Note) -> Result<(), FolderError> {
        Ok(fs::remove_file(self.note_file())?)
    }

    fn sweep(&self, _: &Progress) -> Result<(), FolderError> {
        Ok(())
    }

    fn name(&self, entries: &[&GenerationEntry], _: &Progress) -> Result<(), FolderError> {
        for (entry, name) in entries.iter().flat_map(|entry| entry.names().into_iter().map(move |name| (entry, name))) {
            fs::write(self.names_file(&name), entry.config_digest.hex())?;
        }
        Ok(())
    }
}

/// An image with a file in it, built, of the stack `shop`. Its file is a store path.
pub(crate) fn target(env: &Env, name: &str, version: &str) -> LoadTarget {
    let source = env.write(format!("store/{name}-{version}"), format!("{name} {version}"));
    let spec = json!({ "kind": "image", "name": name, "tag": version, "content": { "files": { "/version": source } } });
    let (file, output) = (format!("{name}-{version}.json"), env.path(format!("{name}-{version}")));
    env.write(&file, spec.to_string());
    env.ok(["build", &file, "--output", output.to_str().unwrap()]);
    let (image, name) = (ImageDir::open(&output).unwrap(), Name::new(name).unwrap());
    LoadTarget { image, name, origins: ["shop".to_owned()].into() }
}

fn bring(engine: &Folder, targets: &[&LoadTarget]) -> Result<LoadResult<FolderError>, FolderError> {
    let targets: Vec<LoadTarget> = targets.iter().map(|target| (*target).clone()).collect();
    load(engine, &targets, LoadOptions::default(), &mut |_| {}, &Progress::new())
}

fn reasons(engine: &Folder, target: &LoadTarget) -> (LoadMethod, LoadReason) {
    let targets = std::slice::from_ref(target);
    let step = plan(engine, targets, LoadOptions::default(), &Progress::new()).unwrap().remove(0);
    (step.how, step.reason)
}

/// The files of the engine, with their times.
fn files(folder: &Path) -> BTreeMap<PathBuf, std::time::SystemTime> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        }
        found.insert(entry.path(), metadata.modified().unwrap());
    }
    found
}

#[test]
fn a_load_is_confirmed_and_becomes_a_generation_that_keeps_its_sources() {
    let env = Env::new();
    let engine = Folder::new(&env);
    let (app, db) = (target(&env, "app", "1"), target(&env, "db", "1"));
    assert_eq!(reasons(&engine, &app), (LoadMethod::Pull, LoadReason::FirstTime));
    let loaded = bring(&engine, &[&app, &db]).unwrap();
    assert_eq!((loaded.generation, loaded.warnings), (Some(1), Vec::<String>::new()));
    assert_eq!(engine.says(), ["app:1", "db:1"]);
    let roots = engine.generations().roots(1).unwrap();
    let kept: Vec<_> = roots.iter().map(|(_, path)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(kept, ["app-1", "db-1"]);
    assert_eq!(fs::read_dir(engine.nix.state.join("gcroots/auto")).unwrap().count(), 2);

    // Again: nothing is missing, and nothing is written.
    let before = files(&engine.root);
    assert_eq!(bring(&engine, &[&app, &db]).unwrap().generation, Some(1));
    assert_eq!(files(&engine.root), before);

    let two = target(&env, "app", "2");
    assert_eq!(reasons(&engine, &two), (LoadMethod::Pull, LoadReason::VersionChanged));
    assert_eq!(bring(&engine, &[&two, &db]).unwrap().generation, Some(2));
    fs::remove_file(engine.image(&two.platform().unwrap().config_digest.hex())).unwrap();
    assert_eq!(reasons(&engine, &two), (LoadMethod::Pull, LoadReason::CacheCleared));
}

#[test]
fn what_the_engine_does_not_confirm_is_taken_away_and_is_no_generation() {
    let env = Env::new();
    let mut engine = Folder::new(&env);
    let (one, db) = (target(&env, "app", "1"), target(&env, "db", "1"));
    bring(&engine, &[&one]).unwrap();
    let said = engine.says();
    engine.damages.set(true);
    let two = target(&env, "app", "2");
    let loaded = bring(&engine, &[&two, &db]).unwrap();
    let errors: Vec<_> = loaded.outcomes.iter().map(|outcome| outcome.error.as_ref().map(Classified::class)).collect();
    assert_eq!(errors, [Some(Class::Unverified), None]);
    assert_eq!(loaded.generation, Some(1), "the former one is still the current one");
    assert_eq!(engine.says(), [said[0].as_str(), "db:1"]);
    assert_eq!(engine.generations().numbers().unwrap(), [1]);

    // It stops in the middle: the next run takes away what is not confirmed.
    engine.dies.set(true);
    let stopped = bring(&engine, &[&two]).unwrap_err();
    assert_eq!(stopped.class(), Class::Stopped);
    assert!(engine.says().contains(&"app:2".to_owned()) && engine.note_file().exists());
    let loaded = bring(&engine, &[&one]).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(!engine.says().contains(&"app:2".to_owned()) && !engine.note_file().exists());

    engine.free = 1;
    let full = bring(&engine, &[&two]).unwrap_err();
    assert_eq!(full.class(), Class::NoSpace);
    assert!(full.to_string().contains("and 1 B are free; nothing was changed"), "{full}");
}

#[test]
fn a_generation_is_gone_back_to_as_far_as_it_is_whole() {
    let env = Env::new();
    let engine = Folder::new(&env);
    let (one, two) = (target(&env, "app", "1"), target(&env, "app", "2"));
    bring(&engine, &[&one]).unwrap();
    bring(&engine, &[&two]).unwrap();
    let (first, progress) = (engine.generations().read(1).unwrap(), Progress::new());
    assert_eq!(parts(&engine, &first, &progress).unwrap(), [RollbackPart::Present]);
    let config = one.platform().unwrap().config_digest.hex();
    fs::remove_file(engine.image(&config)).unwrap();
    assert_eq!(parts(&engine, &first, &progress).unwrap(), [RollbackPart::Loadable]);
    assert_eq!(activate(&engine, 1, &mut |_| {}, &progress).unwrap().generation, Some(1));
    assert_eq!(engine.called("localhost/app:1").as_ref(), Some(&config));
    assert_eq!(engine.generations().numbers().unwrap(), [1, 2], "nothing is removed");

    // What it is made from is gone, and so is the image.
    bring(&engine, &[&two]).unwrap();
    fs::remove_file(engine.image(&config)).unwrap();
    fs::remove_file(env.path("store/app-1")).unwrap();
    let before = files(&engine.root.join("names"));
    let error = activate(&engine, 1, &mut |_| {}, &progress).unwrap_err();
    assert!(matches!(&error, FolderError::Decide(DecideError::NotWhole { number: 1, .. })), "{error}");
    assert!(error.to_string().contains("store/app-1"), "{error}");
    assert_eq!(files(&engine.root.join("names")), before);
    assert_eq!(engine.generations().current().unwrap().unwrap().number, 2);
    let unknown = activate(&engine, 7, &mut |_| {}, &progress).unwrap_err();
    assert_eq!(
        (unknown.class(), unknown.to_string().as_str()),
        (Class::Usage, "there is no generation '7'; there are: 1, 2")
    );
}

#[test]
fn a_clean_up_keeps_the_last_generations_and_what_is_used() {
    let env = Env::new();
    let engine = Folder::new(&env);
    for version in ["1", "2", "3", "4"] {
        bring(&engine, &[&target(&env, "app", version)]).unwrap();
    }
    let generations = engine.generations();
    let history = History::read(&generations).unwrap();
    let used = |entry: &GenerationEntry| entry.reference.ends_with(":2").then(|| "a container".to_owned());
    let kept = history.retain(Some(1), used);
    let told: Vec<_> = kept.generations.iter().map(|(number, why)| (*number, why.as_str())).collect();
    assert_eq!(told, [(2, "a container"), (4, "current")]);
    // Images first: the roots of a generation keep what its images are made from.
    for generation in history.all.iter().filter(|generation| !kept.generations.contains_key(&generation.number)) {
        for entry in generation.entries.iter().filter(|entry| !kept.images.contains_key(&entry.config_digest)) {
            fs::remove_file(engine.image(&entry.config_digest.hex())).unwrap();
        }
        generations.remove(generation.number).unwrap();
    }
    assert_eq!(engine.says(), ["app:2", "app:4"]);
    assert_eq!(generations.numbers().unwrap(), [2, 4]);
    let roots: BTreeSet<_> =
        generations.numbers().unwrap().into_iter().flat_map(|n| generations.roots(n).unwrap()).collect();
    assert_eq!(roots.len(), 2);
    let all = history.retain(None, |_| None);
    assert_eq!(all.images.len(), 4, "without a number all stay");
}
