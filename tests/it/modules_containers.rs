//! How the modules' containers start, fail and stop: in NixOS, with Quadlet, and at home.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::machine::{SHOP, SHOP_HOME, evaluated, values};

/// The texts that start the containers, in NixOS, with Quadlet, and at home.
fn starts(change: &str) -> [BTreeMap<String, String>; 3] {
    let [oci, quadlet] = evaluated(
        SHOP,
        [change, &format!(r#"{{ imports = [ {change} ]; virtualisation.windlass.runner = "quadlet"; }}"#)],
    );
    let [home] = evaluated(SHOP_HOME, [change]);
    let names = ["redis", "app"];
    let unit = |name: &str| {
        let script = oci["scripts"][format!("podman-{name}")].to_string();
        format!("{}\n{}", oci["units"][format!("podman-{name}.service")].as_str().unwrap(), script)
    };
    let file = |files: &Value, folder: &str, name: &str| {
        files[format!("{folder}containers/systemd/{name}.container")].as_str().unwrap().to_owned()
    };
    [
        names.map(|name| (name.to_owned(), unit(name))).into(),
        names.map(|name| (name.to_owned(), file(&quadlet["etc"], "", name))).into(),
        names.map(|name| (name.to_owned(), file(&home["files"], ".config/", name))).into(),
    ]
}

#[test]
fn a_unit_that_others_wait_for_has_started_when_its_container_is_healthy() {
    for starts in starts("{ }") {
        // Podman's own word for it is lost now and then (https://github.com/containers/podman/issues/19724).
        assert!(!starts.values().any(|text| text.contains("sdnotify=healthy") || text.contains("Notify=healthy")));
        let [wait] = values(&starts["redis"], "ExecStartPost")[..] else { panic!("{}", starts["redis"]) };
        assert!(wait.starts_with("/nix/store/") && wait.ends_with("-windlass-healthy-redis"), "{wait}");
        assert_eq!(values(&starts["redis"], "TimeoutStartSec"), ["15min"]);
        // A stop in the meantime is for that command and the container; Quadlet has it so by itself.
        let is_quadlet = starts["redis"].contains("[Container]");
        assert_eq!(values(&starts["redis"], "KillMode"), if is_quadlet { vec![] } else { vec!["mixed"] });
        assert_eq!(values(&starts["app"], "ExecStartPost"), [""; 0]);
    }
}

#[test]
fn no_health_check_fails_while_a_container_starts() {
    let other = r#"{ virtualisation.windlass.containers.app.health.command = [ "/bin/ask" "me" ]; }"#;
    let options = |text: &str| -> Vec<String> {
        let keys = ["HealthStartupCmd", "HealthStartupInterval", "HealthStartupTimeout"];
        let text = text.replace("\\\"", "\"").replace("\\n", "\n");
        ["cmd", "interval", "timeout"]
            .iter()
            .zip(keys)
            .map(|(option, key)| {
                let option = format!("--health-startup-{option}=");
                match text.split_once(&option) {
                    Some((_, rest)) => rest.split([' ', '\'', '\\', '\n']).next().unwrap().to_owned(),
                    None => values(&text, key)[0].to_owned(),
                }
            })
            .collect()
    };
    for starts in starts(other) {
        // The probe waits in the container; another command is asked every second.
        let wait = r#"["/bin/windlass-probe","tcp","--wait=15m","127.0.0.1:6379"]"#;
        assert_eq!(options(&starts["redis"]), [wait, "1s", "16m"], "{}", starts["redis"]);
        assert_eq!(options(&starts["app"]), [r#"["/bin/ask","me"]"#, "1s", "5s"], "{}", starts["app"]);
    }
}

#[test]
fn a_container_that_fails_again_and_again_is_not_given_up() {
    for starts in starts("{ }") {
        for text in starts.values() {
            // Five starts in ten seconds are systemd's limit.
            assert_eq!(values(text, "RestartSec"), ["3s"], "{text}");
            assert_eq!(values(text, "StartLimitBurst"), [""; 0], "{text}");
        }
    }
}

#[test]
fn a_container_that_a_stop_kills_has_not_failed() {
    let other = |restart: &str| format!(r#"{{ virtualisation.windlass.containers.app.restart = "{restart}"; }}"#);
    let keys = ["SuccessExitStatus", "RestartForceExitStatus"];
    for (restart, want) in [
        ("always", [vec!["137 143"], vec![]]),
        // Out of memory, say: it is started again.
        ("on-failure", [vec!["137 143"], vec!["137 143"]]),
        ("no", [vec![], vec![]]),
    ] {
        for starts in starts(&other(restart)) {
            assert_eq!(keys.map(|key| values(&starts["app"], key)), want, "{}", starts["app"]);
        }
    }
}
