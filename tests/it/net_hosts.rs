//! Hosts on this machine: network namespaces that are cabled to a switch, each with a mount namespace in which `/nix` is its own.
//!
//! What a host sent and received is what the switch counted at its end of the cable, headers and acknowledgements included.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::env::{Env, run_ok};
use crate::nix::{nix, root};

/// A switch in a namespace of its own; dropped, it is gone with its cables.
pub(crate) struct Switch {
    namespace: String,
}

/// A host at a switch. Its processes end with the namespaces that hold them.
pub(crate) struct NetHost {
    pub(crate) name: &'static str,
    namespace: String,
    switch: String,
    /// Its files: `nix`, `home`, `podman`, and what a test puts there.
    folder: PathBuf,
    /// Keeps the mount namespace.
    holder: Child,
    variables: Vec<(String, String)>,
}

/// Bytes, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

fn ip(arguments: &str) -> String {
    run_ok(Command::new("ip").args(arguments.split_whitespace()))
}

impl Switch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("wl{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {namespace}"));
        let switch = Self { namespace };
        ip(&format!("-n {} link add name br0 type bridge", switch.namespace));
        ip(&format!("-n {} link set br0 up", switch.namespace));
        switch
    }

    /// A host with the address `10.77.0.NUMBER`, which only hosts at the same switch reach.
    pub(crate) fn host(&self, env: &Env, name: &'static str, number: u8) -> NetHost {
        let (switch, namespace) = (&self.namespace, format!("{}-{name}", self.namespace));
        let address = format!("10.77.0.{number}");
        ip(&format!("netns add {namespace}"));
        ip(&format!("-n {switch} link add name to-{name} type veth peer name eth0 netns {namespace}"));
        // What the kernel would say by itself is no traffic of a test.
        for namespace in [switch, &namespace] {
            let quiet = ["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"];
            drop(Command::new("ip").args(["netns", "exec", namespace]).args(quiet).output());
        }
        ip(&format!("-n {switch} link set to-{name} master br0 up"));
        ip(&format!("-n {namespace} addr add {address}/24 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        ip(&format!("-n {namespace} link set lo up"));

        let folder = env.path(name);
        for part in ["nix/store", "nix/var/nix/gcroots/auto", "home"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        // `ip netns exec` would mount a /sys without cgroups, which containers need.
        let script = "mount --make-rprivate / && mount --bind \"$1\" /nix && echo ready && exec sleep 10000";
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).args(["unshare", "--mount", "sh", "-c", script, "sh"]);
        command.arg(folder.join("nix")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n", "no host {name}: is this root, and may it mount?");

        let settings =
            run_ok(Command::new("bash").arg(root().join("tests/parts.sh")).arg("podman").arg(folder.join("podman")));
        let variable = |line: &str| {
            let (name, value) = line.strip_prefix("export ").unwrap().split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let variables = settings.lines().map(variable).collect();
        NetHost { name, namespace, switch: switch.clone(), folder, holder, variables }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.namespace]).output());
    }
}

impl NetHost {
    /// A path among its files, as this machine sees it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// A command that runs there, with a home of its own.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).args(["--net", "--mount", "--wdns=/", program]);
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        let config = nix("nix");
        let config = config.get_envs().find(|(name, _)| *name == "NIX_CONFIG").and_then(|(_, value)| value);
        command.env("NIX_CONFIG", config.unwrap()).env("HOME", self.path("home"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn windlass(&self, arguments: &[&str]) -> Command {
        self.command(env!("CARGO_BIN_EXE_windlass"), arguments)
    }

    /// A command of this machine, with this machine's Nix store, in the network of the host.
    pub(crate) fn beside(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = nix("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program).args(arguments);
        command.env("HOME", self.path("home"));
        command
    }

    pub(crate) fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let program = if program == "windlass" { env!("CARGO_BIN_EXE_windlass") } else { program };
        run_ok(&mut self.command(program, arguments))
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok("windlass", &[arguments, &["--json"]].concat())).unwrap()
    }

    /// A server that runs there until the test ends, and answers on this port now.
    pub(crate) fn serve(&self, program: &str, arguments: &[&str], port: u16) -> Server {
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Server(command.spawn().unwrap());
        let probe = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        let start = Instant::now();
        while !self.command("bash", &["-c", &probe]).stderr(Stdio::null()).status().unwrap().success() {
            assert!(server.0.try_wait().unwrap().is_none(), "{program} does not start on {}", self.name);
            assert!(start.elapsed() < Duration::from_secs(30), "{program} does not answer on {}", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Debian's docker-registry, on port 5000 of all its addresses; `tls` are a key and its certificate.
    pub(crate) fn registry(&self, tls: Option<(&Path, &Path)>) -> Server {
        let tls = tls.map_or_else(String::new, |(key, certificate)| {
            format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display())
        });
        let config = self.path("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"0.0.0.0:5000\"{tls}}}\n",
            self.path("registry").display()
        );
        std::fs::write(&config, text).unwrap();
        self.serve("docker-registry", &["serve", config.to_str().unwrap()], 5000)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let link = ip(&format!("-n {} -s -j link show dev to-{}", self.switch, self.name));
        let link: Value = serde_json::from_str(&link).unwrap();
        let bytes = |way: &str| link[0]["stats64"][way]["bytes"].as_u64().unwrap();
        Traffic { received: bytes("tx"), sent: bytes("rx") }
    }

    /// What it received and sent meanwhile.
    pub(crate) fn meanwhile<T>(&self, work: impl FnOnce() -> T) -> (T, Traffic) {
        let before = self.traffic();
        let result = work();
        let after = self.traffic();
        (result, Traffic { received: after.received - before.received, sent: after.sent - before.sent })
    }

    /// Pulls the cable out, or puts it in again.
    pub(crate) fn cable(&self, plugged: bool) {
        ip(&format!("-n {} link set to-{} {}", self.switch, self.name, if plugged { "up" } else { "down" }));
    }

    /// From now on it receives at most so many megabits in a second, after the first megabyte.
    pub(crate) fn slow(&self, megabits: u32) {
        let rate = format!("{megabits}mbit");
        let device = format!("to-{}", self.name);
        let mut tc = Command::new("tc");
        tc.args(["-n", &self.switch, "qdisc", "replace", "dev", &device, "root", "tbf", "rate", &rate]);
        run_ok(tc.args(["burst", "1mb", "latency", "400ms"]));
    }
}

impl Drop for NetHost {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
        // Podman's mount is in that mount namespace, and has ended with it.
        drop(Command::new("ip").args(["netns", "del", &self.namespace]).output());
    }
}

/// A process on a host; dropped, it is killed.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
