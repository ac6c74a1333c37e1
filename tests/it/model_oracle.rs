//! Our readers beside those of the formats' own makers: the Python package `gguf` of llama.cpp, and real models.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::model::read::gguf::GgufHeader;
use windlass::internals::model::read::gguf_values::GgufValue as Known;
use windlass::internals::model::read::{ggml, safetensors};

use crate::env::{Env, run_ok};

/// A part that tests/parts.sh has fetched.
fn part(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/parts").join(name);
    assert!(path.exists(), "no {}: run tests/parts.sh fetch first", path.display());
    path
}

fn python(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    run_ok(command.env("PYTHONPATH", part("python")).args(["-c", script]).args(arguments))
}

/// All that the package reads of a file, as JSON.
const DUMP: &str = "
import json, sys
from gguf import GGUFReader
reader = GGUFReader(sys.argv[1])
def said(field):
    if len(field.types) != 1: return {'list': len(field.data)}
    return field.contents()
keys = [[f.name, f.offset, said(f)] for f in reader.fields.values() if not f.name.startswith('GGUF.')]
tensors = [[t.name, t.tensor_type.value, [int(n) for n in t.shape], int(t.data_offset), int(t.n_bytes), int(t.n_elements)]
           for t in reader.tensors]
print(json.dumps({'keys': keys, 'tensors': tensors, 'data': int(reader.data_offset), 'alignment': int(reader.alignment)}))";

/// The same of what we read.
fn ours(header: &GgufHeader) -> Value {
    let said = |value: &Known| match value {
        Known::Unsigned(number) => json!(number),
        Known::Signed(number) => json!(number),
        Known::Float32(number) => json!(f64::from(*number)),
        Known::Float64(number) => json!(number),
        Known::Bool(yes) => json!(yes),
        Known::Text(text) => json!(text),
        Known::Texts(texts) => json!({ "list": texts.len() }),
        Known::List { length, .. } => json!({ "list": length }),
        other => panic!("{other}"),
    };
    let keys: Vec<Value> =
        header.entries.iter().map(|entry| json!([entry.key, entry.range.start, said(&entry.value)])).collect();
    let tensors = header.tensors.iter().map(|tensor| {
        let start = header.data_start + tensor.offset;
        json!([tensor.name, tensor.kind, tensor.dims, start, tensor.size, tensor.elements])
    });
    let tensors: Vec<Value> = tensors.collect();
    json!({ "keys": keys, "tensors": tensors, "data": header.data_start, "alignment": header.alignment })
}

/// Reads a file both ways, and gives back what both have read.
fn agreed(path: &str) -> GgufHeader {
    let header = GgufHeader::read(std::fs::File::open(path).unwrap()).unwrap();
    let theirs: Value = serde_json::from_str(&python(DUMP, &[path])).unwrap();
    let ours = ours(&header);
    for (part, ours) in ours.as_object().unwrap() {
        assert_eq!(&theirs[part], ours, "{part}");
    }
    header
}

#[test]
fn a_real_gguf() {
    let path = part("SmolLM2-135M-Instruct.Q4_1.gguf");
    let header = agreed(path.to_str().unwrap());
    assert_eq!((header.version, header.entries.len(), header.tensors.len()), (3, 33, 272));
    let facts = serde_json::to_value(header.facts()).unwrap();
    let expected = json!({ "format": "gguf", "name": "Smollm2 135M 8k Lc100K Mix1 Ep2", "architecture": "llama",
        "parameters": 134_515_008, "quantization": "Q4_1", "contextLength": 8192, "embeddingLength": 576,
        "licence": "Apache-2.0", "vendor": "HuggingFaceTB", "languages": ["en"],
        "chatTemplate": "sha256:872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788" });
    assert_eq!(facts, expected);
}

#[test]
fn files_that_the_package_writes() {
    let env = Env::new();
    let write = "
import sys, numpy as np, gguf
from gguf import GGUFWriter, GGMLQuantizationType as T, GGUFEndian
def fill(writer, name):
    writer.add_name(name); writer.add_context_length(2048); writer.add_embedding_length(64)
    writer.add_license('other'); writer.add_license_name('tiny terms'); writer.add_languages(['en', 'fr'])
    writer.add_file_type(7); writer.add_token_list([b'a', b'\\xc3\\xa9'] * 50); writer.add_token_scores([0.5] * 100)
    writer.add_chat_template('{{ x }}'); writer.add_float64('f64', 0.1); writer.add_int8('i8', -3); writer.add_bool('no', False)
    writer.add_tensor('a.weight', np.ones((4, 64), dtype=np.float32))
    writer.add_tensor('b.weight', np.zeros((2, 34), dtype=np.uint8), raw_dtype=T.Q8_0)
    writer.add_tensor('c.weight', np.ones((3, 5, 7), dtype=np.float16))
    writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
fill(GGUFWriter('one.gguf', 'llama'), 'One')
aligned = GGUFWriter('aligned.gguf', 'llama'); aligned.add_custom_alignment(128); fill(aligned, 'Aligned')
fill(GGUFWriter('many.gguf', 'llama', split_max_tensors=2, small_first_shard=True), 'Many')
fill(GGUFWriter('big.gguf', 'llama', endianess=GGUFEndian.BIG), 'Big')";
    let mut command = Command::new("python3");
    run_ok(command.env("PYTHONPATH", part("python")).args(["-c", write]).current_dir(env.path("")));
    for (name, alignment) in [("one.gguf", 32), ("aligned.gguf", 128)] {
        assert_eq!(agreed(env.path(name).to_str().unwrap()).alignment, alignment);
    }
    let json = |name: &str| -> Value { serde_json::from_str(&env.ok(["model", "inspect", "--json", name])).unwrap() };
    let mut expected = json("one.gguf")["facts"].clone();
    assert_eq!(expected["licence"], "LicenseRef-tiny-terms");
    assert_eq!((&expected["quantization"], &expected["parameters"]), (&json!("Q8_0"), &json!(4 * 64 + 2 * 32 + 105)));
    // Shards, of which the first has no tensors, are the same model.
    let many = json("many-00002-of-00003.gguf");
    expected["name"] = json!("Many");
    assert_eq!(many["facts"], expected);
    assert_eq!(many["files"].as_array().unwrap().len(), 3);
    for n in 1..=3 {
        agreed(env.path(format!("many-0000{n}-of-00003.gguf")).to_str().unwrap());
    }
    let (code, sentence) = env.refused(&mut env.windlass(["model", "inspect", "big.gguf"]));
    assert!(code == 4 && sentence.starts_with("big.gguf: byte 4: the file is big-endian"), "{sentence}");
}

#[test]
fn types_have_the_package_s_names_and_sizes() {
    let script = "
import json
from gguf import GGML_QUANT_SIZES as sizes, LlamaFileType
print(json.dumps({'types': [[t.value, t.name, *sizes[t]] for t in sizes],
                  'files': [[t.value, t.name] for t in LlamaFileType]}))";
    let all: Value = serde_json::from_str(&python(script, &[])).unwrap();
    let types = all["types"].as_array().unwrap();
    assert!(types.len() > 30);
    // No file has Q8_1: the package counts its two scales as 32 bits each, and ggml has 16.
    for row in types.iter().filter(|row| row[1] != "Q8_1") {
        let number = u32::try_from(row[0].as_u64().unwrap()).unwrap();
        let known = ggml::tensor_type(number).unwrap_or_else(|| panic!("{row} is not known"));
        assert_eq!(json!([number, known.name, known.block, known.bytes]), *row);
    }
    for row in all["files"].as_array().unwrap().iter().filter(|row| row[1] != "GUESSED") {
        let known = ggml::file_type(row[0].as_u64().unwrap()).unwrap_or_else(|| panic!("{row} is not known"));
        let name = row[1].as_str().unwrap();
        assert_eq!(known, name.trim_start_matches("ALL_").trim_start_matches("MOSTLY_"));
    }
}

#[test]
fn a_real_safetensors() {
    let path = part("all-MiniLM-L6-v2");
    let env = Env::new();
    let seen = env.ok(["model", "inspect", "--json", path.to_str().unwrap()]);
    let expected = json!({
        "facts": { "format": "safetensors", "architecture": "bert", "parameters": 22_713_728, "quantization": "F32",
            "contextLength": 512, "embeddingLength": 384, "licence": "Apache-2.0", "languages": ["en"] },
        "files": [{ "path": "model.safetensors", "size": 90_868_376 }],
        "version": 1,
    });
    assert_eq!(serde_json::from_str::<Value>(&seen).unwrap(), expected);
    let file = std::fs::File::open(path.join("model.safetensors")).unwrap();
    let header = safetensors::SafetensorsHeader::read(file).unwrap();
    assert_eq!((header.tensors(), header.elements["F32"], header.elements["I64"]), (104, 22_713_216, 512));
}
