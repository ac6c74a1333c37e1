//! Pinning a model: from what people say (`hf:ORG/REPO/FILE`, an address, a path) to files in the Nix store and a line in a lock.
//!
//! [`source`] parses what is said, [`resolve`] asks [`hub`] which files that is, [`add`] downloads them, [`lock`] keeps what they are.
//! [`model_signature`] compares that with what the model's publisher has signed.

pub(crate) mod add;
pub(crate) mod hub;
pub(crate) mod lock;
pub(crate) mod model_signature;
pub(crate) mod resolve;
pub(crate) mod source;
