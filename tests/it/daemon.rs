//! An ordinary user beside Nix's daemon, as on NixOS: what they fetch, the daemon takes, keeps and builds with.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use windlass::internals::oci::digest::Digest;

use crate::env::{Env, run_ok};
use crate::foreign::{Foreign, read};
use crate::hub::gguf;
use crate::nix::{SANDBOX, nix, wrap};
use crate::registry_server::RealRegistry;

const USER: u32 = 65534;

/// A daemon with a store of its own.
struct Daemon {
    env: Env,
    child: Child,
}

impl Daemon {
    fn start() -> Self {
        let env = Env::new();
        fs::set_permissions(env.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["home", "work"] {
            fs::create_dir(env.path(folder)).unwrap();
            chown(env.path(folder), Some(USER), Some(USER)).unwrap();
        }
        let mut daemon = places(&env, nix("nix-daemon"));
        daemon.args(SANDBOX).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Self { child: daemon.spawn().unwrap(), env };
        let start = Instant::now();
        while !daemon.env.path("state/daemon-socket/socket").exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "no daemon");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// A command of the user, who has no other way to the store than the daemon.
    fn user(&self, program: &std::path::Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={USER}"), format!("--regid={USER}"));
        command.args([&user, &group, "--clear-groups"]).arg(program).args(arguments).current_dir(self.env.path("work"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("NIX_REMOTE", "daemon");
        places(&self.env, command)
    }

    fn windlass(&self, arguments: &[&str]) -> String {
        run_ok(&mut self.user(&self.env.program(), arguments))
    }

    /// `nix-store` of the user.
    fn store(&self, arguments: &[&str]) -> String {
        run_ok(&mut self.user("nix-store".as_ref(), arguments))
    }

    /// A command of Nix as root, who writes to the store without the daemon.
    fn root(&self, program: &str, arguments: &[&str]) -> String {
        run_ok(places(&self.env, nix(program)).args(arguments)).trim().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn places(env: &Env, mut command: Command) -> Command {
    for (name, folder) in
        [("HOME", "home"), ("NIX_STORE_DIR", "store"), ("NIX_STATE_DIR", "state"), ("NIX_LOG_DIR", "log")]
    {
        command.env(name, env.path(folder));
    }
    command
}

#[test]
fn what_a_user_fetches_is_kept_and_built_with() {
    let daemon = Daemon::start();
    let env = &daemon.env;
    // The program that builds: its link is made with the machine's own shell.
    let link = env.path("bin");
    daemon.root("nix-build", &["--out-link", link.to_str().unwrap(), "--expr", &wrap("bin")]);
    let mut registry = RealRegistry::start(env);
    Foreign::new(env).push(env, &registry.host, "a/others");
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let reference = format!("{}/a/others:1.0", registry.host);
    daemon.windlass(&["upstream", "add", "others", &reference, "--insecure", "--platform", &platform]);
    let said = daemon.windlass(&["upstream", "fetch"]);
    assert!(said.starts_with("3 blobs: 3 fetched, 0 present; "), "{said}");
    let (name, model) = ("work/m.gguf", gguf("Tiny", "daemon", 5000));
    env.write(name, &model);
    daemon.windlass(&["model", "add", "./m.gguf", "--name", "m"]);
    registry.stop();
    fs::remove_file(env.path(name)).unwrap();

    // Nothing but the user's links keeps them.
    daemon.store(&["--gc"]);
    let said = daemon.windlass(&["upstream", "fetch", "--offline"]);
    assert!(said.starts_with("3 blobs: 0 fetched, 3 present; "), "{said}");

    // What the locks name is built in the daemon's sandbox; there is nothing any more to fetch it from.
    let [image, file] = ["images", "models"].map(|kind| env.path(format!("work/{kind}.lock.json")));
    let expression = format!(
        r#"w.buildStack {{ images = [ (w.fetchImage {{ lock = {}; name = "others"; }}) ];
        models = [ (w.buildModel {{ name = "m"; src = w.fetchModel {{ lock = {}; name = "m"; }}; }}) ]; }}"#,
        image.display(),
        file.display()
    );
    let derivation = daemon.root("nix-instantiate", &["--expr", &wrap(&format!("({expression})"))]);
    let stack = daemon.store(&["--realise", &derivation]);
    let stack = std::path::Path::new(stack.trim());
    assert!(read(&stack.join("stack.json")).to_string().contains(&Digest::of(&model).hex()));
    assert!(daemon.windlass(&["verify", "--full", stack.to_str().unwrap()]).contains("all good"));
}
