//! A daemon as an [`Engine`]: what a load, a rollback and a clean-up need, for every [`Daemon`].

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::note::DaemonNote;
use super::{Daemon, DaemonContent, DaemonError, DaemonImages, own_name};
use crate::disk::WriteError;
use crate::disk::files::free_space;
use crate::disk::progress::Progress;
use crate::engine::generation::GenerationEntry;
use crate::engine::load::{ImageOutcome, Loading};
use crate::engine::missing::MissingBase;
use crate::engine::target::{
    DecideError, LoadMethod, LoadOptions, LoadStep, LoadTarget, LoadVia, LoadWay, Presence, Space, TargetState,
};
use crate::engine::{Engine, Former};
use crate::image::summary::ExpectedImage;
use crate::nix::store::NixPlaces;
use crate::oci::digest::Digest;

/// What became of one image.
pub(crate) type DaemonOutcome = ImageOutcome<DaemonError>;

/// A daemon to load into, and where windlass notes what it loaded.
#[derive(Debug)]
pub struct DaemonHost {
    /// The daemon.
    pub(crate) daemon: Box<dyn Daemon>,
    /// See [`Engine::state`].
    state: PathBuf,
    nix: NixPlaces,
}

impl DaemonHost {
    /// One with this folder for what windlass notes of it.
    #[must_use]
    pub fn new(daemon: Box<dyn Daemon>, state: PathBuf, nix: NixPlaces) -> Self {
        Self { daemon, state, nix }
    }

    /// What these steps need where the daemon's data is; `None` if that is not on this host.
    ///
    /// # Errors
    /// If the free space cannot be read.
    pub(crate) fn space(&self, steps: &[LoadStep]) -> Result<Option<Space>, WriteError> {
        let place = self.daemon.data();
        if !place.exists() {
            return Ok(None);
        }
        let step =
            |(needed, stays): (u64, u64), step: &LoadStep| (needed.max(stays + step.peak), stays + step.to_write);
        let (needed, stays) = steps.iter().fold((0, 0), step);
        Ok(Some(Space { place: place.to_owned(), needed, stays, free: free_space(place)? }))
    }

    /// Target by target, what it cannot be loaded without: layers that its bundle leaves out, and the daemon does not have.
    ///
    /// # Errors
    /// If the daemon does not say what it has, or one is not for this host.
    pub(crate) fn missing_bases(
        &self,
        targets: &[LoadTarget],
        progress: &Progress,
    ) -> Result<Vec<Option<MissingBase>>, DaemonError> {
        if targets.iter().all(|target| target.image.summary().without.is_empty()) {
            return Ok(vec![None; targets.len()]);
        }
        let there = self.daemon.images(progress)?;
        let states = self.look(targets, LoadOptions::default(), progress)?;
        let missing = |(target, state): (&LoadTarget, TargetState)| {
            if matches!(state.presence, Presence::Present { .. }) {
                return Ok(None);
            }
            let summary = target.image.summary();
            let mut layers = self.daemon.missing(target.platform()?, &there, progress)?;
            layers.retain(|layer| summary.leaves_out(layer));
            let of = |old: &&ExpectedImage| layers.iter().any(|layer| old.layers.contains(&layer.digest));
            let expects = summary.expects.iter().filter(of).cloned().collect();
            let (engine, reference) = (self.daemon.kind(), summary.reference.clone());
            Ok((!layers.is_empty()).then_some(MissingBase { engine, reference, layers, expects }))
        };
        targets.iter().zip(states).map(missing).collect()
    }

    /// Puts one image there, asks for it, and moves its names to it.
    fn bring(&self, target: &LoadTarget, outcome: &DaemonOutcome, progress: &Progress) -> Result<u64, DaemonError> {
        let (entry, platform) = (&outcome.step.entry, target.platform()?);
        let mut written = 0;
        if outcome.step.how == LoadMethod::Pull {
            written = self.daemon.import(&target.image, platform, &own_name(entry), progress)?;
        }
        let former: [Former<'_>; 1] = [(entry, Some((&target.image, platform)))];
        let mut there = self.daemon.images(progress)?;
        let found = match self.daemon.content(&former, &there, progress)?.pop() {
            Some(DaemonContent::Whole) => None,
            Some(DaemonContent::Partial(why)) => Some(format!("has only a part of it: {why}")),
            Some(DaemonContent::Nothing) | None => Some("has no record of it".to_owned()),
        };
        if found.is_none() {
            self.give_names(entry, &mut there, progress)?;
        }
        match found.or_else(|| self.misled(entry, &there)) {
            None => Ok(written),
            Some(found) => {
                Err(DaemonError::NotThere { engine: self.daemon.kind(), reference: entry.reference.to_string(), found })
            }
        }
    }

    /// What the daemon has instead, where a name of an image does not lead to it.
    pub(crate) fn misled(&self, entry: &GenerationEntry, there: &DaemonImages) -> Option<String> {
        let id = self.daemon.id(entry);
        let name = self.daemon.names(entry).into_iter().find(|name| there.names.get(name) != Some(&id))?;
        let other = there.names.get(&name);
        Some(other.map_or_else(|| format!("knows no {name}"), |other| format!("has {other} as {name}")))
    }

    /// Moves its names to an image, and asks for them.
    fn give_names(
        &self,
        entry: &GenerationEntry,
        there: &mut DaemonImages,
        progress: &Progress,
    ) -> Result<(), DaemonError> {
        let id = self.daemon.id(entry);
        let missing: Vec<String> =
            self.daemon.names(entry).into_iter().filter(|name| there.names.get(name) != Some(&id)).collect();
        for name in &missing {
            self.daemon.tag(id, name, progress)?;
        }
        if !missing.is_empty() {
            *there = self.daemon.images(progress)?;
        }
        Ok(())
    }

    /// Makes the tags of versions lead to the images of the current generation; a sentence for each that another image has.
    fn move_versions(&self, progress: &Progress) -> Result<Vec<String>, DaemonError> {
        let Some(current) = self.generations().current()? else { return Ok(Vec::new()) };
        let versions = || current.entries.iter().filter_map(|entry| Some((entry, entry.version.as_ref()?)));
        if versions().next().is_none() {
            return Ok(Vec::new());
        }
        let there = self.daemon.images(progress)?;
        let mut notes = Vec::new();
        for (entry, version) in versions() {
            let id = self.daemon.id(entry);
            let own = format!("{}:windlass-", entry.repository);
            let is_ours = |other: &Digest| there.names.iter().any(|(name, id)| id == other && name.starts_with(&own));
            match there.names.get(&**version) {
                Some(other) if *other == id => {}
                Some(other) if !is_ours(other) => {
                    notes.push(format!("{version} is another image's name, and stays with it"));
                }
                _ if !there.sizes.contains_key(&id) => {}
                _ => self.daemon.tag(id, version, progress)?,
            }
        }
        Ok(notes)
    }
}

impl Engine for DaemonHost {
    type Error = DaemonError;
    type Note = DaemonNote;

    fn state(&self) -> PathBuf {
        self.state.clone()
    }

    fn nix(&self) -> &NixPlaces {
        &self.nix
    }

    fn look(
        &self,
        targets: &[LoadTarget],
        options: LoadOptions,
        progress: &Progress,
    ) -> Result<Vec<TargetState>, DaemonError> {
        if options.via == LoadVia::Store {
            return Err(DaemonError::Unsupported {
                engine: self.daemon.kind(),
                action: "use a linked store".to_owned(),
                hint: "Podman and CRI-O can; leave out `--via store`".to_owned(),
            });
        }
        let there = self.daemon.images(progress)?;
        let mut entries = Vec::new();
        for target in targets {
            let platform = target.platform()?;
            entries.push((GenerationEntry::new(&target.image, platform, &target.name, &target.origins), platform));
        }
        let wanted: Vec<Former<'_>> = entries
            .iter()
            .zip(targets)
            .map(|((entry, platform), target)| -> Former<'_> { (entry, Some((&target.image, platform))) })
            .collect();
        let content = self.daemon.content(&wanted, &there, progress)?;
        let store = || self.daemon.data().to_owned();
        let goes = |content: &DaemonContent| options.force || *content != DaemonContent::Whole;
        let going = entries.iter().zip(targets).zip(&content).filter(|(_, content)| goes(content));
        let going: Vec<_> = going.map(|(((_, platform), target), _)| (&target.image, *platform)).collect();
        let mut ways = match going.is_empty() {
            true => Vec::new(),
            false => self.daemon.ways(&going, &there, progress)?,
        }
        .into_iter();
        let state = |((entry, _), content): (&(GenerationEntry, _), DaemonContent)| {
            let way = if goes(&content) { ways.next() } else { None };
            let presence = match content {
                DaemonContent::Whole => Presence::Present { store: store(), named: self.is_named(&there, entry) },
                DaemonContent::Partial(why) => Presence::Damaged { store: store(), why },
                DaemonContent::Nothing => Presence::Missing,
            };
            TargetState { presence, way: way.unwrap_or_else(|| LoadWay::new(LoadMethod::Pull, store(), 0)) }
        };
        Ok(entries.iter().zip(content).map(state).collect())
    }

    fn holds(&self, images: &[Former<'_>], progress: &Progress) -> Result<Vec<bool>, DaemonError> {
        let there = self.daemon.images(progress)?;
        let content = self.daemon.content(images, &there, progress)?;
        Ok(content.into_iter().map(|content| content == DaemonContent::Whole).collect())
    }

    fn check_space(&self, steps: &[LoadStep]) -> Result<(), DaemonError> {
        match self.space(steps)? {
            Some(Space { place, needed, stays, free }) if needed > free => {
                Err(DecideError::NoSpace { place, needed, stays, free }.into())
            }
            _ => Ok(()),
        }
    }

    fn has_leftovers(&self, _: &Progress) -> Result<bool, DaemonError> {
        self.has_note()
    }

    fn settle(&self, progress: &Progress) -> Result<Vec<String>, DaemonError> {
        self.settle_note(progress)
    }

    fn note(&self, loading: &mut Loading<'_, Self>) -> Result<DaemonNote, DaemonError> {
        self.write_note(&loading.outcomes, loading.progress)
    }

    fn put(&self, loading: &mut Loading<'_, Self>, _: &mut DaemonNote) -> Result<u64, DaemonError> {
        let progress = loading.progress;
        let mut written = 0;
        for (target, outcome) in loading.targets.iter().zip(&mut loading.outcomes) {
            if outcome.step.how == LoadMethod::Present {
                continue;
            }
            progress.check().map_err(DaemonError::Stopped)?;
            if let Some(why) = &outcome.step.unlinkable {
                let (reference, kind) = (&outcome.step.entry.reference, self.daemon.kind());
                loading
                    .warnings
                    .push(format!("{reference} goes to {kind} as an archive, because it cannot be linked: {why}"));
            }
            match self.bring(target, outcome, progress) {
                Ok(bytes) => written += bytes,
                Err(error) => outcome.error = Some(error),
            }
            progress.check().map_err(DaemonError::Stopped)?;
            if outcome.error.is_none() && outcome.step.how == LoadMethod::Pull {
                (loading.done)(outcome);
            }
        }
        Ok(written)
    }

    fn take_away(&self, note: &DaemonNote, configs: &BTreeSet<Digest>, progress: &Progress) -> Result<(), DaemonError> {
        self.undo(note, configs, progress)
    }

    fn forget(&self, _: DaemonNote) -> Result<(), DaemonError> {
        self.remove_note()
    }

    fn sweep(&self, _: &Progress) -> Result<(), DaemonError> {
        Ok(())
    }

    fn name(&self, entries: &[&GenerationEntry], progress: &Progress) -> Result<(), DaemonError> {
        let mut there = self.daemon.images(progress)?;
        entries.iter().try_for_each(|entry| self.give_names(entry, &mut there, progress))
    }

    fn conclude(&self, progress: &Progress) -> Result<Vec<String>, DaemonError> {
        self.move_versions(progress)
    }
}
