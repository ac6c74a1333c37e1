//! GGUF files as other tools write them, small or as large as they say they are.

/// Bytes of one tensor's data, by its place among the tensors.
fn data(n: usize, size: u64) -> impl Iterator<Item = u8> {
    let mut state = 0x9e37_79b9_u64.wrapping_mul(n as u64 + 1);
    (0..size).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The header of a file with tensors of these sizes, up to where their data begin, and all sizes together.
pub(crate) fn header(template: &str, sizes: &[u64]) -> (Vec<u8>, u64) {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((sizes.len() as u64).to_le_bytes());
    let keys = [
        ("general.architecture", "llama"),
        ("general.name", "Tiny"),
        ("general.license", "apache-2.0"),
        ("tokenizer.chat_template", template),
    ];
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (name, value) in keys {
        text(&mut bytes, name);
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, value);
    }
    let mut offset = 0_u64;
    for (n, size) in sizes.iter().enumerate() {
        text(&mut bytes, &format!("blk.{n}.weight"));
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        // One byte a number.
        bytes.extend(24_u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += size.next_multiple_of(32);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    (bytes, offset)
}

/// A file with tensors of these sizes.
pub(crate) fn gguf(template: &str, sizes: &[u64]) -> Vec<u8> {
    let (mut bytes, _) = header(template, sizes);
    for (n, size) in sizes.iter().enumerate() {
        bytes.extend(data(n, *size));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
    }
    bytes
}
