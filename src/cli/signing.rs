//! Keys, as the user names them.

use std::path::Path;

use super::failure::{Context, Result};
use super::input;
use crate::disk::bounded::{self, Cap};
use crate::signing::key::SignatureKey;
use crate::signing::private_key::PrivateKey;
use crate::signing::signer::Signer;

/// The variable with the password of an encrypted key, as cosign has it.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// A public key in a file.
pub(super) fn public_key(file: &Path) -> Result<SignatureKey> {
    let pem = bounded::text(file, Cap::Settings).with_context(|| format!("read {}", file.display()))?;
    SignatureKey::parse(&pem).with_context(|| file.display().to_string())
}

/// The key that is meant: one in a file, or one that cosign knows by its address.
pub(super) fn signer(key: &str) -> Result<Signer> {
    if key.contains("://") {
        return Ok(Signer::cosign(key)?);
    }
    let file = Path::new(key);
    input::there(file)?;
    let pem = bounded::text(file, Cap::Settings).with_context(|| format!("read {key}"))?;
    Ok(Signer::Key(Box::new(PrivateKey::parse(&pem, || std::env::var(PASSWORD).ok()).context(key)?)))
}
