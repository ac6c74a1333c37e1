//! What a container engine must offer so that images can be loaded into it, kept, and gone back to.
//!
//! ```text
//! targets ──► look ──► steps ──► attempt with roots ──► note, put ──► the generation is current
//!             (target)           (generations)           │ (load)
//!                                                        └─► what the engine does not confirm is taken away
//! ```
//!
//! [`load`], [`rollback`] and [`keep`] are the same for all engines: [`crate::podman`], and the daemons of [`crate::daemon`]. The
//! folder that [`Engine::state`] gives holds what windlass notes of an engine: see [`generations`].

pub(crate) mod generation;
pub(crate) mod generations;
pub(crate) mod keep;
pub(crate) mod kind;
pub(crate) mod load;
pub(crate) mod missing;
pub(crate) mod process;
pub(crate) mod rollback;
pub(crate) mod target;

use std::collections::BTreeSet;
use std::path::PathBuf;

use self::generation::GenerationEntry;
use self::generations::{GenerationError, Generations};
use self::load::Loading;
use self::target::{DecideError, LoadOptions, LoadStep, LoadTarget, TargetState};
use crate::class::Classified;
use crate::disk::WriteError;
use crate::disk::progress::Progress;
use crate::image::layout::ImageDir;
use crate::image::summary::PlatformRecord;
use crate::nix::store::NixPlaces;
use crate::oci::digest::Digest;

/// An image of a generation, with its directory and the platform in it, where these are still there.
pub type Former<'a> = (&'a GenerationEntry, Option<(&'a ImageDir, &'a PlatformRecord)>);

/// A container engine on this host. What changes it is called with the lock of its generations held.
pub trait Engine {
    /// Why the engine cannot do something.
    type Error: Classified + From<DecideError> + From<GenerationError> + From<WriteError>;

    /// What is noted of images before they are put there, so that exactly they can be taken away again.
    type Note;

    /// Where are the records: the folder for what windlass notes of this engine. It need not exist.
    fn state(&self) -> PathBuf;

    /// Where Nix keeps its things.
    fn nix(&self) -> &NixPlaces;

    /// Is it there? For each target what the engine's records say, and how it would be put there. Changes nothing, starts
    /// no process and reads no layer.
    ///
    /// # Errors
    /// If the records cannot be read, or there is no way as asked for.
    fn look(
        &self,
        targets: &[LoadTarget],
        options: LoadOptions,
        progress: &Progress,
    ) -> Result<Vec<TargetState>, Self::Error>;

    /// The same for images of a generation: whether all of each is there.
    ///
    /// # Errors
    /// If the records cannot be read.
    fn holds(&self, images: &[Former<'_>], progress: &Progress) -> Result<Vec<bool>, Self::Error>;

    /// Refuses what would not fit, before anything is written.
    ///
    /// # Errors
    /// [`DecideError::NoSpace`].
    fn check_space(&self, steps: &[LoadStep]) -> Result<(), Self::Error>;

    /// Whether a run that was killed has left something: a note, or files.
    ///
    /// # Errors
    /// If that cannot be seen.
    fn has_leftovers(&self, progress: &Progress) -> Result<bool, Self::Error>;

    /// Confirms or takes away what a run that was killed has noted; a sentence for each image that was taken away.
    ///
    /// # Errors
    /// If it cannot be taken away; a next run tries again.
    fn settle(&self, progress: &Progress) -> Result<Vec<String>, Self::Error>;

    /// Notes, on the disk, what is about to be put there and what it replaces.
    ///
    /// # Errors
    /// If that cannot be written.
    fn note(&self, loading: &mut Loading<'_, Self>) -> Result<Self::Note, Self::Error>
    where
        Self: Sized;

    /// Puts it there, names it and asks back: the engine itself says that it has each image, or the outcome has an error.
    /// Bytes of layers that the engine wrote.
    ///
    /// # Errors
    /// If it failed for all of them.
    fn put(&self, loading: &mut Loading<'_, Self>, note: &mut Self::Note) -> Result<u64, Self::Error>
    where
        Self: Sized;

    /// Takes the noted images with these configs away again, and gives their names back to what had them.
    ///
    /// # Errors
    /// If that fails; the note stays.
    fn take_away(&self, note: &Self::Note, configs: &BTreeSet<Digest>, progress: &Progress) -> Result<(), Self::Error>;

    /// All that was noted is confirmed or taken away: the note goes.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn forget(&self, note: Self::Note) -> Result<(), Self::Error>;

    /// Removes files that killed runs have left, after a load.
    ///
    /// # Errors
    /// If they cannot be removed.
    fn sweep(&self, progress: &Progress) -> Result<(), Self::Error>;

    /// Names it: makes the names of images that are there lead to them.
    ///
    /// # Errors
    /// If a name cannot be moved.
    fn name(&self, entries: &[&GenerationEntry], progress: &Progress) -> Result<(), Self::Error>;

    /// Before a load looks at anything: puts right what would make this engine's answers wrong. Sentences to warn of.
    ///
    /// # Errors
    /// If it cannot be put right.
    fn begin(&self, _: &Progress) -> Result<Vec<String>, Self::Error> {
        Ok(Vec::new())
    }

    /// After a load and a rollback, also one that changed nothing: what depends on the current generation alone. The lock of the
    /// generations is free. Sentences to warn of.
    ///
    /// # Errors
    /// If that cannot be done.
    fn conclude(&self, _: &Progress) -> Result<Vec<String>, Self::Error> {
        Ok(Vec::new())
    }

    /// What was loaded into it, load after load.
    fn generations(&self) -> Generations {
        Generations::at(self.state())
    }
}
