//! What is known of a model: from right files, from damaged ones, and from what is not a model.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use windlass::internals::class::{Class, Classified};
use windlass::internals::disk::progress::Progress;
use windlass::internals::model::read::cursor::HeaderError;
use windlass::internals::model::read::gguf::GgufHeader;
use windlass::internals::model::read::gguf_values::{GgufKind, GgufValue as Known};
use windlass::internals::model::read::inspect::{inspect, inspect_set};
use windlass::internals::model::read::safetensors;
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, run_ok};
use crate::model_writer::{Gguf, Said, everything, safetensors as tensors, safetensors_of};

fn read(bytes: &[u8]) -> Result<GgufHeader, HeaderError> {
    GgufHeader::read(Cursor::new(bytes))
}

fn json_of(env: &Env, path: &str) -> Value {
    serde_json::from_str(&env.ok(["model", "inspect", "--json", path])).unwrap()
}

fn refused(env: &Env, path: &str) -> (i32, String) {
    env.refused(&mut env.windlass(["model", "inspect", path]))
}

#[test]
fn everything_that_a_header_has_is_read() {
    for version in [2, 3] {
        let file = everything(version);
        let bytes = file.bytes();
        let header = read(&bytes).unwrap();
        assert_eq!((header.version, header.alignment, header.size), (version, 64, bytes.len() as u64));
        assert_eq!(header.data_start, file.header().len() as u64);
        // The ranges of the keys are all of the header between its counts and the tensors.
        let mut end = 24;
        for entry in &header.entries {
            assert_eq!(entry.range.start, end);
            let name = usize::try_from(entry.range.start).unwrap() + 8;
            assert_eq!(&bytes[name..name + entry.key.len()], entry.key.as_bytes());
            assert_eq!(entry.value_start, entry.range.start + 8 + entry.key.len() as u64 + 4);
            end = entry.range.end;
        }
        assert_eq!(end, header.tensors_start);
        let expected = [
            ("float", Known::Float32(0.5)),
            ("f64", Known::Float64(0.25)),
            ("yes", Known::Bool(true)),
            ("minus", Known::Signed(-1)),
            ("u8", Known::Unsigned(200)),
            ("i8", Known::Signed(-56)),
            ("i16", Known::Signed(-32_768)),
            ("i64", Known::Signed(-1)),
            ("llama.embedding_length", Known::Unsigned(64)),
            ("general.name", Known::Text("Tiny\nModel ".to_owned())),
            ("general.languages", Known::Texts(["en", "english", "de", "en"].map(str::to_owned).to_vec())),
            ("tokenizer.ggml.tokens", Known::List { kind: GgufKind::Text, length: 100 }),
            ("tokenizer.ggml.scores", Known::List { kind: GgufKind::F32, length: 3 }),
            ("nested", Known::List { kind: GgufKind::List, length: 2 }),
            ("no text", Known::Opaque { length: 2, digest: Digest::of(&[0xff, 0xfe]) }),
        ];
        for (key, value) in expected {
            assert_eq!(header.get(key), Some(&value), "{key}");
        }
        let tensor = |n: usize| (header.tensors[n].name.as_str(), header.tensors[n].offset, header.tensors[n].size);
        assert_eq!(tensor(0), ("token_embd.weight", 0, Some(1440)));
        assert_eq!(tensor(1), ("norm.weight", 1472, Some(256)));
        assert_eq!(tensor(2), ("empty", 1728, Some(0)));
        assert_eq!(tensor(4), ("future", 1792, None));
        assert_eq!((header.tensors[0].dims.as_slice(), header.tensors[0].kind), (&[256, 10][..], 12));
        let facts = json!({ "format": "gguf", "name": "Tiny Model", "version": "v1", "architecture": "llama",
            "parameters": 2560 + 64 + 1 + 25, "quantization": "Q4_K_M", "contextLength": 4096, "embeddingLength": 64,
            "licence": "MIT", "vendor": "Makers", "source": "https://example.org/tiny", "languages": ["en", "de"],
            "chatTemplate": Digest::of(b"{{ messages }}") });
        assert_eq!(serde_json::to_value(header.facts()).unwrap(), facts);
    }
}

#[test]
fn what_is_not_said_is_not_made_up() {
    let facts = |file: Gguf| serde_json::to_value(read(&file.bytes()).unwrap().facts()).unwrap();
    assert_eq!(facts(Gguf::new(3)), json!({ "format": "gguf", "parameters": 0 }));
    // Where the file type is not known, the type of most tensors is told; a type without a name is told by its number.
    let file = || Gguf::new(3).key("general.file_type", Said::U32(9999)).tensor("a", &[4], 0, 16);
    assert_eq!(facts(file().tensor("b", &[32], 8, 34))["quantization"], "Q8_0");
    assert_eq!(facts(file().tensor("b", &[7, 7], 99, 1))["quantization"], "type-99");
    let projector = Gguf::new(3).key("general.architecture", Said::Text("clip"));
    assert_eq!(facts(projector)["kind"], "mmproj");
    // A template that is too long to be kept is known by its digest all the same.
    let long = "x".repeat(3 << 20);
    let file = Gguf::new(3).key("tokenizer.chat_template", Said::Text(&long)).key("a", Said::Bool(true));
    assert_eq!(facts(file)["chatTemplate"], json!(Digest::of(long.as_bytes())));
}

#[test]
fn damage_is_named_with_its_place() {
    let long = "k".repeat(65_536);
    let list = |kind: u32, length: u64| [kind.to_le_bytes().to_vec(), length.to_le_bytes().to_vec()].concat();
    let deep = (0..5).rev().fold(list(0, 0), |inner, _| [list(9, 1), inner].concat());
    let counts = |tensors: u64, keys: u64| {
        let mut bytes = Gguf::new(3).bytes();
        bytes[8..16].copy_from_slice(&tensors.to_le_bytes());
        bytes[16..24].copy_from_slice(&keys.to_le_bytes());
        bytes.resize(4096, 0);
        bytes
    };
    let key = |kind: u32, value: Vec<u8>| Gguf::new(3).key("key", Said::Raw(kind, value)).bytes();
    let mut others = Vec::new();
    for (bytes, offset, message) in [
        (b"GGUF\x01\0\0\0".to_vec(), 4, "GGUF version 1, which nothing reads any more"),
        (b"GGUF\x04\0\0\0".to_vec(), 4, "GGUF version 4, and only 2 and 3 are known"),
        (b"GGUF\0\0\0\x03".to_vec(), 4, "the file is big-endian"),
        (b"FUGG".to_vec(), 0, "this is no GGUF file"),
        (Gguf::new(3).key(&long, Said::Bool(true)).bytes(), 24, "the name of key 0 has 65536 bytes, and no more"),
        (Gguf::new(3).key("", Said::Bool(true)).bytes(), 24, "key 0 has no name"),
        (Gguf::model().key("a", Said::Bool(true)).key("a", Said::Bool(true)).bytes(), 83, "key 'a' is there twice"),
        (key(13, vec![0; 8]), 35, "key 'key' is of an unknown kind, 13"),
        (key(9, list(77, 1)), 39, "the value of key 'key' is a list of an unknown kind, 77"),
        (key(9, deep), 75, "the value of key 'key' has lists in lists, more than 4 deep"),
        (Gguf::new(3).key("general.alignment", Said::U32(36)).bytes(), 53, "general.alignment is not a multiple of 8"),
        (Gguf::new(3).key("general.alignment", Said::U32(0)).bytes(), 53, "general.alignment is not a multiple of 8"),
        (
            Gguf::new(3).key("general.alignment", Said::Text("32")).bytes(),
            53,
            "general.alignment is not a multiple of 8",
        ),
        (Gguf::new(3).key("general.alignment", Said::U32(1 << 21)).bytes(), 53, "general.alignment is 2097152, and no"),
        (Gguf::new(3).tensor_at(&"n".repeat(65_536), &[1], 0, 0).bytes(), 24, "the name of tensor 0 has 65536 bytes"),
        (Gguf::new(3).tensor_at("t", &[1; 65], 0, 0).bytes(), 24, "tensor 't' has 65 dimensions"),
        (Gguf::new(3).tensor_at("t", &[1 << 32, 1 << 32], 0, 0).bytes(), 24, "tensor 't' holds more numbers than"),
        (Gguf::new(3).tensor_at("t", &[1 << 62], 0, 0).bytes(), 24, "tensor 't' has more bytes than 64 bits count"),
        // Its type has no known size.
        (
            Gguf::new(3).tensor_at("t", &[1 << 63], 250, 0).tensor_at("u", &[1 << 63], 250, 0).bytes(),
            57,
            "all tensors hold more numbers than 64 bits count",
        ),
        (Gguf::new(3).tensor_at("t", &[33], 2, 0).bytes(), 24, "tensor 't' has rows of 33 numbers, and Q4_0 comes in"),
        (Gguf::new(3).tensor_at("t", &[0], 0, 7).bytes(), 24, "the data of tensor 't' are at 7, no multiple of 32"),
        (Gguf::new(3).tensor_at("t", &[8], 0, u64::MAX - 31).bytes(), 24, "the data of tensor 't' are at 18446744"),
        (Gguf::new(3).tensor("a", &[8], 0, 32).tensor("a", &[8], 0, 32).bytes(), 57, "tensor 'a' is there twice"),
        (
            Gguf::new(3).tensor("a", &[16], 0, 64).tensor_at("b", &[8], 0, 32).bytes(),
            57,
            "the data of tensor 'b' lie over those of tensor 'a'",
        ),
        (
            Gguf::new(3).tensor_at("a", &[1], 99, 0).tensor_at("b", &[1], 99, 0).bytes(),
            57,
            "the data of tensor 'b' lie over those of tensor 'a'",
        ),
    ] {
        let error = read(&bytes).unwrap_err();
        assert!(error.offset() <= bytes.len() as u64);
        let expected = format!("byte {offset}: {message}");
        if !error.to_string().starts_with(&expected) {
            others.push(format!("expected {expected}\n   found {error}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
    // Numbers that the file cannot hold are told by its end.
    for bytes in [counts(u64::MAX, 0), counts(0, 1 << 40), key(8, (1_u64 << 40).to_le_bytes().to_vec())] {
        let error = read(&bytes).unwrap_err();
        assert!(matches!(error, HeaderError::Truncated { missing, .. } if missing > 1 << 39), "{error}");
    }
    // What is more than is read is not damage.
    let mut many = counts(70_000, 0);
    many.resize(70_000 * 24 + 4096, 0);
    let error = read(&many).unwrap_err().to_string();
    assert_eq!(error, "byte 8: 70000 tensors, and no more than 65536 are read");
}

#[test]
fn a_file_that_is_cut_off_anywhere_says_what_is_missing() {
    let bytes = everything(3).bytes();
    let end = read(&bytes).unwrap().data_start + 1792;
    for length in 0..usize::try_from(end).unwrap() {
        let error = read(&bytes[..length]).unwrap_err();
        assert!(matches!(&error, HeaderError::Truncated { missing, .. } if *missing > 0), "{length}: {error}");
        assert_eq!(error.offset(), length as u64);
    }
    let file = Gguf::model().tensor("a", &[8], 0, 32).tensor("b", &[256, 4], 14, 840);
    let whole = file.bytes();
    // The padding after the last tensor may be missing, and more may come.
    let data = file.header().len() + 32 + 840;
    read(&whole[..data]).unwrap();
    read(&[whole.clone(), vec![0; 100]].concat()).unwrap();
    let error = read(&whole[..data - 7]).unwrap_err().to_string();
    let expected = format!(
        "it ends at byte {}, in the data of its tensors, of which 'b' is the last: 7 bytes are missing; get it again, whole",
        data - 7
    );
    assert_eq!(error, expected);
}

#[test]
fn shards_are_one_model() {
    let env = Env::new();
    let first = Gguf::model().key("llama.context_length", Said::U32(8)).shard(0, 3, 3);
    let shards = [
        first,
        Gguf::new(3).shard(1, 3, 3).tensor("a", &[32], 2, 18).tensor("b", &[32], 2, 18),
        Gguf::new(3).shard(2, 3, 3).tensor("c", &[96], 8, 102),
    ];
    let name = |n: usize| format!("models/big-{n:05}-of-00003.gguf");
    for (n, shard) in shards.iter().enumerate() {
        env.write(name(n + 1), shard.bytes());
    }
    let whole = json_of(&env, "models");
    let facts = json!({ "format": "gguf", "architecture": "llama", "parameters": 160, "quantization": "Q8_0",
        "contextLength": 8 });
    assert_eq!(whole["facts"], facts);
    let size = |n: usize| shards[n].bytes().len();
    let file = |n: usize| json!({ "path": format!("big-{:05}-of-00003.gguf", n + 1), "size": size(n) });
    assert_eq!(whole["files"], json!([file(0), file(1), file(2)]));
    // Any shard stands for all, also through links and from a folder that is left out.
    for n in 1..=3 {
        assert_eq!(json_of(&env, &name(n)), whole);
    }
    let links = BTreeMap::from_iter((1..=3).map(|n| (format!("x-{n:05}-of-00003.gguf"), env.path(name(n)))));
    let set = inspect_set(Path::new("links"), &links, &Progress::new()).unwrap();
    assert_eq!(serde_json::to_value(&set.facts).unwrap(), facts);
    assert_eq!(set.files[2].path, PathBuf::from("x-00003-of-00003.gguf"));

    // A projector beside it is not the model; a second model is one too many.
    env.write("models/mmproj-big.gguf", Gguf::new(3).key("general.type", Said::Text("mmproj")).bytes());
    let mut with = whole.clone();
    with["facts"]["beside"] = json!({ "mmproj-big.gguf": "mmproj" });
    assert_eq!(json_of(&env, "models"), with);
    assert_eq!(json_of(&env, "models/mmproj-big.gguf")["facts"]["kind"], "mmproj");
    env.write("models/other.gguf", Gguf::model().bytes());
    let several = "there are several models in models: big-00001-of-00003.gguf, mmproj-big.gguf, other.gguf; name the \
                   file of one";
    assert_eq!(refused(&env, "models"), (2, several.to_owned()));

    let wrong = |shard: Gguf, sentence: &str| {
        env.write(name(2), shard.bytes());
        let (code, text) = refused(&env, &name(1));
        assert_eq!((code, text.as_str()), (4, sentence));
    };
    let tensors = || Gguf::new(3).shard(1, 3, 3).tensor("a", &[32], 2, 18);
    let fit = "models/big-00002-of-00003.gguf does not fit";
    let advice = "get all shards from one place";
    wrong(Gguf::new(3).shard(2, 3, 3), &format!("{fit}: it says that it is shard 3 of 3; {advice}"));
    wrong(Gguf::new(3).shard(1, 2, 3), &format!("{fit}: it says that it is shard 2 of 2; {advice}"));
    wrong(Gguf::new(3), &format!("{fit}: it says that it is not a shard; {advice}"));
    wrong(
        tensors(),
        &format!("models/big-00001-of-00003.gguf does not fit: all shards have 2 tensors instead of 3; {advice}"),
    );
    env.write(name(3), Gguf::new(3).shard(2, 3, 3).tensor("a", &[64], 8, 68).bytes());
    wrong(
        tensors(),
        &format!("models/big-00003-of-00003.gguf does not fit: tensor 'a' is in another shard too; {advice}"),
    );
    fs::remove_file(env.path(name(3))).unwrap();
    assert_eq!(
        refused(&env, &name(1)),
        (
            4,
            "models/big-00003-of-00003.gguf is missing: big-00001-of-00003.gguf needs it; get all shards, and put them \
             in one directory"
                .to_owned()
        )
    );
    env.write("alone.gguf", shards[1].bytes());
    let sentence = format!(
        "alone.gguf does not fit: it is shard 2 of 3, and its name would end in -00002-of-00003.gguf; {advice}"
    );
    assert_eq!(refused(&env, "alone.gguf"), (4, sentence));
}

#[test]
fn safetensors_with_what_lies_beside() {
    let env = Env::new();
    let bytes = tensors(&[("a", "BF16", &[2, 3], 12), ("b", "F32", &[5], 20), ("new", "X9", &[3], 1)]);
    env.write("alone/m.safetensors", &bytes);
    let alone = json_of(&env, "alone/m.safetensors");
    assert_eq!(alone["facts"], json!({ "format": "safetensors", "parameters": 14, "quantization": "BF16" }));
    assert_eq!(json_of(&env, "alone"), alone);
    env.write("alone/config.json", r#"{"model_type": "bert", "max_position_embeddings": 512, "hidden_size": 384}"#);
    env.write("alone/README.md", "---\nlicense: apache-2.0\nlanguage: en\n---\n# Model\n");
    env.write("alone/tokenizer_config.json", r#"{"chat_template": "{{ x }}"}"#);
    let facts = json!({ "format": "safetensors", "parameters": 14, "quantization": "BF16", "architecture": "bert",
        "contextLength": 512, "embeddingLength": 384, "licence": "Apache-2.0", "languages": ["en"],
        "chatTemplate": Digest::of(b"{{ x }}") });
    assert_eq!(json_of(&env, "alone")["facts"], facts);
    env.write("alone/config.json", "{");
    let (code, sentence) = refused(&env, "alone");
    assert!(code == 4 && sentence.starts_with("alone/config.json: byte 1: config.json: EOF"), "{sentence}");

    // Shards: with an index, and without one by their names.
    let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    env.write(format!("many/{first}"), tensors(&[("a", "F16", &[4], 8), ("b", "F16", &[4], 8)]));
    env.write(format!("many/{second}"), tensors(&[("c", "F16", &[2, 2], 8)]));
    let many = json_of(&env, "many");
    assert_eq!(many["facts"], json!({ "format": "safetensors", "parameters": 12, "quantization": "F16" }));
    assert_eq!(many["files"][1]["path"], second);
    let index = |map: Value| env.write("many/model.safetensors.index.json", json!({ "weight_map": map }).to_string());
    index(json!({ "a": first, "b": first, "c": second }));
    // A second copy of the weights in another form is not the model's.
    env.write("many/consolidated.safetensors", tensors(&[("d", "F16", &[9], 18)]));
    for path in ["many", &format!("many/{second}"), "many/model.safetensors.index.json"] {
        let found = json_of(&env, path);
        assert_eq!((&found["facts"], &found["files"]), (&many["facts"], &many["files"]), "{path}");
    }
    index(json!({ "a": "../a.safetensors" }));
    let (code, sentence) = refused(&env, "many");
    assert!(code == 4 && sentence.contains("weight_map has what is not a name of a file beside it"), "{sentence}");
    index(json!({ "a": first, "b": first, "c": "model-3.safetensors" }));
    let (code, sentence) = refused(&env, "many");
    assert!(code == 4 && sentence.starts_with("many/model-3.safetensors is missing"), "{sentence}");
}

#[test]
fn damaged_safetensors_are_named_with_their_place() {
    let tensor = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
    };
    let one = |dtype, shape, begin, end| format!(r#"{{"a":{}}}"#, tensor(dtype, shape, begin, end));
    let two = |second: &str, begin, end| {
        format!(r#"{{"a":{},"{second}":{}}}"#, tensor("U8", "[4]", 0, 4), tensor("U8", "[4]", begin, end))
    };
    let mut huge = safetensors_of("{}", 0);
    huge[..8].copy_from_slice(&100_000_001_u64.to_le_bytes());
    let many = format!("[{}1]", "1,".repeat(64));
    let mut others = Vec::new();
    for (bytes, message) in [
        (huge, "byte 0: a header of 100000001 bytes, and 100000000 are the most"),
        (b"\x40\0\0\0\0\0\0\0{".to_vec(), "it ends at byte 9, in its header: 63 bytes are missing"),
        (vec![1, 2, 3], "it ends at byte 3, in the length of its header: 5 bytes are missing"),
        (safetensors_of("{", 0), "byte 9: its header: EOF while parsing an object"),
        (safetensors_of("[]", 0), "byte 8: its header: invalid type: sequence, expected tensors by name"),
        (safetensors_of("{} {", 0), "byte 11: its header: trailing characters"),
        (
            safetensors_of(&one("F32", "[2]", 0, 7), 7),
            "byte 61: its header: tensor 'a' has 7 bytes, and its shape needs 8",
        ),
        (
            safetensors_of(&one("F4", "[3]", 0, 2), 2),
            "byte 60: its header: tensor 'a' has 2 bytes, and its shape needs a",
        ),
        (safetensors_of(&one("U8", "[-1]", 0, 0), 0), "byte 38: its header: invalid value: integer `-1`, expected u64"),
        (safetensors_of(&one("U8", &many, 0, 0), 0), "byte 165: its header: more than 64 dimensions"),
        (
            safetensors_of(&one("U8", "[4294967296,4294967296]", 0, 0), 0),
            "byte 57: its header: a shape of more numbers than 64 bits count",
        ),
        (
            tensors(&[("a", "X7", &[1 << 63], 1), ("b", "X7", &[1 << 63], 1)]),
            "byte 179: its header: all tensors hold more numbers than 64 bits count",
        ),
        (safetensors_of(&one("U8", "[1]", 1, 0), 1), "byte 60: its header: the data of tensor 'a' end at 0, before"),
        (safetensors_of(&one("", "[1]", 0, 1), 1), "byte 24: its header: not a dtype"),
        (safetensors_of(&two("b", 4, 8), 7), "it ends at byte 120, in the data of its tensors: 1 bytes are missing"),
        (safetensors_of(&two("b", 4, 8), 9), "byte 121: 1 bytes that belong to no tensor"),
        (safetensors_of(&two("b", 5, 9), 9), "byte 117: the data of its tensors have a gap or an overlap at 4"),
        (safetensors_of(&two("b", 0, 4), 4), "byte 113: the data of its tensors have a gap or an overlap at 4"),
        (safetensors_of(&two("a", 4, 8), 8), "byte 8: a tensor is there twice"),
    ] {
        let error = safetensors::SafetensorsHeader::read(Cursor::new(&bytes)).unwrap_err();
        assert!(error.offset() <= bytes.len() as u64);
        if !error.to_string().starts_with(message) {
            others.push(format!("expected {message}\n   found {error}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
    safetensors::SafetensorsHeader::read(Cursor::new(safetensors_of("{}        ", 0))).unwrap();
}

#[test]
fn what_is_no_model_is_named_for_what_it_is() {
    let env = Env::new();
    let oid = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 98362432\n");
    for (bytes, what) in [
        (&b""[..], "an empty file; get it again"),
        (
            b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>",
            "a web page (HTML); get the file itself: a link of Hugging Face has /resolve/, not /blob/, and a gated model \
             needs a login",
        ),
        (
            pointer.as_bytes(),
            "a Git LFS pointer to the file with SHA-256 \
             b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 and 98362432 bytes; run `git lfs pull` where \
             it is from, or download the file",
        ),
        (
            b"PK\x03\x04archive/data.pkl",
            "a ZIP archive, such as PyTorch writes; PyTorch's own format can run code when it is read: get the model as \
             safetensors or GGUF",
        ),
        (
            b"{\"error\":\"Repository not found\"}",
            "a JSON file; name a .gguf or .safetensors file, or the directory that it is in",
        ),
        (b"\x1f\x8b\x08\0", "compressed with gzip; unpack it, and name the model in it"),
        (b"\x28\xb5\x2f\xfd\0", "compressed with zstd; unpack it, and name the model in it"),
        (b"\0\x01\x02", "of an unknown kind; a model is a .gguf or .safetensors file"),
    ] {
        env.write("model.gguf", bytes);
        let sentence = format!("model.gguf is not a model: it is {what}");
        assert_eq!(refused(&env, "model.gguf"), (4, sentence.clone()));
        // The same in a directory.
        assert_eq!(refused(&env, "."), (4, format!("./{sentence}")));
    }
    env.write("model.gguf", &Gguf::model().tensor("a", &[8], 0, 32).bytes()[..100]);
    assert_eq!(
        refused(&env, "model.gguf"),
        (4, "model.gguf: it ends at byte 100, in tensor 'a': 2 bytes are missing; get it again, whole".to_owned())
    );
    fs::create_dir(env.path("empty")).unwrap();
    assert_eq!(refused(&env, "empty"), (2, "there is no model in empty: no .gguf and no .safetensors file".to_owned()));
    assert_eq!(refused(&env, "gone.gguf"), (2, "gone.gguf: there is no such file or directory".to_owned()));
    run_ok(std::process::Command::new("mkfifo").arg(env.path("pipe")));
    assert_eq!(refused(&env, "pipe"), (1, "pipe is neither a file nor a directory".to_owned()));
}

#[test]
fn a_table_for_people() {
    let env = Env::new();
    env.write("tiny.gguf", everything(3).bytes());
    insta::assert_snapshot!(env.ok(["model", "inspect", "tiny.gguf"]), @r"
    format         gguf
    name           Tiny Model
    version        v1
    architecture   llama
    parameters     2.7K (2650)
    quantisation   Q4_K_M
    context        4096
    embedding      64
    licence        MIT
    vendor         Makers
    source         https://example.org/tiny
    languages      en, de
    chat template  sha256:f24189f08c85a1eb19a737306c3a13e85462ee33d964f28108d64a2485fa2171

    3.9 kB  tiny.gguf
    1 file, 3.9 kB
    ");
}

/// The most memory that a run has, in KiB.
fn peak(env: &Env, path: &str) -> u64 {
    let peak = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); \
                print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let windlass = env!("CARGO_BIN_EXE_windlass");
    let mut command = std::process::Command::new("python3");
    command.args(["-c", peak, windlass, "model", "inspect", path]).current_dir(env.path(""));
    run_ok(&mut command).trim().parse().unwrap()
}

#[test]
fn nine_gib_need_no_more_memory_than_nothing() {
    let env = Env::new();
    let sparse = |name: &str, header: &[u8], data: u64| {
        let mut file = File::create(env.path(name)).unwrap();
        file.write_all(header).unwrap();
        file.set_len(header.len() as u64 + data).unwrap();
    };
    // 26 MB of header.
    let tokens = vec!["token"; 2_000_000];
    let file = Gguf::model()
        .key("tokenizer.ggml.tokens", Said::Texts(&tokens))
        .tensor_at("a", &[4 << 30], 24, 0)
        .tensor_at("b", &[5 << 30], 24, 4 << 30);
    sparse("large.gguf", &file.header(), 9 << 30);
    assert_eq!(json_of(&env, "large.gguf")["facts"]["parameters"], 9_u64 << 30);
    let header = format!(r#"{{"a":{{"dtype":"I8","shape":[{}],"data_offsets":[0,{}]}}}}"#, 9_u64 << 30, 9_u64 << 30);
    sparse("large.safetensors", &safetensors_of(&header, 0), 9 << 30);
    assert_eq!(json_of(&env, "large.safetensors")["facts"]["parameters"], 9_u64 << 30);
    env.write("small.gguf", Gguf::model().bytes());
    let small = peak(&env, "small.gguf");
    for large in ["large.gguf", "large.safetensors"] {
        let large = peak(&env, large);
        // How much of the program itself is in memory differs by some MiB from run to run.
        assert!(large < small + 8192, "{small} KiB for a small one, {large} KiB");
    }
    // Headers that are all promises: as many words as a file can have, as many tensors as its bytes could be.
    let list = [&8_u32.to_le_bytes()[..], &(1_u64 << 29).to_le_bytes()].concat();
    let words = Gguf::new(3).key("words", Said::Raw(9, list)).bytes();
    sparse("words.gguf", &words, 9 << 30);
    let (code, sentence) = refused(&env, "words.gguf");
    assert!(code == 4 && sentence.contains("byte 41: its lists have more than 4194304 items"), "{sentence}");
    let error = inspect(&env.path("words.gguf"), &Progress::new()).unwrap_err();
    assert_eq!(error.class(), Class::Unverified);
}
