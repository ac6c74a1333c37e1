//! What is stated of images: how they were made, and that they are signed. Statements are made from image directories, and lie
//! beside what they are about in a registry.
//!
//! | part | what it does |
//! |---|---|
//! | [`provenance`] | says of an image how it was made (SLSA 1.0) |
//! | [`flake_lock`] | reads what a flake was locked to |
//! | [`published`] | finds in a registry what was made of an image |
//! | [`rebuild`] | makes the layers of an image again, and finds the first byte that differs |
//! | [`attach`] | puts signatures and attestations beside it |

pub(crate) mod attach;
pub(crate) mod flake_lock;
pub(crate) mod provenance;
pub(crate) mod published;
pub(crate) mod rebuild;
