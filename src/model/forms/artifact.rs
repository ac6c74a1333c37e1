//! A model as an OCI artifact: what its forms have in common.
//!
//! The files of a model are the layers of the artifact, byte for byte, so that the digest of a layer is the SHA-256 of the
//! file. All else is made of the model's name, its facts, and the names, sizes and digests of its files: no file is read,
//! and no time is in it. Manifests are written as Go writes them ([`to_go`]), because Podman's artifact store does
//! that with whatever manifest it gets.

use std::collections::BTreeMap;

use serde::Serialize;

use super::labels::labels;
use crate::model::read::facts::{Facts, ModelFormat};
use crate::model::read::named::{self, Named, named};
use crate::oci::canonical::to_go;
use crate::oci::digest::Digest;

/// Media type of an OCI manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// When every file was last written to, as far as an artifact tells: one second after the epoch, as in the Nix store.
const MODIFIED: &str = "1970-01-01T00:00:01Z";

/// A model by its files, wherever these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedModel {
    pub(crate) name: String,
    /// What is known of it.
    pub(crate) facts: Facts,
    /// Its files, the weights and what belongs to them, in order.
    pub(crate) files: Vec<ModelFile>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ModelFile {
    /// Its path below the directory that all of them are in.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// Digest of its bytes.
    pub(crate) sha256: Digest,
}

/// What a file of a model is, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileRole {
    /// Tensors, in the format of the model.
    Weights,
    /// Tensors that read images or sounds, beside those of the model.
    Projector,
    /// Tensors that change those of a model: LoRA.
    Adapter,
    /// How a conversation is put into one text.
    ChatTemplate,
    /// The text of a licence.
    Licence,
    /// For people.
    Text,
    /// Configuration, tokenizer; also a GGUF file that is only that, and an importance matrix, which no program serves.
    Config,
    /// Not known.
    Other,
}

impl ModelFile {
    /// Its name without the directories.
    pub(crate) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

impl DescribedModel {
    /// A model with these files, each by the path that it has wherever it is.
    ///
    /// The directory that all of them are in is left out of their paths. A model that is one GGUF file has it under its
    /// own name, `NAME.gguf`, whatever the file was called: so its artifact is the same from a lock and from an image.
    #[must_use]
    pub(crate) fn new(name: &str, facts: Facts, mut files: Vec<ModelFile>) -> Self {
        let steps = |path: &str| path.trim_matches('/').split('/').map(str::to_owned).collect::<Vec<_>>();
        let above = |path: &str| {
            let mut steps = steps(path);
            steps.pop();
            steps
        };
        let common = files.iter().map(|file| above(&file.path)).reduce(|common, path| {
            common.into_iter().zip(path).take_while(|(one, other)| one == other).map(|(one, _)| one).collect()
        });
        let common = common.unwrap_or_default().len();
        for file in &mut files {
            file.path = steps(&file.path)[common..].join("/");
        }
        if let [file] = &mut files[..]
            && facts.format == ModelFormat::Gguf
            && named(&file.path) == Named::Weights(ModelFormat::Gguf)
        {
            file.path = format!("{name}{}", ModelFormat::Gguf.ending());
        }
        files.sort();
        Self { name: name.to_owned(), facts, files }
    }

    /// What a file is: by its header, where that was read, and by its name.
    pub(crate) fn role(&self, file: &ModelFile) -> FileRole {
        let base = file.file_name();
        let of_kind = |kind: &str| match kind {
            "mmproj" => FileRole::Projector,
            "adapter" => FileRole::Adapter,
            "imatrix" | "vocab" => FileRole::Config,
            _ => FileRole::Weights,
        };
        match named(base) {
            Named::Weights(format) => {
                let told = self.facts.beside.iter().find(|(path, _)| named::file_name(path) == base);
                if let Some((_, kind)) = told {
                    return of_kind(kind);
                }
                // What was locked before headers of files beside the model were read.
                if format == ModelFormat::Gguf && base.to_ascii_lowercase().starts_with("mmproj") {
                    return FileRole::Projector;
                }
                self.facts.kind.as_deref().map_or(FileRole::Weights, of_kind)
            }
            Named::ChatTemplate => FileRole::ChatTemplate,
            Named::Licence => FileRole::Licence,
            Named::Text => FileRole::Text,
            Named::Config | Named::Index => FileRole::Config,
            Named::Piece(_) | Named::Other => FileRole::Other,
        }
    }

    /// The files of this role.
    pub(crate) fn of(&self, role: FileRole) -> impl Iterator<Item = &ModelFile> {
        self.files.iter().filter(move |file| self.role(file) == role)
    }

    /// What an artifact's manifest says of it: the same as the model's image, but for what only an image is.
    fn annotations(&self) -> BTreeMap<String, String> {
        let mut labels = labels(&self.name, &self.facts);
        labels.retain(|key, _| !key.starts_with("org.containers."));
        labels
    }
}

/// A document of an artifact: its manifest or its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactDocument {
    /// Media type.
    pub(crate) media_type: &'static str,
    /// Digest of the bytes.
    pub digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

impl ArtifactDocument {
    pub(crate) fn new<T: Serialize>(media_type: &'static str, value: &T) -> Self {
        let bytes = to_go(value);
        Self { media_type, digest: Digest::of(&bytes), bytes }
    }
}

/// A model as an OCI artifact. The bytes of its layers are those of the model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its manifest.
    pub manifest: ArtifactDocument,
    pub(crate) config: ArtifactDocument,
    /// Its layers: digests and sizes of the model's files, each once.
    pub(crate) layers: BTreeMap<Digest, u64>,
}

/// A descriptor, in the order of the fields of OCI's Go types.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ArtifactDescriptor {
    media_type: &'static str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

/// A manifest, likewise.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ArtifactManifest {
    schema_version: u32,
    media_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'static str>,
    config: ArtifactDescriptor,
    layers: Vec<ArtifactDescriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What ModelPack wants to know of a file, and Docker too.
#[derive(Serialize, schemars::JsonSchema)]
struct FileMetadata<'a> {
    name: &'a str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: &'static str,
    typeflag: u8,
}

/// A file's layer. `is_sure`: what it is was read from it, and not only from its name.
fn layer(file: &ModelFile, media_type: &'static str, is_sure: bool) -> ArtifactDescriptor {
    let name = file.file_name();
    // A regular file, as a tar header says it.
    let metadata = FileMetadata { name, mode: 0o644, uid: 0, gid: 0, size: file.size, mtime: MODIFIED, typeflag: b'0' };
    let metadata = String::from_utf8(to_go(&metadata)).expect("JSON is UTF-8");
    let annotations = BTreeMap::from([
        ("org.cncf.model.file.mediatype.untested", (!is_sure).to_string()),
        ("org.cncf.model.file.metadata+json", metadata),
        ("org.cncf.model.filepath", file.path.clone()),
        // Podman names the files of an artifact so, where it mounts or extracts them.
        ("org.opencontainers.image.title", name.to_owned()),
    ]);
    ArtifactDescriptor { media_type, digest: file.sha256, size: file.size, annotations }
}

/// The artifact of a model, with this config and the media type that `of` gives a role.
pub(crate) fn artifact(
    model: &DescribedModel,
    artifact_type: Option<&'static str>,
    config: ArtifactDocument,
    of: impl Fn(FileRole) -> &'static str,
) -> Artifact {
    let layers = model.files.iter().map(|file| {
        let role = model.role(file);
        layer(file, of(role), matches!(role, FileRole::Weights | FileRole::Projector | FileRole::Adapter))
    });
    let (media_type, digest, size) = (config.media_type, config.digest, config.bytes.len() as u64);
    let manifest = ArtifactManifest {
        schema_version: 2,
        media_type: MANIFEST,
        artifact_type,
        config: ArtifactDescriptor { media_type, digest, size, annotations: BTreeMap::new() },
        layers: layers.collect(),
        annotations: model.annotations(),
    };
    let layers = model.files.iter().map(|file| (file.sha256, file.size)).collect();
    Artifact { manifest: ArtifactDocument::new(MANIFEST, &manifest), config, layers }
}

/// A number with a unit of these, each `step` times the one before: `134.52M`, `93.81MiB`; no decimals if they are zero.
pub(crate) fn scaled(number: u64, step: u32, units: &[&str], decimals: usize) -> String {
    let mut value = number;
    let mut divisor = 1_u64;
    let mut unit = units[0];
    for next in &units[1..] {
        if value < u64::from(step) {
            break;
        }
        value /= u64::from(step);
        divisor *= u64::from(step);
        unit = next;
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let text = format!("{:.decimals$}", number as f64 / divisor as f64);
    let zeros = format!(".{}", "0".repeat(decimals));
    format!("{}{unit}", text.strip_suffix(&zeros).unwrap_or(&text))
}

/// Models that the tests of all forms are about.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// SmolLM2, as its file says it.
    pub(crate) fn smollm2() -> DescribedModel {
        let facts = Facts {
            format: ModelFormat::Gguf,
            name: Some("SmolLM2 135M".to_owned()),
            version: None,
            kind: Some("model".to_owned()),
            architecture: Some("llama".to_owned()),
            parameters: 134_515_008,
            quantization: Some("Q4_1".to_owned()),
            context_length: Some(8192),
            embedding_length: Some(576),
            licence: Some("Apache-2.0".to_owned()),
            vendor: None,
            source: None,
            languages: vec!["en".to_owned()],
            chat_template: None,
            beside: BTreeMap::new(),
        };
        let sha256 = "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".parse().unwrap();
        let file = ModelFile { path: "/models/smollm2.gguf".to_owned(), size: 98_362_432, sha256 };
        DescribedModel::new("smollm2", facts, vec![file])
    }

    pub(crate) fn with_files(paths: &[&str]) -> DescribedModel {
        let file = |path: &&str| ModelFile {
            path: (*path).to_owned(),
            size: path.len() as u64,
            sha256: Digest::of(path.as_bytes()),
        };
        DescribedModel::new("m", smollm2().facts, paths.iter().map(file).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::samples::with_files;
    use super::*;

    fn paths(model: &DescribedModel) -> Vec<&str> {
        model.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn a_model_of_one_file_has_it_under_its_own_name_and_others_lose_what_is_above_them() {
        assert_eq!(paths(&with_files(&["/models/some-Q4_1.gguf"])), ["m.gguf"]);
        assert_eq!(paths(&with_files(&["some-Q4_1.gguf"])), ["m.gguf"]);
        let shards = ["/models/x/a-00002-of-00002.gguf", "/models/x/a-00001-of-00002.gguf"];
        assert_eq!(paths(&with_files(&shards)), ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]);
        let nested = ["/models/vae/model.safetensors", "/models/config.json"];
        assert_eq!(paths(&with_files(&nested)), ["config.json", "vae/model.safetensors"]);
        assert_eq!(paths(&with_files(&["/models/ab/x.json", "/models/a/x.json"])), ["a/x.json", "ab/x.json"]);
    }

    #[test]
    fn roles_come_from_names() {
        let roles = [
            ("model-00001-of-00002.safetensors", FileRole::Weights),
            ("M.GGUF", FileRole::Weights),
            ("mmproj-m.gguf", FileRole::Projector),
            ("model.safetensors.index.json", FileRole::Config),
            ("tokenizer.model", FileRole::Config),
            ("chat_template.json", FileRole::ChatTemplate),
            ("LICENSE.md", FileRole::Licence),
            ("README.md", FileRole::Text),
            ("model.onnx", FileRole::Other),
        ];
        for (path, role) in roles {
            let mut model = with_files(&[path, "other/x"]);
            model.facts.kind = None;
            assert!(model.of(role).any(|file| file.path == path), "{path}");
        }
    }

    #[test]
    fn headers_say_more_than_names() {
        let mut model =
            with_files(&["a.gguf", "b.gguf", "c.gguf", "d.gguf", "e.gguf", "lora/adapter_model.safetensors"]);
        model.facts.kind = None;
        let kinds = [("b.gguf", "mmproj"), ("c.gguf", "adapter"), ("d.gguf", "imatrix"), ("e.gguf", "vocab")];
        let kinds = kinds.into_iter().chain([("lora/adapter_model.safetensors", "adapter")]);
        model.facts.beside = kinds.map(|(path, kind)| (path.to_owned(), kind.to_owned())).collect();
        let paths = |role| model.of(role).map(|file| file.path.as_str()).collect::<Vec<_>>();
        assert_eq!(paths(FileRole::Weights), ["a.gguf"]);
        assert_eq!(paths(FileRole::Projector), ["b.gguf"]);
        assert_eq!(paths(FileRole::Adapter), ["c.gguf", "lora/adapter_model.safetensors"]);
        assert_eq!(paths(FileRole::Config), ["d.gguf", "e.gguf"]);
        // One that is not a model of its own has the same role alone.
        let mut alone = with_files(&["x.gguf"]);
        for (kind, role) in
            [("adapter", FileRole::Adapter), ("mmproj", FileRole::Projector), ("imatrix", FileRole::Config)]
        {
            alone.facts.kind = Some(kind.to_owned());
            assert_eq!(alone.role(&alone.files[0]), role, "{kind}");
        }
    }

    #[test]
    fn numbers_are_scaled_as_people_read_them() {
        let units = ["", "K", "M", "B", "T", "Q"];
        let parameters = [(134_515_008, "134.52M"), (8_000_000_000, "8B"), (0, "0"), (999, "999"), (1_500, "1.50K")];
        for (number, text) in parameters {
            assert_eq!(scaled(number, 1000, &units, 2), text);
        }
        assert_eq!(scaled(98_362_432, 1024, &["B", "KiB", "MiB"], 2), "93.81MiB");
    }
}
