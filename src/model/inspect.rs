//! What a model is: a file, its shards, or a directory of them.
//!
//! llama.cpp and transformers find shards by their names, so they are looked for by name: beside the file that was given.
//! All of them are read, each only its header, and what they say of each other has to fit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::card::{self, Config};
use super::cursor::HeaderError;
use super::facts::{Facts, Format, Inspected, InspectedFile};
use super::shards::ShardName;
use super::sniff::{Found, HEAD, sniff};
use super::{gguf, gguf_facts, safetensors};
use crate::progress::Progress;

/// Why it is not known what a model is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// A file cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
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
    #[error("{path} is no model: it is {found}; {advice}", path = path.display(), advice = found.advice())]
    NotAModel {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: Found,
    },
    /// A header that is damaged, or cut off.
    #[error("{path}: {source}", path = path.display())]
    Header {
        /// The file.
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
        /// The file.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// A directory without any.
    #[error("there is no model in {path}: no .gguf and no .safetensors file", path = path.display())]
    NoModel {
        /// The directory.
        path: PathBuf,
    },
    /// A directory with several.
    #[error("there are several models in {path}: {names}; name the file of one", path = path.display(), names = names.join(", "))]
    SeveralModels {
        /// The directory.
        path: PathBuf,
        /// A file of each.
        names: Vec<String>,
    },
    /// Told to stop.
    #[error("{0}")]
    Stopped(io::Error),
}

impl InspectError {
    /// Whether a file is not what its name, or another file, says it is.
    #[must_use]
    pub const fn is_bad_file(&self) -> bool {
        matches!(
            self,
            Self::NotAModel { .. } | Self::MissingShard { .. } | Self::WrongShard { .. } | Self::Header { .. }
        ) && !matches!(self, Self::Header { source: HeaderError::Read { .. }, .. })
    }
}

/// Inspects a file, one shard of several, or a directory with one model in it.
///
/// # Errors
/// If it is no model, is not whole, or cannot be read.
pub fn inspect(path: &Path, progress: &Progress) -> Result<Inspected, InspectError> {
    let kind = fs::metadata(path).map_err(|source| InspectError::Read { path: path.to_owned(), source })?;
    if kind.is_dir() {
        let files = list(path)?;
        return Folder { root: path, files: Some(&files), progress }.inspect();
    }
    let Some(name) = path.file_name().filter(|_| kind.is_file()) else {
        return Err(InspectError::NotAFile { path: path.to_owned() });
    };
    let root = path.parent().unwrap_or(Path::new(""));
    let Some(text) = name.to_str() else {
        // What has no name that can be written has no shards that are found by it.
        let only = BTreeMap::from([(name.to_string_lossy().into_owned(), path.to_owned())]);
        return Folder { root, files: Some(&only), progress }.inspect_file(&name.to_string_lossy());
    };
    Folder { root, files: None, progress }.inspect_file(text)
}

/// Inspects files as if they lay in one directory under these names: those of an image, or of several store paths.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_set(files: &BTreeMap<String, PathBuf>, progress: &Progress) -> Result<Inspected, InspectError> {
    let root = files.values().next().and_then(|path| path.parent()).unwrap_or(Path::new(""));
    Folder { root, files: Some(files), progress }.inspect()
}

/// The files of a directory by name; what is in directories below it is not looked at.
fn list(path: &Path) -> Result<BTreeMap<String, PathBuf>, InspectError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            files.insert(name, entry.path());
        }
    }
    Ok(files)
}

/// Where the files of a model are looked for: in a list of them, or beside each other.
struct Folder<'a> {
    root: &'a Path,
    files: Option<&'a BTreeMap<String, PathBuf>>,
    progress: &'a Progress,
}

impl Folder<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.files.and_then(|files| files.get(name)).cloned().unwrap_or_else(|| self.root.join(name))
    }

    /// The file of this name, opened, and how long it is; `None` if there is none.
    fn open(&self, name: &str) -> Result<Option<(File, u64)>, InspectError> {
        self.progress.check().map_err(InspectError::Stopped)?;
        if self.files.is_some_and(|files| !files.contains_key(name)) {
            return Ok(None);
        }
        let path = self.path(name);
        let opened = match fs::metadata(&path) {
            // Opening a pipe would wait for its other end.
            Ok(kind) if !kind.is_file() => return Err(InspectError::NotAFile { path }),
            Ok(kind) => File::open(&path).map(|file| Some((file, kind.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        };
        opened.map_err(|source| InspectError::Read { path, source })
    }

    fn existing(&self, name: &str) -> Result<(File, u64), InspectError> {
        let gone = || InspectError::Read { path: self.path(name), source: io::ErrorKind::NotFound.into() };
        self.open(name)?.ok_or_else(gone)
    }

    /// What a file is, by its first bytes.
    fn sniff(&self, name: &str) -> Result<Found, InspectError> {
        let (file, _) = self.existing(name)?;
        let mut head = Vec::new();
        let read = file.take(HEAD as u64).read_to_end(&mut head);
        read.map_err(|source| InspectError::Read { path: self.path(name), source })?;
        Ok(sniff(&head))
    }

    fn header_error(&self, name: &str, source: HeaderError) -> InspectError {
        InspectError::Header { path: self.path(name), source }
    }

    fn wrong(&self, name: &str, message: String) -> InspectError {
        InspectError::WrongShard { path: self.path(name), message }
    }

    /// The one model of these files.
    fn inspect(&self) -> Result<Inspected, InspectError> {
        let names: Vec<&str> = self.files.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let ending = |end: &str| names.iter().copied().filter(|name| name.ends_with(end)).collect::<Vec<_>>();
        let path = || self.root.to_owned();
        let several = |names: Vec<&str>| {
            let names = names.into_iter().map(str::to_owned).collect();
            Err(InspectError::SeveralModels { path: path(), names })
        };
        let indexes = ending(".safetensors.index.json");
        let mut mains = firsts(&ending(".gguf"));
        if mains.len() > 1 {
            // A projector or an adapter goes with a model, and is not the model.
            let kinds = mains.iter().map(|name| self.gguf(name).map(|header| header.facts().kind.is_some()));
            let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
            let whole: Vec<&str> = mains.iter().zip(kinds).filter(|(_, other)| !other).map(|(name, _)| *name).collect();
            mains = if whole.len() == 1 { whole } else { mains };
        }
        mains.extend(if indexes.is_empty() { firsts(&ending(".safetensors")) } else { indexes });
        match mains.as_slice() {
            [] => Err(InspectError::NoModel { path: path() }),
            [one] if one.ends_with(".json") => self.safetensors_of_index(one),
            [one] => self.inspect_file(one),
            _ => several(mains),
        }
    }

    /// The model that this file is, or is a part of.
    fn inspect_file(&self, name: &str) -> Result<Inspected, InspectError> {
        match self.sniff(name)? {
            Found::Gguf => self.inspect_gguf(name),
            Found::Safetensors => self.inspect_safetensors(name),
            Found::Json if name.ends_with(".safetensors.index.json") => self.safetensors_of_index(name),
            found => Err(InspectError::NotAModel { path: self.path(name), found }),
        }
    }

    fn gguf(&self, name: &str) -> Result<gguf::Header, InspectError> {
        match self.sniff(name)? {
            Found::Gguf => {}
            found => return Err(InspectError::NotAModel { path: self.path(name), found }),
        }
        gguf::Header::read(self.existing(name)?.0).map_err(|source| self.header_error(name, source))
    }

    fn inspect_gguf(&self, name: &str) -> Result<Inspected, InspectError> {
        let header = self.gguf(name)?;
        let split = match header.split() {
            Some(split) if split.count > 1 => split,
            _ => {
                let files = vec![InspectedFile { path: name.into(), size: header.size }];
                return Ok(Inspected { facts: header.facts(), files });
            }
        };
        let shard = ShardName::parse(name).filter(|shard| fits(shard, split)).ok_or_else(|| {
            let (number, count) = (split.index.saturating_add(1), split.count);
            self.wrong(
                name,
                format!("it is shard {number} of {count}, and its name would end in -{number:05}-of-{count:05}.gguf"),
            )
        })?;
        let (mut first, mut files, mut elements) = (None, Vec::new(), BTreeMap::<u32, u64>::new());
        let (mut tensors, mut told) = (BTreeSet::new(), None);
        for number in 1..=shard.count {
            let sibling = shard.sibling(number);
            if self.open(&sibling)?.is_none() {
                return Err(InspectError::MissingShard { path: self.path(&sibling), of: name.to_owned() });
            }
            let header = self.gguf(&sibling)?;
            let wrong = |message: String| Err(self.wrong(&sibling, message));
            match header.split() {
                Some(split)
                    if split.count == u64::from(shard.count) && split.index.saturating_add(1) == u64::from(number) =>
                {
                    told = told.or(split.tensors);
                }
                Some(split) => {
                    let (number, count) = (split.index.saturating_add(1), split.count);
                    return wrong(format!("it says that it is shard {number} of {count}"));
                }
                None => return wrong("it says that it is no shard".to_owned()),
            }
            for (kind, count) in header.elements() {
                let sum = elements.entry(kind).or_default();
                *sum = sum.saturating_add(count);
            }
            files.push(InspectedFile { path: sibling.clone().into(), size: header.size });
            for tensor in &header.tensors {
                if !tensors.insert(tensor.name.clone()) {
                    return wrong(format!("tensor '{}' is in another shard too", tensor.name));
                }
            }
            if tensors.len() as u64 > gguf::MAX_TENSORS {
                return wrong(format!("the shards have more than {} tensors", gguf::MAX_TENSORS));
            }
            first.get_or_insert(header);
        }
        if let Some(told) = told.filter(|told| *told != tensors.len() as u64) {
            return Err(self.wrong(name, format!("all shards have {} tensors instead of {told}", tensors.len())));
        }
        let facts = gguf_facts::facts_of(first.as_ref().unwrap_or(&header), &elements);
        Ok(Inspected { facts, files })
    }

    fn inspect_safetensors(&self, name: &str) -> Result<Inspected, InspectError> {
        let Some(shard) = ShardName::parse(name) else {
            return self.safetensors(&[(name.to_owned(), None)], name);
        };
        // The index names the files itself; without one they are known by their names.
        let index = format!("{}.index.json", shard.whole());
        match self.open(&index)?.is_some() {
            true => self.safetensors_of_index(&index),
            false => self.safetensors(&shard.all().map(|name| (name, None)).collect::<Vec<_>>(), name),
        }
    }

    fn safetensors_of_index(&self, name: &str) -> Result<Inspected, InspectError> {
        let (file, _) = self.existing(name)?;
        let index = safetensors::read_index(file).map_err(|source| self.header_error(name, source))?;
        let files: Vec<_> = index.into_iter().map(|(file, names)| (file, Some(names))).collect();
        self.safetensors(&files, name)
    }

    /// A model of these files, each with the tensors that it should have; `of` names them.
    fn safetensors(
        &self,
        shards: &[(String, Option<Vec<safetensors::Name>>)],
        of: &str,
    ) -> Result<Inspected, InspectError> {
        let (mut files, mut elements) = (Vec::new(), BTreeMap::<String, u64>::new());
        for (name, expected) in shards {
            let Some((file, size)) = self.open(name)? else {
                return Err(InspectError::MissingShard { path: self.path(name), of: of.to_owned() });
            };
            match self.sniff(name)? {
                Found::Safetensors => {}
                found => return Err(InspectError::NotAModel { path: self.path(name), found }),
            }
            let header = safetensors::Header::read(file).map_err(|source| self.header_error(name, source))?;
            if expected.as_ref().is_some_and(|expected| *expected != header.names) {
                return Err(self.wrong(name, format!("it has other tensors than {of} says")));
            }
            for (kind, count) in header.elements {
                let sum = elements.entry(kind).or_default();
                *sum = sum.saturating_add(count);
            }
            files.push(InspectedFile { path: name.into(), size });
        }
        Ok(Inspected { facts: self.safetensors_facts(&elements)?, files })
    }

    fn safetensors_facts(&self, elements: &BTreeMap<String, u64>) -> Result<Facts, InspectError> {
        let beside = |name: &str| self.open(name).ok().flatten().map(|(file, _)| file);
        let config = match beside("config.json") {
            Some(file) => card::config(file).map_err(|source| self.header_error("config.json", source))?,
            None => Config::default(),
        };
        let card = beside("README.md").map(card::card).unwrap_or_default();
        let template = beside("chat_template.jinja").and_then(card::template);
        let template = template.or_else(|| beside("tokenizer_config.json").and_then(card::template_in));
        // Of two that are as many, the first by name.
        let most = elements.iter().rev().max_by_key(|(_, count)| **count).map(|(kind, _)| kind.clone());
        Ok(Facts {
            format: Format::Safetensors,
            name: None,
            version: None,
            kind: None,
            architecture: config.architecture,
            parameters: elements.values().fold(0, |sum, count| sum.saturating_add(*count)),
            quantization: config.packing.or(most),
            context_length: config.context_length,
            embedding_length: config.embedding_length,
            licence: card.licence,
            vendor: None,
            source: None,
            languages: card.languages,
            chat_template: template,
        })
    }
}

/// Whether a shard's name says what its header says.
fn fits(name: &ShardName, split: gguf::Split) -> bool {
    split.count == u64::from(name.count) && split.index.saturating_add(1) == u64::from(name.number)
}

/// Of each model the first file by name: shards are one model.
fn firsts<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let whole = |name: &str| {
        ShardName::parse(name).map_or_else(|| name.to_owned(), |shard| format!("{}//{}", shard.whole(), shard.count))
    };
    names.iter().copied().filter(|name| seen.insert(whole(name))).collect()
}
