//! What model files are: their headers are read, and no tensor.
//!
//! | question | module |
//! |---|---|
//! | what should this file be, by its name? | [`named`]; [`formats`] has the table |
//! | what is it, by its bytes? | [`sniff`] |
//! | what is this model? | [`inspect`] looks for it, `folder` reads it, and gives [`facts`] |
//! | GGUF | [`gguf`], `gguf_values`, `gguf_facts`, [`ggml`] (the numbers of types) |
//! | safetensors, and what lies beside them | [`safetensors`], `card`, `json` |
//! | which files belong together? | [`shards`] |
//! | do the layers of a model hold what they say? | [`layers`] |
//!
//! Everything is read through [`cursor`], which ends at the end of a header whatever that header says.

mod card;
pub(crate) mod cursor;
pub(crate) mod facts;
mod folder;
pub(crate) mod formats;
pub(crate) mod ggml;
pub(crate) mod gguf;
pub(crate) mod gguf_facts;
pub(crate) mod gguf_values;
pub(crate) mod inspect;
mod json;
pub(crate) mod layers;
pub(crate) mod named;
pub(crate) mod safetensors;
pub(crate) mod shards;
pub(crate) mod sniff;
