//! Statements and signatures, as cosign, in-toto and OpenSSF model-signing have them. It asks no registry and knows no image.
//!
//! | part | what it does |
//! |---|---|
//! | [`key`] | public keys, and whether a signature is theirs |
//! | [`private_key`] | private keys in files, as openssl and cosign write them |
//! | [`signer`] | what signs: a key in a file, or cosign with a key that it alone can reach |
//! | [`statement`] | in-toto statements, and DSSE envelopes around them |
//! | [`sigstore_bundle`] | an envelope with what it is verified by, in one file |
//! | [`simple_signing`] | what cosign signs of an image |
//!
//! Reproducibility: a key in a file makes the same signature of the same bytes each time (RFC 6979), and statements are
//! canonical JSON.

pub(crate) mod key;
pub(crate) mod private_key;
pub(crate) mod signer;
pub(crate) mod sigstore_bundle;
pub(crate) mod simple_signing;
pub(crate) mod statement;
