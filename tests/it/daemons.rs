//! What is the same for every container daemon beside Podman, with one that is a few maps in memory: it can be told to lose
//! a layer, to die, or to be slow, as real ones are not.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use windlass::internals::class::{Class, Classified};
use windlass::internals::daemon::{
    Daemon, DaemonContainer, DaemonContent, DaemonError, DaemonHost, DaemonImages, own_name,
};
use windlass::internals::disk::progress::Progress;
use windlass::internals::engine::generation::GenerationEntry;
use windlass::internals::engine::kind::EngineKind;
use windlass::internals::engine::load::{LoadResult, load};
use windlass::internals::engine::rollback::activate;
use windlass::internals::engine::target::{LoadMethod, LoadOptions, LoadReason, LoadTarget, LoadWay, plan};
use windlass::internals::engine::{Engine, Former};
use windlass::internals::image::LayerRecord;
use windlass::internals::image::layout::ImageDir;
use windlass::internals::image::summary::PlatformRecord;
use windlass::internals::nix::store::NixPlaces;
use windlass::internals::oci::digest::Digest;

use crate::env::Env;
use crate::small_engine::target;

/// What the daemon has: for each image whether all of it is there, and names.
#[derive(Debug, Default)]
struct Memory {
    images: RefCell<BTreeMap<Digest, bool>>,
    names: RefCell<BTreeMap<String, Digest>>,
    /// What it was asked to do, in order.
    asked: RefCell<Vec<String>>,
    /// The next image that it imports lacks a layer.
    loses: Cell<bool>,
    /// It dies when the next image is there, before it is named.
    dies: Cell<bool>,
}

#[derive(Debug, Clone)]
struct MemoryDaemon(Rc<Memory>);

impl MemoryDaemon {
    fn asked(&self, what: String) -> Result<(), DaemonError> {
        self.0.asked.borrow_mut().push(what);
        Ok(())
    }
}

impl Daemon for MemoryDaemon {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }

    fn data(&self) -> &Path {
        Path::new("/nowhere")
    }

    fn id(&self, entry: &GenerationEntry) -> Digest {
        entry.manifest_digest
    }

    fn images(&self, _: &Progress) -> Result<DaemonImages, DaemonError> {
        let sizes = self.0.images.borrow().keys().map(|id| (*id, 1)).collect();
        Ok(DaemonImages { names: self.0.names.borrow().clone(), sizes })
    }

    fn content(
        &self,
        wanted: &[Former<'_>],
        _: &DaemonImages,
        _: &Progress,
    ) -> Result<Vec<DaemonContent>, DaemonError> {
        let images = self.0.images.borrow();
        let of = |(entry, _): &Former<'_>| match images.get(&entry.manifest_digest) {
            Some(true) => DaemonContent::Whole,
            Some(false) => DaemonContent::Partial("no layer".to_owned()),
            None => DaemonContent::Nothing,
        };
        Ok(wanted.iter().map(of).collect())
    }

    fn missing(
        &self,
        platform: &PlatformRecord,
        _: &DaemonImages,
        _: &Progress,
    ) -> Result<Vec<LayerRecord>, DaemonError> {
        Ok(platform.layers.clone())
    }

    fn run_line(&self, entry: &GenerationEntry) -> String {
        own_name(entry)
    }

    fn driver(&self) -> String {
        "memory".to_owned()
    }

    fn is_rootless(&self) -> bool {
        false
    }

    fn copies(&self) -> u64 {
        1
    }

    fn stop_line(&self, container: &DaemonContainer) -> String {
        container.name.clone()
    }

    fn ways(
        &self,
        images: &[(&ImageDir, &PlatformRecord)],
        _: &DaemonImages,
        _: &Progress,
    ) -> Result<Vec<LoadWay>, DaemonError> {
        Ok(images.iter().map(|_| LoadWay::new(LoadMethod::Pull, self.data().to_owned(), 10)).collect())
    }

    fn import(
        &self,
        _: &ImageDir,
        platform: &PlatformRecord,
        name: &str,
        progress: &Progress,
    ) -> Result<u64, DaemonError> {
        self.0.images.borrow_mut().insert(platform.digest, !self.0.loses.take());
        self.0.names.borrow_mut().insert(name.to_owned(), platform.digest);
        self.asked(format!("import {name}"))?;
        if self.0.dies.take() {
            progress.stop();
            return Err(DaemonError::Stopped(std::io::ErrorKind::Interrupted.into()));
        }
        Ok(10)
    }

    fn tag(&self, id: Digest, name: &str, _: &Progress) -> Result<(), DaemonError> {
        self.0.names.borrow_mut().insert(name.to_owned(), id);
        self.asked(format!("tag {name}"))
    }

    fn untag(&self, name: &str, _: &Progress) -> Result<(), DaemonError> {
        let id = self.0.names.borrow_mut().remove(name);
        if let Some(id) = id.filter(|id| !self.0.names.borrow().values().any(|other| other == id)) {
            self.0.images.borrow_mut().remove(&id);
        }
        self.asked(format!("untag {name}"))
    }

    fn containers(&self, _: &Progress) -> Result<Vec<DaemonContainer>, DaemonError> {
        Ok(Vec::new())
    }

    fn compare(
        &self,
        _: &ImageDir,
        _: &PlatformRecord,
        _: &GenerationEntry,
        _: &Progress,
    ) -> Result<Vec<String>, DaemonError> {
        Ok(Vec::new())
    }
}

struct Lab {
    env: Env,
    memory: Rc<Memory>,
    host: DaemonHost,
}

impl Lab {
    fn new() -> Self {
        let env = Env::new();
        let nix = NixPlaces { store: env.path("store"), state: env.path("nix") };
        fs::create_dir_all(nix.state.join("gcroots")).unwrap();
        let memory = Rc::new(Memory::default());
        let host = DaemonHost::new(Box::new(MemoryDaemon(memory.clone())), env.path("state/memory"), nix);
        Self { env, memory, host }
    }

    fn bring(&self, targets: &[&LoadTarget]) -> Result<LoadResult<DaemonError>, DaemonError> {
        let targets: Vec<LoadTarget> = targets.iter().map(|target| (*target).clone()).collect();
        load(&self.host, &targets, LoadOptions::default(), &mut |_| {}, &Progress::new())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.memory.asked.borrow_mut())
    }

    fn reason(&self, target: &LoadTarget) -> (LoadMethod, LoadReason) {
        let targets = std::slice::from_ref(target);
        let step = plan(&self.host, targets, LoadOptions::default(), &Progress::new()).unwrap().remove(0);
        (step.how, step.reason)
    }

    fn called(&self, name: &str) -> Option<Digest> {
        self.memory.names.borrow().get(&format!("localhost/{name}")).copied()
    }
}

fn id(target: &LoadTarget) -> Digest {
    target.platform().unwrap().digest
}

#[test]
fn names_move_to_what_is_whole_and_go_back_with_a_generation() {
    let lab = Lab::new();
    let one = target(&lab.env, "app", "1");
    assert_eq!(lab.reason(&one), (LoadMethod::Pull, LoadReason::FirstTime));
    assert_eq!(lab.bring(&[&one]).unwrap().generation, Some(1));
    let own = own_name(&lab.host.generations().read(1).unwrap().entries[0]);
    assert_eq!(own, format!("localhost/app:windlass-{}", id(&one).short()));
    // Put there under its own name, and only then under the one that moves.
    assert_eq!(lab.asked(), [format!("import {own}"), "tag localhost/app:1".to_owned()]);
    assert_eq!(lab.reason(&one), (LoadMethod::Present, LoadReason::Present));
    assert_eq!(lab.bring(&[&one]).unwrap().generation, Some(1));
    assert_eq!(lab.asked(), [""; 0], "what is there is only asked for");

    // Another image takes the name; the first keeps its own, and gets the other back.
    let two = target(&lab.env, "app", "2");
    assert_eq!(lab.bring(&[&two]).unwrap().generation, Some(2));
    lab.memory.names.borrow_mut().insert("localhost/app:1".to_owned(), id(&two));
    assert_eq!(lab.reason(&one), (LoadMethod::Name, LoadReason::NameMoved));
    lab.asked();
    assert_eq!(activate(&lab.host, 1, &mut |_| {}, &Progress::new()).unwrap().generation, Some(1));
    assert_eq!(lab.asked(), ["tag localhost/app:1"], "it was there all the time");
    assert_eq!(lab.called("app:1"), Some(id(&one)));
    let mode = fs::metadata(lab.env.path("state")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o700, "what windlass notes is its user's alone");
}

#[test]
fn what_a_daemon_says_that_it_has_and_has_not_whole_is_taken_away() {
    let lab = Lab::new();
    let (one, db) = (target(&lab.env, "app", "1"), target(&lab.env, "db", "1"));
    let other = Digest::of(b"an image of another user");
    lab.memory.images.borrow_mut().insert(other, true);
    lab.memory.names.borrow_mut().insert("localhost/app:1".to_owned(), other);
    lab.memory.loses.set(true);
    let loaded = lab.bring(&[&one, &db]).unwrap();
    let errors: Vec<_> = loaded.outcomes.iter().map(|outcome| outcome.error.as_ref().map(Classified::class)).collect();
    assert_eq!(errors, [Some(Class::Unverified), None]);
    let said = loaded.outcomes[0].error.as_ref().unwrap().to_string();
    let wanted = "localhost/app:1 was loaded and taken away again, because Docker has only a part of it: no layer";
    assert_eq!(said, wanted);
    assert_eq!(loaded.generation, None, "no generation yet");
    assert_eq!(lab.called("app:1"), Some(other), "the name never left what had it");
    assert_eq!(lab.memory.images.borrow().keys().collect::<Vec<_>>().len(), 2, "{:?}", lab.memory);

    // The other way: a record that lost its layers later.
    assert_eq!(lab.bring(&[&one, &db]).unwrap().generation, Some(1));
    *lab.memory.images.borrow_mut().get_mut(&id(&one)).unwrap() = false;
    assert_eq!(lab.reason(&one), (LoadMethod::Pull, LoadReason::Damaged("no layer".to_owned())));
    assert_eq!(lab.bring(&[&one, &db]).unwrap().generation, Some(1));
    assert_eq!(lab.reason(&one), (LoadMethod::Present, LoadReason::Present));
}

#[test]
fn what_a_killed_run_has_left_is_put_right_by_the_next_one() {
    let lab = Lab::new();
    let (one, two) = (target(&lab.env, "app", "1"), target(&lab.env, "app", "2"));
    lab.bring(&[&one]).unwrap();
    for loses in [true, false] {
        lab.memory.loses.set(loses);
        lab.memory.dies.set(true);
        assert_eq!(lab.bring(&[&two]).unwrap_err().class(), Class::Stopped);
        assert!(lab.env.path("state/memory/pending.json").exists());
        assert_eq!(lab.called("app:2"), None);
        lab.asked();
        let loaded = lab.bring(&[&one]).unwrap();
        let taken = loaded.warnings.iter().filter(|said| said.contains("was taken away")).count();
        assert_eq!(
            (taken, lab.memory.images.borrow().contains_key(&id(&two))),
            if loses { (1, false) } else { (0, true) }
        );
        assert!(!lab.env.path("state/memory/pending.json").exists());
    }
    // It is there and whole, so it only gets its name.
    assert_eq!(lab.reason(&two), (LoadMethod::Name, LoadReason::NameMoved));
    assert_eq!(lab.bring(&[&two]).unwrap().generation, Some(2));
    assert_eq!(lab.called("app:2"), Some(id(&two)));
}
