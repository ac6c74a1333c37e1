//! Container daemons beside Podman: what one has, and how it gets more.
//!
//! A daemon has image stores of its own that no other program may write to, so everything goes through its socket. What a load, a
//! rollback and a clean-up do is the same for each of them ([`host`], an [`Engine`](crate::engine::Engine)); what differs is
//! the [`Daemon`].
//!
//! An image is told by its *ID*: the digest of its config where the daemon keeps images as layers alone (Docker's graph
//! drivers), else that of its manifest. It has two kinds of names. The first, [`own_name`], is its own for as long as it is
//! there: no other image ever has it, so it keeps the image from being pruned, and a generation can be gone back to. The
//! others lead to the image of the current generation, and move with it. An image is put there under its own name alone;
//! when the daemon has said that it has all of it, the others are moved to it.

pub(crate) mod containerd;
pub(crate) mod docker;
mod error;
pub(crate) mod host;
pub(crate) mod keep;
mod note;
mod sizes;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use self::error::DaemonError;
use crate::disk::progress::Progress;
use crate::engine::Former;
use crate::engine::generation::GenerationEntry;
use crate::engine::kind::EngineKind;
use crate::engine::target::LoadWay;
use crate::image::LayerRecord;
use crate::image::layout::ImageDir;
use crate::image::summary::PlatformRecord;
use crate::oci::digest::Digest;

/// What a daemon has: each name with the ID of the image that it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonImages {
    /// Names as the daemon writes them, in full: `localhost/app:1`.
    pub names: BTreeMap<String, Digest>,
    /// Every image by its ID, also those without a name, with the bytes that the daemon says it takes.
    pub sizes: BTreeMap<Digest, u64>,
}

impl DaemonImages {
    /// Whether all of these names lead to an image.
    pub(crate) fn all_lead_to(&self, names: &[String], id: Digest) -> bool {
        names.iter().all(|name| self.names.get(name) == Some(&id))
    }
}

/// What a daemon has of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonContent {
    /// All of it: manifest or config, and every layer.
    Whole,
    /// A record of it, and not all that the record names: what is missing.
    Partial(String),
    /// Nothing.
    Nothing,
}

/// A container daemon of this host, as far as images are concerned. Nothing here is tried twice, and nothing waits for a lock of
/// windlass: that is [`host`]'s.
pub trait Daemon: fmt::Debug {
    /// Which one.
    fn kind(&self) -> EngineKind;

    /// Where its data is: what is loaded is written there. It may be closed to this user, or not be on this host.
    fn data(&self) -> &Path;

    /// What tells an image apart here.
    fn id(&self, entry: &GenerationEntry) -> Digest;

    /// The names that an image is to have: [its own](own_name) first, then those that move from load to load.
    fn names(&self, entry: &GenerationEntry) -> Vec<String> {
        vec![own_name(entry), entry.reference.to_string()]
    }

    /// Everything that it has.
    ///
    /// # Errors
    /// If it does not say.
    fn images(&self, progress: &Progress) -> Result<DaemonImages, DaemonError>;

    /// What it has of these, in their order. `there` is what it just said that it has.
    ///
    /// # Errors
    /// If it does not say.
    fn content(
        &self,
        wanted: &[Former<'_>],
        there: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<DaemonContent>, DaemonError>;

    /// The layers of an image that would be sent, if it were put there now.
    ///
    /// # Errors
    /// If the daemon does not say what it has.
    fn missing(
        &self,
        platform: &PlatformRecord,
        there: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<LayerRecord>, DaemonError>;

    /// The command that runs an image which is there.
    fn run_line(&self, entry: &GenerationEntry) -> String;

    /// How it keeps images, in a word or two.
    fn driver(&self) -> String;

    /// Whether it runs as an ordinary user.
    fn is_rootless(&self) -> bool;

    /// How often the bytes of a layer are on the disk.
    fn copies(&self) -> u64;

    /// The command that ends a container.
    fn stop_line(&self, container: &DaemonContainer) -> String;

    /// How these would be put there one after the other, and what each writes: a layer that an earlier one brings is written once.
    ///
    /// # Errors
    /// If the daemon does not say what it has, or cannot take such an image.
    fn ways(
        &self,
        images: &[(&ImageDir, &PlatformRecord)],
        there: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<LoadWay>, DaemonError>;

    /// Puts one platform of an image there, under this name and no other; bytes that the daemon wrote beside those that
    /// `progress` has counted. Every byte that is sent is hashed, and a layer that is not what its digest says ends the
    /// import before the daemon has a whole image.
    ///
    /// # Errors
    /// If the image cannot be read, or the daemon refuses it. What it has of it then is taken away by the caller.
    fn import(
        &self,
        image: &ImageDir,
        platform: &PlatformRecord,
        name: &str,
        progress: &Progress,
    ) -> Result<u64, DaemonError>;

    /// Makes a name lead to an image that is there, whatever it led to.
    ///
    /// # Errors
    /// If the daemon refuses.
    fn tag(&self, id: Digest, name: &str, progress: &Progress) -> Result<(), DaemonError>;

    /// Takes a name away. The image goes with its last one, unless a container uses it. A name that is not there is no
    /// failure.
    ///
    /// # Errors
    /// If the daemon refuses.
    fn untag(&self, name: &str, progress: &Progress) -> Result<(), DaemonError>;

    /// The containers, running or not, by the IDs of their images.
    ///
    /// # Errors
    /// If it does not say.
    fn containers(&self, progress: &Progress) -> Result<Vec<DaemonContainer>, DaemonError>;

    /// Compares what it has of an image with what was built, byte for byte: a sentence for each thing that is wrong.
    ///
    /// # Errors
    /// If it does not give its bytes.
    fn compare(
        &self,
        image: &ImageDir,
        platform: &PlatformRecord,
        entry: &GenerationEntry,
        progress: &Progress,
    ) -> Result<Vec<String>, DaemonError>;
}

/// A container of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonContainer {
    /// What people call it.
    pub name: String,
    /// The ID of its image.
    pub image: Digest,
    /// Whether it runs.
    pub running: bool,
}

/// The name that an image has for itself: its repository, and a tag that is made of its manifest's digest.
#[must_use]
pub fn own_name(entry: &GenerationEntry) -> String {
    format!("{}:windlass-{}", entry.repository, entry.manifest_digest.short())
}

/// Where windlass notes what it loaded into a daemon: a folder below `base` (`/var/lib/windlass` for root) for each kind of
/// daemon and each socket.
#[must_use]
pub(crate) fn state_of(base: &Path, kind: EngineKind, endpoint: &Path) -> PathBuf {
    let endpoint = endpoint.to_string_lossy();
    let name = endpoint.trim_start_matches('/').replace('%', "%25").replace('/', "%2F");
    base.join(kind.word()).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_a_folder_of_its_own() {
        let of = |socket: &str| state_of(Path::new("/base"), EngineKind::Docker, Path::new(socket));
        assert_eq!(of("/run/docker.sock"), Path::new("/base/docker/run%2Fdocker.sock"));
        assert_ne!(of("/run/a/b"), of("/run/a%2Fb"));
    }
}
