//! windlass turns Nix store paths and model weights into reproducible OCI images.
//!
//! # The way of the data
//!
//! 1. A **spec** says what an image is made of ([`spec`]); the **closure graph** says what that needs ([`closure`]).
//! 2. The **plan** says which layers there are and in which order ([`plan`], [`split`](mod@split)); it reads no file.
//! 3. Each layer is a **recipe**, and a recipe is one stream of bytes ([`layer`]), hashed once ([`build`]).
//! 4. **Config, manifest and index** are pure values made of digests and sizes ([`image`]), as canonical JSON
//!    ([`canonical`]).
//! 5. The **image directory** holds them with the recipes ([`layout`]); several of them are a stack ([`stack`]).
//! 6. **Archives and OCI directories** are written from it for other tools ([`archive`], [`blobs`]), and of a model what
//!    each of them takes for one ([`forms`]).
//! 7. **Podman** gets it by links to the store, or through its own tools; what was loaded is kept, checked, gone back to and
//!    cleaned up ([`podman`]).
//!
//! Left to right only: a part knows those to its left. This table is checked by a test; a row names all that a module
//! uses of this crate.
//!
//! | module | uses |
//! |---|---|
//! | `beneath` | |
//! | `canonical` | |
//! | `compression` | |
//! | `digest` | |
//! | `names` | |
//! | `reference` | `names` |
//! | `platform` | |
//! | `progress` | |
//! | `service` | `names` |
//! | `sh` | |
//! | `store` | |
//! | `strict` | |
//! | `view` | |
//! | `config` | |
//! | `nar` | `digest` `store` |
//! | `path_info` | `store` |
//! | `closure` | `path_info` `store` |
//! | `pipe` | `progress` |
//! | `registry` | `digest` `progress` `reference` |
//! | `layer` | `digest` `names` `pipe` `progress` `store` |
//! | `blobs` | `beneath` `digest` `layer` `pipe` `progress` |
//! | `lock_file` | `blobs` `progress` |
//! | `nix_store` | `blobs` `digest` `store` |
//! | `model` | `blobs` `canonical` `digest` `layer` `lock_file` `names` `nix_store` `pipe` `progress` `reference` `registry` `store` |
//! | `content` | `layer` `store` |
//! | `pattern` | `layer` `store` |
//! | `spec` | `canonical` `config` `content` `digest` `layer` `model` `names` `pattern` `platform` `reference` `service` `store` `strict` |
//! | `split` | `closure` `store` |
//! | `image` | `canonical` `config` `digest` `layer` `names` `platform` `spec` |
//! | `plan` | `closure` `content` `image` `layer` `model` `names` `spec` `split` `store` |
//! | `layout` | `blobs` `canonical` `digest` `image` `layer` `model` `names` `nar` `pipe` `platform` `progress` `reference` `strict` |
//! | `layer_set` | `blobs` `canonical` `image` `layout` `progress` |
//! | `members` | `layer` |
//! | `base` | `compression` `digest` `image` `layer` `layout` `members` `names` `platform` `progress` `reference` `spec` `strict` |
//! | `build` | `base` `blobs` `closure` `config` `digest` `image` `layer` `layer_set` `layout` `model` `names` `plan` `platform` `progress` `reference` `service` `spec` `strict` |
//! | `index` | `build` `image` `layout` `reference` `spec` |
//! | `archive` | `blobs` `canonical` `digest` `image` `layer` `layout` `progress` |
//! | `forms` | `archive` `blobs` `digest` `image` `layer` `layout` `model` `pipe` `progress` `view` |
//! | `stack` | `archive` `blobs` `build` `canonical` `digest` `image` `layout` `model` `names` `platform` `progress` `reference` `service` `sh` |
//! | `lint` | `digest` `image` `layer` `layout` `model` `names` `plan` `reference` `stack` |
//! | `compose` | `blobs` `digest` `layout` `names` `reference` `service` `stack` |
//! | `vouching` | `layer` `layout` `nar` `nix_store` `store` |
//! | `podman` | `beneath` `blobs` `canonical` `compression` `digest` `forms` `image` `layer` `layout` `members` `model` `names` `nix_store` `pipe` `platform` `progress` `reference` `spec` `strict` `vouching` |
//! | `upstream` | `blobs` `compression` `digest` `layer` `lock_file` `nix_store` `pipe` `platform` `progress` `reference` `registry` `strict` |
//! | `pack` | `archive` `blobs` `canonical` `compression` `digest` `image` `layer` `layout` `pipe` `progress` |
//! | `push` | `compression` `digest` `forms` `image` `layout` `model` `pack` `progress` `registry` |
//! | `cli` | anything |
//!
//! The library knows no terminal and no environment: [`cli`] is the only module that prints, and the only one that uses
//! `anyhow` and `clap`.

pub mod archive;
pub mod base;
pub mod beneath;
pub mod blobs;
pub mod build;
pub mod canonical;
pub mod cli;
pub mod closure;
pub mod compose;
pub mod compression;
pub mod config;
pub mod content;
pub mod digest;
pub mod forms;
pub mod image;
pub mod index;
pub mod layer;
pub mod layer_set;
pub mod layout;
pub mod lint;
pub mod lock_file;
pub mod members;
pub mod model;
pub mod names;
pub mod nar;
pub mod nix_store;
pub mod pack;
pub mod path_info;
pub mod pattern;
pub mod pipe;
pub mod plan;
pub mod platform;
pub mod podman;
pub mod progress;
pub mod push;
pub mod reference;
pub mod registry;
pub mod service;
pub mod sh;
pub mod spec;
pub mod split;
pub mod stack;
pub mod store;
pub mod strict;
pub mod upstream;
pub mod view;
pub mod vouching;
