//! An image handed over to Podman: only the layers that it lacks, and no network.
//!
//! In a directory of its own inside the graph root, which is gone afterwards, lies an OCI layout with the image's small
//! blobs and the missing layers: links to blobs that are on disk, else to files that are made while they are read
//! ([`crate::disk::served`]), or where those cannot be, the bytes that their recipes make. skopeo, or a Podman without one,
//! reads it. Nothing is hashed here: they compare every blob with its digest, and skopeo the manifest too.
//!
//! | | skopeo | Podman alone |
//! |---|---|---|
//! | name | `NAME@sha256:…`, which no tag that moves takes away, and the tag | the tag |
//! | manifest compared with its digest | by skopeo | by asking for `NAME@sha256:…` afterwards |
//! | temporary files | with `--tmpdir`; it ignores `TMPDIR` | in `TMPDIR` |
//!
//! **Image stores beside the graph root are hidden from them.** containers-storage would take a layer that such a store
//! has from there, and an image whose lower layers are in another store breaks with that store: Podman 4.3 then lists
//! nothing at all, and loading the image again mends nothing.
//!
//! Space: both keep a copy of every new layer in the temporary directory until the last one is in its place. Nothing of a layer
//! lies there a third time, unless it cannot be served. Where there is no room for the copies, skopeo makes them in a directory
//! that keeps none (`disk/scratch.rs`); that takes longer, as each of its small writes is answered.
//!
//! Layers that were finished before a failure stay in the graph root, without an image, and a next try takes them over.
//! No command of Podman 4.3 shows or removes such layers; `windlass gc` does (`keep/half_layers.rs`).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::syncfs;

use super::large_files::WrittenFiles;
pub use super::pull_error::PullError;
use super::pull_work::PullWork;
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::files::free_space;
use crate::disk::progress::Progress;
use crate::disk::served::{COPIES, ServedPlace};
use crate::disk::write_back::writing_back;
use crate::disk::{AtPath, Staging};
use crate::engine::process::ProgramError;
use crate::image::bundle::BLOBS;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::PlatformRecord;
use crate::image::{LayerKind, LayerRecord};
use crate::layer::Recipe;
use crate::layer::output::can_share;
use crate::oci::digest::Digest;
use crate::podman::linked::stored_archive::StoredArchive;
use crate::podman::storage::client::PodmanClient;
use crate::podman::storage::places::Places;
use crate::podman::storage::snapshot::StoreSnapshot;

/// An image that Podman now has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its permanent name, `NAME@sha256:…`.
    pub name: String,
    /// The program that took it: `skopeo` or `podman`.
    pub program: &'static str,
    /// How many layers Podman lacked.
    pub layers: usize,
    /// Bytes that the programs wrote, temporary files included, as the kernel has counted them; where it does not, or copies were
    /// not kept, those of these layers.
    pub bytes: u64,
}

/// Hands one platform of an image over to Podman, and makes sure that it is there, under its tag and its digest.
///
/// `present` are the layers that the graph root has, whatever lies below them there. A layer that only an additional
/// image store has is not present: see the [module](self).
///
/// # Errors
/// See [`PullError`]. Nothing is left behind then but finished layers that a next try takes over.
pub fn pull(
    engine: &PodmanClient,
    places: &Places,
    image: &ImageDir,
    platform: &PlatformRecord,
    present: &BTreeSet<Digest>,
    progress: &Progress,
) -> Result<Pulled, PullError> {
    let mut missing: Vec<&LayerRecord> = Vec::new();
    for layer in &platform.layers {
        if !present.contains(&layer.diff_id()) && !missing.contains(&layer) {
            missing.push(layer);
        }
    }
    // Podman makes it like this on its first run.
    let root = &places.graph_root;
    DirBuilder::new().recursive(true).mode(0o700).create(root).at("create", root)?;
    let work = PullWork::new(places, image)?;
    let bytes = missing.iter().map(|layer| layer.diff_size()).sum();
    let blobs = missing.iter().map(|layer| blob(image, layer)).collect::<Result<Vec<_>, LayoutError>>()?;
    let needed = |copies| temporary(image, &missing, root, copies).map(|temporary| temporary + bytes);
    let free = free_space(root)?;
    let spares = needed(SkopeoCopies::Kept)? > free && can_spare_copies(engine, progress);
    let copies = if spares { SkopeoCopies::Spared } else { SkopeoCopies::Kept };
    let needed = needed(copies)?;
    if needed > free {
        let image = image.summary().reference.to_string();
        return Err(PullError::NoSpace { image, graph_root: root.clone(), needed, layers: bytes, free });
    }

    let left_out = |layer: &&LayerRecord| image.summary().leaves_out(layer) && layer.packed.is_none();
    let stored = match missing.iter().any(left_out) {
        true => Some(StoreSnapshot::read(places, progress)?),
        false => None,
    };
    work.write(places, image, progress)?;
    progress.expect(missing.iter().zip(&blobs).filter(|(_, blob)| blob.is_none()).map(|(layer, _)| layer.size).sum());
    let is_served = |(layer, blob): &(&&LayerRecord, &Option<PathBuf>)| {
        let is_on_disk = || blob.is_some() || shares(layer, root);
        !image.summary().leaves_out(layer) && (spares || !is_on_disk())
    };
    let served: Vec<&LayerRecord> = missing.iter().zip(&blobs).filter(is_served).map(|(layer, _)| *layer).collect();
    let temporary = work.path("tmp");
    let place = if served.is_empty() { None } else { ServedPlace::new(spares.then(|| temporary.clone())).ok() };
    let temporary = place.as_ref().and_then(ServedPlace::copies).unwrap_or(temporary);
    for (layer, blob) in missing.iter().zip(blobs) {
        let stored = stored.as_ref().filter(|_| left_out(layer));
        let same = stored.and_then(|stored| StoredArchive::find(stored, layer.diff_id()));
        if let Some(place) = place.as_ref().filter(|_| served.contains(layer)) {
            let path = work.path(&work.layout).join(BLOBS).join(layer.digest.hex());
            symlink(place.path(&layer.digest.hex()), &path).at("create", &path)?;
            continue;
        }
        match (same, stored.zip(image.summary().patch_of(layer))) {
            (Some(same), _) => work.add_stored(layer, &same, progress)?,
            (None, Some((stored, patch))) => work.add_patched(image, (layer, patch), stored, progress)?,
            (None, None) => work.add_layer(image, layer, blob, progress)?,
        }
    }
    let before = written();
    let mut weights = WrittenFiles::of(places, image, platform, &missing);
    let mut hand_over =
        || writing_back(|| weights.sync(), || work.hand_over(engine, places, (image, platform), &temporary, progress));
    let program = match place {
        Some(place) => {
            let files: Vec<_> = served.into_iter().map(|layer| work.served(image, layer, progress)).collect();
            place.serve(&files, progress, hand_over).at("serve", &work.path(&work.layout))?
        }
        None => hand_over(),
    };
    let program = program.map_err(|error| match error {
        PullError::Engine(error) => explained(error, places, image, platform, &missing, progress),
        error => error,
    })?;
    // A kernel may count copies that were not kept.
    let counted = written().zip(before).filter(|_| !spares);
    let bytes = counted.map_or(bytes, |(after, before)| after.saturating_sub(before));
    let pulled = Pulled { name: permanent_name(image), program, layers: missing.len(), bytes };
    // What is removed need not be written first.
    drop(work);
    // Podman syncs its records, but no layer: after a power loss a layer could have holes that no check finds.
    let _step = progress.step(format!("the disk of {} writes what it holds back", root.display()));
    syncfs(Dir::open(root)?).at("sync", root)?;
    check(engine, &pulled, &image.summary().reference, platform.config_digest, progress)?;
    Ok(pulled)
}

/// Removes what killed runs have left in the graph root: up to twice the bytes of an image.
pub(crate) fn sweep(places: &Places) {
    Staging::sweep(&place_of_work(places));
}

pub(crate) fn place_of_work(places: &Places) -> PathBuf {
    places.graph_root.join("pull")
}

/// `NAME@sha256:…` with the digest that `index.json` names.
pub(super) fn permanent_name(image: &ImageDir) -> String {
    format!("{}@{}", image.summary().name, image.summary().digest)
}

/// Whether the user's own Podman has the image: skopeo only said that it copied it.
fn check(
    engine: &PodmanClient,
    pulled: &Pulled,
    reference: &str,
    expected: Digest,
    progress: &Progress,
) -> Result<(), PullError> {
    let names = [pulled.name.as_str(), reference];
    for (name, found) in names.into_iter().zip(engine.exists(&names, progress)?) {
        let (program, name) = (pulled.program, name.to_owned());
        match found {
            None => return Err(PullError::NotThere { program, name }),
            Some(found) if found != expected => return Err(PullError::OtherImage { program, name, expected, found }),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Bytes that this process, and the programs that it has waited for, have written to disks, without those that were
/// gone again before they got there.
fn written() -> Option<u64> {
    let io = bounded::text(Path::new("/proc/self/io"), Cap::List).ok()?;
    let count = |name: &str| io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(count("write_bytes:")?.saturating_sub(count("cancelled_write_bytes:")?))
}

/// The file that is a layer already.
fn blob(image: &ImageDir, layer: &LayerRecord) -> Result<Option<PathBuf>, LayoutError> {
    if let Some(own) = image.layer_blob(layer)? {
        // One that is cut is put together first.
        return Ok(Some(own).filter(|own| own.is_file()));
    }
    let made = image.image().recipes.get(&layer.digest).and_then(Recipe::blob);
    Ok(made.map(Path::to_owned))
}

/// Whether the copies that skopeo makes of layers lie on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkopeoCopies {
    Kept,
    Spared,
}

/// Whether skopeo's copies need not lie on the disk.
pub(super) fn can_spare_copies(engine: &PodmanClient, progress: &Progress) -> bool {
    ServedPlace::is_possible() && engine.has_skopeo(progress)
}

/// Bytes that lie beside these layers of an image while they are pulled: blobs that are made, and the program's copies.
pub(super) fn temporary(
    image: &ImageDir,
    missing: &[&LayerRecord],
    root: &Path,
    copies: SkopeoCopies,
) -> Result<u64, LayoutError> {
    let mut bytes = 0;
    for layer in missing {
        if copies == SkopeoCopies::Spared && !image.summary().leaves_out(layer) {
            continue;
        }
        let is_served = || !image.summary().leaves_out(layer) && ServedPlace::is_possible();
        let is_made = blob(image, layer)?.is_none() && !shares(layer, root) && !is_served();
        bytes += if is_made { 2 * layer.size } else { layer.size };
    }
    Ok(bytes)
}

/// Whether the bytes of a layer are large files of the same device, whose files can share them. Small ones are copied on every
/// file system.
fn shares(layer: &LayerRecord, root: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    layer.kind == LayerKind::Model
        && layer.owners.iter().all(|owner| device(Path::new(owner)) == device(root))
        && root.ancestors().find(|path| path.exists()).is_some_and(can_share)
}

/// What an error of a program means, where that is known.
fn explained(
    error: ProgramError,
    places: &Places,
    image: &ImageDir,
    platform: &PlatformRecord,
    missing: &[&LayerRecord],
    progress: &Progress,
) -> PullError {
    let ProgramError::Failed { said, .. } = &error else { return error.into() };
    let name = || image.summary().reference.to_string();
    if said.contains("no space left on device") || said.contains("disk quota exceeded") {
        return PullError::Full { image: name(), graph_root: places.graph_root.clone(), said: said.clone() };
    }
    let named = platform.layers.iter().find(|layer| said.contains(&layer.digest.hex()));
    if let Some(layer) = named.filter(|layer| !missing.contains(layer)) {
        return PullError::LayerGone { image: name(), digest: layer.digest, title: layer.title.clone() };
    }
    // Their digests disagree: the bytes, read once more, tell which path is at fault. Of a copy it is not said which layer it is of.
    let is_of_copy = said.contains(&format!("/{COPIES}/"));
    let suspects = missing.iter().filter(|layer| named.map_or(is_of_copy, |named| named == **layer));
    match suspects.map(|layer| image.verify_layer(layer, true, progress)).find_map(Result::err) {
        Some(cause) => cause.into(),
        None => error.into(),
    }
}
