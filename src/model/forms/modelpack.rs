//! CNCF ModelPack: the artifact that Kubernetes, modctl and Podman's artifact store take.
//!
//! Its specification: *spec.md*, *config.md* and *annotations.md* of model-spec v0.0.7. Layers are `.raw`, the file as it
//! is. What the config has no key for (`additionalProperties` is false throughout) is in annotations of the manifest.

use serde::Serialize;

use super::artifact::{Artifact, ArtifactDocument, DescribedModel, FileRole, artifact, scaled};
use crate::model::read::facts::Facts;
use crate::oci::digest::Digest;

const ARTIFACT: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG: &str = "application/vnd.cncf.model.config.v1+json";

/// The config, in the order of the fields of its Go types.
#[derive(Serialize, schemars::JsonSchema)]
struct ModelPackConfig<'a> {
    descriptor: ModelPackDescriptor<'a>,
    modelfs: ModelFs,
    config: ModelPackTechnical<'a>,
}

#[derive(Serialize, schemars::JsonSchema)]
struct ModelPackDescriptor<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<&'a str>,
    name: &'a str,
    #[serde(rename = "sourceURL", skip_serializing_if = "Option::is_none")]
    source_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vendor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    licenses: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
}

#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ModelFs {
    r#type: &'static str,
    diff_ids: Vec<Digest>,
}

#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ModelPackTechnical<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<&'a str>,
    format: &'static str,
    param_size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantization: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities<'a>>,
}

#[derive(Serialize, schemars::JsonSchema)]
struct Capabilities<'a> {
    languages: Vec<&'a str>,
}

/// The model as a ModelPack artifact.
#[must_use]
pub fn modelpack(model: &DescribedModel) -> Artifact {
    let Facts { architecture, quantization, licence, .. } = &model.facts;
    let languages: Vec<&str> = model.facts.languages.iter().map(String::as_str).filter(is_language).collect();
    let config = ModelPackConfig {
        descriptor: ModelPackDescriptor {
            family: architecture.as_deref(),
            name: &model.name,
            source_url: model.facts.source.as_deref(),
            version: model.facts.version.as_deref(),
            vendor: model.facts.vendor.as_deref(),
            licenses: licence.as_deref().map(|licence| [licence]),
            title: model.facts.name.as_deref(),
        },
        modelfs: ModelFs { r#type: "layers", diff_ids: model.files.iter().map(|file| file.sha256).collect() },
        config: ModelPackTechnical {
            architecture: architecture.as_deref(),
            format: model.facts.format.as_str(),
            param_size: param_size(model.facts.parameters),
            quantization: quantization.as_deref(),
            capabilities: (!languages.is_empty()).then_some(Capabilities { languages }),
        },
    };
    artifact(model, Some(ARTIFACT), ArtifactDocument::new(CONFIG, &config), media_type)
}

/// Two lower-case letters, as the schema asks for.
fn is_language(text: &&str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// At most one decimal, and a unit: numbers below a thousand have no unit.
fn param_size(parameters: u64) -> String {
    if parameters < 1000 {
        let tenths = parameters.div_ceil(100);
        return if tenths.is_multiple_of(10) { format!("{}K", tenths / 10) } else { format!("0.{tenths}K") };
    }
    scaled(parameters, 1000, &["", "K", "M", "B", "T", "Q"], 1)
}

const fn media_type(role: FileRole) -> &'static str {
    match role {
        FileRole::Weights | FileRole::Projector | FileRole::Adapter => "application/vnd.cncf.model.weight.v1.raw",
        FileRole::Licence | FileRole::Text => "application/vnd.cncf.model.doc.v1.raw",
        FileRole::ChatTemplate | FileRole::Config | FileRole::Other => {
            "application/vnd.cncf.model.weight.config.v1.raw"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::forms::artifact::samples::{smollm2, with_files};

    #[test]
    fn a_model_of_one_file_is_known_by_name_facts_digest_and_size() {
        let artifact = modelpack(&smollm2());
        let (config, manifest) = (String::from_utf8(artifact.config.bytes), String::from_utf8(artifact.manifest.bytes));
        assert_eq!(config.unwrap(), CONFIG_BYTES);
        assert_eq!(manifest.unwrap(), MANIFEST_BYTES);
        // The digest of the bytes above: when they change, so does every artifact that was published.
        assert_eq!(
            artifact.config.digest.to_string(),
            "sha256:4b63aedd17152fe5f20514410f3b986ee3a3414603e1cbd8e17342109c427d4e"
        );
        assert_eq!(
            artifact.manifest.digest.to_string(),
            "sha256:f513b44a7f90a99530e3ca96c116aa91989e7e1e37b59885b8fa4c7ed0e6ac1c"
        );
    }

    const CONFIG_BYTES: &str = r#"{"descriptor":{"family":"llama","name":"smollm2","licenses":["Apache-2.0"],"title":"SmolLM2 135M"},"modelfs":{"type":"layers","diffIds":["sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"]},"config":{"architecture":"llama","format":"gguf","paramSize":"134.5M","quantization":"Q4_1","capabilities":{"languages":["en"]}}}"#;
    const MANIFEST_BYTES: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.cncf.model.manifest.v1+json","config":{"mediaType":"application/vnd.cncf.model.config.v1+json","digest":"sha256:4b63aedd17152fe5f20514410f3b986ee3a3414603e1cbd8e17342109c427d4e","size":342},"layers":[{"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":"sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53","size":98362432,"annotations":{"org.cncf.model.file.mediatype.untested":"false","org.cncf.model.file.metadata+json":"{\"name\":\"smollm2.gguf\",\"mode\":420,\"uid\":0,\"gid\":0,\"size\":98362432,\"mtime\":\"1970-01-01T00:00:01Z\",\"typeflag\":48}","org.cncf.model.filepath":"smollm2.gguf","org.opencontainers.image.title":"smollm2.gguf"}}],"annotations":{"org.opencontainers.image.licenses":"Apache-2.0","org.opencontainers.image.title":"SmolLM2 135M","org.windlass.model.architecture":"llama","org.windlass.model.context-length":"8192","org.windlass.model.embedding-length":"576","org.windlass.model.format":"gguf","org.windlass.model.parameters":"134515008","org.windlass.model.quantization":"Q4_1"}}"#;

    #[test]
    fn files_beside_the_weights_are_named_for_what_they_are() {
        let artifact = modelpack(&with_files(&["config.json", "README.md", "model.safetensors", "model.onnx"]));
        let manifest: serde_json::Value = serde_json::from_slice(&artifact.manifest.bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| {
            let of = |key: &str| layer["annotations"][key].as_str().unwrap().to_owned();
            let kind = layer["mediaType"].as_str().unwrap().strip_prefix("application/vnd.cncf.model.").unwrap();
            (of("org.cncf.model.filepath"), kind.to_owned(), of("org.cncf.model.file.mediatype.untested"))
        });
        let expected = [
            ("README.md", "doc.v1.raw", "true"),
            ("config.json", "weight.config.v1.raw", "true"),
            ("model.onnx", "weight.config.v1.raw", "true"),
            ("model.safetensors", "weight.v1.raw", "false"),
        ];
        let expected = expected.map(|(path, kind, untested)| (path.to_owned(), kind.to_owned(), untested.to_owned()));
        assert_eq!(layers.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn sizes_have_one_decimal_and_a_unit() {
        let sizes = [
            (134_515_008, "134.5M"),
            (8_000_000_000, "8B"),
            (1, "0.1K"),
            (999, "1K"),
            (1000, "1K"),
            (0, "0K"),
            (6_738_415_616, "6.7B"),
        ];
        for (parameters, size) in sizes {
            assert_eq!(param_size(parameters), size, "{parameters}");
        }
    }
}
