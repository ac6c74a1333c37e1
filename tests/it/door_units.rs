//! Text of container descriptions in units and Quadlet files: whatever is in it begins no line of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::door::{hostile, many};
use crate::env::Env;
use crate::machine::{SHOP, expect, refused, with_modules};
use crate::nix::{eval, root};

/// A container as container.nix gives it, with nothing in it.
fn bare() -> Value {
    json!({
        "image": "localhost/app:1", "entrypoint": null, "command": [], "environment": {}, "environmentFiles": [],
        "secrets": {}, "ports": [], "volumes": [], "tmpfs": [], "devices": [], "readOnly": false, "user": null,
        "workingDir": null, "hostname": null, "labels": {}, "networks": [], "extraHosts": [], "capAdd": [], "capDrop": [],
        "noNewPrivileges": false, "privileged": false, "init": false, "health": null, "memory": null, "cpus": null,
        "shmSize": null, "pidsLimit": null, "ulimits": {}, "stopSignal": null, "stopTimeout": null, "restart": "no",
        "autoStart": true, "extraOptions": [], "unitConfig": {}, "serviceConfig": {}, "quadlet": "",
    })
}

/// The text in every place that a container has for one.
fn places(text: &str) -> Vec<(&'static str, Value)> {
    let health = |command: Value| json!({ "command": command, "interval": "1s", "timeout": "1s", "retries": 1, "startPeriod": "0s", "onFailure": "none" });
    vec![
        ("entrypoint", json!(["/bin/app", text])),
        ("command", json!([text])),
        ("environment", json!({ "A": text })),
        ("environmentFiles", json!([format!("/etc/{text}")])),
        ("ports", json!([text])),
        ("volumes", json!([format!("data:/{text}")])),
        ("tmpfs", json!([format!("/{text}")])),
        ("devices", json!([format!("/dev/{text}")])),
        ("user", json!(text)),
        ("workingDir", json!(text)),
        ("hostname", json!(text)),
        ("labels", json!({ "a": text })),
        ("networks", json!([text])),
        ("extraHosts", json!([format!("a:{text}")])),
        ("capAdd", json!([text])),
        ("shmSize", json!(text)),
        ("ulimits", json!({ text: "1:1" })),
        ("stopSignal", json!(text)),
        ("extraOptions", json!([format!("--annotation=a={text}")])),
        ("health", health(json!([text]))),
        ("health", health(json!(["/bin/check", text]))),
    ]
}

/// Quadlet's generator of Podman 5, where the machine or the chroots of `./dev engines` have one, as in CI they do.
fn generator() -> Option<PathBuf> {
    let chroots = std::env::var_os("ENGINES_DIR").map_or_else(|| root().join("target/engines"), PathBuf::from);
    [PathBuf::from("/usr/libexec/podman/quadlet"), chroots.join("trixie/usr/libexec/podman/quadlet")]
        .into_iter()
        .find(|path| path.is_file())
}

#[test]
fn no_text_of_a_container_begins_a_line_of_its_quadlet_file() {
    many(2, 30, hostile(), |texts| {
        let places: Vec<(&str, Value)> = texts.iter().flat_map(|text| places(&text.replace('\0', ""))).collect();
        let containers = places.iter().map(|(key, value)| {
            let mut container = bare();
            container[key] = value.clone();
            container
        });
        let containers: Vec<Value> = containers.collect();
        let env = Env::new();
        let file = env.write("containers.json", json!(containers).to_string());
        let expression = format!(
            "let quadlet = import {}/nix/modules/quadlet.nix {{ inherit lib; }}; one = container: \
             let text = quadlet {{ name = \"app\"; restartSec = \"3s\"; inherit container; }}; tried = builtins.tryEval (builtins.deepSeq text text); in \
             if tried.success then tried.value else null; in map one (builtins.fromJSON (builtins.readFile {}))",
            root().display(),
            file.display()
        );
        let made = eval(&with_modules(&expression));
        let (mut accepted, mut plain) = (BTreeMap::new(), 0);
        for (n, text) in made.as_array().unwrap().iter().enumerate() {
            let Some(text) = text.as_str() else { continue };
            let (key, value) = &places[n];
            // No line but those that this key has, and none that goes on.
            let keys: Vec<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key).collect();
            let known = [
                "PodmanArgs",
                "DefaultDependencies",
                "Description",
                "ContainerName",
                "Image",
                "Pull",
                "Entrypoint",
                "Exec",
                "Environment",
                "EnvironmentFile",
                "PublishPort",
                "Volume",
                "Tmpfs",
                "AddDevice",
                "WorkingDir",
                "HostName",
                "Label",
                "Network",
                "AddCapability",
                "ShmSize",
                "Ulimit",
                "Restart",
                "TimeoutStartSec",
                "TimeoutStopSec",
                "WantedBy",
            ];
            let rest = |key: &&&str| {
                !known.contains(*key)
                    && !key.starts_with("Health")
                    && !key.starts_with("Start")
                    && !key.starts_with("Restart")
            };
            assert_eq!(keys.iter().filter(rest).count(), 0, "{key} {value}: {text}");
            let arguments = keys.iter().filter(|key| **key == "PodmanArgs").count();
            assert!(
                arguments <= 1 && !text.lines().any(|line| line == "PodmanArgs=--privileged"),
                "{key} {value}: {text}"
            );
            assert!(text.lines().all(|line| !line.ends_with('\\') && !line.contains('\r')), "{key} {value}: {text}");
            accepted.insert(n, text.to_owned());
            plain += 1;
        }
        assert!(plain > 150, "only {plain} of {} are accepted", places.len());
        let Some(generator) = generator() else {
            assert!(std::env::var_os("CI").is_none(), "no Quadlet generator of Podman 5: run ./dev engines first");
            return;
        };
        let units = env.path("units");
        fs::create_dir(&units).unwrap();
        for (n, text) in &accepted {
            fs::write(units.join(format!("c{n}.container")), text).unwrap();
        }
        let out = env.path("out");
        fs::create_dir(&out).unwrap();
        let run = Command::new(generator).env("QUADLET_UNIT_DIRS", &units).arg(&out).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        let mut read = 0;
        for n in accepted.keys() {
            // Quadlet refuses some by itself, ports above all.
            let Ok(unit) = fs::read_to_string(out.join(format!("c{n}.service"))) else { continue };
            read += 1;
            let start: Vec<&str> = unit.lines().filter(|line| line.starts_with("ExecStart=")).collect();
            assert_eq!(start.len(), 1, "{:?}: {unit}", places[*n]);
            let words = start[0].split_whitespace();
            assert!(!words.clone().any(|word| word == "--privileged"), "{:?}: {unit}", places[*n]);
        }
        assert!(read > 100, "{read} of {} are read: {said}", accepted.len());
        // systemd's own reader: no key and no section that the text would have made.
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no", "--generators=no", "--recursive-errors=no"]);
        let services = accepted.keys().map(|n| out.join(format!("c{n}.service"))).filter(|path| path.is_file());
        let run = verify.args(services.take(60)).env("LC_ALL", "C").output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        for word in ["Unknown key", "Unknown section", "outside of section", "Missing '='", "Invalid section header"] {
            assert!(!said.contains(word), "{said}");
        }
    });
}

#[test]
fn a_line_break_in_a_container_is_refused_by_the_modules() {
    let with = |change: &str, runner: &str| {
        format!(
            "{{ virtualisation.windlass.runner = \"{runner}\"; virtualisation.windlass.containers.app = {{ {change} }}; }}"
        )
    };
    for (change, says) in [
        (r#"hostname = "h\nPodmanArgs=--privileged";"#, "hostname"),
        (r#"volumes = [ "a:/b\nPodmanArgs=--privileged" ];"#, "volumes"),
        (r#"tmpfs = [ "/t\nPodmanArgs=--privileged" ];"#, "tmpfs"),
        (r#"networks = [ "a\nPodmanArgs=--privileged" ];"#, "networks"),
    ] {
        for runner in ["quadlet", "oci-containers"] {
            let error = refused(SHOP, &with(change, runner));
            assert!(error.contains(says) && error.contains("is not of type"), "{change}: {error}");
        }
    }
    for change in [
        r#"ulimits."a\nPodmanArgs=--privileged" = "1:1";"#,
        r#"health.command = lib.mkForce [ "/bin/x\nPodmanArgs=--privileged" ];"#,
        r#"ports = [ "80:80\\" ];"#,
    ] {
        let error = refused(SHOP, &with(change, "quadlet"));
        assert!(error.contains("is not one line of a unit"), "{change}: {error}");
    }
    let limits = with(r#"ulimits."a b" = "1:1";"#, "oci-containers");
    let store = with(r#"volumes = [ "/nix/store/x:/x:ro,U" ];"#, "oci-containers");
    expect(SHOP, "assertions", [(&limits, "a limit is called by a word"), (&store, "with the option U")]);
}
