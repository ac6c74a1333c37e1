//! The Nix store: what its paths are called, what Nix says of them, and how files get in.
//!
//! | question | module |
//! |---|---|
//! | is this a store path, and which? | [`store_path`] |
//! | what does Nix say of it? | [`path_info`] |
//! | what does it need? | [`closure`] |
//! | what does nixpkgs say of it? | [`package`] |
//! | is it what Nix recorded? | [`nar`] |
//! | how does a file become a store path, or a root of the garbage collector? | [`store`] |
//! | what does Nix say to a file that is handed to it? | [`connection`] |
//! | what does its derivation give now? | [`rebuild`] |
//! | how does a store path of another store come here? | [`import`] |

pub(crate) mod closure;
mod connection;
pub(crate) mod import;
pub(crate) mod nar;
pub(crate) mod package;
pub(crate) mod path_info;
pub(crate) mod rebuild;
pub(crate) mod registration;
pub(crate) mod store;
pub(crate) mod store_path;
