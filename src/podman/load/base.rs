//! What a bundle leaves out, because an image has it that is expected to be here: is it?

use std::collections::BTreeSet;

use super::LoadError;
use super::decide::PodmanHost;
use crate::disk::progress::Progress;
use crate::engine::missing::MissingBase;
use crate::engine::target::{LoadOptions, LoadTarget, LoadVia, Presence};
use crate::image::LayerRecord;
use crate::image::summary::ExpectedImage;
use crate::oci::digest::Digest;
use crate::podman::storage::records::StoreRecords;
use crate::podman::storage::snapshot::StoreSnapshot;

impl PodmanHost {
    /// Target by target, what it cannot be loaded without. A target may have layers of those before it.
    ///
    /// # Errors
    /// If the records cannot be read, or one is not for this host.
    pub(crate) fn missing_bases(
        &self,
        targets: &[LoadTarget],
        options: LoadOptions,
        progress: &Progress,
    ) -> Result<Vec<Option<MissingBase>>, LoadError> {
        if targets.iter().all(|target| target.image.summary().without.is_empty()) {
            return Ok(vec![None; targets.len()]);
        }
        let snapshot = StoreSnapshot::read(&self.places, progress)?;
        let linked = self.linked.as_ref().filter(|_| options.via != LoadVia::Podman);
        let mut brought: BTreeSet<Digest> = BTreeSet::new();
        let mut missing = Vec::new();
        for target in targets {
            let (summary, platform) = (target.image.summary(), target.platform()?);
            if matches!(snapshot.presence(summary, platform), Presence::Present { .. }) {
                missing.push(None);
                continue;
            }
            // What came packed goes to Podman's own store as it came, and only its archive is in another store.
            let usable = |store: &&StoreRecords, layer: &LayerRecord| {
                let is_own = store.store == self.places.graph_root;
                let is_linked = linked.is_some_and(|linked| linked.path() == store.store);
                match options.via {
                    LoadVia::Store => is_linked,
                    _ => is_own || is_linked || layer.packed.is_none(),
                }
            };
            let is_there = |layer: &LayerRecord| {
                brought.contains(&layer.diff_id())
                    || snapshot
                        .stores
                        .iter()
                        .filter(|store| usable(store, layer))
                        .any(|store| has(store, layer.diff_id()))
            };
            // What a patch takes is read from whichever store has it; links alone are made from the linked one.
            let lends = |store: &&StoreRecords| {
                options.via != LoadVia::Store || linked.is_some_and(|linked| linked.path() == store.store)
            };
            let is_lent = |from: &Digest| {
                brought.contains(from) || snapshot.stores.iter().filter(lends).any(|store| has(store, *from))
            };
            let is_had = |layer: &LayerRecord| {
                is_there(layer) || summary.patch_of(layer).is_some_and(|patch| patch.from.iter().all(is_lent))
            };
            let left_out = platform.layers.iter().filter(|layer| summary.leaves_out(layer));
            let layers: Vec<LayerRecord> = left_out.filter(|layer| !is_had(layer)).cloned().collect();
            if layers.is_empty() {
                brought.extend(platform.layers.iter().map(LayerRecord::diff_id));
                missing.push(None);
                continue;
            }
            let from =
                |layer: &LayerRecord| summary.patch_of(layer).map_or(vec![layer.digest], |patch| patch.from.clone());
            let lacked: Vec<Digest> = layers.iter().flat_map(from).collect();
            let of = |old: &&ExpectedImage| lacked.iter().any(|layer| old.layers.contains(layer));
            let expects = summary.expects.iter().filter(of).cloned().collect();
            missing.push(Some(MissingBase {
                engine: self.engine.kind(),
                reference: summary.reference.clone(),
                layers,
                expects,
            }));
        }
        Ok(missing)
    }
}

/// Whether a store has all of a layer, over whichever others.
fn has(store: &StoreRecords, diff_id: Digest) -> bool {
    let mut fits = store.layers.values().filter(|layer| layer.diff_digest == Some(diff_id) && !layer.is_incomplete());
    fits.any(|layer| store.tree(&layer.id).is_dir())
}
