//! Model files: what they are, where they come from, and the forms that other tools want them in.
//!
//! A model is known by the bytes of its files: the SHA-256 of a file is what Hugging Face publishes, what Nix pins, what
//! Ollama and OCI artifacts name a blob by. What is in them is read from their headers alone, in constant memory.

pub mod add;
pub mod artifact;
mod card;
pub mod cursor;
pub mod docker_model;
pub mod facts;
pub mod ggml;
pub mod gguf;
pub mod gguf_facts;
pub mod gguf_values;
pub mod hub;
pub mod inspect;
mod json;
pub mod labels;
pub mod layers;
pub mod licence;
pub mod lock;
pub mod modelfile;
pub mod modelpack;
pub mod ollama;
pub mod policy;
pub mod record;
pub mod resolve;
pub mod safetensors;
pub mod shards;
pub mod sniff;
pub mod source;
pub mod split;
