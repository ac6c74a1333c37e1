//! Headers of safetensors files: the data fill the rest of the file, and every byte is read once at most.

use windlass::internals::model::read::safetensors::{SafetensorsHeader, bits};

use super::gguf::read;

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let Some(header) = read(data, |from| SafetensorsHeader::read(from)) else { return false };
    assert!(header.data_start <= header.size && header.size == data.len() as u64);
    let known = header.elements.iter().filter_map(|(kind, count)| Some(u128::from(*count) * u128::from(bits(kind)?)));
    // There may be more tensors of types that are not known: they have the rest.
    let needed = known.sum::<u128>() / 8;
    assert!(needed <= u128::from(header.size - header.data_start), "{needed} bytes of numbers in {header:?}");
    true
}
