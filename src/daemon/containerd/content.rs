//! The folder of containerd's content store: how a layer becomes a blob of it without being copied into it.
//!
//! ```text
//! <content store>/                 what `ctr plugins list` says, mostly /var/lib/containerd/io.containerd.content.v1.content
//!   blobs/sha256/<hex>             containerd's blobs
//!   windlass/<hex>                 a layer on its way there
//! ```
//!
//! 1. A layer is written to `windlass/`, where containerd never looks: shared with the Nix store on XFS and Btrfs, else by one
//!    copy, and hashed while it is written. Only when it is synced it gets the name of its digest.
//! 2. That file gets a second name below `blobs/`, by a hard link: it appears there whole, or not at all.
//! 3. containerd is told to take a blob of this digest in, with the file as its input. With `content_sharing_policy = "shared"`,
//!    which is the default, it sees that the blob is there, and notes it for the namespace without reading a byte. With
//!    `isolated`, or if its garbage collector was quicker than this, it reads the input: the blob is right in any case.
//! 4. The first name goes.
//!
//! A run that is killed leaves files below `windlass/`, which the next one uses or removes, or a whole blob that no namespace
//! has: the next run takes it in, or containerd's collector takes it away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Stat, linkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::daemon::DaemonError;
use crate::disk::beneath::{Dir, refused};
use crate::disk::files::parent_of;
use crate::disk::progress::Progress;
use crate::disk::{AtPath, Staging, WriteError};
use crate::image::LayerRecord;
use crate::image::layout::ImageDir;
use crate::layer::output::{Output, Verify, can_share};
use crate::oci::digest::{Digest, Hasher};

/// The folder for what is on its way.
const STAGING: &str = "windlass";

/// The folder of a content store that this user may write to. containerd makes it when it gets its first blob.
#[derive(Debug)]
pub(super) struct ContentFolder {
    root: PathBuf,
}

/// The same, ready to be written to.
#[derive(Debug)]
pub(super) struct ContentWriter {
    blobs: Dir,
    staging: Dir,
}

impl ContentFolder {
    /// That of the store at `root`; why it cannot be used. Nothing is made.
    pub(super) fn open(root: &Path) -> Result<Self, String> {
        let owner = geteuid().as_raw();
        let open = || -> Result<(), WriteError> {
            Dir::open(&parent_of(root))?.is_private_to(owner)?;
            match Dir::open(root) {
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
                folder => folder?.is_private_to(owner),
            }
        };
        open().map(|()| Self { root: root.to_owned() }).map_err(|error| error.to_string())
    }

    /// It, or what it will be made in.
    fn place(&self) -> PathBuf {
        if self.root.is_dir() { self.root.clone() } else { parent_of(&self.root) }
    }

    /// Whether files there can share their data with others of the same file system.
    pub(super) fn shares(&self) -> bool {
        can_share(&self.place())
    }

    /// The number of its device.
    pub(super) fn device(&self) -> Result<u64, WriteError> {
        Ok(Dir::open(&self.place())?.stat()?.st_dev)
    }

    fn blobs(&self) -> Result<Option<Dir>, WriteError> {
        let root = match Dir::open(&self.root) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            root => root?,
        };
        let Some(blobs) = root.dir_if_there("blobs")? else { return Ok(None) };
        blobs.dir_if_there("sha256")
    }

    /// Whether the blobs that containerd says it has are here. It may run where this path is another folder.
    pub(super) fn is_of(&self, content: &BTreeMap<Digest, String>) -> Result<bool, WriteError> {
        let Some(blobs) = self.blobs()? else { return Ok(content.is_empty()) };
        for digest in content.keys() {
            if blobs.look(digest.hex())?.is_some() {
                return Ok(true);
            }
        }
        Ok(content.is_empty())
    }

    /// Those of these layers that are not here with their sizes.
    pub(super) fn lacking(&self, layers: &[&LayerRecord]) -> Result<BTreeSet<Digest>, WriteError> {
        let blobs = self.blobs()?;
        let mut lacking = BTreeSet::new();
        for layer in layers {
            let is_there = match &blobs {
                Some(blobs) => has(blobs, layer)?,
                None => false,
            };
            if !is_there {
                lacking.insert(layer.digest);
            }
        }
        Ok(lacking)
    }

    /// Those of these layers whose bytes are not what they should be.
    pub(super) fn damaged(&self, layers: &[&LayerRecord], progress: &Progress) -> Result<BTreeSet<Digest>, WriteError> {
        let Some(blobs) = self.blobs()? else { return Ok(BTreeSet::new()) };
        let is_damaged = |layer: &&LayerRecord| -> Result<Option<Digest>, WriteError> {
            let (name, mut hasher, mut chunk) = (layer.digest.hex(), Hasher::new(), vec![0; 256 * 1024]);
            let (mut file, path) = (blobs.file(&name)?, blobs.at(&name));
            loop {
                progress.check().at("read", &path)?;
                match file.read(&mut chunk).at("read", &path)? {
                    0 => return Ok((hasher.finish().0 != layer.digest).then_some(layer.digest)),
                    count => hasher.update(&chunk[..count]),
                }
                progress.count_read(chunk.len() as u64);
            }
        };
        let damaged: Vec<Option<Digest>> = layers.iter().map(is_damaged).collect::<Result<_, _>>()?;
        Ok(damaged.into_iter().flatten().collect())
    }

    /// The folder, made as far as it is not there.
    pub(super) fn writer(&self) -> Result<ContentWriter, WriteError> {
        let owner = geteuid().as_raw();
        let above = Dir::open(&parent_of(&self.root))?;
        // As containerd makes them.
        let root = above.made(self.root.file_name().unwrap_or_default(), 0o755)?;
        let blobs = root.made("blobs", 0o755)?.made("sha256", 0o755)?;
        let staging = root.made(STAGING, 0o700)?;
        for folder in [&root, &blobs, &staging] {
            folder.is_private_to(owner)?;
        }
        if blobs.stat()?.st_dev != staging.stat()?.st_dev {
            return Err(refused(blobs.path(), "it is on another file system than its store"));
        }
        Ok(ContentWriter { blobs, staging })
    }
}

impl ContentWriter {
    /// A layer as a file that is whole and on the disk, at both of its names. What is there under the digest already is taken,
    /// unless it is to be replaced.
    pub(super) fn bring(
        &self,
        image: &ImageDir,
        layer: &LayerRecord,
        replace: bool,
        verify: Verify,
        progress: &Progress,
    ) -> Result<File, DaemonError> {
        let name = layer.digest.hex();
        // Another namespace has it, or a killed run has come this far.
        if !replace && has(&self.blobs, layer)? {
            return Ok(self.blobs.file(&name)?);
        }
        if !has(&self.staging, layer)? {
            let staged = Staging::file_in(&self.staging, &name)?;
            let mut output = Output::create(staged.path(), verify, false, progress)?;
            image.write_layer(layer, &mut output)?;
            output.finish()?;
            staged.publish()?;
        }
        let file = self.staging.file(&name)?;
        // As containerd leaves its own.
        file.set_permissions(Permissions::from_mode(0o444)).at("set the mode of", &self.staging.at(&name))?;
        if replace {
            self.staging.rename(name.as_ref(), &self.blobs, name.as_ref())?;
            self.blobs.sync()?;
        } else {
            self.link(layer.digest)?;
        }
        Ok(file)
    }

    /// Gives a staged file its name among the blobs; what is there already is the same.
    fn link(&self, digest: Digest) -> Result<(), WriteError> {
        let name = digest.hex();
        match linkat(&self.staging, &name, &self.blobs, &name, AtFlags::empty()) {
            Ok(()) => self.blobs.sync(),
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error).at("link to", &self.blobs.at(&name)),
        }
    }

    /// containerd has taken the blob in. Its garbage collector may have removed the file in the moment before that: then it
    /// is linked again, and now nothing takes it.
    pub(super) fn settle(&self, layer: &LayerRecord) -> Result<(), WriteError> {
        let name = layer.digest.hex();
        if !has(&self.blobs, layer)? && self.staging.look(&name)?.is_some() {
            self.link(layer.digest)?;
        }
        self.staging.remove(&name)
    }

    /// Removes what killed runs have left, but for these.
    pub(super) fn sweep(&self, but: &BTreeSet<String>) -> Result<(), WriteError> {
        let names = self.staging.names()?;
        let left = names.keys().filter(|name| name.to_str().is_none_or(|name| !but.contains(name)));
        left.into_iter().try_for_each(|name| self.staging.remove(name))
    }
}

/// Whether a folder has the file of a layer, with its size.
fn has(folder: &Dir, layer: &LayerRecord) -> Result<bool, WriteError> {
    Ok(folder.look(layer.digest.hex())?.is_some_and(|found| is_of_size(&found, layer.size)))
}

fn is_of_size(found: &Stat, size: u64) -> bool {
    u64::try_from(found.st_size).is_ok_and(|found| found == size)
}
