//! What lies beside a safetensors model and describes it: `config.json`, the chat template, and the card (`README.md`).
//!
//! None of it is needed to load the tensors, so a file that is not there, too large, or not what it should be says nothing;
//! only a `config.json` that is no JSON is an error.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use granit_parser::{Event, Parser};

use super::cursor::{FileCursor, HeaderError};
use super::facts::line;
use super::json::{self, Odd, Pick, Scalar};
use crate::model::licence;
use crate::oci::digest::Digest;

/// Bytes of a `config.json`, or of what describes the tokenizer.
const MAX_JSON: u64 = 32 << 20;
/// Bytes of a template by itself.
const MAX_TEMPLATE: u64 = 1 << 20;
/// Bytes of a card that are looked at.
const MAX_CARD: u64 = 64 << 10;
/// Events of a card's YAML.
const MAX_EVENTS: usize = 4096;

/// Where models of several parts keep what is said of the one that speaks.
const PARTS: [&str; 3] = ["", "text_config.", "llm_config."];

/// What a `config.json` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigJson {
    pub(crate) architecture: Option<String>,
    pub(crate) context_length: Option<u64>,
    pub(crate) embedding_length: Option<u64>,
    /// How the numbers were packed, where that is not their type: `gptq`.
    pub(crate) packing: Option<String>,
    /// What it has that is no JSON.
    pub(crate) odd: Odd,
}

/// Reads a `config.json`.
pub(crate) fn config<R: Read + Seek>(reader: R) -> Result<ConfigJson, HeaderError> {
    const CONTEXT: [&str; 5] = ["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"];
    const EMBEDDING: [&str; 4] = ["hidden_size", "n_embd", "d_model", "dim"];
    const PACKING: &str = "quantization_config.quant_method";
    let wanted = |path: &str| {
        let key = PARTS.iter().rev().find_map(|part| path.strip_prefix(part)).unwrap_or(path);
        CONTEXT.contains(&key) || EMBEDDING.contains(&key) || path == "model_type" || path == PACKING
    };
    let (found, odd) = pick(reader, "config.json", wanted)?;
    let text = |key: &str| match found.get(key) {
        Some(Scalar::Text(text)) => line(text),
        _ => None,
    };
    let number = |keys: &[&str]| {
        let all = PARTS.iter().flat_map(|part| keys.iter().map(move |key| format!("{part}{key}")));
        all.into_iter().find_map(|key| match found.get(&key) {
            // 0 stands for `Infinity`, and is not a length.
            Some(Scalar::Number(number)) => Some(*number).filter(|number| *number > 0),
            _ => None,
        })
    };
    Ok(ConfigJson {
        odd,
        architecture: text("model_type"),
        context_length: number(&CONTEXT),
        embedding_length: number(&EMBEDDING),
        packing: text(PACKING),
    })
}

fn pick<R: Read + Seek>(
    reader: R,
    what: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<(BTreeMap<String, Scalar>, Odd), HeaderError> {
    let mut cursor = FileCursor::new(reader)?;
    let size = cursor.size();
    if size > MAX_JSON {
        return Err(HeaderError::too_much(0, format!("{size} bytes, and no more than {MAX_JSON} are read")));
    }
    json::read_python(&mut cursor, size, what, Pick(wanted))
}

/// What a pipeline is called in its `model_index.json`: `StableDiffusionPipeline`.
pub(crate) fn pipeline<R: Read + Seek>(reader: R) -> Result<(Option<String>, Odd), HeaderError> {
    let (found, odd) = pick(reader, "model_index.json", |path| path == "_class_name")?;
    let class = match found.get("_class_name") {
        Some(Scalar::Text(text)) => line(text),
        _ => None,
    };
    Ok((class, odd))
}

/// The digest of the chat template in a `tokenizer_config.json`: the only one, or the one that is called `default`.
pub(crate) fn template_in<R: Read + Seek>(reader: R) -> Option<Digest> {
    let (found, _) = pick(reader, "tokenizer_config.json", |path| path.starts_with("chat_template")).ok()?;
    let text = |key: &str| match found.get(key) {
        Some(Scalar::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let default = || {
        let numbers = 0..found.len();
        numbers.into_iter().find_map(|n| match text(&format!("chat_template.{n}.name")) {
            Some("default") => text(&format!("chat_template.{n}.template")),
            _ => None,
        })
    };
    text("chat_template").or_else(default).map(|template| Digest::of(template.as_bytes()))
}

/// The digest of a `chat_template.jinja`.
pub(crate) fn template<R: Read>(reader: R) -> Option<Digest> {
    let mut bytes = Vec::new();
    reader.take(MAX_TEMPLATE + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_TEMPLATE).then(|| Digest::of(&bytes))
}

/// What the head of a card says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelCard {
    /// SPDX.
    pub(crate) licence: Option<String>,
    pub(crate) languages: Vec<String>,
}

/// Reads the YAML between two lines of dashes at the beginning of a `README.md`.
pub(crate) fn card<R: Read>(reader: R) -> ModelCard {
    let mut bytes = Vec::new();
    if reader.take(MAX_CARD).read_to_end(&mut bytes).is_err() {
        return ModelCard::default();
    }
    let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
    let head = text.trim_start_matches('\u{feff}').strip_prefix("---\n").and_then(|rest| rest.split_once("\n---"));
    let Some(said) = head.and_then(|(head, _)| top_level(head)) else { return ModelCard::default() };
    let all = |key: &str| said.get(key).map(Vec::as_slice).unwrap_or_default();
    let one = |key: &str| all(key).first().map(String::as_str);
    let licences: Vec<String> = all("license").iter().map(|id| id.trim().to_owned()).collect();
    // If there are several, all have to be kept to.
    let licences = (!licences.is_empty()).then(|| licences.join(" AND "));
    let licence = licence::spdx(licences.as_deref(), one("license_name"), one("license_link"));
    ModelCard { licence, languages: super::facts::languages(all("language")) }
}

/// The texts, and lists of texts, that a mapping has.
fn top_level(yaml: &str) -> Option<BTreeMap<String, Vec<String>>> {
    let mut parser = Parser::new_from_str(yaml);
    let (mut found, mut key, mut depth) = (BTreeMap::<String, Vec<String>>::new(), None::<String>, 0_u32);
    for _ in 0..MAX_EVENTS {
        match parser.next_event()?.ok()?.0 {
            Event::Scalar(text, ..) => match (depth, &key) {
                (1, None) => key = Some(text.into_owned()),
                (1, Some(_)) => found.entry(key.take()?).or_default().push(text.into_owned()),
                (2, Some(key)) => found.entry(key.clone()).or_default().push(text.into_owned()),
                _ => {}
            },
            Event::Alias(..) if depth == 1 => key = None,
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => {
                depth = depth.checked_sub(1)?;
                if depth == 1 {
                    key = None;
                }
            }
            Event::StreamEnd => return Some(found),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Cursor as Bytes;

    use super::*;

    #[test]
    fn configs_of_all_times() {
        let of = |json: &str| config(Bytes::new(json.as_bytes().to_vec())).unwrap();
        let said = of(r#"{"model_type": "llama", "max_position_embeddings": 8192, "hidden_size": 576}"#);
        assert_eq!((said.context_length, said.embedding_length), (Some(8192), Some(576)));
        assert_eq!(said.architecture.as_deref(), Some("llama"));
        let said = of(r#"{"model_type": "gpt2", "n_positions": 1024, "n_ctx": 512, "n_embd": 768}"#);
        assert_eq!((said.context_length, said.embedding_length), (Some(1024), Some(768)));
        let said = of(r#"{"text_config": {"max_position_embeddings": 7, "hidden_size": 5}, "hidden_size": [1],
            "vision_config": {"hidden_size": 9}, "quantization_config": {"quant_method": "gptq", "bits": 4}}"#);
        assert_eq!((said.context_length, said.embedding_length), (Some(7), Some(5)));
        assert_eq!(said.packing.as_deref(), Some("gptq"));
        assert_eq!(of("[1]"), ConfigJson::default());
        assert!(config(Bytes::new(b"{".to_vec())).is_err());
    }

    #[test]
    fn templates() {
        let of = |json: &str| template_in(Bytes::new(json.as_bytes().to_vec()));
        assert_eq!(of(r#"{"chat_template": "{{ x }}"}"#), Some(Digest::of(b"{{ x }}")));
        let several = r#"{"chat_template": [{"name": "tool", "template": "a"}, {"name": "default", "template": "b"}]}"#;
        assert_eq!(of(several), Some(Digest::of(b"b")));
        assert_eq!(of("{}"), None);
        assert_eq!(of("{"), None);
        assert_eq!(template(&b"t"[..]), Some(Digest::of(b"t")));
        assert_eq!(template(std::io::repeat(b'a')), None);
    }

    #[test]
    fn the_head_of_a_card() {
        let licence = |text: &str| card(text.as_bytes()).licence;
        let said =
            card(&b"---\nlanguage:\n- en\n- code\n- de\nlicense: apache-2.0 # yes\ntags: [a, b]\n---\n# Title\n"[..]);
        assert_eq!(said.licence.as_deref(), Some("Apache-2.0"));
        assert_eq!(said.languages, ["en", "de"]);
        let other = "---\r\nlicense: other\r\nlicense_name: \"qwen research\"\r\nlicense_link: LICENSE\r\n---\r\n";
        assert_eq!(licence(other).as_deref(), Some("LicenseRef-qwen-research"));
        assert_eq!(licence("---\nlicense:\n  - mit\n  - apache-2.0\n---\n").as_deref(), Some("MIT AND Apache-2.0"));
        let nested =
            "---\nmodel-index:\n- name: x\n  license: mit\ndataset:\n  license: {name: isc}\nlicense: zlib\n---\n";
        assert_eq!(licence(nested).as_deref(), Some("Zlib"));
        for nothing in ["", "# Title\nlicense: mit\n", "---\nlicense: mit\n", "---\n}{\n---\n", "---\n\u{0}\n---\n"] {
            assert_eq!(card(nothing.as_bytes()), ModelCard::default(), "{nothing:?}");
        }
    }
}
