//! A real Podman with a storage of its own.

use std::process::Command;

use windlass::podman::engine::Engine;
use windlass::podman::places::{Overrides, Places};

use crate::env::{Env, run_ok};
use crate::nix::root;

/// A Podman with a storage of its own.
pub(crate) struct Podman {
    pub(crate) env: Env,
    variables: Vec<(String, String)>,
}

impl Podman {
    pub(crate) fn new() -> Self {
        let env = Env::new();
        let settings =
            run_ok(Command::new("bash").arg(root().join("tests/parts.sh")).arg("podman").arg(env.path("podman")));
        let variable = |line: &str| {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let variables = settings.lines().map(variable).collect();
        Self { env, variables }
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        run_ok(self.command("podman").args(arguments))
    }

    /// windlass on this Podman.
    pub(crate) fn windlass(&self, arguments: &[&str]) -> Command {
        let mut command = self.env.windlass(arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What `windlass` would find out about it.
    pub(crate) fn places(&self) -> Places {
        Places {
            graph_root: self.env.path("podman/root"),
            run_root: self.env.path("podman/run"),
            driver: "overlay".to_owned(),
            image_stores: Vec::new(),
            conf: Some(self.env.path("podman/storage.conf")),
            rootless: false,
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        self.engine_at(&Overrides::default(), &self.places())
    }

    /// With places given by hand.
    pub(crate) fn engine_at(&self, given: &Overrides, places: &Places) -> Engine {
        let engine = Engine::new(given, places);
        self.variables.iter().fold(engine, |engine, (name, value)| engine.with_variable(name, value))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        drop(self.command("podman").args(["rm", "--force", "--all", "--time", "0"]).output());
        drop(Command::new("umount").arg("--lazy").arg(self.env.path("podman/root/overlay")).output());
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
