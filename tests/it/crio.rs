//! `--into crio` on a host that has no CRI-O: its two programs are scripts that tell of the storage of a real Podman, which then lists and
//! runs what was linked, as CRI-O reads the same kind of store. What a real CRI-O does, `tests/engines/crio.py` shows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::engine::{Podman, Said};

/// `crictl`: the images of that Podman, in the words of the kubelet's language.
const CRICTL: &str = r#"#!/bin/sh
case "$*" in
*" images "*) podman images --quiet --no-trunc | sort -u | sed s/sha256:// | xargs --no-run-if-empty podman image inspect |
  jq --slurp '{images: [.[] | .[] | {id: .Id, repoTags: .RepoTags, repoDigests: .RepoDigests}]}' ;;
*" ps "*) echo '{"containers": []}' ;;
*) echo "not known here: $*" >&2; exit 1 ;;
esac
"#;

struct Crio {
    podman: Podman,
}

impl Crio {
    fn new() -> Self {
        let crio = Self { podman: Podman::with_nix() };
        crio.program("crictl", CRICTL);
        crio.settings(&[&crio.podman.home("storage")]);
        crio
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.podman.env.write(format!("bin/{name}"), script);
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// The settings that CRI-O says it has, with these additional image stores.
    fn settings(&self, stores: &[&Path]) {
        let places = self.podman.places();
        let options: Vec<String> =
            stores.iter().map(|store| format!("\"overlay.imagestore={}\"", store.display())).collect();
        let settings = format!(
            "[crio]\n  root = \"{}\"\n  runroot = \"{}\"\n  imagestore = \"\"\n  storage_driver = \"overlay\"\n  \
             storage_option = [{}]\n  [crio.api]\n    listen = \"/run/crio/crio.sock\"\n",
            places.graph_root.display(),
            places.run_root.display(),
            options.join(", ")
        );
        let file = self.podman.env.write("settings.toml", settings);
        self.program("crio", &format!("#!/bin/sh\nexec cat {}\n", file.display()));
    }

    /// `windlass ARGUMENTS --into crio`
    fn said(&self, arguments: &[&str]) -> Said {
        let path = format!("{}:{}", self.podman.env.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = self.podman.windlass(&[arguments, &["--into", "crio"]].concat());
        Said::of(&command.env("PATH", path).output().unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.said(&[arguments, &["--json"]].concat());
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.stdout).unwrap()
    }
}

#[test]
fn images_are_linked_where_crio_reads_them_and_go_back_and_away() {
    let crio = Crio::new();
    let podman = &crio.podman;
    let image = podman.app("app", "the first text");
    let path = image.to_str().unwrap();

    assert_eq!(crio.json(&["load", path, "--dry-run"])["toLoad"], 1);
    let report = crio.json(&["load", path]);
    assert_eq!(
        (&report["loaded"], &report["failed"], &report["network"]),
        (&1.into(), &0.into(), &0.into()),
        "{report}"
    );
    assert_eq!(report["images"][0]["action"], "link");
    assert_eq!(report["images"][0]["store"], podman.home("storage").to_str().unwrap());
    let by_digest = format!("localhost/app@{}", report["images"][0]["digest"].as_str().unwrap());
    assert_eq!(podman.sh(&by_digest, "cat /text"), "the first text");
    let again = crio.said(&["load", path]);
    assert_eq!(again.last(), "1 image, 0 models: 0 loaded, 1 present; wrote 0 B; network 0 bytes");

    let status = crio.json(&["status"]);
    assert_eq!((&status["engine"], &status["images"][0]["state"]), (&"crio".into(), &"present".into()), "{status}");
    assert_eq!(status["free"][0]["place"], "crio");
    crio.json(&["verify", "--full"]);

    podman.app("app", "the second text");
    let told = crio.said(&["load", path]);
    assert!(told.stderr.contains("next: image: localhost/app@sha256:"), "{told:?}");
    assert_eq!(podman.sh("localhost/app:1", "cat /text"), "the second text");
    crio.said(&["rollback", "1"]).last();
    assert_eq!(podman.sh("localhost/app:1", "cat /text"), "the first text");
    assert_eq!(crio.json(&["generations"])["generations"].as_array().unwrap().len(), 2);

    for refused in [
        &["load", path, "--via", "podman"][..],
        &["gc", "--only", "containers"],
        &["gc", "--only", "networks"],
        &["status", "--root", "/x"],
    ] {
        let said = crio.said(refused);
        assert_eq!(said.code, 2, "{refused:?}: {said:?}");
        assert!(said.stderr.contains("CRI-O"), "{said:?}");
    }
    crio.said(&["unload", "app"]).last();
    crio.said(&["gc", "--keep-generations", "1", "--apply", "--yes"]).last();
    assert_eq!(podman.run(&["images", "--quiet"]), "");
}

#[test]
fn what_is_wrong_with_crio_is_told_and_nothing_counts_as_loaded() {
    let crio = Crio::new();
    let image = crio.podman.app("app", "x");
    let load = ["load", image.to_str().unwrap()];

    // No store of ours among its settings: what to write, and where.
    crio.settings(&[]);
    let said = crio.said(&load);
    assert_eq!(said.code, 7, "{said:?}");
    for part in [
        "CRI-O reads no additional image store of windlass that this user can write to",
        "`windlass doctor --fix --storage-dir /nix/var/windlass/storage`",
        "/etc/crio/crio.conf.d/50-windlass.conf",
        "restart CRI-O",
    ] {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }

    // It was not restarted, and lists nothing.
    crio.settings(&[&crio.podman.home("storage")]);
    crio.program("crictl", "#!/bin/sh\necho '{\"images\": []}'\n");
    let said = crio.said(&load);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.contains("was loaded and taken away again, because CRI-O knows no localhost/app"), "{said:?}");
    assert!(said.stderr.contains("hint: see what `crictl images --digests` lists"), "{said:?}");
    assert_eq!(crio.podman.run(&["images", "--quiet"]), "");

    for (program, script, code, expected) in [
        ("crictl", "echo hello", 4, "crictl was asked to list its images and answered 'hello'"),
        (
            "crictl",
            "echo 'no such socket' >&2; exit 1",
            4,
            "crictl could not list its images: no such socket; see whether CRI-O runs",
        ),
        (
            "crio",
            "echo hello",
            7,
            "crio was asked to say where CRI-O at /var/run/crio/crio.sock keeps its images and answered 'hello'",
        ),
        (
            "crio",
            "echo 'no daemon' >&2; exit 1",
            7,
            "crio could not say where CRI-O at /var/run/crio/crio.sock keeps its images: no daemon; see",
        ),
    ] {
        crio.program(program, &format!("#!/bin/sh\n{script}\n"));
        let said = crio.said(&load);
        assert_eq!(said.code, code, "{program}, {script}: {said:?}");
        assert!(said.stderr.contains(expected), "{expected}: {said:?}");
        assert_eq!(crio.podman.run(&["images", "--quiet"]), "");
    }
    let mut command = crio.podman.windlass(&[&load[..], &["--into", "crio"]].concat());
    let said = Said::of(&command.env("PATH", "/nonexistent").output().unwrap());
    assert_eq!((said.code, said.stderr.contains("there is no crio on PATH: install it")), (7, true), "{said:?}");
    let mut command = crio.podman.windlass(&[&load[..], &["--into", "crio"]].concat());
    let said = Said::of(&command.env("CONTAINER_RUNTIME_ENDPOINT", "tcp://127.0.0.1:1").output().unwrap());
    assert_eq!((said.code, said.stderr.contains("it must be the socket of CRI-O on this host")), (7, true), "{said:?}");
}
