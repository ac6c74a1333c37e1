//! The first signal ends any wait: the run is over within a second, as that signal ends a program, and the next run repairs
//! what is left.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bad_registry::{Answer, BadRegistry};
use crate::engine::Podman;
use crate::env::{Env, run_ok};
use crate::load_faults::hold;
use crate::waits::Trickle;

/// Sends a signal, and looks whether the run ends by it at once. It has a second; a machine that is busy gets more.
pub(crate) fn ends(mut child: Child, signal: i32) {
    let start = Instant::now();
    run_ok(Command::new("kill").args([format!("-{signal}"), child.id().to_string()]));
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.signal(), Some(signal), "{status}");
            return;
        }
        if start.elapsed() > Duration::from_secs(5) {
            drop(child.kill());
            panic!("it still runs, 5 s after the signal");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a run that is going to wait.
pub(crate) fn starts(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_wait_for_a_server() {
    let env = Env::new();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    for (first, again, signal) in [("", "", 15), ("HTTP/1.1 200 OK\r\nx: ", "a", 2), (head, "a", 15), (head, "", 1)] {
        let server = Trickle::start(first, again);
        let reference = format!("{}/app:1", server.host);
        let child = starts(&mut env.windlass(["upstream", "add", "app", &reference, "--insecure"]));
        server.is_asked();
        ends(child, signal);
        assert!(!env.path("images.lock.json").exists());
    }
    // One that asks for patience.
    let registry = BadRegistry::start(|_, _| Answer::new(503).header("retry-after", "50"));
    let reference = format!("{}/app:1", registry.host);
    let child = starts(&mut env.windlass(["upstream", "add", "app", &reference, "--insecure"]));
    while registry.asked().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    ends(child, 15);
}

#[test]
fn a_wait_for_a_connection() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with};
    let env = Env::new();
    let socket = |flags| socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    // A queue that is full: the system answers no connection that comes then.
    let listener = socket(SocketFlags::empty());
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    bind(&listener, &any).unwrap();
    listen(&listener, 0).unwrap();
    let there = std::net::SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let one = socket(SocketFlags::NONBLOCK);
            // It is under way, which is what the system says then.
            connect(&one, &there).ok();
            one
        })
        .collect();
    let reference = format!("{there}/app:1");
    let mut command = env.windlass(["upstream", "add", "app", &reference, "--insecure"]);
    let child = starts(command.env("WINDLASS_NETWORK_WAIT", "600"));
    // Nothing says that it has come to it; if it has not, this shows less, and fails no run.
    std::thread::sleep(Duration::from_millis(500));
    ends(child, 15);
    drop(waiting);
}

/// Waits until a run has come so far; a minute is for a machine that is busy.
fn until(what: &str, child: &mut Child, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        let ended = child.try_wait().unwrap();
        if ended.is_some() || start.elapsed() > Duration::from_secs(60) {
            child.kill().ok();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("it never came to wait for {what}, and after {:?} was {ended:?}: {said}", start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_wait_for_a_pipe_or_another_program() {
    let env = Env::new();
    let image = serde_json::json!({ "kind": "image", "name": "app", "tag": "1", "platform": "linux/amd64",
        "content": { "files": { "/data": env.write("data", vec![b'x'; 4 << 20]) } } });
    env.write("spec.json", image.to_string());
    env.write("closure.json", "{}");
    env.ok(["build", "spec.json", "--closure", "closure.json", "--output", "image"]);
    run_ok(Command::new("mkfifo").arg(env.path("pipe")));
    let is_waiting = |child: &Child, call: &str| {
        // What the first thread does in the kernel.
        let place = format!("/proc/{}/syscall", child.id());
        let number = || std::fs::read_to_string(&place).unwrap().split(' ').next().unwrap().to_owned();
        for _ in 0..1000 {
            if number() == call {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it is in {} and not in {call}", number());
    };
    // Nothing opens the pipe: openat(2).
    let child = starts(&mut env.windlass(["export", "image", "--output", "pipe"]));
    is_waiting(&child, "257");
    ends(child, 15);
    // It is opened, and not read.
    let reader = std::fs::File::options().read(true).write(true).open(env.path("pipe")).unwrap();
    for signal in [15, 2] {
        let mut child = starts(&mut env.windlass(["export", "image", "--output", "pipe"]));
        until("a full pipe", &mut child, || rustix::io::ioctl_fionread(&reader).unwrap() >= 65_536);
        ends(child, signal);
    }
    drop(reader);
    // A Nix that does not answer.
    let bin = env.path("bin");
    env.write("bin/nix-store", "#!/bin/sh\n: >\"$0.asked\"\nexec sleep 1000\n");
    env.write("bin/nix", "#!/bin/sh\n: >\"$0.asked\"\nexec sleep 1000\n");
    for name in ["nix", "nix-store"] {
        run_ok(Command::new("chmod").arg("755").arg(bin.join(name)));
    }
    env.write("m.gguf", crate::model_files::gguf("{{ messages }}", &[2500]));
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut child = starts(env.windlass(["model", "add", "./m.gguf"]).env("PATH", path).env("HOME", env.path("home")));
    until("Nix", &mut child, || bin.join("nix-store.asked").exists() || bin.join("nix.asked").exists());
    ends(child, 15);
    assert!(!env.path("models.lock.json").exists());
}

#[test]
fn a_wait_for_the_address_of_a_server() {
    let env = Env::new();
    env.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n");
    // A server of names that takes the question, and does not answer.
    let deaf = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"127.0.0.1\", 53)); \
                open(\"ready\", \"w\"); s.recv(512); open(\"asked\", \"w\"); time.sleep(60)";
    let script = format!(
        "mount --bind resolv.conf /etc/resolv.conf; ip link set lo up; python3 -c '{deaf}' & \
         while [ ! -e ready ]; do sleep 0.05; done; exec \"$@\""
    );
    let own = env.windlass(["upstream", "add", "app", "registry.example/app:1"]);
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", &script, "sh"]).arg(own.get_program()).args(own.get_args());
    command.current_dir(env.path("")).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    let mut child = starts(command.env("WINDLASS_NETWORK_WAIT", "600"));
    until("an address", &mut child, || env.path("asked").exists());
    ends(child, 15);
    assert!(!env.path("images.lock.json").exists());
}

#[test]
fn a_wait_for_a_lock() {
    let podman = Podman::with_nix();
    podman.run(&["images"]);
    let linked = podman.home("storage").join("overlay-layers/layers.lock");
    let own = podman.places().graph_root.join("overlay-images/images.lock");
    for (n, lock) in [linked, own].into_iter().enumerate() {
        let image = podman.app(&format!("app{n}"), &n.to_string());
        let mut holder = hold(&lock);
        let mut child = podman.windlass(&["load", image.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
        assert!(told.contains("waiting for another process, which holds "), "{told}");
        ends(child, 15);
        holder.kill().unwrap();
        holder.wait().unwrap();
        // The next run has all to do, and nothing is in its way.
        assert!(podman.load(&image, &[]).last().contains("1 loaded, 0 present"));
    }
}
