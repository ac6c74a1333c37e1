//! A Docker that misbehaves, on a socket of its own: each fault is told, and nothing of it counts as loaded. What a real Docker does,
//! `tests/engines/docker.py` shows.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::env::Env;

/// What it does with an image that it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It takes it, and has all of it.
    None,
    /// It goes away after so many bytes.
    Dies(u64),
    /// It says that it has it, and lacks layers.
    Partial,
    /// It has another image under that name.
    OtherImage,
    /// It refuses it.
    Full,
    /// Its list of images is not JSON.
    Garbage,
    /// Its list of images does not end.
    Endless,
    /// It speaks an API that is too old.
    Old,
}

#[derive(Debug, Default)]
struct Told {
    /// Bytes of the last image, and whether it was sent to its end.
    sent: Option<(u64, bool)>,
    /// The image that it has, with its names.
    image: Option<(String, Vec<String>, Vec<String>)>,
}

/// It has at most one image, and knows it by the digest of the config, as graph drivers do.
struct BadDocker {
    socket: PathBuf,
    told: Arc<Mutex<Told>>,
}

impl BadDocker {
    fn start(env: &Env, fault: Fault, image: &Built) -> Self {
        let (socket, told) = (env.path(format!("docker-{fault:?}.sock").replace(['(', ')'], "-")), Arc::default());
        let listener = UnixListener::bind(&socket).unwrap();
        let (shared, image): (Arc<Mutex<Told>>, Built) = (Arc::clone(&told), image.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that goes away is no fault of it.
                drop(serve(&stream, fault, &image, &shared));
            }
        });
        Self { socket, told }
    }

    fn load(&self, env: &Env, arguments: &[&str]) -> (i32, String, Value) {
        let mut command = env.windlass(["load", "image", "--into", "docker", "--json"].iter().chain(arguments));
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("WINDLASS_STATE_DIR", env.path("state"));
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let said = format!("{}{report}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), said, report)
    }
}

/// What is loaded.
#[derive(Debug, Clone)]
struct Built {
    config: String,
    layers: Vec<String>,
}

fn build(env: &Env) -> Built {
    // More than a pipe and two sockets hold.
    let noise: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let file = env.write("noise", noise);
    let spec = json!({ "kind": "image", "name": "app", "tag": "1", "content": { "files": { "/noise": file } } });
    env.write("spec.json", spec.to_string());
    env.ok(["build", "spec.json", "--output", "image"]);
    let summary: Value = serde_json::from_slice(&fs::read(env.path("image/image.json")).unwrap()).unwrap();
    let platform = &summary["platforms"][0];
    let layers =
        platform["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap().to_owned());
    Built { config: platform["configDigest"].as_str().unwrap().to_owned(), layers: layers.collect() }
}

fn serve(stream: &UnixStream, fault: Fault, built: &Built, told: &Mutex<Told>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let (method, path) = (words[0], words[1].split_once("/v1.4").map_or(words[1], |(_, path)| &path[1..]).to_owned());
    if headers.contains_key("transfer-encoding") && !path.starts_with("/images/load") {
        chunks(&mut reader, u64::MAX)?;
    }
    let mut told = told.lock().unwrap();
    let answer = |status: &str, extra: &str, body: &str| {
        let length = body.len();
        write!(&*stream, "HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    };
    let ok = |body: Value| answer("200 OK", "", &body.to_string());
    match (method, path.as_str()) {
        ("GET", "/_ping") => {
            let api = if fault == Fault::Old { "1.39" } else { "1.44" };
            answer("200 OK", &format!("Api-Version: {api}\r\n"), "OK")
        }
        ("GET", "/info") => ok(json!({ "Driver": "overlay2", "DockerRootDir": "/nowhere/docker" })),
        ("GET", "/images/json") if fault == Fault::Garbage => answer("200 OK", "", "<html>"),
        ("GET", "/images/json") if fault == Fault::Endless => {
            write!(&*stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                write!(&*stream, "10000\r\n{}\r\n", " ".repeat(0x10000))?;
            }
        }
        ("GET", "/images/json") => {
            let image = told.image.iter().map(|(id, names, _)| json!({ "Id": id, "RepoTags": names, "Size": 1 }));
            ok(image.collect())
        }
        ("POST", load) if load.starts_with("/images/load") => {
            let most = if let Fault::Dies(most) = fault { most } else { u64::MAX };
            let (bytes, whole) = chunks(&mut reader, most)?;
            told.sent = Some((bytes, whole));
            if !whole {
                return Ok(());
            }
            if fault == Fault::Full {
                return answer("200 OK", "", r#"{"errorDetail":{},"error":"write /x: no space left on device"}"#);
            }
            let id =
                if fault == Fault::OtherImage { format!("sha256:{}", "0".repeat(64)) } else { built.config.clone() };
            let layers = if fault == Fault::Partial { Vec::new() } else { built.layers.clone() };
            told.image = Some((id, vec!["localhost/app:windlass-x".to_owned()], layers));
            ok(json!({ "stream": "Loaded image: app\n" }))
        }
        ("GET", image) if image.starts_with("/images/sha256:") => match &told.image {
            Some((id, _, layers)) if image.contains(id.as_str()) => {
                ok(json!({ "Id": id, "RootFS": { "Layers": layers } }))
            }
            _ => answer("404 Not Found", "", "{}"),
        },
        ("POST", tag) if tag.contains("/tag?") => {
            let query = tag.split_once('?').unwrap().1.replace("repo=", "").replace("&tag=", ":");
            if let Some((_, names, _)) = &mut told.image {
                names.push(query);
            }
            answer("201 Created", "", "")
        }
        ("DELETE", _) => {
            told.image = None;
            ok(json!([]))
        }
        _ => answer("500 Oops", "", r#"{"message":"not\u001b[31m this"}"#),
    }
}

/// Reads a body in chunks, up to so many bytes; whether its last chunk came.
fn chunks(reader: &mut impl BufRead, most: u64) -> std::io::Result<(u64, bool)> {
    let mut bytes = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok((bytes, false));
        }
        let size = u64::from_str_radix(line.trim(), 16).unwrap();
        bytes += std::io::copy(&mut reader.by_ref().take(size + 2), &mut std::io::sink())?;
        if size == 0 {
            return Ok((bytes, true));
        }
        if bytes > most {
            return Ok((bytes, false));
        }
    }
}

#[test]
fn what_a_docker_does_not_have_whole_does_not_count_as_loaded() {
    let env = Env::new();
    let built = build(&env);
    for (fault, code, wanted) in [
        (Fault::Dies(300_000), 7, "Docker does not answer at"),
        (Fault::Partial, 4, "has only a part of it: layers of it are not in Docker's store"),
        (Fault::OtherImage, 4, "has no record of it"),
        (Fault::Full, 5, "Docker could not load localhost/app:windlass-"),
        (Fault::Garbage, 7, "answered what windlass does not understand: expected value"),
        (Fault::Endless, 7, "its answer has more than 67108864 bytes"),
        (Fault::Old, 7, "it speaks API 1.39; windlass needs 1.41 (Docker 20.10)"),
    ] {
        let docker = BadDocker::start(&env, fault, &built);
        let (status, said, report) = docker.load(&env, &[]);
        assert_eq!(status, code, "{fault:?}: {said}");
        assert!(said.contains(wanted), "{fault:?}: {said}");
        assert!(report["generation"].is_null(), "{fault:?}: {report}");
    }
    // The same with one that works.
    let docker = BadDocker::start(&env, Fault::None, &built);
    let (status, said, report) = docker.load(&env, &[]);
    assert_eq!((status, &report["loaded"], &report["generation"]), (0, &json!(1), &json!(1)), "{said}");
    let told = docker.told.lock().unwrap();
    let (bytes, whole) = told.sent.unwrap();
    assert!(whole && bytes > 12_000_000, "{bytes}");
    let (_, names, _) = told.image.as_ref().unwrap();
    assert_eq!(names.last().unwrap(), "localhost/app:1");
    drop(told);
    let (status, _, report) = docker.load(&env, &[]);
    assert_eq!((status, &report["present"], &report["written"]), (0, &json!(1), &json!(0)));
}

#[test]
fn a_byte_that_is_not_what_was_built_ends_the_archive_before_its_end() {
    let env = Env::new();
    let built = build(&env);
    let path = env.path("noise");
    let mut noise = fs::read(&path).unwrap();
    noise[11_000_000] ^= 1;
    fs::write(&path, noise).unwrap();
    let docker = BadDocker::start(&env, Fault::None, &built);
    let (status, said, _) = docker.load(&env, &[]);
    assert_eq!(status, 4, "{said}");
    assert!(said.contains("noise"), "{said}");
    let told = docker.told.lock().unwrap();
    assert_eq!((told.sent.map(|(_, whole)| whole), &told.image.is_none()), (Some(false), &true));
}

#[test]
fn only_a_socket_of_this_host_is_taken() {
    let env = Env::new();
    build(&env);
    let said = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for host in ["tcp://127.0.0.1:2375", "ssh://root@host", "unix://docker.sock"] {
        let mut command = env.windlass(["load", "image", "--into", "docker"]);
        let (code, said) = said(command.env("DOCKER_HOST", host));
        assert_eq!(code, 7, "{said}");
        assert!(said.contains(&format!("DOCKER_HOST is '{host}': a load opens no network socket")), "{said}");
    }
    // The contexts of Docker's own client are read, as it writes them.
    let meta = "docker/contexts/meta/12b961af5feb3e9d39f93b2cefb9a1a944f18d02cca0cac2f04f5a982240605f/meta.json";
    for (host, expected) in [
        ("tcp://127.0.0.1:2375", "the context 'rootless' of Docker is 'tcp://127.0.0.1:2375': a load opens no network"),
        ("unix:///missing/docker.sock", "Docker does not answer at /missing/docker.sock"),
    ] {
        env.write(meta, json!({ "Name": "rootless", "Endpoints": { "docker": { "Host": host } } }).to_string());
        let mut command = env.windlass(["load", "image", "--into", "docker"]);
        command.env("DOCKER_CONFIG", env.path("docker")).env("DOCKER_CONTEXT", "rootless");
        let (code, said) = said(&mut command);
        assert!(code == 7 && said.contains(expected), "{code} {said}");
    }
    let mut command = env.windlass(["load", "image", "--into", "docker"]);
    command.env("DOCKER_CONFIG", env.path("docker")).env("DOCKER_CONTEXT", "other");
    let (code, other) = said(&mut command);
    assert!(code == 7 && other.contains("DOCKER_CONTEXT names the context 'other' of Docker"), "{other}");
    assert!(other.contains("docker context ls"), "{other}");
    let mut command = env.windlass(["load", "image", "--into", "docker"]);
    let (code, unanswered) = said(command.env("DOCKER_HOST", format!("unix://{}", env.path("missing.sock").display())));
    assert_eq!(code, 7, "{unanswered}");
    assert!(unanswered.contains("Docker does not answer at"), "{unanswered}");
    assert!(unanswered.contains("systemctl start docker"), "{unanswered}");
    let mut command = env.windlass(["load", "image", "--into", "docker", "--root", "/x"]);
    let (code, mixed) = said(&mut command);
    assert_eq!(code, 2, "{mixed}");
    assert!(mixed.contains("are Podman's; leave them out with Docker"), "{mixed}");
}
