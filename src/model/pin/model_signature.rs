//! Signatures of models as OpenSSF model-signing has them (`model.sig`): a Sigstore bundle with a statement of the digest of each file.
//!
//! Format: *OpenSSF Model Signing (OMS) 1.0*, and what the PyPI package `model-signing` 1.1 writes. Only whole files by SHA-256
//! are compared; it can also cut files into shards and use other hashes. Signatures are those of a key; what a certificate says
//! is not read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use crate::class::{Class, Classified};
use crate::oci::digest::{Digest, Hasher};
use crate::signing::key::SignatureKey;
use crate::signing::sigstore_bundle::SigstoreBundle;
use crate::signing::statement::{InTotoStatement, StatedSubject};

/// What the statement says that it is.
const SIGNATURE: &str = "https://model_signing/signature/v1.0";
/// What a model of one file is called that was signed by itself.
const ALONE: &str = ".";
/// Files that are named in a message.
const NAMED: usize = 3;

/// Why a model is not what was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ModelSignatureError {
    #[error("not a signature of OpenSSF model-signing: {0}")]
    Format(String),
    #[error("it is not signed by this key: {0}")]
    Key(&'static str),
    /// A way to hash that is not compared here.
    #[error(
        "the files were signed by {method} with {hash}, and windlass compares whole files by sha256; sign them again so"
    )]
    Method { method: String, hash: String },
    /// Files that are not what was signed.
    #[error("what was signed is not this model: {}", .0.join("; "))]
    Files(Vec<String>),
}

impl Classified for ModelSignatureError {
    fn class(&self) -> Class {
        match self {
            Self::Format(_) | Self::Key(_) | Self::Method { .. } | Self::Files(_) => Class::Unverified,
        }
    }
}

#[derive(Deserialize)]
struct SignedModel {
    serialization: ModelSerialization,
    resources: Vec<SignedFile>,
}

#[derive(Deserialize)]
struct ModelSerialization {
    method: String,
    hash_type: String,
}

#[derive(Deserialize)]
struct SignedFile {
    name: String,
    digest: String,
    algorithm: String,
}

/// Compares the files of a model, by their places in its directory, with what the key has signed.
///
/// # Errors
/// See [`ModelSignatureError`].
pub(crate) fn verify(
    bundle: &[u8],
    key: &SignatureKey,
    files: &BTreeMap<&str, Digest>,
) -> Result<(), ModelSignatureError> {
    let bundle: SigstoreBundle =
        serde_json::from_slice(bundle).map_err(|error| ModelSignatureError::Format(error.to_string()))?;
    let statement = bundle.verified(key).map_err(ModelSignatureError::Key)?;
    if statement.predicate_type != SIGNATURE {
        return Err(ModelSignatureError::Format(format!("it states {}", statement.predicate_type)));
    }
    let SignedModel { serialization, resources } = serde_json::from_value(statement.predicate.clone())
        .map_err(|error| ModelSignatureError::Format(error.to_string()))?;
    let other = resources.iter().find(|file| file.algorithm != "sha256");
    if serialization.method != "files" || serialization.hash_type != "sha256" || other.is_some() {
        let hash = other.map_or(serialization.hash_type, |file| file.algorithm.clone());
        return Err(ModelSignatureError::Method { method: serialization.method, hash });
    }
    let mut signed: BTreeMap<&str, Digest> = BTreeMap::new();
    for file in &resources {
        let digest = Digest::from_hex(&file.digest).map_err(|error| ModelSignatureError::Format(error.to_string()))?;
        if signed.insert(&file.name, digest).is_some() {
            return Err(ModelSignatureError::Format(format!("it names '{}' twice", file.name.escape_debug())));
        }
    }
    // The digest that it is known by is that of the others, in the order in which they are.
    if !statement.is_about(of_all(resources.iter().map(|file| signed[&*file.name]))) {
        return Err(ModelSignatureError::Format("its digest is not that of the files that it names".to_owned()));
    }
    if let (Some(alone), [(_, digest)]) = (signed.get(ALONE), &files.iter().collect::<Vec<_>>()[..])
        && signed.len() == 1
    {
        return if *digest == alone { Ok(()) } else { Err(changed("the file", *alone, **digest)) };
    }
    let mut wrong = Vec::new();
    for (name, digest) in files {
        if let Some(signed) = signed.get(name).filter(|signed| *signed != digest)
            && let ModelSignatureError::Files(lines) = changed(&format!("'{}'", name.escape_debug()), *signed, *digest)
        {
            wrong.extend(lines);
        }
    }
    let list = |of: &BTreeMap<&str, Digest>, other: &BTreeMap<&str, Digest>, what: &str| {
        let names: Vec<String> = of
            .keys()
            .filter(|name| !other.contains_key(*name))
            .map(|name| format!("'{}'", name.escape_debug()))
            .collect();
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!names.is_empty()).then(|| format!("{what} {}{more}", names[..names.len().min(NAMED)].join(", ")))
    };
    wrong.extend(list(&signed, files, "signed and not in the model:"));
    wrong.extend(list(files, &signed, "in the model and not signed:"));
    if wrong.is_empty() { Ok(()) } else { Err(ModelSignatureError::Files(wrong)) }
}

fn changed(name: &str, signed: Digest, found: Digest) -> ModelSignatureError {
    ModelSignatureError::Files(vec![format!("{name} has {found}, and {signed} was signed")])
}

/// The statement of the files of a model.
pub(crate) fn statement(name: &str, files: &BTreeMap<&str, Digest>) -> InTotoStatement {
    let resources: Vec<_> = files
        .iter()
        .map(|(name, digest)| json!({ "name": name, "digest": digest.hex(), "algorithm": "sha256" }))
        .collect();
    let predicate = json!({
        "serialization": { "method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": [] },
        "resources": resources,
    });
    InTotoStatement::new(vec![StatedSubject::new(name, of_all(files.values().copied()))], SIGNATURE, predicate)
}

/// The digest of digests.
fn of_all(digests: impl Iterator<Item = Digest>) -> Digest {
    let mut hasher = Hasher::new();
    digests.for_each(|digest| hasher.update(digest.as_bytes()));
    hasher.finish().0
}
