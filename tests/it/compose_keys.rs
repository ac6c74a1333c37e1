//! Every key of a compose file has exactly one row in the account, whatever keys a file has.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use windlass::internals::compose::import::account::Fate;
use windlass::internals::compose::import::{ImportOptions, Imported, import};

use crate::env::Env;

/// Keys of a service with values that compose takes, in every form that it knows.
fn values() -> Vec<(&'static str, Vec<Value>)> {
    let names = ["annotations", "environment", "labels", "sysctls"];
    let pairs = [json!({ "A": "b", "N": 1, "E": "" }), json!(["A=b", "B=c=d"]), json!({ "X_PASSWORD": "p" })];
    let scalars = [
        ("cgroup", "host"),
        ("cgroup_parent", "a.slice"),
        ("container_name", "other"),
        ("cpuset", "0-1"),
        ("domainname", "a"),
        ("hostname", "a"),
        ("ipc", "host"),
        ("isolation", "default"),
        ("mac_address", "02:42:ac:11:65:43"),
        ("mem_limit", "1g"),
        ("mem_reservation", "1g"),
        ("memswap_limit", "2g"),
        ("network_mode", "host"),
        ("oom_score_adj", "5"),
        ("pid", "service:b"),
        ("platform", "linux/arm64"),
        ("pull_policy", "missing"),
        ("restart", "on-failure:5"),
        ("runtime", "nvidia"),
        ("shm_size", "64m"),
        ("stop_grace_period", "1m"),
        ("stop_signal", "SIGINT"),
        ("user", "1:1"),
        ("userns_mode", "host"),
        ("uts", "host"),
        ("working_dir", "/w"),
    ];
    let flags = ["init", "oom_kill_disable", "privileged", "read_only", "stdin_open", "tty", "use_api_socket"];
    let numbers = ["cpu_count", "cpu_quota", "cpu_shares", "cpus", "mem_swappiness", "pids_limit", "scale"];
    let lists =
        ["cap_add", "cap_drop", "device_cgroup_rules", "dns", "dns_search", "expose", "external_links", "group_add"];
    let mut all: Vec<(&'static str, Vec<Value>)> = Vec::new();
    all.extend(names.map(|name| (name, pairs.to_vec())));
    all.extend(scalars.map(|(name, value)| (name, vec![json!(value), json!("${UNSET:-}${D:-}"), Value::Null])));
    for (name, values) in &mut all {
        // An empty text is not a size, time or policy, and that is an error.
        if ["mem_limit", "shm_size", "stop_grace_period", "restart"].contains(name) {
            values.remove(1);
        }
    }
    all.extend(flags.map(|name| (name, vec![json!(true), json!("no"), Value::Null])));
    all.extend(numbers.map(|name| (name, vec![json!(1), json!("2"), Value::Null])));
    all.extend(lists.map(|name| (name, vec![json!(["a", "b"]), json!([])])));
    all.extend([
        ("blkio_config", vec![json!({ "weight": 3, "device_read_bps": [{ "path": "/dev/a", "rate": "1mb" }] })]),
        ("build", vec![json!("."), json!({ "context": ".", "args": ["A=1"] })]),
        ("command", vec![json!("a 'b c'"), json!(["a", "$$b"]), json!("x --token t"), Value::Null]),
        ("configs", vec![json!(["c", "none"]), json!([{ "source": "c", "target": "/c", "mode": 292 }])]),
        ("depends_on", vec![json!(["b", "nobody"]), json!({ "b": { "condition": "service_healthy", "restart": true }, "z": {} })]),
        ("deploy", vec![json!({ "replicas": 2, "mode": "global", "labels": { "a": "b" }, "restart_policy": { "condition": "any", "delay": "1s" },
            "resources": { "limits": { "cpus": "1", "memory": "1g", "pids": 3, "own": 1 }, "reservations": { "cpus": "1", "memory": "1g",
                "devices": [{ "driver": "nvidia", "count": 1, "capabilities": ["gpu"], "options": { "a": "b" } }, { "driver": "tpu", "capabilities": ["tpu"] }],
                "generic_resources": [{ "a": 1 }] } } })]),
        ("devices", vec![json!(["/dev/a:/dev/a"]), json!([{ "source": "/dev/a", "target": "/dev/b", "permissions": "r" }])]),
        ("entrypoint", vec![json!("a b"), json!([]), Value::Null]),
        ("env_file", vec![json!("a.env"), json!(["a.env", { "path": "b.env", "required": false, "format": "raw" }])]),
        ("extra_hosts", vec![json!(["a:1.2.3.4"]), json!({ "a": "1.2.3.4", "b": ["::1", "::2"] })]),
        ("gpus", vec![json!("all"), json!([{ "driver": "nvidia", "device_ids": ["0"] }])]),
        ("healthcheck", vec![json!({ "test": ["CMD", "a"], "interval": "1s", "retries": 2, "own": 1 }), json!({ "test": "a", "start_interval": "1s" }),
            json!({ "test": ["NONE"], "timeout": "1s" }), json!({ "disable": true, "test": "a" }), json!({ "interval": "1s" })]),
        ("image", vec![json!("redis"), json!("a/b:1"), json!("postgres:17"), Value::Null]),
        ("links", vec![json!(["b", "b:c", "nobody"])]),
        ("logging", vec![json!({ "driver": "none", "options": { "a": "b" } })]),
        ("networks", vec![json!(["n", "m"]), json!({ "n": { "aliases": ["a"], "priority": 1, "own": 1 }, "m": null })]),
        ("ports", vec![json!(["1:2", 3, "6379:6379"]), json!([{ "target": 80, "published": "8", "mode": "host", "own": 1 }])]),
        ("profiles", vec![json!(["asked"]), json!(["not-asked"])]),
        ("secrets", vec![json!(["s", "e", "none"]), json!([{ "source": "s", "target": "t", "uid": "1" }])]),
        ("security_opt", vec![json!(["no-new-privileges", "apparmor=x", "seccomp:./x"])]),
        ("tmpfs", vec![json!("/t"), json!(["/t:size=1m"])]),
        ("ulimits", vec![json!({ "nofile": 1, "nproc": { "soft": 1, "hard": 2, "own": 3 } })]),
        ("volumes", vec![
            json!(["./a:/a:Z", "v:/data", "~/x:/x", "/y", "bind:/b"]),
            json!([{ "type": "bind", "source": "./a", "target": "/a", "bind": { "create_host_path": true, "own": 1 }, "read_only": true },
                { "type": "volume", "source": "v", "target": "/data", "volume": { "nocopy": true } },
                { "type": "tmpfs", "target": "/t", "tmpfs": { "size": 5 } }, { "type": "npipe", "source": "a", "target": "/n" }]),
        ]),
        ("volumes_from", vec![json!(["b:ro", "nobody", "container:x"])]),
        ("develop", vec![json!({ "watch": [{ "path": "." }] })]),
        ("x-own", vec![json!({ "a": [1] }), json!(1)]),
        ("nobody_knows", vec![json!({ "a": [1, { "b": null }] }), json!("x"), json!([])]),
    ]);
    all
}

fn service() -> impl Strategy<Value = Value> {
    let values = values();
    let keys: Vec<usize> = (0..values.len()).collect();
    let some = prop::sample::subsequence(keys, 0..=values.len());
    (some, any::<u64>()).prop_map(move |(keys, seed)| {
        let pick = |n: usize| {
            let (name, choices) = &values[n];
            let choice =
                usize::try_from(seed.rotate_left(u32::try_from(n % 64).unwrap()) % choices.len() as u64).unwrap();
            ((*name).to_owned(), choices[choice].clone())
        };
        let map: Map<String, Value> = keys.into_iter().map(pick).collect();
        // A service cannot name both.
        let mut map = map;
        if map.contains_key("network_mode") {
            map.remove("networks");
        }
        Value::Object(map)
    })
}

/// The paths of everything that has nothing below it, as the account writes them.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &path, found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(n, item)| leaves(item, &format!("{path}[{n}]"), found));
        }
        _ => found.push(path.to_owned()),
    }
}

/// JSON is YAML.
fn import_of(file: &Value) -> Imported {
    let env = Env::new();
    for name in ["a.yml", "b.yml"] {
        env.write(name, "services: {}\n");
    }
    let options = ImportOptions {
        file: env.write("compose.yml", serde_json::to_string_pretty(file).unwrap()),
        directory: env.path(""),
        profiles: vec!["asked".to_owned()],
        ..ImportOptions::default()
    };
    import(&options).unwrap_or_else(|error| panic!("{error}\n{file:#}"))
}

fn check(file: &Value) -> Result<(), TestCaseError> {
    let imported = import_of(file);
    let mut paths = Vec::new();
    leaves(file, "", &mut paths);
    for leaf in paths {
        let covers =
            |path: &str| leaf == path || leaf.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']));
        let rows: Vec<_> = imported.account.iter().filter(|row| covers(&row.path)).collect();
        prop_assert_eq!(rows.len(), 1, "{}: {:?}", leaf, rows);
        prop_assert!(rows[0].fate == Fate::Taken || !rows[0].why.is_empty(), "{}: left without a reason", leaf);
        prop_assert!(rows[0].line > 0);
    }
    let counted = imported.counts.taken + imported.counts.left;
    prop_assert_eq!(counted, imported.account.len());
    Ok(())
}

fn file(services: Value) -> Value {
    json!({
        "version": "3", "name": "p", "x-a": { "b": [1] }, "services": services, "nobody_knows": { "a": 1 },
        "volumes": { "v": null, "unused": {}, "bind": { "driver": "local", "driver_opts": { "type": "none", "o": "bind", "device": "/d" }, "own": 1 } },
        "networks": { "n": { "internal": true, "own": 1 }, "m": { "external": true }, "default": { "driver": "bridge" } },
        "secrets": { "s": { "file": "./s" }, "e": { "external": true }, "env": { "environment": "X" } },
        "configs": { "c": { "file": "./c", "own": 1 } },
        "include": ["a.yml", { "path": "b.yml" }],
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_key_has_exactly_one_row(a in service(), b in service()) {
        check(&file(json!({ "a": a, "b": b })))?;
    }
}

#[test]
fn every_value_of_every_key_has_a_row() {
    // Each by itself, so that none hides behind another.
    for (key, choices) in values() {
        for choice in choices {
            let services = json!({ "a": { "image": "redis", key: choice }, "b": { "image": "x:1", key: choice } });
            check(&file(services)).unwrap_or_else(|error| panic!("{key}: {error}"));
        }
    }
}

#[test]
fn aliases_and_merge_keys_have_rows_too() {
    let env = Env::new();
    let text = "x-a: &a { restart: always, init: true }\nx-b: { list: &l [SYS_TIME] }\nx-c: { d: 1 }\nservices:\n  s:\n    <<: *a\n    \
                init: false\n    image: 'x:1'\n    cap_add: *l\n  t: &t\n    image: 'x:2'\n  u:\n    <<: [*t, *a]\n";
    let options = ImportOptions { file: env.write("c.yml", text), directory: env.path(""), ..ImportOptions::default() };
    let imported = import(&options).unwrap();
    let row = |path: &str| imported.account.iter().find(|row| row.path == path).unwrap_or_else(|| panic!("{path}"));
    for path in [
        "x-a",
        "x-b",
        "services.s.<<",
        "services.s.restart",
        "services.s.cap_add[0]",
        "services.u.<<",
        "services.u.image",
    ] {
        assert_eq!(row(path).fate, Fate::Taken, "{path}");
    }
    assert_eq!(row("x-c").fate, Fate::Left, "nothing refers to it");
    assert_eq!((row("services.s.init").line, row("services.u.image").line), (7, 11), "each where it was written");
    let nix = crate::compose::eval(&imported.nix);
    let containers = &nix["virtualisation"]["windlass"]["containers"];
    assert_eq!(containers["s"]["init"], false, "a key beside << comes before what it brings in");
    assert_eq!(containers["u"]["image"], "x:2");
}
