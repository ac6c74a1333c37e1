//! What an interrupted load leaves in Podman's own store, and no command of Podman shows: layers without an image.
//!
//! | what | how it comes about | how it goes |
//! |---|---|---|
//! | finished layers that no image has | a load ran out of space, or was killed between two layers | an image of just these is made, which takes no bytes, and removed: Podman takes its layers along |
//! | a layer whose record says `incomplete` | a kill while it was unpacked | the next Podman that may write removes it |
//! | a folder or file that no record names | its record was lost | it is removed here, under the lock of the layers |
//!
//! A load that is at work looks just the same. So nothing is found while a program that loads images is at work on the same
//! graph root, and whatever a record of an image or of a container names stays.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::json;

use super::gc::GcError;
use super::usage::Usage;
use crate::disk::AtPath;
use crate::disk::Staging;
use crate::disk::beneath::{Dir, refused};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::image::oci_layout;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::podman::load::decide::PodmanHost;
use crate::podman::load::pull::place_of_work;
use crate::podman::load::pull_work::alone;
use crate::podman::storage::lock::{For, StorageLock};
use crate::podman::storage::others::OtherUsers;
use crate::podman::storage::places::Places;
use crate::podman::storage::records::{RecordsFolder, StoreRecords, StoredLayer};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HalfLayers {
    /// Chains of layers that no image has, each from the bottom up, with how many of its layers go.
    pub(super) chains: Vec<(Vec<String>, usize)>,
    /// Layers whose records are incomplete.
    pub(super) incomplete: Vec<String>,
    /// Folders and files that no record names.
    pub(super) unrecorded: Vec<PathBuf>,
}

/// Looks for them.
pub(super) fn find(own: &StoreRecords, usage: &Usage) -> io::Result<HalfLayers> {
    let named = named(own)?;
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for id in own.layers.keys() {
        if named.contains(id.as_str()) || usage.of_layers(own, [id.as_str()]).is_some() {
            kept.extend(own.chain(id));
        }
    }
    let free: Vec<&StoredLayer> = own.layers.values().filter(|layer| !kept.contains(layer.id.as_str())).collect();
    let parents: BTreeSet<&str> = free.iter().filter_map(|layer| layer.parent.as_deref()).collect();
    let mut chains = Vec::new();
    for top in free.iter().filter(|layer| !parents.contains(layer.id.as_str())) {
        let mut chain: Vec<String> = own.chain(&top.id).map(str::to_owned).collect();
        chain.reverse();
        // Others, as of containers, have IDs of another kind; nothing makes an image of these.
        if is_of_an_image(own, &chain) {
            let going = chain.iter().filter(|id| !kept.contains(id.as_str())).count();
            chains.push((chain, going));
        }
    }
    let incomplete = free.iter().filter(|layer| layer.is_incomplete()).map(|layer| layer.id.clone()).collect();
    let unrecorded = unrecorded(own)?.into_iter().filter(|path| {
        let id = id_of(path).unwrap_or_default();
        usage.of_layers(own, [id.as_str()]).is_none()
    });
    Ok(HalfLayers { chains, incomplete, unrecorded: unrecorded.collect() })
}

/// All that the records of images and containers say, as text: whatever key names a layer, it is named.
fn named(own: &StoreRecords) -> io::Result<String> {
    let mut text = String::new();
    for kind in ["images", "containers"] {
        for name in [format!("{kind}.json"), format!("volatile-{kind}.json")] {
            match bounded::text(&own.store.join(format!("{}-{kind}", own.driver)).join(name), Cap::Document) {
                Ok(more) => text.push_str(&more),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(text)
}

/// Whether these layers are finished, and called by what they hold, as those of images are.
fn is_of_an_image(own: &StoreRecords, chain: &[String]) -> bool {
    let mut below: Option<&str> = None;
    for id in chain {
        let Some(layer) = own.layers.get(id).filter(|layer| !layer.is_incomplete()) else { return false };
        let Some(diff) = layer.diff_digest.map(|diff| diff.hex()) else { return false };
        let expected = below.map_or(diff.clone(), |below| Digest::of(format!("{below}+{diff}").as_bytes()).hex());
        if *id != expected {
            return false;
        }
        below = Some(id);
    }
    true
}

/// The places of layers, and those of their records.
fn folders(own: &StoreRecords) -> Vec<PathBuf> {
    let layers = match own.driver.as_str() {
        "overlay" => own.store.join("overlay"),
        "vfs" => own.store.join("vfs/dir"),
        // Elsewhere a layer is more than a folder.
        _ => return Vec::new(),
    };
    vec![layers, own.store.join(format!("{}-layers", own.driver))]
}

/// The layer that a path is of.
fn id_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let id = name.strip_suffix(".tar-split.gz").unwrap_or(name);
    (id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then(|| id.to_owned())
}

/// What is called like a layer, and has no record.
fn unrecorded(own: &StoreRecords) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders(own) {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if id_of(&path).is_some_and(|id| !own.layers.contains_key(&id)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Programs that put images into a store, and what they are asked for then; nothing means whatever they are asked for.
const LOADERS: [(&str, &[&str]); 4] = [
    ("podman", &["pull", "load", "build", "import", "commit", "run", "create", "play", "kube", "service", "bud"]),
    ("skopeo", &["copy", "sync"]),
    ("buildah", &[]),
    ("crio", &[]),
];

/// The program that may load images into a graph root at this moment.
pub(super) fn at_work(others: &OtherUsers, places: &Places) -> Option<String> {
    // Where a Podman works that names no settings of its own.
    let usual = others.graph_roots(&mut Vec::new());
    let is_usual = fs::canonicalize(&places.graph_root).is_ok_and(|root| usual.contains(&root));
    let processes = fs::read_dir(&others.proc).into_iter().flatten().flatten();
    for process in processes {
        let folder = process.path();
        let Some(number) = folder.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
        let bytes = bounded::read(&folder.join("cmdline"), Cap::List).unwrap_or_default();
        let arguments: Vec<&str> =
            bytes.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
        let program = arguments.first().and_then(|first| first.rsplit('/').next()).unwrap_or_default();
        // As Nix wraps programs.
        let program = program.strip_prefix('.').and_then(|name| name.strip_suffix("-wrapped")).unwrap_or(program);
        let Some((_, words)) = LOADERS.iter().find(|(name, _)| *name == program) else { continue };
        let word = arguments.iter().skip(1).find(|word| words.contains(*word));
        if (words.is_empty() || word.is_some()) && may_use(&folder, &arguments, places).unwrap_or(is_usual) {
            let word = word.map(|word| format!(" {word}")).unwrap_or_default();
            return Some(format!("process {number} (`{program}{word}`)"));
        }
    }
    None
}

/// Whether a process has a graph root for its own, by the settings or the root that it names; `None` if it names none.
fn may_use(process: &Path, arguments: &[&str], places: &Places) -> Option<bool> {
    let root = &places.graph_root;
    let after = |name: &str| {
        let at = arguments.iter().position(|word| *word == name)?;
        arguments.get(at + 1).copied()
    };
    let equals = |name: &str| arguments.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    if let Some(given) = after("--root").or_else(|| equals("--root")) {
        return Some(Path::new(given) == root);
    }
    let environment = bounded::read(&process.join("environ"), Cap::Document).unwrap_or_default();
    let conf = environment.split(|byte| *byte == 0).filter_map(|line| std::str::from_utf8(line).ok());
    let conf = conf.into_iter().find_map(|line| line.strip_prefix("CONTAINERS_STORAGE_CONF="))?;
    let text = bounded::text(Path::new(conf), Cap::Settings);
    Some(text.map_or(true, |text| text.contains(&*root.to_string_lossy())))
}

impl PodmanHost {
    /// Has Podman let go of a chain of layers that no image has.
    pub(super) fn let_go(&self, chain: &[String], progress: &Progress) -> Result<(), GcError> {
        let places = &self.places;
        let records = StoreRecords::glance(&places.graph_root, &places.driver)?;
        let layers: Vec<&StoredLayer> = chain.iter().filter_map(|id| records.layers.get(id)).collect();
        if !is_of_an_image(&records, chain) {
            return Err(GcError::StillNeeded);
        }
        let staging = Staging::directory(&place_of_work(places))?;
        let (conf, temporary) = (staging.path().join("storage.conf"), staging.path().join("tmp"));
        write_file(&conf, alone(places).to_string().as_bytes(), progress)?;
        fs::create_dir(&temporary).at("create", &temporary)?;
        let id = write_layout(&staging.path().join("layout"), &layers, progress)?;
        let podman = self.engine.podman("remove layers that no image has")?;
        let writer = podman.writing(places, &conf, &temporary);
        writer.take_layout(staging.path(), "layout", progress)?;
        podman.remove_image(&id.hex(), progress)?;
        let records = StoreRecords::glance(&places.graph_root, &places.driver)?;
        let is_there = chain.last().is_some_and(|top| records.layers.contains_key(top));
        if is_there { Err(GcError::StillNeeded) } else { Ok(()) }
    }

    /// Has Podman remove the layers that were not finished: it does so whenever it may write.
    pub(super) fn drop_incomplete(&self, ids: &[String], progress: &Progress) -> Result<(), GcError> {
        let podman = self.engine.podman("remove layers that were not finished")?;
        let outcome = podman.ask(&["image", "prune", "--force", "--filter", "label=windlass.none=none"], progress)?;
        let records = StoreRecords::glance(&self.places.graph_root, &self.places.driver)?;
        let is_there = |id: &String| records.layers.get(id).is_some_and(StoredLayer::is_incomplete);
        if !ids.iter().any(is_there) {
            return Ok(());
        }
        outcome.ok("podman", "remove layers that were not finished", "see whether `podman images` works")?;
        Err(GcError::StillNeeded)
    }

    /// Removes a folder or file of a layer that no record names, while no Podman can record one.
    pub(super) fn remove_unrecorded(&self, path: &Path, progress: &Progress) -> Result<(), GcError> {
        let Places { graph_root, driver, .. } = &self.places;
        let _lock =
            StorageLock::take(&RecordsFolder::new(graph_root, driver, "layers").lock(), For::Writing, progress)?;
        // The lock is this process': the records are read without another one.
        let records = StoreRecords::glance(graph_root, driver)?;
        let below = path.strip_prefix(graph_root).ok().and_then(|below| below.parent().zip(below.file_name()));
        let (Some((folder, name)), Some(id)) = (below, id_of(path)) else {
            return Err(refused(path, "it is no layer of the graph root").into());
        };
        if records.layers.contains_key(&id) {
            return Err(GcError::StillNeeded);
        }
        Ok(Dir::open(graph_root)?.dir(folder)?.remove(name)?)
    }
}

/// An OCI layout of an image of these layers, none of which is in it; the image's ID.
fn write_layout(layout: &Path, layers: &[&StoredLayer], progress: &Progress) -> Result<Digest, GcError> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).at("create", &blobs)?;
    let blob = |media_type: &str, value: &serde_json::Value| -> Result<serde_json::Value, GcError> {
        let bytes = canonical::to_bytes(value);
        let digest = Digest::of(&bytes);
        write_file(&blobs.join(digest.hex()), &bytes, progress)?;
        Ok(json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() }))
    };
    let diff_ids: Vec<String> = layers.iter().filter_map(|layer| Some(layer.diff_digest?.to_string())).collect();
    let platform = Platform::default();
    let config = json!({
        "architecture": platform.architecture, "os": platform.os, "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let id = Digest::of(&canonical::to_bytes(&config));
    let descriptors = layers.iter().zip(&diff_ids).map(|(layer, diff)| {
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff, "size": layer.diff_size })
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", &config)?,
        "layers": descriptors.collect::<Vec<_>>(),
    });
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", &manifest)?;
    let index = canonical::to_bytes(&json!({ "schemaVersion": 2, "manifests": [manifest] }));
    write_file(&layout.join("index.json"), &index, progress)?;
    write_file(&layout.join("oci-layout"), &oci_layout(), progress)?;
    Ok(id)
}
