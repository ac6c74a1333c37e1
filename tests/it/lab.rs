//! A host in a folder: a Podman of its own, a small Nix store, and images that are built and loaded in a moment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use windlass::internals::podman::linked::LinkedStore;

use crate::env::{Env, base_name, closure, run_ok, wait_for_podman};
use crate::nix::root;

pub(crate) struct Lab {
    pub(crate) env: Env,
    pub(crate) variables: Vec<(String, String)>,
    /// Podman's folder.
    folder: PathBuf,
}

impl Lab {
    /// With a linked store, or without.
    pub(crate) fn new(linked: bool) -> Self {
        let env = Env::new();
        let folder = env.path("podman");
        Self::at(env, folder, linked)
    }

    pub(crate) fn at(env: Env, folder: PathBuf, linked: bool) -> Self {
        let settings = run_ok(Command::new("bash").arg(root().join("tests/parts.sh")).arg("podman").arg(&folder));
        let variable = |line: &str| {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let mut variables: Vec<_> = settings.lines().map(variable).collect();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        variables.push(("NIX_STORE_DIR".to_owned(), text(env.path("store"))));
        variables.push(("NIX_STATE_DIR".to_owned(), text(env.path("state"))));
        std::fs::create_dir_all(env.path("store")).unwrap();
        std::fs::create_dir_all(env.path("state/gcroots/auto")).unwrap();
        let lab = Self { env, variables, folder };
        if linked {
            LinkedStore::create(&lab.storage()).unwrap();
            let conf = lab.folder.join("storage.conf");
            let stores = format!("[storage.options]\nadditionalimagestores = [\"{}\"]\n", lab.storage().display());
            let text = std::fs::read_to_string(&conf).unwrap() + &stores;
            std::fs::write(conf, text).unwrap();
        }
        lab
    }

    /// The linked store.
    pub(crate) fn storage(&self) -> PathBuf {
        self.env.path("storage")
    }

    pub(crate) fn graph_root(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(self.env.path(""));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn windlass(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_windlass"));
        command.args(arguments);
        command
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        run_ok(&mut self.windlass(arguments))
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The exit code and standard error of a run that must not end well.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stderr, .. } = self.windlass(arguments).output().unwrap();
        assert!(!status.success());
        (status.code().unwrap(), self.env.scrub(&String::from_utf8(stderr).unwrap()))
    }

    pub(crate) fn podman(&self, arguments: &[&str]) -> String {
        run_ok(self.command("podman").args(arguments))
    }

    /// As [`wait_for_podman`] says.
    pub(crate) fn wait_for_podman(&self) {
        wait_for_podman(&self.folder.join("storage.conf"));
    }

    /// Builds an image with one store path of this many bytes, and a shell outside of the store; its directory.
    pub(crate) fn build(&self, name: &str, version: u32, bytes: usize) -> String {
        let part = format!("{name}-{version}");
        let path = self.env.path("store").join(base_name(&part));
        if !path.exists() {
            // Different in every byte from the others, so that no file system shares it.
            let data: Vec<u8> = (0..bytes).map(|n| (n as u8).wrapping_mul(31) ^ version as u8).collect();
            std::fs::write(&path, data).unwrap();
            run_ok(Command::new("chmod").arg("0444").arg(&path));
            run_ok(Command::new("touch").args(["--date", "@1"]).arg(&path));
        }
        let store = self.env.path("store");
        let graph = closure(store.to_str().unwrap(), &store, &[(&part, &[])]);
        self.env.write(format!("{part}.closure"), graph);
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file()).unwrap();
        let spec = json!({
            "kind": "image", "name": name, "storeDir": store,
            "content": { "deps": [path], "files": { "/bin/busybox": busybox } },
            "config": { "Cmd": ["/bin/busybox", "sleep", "1000"] },
        });
        self.env.write(format!("{part}.json"), spec.to_string());
        let (spec, closure) = (format!("{part}.json"), format!("{part}.closure"));
        self.ok(&["build", &spec, "--closure", &closure, "--output", &part]);
        part
    }

    /// Builds an image in a stack's place, `app`, and loads it: the next generation.
    pub(crate) fn load(&self, version: u32, bytes: usize) -> String {
        let image = self.build("app", version, bytes);
        let place = self.env.path("app");
        drop(std::fs::remove_dir_all(&place));
        run_ok(Command::new("cp").arg("--recursive").arg(self.env.path(&image)).arg(place));
        self.ok(&["load", "app"]);
        self.reference(&image)
    }

    /// Name and tag of an image that was built.
    pub(crate) fn reference(&self, image: &str) -> String {
        let summary = std::fs::read(self.env.path(image).join("image.json")).unwrap();
        serde_json::from_slice::<Value>(&summary).unwrap()["ref"].as_str().unwrap().to_owned()
    }

    /// Whether Podman has an image of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.command("podman").args(["image", "exists", name]).status().unwrap().success()
    }

    /// Starts a container and leaves it running.
    pub(crate) fn start(&self, name: &str, image: &str, options: &[&str]) {
        let fixed = ["run", "--detach", "--pull=never", "--network=none", "--name", name];
        self.podman(&[&fixed[..], options, &[image]].concat());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.command("podman").args(["rm", "--force", "--all", "--time", "0"]).output());
        drop(Command::new("umount").arg("--lazy").arg(self.graph_root().join("overlay")).output());
    }
}
