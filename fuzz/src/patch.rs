//! Patches of layers: what is taken gives as many bytes as its first line says, from the old layer and from itself; and a patch
//! that is made of these bytes gives the same ones. The input is a patch before it is compressed.

use std::io::{self, Cursor, Read, Write};

use serde_json::Value;
use windlass::internals::disk::progress::Progress;
use windlass::internals::layer::Sink;
use windlass::internals::layer::patch::{OldBlocks, OldBytes, OldLayer, PatchWriter, PatchedLayer};
use windlass::internals::oci::compression::Compression;
use windlass::internals::oci::digest::Digest;

/// More than this a layer of the input does not have: what is tried is the reader, not the memory.
const LARGEST: u64 = 256 * 1024;

struct Old(Vec<u8>);

impl OldBytes for Old {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let begin = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = begin.checked_add(buffer.len()).and_then(|end| self.0.get(begin..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The old layer of every patch: eight blocks, no two alike.
fn old() -> Vec<u8> {
    (0..8_u8).flat_map(|block| [block; 512]).collect()
}

fn apply(patch: Vec<u8>, layer: (Digest, u64)) -> io::Result<Vec<u8>> {
    let mut find = |_| -> io::Result<Box<dyn OldBytes>> { Ok(Box::new(Old(old()))) };
    let mut bytes = Vec::new();
    PatchedLayer::new(Box::new(Cursor::new(patch)), layer, &mut find)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let mut packed = Compression::Zstd.encoder(Vec::new()).expect("zstd begins");
    packed.write_all(data).expect("memory takes all");
    let packed = packed.finish().expect("memory takes all");
    // The reader knows the layer from its manifest; here it is believed.
    let first = data.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let said: Value = serde_json::from_slice(first).unwrap_or_default();
    let layer = said["layer"].as_str().and_then(|text| text.parse::<Digest>().ok()).zip(said["size"].as_u64());
    let Some((digest, size)) = layer.filter(|(_, size)| *size <= LARGEST) else { return false };
    assert!(apply(packed.clone(), (digest, size + 1)).is_err(), "another size was taken");
    let Ok(bytes) = apply(packed, (digest, size)) else { return false };
    assert_eq!(bytes.len() as u64, size);

    let (mut blocks, progress) = (OldBlocks::default(), Progress::new());
    OldLayer(&mut blocks, &progress).bytes(&old()).expect("blocks are counted");
    blocks.end_layer(Digest::of(&old()));
    let layer = (Digest::of(&bytes), size);
    let mut writer = PatchWriter::new(&blocks, layer, Vec::new(), &progress).expect("memory takes all");
    bytes.chunks(700).for_each(|chunk| writer.bytes(chunk).expect("memory takes all"));
    assert_eq!(apply(writer.finish().expect("memory takes all"), layer).expect("what was written is read"), bytes);
    true
}
