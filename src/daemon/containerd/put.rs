//! How an image gets into containerd: its layers as blobs, or the whole as an archive; then its name, its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rayon::prelude::*;

use super::content::ContentFolder;
use super::{CHAIN, Containerd, archive};
use crate::daemon::DaemonError;
use crate::disk::AtPath;
use crate::disk::progress::Progress;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::summary::{ImageKind, PlatformRecord};
use crate::image::vouching::vouched;
use crate::image::{LayerRecord, SmallBlob, oci_chain_ids};
use crate::layer::output::{Output, Verify};
use crate::oci::digest::Digest;

/// The label by which CRI knows images that the kubelet leaves alone, as it prints it.
const PINNED: &str = "io.cri-containerd.pinned=pinned";

/// The label of content that the garbage collector keeps.
const ROOT: &str = "containerd.io/gc.root";

/// How often a blob is put there anew when the garbage collector was quicker.
const TRIES: usize = 40;

impl Containerd {
    /// Puts one platform of an image there; bytes that the snapshotter wrote.
    pub(super) fn bring(
        &self,
        image: &ImageDir,
        platform: &PlatformRecord,
        name: &str,
        progress: &Progress,
    ) -> Result<u64, DaemonError> {
        let content = self.ctr.content(progress)?;
        let missing = self.lacking(&content, platform)?;
        let unpacks = self.unpacks(image, platform, &mut self.ctr.snapshots(&self.snapshotter, progress)?.unpacked);
        let mut is_linked = false;
        let folder = self.linked(&content).ok();
        if let Some(folder) = folder {
            let mut damaged = BTreeSet::new();
            let mut layers = missing.clone();
            // All of it is there, and it is put there all the same: then it is not what it should be.
            if layers.is_empty() {
                let all: Vec<&LayerRecord> = platform.layers.iter().collect();
                damaged = folder.damaged(&all, progress)?;
                layers = all.into_iter().filter(|layer| damaged.contains(&layer.digest)).collect();
            }
            is_linked = self.link(folder, (image, platform), &layers, &damaged, &content, progress)?;
        }
        if is_linked {
            self.take(image, name, archive::of_records(image, name, progress)?, progress)?;
        } else {
            // `progress` counts what is sent.
            self.stream(image, &missing, name, progress)?;
        }
        // The image keeps it from now on. Not after the label: what has that is there, and no later load would look at it again.
        if folder.is_some() {
            self.no_root(platform.digest, progress)?;
        }
        let chain = oci_chain_ids(platform.layers.iter().map(LayerRecord::diff_id)).last().map(Digest::to_string);
        self.label(name, chain.as_deref(), progress)?;
        Ok(unpacks)
    }

    /// Puts a small blob there.
    fn ingest_small(&self, blob: &SmallBlob, progress: &Progress) -> Result<(), DaemonError> {
        let input = archive::in_memory(&blob.bytes).at("write", Path::new("memory")).map_err(LayoutError::from)?;
        self.ctr.ingest(blob.digest, blob.bytes.len() as u64, input, progress)
    }

    /// Puts the manifest of a platform there, as a root of the garbage collector that refers to all that belongs to it.
    fn root(&self, image: &ImageDir, platform: &PlatformRecord, progress: &Progress) -> Result<(), DaemonError> {
        let of_manifest = |blob: &&SmallBlob| blob.digest == platform.digest;
        let manifest = image.image().small_blobs().find(of_manifest).ok_or_else(|| LayoutError::Missing {
            path: image.path().join("blobs/sha256").join(platform.digest.hex()),
        })?;
        let digest = platform.digest.to_string();
        let mut labels =
            vec![format!("{ROOT}=windlass"), format!("containerd.io/gc.ref.content.config={}", platform.config_digest)];
        // `ctr content prune references` takes away what is called `l.N` or `N`.
        let layers = platform.layers.iter().enumerate();
        labels.extend(layers.map(|(n, layer)| format!("containerd.io/gc.ref.content.windlass.{n}={}", layer.digest)));
        let mut arguments = vec!["content", "label", &digest];
        arguments.extend(labels.iter().map(String::as_str));
        let action = format!("label {digest}");
        for tries in 1.. {
            // It may be gone again before it is labelled.
            self.ingest_small(manifest, progress)?;
            match self.ctr.ask(&action, &arguments, progress) {
                Err(DaemonError::Refused { .. }) if tries < TRIES => {}
                result => return result.map(drop),
            }
        }
        Ok(())
    }

    /// Every layer that is missing becomes a blob, several at a time. `false` if the folder turns out to be another one.
    fn link(
        &self,
        folder: &ContentFolder,
        (image, platform): (&ImageDir, &PlatformRecord),
        layers: &[&LayerRecord],
        damaged: &BTreeSet<Digest>,
        content: &BTreeMap<Digest, String>,
        progress: &Progress,
    ) -> Result<bool, DaemonError> {
        self.unroot(content, platform.digest, progress)?;
        self.root(image, platform, progress)?;
        // containerd has written it by itself.
        if !folder.is_of(&BTreeMap::from([(platform.digest, String::new())]))? {
            return Ok(false);
        }
        let writer = folder.writer()?;
        writer.sweep(&layers.iter().map(|layer| layer.digest.hex()).collect())?;
        let (ctr, verify) = (&self.ctr, self.verify(image));
        layers.into_par_iter().with_max_len(1).try_for_each(|layer| {
            let file = writer.bring(image, layer, damaged.contains(&layer.digest), verify, progress)?;
            if !content.contains_key(&layer.digest) {
                ctr.ingest(layer.digest, layer.size, file, progress)?;
            }
            writer.settle(layer)?;
            Ok::<(), DaemonError>(())
        })?;
        Ok(true)
    }

    /// How far the bytes of an image are compared.
    fn verify(&self, image: &ImageDir) -> Verify {
        if vouched(&self.nix, [image]).is_empty() { Verify::Always } else { Verify::Auto }
    }

    /// The image with layers as an archive that is made while containerd reads it.
    fn stream(
        &self,
        image: &ImageDir,
        layers: &[&LayerRecord],
        name: &str,
        progress: &Progress,
    ) -> Result<(), DaemonError> {
        let to = self.ctr.address.clone();
        let (reader, writer) = io::pipe().map_err(DaemonError::Stopped)?;
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let pipe = File::from(OwnedFd::from(writer));
                archive::write(image, layers, name, &to, Output::to_pipe(pipe, &to, progress))
            });
            let imported = self.take(image, name, reader, progress);
            match (writing.join(), imported) {
                // It hung up, and says why.
                (_, Err(error @ DaemonError::Refused { .. })) => Err(error),
                (Ok(Err(error)), _) => Err(error.into()),
                (Ok(Ok(())), imported) => imported,
                (Err(panic), _) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Has containerd import an archive.
    fn take(
        &self,
        image: &ImageDir,
        name: &str,
        archive: impl Into<std::process::Stdio>,
        progress: &Progress,
    ) -> Result<(), DaemonError> {
        // There is nothing of a model to unpack: it is an image of no platform.
        let how: &[&str] = match image.summary().kind {
            ImageKind::Model => &["--no-unpack", "--all-platforms"],
            _ => &[],
        };
        let chosen = self.chosen.as_deref().map(|name| ["--snapshotter", name]);
        let chosen = chosen.iter().flatten().copied().collect::<Vec<_>>();
        let arguments = [&["images", "import"], how, &chosen, &["-"]].concat();
        self.ctr.feed(&format!("import {name}"), &arguments, archive, progress)
    }

    /// What a run that was killed has left: manifests that are roots without an image.
    fn unroot(&self, content: &BTreeMap<Digest, String>, but: Digest, progress: &Progress) -> Result<(), DaemonError> {
        let ours = format!("{ROOT}=windlass");
        let left =
            content.iter().filter(|(digest, labels)| **digest != but && labels.split(',').any(|label| label == ours));
        left.into_iter().try_for_each(|(digest, _)| self.no_root(*digest, progress))
    }

    /// A manifest is no root any more.
    fn no_root(&self, manifest: Digest, progress: &Progress) -> Result<(), DaemonError> {
        let (digest, label) = (manifest.to_string(), format!("{ROOT}="));
        self.ctr.ask(&format!("label {digest}"), &["content", "label", &digest, &label], progress).map(drop)
    }

    /// The last step: an image is pinned, and says what a container of it stands on.
    pub(super) fn label(&self, name: &str, chain: Option<&str>, progress: &Progress) -> Result<(), DaemonError> {
        let chain = chain.map(|chain| format!("{CHAIN}={chain}"));
        let mut arguments = vec!["images", "label", name, PINNED];
        arguments.extend(chain.as_deref());
        self.ctr.ask(&format!("label {name}"), &arguments, progress).map(drop)
    }
}
