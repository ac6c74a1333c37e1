//! Statements and signatures, as cosign, in-toto and OpenSSF model-signing have them. It asks no registry and knows no image.
//!
//! | part | what it does |
//! |---|---|
//! | `cryptography` | what certificates and their signatures are verified with |
//! | [`identity`] | who has to have signed, where a certificate says who that is |
//! | [`key`] | public keys, and whether a signature is theirs |
//! | [`keyless`] | signatures with a certificate of Fulcio and an entry of Rekor |
//! | [`private_key`] | private keys in files, as openssl and cosign write them |
//! | [`signer`] | what signs: a key in a file, or cosign with a key that it alone can reach |
//! | [`statement`] | in-toto statements, and DSSE envelopes around them |
//! | `sigstore` | the library that verifies those |
//! | [`sigstore_bundle`] | an envelope with what it is verified by, in one file |
//! | [`simple_signing`] | what cosign signs of an image |
//!
//! Reproducibility: a key in a file makes the same signature of the same bytes each time (RFC 6979), and statements are
//! canonical JSON.

#[cfg(feature = "keyless")]
mod cryptography;
pub(crate) mod identity;
pub(crate) mod key;
pub(crate) mod keyless;
pub(crate) mod private_key;
pub(crate) mod signer;
#[cfg(feature = "keyless")]
mod sigstore;
pub(crate) mod sigstore_bundle;
pub(crate) mod simple_signing;
pub(crate) mod statement;
