//! Ollama's directory of models, as `ollama create` would have written it, without Ollama.
//!
//! ```text
//! manifests/HOST/NAMESPACE/NAME/TAG     what the model is made of
//! blobs/sha256-<hex>                    config, template, parameters, system prompt, licences, and the weights
//! ```
//!
//! The blob of the weights is the GGUF file, so in an image it is a link to where that lies already; everything else is a
//! few small files. Facts are those of ollama/ollama at fb30760: `manifest/`, `types/model/`, `server/create.go`. The
//! config is byte for byte that of `ollama create`, which says `amd64` on every machine: the directory has no architecture.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Number, Value};

use super::artifact::{DescribedModel, FileRole, ModelFile};
pub(crate) use super::modelfile::{ModelfileOptions, OllamaSpec};
use crate::class::{Class, Classified};
use crate::model::read::facts::ModelFormat;
use crate::model::read::named::{Named, named};
use crate::model::read::shards::ShardName;
use crate::oci::canonical::to_go;
use crate::oci::digest::Digest;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const MODEL: &str = "application/vnd.ollama.image.model";
const PROJECTOR: &str = "application/vnd.ollama.image.projector";
const ADAPTER: &str = "application/vnd.ollama.image.adapter";
const TEMPLATE: &str = "application/vnd.ollama.image.template";
const SYSTEM: &str = "application/vnd.ollama.image.system";
const LICENCE: &str = "application/vnd.ollama.image.license";
const PARAMETERS: &str = "application/vnd.ollama.image.params";

/// Why Ollama would not take a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OllamaError {
    /// Not a name for a model.
    #[error(
        "'{name}' is not a name for Ollama: {part} '{text}' must have 1 to {longest} letters, digits, '_', '-' or '.', and begin with a letter, a digit or '_'; a namespace has no '.'"
    )]
    Name {
        name: String,
        /// Which part of it.
        part: &'static str,
        /// What that is.
        text: String,
        /// How long it may be.
        longest: usize,
    },
    /// A name of more than four parts.
    #[error("'{0}' is not a name for Ollama: expected [HOST/][NAMESPACE/]NAME[:TAG]")]
    Parts(String),
    /// Two models under one name.
    #[error("two models would both be '{0}' for Ollama; give one of them another reference")]
    Twice(OllamaName),
    /// Shards.
    #[error(
        "model {model} is split into several files ({file}, …), and Ollama keeps the weights of a model as one blob: give it the whole file (llama.cpp's `llama-gguf-split --merge` makes it of the shards), or serve the shards with llama.cpp"
    )]
    Split {
        model: String,
        /// One of its files.
        file: String,
    },
    /// Another format.
    #[error("model {model} is {format}, and Ollama serves GGUF; convert it with llama.cpp's convert_hf_to_gguf.py", format = .format.as_str())]
    Format {
        model: String,
        /// What it is.
        format: ModelFormat,
    },
    /// A part of a model.
    #[error(
        "model {model} is not a model of its own but of the kind '{kind}'; Ollama needs the model that it belongs to"
    )]
    Kind {
        model: String,
        /// What it is.
        kind: String,
    },
    /// More than one.
    #[error(
        "model {model} has several models in it ({files}), and Ollama keeps one under a name: make a model of each"
    )]
    Several {
        model: String,
        /// Their files.
        files: String,
    },
    /// No file of weights.
    #[error("model {0} has no file whose name ends with .gguf")]
    NoWeights(String),
}

impl Classified for OllamaError {
    fn class(&self) -> Class {
        match self {
            Self::Name { .. }
            | Self::Parts(_)
            | Self::Twice(_)
            | Self::Split { .. }
            | Self::Format { .. }
            | Self::Kind { .. }
            | Self::Several { .. }
            | Self::NoWeights(_) => Class::Failed,
        }
    }
}

/// What Ollama calls a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OllamaName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

impl OllamaName {
    /// Reads `[HOST/][NAMESPACE/]NAME[:TAG]`; by default that is `registry.ollama.ai/library/NAME:latest`.
    ///
    /// # Errors
    /// If Ollama would not take it for a name.
    pub fn parse(text: &str) -> Result<Self, OllamaError> {
        let is_tag = text.rfind(':') > text.rfind('/');
        let (path, tag) = text.rsplit_once(':').filter(|_| is_tag).unwrap_or((text, "latest"));
        let mut parts = path.rsplitn(4, '/');
        let model = parts.next().unwrap_or_default();
        let namespace = parts.next().unwrap_or("library");
        let host = parts.next().unwrap_or("registry.ollama.ai");
        if parts.next().is_some() {
            return Err(OllamaError::Parts(text.to_owned()));
        }
        for (part, value, longest) in
            [("host", host, 350), ("namespace", namespace, 80), ("name", model, 80), ("tag", tag, 80)]
        {
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let more = |byte: u8| match byte {
                b'-' => true,
                b'.' => part != "namespace",
                b':' => part == "host",
                byte => is_word(byte),
            };
            let fits = (1..=longest).contains(&value.len());
            if !fits || !value.bytes().next().is_some_and(is_word) || !value.bytes().all(more) {
                let (name, text) = (text.to_owned(), value.to_owned());
                return Err(OllamaError::Name { name, part, text, longest });
            }
        }
        let [host, namespace, model, tag] = [host, namespace, model, tag].map(str::to_owned);
        Ok(Self { host, namespace, model, tag })
    }

    /// Where its manifest is, below the directory.
    #[must_use]
    pub fn path(&self) -> String {
        format!("manifests/{}/{}/{}/{}", self.host, self.namespace, self.model, self.tag)
    }
}

impl fmt::Display for OllamaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}:{}", self.host, self.namespace, self.model, self.tag)
    }
}

/// A model in Ollama's directory: its manifest and its small blobs are texts, its large ones are files of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OllamaModel {
    pub(crate) name: OllamaName,
    /// Its manifest.
    pub(crate) manifest: String,
    /// Its config, one of the texts.
    pub(crate) config: Digest,
    /// Its small blobs by digest.
    pub(crate) texts: BTreeMap<Digest, String>,
    /// Its large blobs.
    pub(crate) weights: Vec<ModelFile>,
}

/// Where a blob is, below the directory.
#[must_use]
pub(crate) fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256-{}", digest.hex())
}

#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OllamaManifest {
    schema_version: u32,
    media_type: &'static str,
    config: OllamaLayer,
    layers: Vec<OllamaLayer>,
}

#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OllamaLayer {
    media_type: &'static str,
    digest: Digest,
    size: u64,
}

/// The config, in the order of the fields of its Go type.
#[derive(Serialize, schemars::JsonSchema)]
struct OllamaConfig<'a> {
    model_format: &'static str,
    model_family: &'a str,
    model_families: [&'a str; 1],
    model_type: String,
    file_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    renderer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parser: Option<&'a str>,
    architecture: &'static str,
    os: &'static str,
}

/// What `ollama create` would make of a model.
///
/// # Errors
/// If Ollama would not take it.
pub(crate) fn ollama(model: &DescribedModel, options: &ModelfileOptions) -> Result<OllamaModel, OllamaError> {
    let name = OllamaName::parse(options.reference.as_deref().unwrap_or(&model.name))?;
    let (called, facts) = (|| model.name.clone(), &model.facts);
    if facts.format != ModelFormat::Gguf {
        return Err(OllamaError::Format { model: called(), format: facts.format });
    }
    if let Some(kind) = facts.kind.as_ref().filter(|kind| *kind != "model") {
        return Err(OllamaError::Kind { model: called(), kind: kind.clone() });
    }
    let weights: Vec<&ModelFile> = model.of(FileRole::Weights).collect();
    // The only one of its shards is whole.
    let is_shard = |file: &ModelFile| ShardName::parse(file.file_name()).is_some_and(|shard| shard.count > 1);
    let weights = match &weights[..] {
        [] => return Err(OllamaError::NoWeights(called())),
        [file] if !is_shard(file) => *file,
        [_, ..] if !weights.iter().any(|file| is_shard(file)) => {
            let files = weights.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(", ");
            return Err(OllamaError::Several { model: called(), files });
        }
        [file, ..] => return Err(OllamaError::Split { model: called(), file: file.file_name().to_owned() }),
    };

    let architecture = facts.architecture.as_deref().unwrap_or("unknown");
    let (renderer, parser, stop) = defaults(architecture);
    let config = OllamaConfig {
        model_format: facts.format.as_str(),
        model_family: architecture,
        model_families: [architecture],
        model_type: human(facts.parameters),
        // Ollama takes 0, which is F32, for a file type that is not there.
        file_type: facts.quantization.as_deref().filter(|quantization| *quantization != "F32").unwrap_or("unknown"),
        renderer: options.renderer.as_deref().or(renderer),
        parser: options.parser.as_deref().or(parser),
        architecture: "amd64",
        os: "linux",
    };
    let mut params = options.params.clone();
    if let Some(stop) = stop.filter(|_| options.renderer.is_none() || options.parser.is_none()) {
        params.entry("stop").or_insert_with(|| vec![stop].into());
    }

    let mut texts = BTreeMap::new();
    let mut small = |media_type, text: String| {
        let (digest, size) = (Digest::of(text.as_bytes()), text.len() as u64);
        texts.insert(digest, text);
        OllamaLayer { media_type, digest, size }
    };
    let config = small(CONFIG, encoded(&config));
    let large = |media_type, file: &ModelFile| OllamaLayer { media_type, digest: file.sha256, size: file.size };
    let mut layers = vec![large(MODEL, weights)];
    // Ollama takes an adapter as GGUF too, whatever format it was trained in.
    let is_gguf = |file: &&ModelFile| named(&file.path) == Named::Weights(ModelFormat::Gguf);
    let adapters: Vec<&ModelFile> = model.of(FileRole::Adapter).filter(is_gguf).collect();
    layers.extend(model.of(FileRole::Projector).map(|file| large(PROJECTOR, file)));
    layers.extend(adapters.iter().map(|file| large(ADAPTER, file)));
    // In this order; an empty text counts as absent.
    let given = [(TEMPLATE, &options.template), (SYSTEM, &options.system)];
    let given = given.into_iter().filter_map(|(media_type, text)| Some((media_type, text.as_ref()?)));
    let given = given.chain(options.licences.iter().map(|text| (LICENCE, text)));
    layers.extend(given.filter(|(_, text)| !text.is_empty()).map(|(media_type, text)| small(media_type, text.clone())));
    if !params.is_empty() {
        layers.push(small(PARAMETERS, encoded(&as_go(&Value::Object(params)))));
    }
    let digest = config.digest;
    let manifest = encoded(&OllamaManifest { schema_version: 2, media_type: MANIFEST, config, layers });
    let weights = std::iter::once(weights).chain(model.of(FileRole::Projector)).chain(adapters).cloned().collect();
    Ok(OllamaModel { name, manifest, config: digest, texts, weights })
}

/// What Go's `json.Encoder` writes: it ends every value with a new line.
fn encoded<T: Serialize>(value: &T) -> String {
    String::from_utf8(to_go(value)).expect("JSON is UTF-8") + "\n"
}

/// Renderer, parser and the word to stop at that `ollama create` adds for an architecture by itself.
fn defaults(architecture: &str) -> (Option<&'static str>, Option<&'static str>, Option<&'static str>) {
    match architecture {
        "gemma4" => (Some("gemma4"), Some("gemma4"), Some("<turn|>")),
        "laguna" => (Some("laguna"), Some("laguna"), None),
        "nemotron_h" | "nemotron_h_moe" | "nemotron_h_omni" => (Some("nemotron-3-nano"), Some("nemotron-3-nano"), None),
        _ => (None, None, None),
    }
}

/// A number as Ollama shows it: `134.52M`, `1.2B`, `8B`.
fn human(number: u64) -> String {
    let (unit, divisor, decimals) = match number {
        1_000_000_000.. => ("B", 1_000_000_000, 1),
        1_000_000.. => ("M", 1_000_000, 2),
        1_000.. => ("K", 1_000, 0),
        _ => return number.to_string(),
    };
    let decimals = if number.is_multiple_of(divisor) { 0 } else { decimals };
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = number as f64 / divisor as f64;
    format!("{value:.decimals$}{unit}")
}

/// Go writes a float that is whole without a point.
fn as_go(value: &Value) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough")]
    let whole = |number: &Number| {
        let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15);
        float.map(|float| Value::from(float as i64))
    };
    match value {
        Value::Number(number) => whole(number).unwrap_or_else(|| value.clone()),
        Value::Array(items) => items.iter().map(as_go).collect(),
        Value::Object(keys) => Value::Object(keys.iter().map(|(key, value)| (key.clone(), as_go(value))).collect()),
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::forms::artifact::samples::{smollm2, with_files};
    use serde_json::json;

    fn options(value: Value) -> ModelfileOptions {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_config_is_that_of_ollama_create() {
        let made = ollama(&smollm2(), &ModelfileOptions::default()).unwrap();
        let config = r#"{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"134.52M","file_type":"Q4_1","architecture":"amd64","os":"linux"}"#;
        assert_eq!(made.texts[&made.config], format!("{config}\n"));
        assert_eq!(made.texts.len(), 1);
        assert_eq!(made.name.path(), "manifests/registry.ollama.ai/library/smollm2/latest");
        let (config, weights) = (made.config, made.weights[0].sha256);
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{CONFIG}","digest":"{config}","size":152}},"layers":[{{"mediaType":"{MODEL}","digest":"{weights}","size":98362432}}]}}"#
        );
        assert_eq!(made.manifest, format!("{expected}\n"));
    }

    #[test]
    fn what_a_modelfile_says_is_in_texts_in_the_order_of_ollama() {
        let options = options(json!({
            "reference": "hf.co/team/Smol:q4", "template": "{{ .Prompt }}", "system": "", "licences": ["MIT", "more"],
            "params": { "temperature": 1.0, "stop": ["<|im_end|>"], "num_ctx": 4096, "min_p": 0.05 },
        }));
        let made = ollama(&smollm2(), &options).unwrap();
        assert_eq!(made.name.path(), "manifests/hf.co/team/Smol/q4");
        let manifest: Value = serde_json::from_str(&made.manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let text = |layer: &Value| {
            let digest = layer["digest"].as_str().unwrap().parse().unwrap();
            let text = made.texts.get(&digest).cloned();
            assert!(text.as_ref().is_none_or(|text| text.len() as u64 == layer["size"]));
            (layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned(), text.unwrap_or_default())
        };
        let params = "{\"min_p\":0.05,\"num_ctx\":4096,\"stop\":[\"\\u003c|im_end|\\u003e\"],\"temperature\":1}\n";
        let expected =
            [("model", ""), ("template", "{{ .Prompt }}"), ("license", "MIT"), ("license", "more"), ("params", params)];
        let expected = expected.map(|(kind, text)| (kind.to_owned(), text.to_owned()));
        assert_eq!(layers.iter().map(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_ollama_adds_by_itself_for_an_architecture_is_there() {
        let mut model = smollm2();
        model.facts.architecture = Some("gemma4".to_owned());
        model.facts.quantization = Some("F32".to_owned());
        let made = ollama(&model, &ModelfileOptions::default()).unwrap();
        let config: Value = serde_json::from_str(&made.texts[&made.config]).unwrap();
        assert_eq!(
            (&config["renderer"], &config["parser"], &config["file_type"]),
            (&json!("gemma4"), &json!("gemma4"), &json!("unknown"))
        );
        assert!(made.texts.values().any(|text| text == "{\"stop\":[\"\\u003cturn|\\u003e\"]}\n"), "{:?}", made.texts);
    }

    #[test]
    fn numbers_are_those_of_ollama() {
        let numbers = [
            (999, "999"),
            (1000, "1K"),
            (1999, "2K"),
            (26_000_000, "26M"),
            (361_821_120, "361.82M"),
            (1_000_000_000, "1B"),
            (1_235_814_400, "1.2B"),
        ];
        for (number, text) in numbers {
            assert_eq!(human(number), text);
        }
    }

    #[test]
    fn names_have_four_parts_that_are_files() {
        let path = |text: &str| OllamaName::parse(text).map(|name| name.to_string());
        assert_eq!(path("m").unwrap(), "registry.ollama.ai/library/m:latest");
        assert_eq!(path("team/m:1").unwrap(), "registry.ollama.ai/team/m:1");
        assert_eq!(path("localhost:5000/team/m").unwrap(), "localhost:5000/team/m:latest");
        let long = "x".repeat(81);
        for text in ["", ":1", "m:", "a/b/c/d", "a//m", "te.am/m", "-m", ".m", "m:..", "../m", "m m", "é", &long] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_ollama_cannot_serve_is_refused_with_the_reason() {
        let said = |model: &DescribedModel| ollama(model, &ModelfileOptions::default()).unwrap_err().to_string();
        for shards in
            [&["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"][..], &["x/a-00001-of-00002.gguf", "x/b.json"]]
        {
            assert!(said(&with_files(shards)).starts_with("model m is split into several files (a-00001-of-0000"));
        }
        let mut model = smollm2();
        model.facts.kind = Some("adapter".to_owned());
        assert_eq!(
            said(&model),
            "model smollm2 is not a model of its own but of the kind 'adapter'; Ollama needs the model that it belongs to"
        );
        model.facts.format = ModelFormat::Safetensors;
        assert!(said(&model).starts_with("model smollm2 is safetensors, and Ollama serves GGUF"));
        assert_eq!(said(&with_files(&["a.bin", "b.json"])), "model m has no file whose name ends with .gguf");
    }

    #[test]
    fn an_adapter_is_a_layer_of_its_own_and_what_is_served_to_no_one_is_left_out() {
        let mut model = with_files(&["m.gguf", "l.gguf", "imatrix.gguf", "peft/adapter_model.safetensors"]);
        let kinds = [("l.gguf", "adapter"), ("imatrix.gguf", "imatrix"), ("peft/adapter_model.safetensors", "adapter")];
        model.facts.beside = kinds.map(|(path, kind)| (path.to_owned(), kind.to_owned())).into();
        let made = ollama(&model, &ModelfileOptions::default()).unwrap();
        assert!(made.manifest.contains(ADAPTER));
        assert_eq!(made.weights.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["m.gguf", "l.gguf"]);
        let error =
            ollama(&with_files(&["a/m.gguf", "b/n.gguf"]), &ModelfileOptions::default()).unwrap_err().to_string();
        assert!(error.starts_with("model m has several models in it (a/m.gguf, b/n.gguf)"), "{error}");
    }

    #[test]
    fn a_projector_is_a_layer_of_its_own() {
        let made = ollama(&with_files(&["m.gguf", "mmproj-m.gguf"]), &ModelfileOptions::default()).unwrap();
        assert!(made.manifest.contains(PROJECTOR));
        assert_eq!(made.weights.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["m.gguf", "mmproj-m.gguf"]);
    }
}
