//! Services of the stack, built by Nix, loaded by windlass, and run as the stack describes their containers; and Redis among them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::engine::{Podman, Said};
use crate::nix::{build, eval, root};

/// A service of the stack, loaded into a Podman of its own.
pub(crate) struct Service {
    pub(crate) podman: Podman,
    pub(crate) image: String,
    /// Its description, as options of `podman run`.
    pub(crate) flags: Vec<String>,
    pub(crate) state: String,
    pub(crate) uid: u32,
}

impl Service {
    pub(crate) fn new(name: &str) -> Self {
        let root = root().display();
        let description = format!(
            "(import {root}/nix/ai-stack/{name}.nix {{ inherit pkgs; windlass = w; \
             service = (import {root}/nix/ai-stack/services.nix).{name}; \
             probe = pkgs.callPackage {root}/nix/probe.nix {{ }}; }})"
        );
        let podman = Podman::linked();
        let path = build(&format!("{description}.image")).unwrap();
        podman.load(&path, &[]).last();
        let told = eval(&format!(
            "let s = {description}; in {{ inherit (s) container state; image = s.image.imageRef; \
             user = s.image.spec.config.User; }}"
        ));
        let text = |key: &str| told[key].as_str().unwrap().to_owned();
        let uid = text("user").split(':').next().unwrap().parse().unwrap();
        Self { podman, image: text("image"), flags: flags(&told["container"]), state: text("state"), uid }
    }

    /// `podman run` with the container's description, these options, and a command instead of the image's.
    pub(crate) fn run(&self, options: &[&str], command: &[&str]) -> Said {
        let mut run = self.podman.command("podman");
        // Health is asked for by hand: what asks at intervals is a timer of systemd.
        run.args(["run", "--pull=never", "--network=none", "--health-interval=disable"])
            .args(&self.flags)
            .args(options)
            .arg(&self.image);
        Said::of(&run.args(command).output().unwrap())
    }

    /// Started, with `source` as its state.
    pub(crate) fn start(&self, name: &str, source: &str, options: &[&str]) {
        let volume = format!("--volume={source}:{}", self.state);
        self.run(&[&["--detach", "--name", name, &volume], options].concat(), &[]).last();
    }

    /// What a run says that is refused at once.
    pub(crate) fn refused(&self, source: &Path, options: &[&str]) -> String {
        let volume = format!("--volume={}:{}", source.display(), self.state);
        let said = self.run(&[&["--rm", &volume], options].concat(), &[]);
        assert!((1..=127).contains(&said.code), "{said:?}");
        said.stderr
    }

    pub(crate) fn exec(&self, name: &str, command: &[&str]) -> Said {
        Said::of(&self.podman.command("podman").args(["exec", name]).args(command).output().unwrap())
    }

    pub(crate) fn is_healthy(&self, name: &str) -> bool {
        self.podman.command("podman").args(["healthcheck", "run", name]).output().unwrap().status.success()
    }

    pub(crate) fn healthy(&self, name: &str) {
        until(&format!("{name} to be healthy"), || {
            let state = self.podman.run(&["inspect", "--format={{.State.Status}}", name]);
            assert_eq!(state, "running\n", "{}", self.logs(name));
            self.is_healthy(name)
        });
    }

    pub(crate) fn logs(&self, name: &str) -> String {
        let said = Said::of(&self.podman.command("podman").args(["logs", name]).output().unwrap());
        said.stdout + &said.stderr
    }

    pub(crate) fn kill(&self, name: &str) {
        self.podman.run(&["kill", "--signal=KILL", name]);
        self.podman.run(&["wait", name]);
    }

    /// A directory of the host that belongs to the container's user.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let path = self.podman.env.path(name);
        fs::create_dir(&path).unwrap();
        self.own(&path);
        path
    }

    pub(crate) fn own(&self, path: &Path) {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.uid)).unwrap();
    }

    /// `--volume` for a secret that only the container's user can read.
    pub(crate) fn secret(&self, name: &str, text: &str) -> String {
        let path = self.podman.env.path(format!("secret-{name}"));
        write(&path, text.as_bytes(), 0o400);
        self.own(&path);
        format!("--volume={}:/run/secrets/{name}:ro", path.display())
    }
}

/// The options of `podman run` that a container description stands for.
fn flags(container: &Value) -> Vec<String> {
    let strings = |value: &Value| {
        let values = value.as_array().unwrap().iter();
        values.map(|value| value.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut flags = Vec::new();
    for (key, value) in container.as_object().unwrap() {
        match key.as_str() {
            // Without a network there is nothing to publish.
            "ports" => assert!(strings(value).iter().all(|port| port.starts_with("127.0.0.1:")), "{value}"),
            "readOnly" => flags.push(format!("--read-only={value}")),
            "noNewPrivileges" => flags.push("--security-opt=no-new-privileges".to_owned()),
            "tmpfs" => flags.extend(strings(value).iter().map(|place| format!("--tmpfs={place}"))),
            "capDrop" => flags.extend(strings(value).iter().map(|name| format!("--cap-drop={name}"))),
            "shmSize" => flags.push(format!("--shm-size={}", value.as_str().unwrap())),
            "stopTimeout" => flags.push(format!("--stop-timeout={value}")),
            // Asked by hand: what asks it at intervals is a timer of systemd.
            "health" => {
                flags.extend([format!("--health-cmd={}", value["command"]), "--health-interval=disable".into()]);
            }
            other => panic!("no test runs a container with {other}"),
        }
    }
    flags
}

/// Writes a file of this mode.
pub(crate) fn write(path: &Path, text: &[u8], mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn redis_keeps_what_it_saved_and_is_healthy_when_it_answers() {
    let redis = Service::new("redis");
    let cli = |name: &str, arguments: &[&str]| {
        let said = redis.exec(name, &[&["redis-cli", "--raw", "--no-auth-warning"], arguments].concat());
        assert_eq!(said.code, 0, "{said:?}");
        said.stdout.trim().to_owned()
    };
    redis.start("redis", "data", &[]);
    redis.healthy("redis");
    assert_eq!(cli("redis", &["set", "stopped", "1"]), "OK");
    redis.podman.run(&["stop", "redis"]);
    assert!(redis.logs("redis").contains("DB saved on disk"), "{}", redis.logs("redis"));
    redis.podman.run(&["start", "redis"]);
    redis.healthy("redis");
    assert_eq!(cli("redis", &["get", "stopped"]), "1");

    cli("redis", &["set", "saved", "2"]);
    assert_eq!(cli("redis", &["save"]), "OK");
    redis.kill("redis");
    redis.podman.run(&["start", "redis"]);
    redis.healthy("redis");
    assert_eq!(cli("redis", &["mget", "stopped", "saved"]), "1\n2");

    redis.podman.run(&["kill", "--signal=STOP", "redis"]);
    assert!(!redis.is_healthy("redis"), "it does not answer");
    redis.podman.run(&["kill", "--signal=CONT", "redis"]);
    redis.healthy("redis");
    let written = redis.exec("redis", &["touch", "/file"]);
    assert!(written.stderr.contains("Read-only file system"), "{written:?}");
    redis.podman.run(&["stop", "redis"]);

    // A password is in a file alone; the health check needs none, and can do nothing else.
    let (password, file) = (r#"a "b\c' d"#, redis.secret("redis-password", "a \"b\\c' d\n"));
    redis.start("locked", "data", &[&file]);
    redis.healthy("locked");
    assert!(cli("locked", &["get", "saved"]).starts_with("NOAUTH"));
    assert_eq!(cli("locked", &["-a", password, "get", "saved"]), "2");
    let health = cli("locked", &["--user", "health", "--pass", "-", "get", "saved"]);
    assert!(health.starts_with("NOPERM"), "{health}");
    assert!(!redis.logs("locked").contains(password));
    redis.podman.run(&["stop", "locked"]);
    let config = redis.podman.env.path("redis.conf");
    write(&config, b"appendonly yes\nsave \"\"\n", 0o644);
    let config = format!("--volume={}:/redis.conf:ro", config.display());
    let options = ["--detach", "--name=configured", &config, "--volume=other:/data"];
    redis.run(&options, &["redis-server", "/redis.conf", "--maxmemory", "5mb"]).last();
    redis.healthy("configured");
    assert_eq!(cli("configured", &["config", "get", "appendonly"]), "appendonly\nyes");
    assert_eq!(cli("configured", &["config", "get", "maxmemory"]), "maxmemory\n5242880");

    // It would take data and be unable to save them.
    let other = redis.podman.env.path("other");
    fs::create_dir(&other).unwrap();
    let sentence =
        "redis image: /data belongs to 0:0 and cannot be written by the server, which runs as 6379:6379. Mend it";
    // One that it may not even enter, too.
    for mode in [0o755, 0o700] {
        fs::set_permissions(&other, PermissionsExt::from_mode(mode)).unwrap();
        let said = redis.refused(&other, &[]);
        assert!(said.starts_with(sentence), "{mode:o}: {said}");
    }
    redis.own(&other);
    write(&other.join("dump.rdb"), b"", 0o600);
    let said = redis.refused(&other, &[]);
    assert!(said.starts_with("redis image: /data/dump.rdb belongs to 0:0"), "{said}");
}
