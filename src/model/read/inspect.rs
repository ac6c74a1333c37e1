//! What a model is: a file, its shards, or a directory of them.
//!
//! llama.cpp and transformers find shards by their names, so they are looked for by name: beside the file that was given.
//! All of them are read, each only its header, and what they say of each other has to fit.
//!
//! In a directory the model may lie in folders (`Q4_K_M/m-00001-of-00002.gguf`), and in several of them (a pipeline of diffusers).
//! Safetensors nearest to the root are the model, and those below belong to it, as sentence-transformers has them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::cursor::HeaderError;
use super::facts::{Inspected, ModelFormat};
use super::folder::ModelFolder;
use super::named::{DEEPEST, Named, PIPELINE, folder, named};
use super::shards::ShardName;
use super::sniff::FileKind;
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;

/// Files of a directory that are looked at.
const MOST_FILES: usize = 1 << 16;

/// Why it is not known what a model is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// A file cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a device, a socket, or the like.
    #[error("{path} is neither a file nor a directory", path = path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// A file that is something else.
    #[error("{path} is not a model: it is {found}; {advice}", path = path.display(), advice = found.advice())]
    NotAModel {
        path: PathBuf,
        /// What it is.
        found: FileKind,
    },
    /// A header that is damaged, or cut off.
    #[error("{path}: {source}", path = path.display())]
    Header {
        path: PathBuf,
        /// Where, and what is wrong.
        source: HeaderError,
    },
    /// A shard is not there.
    #[error("{path} is missing: {of} needs it; get all shards, and put them in one directory", path = path.display())]
    MissingShard {
        /// Where it should be.
        path: PathBuf,
        /// The name of a file that says so.
        of: String,
    },
    /// A shard of something else.
    #[error("{path} does not fit: {message}; get all shards from one place", path = path.display())]
    WrongShard {
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// A file that was cut, without the whole.
    #[error("{path} is a piece of {whole}, which is not there: get the whole file, or join its pieces in their order with cat", path = path.display())]
    Piece {
        /// The piece.
        path: PathBuf,
        /// The name of the whole.
        whole: String,
    },
    /// A directory without any.
    #[error("there is no model in {path}: no .gguf and no .safetensors file", path = path.display())]
    NoModel { path: PathBuf },
    /// A directory with several.
    #[error("there are several models in {path}: {names}; name the file of one", path = path.display(), names = names.join(", "))]
    SeveralModels {
        path: PathBuf,
        /// A file of each.
        names: Vec<String>,
    },
    /// Told to stop.
    #[error("{0}")]
    Stopped(io::Error),
}

impl Classified for InspectError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Header { source, .. } => source.class(),
            Self::Stopped(error) => error.class(),
            Self::NoModel { .. } | Self::SeveralModels { .. } => Class::Usage,
            Self::NotAModel { .. } | Self::MissingShard { .. } | Self::WrongShard { .. } | Self::Piece { .. } => {
                Class::Unverified
            }
            Self::NotAFile { .. } => Class::Failed,
        }
    }
}

/// Inspects a file, one shard of several, or a directory with one model in it.
///
/// # Errors
/// If it is not a model, is not whole, or cannot be read.
pub fn inspect(path: &Path, progress: &Progress) -> Result<Inspected, InspectError> {
    let kind = fs::metadata(path).map_err(|source| InspectError::Read { path: path.to_owned(), source })?;
    if kind.is_dir() {
        let files = files_of(path, progress)?;
        return choose(&ModelFolder { root: path, files: Some(&files), progress });
    }
    let Some(name) = path.file_name().filter(|_| kind.is_file()) else {
        return Err(InspectError::NotAFile { path: path.to_owned() });
    };
    let root = path.parent().unwrap_or(Path::new(""));
    let Some(text) = name.to_str() else {
        // What has no name that can be written has no shards that are found by it.
        let only = BTreeMap::from([(name.to_string_lossy().into_owned(), path.to_owned())]);
        return ModelFolder { root, files: Some(&only), progress }.file(&name.to_string_lossy());
    };
    ModelFolder { root, files: None, progress }.file(text)
}

/// Inspects files as if they lay in one directory under these paths: those of an image, or of several store paths. `root` is what
/// messages call it.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_set(
    root: &Path,
    files: &BTreeMap<String, PathBuf>,
    progress: &Progress,
) -> Result<Inspected, InspectError> {
    choose(&ModelFolder { root, files: Some(files), progress })
}

/// The files of a directory and of those below it, by their paths; links are followed.
///
/// # Errors
/// If a folder cannot be read, or there are too many files for one model.
pub(crate) fn files_of(path: &Path, progress: &Progress) -> Result<BTreeMap<String, PathBuf>, InspectError> {
    let mut files = BTreeMap::new();
    list(path, "", &mut Vec::new(), &mut files, progress)?;
    Ok(files)
}

fn list(
    path: &Path,
    prefix: &str,
    above: &mut Vec<PathBuf>,
    files: &mut BTreeMap<String, PathBuf>,
    progress: &Progress,
) -> Result<(), InspectError> {
    progress.check().map_err(InspectError::Stopped)?;
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    let real = fs::canonicalize(path).map_err(failed)?;
    // A link to a directory that it is in.
    if above.contains(&real) || above.len() > DEEPEST {
        return Ok(());
    }
    above.push(real);
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (name, place) = (format!("{prefix}{name}"), entry.path());
        if fs::metadata(&place).is_ok_and(|kind| kind.is_dir()) {
            list(&place, &format!("{name}/"), above, files, progress)?;
        } else {
            files.insert(name, place);
        }
        if files.len() > MOST_FILES {
            let message = format!("more than {MOST_FILES} files; name the directory of one model, or its file");
            return Err(failed(io::Error::other(message)));
        }
    }
    above.pop();
    Ok(())
}

/// The one model of these files.
fn choose(all: &ModelFolder<'_>) -> Result<Inspected, InspectError> {
    let names: Vec<&str> = all.names().collect();
    let of = |wanted: &Named<'_>| names.iter().copied().filter(|name| named(name) == *wanted).collect::<Vec<_>>();
    let path = || all.root.to_owned();
    let (ggufs, safetensors) = (of(&Named::Weights(ModelFormat::Gguf)), of(&Named::Weights(ModelFormat::Safetensors)));
    let whole = |whole: &str, name: &str| names.contains(&&*format!("{}{whole}", folder(name)));
    let piece = names.iter().find_map(|name| match named(name) {
        Named::Piece(of) if !whole(of, name) => Some((*name, of)),
        _ => None,
    });
    if let Some((name, of)) = piece {
        return Err(InspectError::Piece { path: all.path(name), whole: of.to_owned() });
    }
    if names.contains(&PIPELINE) && !safetensors.is_empty() {
        return all.pipeline(&safetensors, &of(&Named::Index));
    }
    let mut beside = BTreeMap::new();
    let mut mains = firsts(&ggufs);
    if mains.len() > 1 {
        // A projector, an adapter or an importance matrix goes with a model, and is not the model.
        let mut whole = Vec::new();
        for name in &mains {
            match all.gguf_kind(name)? {
                Some(kind) => drop(beside.insert((*name).to_owned(), kind)),
                None => whole.push(*name),
            }
        }
        mains = if whole.len() == 1 { whole } else { mains };
    }
    // The index of shards stands for them.
    let indexes = of(&Named::Index);
    let is_indexed = |name: &&str| indexes.iter().any(|index| folder(index) == folder(name));
    let mut parts = firsts(&safetensors);
    parts.retain(|name| !is_indexed(name));
    parts.extend(&indexes);
    let depth = |name: &str| folder(name).matches('/').count();
    let nearest = parts.iter().map(|name| depth(name)).min();
    let is_main = |name: &&str| Some(depth(name)) == nearest;
    parts.retain(is_main);
    // An adapter of PEFT beside a GGUF model, or beside the whole model, is not the model.
    if mains.len() + parts.len() > 1 {
        let (adapters, whole): (Vec<&str>, Vec<&str>) = parts.iter().partition(|name| ModelFolder::is_adapter(name));
        if !whole.is_empty() || mains.len() == 1 {
            beside.extend(adapters.into_iter().map(|name| (name.to_owned(), "adapter".to_owned())));
            parts = whole;
        }
    }
    mains.extend(parts);
    match mains.as_slice() {
        [] => Err(InspectError::NoModel { path: path() }),
        [one] => {
            let mut inspected = all.file(one)?;
            beside.remove(*one);
            inspected.facts.beside = beside;
            inspected.warnings.extend(all.unused(one, &inspected.files, &safetensors));
            Ok(inspected)
        }
        _ => Err(InspectError::SeveralModels { path: path(), names: mains.into_iter().map(str::to_owned).collect() }),
    }
}

/// The first file of each model by name: shards are one model.
fn firsts<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let whole = |name: &str| {
        ShardName::parse(name).map_or_else(|| name.to_owned(), |shard| format!("{}//{}", shard.whole(), shard.count))
    };
    names.iter().copied().filter(|name| seen.insert(whole(name))).collect()
}
