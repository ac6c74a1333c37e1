//! Splitting a GGUF file so that what describes the model is a file of its own.
//!
//! ```text
//! NAME-00001-of-00003.gguf   all keys (tokenizer, chat template, licence), no tensor
//! NAME-00002-of-00003.gguf   tensors and nothing else
//! NAME-00003-of-00003.gguf
//! ```
//!
//! llama.cpp is given the first shard and opens the others beside it (`split.no`, counted from 0, `split.count` and
//! `split.tensors.count`; *llama-model-loader.cpp*, *gguf-split*). The order and the bytes of the tensors stay. A shard of
//! tensors depends on the tensors, their alignment and the number of shards, on no other key and on nothing that is written
//! beside them: with another chat template it is the same file. Memory: the header of the source, whatever its tensors weigh.

use std::io;
use std::path::{Path, PathBuf};

use super::gguf_shard::{ShardPlace, Sized, info_size, metadata, weights};
use crate::class::{Class, Classified};
use crate::disk::pipe::PipeError;
use crate::disk::progress::Progress;
use crate::disk::{WriteError, bounded};
use crate::layer::output::{Output, Verify};
use crate::model::read::cursor::HeaderError;
use crate::model::read::facts::ModelFormat;
use crate::model::read::gguf::{GgufHeader, GgufTensor};
use crate::model::read::inspect::{InspectError, inspect};
use crate::model::read::shards::ShardName;

/// Why a file was not split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// It cannot be opened or read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is damaged, or no model.
    #[error(transparent)]
    Model(#[from] InspectError),
    /// It is a model, but no GGUF file.
    #[error("{path}: {source}", path = path.display())]
    Header { path: PathBuf, source: HeaderError },
    /// It is a part of a split already.
    #[error(
        "{path} is shard {number} of {count} already: put them together again (`llama-gguf-split --merge FIRST OUT`) and split \
         that, or give all {count} shards to the model as its files, each in a layer of its own (\"layers\": \"files\")",
        path = path.display()
    )]
    AlreadySplit {
        path: PathBuf,
        /// Which shard, from 1 on.
        number: u64,
        /// How many shards there are.
        count: u64,
    },
    /// There is nothing to divide.
    #[error("{path} has no tensors: there is nothing to split", path = .0.display())]
    NoTensors(PathBuf),
    /// A tensor whose size is not known.
    #[error("{path}: tensor '{tensor}' is of the unknown type {kind}, and where its data end is not known; a newer windlass may know it", path = path.display())]
    UnknownType {
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The number of its type.
        kind: u32,
    },
    /// More shards than can be counted.
    #[error("{path} would be split into {count} shards, and there can be {max}; give a larger maximum size", path = path.display(), max = u16::MAX)]
    TooMany { path: PathBuf, count: usize },
    /// A place that is written to.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Classified for SplitError {
    fn class(&self) -> Class {
        match self {
            Self::Read { source, .. } => source.class(),
            Self::Model(error) => error.class(),
            Self::Header { source, .. } => source.class(),
            Self::Write(error) => error.class(),
            Self::AlreadySplit { .. } | Self::NoTensors(_) | Self::UnknownType { .. } | Self::TooMany { .. } => {
                Class::Failed
            }
        }
    }
}

/// A shard that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub name: String,
    pub size: u64,
    /// How many tensors it holds.
    pub tensors: usize,
}

/// The name of what is split: that of the file, without its extension.
#[must_use]
pub(crate) fn base_of(file_name: &str) -> &str {
    file_name.strip_suffix(ModelFormat::Gguf.ending()).unwrap_or(file_name)
}

/// Splits `file` into shards called `name-…` in `directory`, which must exist. No shard is larger than `max_size`, but for
/// one with a single tensor, and the first one.
///
/// # Errors
/// See [`SplitError`]; what is in `directory` is then of no use.
pub fn split(
    file: &Path,
    name: &str,
    directory: &Path,
    max_size: u64,
    progress: &Progress,
) -> Result<Vec<Shard>, SplitError> {
    let reading = |source| SplitError::Read { path: file.to_owned(), source };
    let source = bounded::open(file).map_err(reading)?;
    if !source.metadata().map_err(reading)?.is_file() {
        return Err(reading(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")));
    }
    let header = match GgufHeader::read(&source) {
        Ok(header) => header,
        Err(source) => {
            // This knows what else it may be.
            inspect(file, progress)?;
            return Err(SplitError::Header { path: file.to_owned(), source });
        }
    };
    if let Some(split) = header.split().filter(|split| split.count > 1) {
        let (number, count) = (split.index.saturating_add(1), split.count);
        return Err(SplitError::AlreadySplit { path: file.to_owned(), number, count });
    }
    let tensors = sized(file, &header)?;
    let parts = cut(&tensors, header.alignment, max_size);
    let count = parts.len() + 1;
    let Ok(numbered) = u16::try_from(count) else { return Err(SplitError::TooMany { path: file.to_owned(), count }) };
    let of_all = u32::try_from(tensors.len()).unwrap_or(u32::MAX);
    let shard_name = ShardName {
        base: name.to_owned(),
        number: 1,
        count: numbered.into(),
        extension: ModelFormat::Gguf.extension().to_owned(),
    };

    progress.expect(header.size);
    let mut shards = Vec::new();
    for index in 0..numbered {
        let place = ShardPlace { index, count: numbered, tensors: of_all };
        let own = index.checked_sub(1).map_or(&[][..], |part| &parts[usize::from(part)]);
        let name = shard_name.sibling(u32::from(index) + 1);
        let path = directory.join(&name);
        let mut output = Output::create(&path, Verify::Never, false, progress)?;
        let written = match index {
            0 => metadata(&header, &source, &place, &mut output),
            _ => weights(&header, &source, own, &place, &mut output),
        };
        written.map_err(|error| match error {
            PipeError::Read(source) => reading(source),
            PipeError::Write(source) => output.failed(source).into(),
        })?;
        let size = output.offset();
        output.finish()?;
        shards.push(Shard { name, size, tensors: own.len() });
    }
    Ok(shards)
}

/// The sizes of all tensors. One of an unknown type ends where the next begins.
fn sized<'a>(file: &Path, header: &'a GgufHeader) -> Result<Vec<Sized<'a>>, SplitError> {
    let mut tensors: Vec<&GgufTensor> = header.tensors.iter().collect();
    if tensors.is_empty() {
        return Err(SplitError::NoTensors(file.to_owned()));
    }
    tensors.sort_by_key(|tensor| tensor.offset);
    let size = |(n, tensor): (usize, &&'a GgufTensor)| {
        // An empty one can lie anywhere, also at the same place.
        let next = || tensors[n + 1..].iter().find(|next| next.size != Some(0));
        let to_next = || next().map(|next| next.offset - tensor.offset);
        let unknown =
            || SplitError::UnknownType { path: file.to_owned(), tensor: tensor.name.clone(), kind: tensor.kind };
        Ok((*tensor, tensor.size.or_else(to_next).ok_or_else(unknown)?))
    };
    tensors.iter().enumerate().map(size).collect()
}

/// Cuts at the borders of tensors: as many as go into `max_size`, and one at least.
fn cut<'a>(tensors: &[Sized<'a>], alignment: u64, max_size: u64) -> Vec<Vec<Sized<'a>>> {
    let mut parts: Vec<Vec<Sized<'a>>> = Vec::new();
    let (mut head, mut data) = (0, 0);
    for &(tensor, size) in tensors {
        let (info, padded) = (info_size(tensor), size.next_multiple_of(alignment));
        let whole = (head + info).next_multiple_of(alignment).saturating_add(data).saturating_add(padded);
        match parts.last_mut() {
            Some(part) if whole <= max_size => {
                part.push((tensor, size));
                (head, data) = (head + info, data + padded);
            }
            _ => {
                parts.push(vec![(tensor, size)]);
                (head, data) = (ShardPlace::default().head(alignment, 0).len() as u64 + info, padded);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::ops::Range;

    use super::super::gguf_shard::{U16, U32, beginning, key, text};
    use super::*;

    /// A tensor of the type I8, or of another that is a number a byte too.
    struct GivenTensor<'a>(&'a str, u32, Vec<u8>);

    fn string(name: &str, value: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        key(&mut bytes, name, 8, &[]);
        text(&mut bytes, value);
        bytes
    }

    /// A file of these keys and tensors, as other tools write it.
    fn gguf(keys: &[Vec<u8>], alignment: u64, tensors: &[GivenTensor<'_>]) -> Vec<u8> {
        let mut bytes = beginning(tensors.len() as u64, keys.len() as u64);
        bytes.extend(keys.concat());
        let (mut offset, mut data) = (0_u64, Vec::new());
        for GivenTensor(name, kind, content) in tensors {
            text(&mut bytes, name);
            bytes.extend(1_u32.to_le_bytes());
            bytes.extend((content.len() as u64).to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            data.extend(content);
            data.resize(data.len().next_multiple_of(alignment as usize), 0);
            offset = data.len() as u64;
        }
        bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
        bytes.extend(data);
        bytes
    }

    fn tensors(sizes: &[usize]) -> Vec<GivenTensor<'static>> {
        const NAMES: [&str; 5] = ["token_embd.weight", "blk.0.a", "blk.0.b", "blk.1.a", "output.weight"];
        let content = |n: usize, size: usize| (0..size).map(|i| (i * 7 + n * 31) as u8).collect();
        sizes.iter().enumerate().map(|(n, size)| GivenTensor(NAMES[n], 24, content(n, *size))).collect()
    }

    /// Splits a file, and gives back the shards by name.
    fn run(bytes: &[u8], max_size: u64) -> Result<BTreeMap<String, Vec<u8>>, SplitError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("whole.gguf");
        fs::write(&file, bytes).unwrap();
        let output = folder.path().join("out");
        fs::create_dir(&output).unwrap();
        let shards = split(&file, "m", &output, max_size, &Progress::new());
        let shards = shards.map_err(|error| {
            assert!(error.to_string().contains("whole.gguf"), "{error}");
            error
        })?;
        let read = |shard: &Shard| {
            let bytes = fs::read(output.join(&shard.name)).unwrap();
            assert_eq!(bytes.len() as u64, shard.size);
            assert_eq!(header(&bytes).tensors.len(), shard.tensors);
            (shard.name.clone(), bytes)
        };
        let read: BTreeMap<_, _> = shards.iter().map(read).collect();
        assert_eq!(fs::read_dir(&output).unwrap().count(), read.len());
        Ok(read)
    }

    fn header(bytes: &[u8]) -> GgufHeader {
        GgufHeader::read(io::Cursor::new(bytes)).unwrap()
    }

    /// The data of every tensor of a file.
    fn data(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let header = header(bytes);
        let of = |tensor: &GgufTensor| {
            let start = (header.data_start + tensor.offset) as usize;
            (tensor.name.clone(), bytes[start..start + tensor.elements as usize].to_vec())
        };
        header.tensors.iter().map(of).collect()
    }

    #[test]
    fn the_first_shard_has_every_key_and_the_others_every_tensor() {
        let array = [&9_u64.to_le_bytes()[..], b"tokenizer", &9_u32.to_le_bytes(), &0_u32.to_le_bytes()].concat();
        let array = [&array[..], &3_u64.to_le_bytes(), &[1, 2, 3]].concat();
        let keys = [string("general.architecture", "llama"), array, string("tokenizer.chat_template", "{{ x }}")];
        let source = gguf(&keys, 32, &tensors(&[300, 40, 64, 2_000_000, 5]));
        let shards = run(&source, 1000).unwrap();
        let names: Vec<&str> = shards.keys().map(String::as_str).collect();
        assert_eq!(names, [1, 2, 3, 4].map(|n| format!("m-0000{n}-of-00004.gguf")));
        let [first, rest @ ..] = &shards.values().collect::<Vec<_>>()[..] else { panic!() };

        let (whole, metadata) = (header(&source), header(first));
        assert_eq!((metadata.tensors.len(), metadata.size % 32), (0, 0));
        let of = |header: &GgufHeader, bytes: &[u8]| {
            let range = |range: &Range<u64>| bytes[range.start as usize..range.end as usize].to_vec();
            header.entries.iter().map(|entry| range(&entry.range)).collect::<Vec<_>>()
        };
        assert_eq!(of(&metadata, first)[..3], of(&whole, &source)[..]);
        for (n, shard) in shards.values().enumerate() {
            let own = header(shard).split().unwrap();
            assert_eq!((own.index, own.count, own.tensors), (n as u64, 4, Some(5)));
            assert!(n == 0 || header(shard).entries.len() == 3, "nothing but its place");
        }
        assert_eq!(rest.iter().flat_map(|shard| data(shard)).collect::<Vec<_>>(), data(&source));
        // Only one that has a single tensor is larger than was asked for.
        let sizes: Vec<_> = rest.iter().map(|shard| (shard.len() > 1000, header(shard).tensors.len())).collect();
        assert_eq!(sizes, [(false, 3), (true, 1), (false, 1)]);
        assert_eq!(run(&source, u64::MAX).unwrap().len(), 2);
    }

    #[test]
    fn tensors_are_the_same_files_whatever_describes_them() {
        for alignment in [32, 64, 4096] {
            let own = |template: &str| {
                let mut keys = vec![string("general.license", "mit"), string("tokenizer.chat_template", template)];
                if alignment != 32 {
                    let mut key_of = Vec::new();
                    key(&mut key_of, "general.alignment", U32, &(alignment as u32).to_le_bytes());
                    keys.push(key_of);
                }
                run(&gguf(&keys, alignment, &tensors(&[100, 200, 300])), 500 + 3 * alignment).unwrap()
            };
            let (one, other) = (own("{{ a }}"), own(&"a much longer one".repeat(1000)));
            assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
            let differ: Vec<bool> = one.values().zip(other.values()).map(|(one, other)| one != other).collect();
            assert!(differ.len() > 2 && differ[0] && !differ[1..].contains(&true), "{differ:?}");
            let aligned = |bytes: &Vec<u8>| header(bytes).alignment == alignment;
            assert!(one.values().all(aligned), "{alignment}");
        }
    }

    #[test]
    fn a_tensor_of_an_unknown_type_ends_where_the_next_begins() {
        let mut given = tensors(&[64, 32, 96]);
        given[1].1 = 999;
        let shards = run(&gguf(&[], 32, &given), u64::MAX).unwrap();
        let (given, got) = (data(&gguf(&[], 32, &given)), data(shards.values().next_back().unwrap()));
        assert_eq!(got, given);
        let mut last = tensors(&[64, 32]);
        last[1].1 = 999;
        let error = run(&gguf(&[], 32, &last), u64::MAX).unwrap_err();
        assert!(matches!(error, SplitError::UnknownType { kind: 999, .. }), "{error}");
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        let shards = run(&gguf(&[string("general.name", "m")], 32, &tensors(&[10, 20])), u64::MAX).unwrap();
        for (n, shard) in shards.values().enumerate() {
            let error = run(shard, u64::MAX).unwrap_err();
            assert!(matches!(error, SplitError::AlreadySplit { number, count: 2, .. } if number == n as u64 + 1));
        }
        assert!(matches!(run(&gguf(&[], 32, &[]), 1), Err(SplitError::NoTensors(_))));
        let page = run(b"<!DOCTYPE html><html>", 1).unwrap_err();
        assert!(matches!(page, SplitError::Model(InspectError::NotAModel { .. })), "{page}");
        let whole = gguf(&[], 32, &tensors(&[10, 20]));
        assert!(matches!(run(&whole[..whole.len() - 33], 1), Err(SplitError::Model(_))));
    }

    #[test]
    fn the_keys_of_a_split_of_one_are_written_anew() {
        let number = |name: &str, kind, bytes: &[u8]| {
            let mut own = Vec::new();
            key(&mut own, name, kind, bytes);
            own
        };
        let keys = [number("split.no", U16, &[0, 0]), string("general.name", "m"), number("split.count", U16, &[1, 0])];
        let source = gguf(&keys, 32, &tensors(&[10, 20]));
        assert_eq!(header(&source).split().map(|split| split.count), Some(1));
        let first = run(&source, u64::MAX).unwrap().into_values().next().unwrap();
        let keys: Vec<_> = header(&first).entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["general.name", "split.no", "split.count", "split.tensors.count"]);
    }
}
