//! Docker, through its API's socket: no client of it is needed.
//!
//! | image store | an image's ID | what is sent | what Docker does with it |
//! |---|---|---|---|
//! | graph driver (`overlay2`) | digest of the config | layers above those that an image of ours has in common | unpacks the archive into `tmp` of its data, then its layers, then removes it |
//! | containerd | digest of the manifest | layers that no image of ours has | stores each layer, and unpacks it beside that |
//!
//! A layer that is left out although it is not there makes a graph driver refuse the archive. With the containerd store Docker
//! says that it has loaded the image, and has only a part of it (28.5.2): so it is asked for what it has, and if a part is
//! missing, all layers are sent.

mod api;
pub(crate) mod context;
mod saved;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::api::{DockerApi, DockerInfo, InspectedImage};
use super::sizes::UnpackedSizes;
use super::stream::ImageStream;
use super::{Daemon, DaemonContainer, DaemonContent, DaemonError, DaemonImages};
use crate::disk::progress::Progress;
use crate::engine::Former;
use crate::engine::generation::GenerationEntry;
use crate::engine::kind::EngineKind;
use crate::engine::target::{LoadMethod, LoadWay};
use crate::image::layout::ImageDir;
use crate::image::summary::PlatformRecord;
use crate::image::{LayerRecord, oci_chain_ids};
use crate::oci::digest::Digest;

/// Where Docker's socket is, unless something else is said.
pub(crate) const SOCKET: &str = "/var/run/docker.sock";

/// How Docker keeps images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DockerStore {
    /// As unpacked layers, and the image's config.
    GraphDriver,
    /// As containerd keeps them: the blobs, and beside them what is unpacked.
    Containerd,
}

/// The Docker of a socket.
#[derive(Debug)]
pub(crate) struct DockerDaemon {
    api: DockerApi,
    store: DockerStore,
    info: DockerInfo,
    sizes: UnpackedSizes,
    /// What it has said of images. An image is what its ID says, so that only a partial one changes.
    inspected: RefCell<BTreeMap<Digest, Vec<Digest>>>,
}

impl DockerDaemon {
    /// The one at this socket.
    ///
    /// # Errors
    /// If it does not answer, or is too old.
    pub(crate) fn connect(socket: &Path, progress: &Progress) -> Result<Self, DaemonError> {
        let api = DockerApi::connect(socket, progress)?;
        let info = api.info(progress)?;
        let is_containerd =
            |(key, value): &(String, String)| key == "driver-type" && value.starts_with("io.containerd.snapshotter");
        let store = match info.driver_status.iter().flatten().any(is_containerd) {
            true => DockerStore::Containerd,
            false => DockerStore::GraphDriver,
        };
        Ok(Self { api, store, info, sizes: UnpackedSizes::default(), inspected: RefCell::default() })
    }

    /// The diff IDs of an image that is there whole; `None` if it is not.
    fn layers_of(&self, id: Digest, progress: &Progress) -> Result<Option<Vec<Digest>>, DaemonError> {
        if let Some(known) = self.inspected.borrow().get(&id) {
            return Ok(Some(known.clone()));
        }
        let Some(image) = self.api.image(id, progress)? else { return Ok(None) };
        if image.is_partial(id) || image.layers().is_empty() {
            return Ok(None);
        }
        let layers = InspectedImage::layers(&image).to_vec();
        self.inspected.borrow_mut().insert(id, layers.clone());
        Ok(Some(layers))
    }

    /// Everything that images of ours have, for leaving it out: chains of layers with a graph driver, layers with the containerd
    /// store.
    fn held(&self, there: &DaemonImages, progress: &Progress) -> Result<BTreeSet<Digest>, DaemonError> {
        // How the layers of other images are packed is not known.
        let ours = there.names.iter().filter(|(name, _)| name.contains(":windlass-")).map(|(_, id)| *id);
        let mut held = BTreeSet::new();
        for id in ours.collect::<BTreeSet<_>>() {
            let layers = self.layers_of(id, progress)?.unwrap_or_default();
            match self.store {
                DockerStore::GraphDriver => held.extend(oci_chain_ids(layers)),
                DockerStore::Containerd => held.extend(layers),
            }
        }
        Ok(held)
    }

    /// The layers of an image that are not among what is held, each with what it is held as.
    fn unheld<'i>(&self, platform: &'i PlatformRecord, held: &BTreeSet<Digest>) -> Vec<(&'i LayerRecord, Digest)> {
        let key = |(layer, chain): (&'i LayerRecord, Digest)| match self.store {
            DockerStore::GraphDriver => (layer, chain),
            DockerStore::Containerd => (layer, layer.digest),
        };
        let chain = oci_chain_ids(platform.layers.iter().map(LayerRecord::diff_id));
        let keyed = platform.layers.iter().zip(chain).map(key);
        keyed.filter(|(_, key)| !held.contains(key)).collect()
    }
}

impl Daemon for DockerDaemon {
    fn kind(&self) -> EngineKind {
        EngineKind::Docker
    }

    fn data(&self) -> &Path {
        &self.info.docker_root_dir
    }

    fn id(&self, entry: &GenerationEntry) -> Digest {
        match self.store {
            DockerStore::GraphDriver => entry.config_digest,
            DockerStore::Containerd => entry.manifest_digest,
        }
    }

    fn images(&self, progress: &Progress) -> Result<DaemonImages, DaemonError> {
        let mut there = DaemonImages::default();
        for image in self.api.images(progress)? {
            let names = image.repo_tags.into_iter().flatten().filter(|name| !name.starts_with('<'));
            there.names.extend(names.map(|name| (name, image.id)));
            there.sizes.insert(image.id, u64::try_from(image.size).unwrap_or(0));
        }
        Ok(there)
    }

    fn content(
        &self,
        wanted: &[Former<'_>],
        there: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<DaemonContent>, DaemonError> {
        let of = |(entry, image): &Former<'_>| {
            let id = self.id(entry);
            if !there.sizes.contains_key(&id) {
                return Ok(DaemonContent::Nothing);
            }
            let Some(layers) = self.layers_of(id, progress)? else {
                return Ok(DaemonContent::Partial("layers of it are not in Docker's store".to_owned()));
            };
            let differs = image.is_some_and(|(_, platform)| {
                !platform.layers.iter().map(LayerRecord::diff_id).eq(layers.iter().copied())
            });
            Ok(match differs {
                true => DaemonContent::Partial("its layers are not those that were built".to_owned()),
                false => DaemonContent::Whole,
            })
        };
        wanted.iter().map(of).collect()
    }

    fn missing(
        &self,
        platform: &PlatformRecord,
        there: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<LayerRecord>, DaemonError> {
        let held = self.held(there, progress)?;
        Ok(self.unheld(platform, &held).into_iter().map(|(layer, _)| layer.clone()).collect())
    }

    fn run_line(&self, entry: &GenerationEntry) -> String {
        // A graph driver knows a digest only of what a registry gave it.
        let name = match self.store {
            DockerStore::GraphDriver => super::own_name(entry),
            DockerStore::Containerd => format!("{}@{}", entry.repository, entry.manifest_digest),
        };
        format!("docker run --pull=never {name}")
    }

    fn driver(&self) -> String {
        match self.store {
            DockerStore::GraphDriver => self.info.driver.clone(),
            DockerStore::Containerd => format!("{}, containerd store", self.info.driver),
        }
    }

    fn is_rootless(&self) -> bool {
        self.info.security_options.iter().flatten().any(|option| option == "name=rootless")
    }

    fn copies(&self) -> u64 {
        match self.store {
            DockerStore::GraphDriver => 1,
            // As it came, and unpacked.
            DockerStore::Containerd => 2,
        }
    }

    fn stop_line(&self, container: &DaemonContainer) -> String {
        let name = &container.name;
        format!("docker stop {name} && docker rm {name}")
    }

    fn ways(
        &self,
        images: &[(&ImageDir, &PlatformRecord)],
        there: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<LoadWay>, DaemonError> {
        let mut held = self.held(there, progress)?;
        let way = |(image, platform): &(&ImageDir, &PlatformRecord)| {
            let missing = self.unheld(platform, &held);
            held.extend(missing.iter().map(|(_, key)| *key));
            let sent: u64 = missing.iter().map(|(layer, _)| layer.size).sum();
            let unpacked: u64 = missing.iter().map(|(layer, _)| self.sizes.of(image, layer)).sum();
            let stays = match self.store {
                DockerStore::GraphDriver => unpacked,
                DockerStore::Containerd => sent + unpacked,
            };
            let way = LoadWay::new(LoadMethod::Pull, self.data().to_owned(), stays);
            // Both lie there until the last layer is unpacked.
            LoadWay { peak: sent + unpacked, ..way }
        };
        Ok(images.iter().map(way).collect())
    }

    fn import(
        &self,
        image: &ImageDir,
        platform: &PlatformRecord,
        name: &str,
        progress: &Progress,
    ) -> Result<u64, DaemonError> {
        let held = self.held(&self.images(progress)?, progress)?;
        let missing: BTreeSet<Digest> = self.unheld(platform, &held).iter().map(|(layer, _)| layer.digest).collect();
        let without: BTreeSet<Digest> =
            platform.layers.iter().map(|layer| layer.digest).filter(|digest| !missing.contains(digest)).collect();
        let socket: PathBuf = self.api.socket.clone();
        let send = |without: &BTreeSet<Digest>| -> Result<Option<String>, DaemonError> {
            let stream = ImageStream { image, platform, name, without, to: &socket };
            progress.expect(stream.payload());
            stream.send(progress, |archive| self.api.load(archive, progress))?
        };
        let refused = |said| {
            let action = format!("load {name}");
            Err(DaemonError::Refused { engine: EngineKind::Docker, action, said })
        };
        let said = send(&without)?;
        let is_whole = |progress| match self.store {
            // It says no where it has not all of it.
            DockerStore::GraphDriver => Ok(said.is_none()),
            DockerStore::Containerd => self.layers_of(platform.digest, progress).map(|layers| layers.is_some()),
        };
        // What was held may have been removed in the meantime, or be packed otherwise.
        let said = if without.is_empty() || is_whole(progress)? { said } else { send(&BTreeSet::new())? };
        match said {
            Some(said) => refused(said),
            None => {
                let unpacked = platform.layers.iter().filter(|layer| missing.contains(&layer.digest));
                Ok(unpacked.map(|layer| self.sizes.of(image, layer)).sum())
            }
        }
    }

    fn tag(&self, id: Digest, name: &str, progress: &Progress) -> Result<(), DaemonError> {
        self.api.tag(id, name, progress)
    }

    fn untag(&self, name: &str, progress: &Progress) -> Result<(), DaemonError> {
        // What is gone may come back in part.
        self.inspected.borrow_mut().clear();
        self.api.untag(name, progress)
    }

    fn containers(&self, progress: &Progress) -> Result<Vec<DaemonContainer>, DaemonError> {
        let container = |listed: api::ListedContainer| {
            let name = listed.names.first().map(|name| name.trim_start_matches('/').to_owned());
            let image = listed.image_id.parse().ok()?;
            Some(DaemonContainer { name: name.unwrap_or_default(), image, running: listed.state == "running" })
        };
        Ok(self.api.containers(progress)?.into_iter().filter_map(container).collect())
    }

    fn compare(
        &self,
        _: &ImageDir,
        platform: &PlatformRecord,
        entry: &GenerationEntry,
        progress: &Progress,
    ) -> Result<Vec<String>, DaemonError> {
        let name = super::own_name(entry);
        let wanted = |layer: &LayerRecord| match self.store {
            DockerStore::GraphDriver => layer.diff_id(),
            DockerStore::Containerd => layer.digest,
        };
        let layers: Vec<Digest> = platform.layers.iter().map(wanted).collect();
        let saved = saved::read(self.api.save(&name, progress)?, progress);
        let saved = saved.map_err(|why| self.api.puzzled(&format!("give out {name}"), why.to_string()))?;
        Ok(saved.differences(platform, &layers))
    }
}
