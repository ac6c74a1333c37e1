//! Networks as the modules make them, with a real Podman: what their unit starts and stops, and what a container sees.

use serde_json::Value;

use crate::engine::{Podman, Said};
use crate::machine::{SHOP, evaluated, values};
use crate::nix::build;

/// The arguments of `podman` in the unit's lines under this key, and whether systemd goes on if that line fails.
fn lines<'a>(unit: &'a str, key: &str) -> Vec<(Vec<&'a str>, bool)> {
    let of_line = |line: &'a str| {
        let (program, arguments) = line.split_once("/bin/podman ").unwrap();
        (arguments.split(' ').collect(), program.starts_with('-'))
    };
    values(unit, key).into_iter().map(of_line).collect()
}

/// Starts the unit as systemd does; its exit code.
fn start(podman: &Podman, unit: &str) -> i32 {
    for (arguments, may_fail) in lines(unit, "ExecStart") {
        let said = Said::of(&podman.command("podman").args(&arguments).output().unwrap());
        if said.code != 0 && !may_fail {
            return said.code;
        }
    }
    0
}

#[test]
fn a_network_is_made_used_and_taken_away_by_podman() {
    let podman = Podman::new();
    let conf = podman.env.path("podman/containers.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    // Its last section is that of networks.
    assert!(text.ends_with("[network]\nnetwork_backend = \"netavark\"\n"), "{text}");
    let network = format!("network_config_dir = \"{}\"\n", podman.env.path("networks").display());
    std::fs::write(&conf, text + &network).unwrap();
    let image =
        build(r#"w.buildImage { name = "net"; tag = "1"; contents = [ pkgs.busybox ]; config.Cmd = [ "/bin/sh" ]; }"#)
            .unwrap();
    assert_eq!(podman.load(&image, &[]).code, 0);
    let [machine] = evaluated(
        SHOP,
        [
            r#"{ virtualisation.windlass.networks.shop = { internal = true; driver = "bridge"; subnets = [ "10.89.7.0/24" ]; options.mtu = "1400"; }; }"#,
        ],
    );
    let unit = machine["units"]["windlass-network-shop.service"].as_str().unwrap();
    let remove = lines(unit, "ExecStop")[0].0.join(" ");
    // With every Podman from 4.3 on, also where the network is there already, as a container still used it when the unit stopped.
    assert_eq!((start(&podman, unit), start(&podman, unit)), (0, 0), "{unit}");
    // One that Podman cannot make is a failure of the unit.
    assert_ne!(start(&podman, &unit.replace("10.89.7.0/24", "nowhere").replace("shop", "other")), 0, "{unit}");
    let made: Value = serde_json::from_str(&podman.run(&["network", "inspect", "shop"])).unwrap();
    assert_eq!((&made[0]["internal"], &made[0]["driver"]), (&true.into(), &"bridge".into()), "{made}");
    assert_eq!(made[0]["subnets"][0]["subnet"], "10.89.7.0/24", "{made}");
    // In a network namespace of its own: this machine's addresses stay as they are.
    let script = format!(
        "ip link set lo up
        podman run --detach --name one --pull=never --user=0 --network=shop localhost/net:1 /bin/sleep 100 >/dev/null
        podman exec one /bin/sh -c 'cat /sys/class/net/eth0/mtu; ip -o -4 addr show eth0; ip route'
        if podman {remove} 2>/dev/null; then echo it was taken from a container; fi
        podman rm --force --time 0 one >/dev/null
        podman {remove}"
    );
    let said = Said::of(&podman.command("unshare").args(["--net", "sh", "-c", &script]).output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines[0], "1400", "{said:?}");
    assert!(lines[1].contains(" 10.89.7.") && lines[1].contains("/24 "), "{said:?}");
    // Internal: there is a way to the network itself, and none beyond.
    assert!(said.stdout.contains("10.89.7.0/24 dev eth0") && !said.stdout.contains("default"), "{said:?}");
    assert!(!said.stdout.contains("taken from a container"), "{said:?}");
    assert_eq!(podman.run(&["network", "ls", "--quiet", "--filter=name=shop"]), "");
}
