//! Why an image is there, or is not: who loaded it and from what, and what the lock says of the version.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::failure::Result;
use super::generations::time;
use super::upstream;
use crate::engine::Engine;
use crate::engine::generation::{Generation, GenerationEntry};
use crate::engine::target::LoadTarget;
use crate::oci::digest::Digest;
use crate::podman::load::decide::PodmanHost;
use crate::podman::storage::snapshot::StoreSnapshot;
use crate::upstream::file;
use crate::upstream::lock::UpstreamLock;
use crate::upstream::state::UpstreamState;

/// The lock that is read where none is named.
const LOCK: &str = "images.lock.json";

/// Why an image is there, or is not.
#[derive(Debug, Default, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageReasons {
    /// In a sentence.
    because: String,
    /// The generations that have it.
    generations: Vec<u64>,
    /// When the first of these was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded_at: Option<String>,
    /// The images of the lock that it is, or is built on.
    upstream: Vec<VersionReason>,
}

/// What the lock says of an image.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct VersionReason {
    /// Its name in the lock.
    name: String,
    /// What was asked for.
    reference: String,
    /// Why this image in this version.
    reason: Option<String>,
    /// Who has signed it, or that the lock asks for no signature.
    verified: String,
    /// When it was last looked up.
    verified_at: Option<Timestamp>,
    #[serde(skip)]
    layers: Vec<BTreeSet<Digest>>,
}

/// All that is known.
pub(super) struct LoadReasons {
    all: Vec<Generation>,
    made: Vec<Option<String>>,
    current: Option<u64>,
    upstream: Vec<VersionReason>,
    lock: PathBuf,
}

impl LoadReasons {
    /// Reads the generations of a host and the lock; where none is named, the one of this directory, if there is one.
    pub(super) fn read(host: &PodmanHost, lock: Option<&Path>) -> Result<Self> {
        let generations = host.generations();
        let all = generations.all()?;
        let made = all.iter().map(|one| generations.made(one.number).map(time).transpose()).collect::<Result<_>>()?;
        let path = lock.unwrap_or(Path::new(LOCK));
        let upstream = if lock.is_some() || path.is_file() {
            rationales(&file::read(path)?, &upstream::known(path)?)
        } else {
            Vec::new()
        };
        let current = generations.current()?.map(|generation| generation.number);
        Ok(Self { all, made, current, upstream, lock: path.to_owned() })
    }

    /// Why an image stands as it does. `target` is what it was loaded from, or would be, if that is there.
    pub(super) fn of(
        &self,
        entry: &GenerationEntry,
        state: &str,
        target: Option<&LoadTarget>,
        snapshot: &StoreSnapshot,
    ) -> ImageReasons {
        let has = |generation: &&Generation| generation.entries.iter().any(|other| other.digest == entry.digest);
        let generations: Vec<u64> = self.all.iter().filter(has).map(|generation| generation.number).collect();
        let loaded_at = self.all.iter().position(|generation| has(&generation)).and_then(|n| self.made[n].clone());
        let because = self.sentence(entry, state, &generations, loaded_at.as_deref(), snapshot);
        let own: BTreeSet<Digest> = target
            .iter()
            .flat_map(|target| target.image.summary().layers())
            .flat_map(|layer| [layer.digest, layer.diff_id()])
            .collect();
        let is_it = |rationale: &&VersionReason| rationale.layers.iter().any(|layers| layers.is_subset(&own));
        ImageReasons {
            because,
            generations,
            loaded_at,
            upstream: self.upstream.iter().filter(is_it).cloned().collect(),
        }
    }

    fn sentence(
        &self,
        entry: &GenerationEntry,
        state: &str,
        generations: &[u64],
        loaded_at: Option<&str>,
        snapshot: &StoreSnapshot,
    ) -> String {
        let from = entry.origins.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let list = generations.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let (Some(first), Some(at)) = (generations.first(), loaded_at) else {
            return match state {
                "present" => {
                    format!("no generation has it: {from} was not loaded with windlass, and its image is there")
                }
                _ => format!("no generation has it: {from} was never loaded here, or its generation was cleaned up"),
            };
        };
        let loaded = format!("loaded from {from} at {at} with generation {first}");
        let kept = match self.current.filter(|current| generations.contains(current)) {
            Some(current) => format!("the current generation {current} has it"),
            None => format!("only past generations have it ({list})"),
        };
        match state {
            "present" => format!("{loaded}; {kept}"),
            "missing" => format!(
                "{loaded}; {kept}, and Podman has it no more: `podman rmi`, a prune or a reset took it; `windlass repair` \
                 loads it again"
            ),
            "changed" => {
                let holder = snapshot.called(&entry.reference).map(|(_, image)| self.holder(&image.id));
                let holder =
                    holder.unwrap_or_else(|| "no image has its name: `podman untag` or `rmi` took it".to_owned());
                format!("{loaded}; {kept}, and {holder}")
            }
            _ => format!("{loaded}; {kept}, and what Podman has of it is not whole"),
        }
    }

    /// Who the image is that has another's name.
    fn holder(&self, id: &str) -> String {
        let entries = self.all.iter().rev().flat_map(|one| one.entries.iter().map(move |entry| (one.number, entry)));
        let mut entries = entries.filter(|(_, entry)| entry.config_digest.hex() == id);
        entries.next().map_or_else(
            || format!("its name was given to {id:.12}, which windlass did not load"),
            |(number, entry)| format!("its name was given to {} of generation {number}", entry.reference),
        )
    }

    /// What is printed of one image.
    pub(super) fn lines(&self, label: &str, why: &ImageReasons) -> Vec<String> {
        let mut lines = vec![format!("{label}: {}", why.because)];
        for VersionReason { name, reference, reason, verified, verified_at, .. } in &why.upstream {
            let reason = reason.as_deref().unwrap_or("no reason is given");
            let at = verified_at.map_or_else(
                || "never looked up from here".to_owned(),
                |at| format!("last looked up {}", at.strftime("%Y-%m-%d %H:%M UTC")),
            );
            lines.push(format!("  {name} of {}, {reference}: {reason}; {verified}; {at}", self.lock.display()));
        }
        lines
    }
}

fn rationales(lock: &UpstreamLock, state: &UpstreamState) -> Vec<VersionReason> {
    let rationale = |(name, image): (&String, &crate::upstream::lock::LockedImage)| {
        let platforms = image.locked.iter().flat_map(|locked| locked.platforms.values());
        // What an image is built on is among its layers, whatever its own manifest says.
        let layers = |raw: &str| -> BTreeSet<Digest> {
            let manifest: serde_json::Value = serde_json::from_str(raw).unwrap_or_default();
            let layers = manifest["layers"].as_array().into_iter().flatten();
            layers.filter_map(|layer| layer["digest"].as_str()?.parse().ok()).collect()
        };
        VersionReason {
            name: name.clone(),
            reference: image.original.reference.clone(),
            reason: image.reason.clone(),
            verified: upstream::add::verified(image),
            verified_at: state.images.get(name).and_then(|known| known.last_check),
            layers: platforms.map(|platform| layers(&platform.manifest.raw)).filter(|set| !set.is_empty()).collect(),
        }
    };
    lock.images.iter().map(rationale).collect()
}
