//! For which image directories Nix vouches, so that what is linked from them need not be read.
//!
//! A recipe says which files a layer has, and its digest says which bytes; whether both belong together was not checked
//! before the bytes are read. For an image that Nix built they do, as long as nothing was changed: the directory is a valid
//! path of the Nix store, and its archive has the hash that Nix recorded. Then what its recipes name must be valid paths too,
//! with the hashes that the recipes have. An image directory from anywhere else, a USB stick or a download, may say what it
//! likes: its layers are read and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::image::layout::ImageDir;
use crate::layer::Input;
use crate::nix::nar::nar_hash;
use crate::nix::store::{NixPlaces, recorded_hashes};
use crate::nix::store_path::NarHash;

/// Those of these image directories for which Nix vouches, by their paths as they were opened. It is asked once.
#[must_use]
pub(crate) fn vouched<'a>(nix: &NixPlaces, images: impl IntoIterator<Item = &'a ImageDir>) -> BTreeSet<PathBuf> {
    let needed: Vec<(&ImageDir, Needed)> =
        images.into_iter().filter_map(|image| Some((image, Needed::of(image, nix)?))).collect();
    let paths: BTreeSet<PathBuf> = needed.iter().flat_map(|(_, needed)| needed.paths()).cloned().collect();
    if paths.is_empty() {
        return BTreeSet::new();
    }
    let mut known = recorded_hashes(nix, &paths).unwrap_or_default();
    if known.is_empty() && needed.len() > 1 {
        // One path that Nix does not know spoils the answer for all.
        for (_, needed) in &needed {
            known.extend(recorded_hashes(nix, &needed.paths().cloned().collect()).unwrap_or_default());
        }
    }
    let is_vouched =
        |(image, needed): (&ImageDir, Needed)| needed.is_as_recorded(&known).then(|| image.path().to_owned());
    needed.into_iter().filter_map(is_vouched).collect()
}

/// What must be valid for one image.
struct Needed {
    /// The store path that the image directory is, or is in.
    image: PathBuf,
    /// The store paths that its layers are made from, with the hashes that it has of them.
    sources: BTreeMap<PathBuf, Option<NarHash>>,
}

impl Needed {
    /// `None` if the directory or something it is made from is not in the Nix store.
    fn of(image: &ImageDir, nix: &NixPlaces) -> Option<Self> {
        let store = std::fs::canonicalize(&nix.store).ok()?;
        let path = std::fs::canonicalize(image.path()).ok()?;
        let top = store_path(&store, &path)?;
        let mut sources: BTreeMap<PathBuf, Option<NarHash>> = BTreeMap::new();
        for input in image.image().recipes.values().flat_map(|recipe| &recipe.inputs) {
            let (source, hash) = match input {
                Input::StorePath { path, nar_hash } => (path, *nar_hash),
                Input::Copy { source, nar_hash, .. } => (source, *nar_hash),
                Input::Links { source } => (source, None),
                // Its digest is compared wherever it comes from.
                _ => continue,
            };
            let top = store_path(&nix.store, source).or_else(|| store_path(&store, source))?;
            // The hash is that of a whole store path.
            let hash = hash.filter(|_| top == *source);
            let known = sources.entry(top).or_default();
            if let (Some(one), Some(other)) = (&known, &hash)
                && one != other
            {
                return None;
            }
            *known = known.take().or(hash);
        }
        Some(Self { image: top, sources })
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.image).chain(self.sources.keys())
    }

    fn is_as_recorded(&self, known: &BTreeMap<PathBuf, NarHash>) -> bool {
        let fits = |(path, hash): (&PathBuf, &Option<NarHash>)| {
            known.get(path).is_some_and(|known| hash.as_ref().is_none_or(|hash| hash == known))
        };
        self.sources.iter().all(fits)
            && known.get(&self.image).is_some_and(|hash| nar_hash(&self.image).is_ok_and(|(found, _)| found == *hash))
    }
}

/// The store path that a path is, or is in; nothing climbs out of it.
fn store_path(store: &Path, path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut below = path.strip_prefix(store).ok()?.components();
    let Some(Component::Normal(name)) = below.next() else { return None };
    below.all(|part| matches!(part, Component::Normal(_))).then(|| store.join(name))
}
