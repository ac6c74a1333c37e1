//! A model of 9 GiB through all that is done with one, in memory that does not depend on its size.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::engine::{Podman, text};
use crate::env::base_name;
use crate::model_files::header;

/// Runs a program to its end. What it printed, and the most memory that it had at once, in KiB.
fn watched(command: &mut Command) -> (String, u64) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let of = |line: &str| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok();
        // The kernel keeps the peak itself: what matters is to ask before the end.
        let now = fs::read_to_string(&status).ok().and_then(|text| text.lines().find_map(of));
        peak = now.unwrap_or(peak).max(peak);
        sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    (text(&output.stdout), peak)
}

#[test]
fn nine_gib_are_built_exported_loaded_and_verified_in_little_memory() {
    const TENSORS: [u64; 3] = [4 << 30, 4 << 30, 1 << 30];
    let podman = Podman::new();
    // Where files share their data, and holes cost nothing.
    let disk = podman.env.mount("disk", "xfs", 1 << 30);
    let path = |name: &str| disk.0.join(name);
    fs::create_dir_all(path("state/gcroots/auto")).unwrap();
    let model = path("store").join(base_name("large.gguf"));
    fs::create_dir(path("store")).unwrap();
    let (start, data) = header("{{ a }}", &TENSORS);
    let size = start.len() as u64 + data;
    assert!(size > 9 << 30);
    fs::write(&model, start).unwrap();
    let file = File::options().write(true).open(&model).unwrap();
    file.set_len(size).unwrap();
    file.set_permissions(Permissions::from_mode(0o444)).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    podman.link_into(&path("storage"));

    let spec = json!({ "kind": "model", "name": "large", "storeDir": path("store"), "source": model });
    fs::write(path("spec.json"), spec.to_string()).unwrap();
    let run = |arguments: &[&str]| -> Value {
        let mut command = podman.windlass(&[arguments, &["--json"]].concat());
        command.current_dir(&disk.0).env("NIX_STORE_DIR", path("store")).env("NIX_STATE_DIR", path("state"));
        let (said, peak) = watched(&mut command);
        assert!((1024..64 * 1024).contains(&peak), "{arguments:?}: {peak} KiB");
        serde_json::from_str(&said).unwrap()
    };
    let built = run(&["build", "spec.json", "--output", "model"]);
    assert!(built["size"].as_u64().unwrap() > size && built["written"].as_u64().unwrap() < 100_000, "{built}");

    // The image directory is not in the Nix store, so that its bytes would be read but for the option.
    let exported = run(&["export", "model", "--output", "model.tar", "--verify", "never"]);
    assert_eq!((&exported["cloned"], exported["read"].as_u64().unwrap() < 100_000), (&json!(size), true), "{exported}");
    assert!(fs::metadata(path("model.tar")).unwrap().len() > size);
    assert!(fs::metadata(path("model.tar")).unwrap().blocks() * 512 < 1 << 20, "holes stay holes");

    let loaded = run(&["load", "model", "--via", "store"]);
    assert!(loaded["written"].as_u64().unwrap() < 1 << 20, "{loaded}");
    let image = fs::read(path("model/image.json")).unwrap();
    let image: Value = serde_json::from_slice(&image).unwrap();
    let layer = image["platforms"][0]["layers"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let linked = path("storage/overlay").join(layer).join("diff/models/large.gguf");
    assert_eq!(fs::metadata(linked).unwrap().ino(), fs::metadata(&model).unwrap().ino());
    let id = podman.run(&["image", "inspect", "--format", "{{.Id}} {{.Size}}", image["ref"].as_str().unwrap()]);
    let config = &image["platforms"][0]["configDigest"].as_str().unwrap()[7..];
    assert!(id.starts_with(config), "{id}");

    let verified = run(&["verify", "--full"]);
    assert_eq!((&verified["problems"], verified["read"].as_u64().unwrap() >= size), (&json!([]), true), "{verified}");
}
