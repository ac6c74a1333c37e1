//! Headers of GGUF files: what a model says of itself, and where its tensors lie.
//!
//! ```text
//! "GGUF"  u32 version   u64 tensors   u64 keys          version 2 or 3, all little-endian
//! key:    string name   u32 kind      value             a string is u64 bytes and the bytes
//! tensor: string name   u32 n, u64 × n   u32 type   u64 offset of its data
//! padding to the alignment; the data of the tensors, each at a multiple of the alignment
//! ```
//!
//! Lists (a vocabulary of 150 000 words) are gone over, not kept: a header is read in one pass, in memory that no number
//! of the file decides. Whatever is kept has a limit, and what is above it is refused ([`GgufHeader::read`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::ops::Range;

use super::cursor::{FileCursor, HeaderError};
use super::facts::Facts;
use super::ggml;
use super::gguf_facts::facts_of;
use super::gguf_values::{self as values, GgufKind, GgufValue};

/// The first bytes of every GGUF file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
/// Keys that a header may have.
pub(crate) const MAX_KEYS: u64 = 1 << 16;
/// Tensors that a file may have.
pub(crate) const MAX_TENSORS: u64 = 1 << 16;
/// Bytes of a key, by the format.
pub(crate) const MAX_KEY: u64 = 65_535;
/// Bytes of a tensor's name. llama.cpp has a smaller limit, see [`GgufHeader::limits`]; stable-diffusion.cpp writes longer ones.
pub(crate) const MAX_TENSOR_NAME: u64 = 65_535;
/// Bytes of text, names and values, that are kept of one header.
pub(crate) const MAX_KEPT: u64 = 16 << 20;
/// The largest alignment.
pub(crate) const MAX_ALIGNMENT: u64 = 1 << 20;
/// The alignment of a file that names none.
const ALIGNMENT: u64 = 32;
/// Dimensions of a tensor that are read.
const MAX_DIMENSIONS: u32 = 64;
/// ggml's limits (`GGML_MAX_NAME`, with the zero at the end, and `GGML_MAX_DIMS`), which the format does not have.
const GGML_NAME: usize = 64;
const GGML_DIMENSIONS: usize = 4;
/// Bytes that a key and its value have at least: its length and a byte, its kind, and a value of one byte.
const MIN_ENTRY: u64 = 8 + 1 + 4 + 1;
/// Bytes that a tensor's entry has at least: the length of its name, no dimension, its type, its offset.
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;

/// A key and what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufEntry {
    /// Its name: `general.architecture`.
    pub key: String,
    /// The bytes of its name, kind and value in the file.
    pub range: Range<u64>,
    /// Where its value begins, after its kind; `range.end` is where it ends.
    pub value_start: u64,
    /// What it says.
    pub value: GgufValue,
}

/// A tensor, and where its data lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name: `blk.0.attn_k.weight`.
    pub name: String,
    /// Its dimensions, the one that lies together in memory first.
    pub dims: Vec<u64>,
    /// The number of its type; see [`ggml::tensor_type`].
    pub kind: u32,
    /// Where its data begin, from the start of all data.
    pub offset: u64,
    /// How many numbers it holds.
    pub elements: u64,
    /// Bytes of its data; `None` if its type is not known.
    pub size: Option<u64>,
}

/// What a split file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufSplit {
    /// `split.no`: which shard it is; the first is 0.
    pub(crate) index: u64,
    /// `split.count`: how many there are.
    pub count: u64,
    /// `split.tensors.count`: how many tensors all of them have together.
    pub(crate) tensors: Option<u64>,
}

/// The header of a GGUF file, checked: keys and tensors have names of their own, and every tensor whose length is known
/// lies inside the file, aligned, and over no other.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// 2 or 3.
    pub version: u32,
    /// What the offsets of tensors are multiples of.
    pub alignment: u64,
    /// The keys, in the order of the file.
    pub entries: Vec<GgufEntry>,
    /// Where the entries of the tensors begin.
    pub tensors_start: u64,
    /// The tensors, in the order of the file.
    pub tensors: Vec<GgufTensor>,
    /// Where the data of the tensors begin.
    pub data_start: u64,
    /// The length of the file.
    pub size: u64,
}

impl GgufHeader {
    /// Reads a header, and no data.
    ///
    /// # Errors
    /// If it is another format, is damaged, promises more than the file has, or is above one of the limits of this module.
    pub fn read<R: Read + Seek>(reader: R) -> Result<Self, HeaderError> {
        let mut cursor = FileCursor::new(reader)?;
        let from = &mut cursor;
        let version = begin(from)?;
        let tensor_count = from.u64(format_args!("the number of tensors"))?;
        let key_count = from.u64(format_args!("the number of keys"))?;
        let least = tensor_count.saturating_mul(MIN_TENSOR).saturating_add(key_count.saturating_mul(MIN_ENTRY));
        from.need(least, format_args!("its header"))?;
        counted(8, tensor_count, MAX_TENSORS, "tensors")?;
        counted(16, key_count, MAX_KEYS, "keys")?;
        let mut room = values::Room::new();
        let entries = (0..key_count).map(|n| entry(from, n, &mut room)).collect::<Result<Vec<_>, _>>()?;
        unique(entries.iter().map(|entry| (entry.key.as_str(), entry.range.start)), "key")?;
        let alignment = alignment(&entries)?;
        let tensors_start = from.position();
        let mut starts = Vec::new();
        let mut tensors = Vec::new();
        for n in 0..tensor_count {
            starts.push(from.position());
            tensors.push(tensor(from, n, alignment, &mut room)?);
        }
        unique(tensors.iter().zip(&starts).map(|(tensor, at)| (tensor.name.as_str(), *at)), "tensor")?;
        let data_start = from.position().next_multiple_of(alignment);
        let header = Self { version, alignment, entries, tensors_start, tensors, data_start, size: from.size() };
        header.check_data(&starts)?;
        Ok(header)
    }

    /// What a key says.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// What a key says, if it is text that was kept.
    #[must_use]
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            GgufValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What a key says, if it is a whole number and not negative.
    #[must_use]
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            GgufValue::Unsigned(number) => Some(*number),
            GgufValue::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// What it says of being one of several files; `None` if it is whole.
    #[must_use]
    pub fn split(&self) -> Option<GgufSplit> {
        let (index, count) = (self.number("split.no")?, self.number("split.count")?);
        Some(GgufSplit { index, count, tensors: self.number("split.tensors.count") })
    }

    /// How many numbers of each type its tensors hold.
    #[must_use]
    pub(crate) fn elements(&self) -> BTreeMap<u32, u64> {
        let mut elements = BTreeMap::new();
        for tensor in &self.tensors {
            *elements.entry(tensor.kind).or_default() += tensor.elements;
        }
        elements
    }

    /// What it says of a model that is this one file.
    #[must_use]
    pub fn facts(&self) -> Facts {
        facts_of(self, &self.elements())
    }

    /// What the format allows and ggml does not load, each a sentence without its subject.
    #[must_use]
    pub(crate) fn limits(&self) -> Vec<String> {
        let mut limits = Vec::new();
        let mut limit = |found: Option<(&GgufTensor, String)>| {
            if let Some((tensor, what)) = found {
                let name: String = tensor.name.chars().take(100).collect();
                limits
                    .push(format!("tensor '{name}' has {what}: llama.cpp does not load the file; other programs may"));
            }
        };
        let long = self.tensors.iter().find(|tensor| tensor.name.len() >= GGML_NAME);
        limit(long.map(|tensor| {
            (tensor, format!("a name of {} bytes, and ggml takes fewer than {GGML_NAME}", tensor.name.len()))
        }));
        let deep = self.tensors.iter().find(|tensor| tensor.dims.len() > GGML_DIMENSIONS);
        limit(deep.map(|tensor| {
            (tensor, format!("{} dimensions, and ggml takes {GGML_DIMENSIONS} at most", tensor.dims.len()))
        }));
        if !self.alignment.is_power_of_two() {
            let alignment = self.alignment;
            limits.push(format!(
                "general.alignment is {alignment}, which is not a power of two: llama.cpp does not load the file; other programs may"
            ));
        }
        limits
    }

    /// That the data of all tensors are in the file, and apart from each other.
    fn check_data(&self, starts: &[u64]) -> Result<(), HeaderError> {
        let (mut numbers, mut last) = (0_u64, None::<&GgufTensor>);
        for (tensor, at) in self.tensors.iter().zip(starts) {
            let sum = numbers.checked_add(tensor.elements);
            numbers =
                sum.ok_or_else(|| HeaderError::invalid(*at, "all tensors hold more numbers than 64 bits count"))?;
            if last.is_none_or(|last| self.end_of(tensor) > self.end_of(last)) {
                last = Some(tensor);
            }
        }
        if let Some(last) = last
            && let Some(missing) = self.end_of(last).checked_sub(u128::from(self.size))
            && missing > 0
        {
            let missing = u64::try_from(missing).unwrap_or(u64::MAX);
            let what = format!("the data of its tensors, of which '{}' is the last", last.name);
            return Err(HeaderError::Truncated { what, size: self.size, missing });
        }
        let mut order: Vec<(&GgufTensor, u64)> = self.tensors.iter().zip(starts.iter().copied()).collect();
        order.sort_by_key(|(tensor, _)| tensor.offset);
        let mut end = (0, "");
        for (tensor, at) in order.into_iter().filter(|(tensor, _)| tensor.size != Some(0)) {
            if tensor.offset < end.0 {
                let message = format!("the data of tensor '{}' lie over those of tensor '{}'", tensor.name, end.1);
                return Err(HeaderError::invalid(at, message));
            }
            // At least one byte, if the type is not known.
            end = (tensor.offset + tensor.size.unwrap_or(1), &tensor.name);
        }
        Ok(())
    }

    /// Where the data of a tensor end in the file.
    fn end_of(&self, tensor: &GgufTensor) -> u128 {
        u128::from(self.data_start) + u128::from(tensor.offset) + u128::from(tensor.size.unwrap_or(0))
    }
}

/// The magic and the version.
fn begin<R: Read + Seek>(from: &mut FileCursor<R>) -> Result<u32, HeaderError> {
    let mut magic = [0; 4];
    from.fill(&mut magic, format_args!("its first four bytes"))?;
    if magic != MAGIC {
        return Err(HeaderError::Unsupported { offset: 0, message: "this is no GGUF file".to_owned() });
    }
    let version = from.u32(format_args!("its version"))?;
    let unsupported = |message: String| Err(HeaderError::Unsupported { offset: 4, message });
    match version {
        2 | 3 => Ok(version),
        1 => unsupported("GGUF version 1, which nothing reads any more: convert the model again".to_owned()),
        _ if version.trailing_zeros() >= 16 => unsupported(
            "the file is big-endian, and llama.cpp reads such files on big-endian machines only: get the little-endian \
             one, or convert it with gguf_convert_endian.py"
                .to_owned(),
        ),
        _ => unsupported(format!("GGUF version {version}, and only 2 and 3 are known: a newer windlass may know it")),
    }
}

fn counted(offset: u64, count: u64, limit: u64, what: &str) -> Result<(), HeaderError> {
    match count <= limit {
        true => Ok(()),
        false => Err(HeaderError::too_much(offset, format!("{count} {what}, and no more than {limit} are read"))),
    }
}

/// That no name is there twice.
fn unique<'a>(names: impl Iterator<Item = (&'a str, u64)>, what: &str) -> Result<(), HeaderError> {
    let mut seen = BTreeSet::new();
    for (name, at) in names {
        if !seen.insert(name) {
            return Err(HeaderError::invalid(at, format!("{what} '{name}' is there twice")));
        }
    }
    Ok(())
}

fn entry<R: Read + Seek>(from: &mut FileCursor<R>, n: u64, room: &mut values::Room) -> Result<GgufEntry, HeaderError> {
    let start = from.position();
    let key = values::name(from, MAX_KEY, room, format_args!("the name of key {n}"))?;
    if key.is_empty() {
        return Err(HeaderError::invalid(start, format!("key {n} has no name")));
    }
    let at = from.position();
    let number = from.u32(format_args!("the kind of key '{key}'"))?;
    let kind = GgufKind::from_number(number);
    let kind = kind.ok_or_else(|| HeaderError::invalid(at, format!("key '{key}' is of an unknown kind, {number}")))?;
    let value_start = from.position();
    let value = values::value(from, kind, &key, room)?;
    Ok(GgufEntry { key, range: start..from.position(), value_start, value })
}

fn alignment(entries: &[GgufEntry]) -> Result<u64, HeaderError> {
    let Some(entry) = entries.iter().find(|entry| entry.key == "general.alignment") else { return Ok(ALIGNMENT) };
    match entry.value {
        GgufValue::Unsigned(number) if number > MAX_ALIGNMENT => Err(HeaderError::too_much(
            entry.value_start,
            format!("general.alignment is {number}, and no more than {MAX_ALIGNMENT} is read"),
        )),
        GgufValue::Unsigned(number) if number.is_power_of_two() || (number > 0 && number.is_multiple_of(8)) => {
            Ok(number)
        }
        _ => Err(HeaderError::invalid(
            entry.value_start,
            format!("general.alignment is not a multiple of 8: {}", entry.value),
        )),
    }
}

fn tensor<R: Read + Seek>(
    from: &mut FileCursor<R>,
    n: u64,
    alignment: u64,
    room: &mut values::Room,
) -> Result<GgufTensor, HeaderError> {
    let start = from.position();
    let invalid = |message| HeaderError::invalid(start, message);
    let name = values::name(from, MAX_TENSOR_NAME, room, format_args!("the name of tensor {n}"))?;
    let rank = from.u32(format_args!("tensor '{name}'"))?;
    if rank > MAX_DIMENSIONS {
        let message = format!("tensor '{name}' has {rank} dimensions, and no more than {MAX_DIMENSIONS} are read");
        return Err(HeaderError::too_much(start, message));
    }
    let dims = (0..rank).map(|_| from.u64(format_args!("tensor '{name}'"))).collect::<Result<Vec<_>, _>>()?;
    let kind = from.u32(format_args!("tensor '{name}'"))?;
    let offset = from.u64(format_args!("tensor '{name}'"))?;
    let elements = dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
    let elements =
        elements.ok_or_else(|| invalid(format!("tensor '{name}' holds more numbers than 64 bits count: {dims:?}")))?;
    let size = match ggml::tensor_type(kind) {
        None => None,
        Some(known) => {
            let row = dims.first().copied().unwrap_or(1);
            if !row.is_multiple_of(known.block) {
                let message = format!(
                    "tensor '{name}' has rows of {row} numbers, and {} comes in blocks of {}",
                    known.name, known.block
                );
                return Err(invalid(message));
            }
            let size = (elements / known.block).checked_mul(known.bytes);
            Some(size.ok_or_else(|| invalid(format!("tensor '{name}' has more bytes than 64 bits count")))?)
        }
    };
    if !offset.is_multiple_of(alignment) {
        return Err(invalid(format!("the data of tensor '{name}' are at {offset}, no multiple of {alignment}")));
    }
    if offset.checked_add(size.unwrap_or(0).max(1)).is_none() {
        return Err(invalid(format!("the data of tensor '{name}' are at {offset}, behind the end of any file")));
    }
    Ok(GgufTensor { name, dims, kind, offset, elements, size })
}
