//! What layers take where a daemon unpacks them, from names and sizes alone.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::image::LayerRecord;
use crate::image::layout::ImageDir;
use crate::layer::extent;
use crate::oci::digest::Digest;

/// What a layer takes beside its files: directories, links and records of the daemon.
const LAYER: u64 = 5 * 4096;

/// What was measured already: a load asks several times.
#[derive(Debug, Default)]
pub(crate) struct UnpackedSizes(RefCell<BTreeMap<Digest, u64>>);

impl UnpackedSizes {
    /// Bytes of a layer that is unpacked.
    pub(crate) fn of(&self, image: &ImageDir, layer: &LayerRecord) -> u64 {
        let measure = || {
            let recipe = image.image().recipes.get(&layer.digest).filter(|recipe| recipe.blob().is_none());
            // What is in an archive is not known without unpacking it; nor what is gone.
            let extent = recipe.and_then(|recipe| extent(recipe).ok());
            LAYER + extent.map_or(layer.diff_size(), |extent| extent.on_disk)
        };
        *self.0.borrow_mut().entry(layer.digest).or_insert_with(measure)
    }
}
