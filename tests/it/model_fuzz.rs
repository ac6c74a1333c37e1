//! Readers of models' files against damage and malice: no panic, little memory, an end, and errors that name a place
//! inside the file.
//!
//! Each target takes turns of changing an input that it knows and reading the result. An input that is answered in words
//! not seen before is kept and changed further, so that the changes get behind the first check. Case N of a target is the
//! same in every run; how many cases there are depends on the time, which WINDLASS_FUZZ_SECONDS sets for each.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use windlass::model::cursor::HeaderError;
use windlass::model::facts::Facts;
use windlass::model::inspect::inspect;
use windlass::model::shards::ShardName;
use windlass::model::sniff::sniff;
use windlass::model::{gguf, licence, safetensors};
use windlass::progress::Progress;

use crate::env::Env;
use crate::model_writer::{Gguf, Said, everything, safetensors as tensors};

/// Bytes that an input grows to.
const LARGEST: usize = 16 << 10;
/// KiB that a target may need more than at its start, kept inputs and all.
const MEMORY: u64 = 64 << 10;

/// Numbers that look random and are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end as u64).max(1)).unwrap()
    }

    /// A number that readers stumble over.
    fn number(&mut self, length: usize) -> u64 {
        const LOVED: [u64; 14] = [
            0,
            1,
            2,
            8,
            255,
            65_535,
            0x7fff_ffff,
            0xffff_ffff,
            0x1_0000_0000,
            1 << 40,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 7,
            u64::MAX,
        ];
        match self.below(4) {
            0 => length as u64,
            1 => self.next() % 64,
            _ => LOVED[self.below(LOVED.len())],
        }
    }
}

/// One change.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let length = bytes.len();
    let at = random.below(length + 1);
    let end = (at + 1 + random.below(32)).min(length);
    match random.below(10) {
        0 | 1 if at < length => bytes[at] ^= 1 << random.below(8),
        2 if at < length => bytes[at] = random.next().to_le_bytes()[0],
        3 | 4 => {
            let number = random.number(length).to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            let part = number.iter().take(width).take(length - at);
            part.enumerate().for_each(|(n, byte)| bytes[at + n] = *byte);
        }
        5 => bytes.truncate(at),
        6 if at < end => drop(bytes.drain(at..end)),
        7 if at < end => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        8 => {
            let from = random.below(other.len());
            let until = (from + 1 + random.below(64)).min(other.len());
            bytes.splice(at..at, other[from..until].iter().copied());
        }
        _ => {
            // Of texts: another number in the place of one.
            let digit = |byte: &u8| byte.is_ascii_digit();
            if let Some(from) = bytes[at..].iter().position(digit).map(|n| at + n) {
                let until = bytes[from..].iter().position(|byte| !digit(byte)).map_or(length, |n| from + n);
                bytes.splice(from..until, random.number(length).to_string().into_bytes());
            }
        }
    }
    bytes.truncate(LARGEST);
}

/// KiB that the process had at most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Runs `target` until the time is over. It gives back what it was told, and has panicked if that cannot be.
fn fuzz(name: &str, seeds: Vec<Vec<u8>>, mut target: impl FnMut(&[u8]) -> String) {
    let seconds = std::env::var("WINDLASS_FUZZ_SECONDS").map_or(3, |text| text.parse().unwrap());
    let (start, before) = (Instant::now(), peak());
    let mut told = BTreeSet::new();
    let mut kept = seeds.clone();
    let mut case = 0_u64;
    while start.elapsed() < Duration::from_secs(seconds) {
        let mut random = Random(case);
        let mut bytes = match usize::try_from(case) {
            Ok(n) if n < seeds.len() => seeds[n].clone(),
            _ => {
                let mut bytes = kept[random.below(kept.len())].clone();
                for _ in 0..=random.below(4) {
                    let other = kept[random.below(kept.len())].clone();
                    change(&mut bytes, &other, &mut random);
                }
                bytes
            }
        };
        let began = Instant::now();
        let answer = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        let took = began.elapsed();
        if answer.is_err() || took > Duration::from_secs(10) {
            let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{case}"));
            std::fs::write(&file, &bytes).unwrap();
            panic!("{name}: case {case} failed, after {took:?}: {}", file.display());
        }
        // The words of an answer without its numbers and names.
        let words = answer.unwrap().split(['\'', '"']).step_by(2).collect::<String>();
        let words: String = words.chars().filter(|c| !c.is_ascii_digit()).take(120).collect();
        if kept.len() < 500 && told.insert(words) {
            bytes.shrink_to_fit();
            kept.push(bytes);
        }
        case += 1;
    }
    let grown = peak() - before;
    assert!(grown < MEMORY, "{name}: {grown} KiB after {case} cases");
    assert!(case > 100 * seconds, "{name}: {case} cases in {seconds} s");
    assert!(told.len() > 10, "{name}: {} answers in {case} cases, and all are {told:?}", told.len());
}

/// Counts the bytes that are read of an input.
struct Counted {
    inner: Cursor<Vec<u8>>,
    count: Rc<Cell<usize>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.count.set(self.count.get() + bytes);
        Ok(bytes)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Reads one header: every byte once at most, and a place in the file if it fails.
fn read<T>(bytes: &[u8], reader: impl Fn(Counted) -> Result<T, HeaderError>) -> Result<T, String> {
    let count = Rc::new(Cell::new(0));
    let answer = reader(Counted { inner: Cursor::new(bytes.to_vec()), count: Rc::clone(&count) });
    assert!(count.get() <= bytes.len(), "{} bytes read of {}", count.get(), bytes.len());
    answer.map_err(|error| {
        assert!(error.offset() <= bytes.len() as u64, "{error}");
        error.to_string()
    })
}

fn known(facts: &Facts) {
    for text in [&facts.name, &facts.architecture, &facts.vendor, &facts.source, &facts.version].into_iter().flatten() {
        assert!(!text.is_empty() && text.chars().count() <= 256 && !text.chars().any(char::is_control), "{text:?}");
    }
    if let Some(licence) = &facts.licence {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-() ".contains(&byte);
        assert!(!licence.is_empty() && licence.bytes().all(allowed), "{licence:?}");
    }
}

#[test]
fn headers_of_gguf() {
    let small = Gguf::model().tensor("a", &[32], 2, 18);
    let shard = Gguf::model().shard(0, 2, 2).tensor("a", &[4], 0, 16);
    let list = Gguf::new(2).key("list", Said::Texts(&["x", "", "yz"]));
    // More numbers than can be counted, of a type that nobody knows the size of.
    let huge = Gguf::model().tensor("a", &[1 << 63], 250, 0).tensor("b", &[1 << 63], 250, 0);
    let seeds =
        vec![everything(3).bytes(), everything(2).bytes(), small.bytes(), shard.bytes(), list.bytes(), huge.bytes()];
    fuzz("gguf", seeds, |bytes| match read(bytes, gguf::Header::read) {
        Ok(header) => {
            let size = bytes.len() as u64;
            let mut end = 24;
            for entry in &header.entries {
                assert!(entry.range.start == end && entry.value_start > end && entry.range.end >= entry.value_start);
                end = entry.range.end;
            }
            assert!(end == header.tensors_start && end <= size);
            for tensor in &header.tensors {
                assert!(tensor.size.is_none_or(|bytes| header.data_start + tensor.offset + bytes <= size));
            }
            known(&header.facts());
            format!("{} keys, {:?}", header.entries.len(), header.split().is_some())
        }
        Err(error) => error,
    });
}

#[test]
fn headers_of_safetensors() {
    let seeds = vec![
        tensors(&[("a", "F32", &[2, 3], 24), ("b", "BF16", &[5], 10), ("c", "F8_E4M3", &[2], 2)]),
        tensors(&[("a\\\"\u{e9}", "I64", &[], 8), ("new", "X7", &[3, 3], 5)]),
        tensors(&[]),
        tensors(&[("a", "X7", &[1 << 63], 1), ("b", "X7", &[1 << 63], 1)]),
    ];
    fuzz("safetensors", seeds, |bytes| match read(bytes, safetensors::Header::read) {
        Ok(header) => {
            assert!(header.data_start <= header.size && header.size == bytes.len() as u64);
            format!("{:?}", header.elements.keys())
        }
        Err(error) => error,
    });
}

/// The files beside a model of safetensors: which one is changed, the first byte of the input says.
#[test]
fn what_lies_beside_a_model() {
    const NAMES: [&str; 5] =
        ["model.safetensors.index.json", "config.json", "README.md", "tokenizer_config.json", "chat_template.jinja"];
    let whole = [
        "{\"metadata\": {\"total_size\": 34},\n \"weight_map\": {\"a\": \"m-1.safetensors\", \"b\": \"m-2.safetensors\"}}",
        "{\"model_type\": \"llama\", \"max_position_embeddings\": 10, \"text_config\": {\"hidden_size\": 7},\n \"x\": [1, {}]}",
        "---\nlicense: other\nlicense_name: \"some name\"\nlanguage:\n- en\n- &a de\nx: {y: [*a]}\n---\n# Title\n",
        "{\"chat_template\": [{\"name\": \"default\", \"template\": \"{{ x }}\\u00e9\"}], \"y\": null}",
        "{{ x }}",
    ];
    let env = Env::new();
    let text = |n: usize| whole[n].as_bytes().to_vec();
    let write = |n: usize, bytes: &[u8]| drop(env.write(NAMES[n], bytes));
    env.write("m-1.safetensors", tensors(&[("a", "F32", &[2, 3], 24)]));
    env.write("m-2.safetensors", tensors(&[("b", "BF16", &[5], 10)]));
    (0..NAMES.len()).for_each(|n| write(n, &text(n)));
    let seeds = (0..NAMES.len()).map(|n| [vec![u8::try_from(n).unwrap()], text(n)].concat()).collect();
    let (mut last, progress) = (0, Progress::new());
    fuzz("beside", seeds, |bytes| {
        let Some((first, rest)) = bytes.split_first() else { return String::new() };
        write(last, &text(last));
        last = usize::from(*first) % NAMES.len();
        write(last, rest);
        match inspect(env.path("").as_path(), &progress) {
            Ok(inspected) => {
                known(&inspected.facts);
                format!("{last} {:?}", inspected.facts)
            }
            Err(error) => error.to_string(),
        }
    });
}

#[test]
fn kinds_licences_and_names() {
    let seeds = [
        "version https://git-lfs.github.com/spec/v1\noid sha256:",
        "<!DOCTYPE html><html>",
        "<?xml version=\"1.0\"?><Error>",
        "{\"error\": 1}",
        "PK\u{3}\u{4}",
        "(mit AND apache-2.0) OR LicenseRef-x",
        "creativeml-openrail-m",
        "other",
        "model-00001-of-00003.gguf",
    ];
    let pointer = format!("{}{}\nsize 7\n", seeds[0], "0a".repeat(32));
    let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).chain([pointer.into_bytes()]).collect();
    fuzz("texts", seeds, |bytes| {
        let found = sniff(bytes);
        let text = String::from_utf8_lossy(bytes);
        let spdx = licence::spdx(Some(&text), Some(&text), None);
        if let Some(spdx) = &spdx {
            let again = licence::spdx(Some(spdx), None, None);
            assert!(again.as_ref() == Some(spdx) || spdx == "LicenseRef-other", "{spdx} {again:?}");
        }
        let shard = ShardName::parse(&text);
        if let Some(shard) = &shard {
            assert_eq!(shard.sibling(shard.number), text);
        }
        let kinds = BTreeMap::from([("found", format!("{found} {}", found.advice())), ("shard", format!("{shard:?}"))]);
        format!("{kinds:?} {}", spdx.unwrap_or_default().starts_with("LicenseRef-"))
    });
}
