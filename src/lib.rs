//! windlass turns Nix store paths and model weights into reproducible OCI images.
//!
//! # The way of the data
//!
//! 1. A **spec** says what an image is made of ([`spec`]); the **closure graph** says what that needs ([`nix::closure`]).
//! 2. The **plan** says which layers there are and in which order ([`plan`]); it reads no file.
//! 3. Each layer is a **recipe**, and a recipe is one stream of bytes ([`layer`]), hashed once ([`build`]).
//! 4. **Config, manifest and index** are pure values made of digests and sizes, and the **image directory** holds them with the
//!    recipes ([`image`]); several of them are a stack ([`mod@build::stack`]).
//! 5. **Archives, registries and what each tool takes for a model** get their bytes from it ([`publish`]).
//! 6. An **engine** gets it; what was loaded is kept, gone back to and cleaned up ([`engine`]). The engine is **Podman**: by
//!    links to the store, or through its own tools ([`podman`]); or a **daemon**, through its socket ([`daemon`]).
//!
//! Left to right only: a wing knows those to its left. These tables, here and in `model`, `compose` and `podman`, are checked by a
//! test (`tests/it/architecture.rs`); a row names every wing of this crate that a wing uses.
//!
//! | wing | is about | uses |
//! |---|---|---|
//! | `class` | what kind of failure an error is | |
//! | `names` | names and places that come out of files | `class` |
//! | `sh` | words for a POSIX shell | |
//! | `oci` | digests, references, platforms, canonical JSON | `class` `names` |
//! | `disk` | bytes on the disk | `class` `oci` |
//! | `nix` | the Nix store | `class` `disk` `oci` |
//! | `registry` | registries and other servers | `class` `disk` `oci` |
//! | `secrets` | what looks like a secret | `names` `nix` `oci` |
//! | `signing` | statements and signatures | `class` `disk` `oci` |
//! | `layer` | one layer as a stream of bytes | `class` `disk` `names` `nix` `oci` `secrets` |
//! | `model` | model files | `class` `disk` `layer` `names` `nix` `oci` `registry` `signing` |
//! | `spec` | what was asked for | `class` `disk` `layer` `model` `names` `nix` `oci` `secrets` |
//! | `image` | manifests, and the image directory | `class` `disk` `layer` `model` `names` `nix` `oci` `secrets` `signing` `spec` |
//! | `plan` | which layers, in which order | `class` `image` `layer` `model` `names` `nix` `spec` |
//! | `inventory` | what is inside images, and why | `image` `layer` `model` `names` `nix` `oci` |
//! | `build` | from a spec to image directories and stacks | `class` `disk` `image` `inventory` `layer` `model` `names` `nix` `oci` `plan` `secrets` `sh` `spec` |
//! | `publish` | registries, artifacts, Ollama | `class` `disk` `image` `layer` `model` `oci` `registry` `signing` |
//! | `sbom` | bills of materials | `image` `inventory` `layer` `model` `names` `nix` `oci` |
//! | `attest` | what is stated of images, signed and beside them in a registry; images built again | `class` `disk` `image` `layer` `nix` `oci` `publish` `registry` `signing` |
//! | `fleet` | what updates cost a fleet of hosts | `build` `class` `disk` `image` `layer` `nix` `oci` `plan` `publish` `spec` |
//! | `compose` | compose files | `build` `class` `disk` `image` `names` `oci` `registry` `secrets` `sh` `spec` |
//! | `engine` | what loading needs of a container engine, and generations | `class` `disk` `image` `names` `nix` `oci` |
//! | `podman` | Podman's storage | `class` `disk` `engine` `image` `layer` `model` `names` `nix` `oci` `publish` `sh` `spec` |
//! | `daemon` | container daemons beside Podman | `class` `disk` `engine` `image` `layer` `nix` `oci` `registry` |
//! | `upstream` | images of registries, pinned | `class` `disk` `layer` `model` `names` `nix` `oci` `registry` `signing` |
//! | `cache` | the build cache of Containerfiles | `build` `class` `disk` `image` `layer` `model` `names` `oci` `podman` `registry` `secrets` `spec` `upstream` |
//! | `cli` | the command line | anything |
//!
//! The library knows no terminal and no environment: [`cli`] is the only module that prints, and the only one that uses
//! `clap`. The wings are private: [`cli`] is the program, and [`internals`] shows its tests what they use of the wings.

#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "tests read what they have written themselves"))]

mod attest;
mod build;
mod cache;
mod class;
pub mod cli;
mod compose;
mod daemon;
mod disk;
mod engine;
mod fleet;
mod image;
pub mod internals;
#[cfg_attr(not(test), expect(dead_code, reason = "`windlass report` asks about references"))]
mod inventory;
mod layer;
mod model;
mod names;
mod nix;
mod oci;
mod plan;
mod podman;
mod publish;
mod registry;
mod sbom;
mod secrets;
mod sh;
mod signing;
mod spec;
mod upstream;
