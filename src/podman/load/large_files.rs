//! The weights that Podman is writing, brought to the disk while it does: it syncs no layer itself, and all of them would wait for the end.

use std::fs::File;
use std::path::PathBuf;

use crate::disk::beneath::Dir;
use crate::disk::write_back::SyncedBytes;
use crate::image::layout::ImageDir;
use crate::image::summary::PlatformRecord;
use crate::image::{LayerKind, LayerRecord, chain_ids};
use crate::layer::large_files;
use crate::podman::linked::{DRIVER, TREE};
use crate::podman::storage::places::Places;

/// One of the files.
struct WrittenFile {
    /// Where it will be in the graph root.
    path: PathBuf,
    /// When it is there.
    file: Option<File>,
    synced: SyncedBytes,
}

/// The files of the model layers that an image lacks.
pub(super) struct WrittenFiles {
    root: Option<Dir>,
    files: Vec<WrittenFile>,
}

impl WrittenFiles {
    /// Where they will be, if that is known. They are looked for there, and may be elsewhere: then they are written at the end.
    pub(super) fn of(places: &Places, image: &ImageDir, platform: &PlatformRecord, missing: &[&LayerRecord]) -> Self {
        let root = Dir::open(&places.graph_root).ok().filter(|_| places.driver == DRIVER);
        let mut files = Vec::new();
        for (layer, chain) in platform.layers.iter().zip(chain_ids(&platform.layers)) {
            let recipe = image.image().recipes.get(&layer.digest).filter(|recipe| recipe.blob().is_none());
            let Some(recipe) = recipe.filter(|_| layer.kind == LayerKind::Model && missing.contains(&layer)) else {
                continue;
            };
            let tree = PathBuf::from(format!("{DRIVER}/{}/{TREE}", chain.hex()));
            for large in large_files(recipe).unwrap_or_default() {
                let path = tree.join(large.path.strip_prefix("/").unwrap_or(&large.path));
                files.push(WrittenFile { path, file: None, synced: SyncedBytes::default() });
            }
        }
        Self { root, files }
    }

    /// Has the disk write what is there so far.
    pub(super) fn sync(&mut self) {
        let Some(root) = &self.root else { return };
        for WrittenFile { path, file, synced } in &mut self.files {
            if file.is_none() {
                *file = root.file(&*path).ok();
            }
            if let Some(file) = file
                && synced.is_worth(file.metadata().map_or(0, |metadata| metadata.len()))
            {
                // What fails here, the sync at the end says.
                file.sync_data().ok();
            }
        }
    }
}
