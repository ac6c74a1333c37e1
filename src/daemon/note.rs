//! What is loaded into a daemon and not confirmed yet, so that a run that is killed leaves what the next one puts right.
//!
//! ```text
//! <state>/pending.json
//! ```
//!
//! Before an image is put there, its names are noted with what had them. The note goes when the daemon has said that it has
//! every image, or what it does not have whole is taken away. The lock of the generations says that no load is still at work
//! on a note.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::host::{DaemonHost, DaemonOutcome};
use super::{DaemonContent, DaemonError};
use crate::disk::progress::Progress;
use crate::disk::{Staging, files};
use crate::engine::generation::GenerationEntry;
use crate::engine::target::LoadMethod;
use crate::engine::{Engine, Former};
use crate::image::json::parse_versioned;
use crate::image::layout::VERSION;
use crate::oci::canonical;
use crate::oci::digest::Digest;

/// Images that a daemon has not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonNote {
    version: u32,
    images: Vec<NotedImage>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NotedImage {
    entry: GenerationEntry,
    /// Whether all of it was there before: then it stays.
    was_there: bool,
    names: Vec<NotedName>,
}

/// A name that it is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct NotedName {
    name: String,
    /// The ID of what had it before.
    was: Option<Digest>,
}

const NOTE: &str = "pending.json";

impl DaemonHost {
    /// Whether a load was killed before the daemon confirmed it, or is still at work.
    ///
    /// # Errors
    /// If the folder of windlass cannot be read.
    pub(crate) fn has_note(&self) -> Result<bool, DaemonError> {
        let folder = self.generations().state().find(&[])?;
        Ok(match folder {
            Some(folder) => folder.look(NOTE)?.is_some(),
            None => false,
        })
    }

    /// Notes what is about to be put there. The generations are locked.
    pub(super) fn write_note(
        &self,
        outcomes: &[DaemonOutcome],
        progress: &Progress,
    ) -> Result<DaemonNote, DaemonError> {
        let mut note = DaemonNote { version: VERSION, images: Vec::new() };
        let goes = |outcome: &&DaemonOutcome| outcome.step.how != LoadMethod::Present;
        if !outcomes.iter().any(|outcome| goes(&outcome)) {
            return Ok(note);
        }
        let there = self.daemon.images(progress)?;
        for outcome in outcomes.iter().filter(goes) {
            let entry = outcome.step.entry.clone();
            let was = |name: String| NotedName { was: there.names.get(&name).copied(), name };
            let names = self.daemon.names(&entry).into_iter().map(was).collect();
            note.images.push(NotedImage { was_there: outcome.step.how == LoadMethod::Name, names, entry });
        }
        let staging = Staging::file_in(&self.generations().state().make(&[])?, NOTE)?;
        files::write_file(staging.path(), &canonical::to_pretty(&note), progress)?;
        staging.publish()?;
        Ok(note)
    }

    /// All of it was confirmed or taken away.
    pub(super) fn remove_note(&self) -> Result<(), DaemonError> {
        match self.generations().state().find(&[])? {
            Some(folder) => Ok(folder.remove(NOTE)?),
            None => Ok(()),
        }
    }

    /// Confirms or takes away what a killed run has noted; a sentence for each image that was taken away.
    pub(super) fn settle_note(&self, progress: &Progress) -> Result<Vec<String>, DaemonError> {
        let generations = self.generations();
        let Some(folder) = generations.state().find(&[])? else { return Ok(Vec::new()) };
        let Some(bytes) = generations.state().read(&folder, NOTE)? else { return Ok(Vec::new()) };
        // It is written in one step, so one that cannot be read is of a newer windlass, or damaged.
        let Ok(note) = parse_versioned::<DaemonNote>(&folder.at(NOTE), &bytes) else {
            self.remove_note()?;
            return Ok(vec![format!("{} could not be read, and is removed", folder.at(NOTE).display())]);
        };
        let there = self.daemon.images(progress)?;
        let entries: Vec<Former<'_>> = note.images.iter().map(|image| (&image.entry, None)).collect();
        let content = self.daemon.content(&entries, &there, progress)?;
        let refused = |(image, content): (&NotedImage, DaemonContent)| match content {
            DaemonContent::Partial(why) => {
                Some((image.entry.config_digest, format!("{}: {why}", image.entry.reference)))
            }
            DaemonContent::Whole | DaemonContent::Nothing => None,
        };
        let refused: Vec<(Digest, String)> = note.images.iter().zip(content).filter_map(refused).collect();
        let configs: BTreeSet<Digest> = refused.iter().map(|(config, _)| *config).collect();
        self.undo(&note, &configs, progress)?;
        self.remove_note()?;
        Ok(refused
            .into_iter()
            .map(|(_, said)| format!("{said}; what a killed load left of it was taken away"))
            .collect())
    }

    /// Takes the images with these configs away again, and gives their names back to what had them.
    pub(super) fn undo(
        &self,
        note: &DaemonNote,
        configs: &BTreeSet<Digest>,
        progress: &Progress,
    ) -> Result<(), DaemonError> {
        let images: Vec<&NotedImage> =
            note.images.iter().filter(|image| configs.contains(&image.entry.config_digest)).collect();
        if images.is_empty() {
            return Ok(());
        }
        let there = self.daemon.images(progress)?;
        for image in images {
            let id = self.daemon.id(&image.entry);
            // The name of its own comes last: with it goes the image.
            for NotedName { name, was } in image.names.iter().rev() {
                let leads_here = there.names.get(name) == Some(&id);
                match was {
                    // It was moved from what still is there.
                    Some(was) if *was != id && leads_here && there.sizes.contains_key(was) => {
                        self.daemon.tag(*was, name, progress)?;
                    }
                    Some(was) if *was == id && image.was_there => {}
                    _ if leads_here => self.daemon.untag(name, progress)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Which of these the daemon has, each under all of its names.
    pub(super) fn is_named(&self, there: &super::DaemonImages, entry: &GenerationEntry) -> bool {
        there.all_lead_to(&self.daemon.names(entry), self.daemon.id(entry))
    }
}
