//! The example stack in a real Podman: what `load.sh` does, and whether stock tools say what windlass said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

use crate::engine::{Podman, text};
use crate::env::{Env, run_ok};
use crate::nix::nix;

/// `nix build .#ai-stack-images`, through the flake, once for all tests of this process.
fn stack() -> &'static Path {
    static STACK: LazyLock<PathBuf> = LazyLock::new(|| built("ai-stack-images"));
    &STACK
}

pub(crate) fn built(attribute: &str) -> PathBuf {
    let json = run_ok(nix("nix").args([
        "build",
        &format!(".#{attribute}"),
        "--no-link",
        "--json",
        "--override-input",
        "nixpkgs",
        "path:target/nixpkgs",
        "--no-write-lock-file",
    ]));
    let json: Value = serde_json::from_str(&json).unwrap();
    json[0]["outputs"]["out"].as_str().unwrap().into()
}

fn stack_json() -> Value {
    serde_json::from_slice(&fs::read(stack().join("stack.json")).unwrap()).unwrap()
}

/// The entry of an image or model of the stack.
fn entry(name: &str) -> Value {
    let json = stack_json();
    let all = ["images", "models"].into_iter().flat_map(|key| json[key].as_array().unwrap().clone());
    all.into_iter().find(|entry| entry["name"] == name).unwrap()
}

/// `localhost/redis@sha256:…`
fn by_digest(name: &str) -> String {
    let entry = entry(name);
    let reference = entry["ref"].as_str().unwrap();
    format!("{}@{}", reference.rsplit_once(':').unwrap().0, entry["digest"].as_str().unwrap())
}

/// `load.sh` of the stack.
fn load(podman: &Podman, names: &[&str]) -> Output {
    podman.command("sh").arg(stack().join("load.sh")).args(names).output().unwrap()
}

/// Starts a container of an image, and gives its process number.
fn start(podman: &Podman, name: &str, options: &[&str]) -> String {
    let image = by_digest(name);
    let fixed = ["run", "--detach", "--pull=never", "--network=none", "--read-only", "--name", name];
    podman.run(&[&fixed[..], options, &[&image]].concat());
    podman.run(&["inspect", "--format", "{{.State.Pid}}", name]).trim().to_owned()
}

/// Tries a command for half a minute, until it prints something that holds `expected`.
pub(crate) fn wait_for(mut command: Command, expected: &str) -> String {
    let mut last = String::new();
    for _ in 0..150 {
        let output = command.output().unwrap();
        last = text(&output.stdout) + &text(&output.stderr);
        if last.contains(expected) {
            return last;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    panic!("{command:?} did not print '{expected}' but: {last}");
}

#[test]
fn the_stack_loads_runs_and_loads_again_for_nothing() {
    let podman = Podman::new();
    let first = load(&podman, &[]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout).lines().last(), Some("4 loaded, 0 present"));
    let again = load(&podman, &[]);
    assert_eq!(text(&again.stdout).lines().last(), Some("0 loaded, 4 present"));

    for name in ["redis", "postgres", "llama-cpp", "smollm2"] {
        let entry = entry(name);
        let inspect: Value = serde_json::from_str(&podman.run(&["image", "inspect", &by_digest(name)])).unwrap();
        let layers: Vec<&Value> = entry["layers"].as_array().unwrap().iter().map(|layer| &layer["digest"]).collect();
        let diff_ids: Vec<&Value> = inspect[0]["RootFS"]["Layers"].as_array().unwrap().iter().collect();
        assert_eq!(diff_ids, layers, "{name}");
        assert_eq!(inspect[0]["Digest"], entry["digest"]);
        assert_eq!(format!("sha256:{}", inspect[0]["Id"].as_str().unwrap()), entry["configDigest"]);
        assert_eq!(inspect[0]["RepoTags"][0], entry["ref"]);
    }

    start(&podman, "redis", &[]);
    let owners = entry("redis")["layers"].to_string();
    let redis = owners.split('"').find(|owner| owner.contains("-redis-")).unwrap();
    let mut ping = podman.command("podman");
    ping.args(["exec", "redis", &format!("{redis}/bin/redis-cli"), "ping"]);
    assert_eq!(wait_for(ping, "PONG"), "PONG\n");
    let user = podman.run(&["exec", "redis", &format!("{redis}/bin/redis-cli"), "config", "get", "dir"]);
    assert!(user.contains("/data"), "{user}");

    let process = start(&podman, "llama-cpp", &["--tmpfs", "/tmp"]);
    let mut ask = Command::new("nsenter");
    ask.args([
        "--target",
        &process,
        "--net",
        "curl",
        "--silent",
        "--show-error",
        "http://127.0.0.1:8080/v1/completions",
    ]);
    ask.args(["--data", r#"{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}"#]);
    let answer = wait_for(ask, "choices");
    assert!(answer.contains("Paris"), "{answer}");
}

#[test]
fn load_sh_names_what_is_missing_and_believes_only_what_it_sees() {
    let podman = Podman::new();
    let needs = load(&podman, &["llama-cpp"]);
    assert_eq!(needs.status.code(), Some(1));
    assert_eq!(
        text(&needs.stderr),
        "load.sh: image llama-cpp needs model smollm2, which is not loaded; load it first: sh load.sh smollm2 llama-cpp\n"
    );
    let unknown = load(&podman, &["redi"]);
    assert_eq!(
        (unknown.status.code(), text(&unknown.stderr).as_str()),
        (Some(2), "load.sh: there is no image 'redi' in this stack; there are: smollm2 llama-cpp postgres redis\n")
    );
    assert_eq!(text(&load(&podman, &["redis"]).stdout).lines().last(), Some("1 loaded, 0 present"));

    // A copy without the model's archive, as after an incomplete copy to a USB stick.
    let copy = podman.env.path("copy");
    run_ok(Command::new("cp").args(["--recursive", "--dereference"]).arg(stack()).arg(&copy));
    run_ok(Command::new("chmod").args(["--recursive", "u+w"]).arg(&copy));
    run_ok(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&copy));
    fs::remove_file(copy.join("models/smollm2.tar")).unwrap();
    let missing = podman.command("sh").arg(copy.join("load.sh")).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(
        text(&missing.stderr),
        "load.sh: model smollm2: models/smollm2.tar is missing; copy the whole directory, links followed (cp -rL)\n"
    );

    // A podman that says it has loaded and did not.
    let liar =
        podman.env.write("bin/podman", "#!/bin/sh\ncase \"$*\" in *exists*) exit 1;; esac\necho 'Loaded image: x'\n");
    run_ok(Command::new("chmod").arg("+x").arg(&liar));
    let path = format!("{}:{}", liar.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let lied = podman.command("sh").arg(stack().join("load.sh")).env("PATH", path).output().unwrap();
    assert_eq!(lied.status.code(), Some(4));
    assert!(
        text(&lied.stderr)
            .starts_with("load.sh: model smollm2: podman said that models/smollm2.tar is loaded, but has no ")
    );
}

#[test]
fn a_damaged_archive_is_refused_by_podman_and_reported() {
    let podman = Podman::new();
    let copy = podman.env.path("copy");
    run_ok(Command::new("cp").args(["--recursive", "--dereference"]).arg(stack()).arg(&copy));
    run_ok(Command::new("chmod").args(["--recursive", "u+w"]).arg(&copy));
    let archive = copy.join("images/redis.tar");
    let mut bytes = fs::read(&archive).unwrap();
    // Cut off, as by a stick that was pulled out: the message says how to compare all files.
    let compare = "is it as it was written? sha256sum -c SHA256SUMS";
    for length in [0, 700, bytes.len() / 2, bytes.len() - 2048] {
        fs::write(&archive, &bytes[..length]).unwrap();
        let cut = podman.command("sh").arg(copy.join("load.sh")).arg("redis").output().unwrap();
        let said = text(&cut.stderr);
        assert!(cut.status.code() == Some(4) && said.contains("load.sh: image redis: "), "{length}: {said}");
        assert!(said.trim_end().ends_with(compare), "{length}: {said}");
        assert_eq!(podman.run(&["images", "--quiet"]), "");
    }
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let sums =
        Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&copy).output().unwrap();
    assert!(text(&sums.stdout).contains("images/redis.tar: FAILED"));
    let damaged = podman.command("sh").arg(copy.join("load.sh")).arg("redis").output().unwrap();
    assert_eq!(damaged.status.code(), Some(4));
    assert!(text(&damaged.stderr).trim_end().ends_with(compare), "{}", text(&damaged.stderr));
    assert!(text(&damaged.stderr).contains("Digest did not match"), "{}", text(&damaged.stderr));
    assert_eq!(podman.run(&["images", "--quiet"]), "");
}

#[test]
fn stock_tools_say_what_windlass_said() {
    let env = Env::new();
    let lean = built("ai-stack-images.lean");
    for name in ["images/redis", "images/llama-cpp", "models/smollm2"] {
        let directory = lean.join(name);
        let summary: Value = serde_json::from_slice(&fs::read(directory.join("image.json")).unwrap()).unwrap();
        let platform = &summary["platforms"][0];
        for (form, transport) in [("oci", "oci"), ("archive", "oci-archive")] {
            let output = env.path(form);
            env.ok(["export", directory.to_str().unwrap(), "--format", form, "--output", output.to_str().unwrap()]);
            let location = format!("{transport}:{}:{}", output.display(), summary["ref"].as_str().unwrap());
            let inspect = run_ok(Command::new("skopeo").args(["inspect", "--override-os", "linux", &location]));
            let inspect: Value = serde_json::from_str(&inspect).unwrap();
            assert_eq!(inspect["Digest"], summary["digest"], "{location}");
            let told: Vec<&Value> =
                platform["layers"].as_array().unwrap().iter().map(|layer| &layer["digest"]).collect();
            assert_eq!(inspect["Layers"].as_array().unwrap().iter().collect::<Vec<_>>(), told);
        }
        // umoci reads the directory, checks every digest, and unpacks what the layers hold.
        let reference = summary["ref"].as_str().unwrap();
        let bundle = env.path("bundle");
        run_ok(
            Command::new("umoci")
                .args(["unpack", "--image", &format!("{}:{reference}", env.path("oci").display())])
                .arg(&bundle),
        );
        for layer in platform["layers"].as_array().unwrap() {
            for owner in layer["owners"].as_array().unwrap() {
                let owner = owner.as_str().unwrap();
                let unpacked = match layer["kind"].as_str().unwrap() {
                    "model" => bundle.join("rootfs/models/smollm2.gguf"),
                    _ => bundle.join("rootfs").join(owner.trim_start_matches('/')),
                };
                let difference = Command::new("diff")
                    .args(["--recursive", "--no-dereference"])
                    .arg(owner)
                    .arg(&unpacked)
                    .output()
                    .unwrap();
                assert!(difference.status.success(), "{owner}: {}", text(&difference.stdout));
            }
        }
        fs::remove_dir_all(&bundle).unwrap();
        // Python's tarfile and GNU tar list the same members of the archive and of every layer in it.
        let script = "import sys,tarfile\nfor m in tarfile.open(sys.argv[1]): print(m.name, m.size, oct(m.mode), m.mtime, m.uid, m.gid, m.linkname)";
        run_ok(Command::new("tar").args(["-xf", "archive"]).current_dir(env.path("")));
        let blobs = env.path("blobs/sha256");
        let layers =
            platform["layers"].as_array().unwrap().iter().map(|l| blobs.join(&l["digest"].as_str().unwrap()[7..]));
        for tar in layers.chain([env.path("archive")]) {
            let python = run_ok(Command::new("python3").args(["-c", script]).arg(&tar));
            let gnu = run_ok(Command::new("tar").arg("-tf").arg(&tar));
            let names = |listing: &str, first: bool| -> Vec<String> {
                let name = |line: &str| {
                    if first { line.split(' ').next().unwrap() } else { line }.trim_end_matches('/').to_owned()
                };
                listing.lines().map(name).collect()
            };
            assert_eq!(names(&python, true), names(&gnu, false));
            assert!(python.lines().all(|line| line.contains(" 1 ")), "every mtime is 1");
        }
        fs::remove_dir_all(&blobs).unwrap();
    }
}

/// Loads a stack that Nix builds from these images; what load.sh printed last.
fn load_stack(podman: &Podman, images: &str) -> String {
    // By a relative path, through a link.
    let link = podman.env.path("stack");
    drop(fs::remove_file(&link));
    std::os::unix::fs::symlink(crate::nix::build(&format!("w.buildStack {{ images = [ {images} ]; }}")).unwrap(), link)
        .unwrap();
    let output = run_ok(podman.command("sh").arg("stack/load.sh").current_dir(podman.env.path("")));
    output.lines().last().unwrap().to_owned()
}

#[test]
fn a_tag_is_moved_to_what_is_asked_for_without_loading() {
    let podman = Podman::new();
    let web =
        |tag: &str, text: &str| format!(r#"(w.buildImage {{ name = "web"; tag = "{tag}"; texts."/v" = "{text}"; }})"#);
    let id = |reference: &str| podman.run(&["image", "inspect", "--format", "{{.Id}}", reference]);
    assert_eq!(load_stack(&podman, &web("1", "old")), "1 loaded, 0 present");
    let old = id("localhost/web:1");
    // The same bytes under another tag.
    assert_eq!(load_stack(&podman, &web("2", "old")), "0 loaded, 1 present");
    assert_eq!(id("localhost/web:2"), old);
    // Other bytes under the same tag, and back.
    assert_eq!(load_stack(&podman, &web("2", "new")), "1 loaded, 0 present");
    assert_ne!(id("localhost/web:2"), old);
    assert_eq!(load_stack(&podman, &web("2", "old")), "0 loaded, 1 present");
    assert_eq!(id("localhost/web:2"), old);
}

#[test]
fn an_index_loads_whichever_platform_comes_first() {
    for architectures in [["amd64", "arm64"], ["arm64", "amd64"]] {
        let podman = Podman::new();
        let image =
            |architecture: &&str| format!(r#"(w.buildImage {{ name = "app"; architecture = "{architecture}"; }})"#);
        let images: Vec<String> = architectures.iter().map(image).collect();
        let index = format!(r#"(w.buildIndex {{ name = "app"; tag = "1"; images = [ {} ]; }})"#, images.join(" "));
        assert_eq!(load_stack(&podman, &index), "1 loaded, 0 present", "{architectures:?}");
        assert_eq!(load_stack(&podman, &index), "0 loaded, 1 present", "{architectures:?}");
        let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        assert_eq!(podman.run(&["image", "inspect", "--format", "{{.Architecture}}", "localhost/app:1"]).trim(), host);
    }
}
