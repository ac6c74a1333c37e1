//! Private keys in files.
//!
//! cosign encrypts its keys: `scrypt` makes a key of the password, NaCl's `secretbox` closes PKCS#8 with it, and both say in
//! JSON how (`pkg/cosign/keys.go` of cosign, `encrypted` of go-securesystemslib). Anything else is PEM as openssl writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use p256::SecretKey;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey;
use serde::Deserialize;

use super::key::{KeyError, SignatureKey};

/// How the PEM of an encrypted key of cosign is called, now and before its version 2.
const ENCRYPTED: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
/// The most memory that a key may want for its password: cosign takes 64 MiB.
const MOST_MEMORY: u64 = 256 << 20;
/// The most rounds: cosign takes one.
const MOST_ROUNDS: u32 = 16;

/// A private key of ECDSA P-256, with its public key.
#[derive(Debug)]
pub(crate) struct PrivateKey {
    key: SigningKey,
    pub(crate) public: SignatureKey,
}

impl PrivateKey {
    /// Reads a key; `password` is asked for where it is encrypted.
    ///
    /// # Errors
    /// If it is not a key, or there is no password for it, or another one.
    pub(crate) fn parse(pem: &str, password: impl FnOnce() -> Option<String>) -> Result<Self, KeyError> {
        let pem = pem.trim();
        let encrypted = ENCRYPTED.iter().find_map(|label| pem_body(pem, label));
        let key = match encrypted {
            Some(body) => decrypt(&body, &password().ok_or(KeyError::NoPassword)?)?,
            None => SecretKey::from_pkcs8_pem(pem)
                .or_else(|_| SecretKey::from_sec1_pem(without_parameters(pem)))
                .map_err(|_| KeyError::Private)?,
        };
        let key = SigningKey::from(key);
        let public = SignatureKey::new(*key.verifying_key())?;
        Ok(Self { key, public })
    }

    /// The signature over these bytes, in base64: always the same one (RFC 6979).
    pub(crate) fn sign(&self, bytes: &[u8]) -> String {
        let signature: Signature = self.key.sign(bytes);
        STANDARD.encode(signature.to_der())
    }
}

/// `openssl ecparam -genkey` puts the name of the curve before the key.
fn without_parameters(pem: &str) -> &str {
    pem.find("-----BEGIN EC PRIVATE KEY-----").map_or(pem, |at| &pem[at..])
}

/// The text in base64 of a PEM with this label.
fn pem_body(pem: &str, label: &str) -> Option<String> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let body = pem.strip_prefix(&begin)?.strip_suffix(&end)?;
    Some(body.split_ascii_whitespace().collect())
}

#[derive(Deserialize)]
struct EncryptedKey {
    kdf: KeyDerivation,
    cipher: KeyCipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct KeyDerivation {
    name: String,
    params: ScryptParams,
    salt: String,
}

#[derive(Deserialize)]
struct ScryptParams {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct KeyCipher {
    name: String,
    nonce: String,
}

fn decrypt(body: &str, password: &str) -> Result<SecretKey, KeyError> {
    let wrong = |what: String| KeyError::Encrypted(what);
    let base64 =
        |what: &str, text: &str| STANDARD.decode(text).map_err(|error| KeyError::Encrypted(format!("{what}: {error}")));
    let json = base64("its text", body)?;
    let EncryptedKey { kdf, cipher, ciphertext } =
        serde_json::from_slice(&json).map_err(|error| KeyError::Encrypted(error.to_string()))?;
    if (kdf.name.as_str(), cipher.name.as_str()) != ("scrypt", "nacl/secretbox") {
        return Err(wrong(format!("expected scrypt and nacl/secretbox, found '{}' and '{}'", kdf.name, cipher.name)));
    }
    let ScryptParams { n, r, p } = kdf.params;
    let memory = n.saturating_mul(u64::from(r)).saturating_mul(128);
    if !n.is_power_of_two() || n < 2 || memory > MOST_MEMORY || p > MOST_ROUNDS {
        return Err(wrong(format!("the parameters of scrypt are N={n}, r={r}, p={p}, and cosign's are 65536, 8, 1")));
    }
    let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
    let params = scrypt::Params::new(log_n, r, p).map_err(|error| wrong(error.to_string()))?;
    let mut key = [0; 32];
    scrypt::scrypt(password.as_bytes(), &base64("salt", &kdf.salt)?, &params, &mut key)
        .map_err(|error| wrong(error.to_string()))?;
    let nonce = base64("nonce", &cipher.nonce)?;
    let nonce: [u8; 24] = nonce.try_into().map_err(|_| wrong("its nonce does not have 24 bytes".to_owned()))?;
    let closed = base64("ciphertext", &ciphertext)?;
    let opened = XSalsa20Poly1305::new(&key.into()).decrypt(&Nonce::from(nonce), closed.as_slice());
    SecretKey::from_pkcs8_der(&opened.map_err(|_| KeyError::Password)?).map_err(|_| KeyError::Private)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by cosign 2.5.0 with the password `windlass`.
    const ENCRYPTED_KEY: &str = include_str!("../../tests/fixtures/cosign/encrypted.key");
    const PUBLIC_KEY: &str = include_str!("../../tests/fixtures/cosign/encrypted.pub");

    fn parse(pem: &str, password: Option<&str>) -> Result<PrivateKey, KeyError> {
        PrivateKey::parse(pem, || password.map(str::to_owned))
    }

    #[test]
    fn keys_of_cosign_are_opened_with_their_password() {
        let public = SignatureKey::parse(PUBLIC_KEY).unwrap();
        let key = parse(ENCRYPTED_KEY, Some("windlass")).unwrap();
        assert_eq!(key.public.digest, public.digest);
        let signature = key.sign(b"text");
        assert!(public.signed(b"text", &signature) && !public.signed(b"other", &signature));
        assert_eq!(signature, key.sign(b"text"), "a signature is always the same");
        assert!(matches!(parse(ENCRYPTED_KEY, Some("other")), Err(KeyError::Password)));
        assert!(matches!(parse(ENCRYPTED_KEY, None), Err(KeyError::NoPassword)));
    }

    #[test]
    fn a_key_that_wants_all_memory_is_refused_and_so_is_what_is_no_key() {
        let body = pem_body(ENCRYPTED_KEY.trim(), ENCRYPTED[0]).unwrap();
        let json = String::from_utf8(STANDARD.decode(body).unwrap()).unwrap();
        let closed =
            |json: &str| format!("-----BEGIN {0}-----\n{1}\n-----END {0}-----\n", ENCRYPTED[0], STANDARD.encode(json));
        for (from, to, said) in [
            ("65536", "1099511627776", "N=1099511627776"),
            ("65536", "65535", "N=65535"),
            ("scrypt", "pbkdf2", "'pbkdf2'"),
            ("\"r\":8", "\"r\":0", "r"),
            ("{", "[", "expected"),
        ] {
            let error = parse(&closed(&json.replacen(from, to, 1)), Some("windlass")).unwrap_err();
            assert!(matches!(&error, KeyError::Encrypted(_)) && error.to_string().contains(said), "{error}");
        }
        for text in ["", PUBLIC_KEY, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"] {
            assert!(matches!(parse(text, None), Err(KeyError::Private)), "{text}");
        }
    }
}
