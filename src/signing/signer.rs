//! What signs.
//!
//! A key in a file signs here. Any other key that cosign knows by an address (`awskms://…`, `hashivault://…`, `k8s://…`,
//! `env://…`) signs by `cosign sign-blob`: a signature of the bytes that a DSSE envelope or a payload is signed over is the
//! signature of that envelope or payload. cosign is told to ask no transparency log.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::key::{KeyError, SignatureKey};
use super::private_key::PrivateKey;
use crate::disk::bounded::{self, Cap};

/// A key that signs.
#[derive(Debug)]
pub(crate) enum Signer {
    /// One in a file.
    Key(Box<PrivateKey>),
    /// One that `cosign` reaches.
    Cosign(CosignKey),
}

/// A key that `cosign` reaches.
#[derive(Debug)]
pub(crate) struct CosignKey {
    /// How cosign is told of it.
    uri: String,
    public: SignatureKey,
    /// Whether this cosign gives a signature out in a bundle alone, as from version 3 on.
    in_bundles: bool,
}

/// Without a transparency log and a service of time stamps.
const NO_SERVICES: &str =
    r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogConfig":{},"tsaConfig":{}}"#;

impl Signer {
    /// The key that `cosign` in PATH knows by this address.
    ///
    /// # Errors
    /// If there is no cosign, or it does not know the key.
    pub(crate) fn cosign(uri: &str) -> Result<Self, KeyError> {
        let pem = run("public-key", uri, Command::new("cosign").args(["public-key", "--key", uri]))?;
        let public = SignatureKey::parse(&String::from_utf8_lossy(&pem))?;
        let help = run("sign-blob", uri, Command::new("cosign").args(["sign-blob", "--help"]))?;
        let in_bundles = String::from_utf8_lossy(&help).contains("--signing-config=");
        Ok(Self::Cosign(CosignKey { uri: uri.to_owned(), public, in_bundles }))
    }

    /// The key that its signatures are verified with.
    pub(crate) fn public(&self) -> &SignatureKey {
        match self {
            Self::Key(key) => &key.public,
            Self::Cosign(key) => &key.public,
        }
    }

    /// The signature over these bytes, in base64.
    ///
    /// # Errors
    /// If cosign cannot sign, or what it gives is not a signature of its key.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<String, KeyError> {
        let key = match self {
            Self::Key(key) => return Ok(key.sign(bytes)),
            Self::Cosign(key) => key,
        };
        let failed = |said: String| KeyError::Cosign { verb: "sign-blob", key: key.uri.clone(), said };
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let signature = key.sign_in(folder.path(), bytes)?;
        if key.public.signed(bytes, &signature) {
            return Ok(signature);
        }
        Err(failed("what it gave is not a signature of the key that `cosign public-key` names".to_owned()))
    }
}

impl CosignKey {
    fn sign_in(&self, folder: &Path, bytes: &[u8]) -> Result<String, KeyError> {
        let failed = |said: String| KeyError::Cosign { verb: "sign-blob", key: self.uri.clone(), said };
        let [blob, config, out] = ["blob", "services.json", "signature"].map(|name| folder.join(name));
        let written = std::fs::write(&blob, bytes).and_then(|()| std::fs::write(&config, NO_SERVICES));
        written.map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new("cosign");
        command.args(["sign-blob", "--yes", "--key", &self.uri]);
        match self.in_bundles {
            true => command.arg("--signing-config").arg(&config).arg("--bundle").arg(&out),
            false => command.args(["--tlog-upload=false", "--output-signature"]).arg(&out),
        };
        run("sign-blob", &self.uri, command.arg(&blob))?;
        let text = bounded::text(&out, Cap::Settings).map_err(|error| failed(error.to_string()))?;
        if !self.in_bundles {
            return Ok(text.trim().to_owned());
        }
        let bundle: Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        let signature = bundle["messageSignature"]["signature"].as_str();
        signature.map(str::to_owned).ok_or_else(|| failed("its bundle has no signature".to_owned()))
    }
}

/// What cosign prints.
fn run(verb: &'static str, key: &str, command: &mut Command) -> Result<Vec<u8>, KeyError> {
    let failed = |said: String| KeyError::Cosign { verb, key: key.to_owned(), said };
    let Output { status, stdout, stderr } = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| KeyError::NoCosign { key: key.to_owned(), source })?;
    if status.success() {
        return Ok(stdout);
    }
    let said = String::from_utf8_lossy(&stderr);
    let line = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed, and said nothing");
    Err(failed(line.trim().trim_start_matches("error during command execution: ").to_owned()))
}
