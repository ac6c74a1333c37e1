//! The modules, evaluated as NixOS and home-manager evaluate them, and the texts of what they make.
//!
//! Every test here runs with the stand-in for nixpkgs' lib, and with the real one.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::machine::{
    SHOP, SHOP_HOME, assert_page, changed, containers_without_a_network, evaluated, page, texts, values, with_modules,
};
use crate::nix::{eval, root, try_eval};

#[test]
fn the_module_system_says_what_nixpkgs_says() {
    let cases = format!("(import {}/tests/modules/cases {{ inherit lib; }})", root().display());
    let results = eval(&with_modules(&format!("{{ inherit ({cases}) wrong count; }}")));
    assert_eq!(results["wrong"], serde_json::json!({}));
    assert!(results["count"].as_u64().unwrap() > 180, "{results}");
    let errors = eval(&with_modules(&format!("builtins.mapAttrs (_: error: error.says) {cases}.errors")));
    for (name, says) in errors.as_object().unwrap() {
        let error = match try_eval(&with_modules(&format!("{cases}.errors.{name}.value"))) {
            Ok(value) => panic!("{name} is {value}, and must fail"),
            Err(error) => error,
        };
        for word in says.as_array().unwrap() {
            assert!(error.contains(word.as_str().unwrap()), "{name} does not say {word}: {error}");
        }
    }
}

#[test]
fn containers_of_others_are_as_nixos_makes_them() {
    let [machine] = evaluated(
        SHOP,
        [r#"{
      virtualisation.windlass.enable = lib.mkForce false;
      virtualisation.oci-containers.containers = {
        web = { image = "docker.io/nginx:1"; cmd = [ "a b" ]; environment.A = "it's"; capabilities.NET_ADMIN = true; };
        api = { image = "localhost/api:1"; dependsOn = [ "web" ]; pull = "never"; autoStart = false; };
      };
    }"#],
    );
    assert_page("oci_containers", &page(&machine));
    // Beside ours they still are.
    let foreign = r#"virtualisation.oci-containers.containers.web.image = "docker.io/nginx:1";"#;
    let [alone, beside] = evaluated(
        SHOP,
        [&format!("{{ virtualisation.windlass.enable = lib.mkForce false; {foreign} }}"), &format!("{{ {foreign} }}")],
    );
    assert_eq!(alone["units"]["podman-web.service"], beside["units"]["podman-web.service"]);
}

#[test]
fn the_units_of_a_machine() {
    let [machine] = evaluated(SHOP, ["{ }"]);
    assert_page("machine", &page(&machine));
    assert_eq!(machine["packages"], serde_json::json!(["podman", "windlass"]));
}

#[test]
fn the_units_of_a_machine_with_quadlet() {
    let [machine] = evaluated(SHOP, [r#"{ virtualisation.windlass.runner = "quadlet"; }"#]);
    assert_page("machine_quadlet", &page(&machine));
}

const ROOTLESS: &str = r#"
  virtualisation.windlass.user = "ai";
  virtualisation.windlass.containers.app.health.command = [ "/bin/windlass-probe" "tcp" "127.0.0.1:8000" ];
  users.users.ai = { isNormalUser = true; uid = 1234; linger = true; };
"#;

#[test]
fn the_units_of_a_rootless_machine() {
    let [default, quadlet] = evaluated(
        SHOP,
        [&format!("{{ {ROOTLESS} }}"), &format!(r#"{{ {ROOTLESS} virtualisation.windlass.runner = "quadlet"; }}"#)],
    );
    assert_eq!(default, quadlet);
    assert_page("rootless_quadlet", &page(&quadlet));
}

#[test]
fn containers_are_started_anew_where_their_layers_are_elsewhere() {
    let pulled = r#"{ virtualisation.windlass.via = "podman"; }"#;
    let [linked, pulled] = evaluated(SHOP, ["{ }", pulled]);
    for unit in ["podman-redis.service", "podman-app.service"] {
        assert!(linked["units"][unit].is_string() && pulled["units"][unit].is_string(), "{unit}");
        assert_ne!(linked["units"][unit], pulled["units"][unit], "{unit}");
    }
    let linked = r#"{ virtualisation.windlass.storageDir = "/nix/var/windlass/storage"; }"#;
    let [pulled, linked] = evaluated(SHOP_HOME, ["{ }", linked]);
    for name in ["redis", "app"] {
        let file = format!(".config/containers/systemd/{name}.container");
        assert!(linked["files"][&file].is_string() && pulled["files"][&file].is_string(), "{file}");
        assert_ne!(linked["files"][&file], pulled["files"][&file], "{file}");
    }
}

#[test]
fn what_keeps_a_generation_from_the_collector_is_on_the_path_of_the_loader() {
    let [machine] = evaluated(SHOP, ["{ }"]);
    for unit in ["windlass-load.service", "windlass-gc.service"] {
        let text = machine["units"][unit].as_str().unwrap();
        assert!(text.contains("-nix/bin"), "{text}");
    }
}

#[test]
fn a_rootless_container_finds_its_network_and_its_secrets() {
    let [machine] = evaluated(SHOP, [&format!(r#"{{ {ROOTLESS} virtualisation.windlass.runner = "quadlet"; }}"#)]);
    // Units of the user's own systemd see no others.
    let own: BTreeSet<&str> = texts(&machine, "userUnits").into_iter().map(|(name, _)| name).collect();
    for name in ["app", "redis"] {
        let text = machine["etc"][format!("containers/systemd/users/1234/{name}.container")].as_str().unwrap();
        for unit in values(text, "Wants").into_iter().chain(values(text, "After")) {
            assert!(own.contains(unit) || unit == "redis.service", "{unit}: {text}");
        }
        assert!(values(text, "Wants").contains(&"windlass-network-shop.service"), "{text}");
    }
    let redis = machine["etc"]["containers/systemd/users/1234/redis.container"].as_str().unwrap();
    // %t of a user's unit is the directory of that user, as RuntimeDirectory is.
    assert_eq!(values(redis, "RuntimeDirectory"), ["windlass/redis"]);
    assert!(values(redis, "ExecStartPre")[0].ends_with(" /run/keys/redis %t/windlass/redis/password"), "{redis}");
    // Where newuidmap is, whatever the path of the user's systemd.
    assert_eq!(
        values(redis, "Environment"),
        ["PATH=/run/wrappers/bin:/run/current-system/sw/bin:/usr/bin:/bin"],
        "{redis}"
    );
    assert!(values(redis, "Volume").contains(&"%t/windlass/redis/password:/run/secrets/password:ro"), "{redis}");
}

#[test]
fn the_files_of_a_home() {
    let [home] = evaluated(SHOP_HOME, ["{ }"]);
    assert_page("home", &page(&home));
}

/// What home-manager puts around a step, and a systemctl that says what it is asked.
const ACTIVATION: &str = r#"
  set -eu -o pipefail
  run() { "$@"; }
  warnEcho() { echo "warning: $*"; }
  env() { [[ $1 == XDG_RUNTIME_DIR=/run/user/* ]]; shift 2; systemctl "$@"; }
  systemctl() {
    case "$*" in
      "--user is-system-running") echo "$STATE"; [[ $STATE == running ]] ;;
      *) echo "$*"; [[ "$*" != *"$FAILS"* ]] ;;
    esac
  }
"#;

#[test]
fn home_manager_restarts_what_changed_where_systemd_runs() {
    let [home] = evaluated(SHOP_HOME, ["{ }"]);
    let steps = home["activation"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"] == "windlassContainers").unwrap()["text"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let generation = |name: &str, files: &[(&str, &str)]| {
        let containers = folder.path().join(name).join("home-files/.config/containers/systemd");
        std::fs::create_dir_all(&containers).unwrap();
        for (file, text) in files {
            let text = format!("# From virtualisation.windlass.containers.{file}\n{text}");
            std::fs::write(containers.join(format!("{file}.container")), text).unwrap();
        }
        folder.path().join(name)
    };
    let old = generation("old", &[("app", "1"), ("redis", "1"), ("gone", "1")]);
    let foreign = old.join("home-files/.config/containers/systemd/foreign.container");
    std::fs::write(foreign, "[Container]\n").unwrap();
    let new = generation("new", &[("app", "2"), ("redis", "1")]);
    let activate = |old: Option<&std::path::Path>, state: &str, fails: &str| {
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", &format!("{ACTIVATION}\n{step}\necho end")]).env_remove("XDG_RUNTIME_DIR");
        bash.env("newGenPath", &new).envs(old.map(|old| ("oldGenPath", old))).env("STATE", state).env("FAILS", fails);
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let changed = "--user stop gone.service\n--user daemon-reload\n--user restart app.service\nend\n";
    assert_eq!(activate(Some(&old), "running", "none"), changed);
    assert_eq!(activate(Some(&old), "degraded", "none"), changed);
    assert_eq!(activate(Some(&new), "running", "none"), "end\n");
    let first = "--user daemon-reload\n--user restart app.service redis.service\n";
    assert_eq!(activate(None, "running", "none"), format!("{first}end\n"));
    let told = "warning: windlass: not all of these started: app.service redis.service\nend\n";
    assert_eq!(activate(None, "running", "restart"), format!("{first}{told}"));
    for state in ["offline", ""] {
        let said = "The systemd of this user is not running. Containers start with it.\nend\n";
        assert_eq!(activate(Some(&old), state, "none"), said);
    }
}

#[test]
fn containers_of_a_network_reach_its_name_server() {
    let [machine, nftables, firewalld, none, rootless] = evaluated(
        SHOP,
        [
            "{ }",
            "{ networking.nftables.enable = true; }",
            r#"{ networking.firewall.backend = "firewalld"; }"#,
            "{ virtualisation.windlass.networks = lib.mkForce [ ]; }",
            &format!("{{ {ROOTLESS} }}"),
        ],
    );
    let open = serde_json::json!({ "allowedTCPPorts": [], "allowedUDPPorts": [53] });
    assert_eq!(machine["firewall"], serde_json::json!({ "podman+": open }));
    assert_eq!(nftables["firewall"], serde_json::json!({ "podman*": open }));
    // NixOS refuses rules for an interface there, and Podman tells firewalld itself.
    assert_eq!((&firewalld["firewall"], &firewalld["assertions"]), (&serde_json::json!({}), &serde_json::json!([])));
    // A rootless network is in a namespace of its own.
    assert_eq!((&none["firewall"], &rootless["firewall"]), (&serde_json::json!({}), &serde_json::json!({})));
}

#[test]
fn nothing_pulls_and_nothing_waits_for_the_network() {
    let quadlet = r#"virtualisation.windlass.runner = "quadlet";"#;
    let machines = evaluated(
        SHOP,
        [
            "{ }",
            &format!("{{ {quadlet} }}"),
            &format!("{{ {ROOTLESS} }}"),
            &format!("{{ {ROOTLESS} {quadlet} }}"),
            // A container that others declare, with an image of ours.
            r#"({ config, ... }: { virtualisation.oci-containers.containers.other = {
          image = config.virtualisation.windlass.images.redis.ref; pull = "never"; }; })"#,
        ],
    );
    let [home] = evaluated(SHOP_HOME, ["{ }"]);
    for (machine, runs) in machines.iter().chain([&home]).zip([2, 2, 2, 2, 3, 2]) {
        assert_eq!(containers_without_a_network(machine), runs);
    }
}

#[test]
fn images_are_loaded_once_and_before_the_containers() {
    let quadlet = r#"virtualisation.windlass.runner = "quadlet";"#;
    for (machine, containers) in evaluated(SHOP, ["{ }", &format!("{{ {quadlet} }}")])
        .iter()
        .zip([["podman-app.service", "podman-redis.service"], ["app.service", "redis.service"]])
    {
        let loaders: Vec<_> = texts(machine, "units").into_iter().filter(|(_, unit)| unit.contains(" load ")).collect();
        let [("windlass-load.service", loader)] = loaders[..] else { panic!("{loaders:?}") };
        let [load] = values(loader, "ExecStart")[..] else { panic!("{loader}") };
        // The stack as a whole, and what is in none; no archive.
        let (command, paths) = load.split_once(" --via auto ").unwrap();
        assert!(command.ends_with("/bin/windlass load"), "{load}");
        let paths: Vec<&str> = paths.split(' ').map(|path| &path[44..]).collect();
        assert_eq!(paths, ["shop-lean", "image-redis"], "{load}");
        assert_eq!(values(loader, "Before"), [containers.join(" ")]);
        for container in containers {
            let text = match machine["units"][container].as_str().filter(|_| container.starts_with("podman-")) {
                Some(unit) => unit,
                None => {
                    let file = format!("containers/systemd/{}.container", container.trim_end_matches(".service"));
                    machine["etc"][file].as_str().unwrap()
                }
            };
            for key in ["Wants", "After"] {
                assert!(values(text, key).join(" ").split(' ').any(|unit| unit == "windlass-load.service"), "{text}");
            }
            assert_eq!(values(text, "Requires"), [""; 0], "a new loader restarts no container: {text}");
        }
    }
    // Nothing to load, nothing that loads.
    let [none] = evaluated(
        SHOP,
        [r"{ virtualisation.windlass = {
      stacks = lib.mkForce { }; images = lib.mkForce { }; containers = lib.mkForce { }; }; }"],
    );
    assert!(none["units"]["windlass-load.service"].is_null(), "{none}");
}

#[test]
fn the_store_is_there_before_storage_conf_names_it() {
    let [linked, podman, own] = evaluated(
        SHOP,
        [
            "{ }",
            r#"{ virtualisation.windlass.via = "podman"; }"#,
            r#"{ virtualisation.windlass.storageDir = "/big/windlass"; virtualisation.containers.storage.settings.storage = {
          graphroot = "/big/containers"; options.additionalimagestores = [ "/other" ]; }; }"#,
        ],
    );
    assert_eq!(linked["storageConf"]["storage"]["driver"], "overlay");
    assert_eq!(linked["storageConf"]["storage"]["graphroot"], "/var/lib/containers/storage");
    assert_eq!(
        linked["storageConf"]["storage"]["options"]["additionalimagestores"],
        serde_json::json!(["/nix/var/windlass/storage"])
    );
    let steps = |machine: &Value| -> Vec<String> {
        machine["activation"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap().to_owned()).collect()
    };
    let at = |name: &str| steps(&linked).iter().position(|step| step == name).unwrap();
    assert!(at("windlass") < at("etc"), "{:?}", steps(&linked));
    assert!(podman["storageConf"]["storage"]["options"].is_null(), "{podman}");
    assert!(!steps(&podman).contains(&"windlass".to_owned()));
    let settings = &own["storageConf"]["storage"];
    assert_eq!(settings["graphroot"], "/big/containers");
    let mut stores: Vec<&str> =
        settings["options"]["additionalimagestores"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    stores.sort_unstable();
    assert_eq!(stores, ["/big/windlass", "/other"]);
    assert!(own["etc"]["containers/storage.conf"].as_str().unwrap().contains("/big/windlass"));
}

/// By the rules of Podman 6 `graphroot` of /etc is that of rootless users too, and drop-ins are honoured.
#[test]
fn with_podman_6_the_store_is_named_in_a_drop_in_and_each_user_has_a_place_of_their_own() {
    const SIX: &str = r#"virtualisation.podman.package = pkgs.podman.overrideAttrs (_: { version = "6.1.3"; });"#;
    let user = r#"virtualisation.windlass = { user = "ai"; runner = "quadlet"; };
        users.users.ai = { isNormalUser = true; uid = 1001; linger = true; home = "/home/ai"; };"#;
    let [six, podman, user] = evaluated(
        SHOP,
        [
            &format!("{{ pkgs, ... }}: {{ {SIX} }}"),
            &format!(r#"{{ pkgs, ... }}: {{ {SIX} virtualisation.windlass.via = "podman"; }}"#),
            &format!("{{ pkgs, ... }}: {{ {SIX} {user} }}"),
        ],
    );
    let drop_in = "[storage.options]\nadditionalimagestores = [\"/nix/var/windlass/storage\", {append = true}]\n";
    assert_eq!(six["etc"]["containers/storage.rootful.conf.d/50-windlass.conf"], drop_in);
    assert!(six["etc"]["containers/storage.conf.d/50-windlass.conf"].is_null());
    assert!(six["storageConf"]["storage"]["options"].is_null(), "{six}");
    for machine in [&six, &podman, &user] {
        let settings = &machine["storageConf"]["storage"];
        assert_eq!(settings, &serde_json::json!({ "driver": "overlay", "graphroot": "", "runroot": "" }));
    }
    let unit = six["units"]["windlass-load.service"].as_str().unwrap();
    assert!(unit.contains("RequiresMountsFor=/var/lib/containers/storage\n"), "{unit}");
    assert!(podman["etc"]["containers/storage.rootful.conf.d/50-windlass.conf"].is_null());
    // A user has it from there, and needs no link in the home.
    assert_eq!(user["etc"]["containers/storage.conf.d/50-windlass.conf"], drop_in);
    assert!(user["etc"]["containers/windlass-rootless.conf"].is_null());
    assert!(!user.to_string().contains(".config/containers/storage.conf"), "{user}");

    // What a user says of it stays, and is that of rootless users too.
    let own = |place: &str| format!(r#"virtualisation.containers.storage.settings.storage.graphroot = "{place}";"#);
    let user = r#"virtualisation.windlass.user = "ai";
        users.users.ai = { isNormalUser = true; uid = 1001; linger = true; home = "/home/ai"; };"#;
    let [root, both, each] = evaluated(
        SHOP,
        [
            &format!("{{ pkgs, ... }}: {{ {SIX} {} }}", own("/big")),
            &format!("{{ pkgs, ... }}: {{ {SIX} {user} {} }}", own("/big")),
            &format!("{{ pkgs, ... }}: {{ {SIX} {user} {} }}", own("/big/$USER")),
        ],
    );
    assert_eq!(root["storageConf"]["storage"]["graphroot"], "/big");
    assert_eq!((&root["assertions"], &each["assertions"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(both["assertions"][0].as_str().unwrap().contains("\"/big\" in"), "{both}");
}

#[test]
fn what_a_user_says_of_a_unit_is_kept() {
    let own = r#"after = [ "foo.service" "network-online.target" ]; wants = [ "network-online.target" ]; requires = [ "bar.service" ];
      serviceConfig = { CPUWeight = 10; RuntimeDirectory = "mine"; TimeoutStopSec = lib.mkForce 7; };"#;
    let [oci, quadlet, rootless] = evaluated(
        SHOP,
        [
            &format!("{{ systemd.services.podman-redis = {{ {own} }}; }}"),
            &format!(r#"{{ virtualisation.windlass.runner = "quadlet"; systemd.services.redis = {{ {own} }}; }}"#),
            &format!(
                r#"{{ {ROOTLESS} virtualisation.windlass.runner = "quadlet"; systemd.user.services.redis = {{ {own} }}; }}"#
            ),
        ],
    );
    let one =
        |unit: &str, key: &str| values(unit, key).join(" ").split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    for (machine, kind, name) in [
        (&oci, "units", "podman-redis.service"),
        (&quadlet, "units", "redis.service"),
        (&rootless, "userUnits", "redis.service"),
    ] {
        assert_eq!(machine["assertions"], serde_json::json!([]), "{name}");
        let unit = machine[kind][name].as_str().unwrap();
        for (key, values) in [("After", "foo.service network-online.target"), ("Requires", "bar.service")] {
            for value in values.split(' ') {
                assert!(one(unit, key).contains(value), "{key} {value}: {unit}");
            }
        }
        assert!(one(unit, "Wants").contains("network-online.target"), "{unit}");
        for (key, value) in [("CPUWeight", "10"), ("RuntimeDirectory", "mine"), ("TimeoutStopSec", "7")] {
            assert!(values(unit, key).contains(&value), "{key}: {unit}");
        }
    }
    // What windlass and oci-containers say is there too.
    let unit = oci["units"]["podman-redis.service"].as_str().unwrap();
    assert!(one(unit, "After").contains("windlass-load.service"), "{unit}");
    assert_eq!(values(unit, "RuntimeDirectory").len(), 3, "{unit}");
    // For a unit that Quadlet generates it is a drop-in, which changes nothing of where programs are found.
    for (machine, kind) in [(&quadlet, "units"), (&rootless, "userUnits")] {
        assert_eq!(machine["dropIns"], serde_json::json!(["app.service", "redis.service"]));
        let unit = machine[kind]["redis.service"].as_str().unwrap();
        let [path] = values(unit, "Environment")[..] else { panic!("{unit}") };
        assert!(path.ends_with(":/run/wrappers/bin:/run/current-system/sw/bin:/usr/bin:/bin\""), "{unit}");
    }
    assert!(quadlet["units"]["redis.service"].as_str().unwrap().contains("X-Windlass-Quadlet="));
}

#[test]
fn a_unit_changes_when_what_it_runs_changes() {
    let [machine, environment, release, weights, port, unrelated, verify] = evaluated(
        SHOP,
        [
            "{ }",
            r#"{ virtualisation.windlass.containers.app.environment.GREETING = lib.mkForce "hello"; }"#,
            r#"{ shop.release = "2"; }"#,
            "{ shop.weights = /etc/hosts; }",
            r#"{ virtualisation.windlass.containers.redis.ports = lib.mkForce [ "127.0.0.1:6380:6379" ]; }"#,
            r#"{ environment.etc.motd.text = "hello"; users.users.me.isNormalUser = true;
          virtualisation.windlass.directories."/srv/x" = { }; }"#,
            "{ virtualisation.windlass.verify.enable = true; }",
        ],
    );
    let [again] = evaluated(SHOP, ["{ }"]);
    assert_eq!(machine, again);
    assert_eq!(changed(&machine, &unrelated), [""; 0]);
    assert_eq!(changed(&machine, &environment), ["podman-app.service"]);
    assert_eq!(changed(&machine, &port), ["podman-redis.service"]);
    assert_eq!(changed(&machine, &release), ["podman-redis.service", "windlass-load.service"]);
    // The image of the app has the model in it.
    assert_eq!(changed(&machine, &weights), ["podman-app.service", "windlass-load.service"]);
    assert_eq!(changed(&machine, &verify), ["windlass-verify.service", "windlass-verify.timer"]);
}

#[test]
fn a_quadlet_file_that_changes_restarts_its_unit_only() {
    let [machine, environment, release] = evaluated(
        SHOP,
        [
            "",
            r#"virtualisation.windlass.containers.app.environment.GREETING = lib.mkForce "hello";"#,
            r#"shop.release = "2";"#,
        ]
        .map(|change| format!(r#"{{ virtualisation.windlass.runner = "quadlet"; {change} }}"#))
        .each_ref()
        .map(String::as_str),
    );
    // The unit that Podman generates is not among these; what changes is the drop-in that NixOS compares.
    assert_eq!(changed(&machine, &environment), ["app.service"]);
    assert_eq!(changed(&machine, &release), ["redis.service", "windlass-load.service"]);
    // And NixOS compares what it finds in /etc/systemd/system only.
    assert_eq!(
        texts(&machine, "unitLinks"),
        ["app", "redis"]
            .map(|name| (
                format!("etc/systemd/system/{name}.service"),
                format!("/run/systemd/generator/{name}.service")
            ))
            .each_ref()
            .map(|(link, target)| (link.as_str(), target.as_str()))
    );
}

#[test]
fn timers_are_those_that_are_asked_for() {
    let [machine, none, all] = evaluated(
        SHOP,
        [
            "{ }",
            "{ virtualisation.windlass.gc.enable = false; }",
            r#"{ virtualisation.windlass = {
          gc = { dates = "daily"; above = 80; downTo = 60; };
          keepGenerations = 5;
          verify = { enable = true; dates = "Sun 04:00"; full = true; };
        }; }"#,
        ],
    );
    let timers = |machine: &Value| -> Vec<String> {
        let names = texts(machine, "units").into_iter().map(|(name, _)| name.to_owned());
        names.filter(|name| name.starts_with("windlass-") && name.ends_with(".timer")).collect()
    };
    let unit = |machine: &Value, name: &str| machine["units"][name].as_str().unwrap().to_owned();
    assert_eq!(timers(&machine), ["windlass-gc.timer"]);
    assert_eq!(timers(&none), [""; 0]);
    assert!(none["units"]["windlass-gc.service"].is_null());
    assert_eq!(timers(&all), ["windlass-gc.timer", "windlass-verify.timer"]);
    let gc = unit(&all, "windlass-gc.timer");
    assert_eq!((values(&gc, "OnCalendar"), values(&gc, "WantedBy")), (vec!["daily"], vec!["timers.target"]));
    let gc = unit(&all, "windlass-gc.service");
    assert!(
        values(&gc, "ExecStart")[0]
            .ends_with("windlass gc --apply --yes --keep-generations 5 --above 80%% --down-to 60%%"),
        "{gc}"
    );
    assert_eq!(values(&gc, "WantedBy"), [""; 0], "the timer starts it, not the boot");
    assert_eq!(values(&unit(&all, "windlass-verify.timer"), "OnCalendar"), ["Sun 04:00"]);
    assert!(values(&unit(&all, "windlass-verify.service"), "ExecStart")[0].ends_with("windlass verify --full"));
}
