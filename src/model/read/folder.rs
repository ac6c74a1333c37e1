//! The files of a model, read: each by its header, and what they say of each other has to fit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::card::{self, ConfigJson};
use super::cursor::HeaderError;
use super::facts::{Facts, Inspected, InspectedFile, ModelFormat};
use super::inspect::InspectError;
use super::json::Odd;
use super::named::{Named, PIPELINE, file_name, folder, named};
use super::shards::ShardName;
use super::sniff::{FileKind, HEAD, sniff};
use super::{gguf, gguf_facts, safetensors};
use crate::disk::bounded;
use crate::disk::progress::Progress;

/// Where the files of a model are looked for: in a list of them, or beside each other. Names are paths below the root.
pub(super) struct ModelFolder<'a> {
    pub(super) root: &'a Path,
    pub(super) files: Option<&'a BTreeMap<String, PathBuf>>,
    pub(super) progress: &'a Progress,
}

/// Shards of safetensors, each with the tensors that the index says it has.
type Shards = Vec<(String, Option<Vec<safetensors::TensorName>>)>;

impl<'a> ModelFolder<'a> {
    /// The files that are listed.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.files.into_iter().flatten().map(|(name, _)| name.as_str())
    }

    /// Where a file is; where it would be, beside those of its folder, if it is not there.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let beside = |files: &BTreeMap<String, PathBuf>| {
            let (_, other) = files.iter().find(|(other, _)| folder(other) == folder(name))?;
            Some(other.parent()?.join(file_name(name)))
        };
        let listed = self.files.and_then(|files| files.get(name).cloned().or_else(|| beside(files)));
        listed.unwrap_or_else(|| self.root.join(name))
    }

    /// The file of this name, opened, and how long it is; `None` if there is no such file.
    fn open(&self, name: &str) -> Result<Option<(File, u64)>, InspectError> {
        self.progress.check().map_err(InspectError::Stopped)?;
        if self.files.is_some_and(|files| !files.contains_key(name)) {
            return Ok(None);
        }
        let path = self.path(name);
        let opened = match fs::metadata(&path) {
            // Opening a pipe would wait for its other end.
            Ok(kind) if !kind.is_file() => return Err(InspectError::NotAFile { path }),
            Ok(kind) => bounded::open(&path).map(|file| Some((file, kind.len()))),
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
    fn sniff(&self, name: &str) -> Result<FileKind, InspectError> {
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

    fn warning(&self, name: &str, message: &str) -> String {
        format!("{}: {message}", self.path(name).display())
    }

    /// The model that this file is, or is a part of.
    pub(super) fn file(&self, name: &str) -> Result<Inspected, InspectError> {
        match self.sniff(name)? {
            FileKind::Gguf => self.gguf_model(name),
            FileKind::Safetensors => self.safetensors_model(name),
            FileKind::Json if named(name) == Named::Index => self.safetensors_of_index(name),
            found => Err(InspectError::NotAModel { path: self.path(name), found }),
        }
    }

    fn gguf(&self, name: &str) -> Result<gguf::GgufHeader, InspectError> {
        match self.sniff(name)? {
            FileKind::Gguf => {}
            found => return Err(InspectError::NotAModel { path: self.path(name), found }),
        }
        gguf::GgufHeader::read(self.existing(name)?.0).map_err(|source| self.header_error(name, source))
    }

    /// What a GGUF file is if it is not a model of its own; `None` for a model.
    ///
    /// # Errors
    /// Also if it is a shard under the name of no shard, or of another one: what is a model could not be told from its parts.
    pub(super) fn gguf_kind(&self, name: &str) -> Result<Option<String>, InspectError> {
        let header = self.gguf(name)?;
        if let Some(split) = header.split().filter(|split| split.count > 1) {
            self.shard_name(name, split)?;
            return Ok(None);
        }
        Ok(header.facts().kind)
    }

    /// The name of a shard, which has to say what its header says.
    fn shard_name(&self, name: &str, split: gguf::GgufSplit) -> Result<ShardName, InspectError> {
        let fits = |shard: &ShardName| {
            split.count == u64::from(shard.count) && split.index.saturating_add(1) == u64::from(shard.number)
        };
        ShardName::parse(name).filter(fits).ok_or_else(|| {
            let (number, count) = (split.index.saturating_add(1), split.count);
            let message =
                format!("it is shard {number} of {count}, and its name would end in -{number:05}-of-{count:05}.gguf");
            self.wrong(name, message)
        })
    }

    fn gguf_model(&self, name: &str) -> Result<Inspected, InspectError> {
        let header = self.gguf(name)?;
        let limits = |name: &str, header: &gguf::GgufHeader| {
            header.limits().into_iter().map(|limit| self.warning(name, &limit)).collect::<Vec<_>>()
        };
        let split = match header.split() {
            Some(split) if split.count > 1 => split,
            _ => {
                let files = vec![InspectedFile { path: name.into(), size: header.size }];
                return Ok(Inspected { facts: header.facts(), files, warnings: limits(name, &header) });
            }
        };
        let shard = self.shard_name(name, split)?;
        let (mut first, mut files, mut elements) = (None, Vec::new(), BTreeMap::<u32, u64>::new());
        let (mut tensors, mut told, mut warnings) = (BTreeSet::new(), None, Vec::new());
        for number in 1..=shard.count {
            let sibling = shard.sibling(number);
            if self.open(&sibling)?.is_none() {
                return Err(InspectError::MissingShard { path: self.path(&sibling), of: file_name(name).to_owned() });
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
                None => return wrong("it says that it is not a shard".to_owned()),
            }
            for (kind, count) in header.elements() {
                let sum = elements.entry(kind).or_default();
                *sum = sum.saturating_add(count);
            }
            files.push(InspectedFile { path: sibling.clone().into(), size: header.size });
            warnings.extend(limits(&sibling, &header));
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
        Ok(Inspected { facts, files, warnings })
    }

    /// Whether a file of safetensors is an adapter, by the name that PEFT gives it.
    pub(super) fn is_adapter(name: &str) -> bool {
        file_name(name).to_ascii_lowercase().starts_with("adapter_model")
    }

    fn safetensors_model(&self, name: &str) -> Result<Inspected, InspectError> {
        let Some(shard) = ShardName::parse(name) else {
            return self.safetensors(&[(name.to_owned(), None)], name, Vec::new());
        };
        // The index names the files itself; without one they are known by their names.
        let index = format!("{}.index.json", shard.whole());
        match self.open(&index)?.is_some() {
            true => self.safetensors_of_index(&index),
            false => {
                let shards = shard.all().map(|name| (name, None)).collect::<Vec<_>>();
                self.safetensors(&shards, name, Vec::new())
            }
        }
    }

    /// The shards of an index; `None`, with the reason, if the index is of other files than those that lie beside it.
    fn shards_of(&self, index: &str) -> Result<(Option<Shards>, Vec<String>), InspectError> {
        let (file, _) = self.existing(index)?;
        let read = safetensors::read_index(file).map_err(|source| self.header_error(index, source))?;
        let shards: Shards =
            read.into_iter().map(|(file, names)| (format!("{}{file}", folder(index)), Some(names))).collect();
        let whole = &index[..index.len() - ".index.json".len()];
        let mut there = false;
        for (name, _) in &shards {
            there |= self.open(name)?.is_some();
        }
        if !there && self.open(whole)?.is_some() {
            let message = format!(
                "is of shards that are not there, and {} is the whole model: transformers takes that; remove the index",
                file_name(whole)
            );
            return Ok((None, vec![self.warning(index, &message)]));
        }
        Ok((Some(shards), Vec::new()))
    }

    fn safetensors_of_index(&self, name: &str) -> Result<Inspected, InspectError> {
        match self.shards_of(name)? {
            (Some(shards), warnings) => self.safetensors(&shards, name, warnings),
            (None, warnings) => {
                let whole = name[..name.len() - ".index.json".len()].to_owned();
                self.safetensors(&[(whole.clone(), None)], &whole, warnings)
            }
        }
    }

    /// Reads the headers of these files, each with the tensors that it should have; `of` names them.
    fn tensors(
        &self,
        shards: &[(String, Option<Vec<safetensors::TensorName>>)],
        of: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<InspectedFile>, BTreeMap<String, u64>), InspectError> {
        let (mut files, mut elements) = (Vec::new(), BTreeMap::<String, u64>::new());
        for (name, expected) in shards {
            let Some((file, size)) = self.open(name)? else {
                return Err(InspectError::MissingShard { path: self.path(name), of: file_name(of).to_owned() });
            };
            match self.sniff(name)? {
                FileKind::Safetensors => {}
                found => return Err(InspectError::NotAModel { path: self.path(name), found }),
            }
            let header =
                safetensors::SafetensorsHeader::read(file).map_err(|source| self.header_error(name, source))?;
            if expected.as_ref().is_some_and(|expected| *expected != header.names) {
                let message = format!(
                    "it has other tensors than {} says, so the index is of another version: transformers and vLLM, which go by it, do not load the model",
                    file_name(of)
                );
                warnings.push(self.warning(name, &message));
            }
            for (kind, count) in header.elements {
                let sum = elements.entry(kind).or_default();
                *sum = sum.saturating_add(count);
            }
            files.push(InspectedFile { path: name.into(), size });
        }
        Ok((files, elements))
    }

    fn safetensors(
        &self,
        shards: &[(String, Option<Vec<safetensors::TensorName>>)],
        of: &str,
        mut warnings: Vec<String>,
    ) -> Result<Inspected, InspectError> {
        let (files, elements) = self.tensors(shards, of, &mut warnings)?;
        let beside = folder(of);
        let name = format!("{beside}config.json");
        let config = match self.open(&name).ok().flatten() {
            Some((file, _)) => card::config(file).map_err(|source| self.header_error(&name, source))?,
            None => ConfigJson::default(),
        };
        warnings.extend(self.odd(&name, config.odd));
        let mut facts = self.safetensors_facts(beside, &elements);
        if Self::is_adapter(&shards.first().map_or_else(String::new, |(name, _)| name.clone())) {
            facts.kind = Some("adapter".to_owned());
        }
        facts.architecture = config.architecture;
        facts.context_length = config.context_length;
        facts.embedding_length = config.embedding_length;
        facts.quantization = config.packing.or(facts.quantization);
        Ok(Inspected { facts, files, warnings })
    }

    /// A pipeline: the models of all folders together.
    pub(super) fn pipeline(&self, safetensors: &[&str], indexes: &[&str]) -> Result<Inspected, InspectError> {
        let (file, _) = self.existing(PIPELINE)?;
        let (class, odd) = card::pipeline(file).map_err(|source| self.header_error(PIPELINE, source))?;
        let mut warnings: Vec<String> = self.odd(PIPELINE, odd).into_iter().collect();
        let (mut files, mut elements) = (Vec::new(), BTreeMap::<String, u64>::new());
        let folders: BTreeSet<&str> = safetensors.iter().map(|name| folder(name)).collect();
        for part in folders {
            let index = indexes.iter().find(|index| folder(index) == part);
            let (shards, of) = match index.map(|index| self.shards_of(index)).transpose()? {
                Some((Some(shards), more)) => {
                    warnings.extend(more);
                    (shards, index.copied().unwrap_or_default().to_owned())
                }
                _ => {
                    // Variants (`….fp16.safetensors`) lie beside what is loaded without asking, which has the shortest name.
                    let here = safetensors.iter().copied().filter(|name| folder(name) == part);
                    let main = here.min_by_key(|name| (name.len(), *name)).unwrap_or_default();
                    let shard = ShardName::parse(main);
                    let all = shard.map_or_else(|| vec![main.to_owned()], |shard| shard.all().collect());
                    (all.into_iter().map(|name| (name, None)).collect(), main.to_owned())
                }
            };
            let (found, counts) = self.tensors(&shards, &of, &mut warnings)?;
            files.extend(found);
            for (kind, count) in counts {
                let sum = elements.entry(kind).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        let mut facts = self.safetensors_facts("", &elements);
        facts.architecture = class;
        Ok(Inspected { facts, files, warnings })
    }

    /// What of a document only some programs read.
    fn odd(&self, name: &str, odd: Odd) -> Option<String> {
        let message = match odd {
            Odd { mark: true, .. } => {
                "it begins with a byte order mark: transformers and other programs do not read it; save it without"
            }
            Odd { numbers: true, .. } => {
                "it has Infinity or NaN, which Python writes and JSON does not have: programs that are not written in Python (candle, text-generation-inference, Ollama) do not read it"
            }
            Odd { .. } => return None,
        };
        Some(self.warning(name, message))
    }

    /// Weights in the folder of a model that nothing of it names: they would be stored for nothing.
    pub(super) fn unused(&self, main: &str, files: &[InspectedFile], safetensors: &[&str]) -> Vec<String> {
        let is_read = |name: &str| files.iter().any(|file| file.path.as_os_str() == name);
        let unused = safetensors.iter().filter(|name| {
            folder(name) == folder(main) && !is_read(name) && !Self::is_adapter(name) && named(main) == Named::Index
        });
        let message = format!(
            "{} does not name it: what loads the model does not read it, and it is stored all the same",
            file_name(main)
        );
        unused.map(|name| self.warning(name, &message)).collect()
    }

    /// What safetensors and what lies beside them say, without `config.json`.
    fn safetensors_facts(&self, folder: &str, elements: &BTreeMap<String, u64>) -> Facts {
        let beside = |name: &str| self.open(&format!("{folder}{name}")).ok().flatten().map(|(file, _)| file);
        let card = beside("README.md").map(card::card).unwrap_or_default();
        let template = beside("chat_template.jinja").and_then(card::template);
        let template = template.or_else(|| beside("tokenizer_config.json").and_then(card::template_in));
        // If two are equally many, the first by name.
        let most = elements.iter().rev().max_by_key(|(_, count)| **count).map(|(kind, _)| kind.clone());
        Facts {
            format: ModelFormat::Safetensors,
            name: None,
            version: None,
            kind: None,
            architecture: None,
            parameters: elements.values().fold(0, |sum, count| sum.saturating_add(*count)),
            quantization: most,
            context_length: None,
            embedding_length: None,
            licence: card.licence,
            vendor: None,
            source: None,
            languages: card.languages,
            chat_template: template,
            beside: BTreeMap::new(),
        }
    }
}
