//! Headers of GGUF files, and the splitting of such a file: tensors lie inside, aligned, and over no other; every byte is
//! read once at most; what is split has the same tensors.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::rc::Rc;

use windlass::internals::disk::progress::Progress;
use windlass::internals::model::forms::gguf_split::split;
use windlass::internals::model::read::cursor::HeaderError;
use windlass::internals::model::read::facts::Facts;
use windlass::internals::model::read::gguf::GgufHeader;

/// Counts the bytes that are read of an input.
pub(super) struct Counted<'a> {
    inner: Cursor<&'a [u8]>,
    count: Rc<Cell<usize>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.count.set(self.count.get() + bytes);
        Ok(bytes)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Reads one header: every byte once at most, and a place in the file if it fails.
pub(super) fn read<T>(bytes: &[u8], reader: impl Fn(Counted<'_>) -> Result<T, HeaderError>) -> Option<T> {
    let count = Rc::new(Cell::new(0));
    let answer = reader(Counted { inner: Cursor::new(bytes), count: Rc::clone(&count) });
    assert!(count.get() <= bytes.len(), "{} bytes read of {}", count.get(), bytes.len());
    if let Err(error) = &answer {
        assert!(error.offset() <= bytes.len() as u64, "{error}");
    }
    answer.ok()
}

/// What is told of a model is a line of text.
pub(super) fn known(facts: &Facts) {
    for text in [&facts.name, &facts.architecture, &facts.vendor, &facts.source, &facts.version].into_iter().flatten() {
        assert!(!text.is_empty() && text.chars().count() <= 256 && !text.chars().any(char::is_control), "{text:?}");
    }
    if let Some(licence) = &facts.licence {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-() ".contains(&byte);
        assert!(!licence.is_empty() && licence.bytes().all(allowed), "{licence:?}");
    }
}

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let Some(header) = read(data, |from| GgufHeader::read(from)) else { return false };
    let size = data.len() as u64;
    let mut end = 24;
    for entry in &header.entries {
        assert!(entry.range.start == end && entry.value_start > end && entry.range.end >= entry.value_start);
        end = entry.range.end;
    }
    assert!(end == header.tensors_start && end <= size && header.size == size);
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for tensor in &header.tensors {
        assert!(tensor.offset % header.alignment == 0, "{tensor:?}");
        let bytes = tensor.size.unwrap_or(0);
        let end = header.data_start.checked_add(tensor.offset).and_then(|start| start.checked_add(bytes));
        assert!(tensor.size.is_none() || end.is_some_and(|end| end <= size), "{tensor:?} ends behind {size}");
        spans.extend(tensor.size.filter(|bytes| *bytes > 0).map(|bytes| (tensor.offset, tensor.offset + bytes)));
    }
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "tensors over each other: {spans:?}");
    let total: u64 = spans.iter().map(|(start, end)| end - start).sum();
    assert!(total <= size, "{total} bytes of tensors in a file of {size}");
    known(&header.facts());
    splits(data, &header);
    true
}

/// What is split into shards has the tensors of the whole, with their bytes.
fn splits(data: &[u8], header: &GgufHeader) {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.gguf");
    fs::write(&whole, data).unwrap();
    // Room for a tensor or two, so that there is something to split.
    let Ok(shards) = split(&whole, "part", dir.path(), 256, &Progress::new()) else { return };
    let content = |bytes: &[u8], header: &GgufHeader| {
        let data = usize::try_from(header.data_start).unwrap();
        let one = |tensor: &windlass::internals::model::read::gguf::GgufTensor| {
            let start = data + usize::try_from(tensor.offset).unwrap();
            let bytes = tensor.size.map(|size| bytes[start..start + usize::try_from(size).unwrap()].to_vec());
            (tensor.name.clone(), (tensor.dims.clone(), tensor.kind, bytes))
        };
        header.tensors.iter().map(one).collect::<BTreeMap<_, _>>()
    };
    let mut parts = BTreeMap::new();
    for shard in &shards {
        let bytes = fs::read(dir.path().join(&shard.name)).unwrap();
        let part = GgufHeader::read(Cursor::new(&bytes)).unwrap();
        assert_eq!((bytes.len() as u64, part.tensors.len()), (shard.size, shard.tensors), "{}", shard.name);
        assert_eq!(part.split().map(|split| split.count), Some(shards.len() as u64), "{}", shard.name);
        parts.extend(content(&bytes, &part));
    }
    assert_eq!(parts, content(data, header));
}
