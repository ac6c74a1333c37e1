//! Model files: what they are, where they come from, and the forms that other tools want them in.
//!
//! A model is known by the bytes of its files: the SHA-256 of a file is what Hugging Face publishes, what Nix pins, what
//! Ollama and OCI artifacts name a blob by. What is in them is read from their headers alone, in constant memory.
//!
//! | wing | uses |
//! |---|---|
//! | `licence` | |
//! | `read` | `licence` |
//! | `pin` | `read` |
//! | `forms` | `read` |

pub(crate) mod forms;
pub(crate) mod licence;
pub(crate) mod pin;
pub(crate) mod read;
