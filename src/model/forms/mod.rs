//! The forms that other tools want a model in: a few small documents around the same bytes.
//!
//! | who | module |
//! |---|---|
//! | images: labels, annotations, `image.json` | [`labels`], [`record`] |
//! | what all artifacts have in common | [`artifact`] |
//! | CNCF ModelPack | [`modelpack`] |
//! | Docker Model Runner | [`docker_model`] |
//! | Ollama | [`ollama`], [`modelfile`] |
//! | llama.cpp, as shards | [`gguf_split`], `gguf_shard` |

pub(crate) mod artifact;
pub(crate) mod docker_model;
mod gguf_shard;
pub(crate) mod gguf_split;
pub(crate) mod labels;
pub(crate) mod modelfile;
pub(crate) mod modelpack;
pub(crate) mod ollama;
pub(crate) mod record;
