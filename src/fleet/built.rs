//! Images of a history that windlass built: their directories say what is in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::history::{FleetImage, HistoryError, HistoryTop};
use crate::build::stack::StackDir;
use crate::image::closure::ImageClosure;
use crate::image::layout::{ImageDir, LayoutError};
use crate::image::{LayerKind, LayerRecord};
use crate::nix::nar::nar_hash;
use crate::nix::path_info::PathInfo;
use crate::nix::store_path::{StoreDir, StorePath};
use crate::oci::digest::Digest;
use crate::oci::reference::file_name;

/// The image directories of a stack, or the one that this is.
pub(super) fn images(path: &Path) -> Result<Vec<ImageDir>, LayoutError> {
    match path.join("stack.json").is_file() {
        true => Ok(StackDir::open(path)?.images),
        false => Ok(vec![ImageDir::open(path)?]),
    }
}

/// One of them, for its first platform; what Nix recorded of its store paths is added to `infos`.
pub(super) fn image(
    image: &ImageDir,
    store: &StoreDir,
    infos: &mut Vec<PathInfo>,
) -> Result<(String, FleetImage), HistoryError> {
    let path: PathBuf = image.path().to_owned();
    let sense = |reason: String| HistoryError::Sense { path: path.clone(), reason };
    let (of, graph) = ImageClosure::read(image.path())?.graph(image.path())?;
    if graph.iter().next().is_some() && of != *store {
        return Err(sense("its store paths are in another store than those of the history".to_owned()));
    }
    let known: BTreeSet<StorePath> = graph.iter().map(|info| info.path.clone()).collect();
    infos.extend(graph.iter().cloned());
    let platform = image.summary().platforms.first().ok_or_else(|| sense("it has no platform".to_owned()))?;
    let of_kind = |kind: LayerKind| platform.layers.iter().filter(move |layer| layer.kind == kind);
    let owners = |kind: LayerKind| -> Result<BTreeSet<StorePath>, HistoryError> {
        let owners = of_kind(kind).flat_map(|layer| &layer.owners);
        let parse = |owner: &String| match store.parse_inside(owner).map(|(path, _)| path) {
            Ok(path) if known.contains(&path) => Ok(path),
            _ => Err(sense(format!("{owner} is no store path whose size it says; build it again with this windlass"))),
        };
        owners.map(parse).collect()
    };
    let identified = |layer: &LayerRecord| (layer.digest, layer.size);
    let tops: Vec<&LayerRecord> = of_kind(LayerKind::Root).collect();
    let top = (!tops.is_empty()).then(|| HistoryTop {
        content: tops.iter().map(|layer| layer.digest.to_string()).collect(),
        size: tops.iter().map(|layer| layer.size).sum(),
        zstd_size: None,
    });
    let (_, lean_size) = nar_hash(image.path()).map_err(|error| sense(error.to_string()))?;
    let memory = image.to_memory()?;
    let (closure, models) = (owners(LayerKind::Closure)?, owners(LayerKind::Model)?);
    let base: Vec<(Digest, u64)> = of_kind(LayerKind::Base).map(identified).collect();
    let found = FleetImage {
        closure,
        models,
        top,
        settings: platform.digest.to_string(),
        manifest_size: memory.small_blobs().map(|blob| blob.bytes.len() as u64).sum(),
        lean_size,
        base,
        built: Some(platform.layers.iter().map(identified).collect()),
    };
    Ok((file_name(&image.summary().name), found))
}
