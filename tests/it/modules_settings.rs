//! What modules of this kind usually have: further settings of a unit, networks with options, containers of other modules; and
//! the store at boot.

use serde_json::json;

use crate::machine::{SHOP, SHOP_HOME, evaluated, expect, refused, texts, values};

#[test]
fn the_store_is_made_at_boot_where_no_activation_runs() {
    let [machine, nixos_init, podman] = evaluated(
        SHOP,
        ["{ }", "{ system.nixos-init.enable = true; }", r#"{ virtualisation.windlass.via = "podman"; }"#],
    );
    assert_eq!(nixos_init["activation"], json!([]));
    for machine in [&machine, &nixos_init] {
        let unit = machine["units"]["windlass-store.service"].as_str().unwrap();
        // At boot, and at each switch before the units that changed; nothing that calls podman comes before that.
        let early = "sysinit.target sysinit-reactivation.target";
        assert_eq!(values(unit, "WantedBy"), [early], "{unit}");
        assert_eq!(values(unit, "Before"), [format!("{early} shutdown.target")], "{unit}");
        assert_eq!(values(unit, "DefaultDependencies"), ["false"], "{unit}");
        let store = "/nix/var/windlass/storage";
        assert_eq!(values(unit, "RequiresMountsFor"), [store], "{unit}");
        let [start] = values(unit, "ExecStart")[..] else { panic!("{unit}") };
        assert!(start.ends_with(&format!("/bin/windlass doctor --make-store --storage-dir {store}")), "{unit}");
        for (name, text) in texts(machine, "units") {
            if text.contains("/bin/podman") || text.contains("/bin/windlass") && name != "windlass-store.service" {
                assert_eq!(values(text, "DefaultDependencies"), [""; 0], "{name} comes after sysinit.target: {text}");
            }
        }
    }
    assert!(podman["units"]["windlass-store.service"].is_null(), "{podman}");
}

#[test]
fn a_container_has_the_settings_of_its_unit_that_are_said() {
    let own = r#"virtualisation.windlass.containers.redis = {
      unitConfig.ConditionPathExists = "/x";
      serviceConfig = { CPUWeight = 10; Restart = lib.mkForce "no"; TimeoutStopSec = 7; ExecStartPre = "/bin/true"; LogsDirectory = [ "a" "b" ]; };
    };"#;
    let [oci, quadlet] = evaluated(
        SHOP,
        [
            &format!("{{ {own} }}"),
            &format!(
                r#"{{ {own} virtualisation.windlass.runner = "quadlet";
                   virtualisation.windlass.containers.redis.quadlet = "[Container]\nTimezone=local\n"; }}"#
            ),
        ],
    );
    let [home] = evaluated(SHOP_HOME, [&format!("{{ {own} }}")]);
    let file = quadlet["etc"]["containers/systemd/redis.container"].as_str().unwrap();
    for unit in [
        oci["units"]["podman-redis.service"].as_str().unwrap(),
        file,
        home["files"][".config/containers/systemd/redis.container"].as_str().unwrap(),
    ] {
        assert_eq!(values(unit, "ConditionPathExists"), ["/x"], "{unit}");
        assert_eq!(values(unit, "CPUWeight"), ["10"], "{unit}");
        // The last one counts.
        assert_eq!(values(unit, "Restart").last(), Some(&"no"), "{unit}");
        assert_eq!(values(unit, "TimeoutStopSec").last(), Some(&"7"), "{unit}");
        assert_eq!(values(unit, "LogsDirectory"), ["a", "b"], "{unit}");
        // Beside what puts the secrets there.
        let before = values(unit, "ExecStartPre");
        assert!(before.contains(&"/bin/true"), "{unit}");
        assert!(before.iter().any(|line| line.contains("/run/keys/redis")), "{unit}");
    }
    assert!(file.ends_with("\n[Container]\nTimezone=local\n"), "{file}");
    assert_eq!((&oci["assertions"], &quadlet["assertions"]), (&json!([]), &json!([])));
    expect(
        SHOP,
        "assertions",
        [(
            r#"{ virtualisation.windlass.containers.redis.quadlet = "[Container]\n"; }"#,
            r#"virtualisation.windlass.containers.redis.quadlet: there is no Quadlet file with runner = "oci-containers""#,
        )],
    );
}

#[test]
fn a_network_is_made_with_its_options_and_goes_with_its_unit() {
    let network = r#"virtualisation.windlass.networks.shop = { internal = true; driver = "bridge"; subnets = [ "10.89.7.0/24" ]; ipv6 = true; options.mtu = "1400"; };"#;
    let [machine, other, quadlet] = evaluated(
        SHOP,
        [
            &format!("{{ {network} }}"),
            &format!("{{ {} }}", network.replace("1400", "1500")),
            &format!("{{ {network} virtualisation.windlass.runner = \"quadlet\"; }}"),
        ],
    );
    let [plain] = evaluated(SHOP, ["{ }"]);
    let [home] = evaluated(SHOP_HOME, [&format!("{{ {network} }}")]);
    let unit = "windlass-network-shop.service";
    for unit in [&machine["units"][unit], &home["files"][format!(".config/systemd/user/{unit}")]] {
        let unit = unit.as_str().unwrap();
        let [create, exists] = values(unit, "ExecStart")[..] else { panic!("{unit}") };
        let arguments =
            "--driver=bridge --internal --subnet=10.89.7.0/24 --ipv6 --opt=mtu=1400 --label=windlass.network=shop shop";
        assert!(create.ends_with(&format!("/bin/podman network create {arguments}")), "{unit}");
        assert!(create.starts_with('-') && exists.ends_with("/bin/podman network exists shop"), "{unit}");
        // Not one that a container of others is in: that fails, and is not a failure of the unit.
        let [remove] = values(unit, "ExecStop")[..] else { panic!("{unit}") };
        assert!(remove.starts_with('-') && remove.ends_with("/bin/podman network rm shop"), "{unit}");
    }
    let create = values(plain["units"][unit].as_str().unwrap(), "ExecStart")[0];
    assert!(create.ends_with("/bin/podman network create --label=windlass.network=shop shop"), "{create}");
    // Only an unused network can be removed, so its containers change with it.
    for container in ["podman-app.service", "podman-redis.service"] {
        assert_ne!(machine["units"][container], other["units"][container], "{container}");
    }
    let file = quadlet["etc"]["containers/systemd/redis.container"].as_str().unwrap();
    assert!(file.contains("\n# network shop: {\"driver\":\"bridge\",\"internal\":true,"), "{file}");
    let error = refused(SHOP, r#"{ virtualisation.windlass.networks.shop.subnet = "10.0.0.0/8"; }"#);
    assert!(error.contains("virtualisation.windlass.networks.shop.subnet"), "{error}");
}

#[test]
fn a_container_of_another_module_takes_an_image_of_ours() {
    let [machine, pulls] = evaluated(
        SHOP,
        ["", r#"pull = "missing";"#]
            .map(|pull| {
                format!(
                    "({{ config, ... }}: {{ virtualisation.oci-containers.containers.other = {{ {pull} \
                 image = config.virtualisation.windlass.images.redis.ref; dependsOn = [ \"redis\" ]; }}; }})"
                )
            })
            .each_ref()
            .map(String::as_str),
    );
    let unit = machine["units"]["podman-other.service"].as_str().unwrap();
    for key in ["After", "Wants"] {
        let units = values(unit, key).join(" ");
        assert!(units.split(' ').any(|unit| unit == "windlass-load.service"), "{unit}");
        assert!(!units.contains("network-online.target"), "{unit}");
    }
    assert_eq!(values(unit, "Requires"), ["podman-redis.service"], "what it says itself: {unit}");
    let loader = machine["units"]["windlass-load.service"].as_str().unwrap();
    assert!(values(loader, "Before").join(" ").contains("podman-other.service"), "{loader}");
    let script = |machine: &serde_json::Value| machine["scripts"]["podman-other"]["ExecStart"].to_string();
    assert!(script(&machine).contains("--pull never"), "{}", script(&machine));
    assert!(script(&pulls).contains("--pull missing"), "{}", script(&pulls));
    let [home] = evaluated(
        SHOP_HOME,
        [
            "({ config, ... }: { services.podman.containers = { ours.image = config.virtualisation.windlass.images.redis.ref; \
           web.image = \"docker.io/nginx:1\"; }; })",
        ],
    );
    let loader = json!(["windlass-load.service"]);
    let ours = json!({ "Container": { "Pull": "never" }, "Unit": { "After": loader, "Wants": loader } });
    assert_eq!(home["podmanContainers"], json!({ "ours": ours, "web": {} }));
}

#[test]
fn home_managers_own_podman_knows_the_linked_store() {
    let store = r#"virtualisation.windlass.storageDir = "/nix/var/windlass/storage";"#;
    let [alone, beside, without] = evaluated(
        SHOP_HOME,
        [
            &format!("{{ {store} }}"),
            &format!(
                "{{ {store} services.podman.enable = true; services.podman.settings.storage.storage.runroot = \"/r\"; }}"
            ),
            "{ services.podman.enable = true; }",
        ],
    );
    let conf = |home: &serde_json::Value| home["files"][".config/containers/storage.conf"].as_str().unwrap().to_owned();
    for home in [&alone, &beside] {
        assert!(conf(home).contains("additionalimagestores = [\"/nix/var/windlass/storage\"]"), "{}", conf(home));
    }
    assert!(conf(&beside).contains("runroot = \"/r\""), "{}", conf(&beside));
    assert!(!conf(&without).contains("additionalimagestores"), "{}", conf(&without));
}

#[test]
fn a_container_that_is_not_started_at_boot_is_restarted_as_it_says() {
    let [plain, never] = evaluated(
        SHOP,
        ["", "restart = \"no\";"]
            .map(|restart| {
                format!("{{ virtualisation.windlass.containers.app = {{ autoStart = false; {restart} }}; }}")
            })
            .each_ref()
            .map(String::as_str),
    );
    for (machine, restart) in [(plain, "always"), (never, "no")] {
        // oci-containers would say `on-failure`.
        let unit = machine["units"]["podman-app.service"].as_str().unwrap();
        assert_eq!(values(unit, "Restart"), [restart], "{unit}");
        assert_eq!(values(unit, "WantedBy"), [""; 0], "{unit}");
    }
}
