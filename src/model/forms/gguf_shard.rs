//! What a shard of a GGUF file begins with, and how its bytes are written.

use std::fs::File;
use std::ops::Range;

use crate::disk::pipe::PipeError;
use crate::layer::Sink;
use crate::layer::output::Output;
use crate::model::read::gguf::{GgufHeader, GgufTensor, MAGIC};

/// The alignment that readers take where `general.alignment` is not there.
const ALIGNMENT: u64 = 32;
/// Numbers of the kinds of values in the format.
pub(super) const U16: u32 = 2;
pub(super) const U32: u32 = 4;
const I32: u32 = 5;

/// A tensor and the bytes of its data, in the order in which these lie.
pub(super) type Sized<'a> = (&'a GgufTensor, u64);

/// What a shard says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ShardPlace {
    pub(super) index: u16,
    pub(super) count: u16,
    pub(super) tensors: u32,
}

impl ShardPlace {
    /// How many keys it writes.
    const KEYS: u64 = 3;

    fn write_keys(&self, bytes: &mut Vec<u8>) {
        key(bytes, "split.no", U16, &self.index.to_le_bytes());
        key(bytes, "split.count", U16, &self.count.to_le_bytes());
        key(bytes, "split.tensors.count", I32, &self.tensors.to_le_bytes());
    }

    /// The beginning of a shard of tensors, up to their entries.
    pub(super) fn head(&self, alignment: u64, tensors: u64) -> Vec<u8> {
        let mut bytes = beginning(tensors, Self::KEYS + u64::from(alignment != ALIGNMENT));
        if alignment != ALIGNMENT {
            key(&mut bytes, "general.alignment", U32, &u32::try_from(alignment).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.write_keys(&mut bytes);
        bytes
    }
}

/// The beginning of a file. Version 3 has the layout of version 2.
pub(super) fn beginning(tensors: u64, keys: u64) -> Vec<u8> {
    [&MAGIC[..], &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

pub(super) fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

pub(super) fn key(bytes: &mut Vec<u8>, name: &str, kind: u32, value: &[u8]) {
    text(bytes, name);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
}

/// Bytes of a tensor's entry: its name, rank, dimensions, type and offset.
pub(super) fn info_size(tensor: &GgufTensor) -> u64 {
    (8 + tensor.name.len() + 4 + 8 * tensor.dims.len() + 4 + 8) as u64
}

/// The first shard: every key as it is, and no tensor.
pub(super) fn metadata(
    header: &GgufHeader,
    source: &File,
    place: &ShardPlace,
    output: &mut Output<'_>,
) -> Result<(), PipeError> {
    let kept = || header.entries.iter().filter(|entry| !entry.key.starts_with("split."));
    output.bytes(&beginning(0, kept().count() as u64 + ShardPlace::KEYS)).map_err(PipeError::Write)?;
    for entry in kept() {
        let Range { start, end } = entry.range;
        output.range(source, start, end - start)?;
    }
    let mut own = Vec::new();
    place.write_keys(&mut own);
    output.bytes(&own).map_err(PipeError::Write)?;
    pad(header.alignment, output)
}

/// A shard of tensors.
pub(super) fn weights(
    header: &GgufHeader,
    source: &File,
    tensors: &[Sized<'_>],
    place: &ShardPlace,
    output: &mut Output<'_>,
) -> Result<(), PipeError> {
    let mut bytes = place.head(header.alignment, tensors.len() as u64);
    let mut offset = 0_u64;
    for (tensor, size) in tensors {
        text(&mut bytes, &tensor.name);
        bytes.extend(u32::try_from(tensor.dims.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(tensor.dims.iter().flat_map(|dimension| dimension.to_le_bytes()));
        bytes.extend(tensor.kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += size.next_multiple_of(header.alignment);
    }
    output.bytes(&bytes).map_err(PipeError::Write)?;
    pad(header.alignment, output)?;
    for (tensor, size) in tensors {
        output.range(source, header.data_start + tensor.offset, *size)?;
        pad(header.alignment, output)?;
    }
    Ok(())
}

fn pad(alignment: u64, output: &mut Output<'_>) -> Result<(), PipeError> {
    let missing = output.offset().next_multiple_of(alignment) - output.offset();
    output.bytes(&vec![0; usize::try_from(missing).unwrap_or(0)]).map_err(PipeError::Write)
}
