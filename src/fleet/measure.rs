//! Sizes that a history does not have, of store paths that are on this host.

use std::io;

use super::history::{FleetHistory, LAYER_FRAME, StorePathBytes};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;

use crate::layer::{FORMAT, Input, LayerError, Recipe, measure};
use crate::oci::compression::Compression;
use crate::publish::pack::LayerBytes;

/// Why a store path was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MeasureError {
    /// Its files.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Packing it.
    #[error("pack {path}: {source}")]
    Pack {
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Classified for MeasureError {
    fn class(&self) -> Class {
        match self {
            Self::Layer(error) => error.class(),
            Self::Pack { source, .. } => source.class(),
        }
    }
}

impl FleetHistory {
    /// Measures the store paths that this host has: their members in a layer, and these packed by zstd, each by itself. Every byte
    /// of them is read once. How many there were, and how many of how many are not here.
    ///
    /// # Errors
    /// If one cannot be read.
    pub(crate) fn measure(&mut self, progress: &Progress) -> Result<(usize, usize), MeasureError> {
        let (mut measured, mut absent) = (0, 0);
        for (path, sizes) in &mut self.sizes {
            let full = self.store.display(path);
            if std::fs::symlink_metadata(&full).is_err() {
                absent += 1;
                continue;
            }
            let inputs = vec![Input::StorePath { path: full.clone().into(), nar_hash: None }];
            let recipe = Recipe { format: FORMAT, inputs, perms: Vec::new() };
            let failed = |source| MeasureError::Pack { path: full.clone(), source };
            let mut encoder = Compression::Zstd.encoder(Counted(0)).map_err(failed)?;
            LayerBytes::of_recipe(&recipe, progress).write(&mut encoder).map_err(failed)?;
            let Counted(zstd) = encoder.finish().map_err(failed)?;
            *sizes = StorePathBytes { nar: sizes.nar, tar: measure(&recipe)? - LAYER_FRAME, zstd: Some(zstd) };
            measured += 1;
        }
        // What is not a store path has the size that it has: it is small, and packed it is smaller.
        for image in self.versions.iter_mut().flat_map(|version| version.images.values_mut()) {
            if let Some(top) = &mut image.top {
                top.zstd_size = top.zstd_size.or(Some(top.size));
            }
        }
        Ok((measured, absent))
    }
}

/// Counts what is written to it.
struct Counted(u64);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
