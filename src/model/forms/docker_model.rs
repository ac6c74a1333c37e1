//! Docker Model Runner: the artifact that `docker model pull` and `POST /models/load` take.
//!
//! Facts of its format are those of docker/model-runner's `pkg/distribution`. GGUF alone is the first version of its
//! config, which unpacks files by what they are; a model with other files is the second, which keeps their paths.

use serde::Serialize;

use super::artifact::{Artifact, ArtifactDocument, DescribedModel, FileRole, artifact, scaled};
use crate::model::read::facts::ModelFormat;
use crate::oci::digest::Digest;

const CONFIG: &str = "application/vnd.docker.ai.model.config.v0.1+json";
const CONFIG_WITH_PATHS: &str = "application/vnd.docker.ai.model.config.v0.2+json";

/// The config, in the order of the fields of its Go types.
#[derive(Serialize, schemars::JsonSchema)]
struct DockerModelConfig<'a> {
    config: DockerModelTechnical<'a>,
    descriptor: DockerModelDescriptor,
    rootfs: DockerModelRootFs,
}

#[derive(Serialize, schemars::JsonSchema)]
struct DockerModelTechnical<'a> {
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantization: Option<&'a str>,
    parameters: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    architecture: Option<&'a str>,
    size: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_size: Option<i32>,
}

/// When it was made would be here.
#[derive(Serialize, schemars::JsonSchema)]
struct DockerModelDescriptor {}

#[derive(Serialize, schemars::JsonSchema)]
struct DockerModelRootFs {
    r#type: &'static str,
    diff_ids: Vec<Digest>,
}

/// The model as an artifact of Docker Model Runner.
#[must_use]
pub fn docker_model(model: &DescribedModel) -> Artifact {
    let facts = &model.facts;
    let of = |role| model.of(role).map(|file| file.size).sum::<u64>();
    // One that is not a model of its own is its whole weight.
    let weights = match of(FileRole::Weights) {
        0 => model.files.iter().map(|file| file.size).sum(),
        weights => weights,
    };
    let config = DockerModelConfig {
        config: DockerModelTechnical {
            format: facts.format.as_str(),
            quantization: facts.quantization.as_deref(),
            parameters: scaled(facts.parameters, 1000, &["", "K", "M", "B", "T", "Q"], 2),
            architecture: facts.architecture.as_deref(),
            size: scaled(weights, 1024, &["B", "KiB", "MiB", "GiB", "TiB"], 2),
            context_size: facts.context_length.and_then(|length| i32::try_from(length).ok()),
        },
        descriptor: DockerModelDescriptor {},
        rootfs: DockerModelRootFs { r#type: "rootfs", diff_ids: model.files.iter().map(|file| file.sha256).collect() },
    };
    let is_flat =
        |role| matches!(role, FileRole::Weights | FileRole::Projector | FileRole::ChatTemplate | FileRole::Licence);
    let is_flat = facts.format == ModelFormat::Gguf && model.files.iter().all(|file| is_flat(model.role(file)));
    let config = ArtifactDocument::new(if is_flat { CONFIG } else { CONFIG_WITH_PATHS }, &config);
    artifact(model, None, config, |role| media_type(role, facts.format))
}

const fn media_type(role: FileRole, format: ModelFormat) -> &'static str {
    match (role, format) {
        (FileRole::Weights, ModelFormat::Gguf) => "application/vnd.docker.ai.gguf.v3",
        (FileRole::Weights, ModelFormat::Safetensors) => "application/vnd.docker.ai.safetensors",
        (FileRole::Adapter, ModelFormat::Gguf) => "application/vnd.docker.ai.gguf.v3.lora",
        (FileRole::Adapter, ModelFormat::Safetensors) => "application/vnd.docker.ai.model.file",
        (FileRole::Projector, _) => "application/vnd.docker.ai.mmproj",
        (FileRole::ChatTemplate, _) => "application/vnd.docker.ai.chat.template.jinja",
        (FileRole::Licence, _) => "application/vnd.docker.ai.license",
        (FileRole::Text | FileRole::Config | FileRole::Other, _) => "application/vnd.docker.ai.model.file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::forms::artifact::samples::{smollm2, with_files};

    #[test]
    fn one_gguf_file_is_the_first_version_of_the_config() {
        let artifact = docker_model(&smollm2());
        let (config, manifest) = (String::from_utf8(artifact.config.bytes), String::from_utf8(artifact.manifest.bytes));
        assert_eq!(config.unwrap(), CONFIG_BYTES);
        assert_eq!(manifest.unwrap(), MANIFEST_BYTES);
        assert_eq!(
            artifact.manifest.digest.to_string(),
            "sha256:fdba05bdbdf8efb907bac7d7a56cc2b1b206af921ccf2ba33048801f32151179"
        );
    }

    const CONFIG_BYTES: &str = r#"{"config":{"format":"gguf","quantization":"Q4_1","parameters":"134.52M","architecture":"llama","size":"93.81MiB","context_size":8192},"descriptor":{},"rootfs":{"type":"rootfs","diff_ids":["sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"]}}"#;
    const MANIFEST_BYTES: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.docker.ai.model.config.v0.1+json","digest":"sha256:17fa4235bab3ad2a6553605eaff60a4c7f669bba87f12645d32f39d562c0e1d8","size":264},"layers":[{"mediaType":"application/vnd.docker.ai.gguf.v3","digest":"sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53","size":98362432,"annotations":{"org.cncf.model.file.mediatype.untested":"false","org.cncf.model.file.metadata+json":"{\"name\":\"smollm2.gguf\",\"mode\":420,\"uid\":0,\"gid\":0,\"size\":98362432,\"mtime\":\"1970-01-01T00:00:01Z\",\"typeflag\":48}","org.cncf.model.filepath":"smollm2.gguf","org.opencontainers.image.title":"smollm2.gguf"}}],"annotations":{"org.opencontainers.image.licenses":"Apache-2.0","org.opencontainers.image.title":"SmolLM2 135M","org.windlass.model.architecture":"llama","org.windlass.model.context-length":"8192","org.windlass.model.embedding-length":"576","org.windlass.model.format":"gguf","org.windlass.model.parameters":"134515008","org.windlass.model.quantization":"Q4_1"}}"#;

    #[test]
    fn files_with_paths_are_the_second() {
        let version = |paths: &[&str]| docker_model(&with_files(paths)).config.media_type;
        assert_eq!(version(&["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]), CONFIG);
        assert_eq!(version(&["m.gguf", "mmproj-m.gguf", "chat_template.jinja", "LICENSE"]), CONFIG);
        assert_eq!(version(&["m.gguf", "README.md"]), CONFIG_WITH_PATHS);
    }

    #[test]
    fn a_context_that_docker_cannot_count_is_left_out() {
        let mut model = smollm2();
        model.facts.context_length = Some(1 << 40);
        assert!(!String::from_utf8(docker_model(&model).config.bytes).unwrap().contains("context_size"));
    }
}
