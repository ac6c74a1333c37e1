//! Compose files, to and from container descriptions.
//!
//! [`export`](mod@export) writes a compose file for a stack, for people without NixOS. [`import`](mod@import) turns a
//! compose file into a NixOS configuration and says of every key of the file what became of it:
//!
//! ```text
//! read: yaml ──► variables ──► import: one module for each kind of key ──► nix
//!        tree     when read             take or leave, with the reason      text
//!                                                 └──► account              what became of every key
//! ```
//!
//! | wing | uses |
//! |---|---|
//! | `read` | |
//! | `import` | `read` |
//! | `export` | |

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod read;
