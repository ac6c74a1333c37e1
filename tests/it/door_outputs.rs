//! What `--output` may name: standard output, devices, pipes, files, links and directories, as root and in a folder of others.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::env::{Env, run_ok, verbs};

/// A folder with a compose file, a lean stack `lean` and an image `app`.
fn folder() -> Env {
    let env = Env::new();
    env.write("compose.yml", "services:\n  web:\n    image: a:1\n");
    let image = json!({ "name": "app", "tag": "1", "platform": "linux/amd64" });
    env.write("stack.json", json!({ "kind": "stack", "name": "s", "images": [image] }).to_string());
    env.write("closure.json", "{}");
    let version = json!({ "title": "new", "images": { "app": { "roots": [] } } });
    env.write("history.json", json!({ "version": 1, "versions": [version, version] }).to_string());
    let file = json!({ "name": "m.gguf", "path": "m.gguf", "sha256": "00".repeat(32), "size": 1 });
    let model = json!({ "source": { "ref": "./m.gguf", "floating": false }, "files": [file] });
    env.write("models.lock.json", json!({ "version": 1, "models": { "m": model } }).to_string());
    env.ok(["upstream", "import", "compose.yml", "--state", "state.json"]);
    env.ok(["build", "stack.json", "--closure", "closure.json", "--output", "lean"]);
    env
}

/// A private key that opens nothing.
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cosign/plain.pem");

/// The verbs that write one file, without their --output; the last is the largest.
const VERBS: [&[&str]; 8] = [
    &["simulate", "--history", "history.json"],
    &["model", "sign", "m", "--key", KEY],
    &["compose", "import", "compose.yml"],
    &["compose", "export", "lean"],
    &["report", "lean"],
    &["upstream", "export", "--state", "state.json"],
    &["sbom", "lean"],
    &["export", "lean/images/app"],
];

/// The verbs whose output is a directory.
const DIRECTORIES: [&str; 3] = ["attest", "build", "model split"];

#[test]
fn every_verb_with_an_output_is_tried_here() {
    let env = Env::new();
    let has_output = |verb: &String| {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        env.ok(words).contains(" --output <")
    };
    let found: BTreeSet<String> = verbs().into_iter().filter(has_output).collect();
    let is_verb = |words: &&[&str], verb: &String| words.join(" ").starts_with(&format!("{verb} "));
    let untried: Vec<&String> = found.iter().filter(|verb| !VERBS.iter().any(|words| is_verb(words, verb))).collect();
    assert_eq!(untried, DIRECTORIES);
    assert_eq!(found.len(), VERBS.len() + DIRECTORIES.len(), "{found:?}");
}

fn with<'a>(verb: &[&'a str], output: &'a str) -> Vec<&'a str> {
    [verb, &["--output", output]].concat()
}

#[test]
fn a_device_is_written_through_and_stays() {
    let env = folder();
    // A device of its own, as root's /dev is everybody's.
    let null = env.path("null");
    run_ok(std::process::Command::new("mknod").arg(&null).args(["c", "1", "3"]));
    symlink(&null, env.path("link")).unwrap();
    let before = fs::metadata(&null).unwrap();
    for verb in VERBS {
        for output in ["null", "link", "/dev/null"] {
            env.ok(with(verb, output));
            let after = fs::symlink_metadata(&null).unwrap();
            assert!(after.file_type().is_char_device() && after.ino() == before.ino(), "{verb:?} {output}");
            assert!(fs::symlink_metadata(env.path("link")).unwrap().is_symlink(), "{verb:?} {output}");
            assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device(), "{verb:?} {output}");
        }
    }
}

#[test]
fn standard_output_has_names() {
    let env = folder();
    for verb in VERBS {
        env.ok(with(verb, "file"));
        let expected = fs::read(env.path("file")).unwrap();
        for output in ["-", "/dev/stdout", "/dev/fd/1"] {
            // A pipe, and a file of the caller's.
            let run = env.windlass(with(verb, output)).output().unwrap();
            assert!(run.status.success() && run.stdout == expected, "{verb:?} {output}: {run:?}");
            let place = env.path("of-the-shell");
            let run = env.windlass(with(verb, output)).stdout(File::create(&place).unwrap()).status().unwrap();
            assert!(run.success() && fs::read(&place).unwrap() == expected, "{verb:?} {output}");
            fs::remove_file(&place).unwrap();
            assert!(!env.path("-").exists(), "{verb:?}");
        }
    }
    // What is in a file that the shell has opened stays.
    let place = env.write("log", "before");
    let append = File::options().append(true).open(&place).unwrap();
    let run = env.windlass(with(VERBS[7], "-")).stdout(append).output().unwrap();
    assert_eq!((run.status.code(), fs::read_to_string(&place).unwrap().as_str()), (Some(2), "before"), "{run:?}");
}

#[test]
fn a_pipe_is_written_to_and_one_beside_the_output_is_not_waited_for() {
    let env = folder();
    for verb in VERBS {
        run_ok(std::process::Command::new("mkfifo").arg(env.path("pipe")));
        let mut child = env.windlass(with(verb, "pipe")).stdout(Stdio::null()).spawn().unwrap();
        let mut read = Vec::new();
        File::open(env.path("pipe")).unwrap().read_to_end(&mut read).unwrap();
        assert!(child.wait().unwrap().success() && !read.is_empty(), "{verb:?}");
        assert!(fs::symlink_metadata(env.path("pipe")).unwrap().file_type().is_fifo(), "{verb:?}");
        fs::remove_file(env.path("pipe")).unwrap();
        // By the name of what a killed run leaves.
        run_ok(std::process::Command::new("mkfifo").arg(env.path(".file.windlass-1")));
        let mut child = env.windlass(with(verb, "file")).stdout(Stdio::null()).spawn().unwrap();
        let ended = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            child.try_wait().unwrap().is_some_and(|status| status.success())
        });
        if !ended {
            child.kill().unwrap();
        }
        assert!(ended, "{verb:?} waits for a pipe that is not its own");
        assert!(fs::symlink_metadata(env.path(".file.windlass-1")).unwrap().file_type().is_fifo(), "{verb:?}");
        fs::remove_file(env.path(".file.windlass-1")).unwrap();
    }
}

#[test]
fn a_socket_is_written_through() {
    let env = folder();
    for verb in VERBS {
        env.ok(with(verb, "file"));
        let place = env.path("socket");
        let listener = UnixListener::bind(&place).unwrap();
        let mut child = env.windlass(with(verb, "socket")).stdout(Stdio::null()).spawn().unwrap();
        let mut read = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut read).unwrap();
        assert!(child.wait().unwrap().success() && read == fs::read(env.path("file")).unwrap(), "{verb:?}");
        // What hears no more is named.
        drop(listener);
        let (code, said) = env.fails(with(verb, "socket"));
        assert_eq!(
            (code, said.trim()),
            (1, "windlass: connect to the socket socket: Connection refused (os error 111)")
        );
        assert!(fs::symlink_metadata(&place).unwrap().file_type().is_socket(), "{verb:?}");
        fs::remove_file(&place).unwrap();
    }
}

#[test]
fn a_file_is_replaced_in_one_step_and_a_directory_of_others_is_not() {
    let env = folder();
    fs::create_dir(env.path("mine")).unwrap();
    env.write("mine/text", "mine");
    for verb in VERBS {
        let place = env.write("file", "unrelated");
        let reader = File::open(&place).unwrap();
        symlink("file", env.path("to-file")).unwrap();
        env.ok(with(verb, "to-file"));
        assert!(fs::symlink_metadata(env.path("to-file")).unwrap().is_symlink(), "{verb:?}");
        assert_ne!(fs::read(&place).unwrap(), b"unrelated", "{verb:?}");
        // A process that had it open still reads the old bytes.
        let mut before = String::new();
        { reader }.read_to_string(&mut before).unwrap();
        assert_eq!(before, "unrelated", "{verb:?}");
        fs::remove_file(env.path("to-file")).unwrap();
        let (code, said) = env.fails(with(verb, "mine"));
        assert!(code == 2 && said.contains("is a directory; give a file"), "{verb:?}: {said}");
    }
    let (code, said) = env.fails(["export", "lean/images/app", "--format", "oci", "--output", "mine"]);
    assert!(code == 2 && said.contains("windlass did not write it"), "{said}");
    assert_eq!(fs::read_to_string(env.path("mine/text")).unwrap(), "mine");
    assert_eq!(fs::metadata(env.path("file")).unwrap().permissions().mode() & 0o111, 0);
}
