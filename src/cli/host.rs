//! The Podman of this host: the arguments that every verb about it shares, and what the environment says.

use std::path::PathBuf;

use super::failure::{Result, environment};
use crate::disk::progress::Progress;
use crate::nix::store::NixPlaces;
use crate::podman::load::decide::PodmanHost;
use crate::podman::load::sizes::MeasuredSizes;
use crate::podman::storage::client::PodmanClient;
use crate::podman::storage::engine::StorageEngine;
use crate::podman::storage::places::{Caller, Overrides, Places};

/// Which Podman, where its own settings do not say it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Podman's places (by default those of its own storage.conf)")]
pub(super) struct HostArgs {
    /// Podman's graph root: images, layers and containers.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Podman's run root: what does not outlive a reboot.
    #[arg(long, value_name = "DIR")]
    runroot: Option<PathBuf>,
    /// The storage.conf to read.
    #[arg(long, value_name = "FILE")]
    storage_conf: Option<PathBuf>,
    /// The linked store; by default the one that Podman reads.
    #[arg(long, value_name = "DIR")]
    pub(super) storage_dir: Option<PathBuf>,
}

impl HostArgs {
    /// Whether something of Podman was given by hand.
    pub(super) const fn is_given(&self) -> bool {
        let Self { root, runroot, storage_conf, storage_dir } = self;
        root.is_some() || runroot.is_some() || storage_conf.is_some() || storage_dir.is_some()
    }

    /// What was given by hand.
    pub(super) fn overrides(&self) -> Result<Overrides> {
        let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
        let Self { root, runroot, storage_conf, .. } = self;
        Ok(Overrides { root: absolute(root)?, runroot: absolute(runroot)?, storage_conf: absolute(storage_conf)? })
    }

    /// The Podman that these arguments and the environment mean, as it has answered before while nothing has changed.
    pub(super) fn host(&self, progress: &Progress) -> Result<PodmanHost> {
        let overrides = self.overrides()?;
        self.with(&overrides, Places::find(&caller(), &overrides, progress)?)
    }

    /// The same without asking Podman, where it has answered before.
    pub(super) fn remembered(&self) -> Result<Option<PodmanHost>> {
        let overrides = self.overrides()?;
        Places::remembered(&caller(), &overrides).map(|places| self.with(&overrides, places)).transpose()
    }

    /// The same, and Podman is asked again: for what is about to be written.
    pub(super) fn asked(&self, progress: &Progress) -> Result<PodmanHost> {
        let overrides = self.overrides()?;
        self.with(&overrides, Places::ask(&caller(), &overrides, progress)?)
    }

    fn with(&self, overrides: &Overrides, places: Places) -> Result<PodmanHost> {
        let engine = StorageEngine::Podman(PodmanClient::new(overrides, &places));
        let linked = PodmanHost::find_linked(&places, self.storage_dir.as_deref());
        if let Some(given) = &self.storage_dir
            && linked.is_none()
            && !places.image_stores.contains(&std::path::absolute(given)?)
        {
            let given = given.display();
            return Err(environment(format!(
                "--storage-dir {given}: Podman reads no such image store; `windlass doctor --storage-dir {given}` says what \
                 to do"
            )));
        }
        Ok(PodmanHost { places, engine, linked, nix: nix_places(), sizes: MeasuredSizes::default() })
    }
}

/// Who runs this.
pub(super) fn caller() -> Caller {
    let variables = std::env::vars_os();
    let texts = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        home: std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
        variables: texts.collect(),
    }
}

/// Where Nix keeps its things.
pub(super) fn nix_places() -> NixPlaces {
    let place = |name: &str, default: &str| std::env::var_os(name).map_or_else(|| default.into(), PathBuf::from);
    NixPlaces { store: place("NIX_STORE_DIR", "/nix/store"), state: place("NIX_STATE_DIR", "/nix/var/nix") }
}
