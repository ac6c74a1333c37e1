//! containerd, and that of k3s, as a [`Daemon`].
//!
//! Everything that containerd says comes from [`ctr`]. What it gets goes one of two ways:
//!
//! - **Its content store is a folder that this user may write to**, and its namespaces share content: each layer becomes a
//!   blob there by a link ([`content`]). What keeps containerd's garbage collector off between the steps is not a lease
//!   (`ctr leases create` makes one, but no verb of `ctr` can put anything under it) but the manifest: it goes in first,
//!   labelled as a root (`containerd.io/gc.root`) that refers to every layer (`containerd.io/gc.ref.content.windlass.N`), so
//!   that a layer is wanted before it is there. When the image has a name, the label of a root goes; the others stay, and keep
//!   the layers also where `ctr content prune references` takes away those of `ctr` itself.
//! - **Else** the image goes through `ctr images import -`, as an archive of the layers that are missing, made while it is read.
//!
//! Then a tar without layers gives the image its name, and `ctr` unpacks it: containerd's snapshotter writes every file once
//! more. The label `io.cri-containerd.pinned` keeps the kubelet's garbage collector off.

mod archive;
mod content;
mod ctr;
mod put;
mod tables;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;

use self::content::ContentFolder;
use self::ctr::Ctr;
use self::tables::{CtrImage, CtrPlugins};
use super::sizes::UnpackedSizes;
use super::{Daemon, DaemonContainer, DaemonContent, DaemonError, DaemonImages};
use crate::disk::progress::Progress;
use crate::engine::Former;
use crate::engine::generation::GenerationEntry;
use crate::engine::kind::EngineKind;
use crate::engine::target::{CopyCause, LoadMethod, LoadWay};
use crate::image::layout::ImageDir;
use crate::image::summary::{ImageKind, PlatformRecord};
use crate::image::{LayerRecord, oci_chain_ids};
use crate::layer::{ALIGN_FROM, MemberContent};
use crate::nix::store::NixPlaces;
use crate::oci::digest::Digest;

/// The label with the chain ID of the uppermost layer: what the snapshot of a container stands on.
const CHAIN: &str = "org.windlass.chain";

/// What containerd takes where nothing else is said.
const SNAPSHOTTER: &str = "overlayfs";

/// A containerd, with the namespace that is loaded into.
#[derive(Debug)]
pub(crate) struct Containerd {
    ctr: Ctr,
    nix: NixPlaces,
    /// The snapshotter that images are unpacked by.
    snapshotter: String,
    /// The same, if it was asked for.
    chosen: Option<String>,
    plugins: CtrPlugins,
    data: PathBuf,
    folder: OnceLock<Result<ContentFolder, String>>,
    sizes: UnpackedSizes,
    /// What it said when it was connected, until that is asked for.
    first: RefCell<FirstAnswers>,
    /// Names of images' own that a killed run has not labelled, as they were listed last.
    unfinished: RefCell<BTreeSet<String>>,
}

/// The names of images, and the blobs.
type FirstAnswers = (Option<Vec<CtrImage>>, Option<BTreeMap<Digest, String>>);

/// How a containerd is reached.
#[derive(Debug, Clone)]
pub(crate) struct ContainerdOptions {
    /// Which one.
    pub(crate) kind: EngineKind,
    /// Its socket.
    pub(crate) address: PathBuf,
    /// The namespace.
    pub(crate) namespace: String,
    /// The snapshotter, if it is not containerd's own choice.
    pub(crate) snapshotter: Option<String>,
    /// The program that asks it: `ctr`, or `k3s`.
    pub(crate) program: &'static str,
}

/// A manifest, as far as its blobs.
#[derive(Debug, Deserialize)]
struct StoredManifest {
    config: StoredBlob,
    #[serde(default)]
    layers: Vec<StoredBlob>,
}

#[derive(Debug, Deserialize)]
struct StoredBlob {
    digest: Digest,
}

impl Containerd {
    /// One that answers.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn new(options: &ContainerdOptions, nix: NixPlaces, progress: &Progress) -> Result<Self, DaemonError> {
        let ctr = Ctr::new(options.kind, &options.address, &options.namespace, options.program);
        // What every verb asks first, at once: each is a process.
        let (plugins, (images, content)) =
            rayon::join(|| ctr.plugins(progress), || rayon::join(|| ctr.images(progress), || ctr.content(progress)));
        let (plugins, first) = (plugins?, RefCell::new((Some(images?), Some(content?))));
        let snapshotter = options.snapshotter.clone().unwrap_or_else(|| SNAPSHOTTER.to_owned());
        let data = plugins.content.clone().unwrap_or_default();
        Ok(Self {
            ctr,
            nix,
            snapshotter,
            chosen: options.snapshotter.clone(),
            plugins,
            data,
            first,
            unfinished: RefCell::default(),
            folder: OnceLock::new(),
            sizes: UnpackedSizes::default(),
        })
    }

    /// The folder of its content store, or why nothing can be linked there.
    fn folder(&self) -> Result<&ContentFolder, &str> {
        let open = || match (&self.plugins.content, self.plugins.policy.as_deref()) {
            (None, _) => Err("its content store is not a folder".to_owned()),
            (Some(_), Some("isolated")) => Err("content_sharing_policy is isolated in its configuration".to_owned()),
            (Some(root), _) => ContentFolder::open(root),
        };
        self.folder.get_or_init(open).as_ref().map_err(String::as_str)
    }

    /// The same, if the blobs that containerd says it has are there: it may run where that path is another folder.
    fn linked(&self, content: &BTreeMap<Digest, String>) -> Result<&ContentFolder, String> {
        let folder = self.folder()?;
        match folder.is_of(content) {
            Ok(true) => Ok(folder),
            Ok(false) => Err(format!("{} is not the folder of this containerd", self.data.display())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Which of these layers the namespace does not have whole.
    fn lacking<'a>(
        &self,
        content: &BTreeMap<Digest, String>,
        platform: &'a PlatformRecord,
    ) -> Result<Vec<&'a LayerRecord>, DaemonError> {
        let layers: Vec<&LayerRecord> = platform.layers.iter().collect();
        let gone = match self.linked(content) {
            Ok(folder) => folder.lacking(&layers)?,
            Err(_) => BTreeSet::new(),
        };
        let is_there = |layer: &&LayerRecord| content.contains_key(&layer.digest) && !gone.contains(&layer.digest);
        Ok(layers.into_iter().filter(|layer| !is_there(layer)).collect())
    }

    /// Bytes that the snapshotter will write: those of the layers that are not in `unpacked`, which they are added to.
    fn unpacks(&self, image: &ImageDir, platform: &PlatformRecord, unpacked: &mut BTreeSet<Digest>) -> u64 {
        if image.summary().kind == ImageKind::Model {
            return 0;
        }
        let chain = oci_chain_ids(platform.layers.iter().map(LayerRecord::diff_id));
        let new = platform.layers.iter().zip(chain).filter(|(_, chain)| unpacked.insert(*chain));
        new.map(|(layer, _)| self.sizes.of(image, layer)).sum()
    }

    /// The config and the layers of an image that containerd has, as its manifest names them.
    fn blobs_of(&self, manifest: Digest, progress: &Progress) -> Result<BTreeSet<Digest>, DaemonError> {
        let text = self.ctr.blob(manifest, progress)?;
        let answer = |error: serde_json::Error| DaemonError::Answer {
            engine: self.ctr.kind,
            action: format!("give {manifest}"),
            why: error.to_string(),
        };
        let StoredManifest { config, layers } = serde_json::from_str(&text).map_err(answer)?;
        Ok(layers.into_iter().chain([config]).map(|blob| blob.digest).collect())
    }
}

impl Daemon for Containerd {
    fn kind(&self) -> EngineKind {
        self.ctr.kind
    }

    fn data(&self) -> &Path {
        &self.data
    }

    fn id(&self, entry: &GenerationEntry) -> Digest {
        entry.digest
    }

    fn names(&self, entry: &GenerationEntry) -> Vec<String> {
        // A pod that asks for a digest asks for this name.
        let by_digest = format!("{}@{}", entry.repository, entry.digest);
        vec![super::own_name(entry), by_digest, entry.reference.to_string()]
    }

    fn images(&self, progress: &Progress) -> Result<DaemonImages, DaemonError> {
        let mut images = DaemonImages::default();
        let known = self.first.borrow_mut().0.take();
        if known.is_none() {
            // What came with it is old too.
            self.first.borrow_mut().1 = None;
        }
        let mut unfinished = self.unfinished.borrow_mut();
        unfinished.clear();
        for image in known.map_or_else(|| self.ctr.images(progress), Ok)? {
            if is_own(&image.name) && !image.is_pinned() {
                unfinished.insert(image.name.clone());
            }
            images.sizes.insert(image.target, image.size);
            images.names.insert(image.name, image.target);
        }
        Ok(images)
    }

    fn content(
        &self,
        wanted: &[Former<'_>],
        there: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<DaemonContent>, DaemonError> {
        let is_there = |entry: &GenerationEntry| there.sizes.contains_key(&entry.digest);
        if !wanted.iter().any(|(entry, _)| is_there(entry)) {
            return Ok(wanted.iter().map(|_| DaemonContent::Nothing).collect());
        }
        let known = self.first.borrow_mut().1.take();
        let content = known.map_or_else(|| self.ctr.content(progress), Ok)?;
        let mut found = Vec::new();
        for (entry, image) in wanted {
            if !is_there(entry) {
                found.push(DaemonContent::Nothing);
                continue;
            }
            let needed = [entry.digest, entry.manifest_digest, entry.config_digest];
            let mut missing: Vec<Digest> = needed.into_iter().filter(|digest| !content.contains_key(digest)).collect();
            match image {
                Some((_, platform)) => {
                    missing.extend(self.lacking(&content, platform)?.iter().map(|layer| layer.digest));
                }
                None if missing.is_empty() => {
                    let blobs = self.blobs_of(entry.manifest_digest, progress)?;
                    missing.extend(blobs.into_iter().filter(|digest| !content.contains_key(digest)));
                }
                None => {}
            }
            if self.unfinished.borrow().contains(&super::own_name(entry)) {
                found.push(DaemonContent::Partial("a load of it has not come to its end".to_owned()));
                continue;
            }
            found.push(match missing.first() {
                None => DaemonContent::Whole,
                Some(digest) => DaemonContent::Partial(format!("{digest} is missing")),
            });
        }
        Ok(found)
    }

    fn missing(
        &self,
        platform: &PlatformRecord,
        _: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<LayerRecord>, DaemonError> {
        let content = self.ctr.content(progress)?;
        Ok(self.lacking(&content, platform)?.into_iter().cloned().collect())
    }

    fn run_line(&self, entry: &GenerationEntry) -> String {
        format!("{} run --rm {}@{} {}", self.ctr.words(), entry.repository, entry.digest, entry.name)
    }

    fn driver(&self) -> String {
        format!("{}, namespace {}", self.snapshotter, self.ctr.namespace)
    }

    fn is_rootless(&self) -> bool {
        // The folder of the system's is root's.
        std::fs::metadata(&self.data).is_ok_and(|found| found.uid() != 0)
    }

    fn copies(&self) -> u64 {
        // As a blob, which may share its data with the Nix store, and unpacked.
        2
    }

    fn stop_line(&self, container: &DaemonContainer) -> String {
        let (ctr, name) = (self.ctr.words(), &container.name);
        match self.ctr.namespace.as_str() {
            // The kubelet starts it anew.
            "k8s.io" => format!("crictl stop {name}"),
            _ => format!("{ctr} tasks kill --signal SIGTERM {name}"),
        }
    }

    fn ways(
        &self,
        images: &[(&ImageDir, &PlatformRecord)],
        _: &DaemonImages,
        progress: &Progress,
    ) -> Result<Vec<LoadWay>, DaemonError> {
        let content = self.ctr.content(progress)?;
        let mut unpacked = self.ctr.snapshots(&self.snapshotter, progress)?.unpacked;
        let mut brought: BTreeSet<Digest> = BTreeSet::new();
        let mut ways = Vec::new();
        for (image, platform) in images {
            let missing = self.lacking(&content, platform)?;
            let missing: Vec<&LayerRecord> = missing.into_iter().filter(|layer| brought.insert(layer.digest)).collect();
            let size: u64 = missing.iter().map(|layer| layer.size).sum();
            let mut way = LoadWay::new(LoadMethod::Pull, self.data.clone(), 0);
            let copied = match self.linked(&content) {
                Ok(folder) if folder.shares() => size - shareable(image, &missing, folder.device()?).min(size),
                Ok(_) => size,
                Err(why) => {
                    way.unlinkable = Some(why);
                    size
                }
            };
            let unpacks = self.unpacks(image, platform, &mut unpacked);
            if unpacks > 0 {
                way.copies.insert(CopyCause::Snapshot, unpacks);
            }
            if copied > 0 {
                way.copies.insert(CopyCause::Blob, copied);
            }
            (way.to_write, way.peak) = (copied + unpacks, copied + unpacks);
            ways.push(way);
        }
        Ok(ways)
    }

    fn import(
        &self,
        image: &ImageDir,
        platform: &PlatformRecord,
        name: &str,
        progress: &Progress,
    ) -> Result<u64, DaemonError> {
        self.bring(image, platform, name, progress)
    }

    fn tag(&self, id: Digest, name: &str, progress: &Progress) -> Result<(), DaemonError> {
        let there = self.ctr.images(progress)?;
        let action = format!("name {id} {name}");
        let Some(source) = there.iter().find(|image| image.target == id) else {
            let (engine, said) = (self.ctr.kind, "it has no such image".to_owned());
            return Err(DaemonError::Refused { engine, action, said });
        };
        self.ctr.ask(&action, &["images", "tag", "--force", &source.name, name], progress)?;
        if is_own(name) { self.label(name, source.label(CHAIN), progress) } else { Ok(()) }
    }

    fn untag(&self, name: &str, progress: &Progress) -> Result<(), DaemonError> {
        let there = self.ctr.images(progress)?;
        let Some(target) = there.iter().find(|image| image.name == name).map(|image| image.target) else {
            return Ok(());
        };
        let others = there.iter().filter(|image| image.target == target && image.name != name);
        let others: Vec<&str> = others.map(|image| &*image.name).collect();
        let mut names = vec![name];
        // CRI gives every image a name that is its ID, and takes it away only with all the others.
        if others.iter().all(|other| other.starts_with("sha256:")) {
            names.extend(others);
        }
        let arguments = [&["images", "remove", "--sync"], &names[..]].concat();
        self.ctr.ask(&format!("take away {name}"), &arguments, progress).map(drop)
    }

    fn containers(&self, progress: &Progress) -> Result<Vec<DaemonContainer>, DaemonError> {
        let images = self.ctr.images(progress)?;
        let containers = tables::containers(&self.ctr.ask("list its containers", &["containers", "list"], progress)?);
        let tasks = tables::ends(&self.ctr.ask("list its tasks", &["tasks", "list"], progress)?);
        let active = self.ctr.snapshots(&self.snapshotter, progress)?.active;
        let chain = |image: &CtrImage| image.label(CHAIN)?.parse::<Digest>().ok();
        // The name may lead to another image since; what the container stands on stays.
        let image = |id: &str, name: &str| {
            let stands_on = active.get(id);
            let by_chain = images.iter().find(|image| stands_on.is_some() && chain(image) == stands_on.copied());
            by_chain.or_else(|| images.iter().find(|image| image.name == name)).map(|image| image.target)
        };
        let container = |(id, name): (String, String)| {
            let image = image(&id, &name)?;
            let running = tasks.get(&id).is_some_and(|status| status == "RUNNING");
            Some(DaemonContainer { image, running, name: id })
        };
        Ok(containers.into_iter().filter_map(container).collect())
    }

    fn compare(
        &self,
        _: &ImageDir,
        platform: &PlatformRecord,
        entry: &GenerationEntry,
        progress: &Progress,
    ) -> Result<Vec<String>, DaemonError> {
        let small = BTreeSet::from([entry.digest, entry.manifest_digest, entry.config_digest]);
        let blobs: Vec<Digest> = small.into_iter().chain(platform.layers.iter().map(|layer| layer.digest)).collect();
        let mut wrong = Vec::new();
        for digest in blobs {
            let found = self.ctr.digest_of(digest, progress)?;
            if found != digest {
                wrong.push(format!("blob {digest} of {} has the bytes of {found}", self.ctr.kind));
            }
        }
        Ok(wrong)
    }
}

/// Whether it is the name that an image has for itself.
fn is_own(name: &str) -> bool {
    name.contains(":windlass-")
}

/// Bytes of large files below the layers, on this device: those that can share their data.
fn shareable(image: &ImageDir, layers: &[&LayerRecord], device: u64) -> u64 {
    let mut bytes = 0;
    for layer in layers {
        let Ok(recipe) = image.recipe(layer) else { continue };
        // What cannot be looked at now is said when it is written.
        let _unreadable = recipe.members(&mut |member| {
            if let MemberContent::File(file, _) = member.content {
                let found = file.metadata();
                if found.len() >= ALIGN_FROM && found.dev() == device {
                    bytes += found.len();
                }
            }
            Ok(())
        });
    }
    bytes
}
