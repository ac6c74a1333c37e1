//! Where the files of a loaded model are, so that a container can have them without a copy.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::layout::ImageDir;
use crate::image::summary::PlatformRecord;
use crate::layer::Input;
use crate::model::read::facts::ModelFormat;
use crate::model::read::named::{Named, named};

/// Where a model's files are on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FilesOfModel {
    /// Its one file, or the one `.gguf` among several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// The directory that all its files are in, under the names that they have in its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tree: Option<PathBuf>,
}

impl FilesOfModel {
    /// Looks where a model's files are: in the Nix store, or in a linked store, where its layers' trees are at `linked`.
    #[must_use]
    pub(crate) fn find(image: &ImageDir, platform: &PlatformRecord, linked: &[PathBuf], store: &Path) -> Self {
        let recipes = platform.layers.iter().filter_map(|layer| image.image().recipes.get(&layer.digest));
        let copies: Vec<(&Path, &Path)> = recipes
            .flat_map(|recipe| &recipe.inputs)
            .filter_map(|input| match input {
                Input::Copy { source, target, .. } => Some((source.as_path(), target.as_path())),
                _ => None,
            })
            .collect();
        Self::of(&copies, linked, store)
    }

    /// The same of `(source, place in the image)`.
    fn of(copies: &[(&Path, &Path)], linked: &[PathBuf], store: &Path) -> Self {
        let Some(place) = common_parent(copies.iter().map(|(_, target)| *target)) else { return Self::default() };
        let in_tree = |path: &Path| {
            let below = path.strip_prefix("/").ok()?;
            linked.iter().map(|tree| tree.join(below)).find(|path| path.exists())
        };
        let foreign = || plain_directory(copies, &place, Path::new("/"));
        let tree = match linked {
            [_] => in_tree(&place).or_else(|| plain_directory(copies, &place, store)),
            [] => plain_directory(copies, &place, store),
            // With several layers, no tree has all files: then the directory that they come from must do, wherever it is.
            _ => plain_directory(copies, &place, store).or_else(foreign),
        };
        let file = match copies {
            [one] => Some(one),
            several => {
                let mut weights = several
                    .iter()
                    .filter(|(_, target)| named(&target.to_string_lossy()) == Named::Weights(ModelFormat::Gguf));
                weights.next().filter(|_| weights.next().is_none())
            }
        };
        let file = file.and_then(|(source, target)| {
            // What Nix vouches for, rather than a copy of it; a copy that was compared, rather than a file that anybody
            // may have changed since.
            let real = fs::canonicalize(source).ok().filter(|path| path.is_file());
            let (own, foreign) = match real {
                Some(path) if path.starts_with(store) => (Some(path), None),
                other => (None, other),
            };
            own.or_else(|| in_tree(target).filter(|path| path.is_file())).or(foreign)
        });
        Self { file, tree }
    }
}

/// The deepest directory that has all of these below it.
fn common_parent<'a>(paths: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    let parents = paths.filter_map(Path::parent).map(Path::to_owned);
    parents
        .reduce(|one, two| one.components().zip(two.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect())
}

/// The one directory below the store that files are copied from under their own names, if a container sees in it what the
/// image would have: links there would lead nowhere.
fn plain_directory(copies: &[(&Path, &Path)], place: &Path, store: &Path) -> Option<PathBuf> {
    let mut directories = copies.iter().map(|(source, target)| {
        let below = target.strip_prefix(place).ok()?;
        let up = below.components().count();
        source.ends_with(below).then(|| source.ancestors().nth(up)).flatten()
    });
    let directory = directories.next()??;
    let is_plain = directory != store
        && directory.starts_with(store)
        && directories.all(|other| other == Some(directory))
        && has_no_links(directory);
    is_plain.then(|| directory.to_owned())
}

fn has_no_links(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_dir())
        && fs::read_dir(directory).is_ok_and(|mut entries| {
            entries.all(|entry| {
                entry.is_ok_and(|entry| {
                    entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir() && has_no_links(&entry.path()))
                })
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of a model of these files below `$T/store`, each with its place in the image.
    fn found(folder: &Path, linked: &[&str], copies: &[(&str, &str)]) -> [String; 2] {
        let linked: Vec<PathBuf> = linked.iter().map(|name| folder.join(name)).collect();
        let copies: Vec<_> = copies.iter().map(|(source, target)| (folder.join(source), Path::new(target))).collect();
        let copies: Vec<_> = copies.iter().map(|(source, target)| (source.as_path(), *target)).collect();
        let FilesOfModel { file, tree } = FilesOfModel::of(&copies, &linked, &folder.join("store"));
        let text = |path: Option<PathBuf>| {
            path.map_or_else(|| "-".to_owned(), |path| path.strip_prefix(folder).unwrap().display().to_string())
        };
        [text(file), text(tree)]
    }

    #[test]
    fn a_file_comes_from_where_nix_keeps_it_and_a_tree_from_where_it_is_whole() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(temporary.path()).unwrap();
        for file in [
            "store/one",
            "store/dir/a.gguf",
            "store/dir/sub/b.gguf",
            "store/mixed/m.gguf",
            "store/mixed/README",
            "host/x.gguf",
            "linked/models/one.gguf",
            "linked/models/x.gguf",
        ] {
            fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            fs::write(folder.join(file), "").unwrap();
        }
        fs::create_dir_all(folder.join("store/links")).unwrap();
        std::os::unix::fs::symlink("../one", folder.join("store/links/a.gguf")).unwrap();
        let found = |linked: &[&str], copies: &[(&str, &str)]| found(&folder, linked, copies);

        let one = [("store/one", "/models/one.gguf")];
        assert_eq!(found(&[], &one), ["store/one", "-"]);
        assert_eq!(found(&["linked"], &one), ["store/one", "linked/models"]);
        // A link of the store is followed; a directory with links is of no use to a container.
        assert_eq!(found(&[], &[("store/links/a.gguf", "/models/a.gguf")]), ["store/one", "-"]);
        // The store itself is never bound.
        assert_eq!(found(&[], &[("store/one", "/models/one")]), ["store/one", "-"]);
        let several = [("store/dir/a.gguf", "/models/a.gguf"), ("store/dir/sub", "/models/sub")];
        assert_eq!(found(&[], &several), ["store/dir/a.gguf", "store/dir"]);
        let both = [("store/dir/a.gguf", "/models/a.gguf"), ("store/dir/sub/b.gguf", "/models/sub/b.gguf")];
        assert_eq!(found(&[], &both), ["-", "store/dir"]);
        let mixed = [("store/mixed/README", "/models/m/README"), ("store/mixed/m.gguf", "/models/m/m.gguf")];
        assert_eq!(found(&[], &mixed), ["store/mixed/m.gguf", "store/mixed"]);
        let apart = [("store/one", "/models/one.gguf"), ("store/dir/a.gguf", "/models/a.gguf")];
        assert_eq!(found(&[], &apart), ["-", "-"]);
        // For a file that other users can change, the copy that was compared is safer.
        let foreign = [("host/x.gguf", "/models/x.gguf")];
        assert_eq!(found(&[], &foreign), ["host/x.gguf", "-"]);
        assert_eq!(found(&["linked"], &foreign), ["linked/models/x.gguf", "linked/models"]);
        assert_eq!(found(&[], &[("store/gone", "/models/one.gguf")]), ["-", "-"]);
        assert_eq!(
            found(&["linked"], &[("store/gone", "/models/one.gguf")]),
            ["linked/models/one.gguf", "linked/models"]
        );
        assert_eq!(found(&["linked"], &[]), ["-", "-"]);
        // With several layers, no tree is whole; each file is in one of them.
        let trees = ["linked/none", "linked"];
        assert_eq!(found(&trees, &several), ["store/dir/a.gguf", "store/dir"]);
        assert_eq!(found(&trees, &foreign), ["linked/models/x.gguf", "host"]);
    }
}
