//! Forms on a disk: an OCI directory, an archive of one, and Ollama's directory.

use std::fs;
use std::path::Path;

use oci_spec::image::MediaType;

use super::model_dir::{FormError, ModelDir};
use crate::disk::AtPath;
use crate::disk::files::write_file;
use crate::disk::progress::Progress;
use crate::image::archive::{pad, put_header};
use crate::image::{SmallBlob, index_json, oci_layout};
use crate::layer::output::{Output, Verify};
use crate::layer::{Sink, TRAILER, TarEntryKind};
use crate::model::forms::artifact::{Artifact, ArtifactDocument};
use crate::model::forms::ollama::{OllamaModel, blob_path};

/// Whether an artifact with this name is to be one file.
#[must_use]
pub(crate) fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tar")
}

fn index(manifest: &ArtifactDocument, reference: &str) -> Vec<u8> {
    let ArtifactDocument { media_type, digest, bytes } = manifest.clone();
    index_json(&SmallBlob { media_type: MediaType::from(media_type), digest, bytes }, reference)
}

impl ModelDir {
    /// Bytes that a form of the model has, without the few of its documents.
    #[must_use]
    pub(crate) fn payload(&self) -> u64 {
        self.sources.values().map(|source| source.size).sum()
    }

    /// Writes an artifact as an OCI directory into `directory`, which must exist: what skopeo calls `oci:DIR`.
    ///
    /// # Errors
    /// See [`FormError`].
    pub(crate) fn write_directory(
        &self,
        artifact: &Artifact,
        directory: &Path,
        verify: Verify,
        progress: &Progress,
    ) -> Result<(), FormError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        for ArtifactDocument { digest, bytes, .. } in [&artifact.config, &artifact.manifest] {
            write_file(&blobs.join(digest.hex()), bytes, progress)?;
        }
        for digest in artifact.layers.keys() {
            self.put(*digest, &blobs.join(digest.hex()), verify, progress)?;
        }
        write_file(&directory.join("index.json"), &index(&artifact.manifest, &self.reference), progress)?;
        write_file(&directory.join("oci-layout"), &oci_layout(), progress)?;
        Ok(())
    }

    /// Writes an artifact as one file: an OCI archive, with the `manifest.json` that Docker Model Runner's `models/load`
    /// looks for beside the blobs.
    ///
    /// # Errors
    /// See [`FormError`]; what is at `path` is then the beginning of an archive.
    pub(crate) fn write_archive(
        &self,
        artifact: &Artifact,
        path: &Path,
        verify: Verify,
        progress: &Progress,
    ) -> Result<(), FormError> {
        let mut output = Output::create(path, verify, false, progress)?;
        let name = |hex: String| format!("blobs/sha256/{hex}");
        let small = [
            ("index.json".to_owned(), index(&artifact.manifest, &self.reference)),
            ("oci-layout".to_owned(), oci_layout()),
            ("manifest.json".to_owned(), artifact.manifest.bytes.clone()),
            (name(artifact.manifest.digest.hex()), artifact.manifest.bytes.clone()),
            (name(artifact.config.digest.hex()), artifact.config.bytes.clone()),
        ];
        for folder in ["blobs", "blobs/sha256"] {
            put_header(&mut output, folder, TarEntryKind::Directory).at("write", path)?;
        }
        for (name, bytes) in small {
            let size = bytes.len() as u64;
            put_header(&mut output, &name, TarEntryKind::File(size)).at("write", path)?;
            output.bytes(&bytes).at("write", path)?;
            pad(&mut output, size).at("write", path)?;
        }
        for (digest, size) in &artifact.layers {
            put_header(&mut output, &name(digest.hex()), TarEntryKind::File(*size)).at("write", path)?;
            self.give(*digest, &mut output)?;
            pad(&mut output, *size).at("write", path)?;
        }
        output.bytes(&TRAILER).at("write", path)?;
        output.finish()?;
        Ok(())
    }

    /// Writes Ollama's directory with this model into `directory`, which must exist: what `OLLAMA_MODELS` names.
    ///
    /// # Errors
    /// See [`FormError`].
    pub(crate) fn write_ollama(
        &self,
        model: &OllamaModel,
        directory: &Path,
        verify: Verify,
        progress: &Progress,
    ) -> Result<(), FormError> {
        let manifest = directory.join(model.name.path());
        let above = manifest.parent().unwrap_or(directory);
        fs::create_dir_all(above).at("create", above)?;
        fs::create_dir(directory.join("blobs")).at("create", &directory.join("blobs"))?;
        for (digest, text) in &model.texts {
            write_file(&directory.join(blob_path(*digest)), text.as_bytes(), progress)?;
        }
        for file in &model.weights {
            self.put(file.sha256, &directory.join(blob_path(file.sha256)), verify, progress)?;
        }
        write_file(&manifest, model.manifest.as_bytes(), progress)?;
        Ok(())
    }
}
