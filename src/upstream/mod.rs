//! Upstream images: which bytes they are, whether upstream has others by now, and taking those.
//!
//! ```text
//! reference ──► resolve ──► lock ──► check: does the registry still say the same?
//!                 ▲                    │
//!                 └────── update ◄─────┘
//! ```
//!
//! | part | what it does |
//! |---|---|
//! | [`document`] | reads indexes and manifests, and refuses what is not an image |
//! | [`lock`] | is the format of `images.lock.json` |
//! | [`proof`] | checks that all of a lock follows from the bytes in it |
//! | [`file`](mod@file) | reads it, and replaces it in one step |
//! | [`resolve`](mod@resolve) | looks up a reference |
//! | [`signature`] | verifies what cosign signed |
//! | [`bills`] | finds the bills of materials that are attached to an image |
//! | [`check`](mod@check) | compares the lock with the registries, without pulls |
//! | [`models`](mod@models) | asks the same of locked models |
//! | `newer` | finds newer versions among the tags of a repository |
//! | [`update`](mod@update) | locks what is new |
//! | [`state`] | keeps what changes with time, outside of the lock |
//! | [`fetch`](mod@fetch) | puts the blobs of a lock into the Nix store |
//! | [`mirror`](mod@mirror) | copies images to a directory or another registry |
//! | [`nix`] | knows their store paths |
//! | [`place`] | takes a blob from where it may be had |
//! | [`versions`] | reads and writes `container-versions.json` |

pub(crate) mod bills;
pub(crate) mod check;
pub(crate) mod document;
pub(crate) mod fetch;
pub(crate) mod file;
pub(crate) mod lock;
pub(crate) mod mirror;
pub(crate) mod models;
pub(crate) mod newer;
pub(crate) mod nix;
pub(crate) mod place;
pub(crate) mod proof;
pub(crate) mod resolve;
pub(crate) mod signature;
pub(crate) mod state;
pub(crate) mod update;
pub(crate) mod versions;

use crate::registry::client::RegistryClient;
use crate::registry::error::RegistryError;
use crate::registry::options::RegistryOptions;

/// The clients of a run: for registries with TLS, and for those on this machine that speak plain HTTP.
#[derive(Debug)]
pub(crate) struct Registries {
    secure: RegistryClient,
    plain: RegistryClient,
    anonymous: RegistryClient,
}

impl Registries {
    /// Both, with the same options.
    ///
    /// # Errors
    /// If the options are wrong.
    pub(crate) fn new(options: &RegistryOptions) -> Result<Self, RegistryError> {
        let client = |insecure| RegistryClient::new(RegistryOptions { insecure, ..options.clone() });
        let anonymous =
            RegistryClient::new(RegistryOptions { insecure: true, auth_files: Vec::new(), ..options.clone() })?;
        Ok(Self { secure: client(false)?, plain: client(true)?, anonymous })
    }

    /// The one for a place on this machine that was not said to speak plain HTTP: it knows no login.
    #[must_use]
    pub(crate) const fn anonymous(&self) -> &RegistryClient {
        &self.anonymous
    }

    /// The one for a registry.
    #[must_use]
    pub(crate) const fn client(&self, insecure: bool) -> &RegistryClient {
        if insecure { &self.plain } else { &self.secure }
    }
}
