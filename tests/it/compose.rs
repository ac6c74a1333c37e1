//! `windlass compose import`: whole files, as people have them, and what must not happen with them.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::env::{Env, run_ok};
use crate::machine::evaluated;
use crate::nix::{nix, root};

/// A folder with the fixtures; relative paths in them are taken from `/srv`, so that none depends on the folder.
fn fixtures() -> Env {
    let env = Env::new();
    for entry in fs::read_dir(root().join("tests/fixtures/compose")).unwrap().map(Result::unwrap) {
        env.write(entry.file_name(), fs::read(entry.path()).unwrap());
    }
    env
}

/// What real Nix makes of a configuration.
pub(crate) fn eval(text: &str) -> Value {
    let lib = "{ mapAttrs = builtins.mapAttrs; mkForce = value: value; }";
    let arguments = format!("{{ lib = {lib}; pkgs.valkey = \"valkey\"; }}");
    let expression =
        format!("let module = {text}; in if builtins.isFunction module then module {arguments} else module");
    let json = run_ok(nix("nix-instantiate").args(["--eval", "--strict", "--json", "--expr", &expression]));
    serde_json::from_str(&json).unwrap()
}

/// The result of an import as JSON.
pub(crate) fn import(env: &Env, arguments: &[&str]) -> Value {
    let words = [&["compose", "import", "docker-compose.yml", "--directory", "/srv", "--json"], arguments].concat();
    serde_json::from_str(&env.ok(words)).unwrap()
}

/// The configuration of a file with these lines.
pub(crate) fn configuration(text: &str) -> Value {
    let env = Env::new();
    env.write("docker-compose.yml", text);
    eval(import(&env, &[])["nix"].as_str().unwrap())
}

/// The containers of a file with these services.
fn containers(services: &str) -> Value {
    configuration(&format!("name: p\nservices:\n{services}"))["virtualisation"]["windlass"]["containers"].clone()
}

#[test]
fn the_ai_stack_of_a_compose_file() {
    let env = fixtures();
    let arguments = ["compose", "import", "ai-stack.yml", "--directory", "/srv", "--output", "ai.nix"];
    let account = env.ok(arguments);
    let nix = fs::read_to_string(env.path("ai.nix")).unwrap();
    assert!(!nix.contains("change-me") && !account.contains("change-me"));
    insta::assert_snapshot!("ai-stack", format!("{nix}\n{account}"));
    let stack = &eval(&nix)["services"]["ai-stack"];
    let ports: Vec<(&str, u64)> = stack
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "enable")
        .map(|(name, service)| (name.as_str(), service["port"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("llama-cpp", 8081),
        ("mindsdb", 47334),
        ("ollama", 11434),
        ("open-webui", 3000),
        ("postgres", 5432),
        ("qdrant", 6333),
        ("redis", 6379),
    ];
    assert_eq!(ports, expected);
}

#[test]
fn every_key_of_a_large_file_is_taken_or_accounted_for() {
    let env = fixtures();
    let arguments =
        ["compose", "import", "everything.yml", "--directory", "/srv", "--env-file", "variables.env", "--all"];
    let output = env.windlass(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (nix, account) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    insta::assert_snapshot!("everything-nix", nix);
    insta::assert_snapshot!("everything-account", account);
    let json = env.ok(arguments.iter().chain(&["--json"]));
    for text in [&nix, &account, &json] {
        assert!(!text.contains("never-shown"), "a secret was copied: {text}");
    }
    // Nix reads back what the compose file says, whatever characters it has.
    let containers = eval(&nix)["virtualisation"]["windlass"]["containers"].clone();
    assert_eq!(containers["web"]["environment"]["PRICE"], "$5 ''${literal} \"quoted\" \\ back");
    assert_eq!(containers["web"]["environment"]["SCRIPT"], "first\nsecond\n");
    assert_eq!(containers["web"]["command"], serde_json::json!(["serve", "--price", "5$"]));
    assert_eq!(containers["worker"]["environment"], serde_json::json!({ "FROM_BASE": "1", "SHARED": "own" }));
}

/// What comes out is a module that NixOS takes: the containers are those of the file, in units.
#[test]
fn the_modules_take_what_an_import_writes() {
    let env = fixtures();
    let imported = |file: &str| {
        let words = ["compose", "import", file, "--directory", "/srv", "--env-file", "variables.env", "--json"];
        serde_json::from_str::<Value>(&env.ok(words)).unwrap()["nix"].as_str().unwrap().to_owned()
    };
    // Images that the stack does not have: the user builds them, or pins them.
    let app =
        r#"virtualisation.windlass.images.mine = config.virtualisation.windlass.lib.buildImage { name = "mine"; };"#;
    let images = |names: &[&str]| {
        let image = |name: &&str| {
            format!(
                r#"virtualisation.windlass.containers.{name}.image = lib.mkForce config.virtualisation.windlass.images.mine.ref;"#
            )
        };
        names.iter().map(image).collect::<String>()
    };
    let everything = format!(
        "{{ config, lib, ... }}: {{ imports = [ ({}) ]; {app} {} }}",
        imported("everything.yml"),
        images(&["from-source", "included", "second-cache", "web", "worker"])
    );
    // What nixpkgs has not here, and a model, which llama.cpp needs.
    let stack = format!(
        "{{ config, lib, ... }}: {{ imports = [ ({}) ]; services.ai-stack = {{ llama-cpp.enable = lib.mkForce false; \
         mindsdb.enable = lib.mkForce false; open-webui.enable = lib.mkForce false; ollama.enable = lib.mkForce false; \
         qdrant.enable = lib.mkForce false; }}; }}",
        imported("ai-stack.yml")
    );
    let [machine, ai] = evaluated("[ windlass stack ]", [&everything, &stack]);
    for (machine, words) in [
        (
            &machine,
            &["podman-web.service", "podman-worker.service", "podman-from-source.service", "podman-postgres.service"][..],
        ),
        (&machine, &["windlass-network-shop_front.service", "windlass-network-shop_default.service"]),
        (&ai, &["podman-redis.service", "podman-postgres.service"]),
    ] {
        let units = machine["units"].as_object().unwrap();
        for name in words {
            assert!(units.contains_key(*name), "{name}: {:?}", units.keys());
        }
    }
    let script = |machine: &Value, unit: &str| machine["scripts"][unit].to_string();
    assert!(script(&machine, "podman-web").contains("--price"), "{}", script(&machine, "podman-web"));
    assert!(script(&ai, "podman-redis").contains("appendonly"), "{}", script(&ai, "podman-redis"));
}

#[test]
fn the_result_is_written_in_one_step_and_is_the_same_every_time() {
    let env = fixtures();
    let arguments = ["compose", "import", "ai-stack.yml", "--output", "out.nix"];
    let first = env.ok(arguments);
    let bytes = fs::read(env.path("out.nix")).unwrap();
    assert_eq!((env.ok(arguments), fs::read(env.path("out.nix")).unwrap()), (first.clone(), bytes));
    assert!(first.ends_with("each with its reason\n"), "{first}");
    assert!(env.tree().iter().all(|path| !path.to_string_lossy().contains(".windlass-")), "nothing is left beside it");
    run_ok(nix("nix-instantiate").arg("--parse").arg(env.path("out.nix")));
    fs::create_dir(env.path("folder")).unwrap();
    let refused = env.refused(&mut env.windlass(["compose", "import", "ai-stack.yml", "--output", "folder"]));
    assert_eq!(refused, (2, "folder is a directory; give a file".to_owned()));
}

#[test]
fn what_is_no_compose_file_is_refused_with_its_line() {
    let env = Env::new();
    let bomb: String =
        (1..9).map(|n| format!("  a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))).collect();
    let deep = format!("services: {}{}", "[".repeat(80), "]".repeat(80));
    for (text, sentence) in [
        ("", "f.yml:1:1: is empty"),
        ("a: [", "f.yml:1:4: is not YAML: unclosed bracket '['"),
        ("a: 1\n---\nb: 1\n", "f.yml:2:1: is a second document; give one file for each"),
        ("services:\n  a:\n    image: x\n    image: y\n", "f.yml:4:5: 'image' is there twice, first on line 3"),
        ("services:\n  a: &a\n    b: *a\n", "f.yml:3:8: is an alias of something that it is itself a part of"),
        ("services:\n  a: *b\n", "f.yml:2:6: is not YAML: while parsing node, found unknown anchor"),
        (&deep, "f.yml:1:75: lies more than 64 levels deep"),
        (&format!("x:\n  a0: &a0 x\n{bomb}"), "f.yml:2:11: makes more than 200000 values, with every alias copied"),
        ("services:\n  a:\n    image: \"x\\0\"\n", "f.yml:3:12: has a NUL character in it"),
        ("a: 1\n", "f.yml:1:1: services: expected a mapping with the services"),
        ("services: [a]\n", "f.yml:1:1: services: expected a mapping with the services"),
        ("services:\n  a: [b]\n", "f.yml:2:6: services.a: expected a mapping, found a list"),
        ("services:\n  a:\n    ports: x\n", "f.yml:3:12: services.a.ports: expected a list, found a string"),
        (
            "services:\n  a:\n    ports: [x]\n",
            "f.yml:3:13: services.a.ports[0]: expected a port like 8080:80 or 127.0.0.1:8080:80/tcp",
        ),
        ("services:\n  a:\n    init: maybe\n", "f.yml:3:11: services.a.init: expected true or false"),
        (
            "services:\n  a:\n    environment: hidden\n",
            "f.yml:3:18: services.a.environment: expected a mapping or a list, found a string",
        ),
        ("services:\n  a:\n    command: \"x 'y\"\n", "f.yml:3:14: services.a.command: has a quote without its end"),
        (
            "services:\n  a:\n    image: ${x\n",
            "f.yml:3:12: services.a.image: has a '${' without its '}'; write '$$' for a dollar sign",
        ),
        (
            "services:\n  a:\n    image: ${X:?say it}\n  b:\n    user: ${Y?}\n",
            "f.yml: no value for X (line 3: say it), Y (line 5); give them with --env-file",
        ),
        ("services:\n  a:\n    extends: b\n  b:\n    extends: a\n", "f.yml:3:5: services.a.extends: is a circle"),
        (
            "services:\n  a:\n    extends: { file: ../other.yml, service: a }\n",
            "read $T/../other.yml: No such file or directory (os error 2)",
        ),
        (
            "services:\n  a:\n    image: !reset null\n",
            "f.yml:3:19: has a tag: !reset and !override are for files that are put over others, which are not read",
        ),
    ] {
        env.write("f.yml", text);
        let file = env.path("f.yml").display().to_string();
        let (code, said) = env.refused(&mut env.windlass(["compose", "import", &file]));
        let shown = said.replace("$T/f.yml", "f.yml");
        let expected = if sentence.starts_with("read") { 1 } else { 2 };
        assert_eq!((code, shown.as_str()), (expected, sentence), "{}", text.get(..200).unwrap_or(text));
    }
    // Services that begin as each other copy what they begin with.
    let many = |keys: usize, services: usize| {
        let map: String = (0..keys).map(|n| format!("{n}: a, ")).collect();
        let base = format!("services:\n  s0: {{ image: 'x:1', labels: {{ {map} }} }}\n");
        let other = |n: usize| format!("  s{n}: {{ extends: s{} }}\n", if keys > 1 { 0 } else { n - 1 });
        base + &(1..services).map(other).collect::<String>()
    };
    for (text, sentence) in [
        (many(1, 100), "services.s0.extends: goes over more than 64 services"),
        (many(1000, 300), "services.s200.extends: makes more than 200000 values"),
    ] {
        env.write("f.yml", text);
        let (code, said) = env.refused(&mut env.windlass(["compose", "import", "f.yml"]));
        assert!(code == 2 && said.ends_with(sentence), "{said}");
    }
    env.write("f.yml", "services: {}\n");
    env.write("v.env", "A=1\nB='\n");
    let refused = env.refused(&mut env.windlass(["compose", "import", "f.yml", "--env-file", "v.env"]));
    assert_eq!(refused, (2, "v.env:2: has a quote without its end".to_owned()));
    let refused = env.refused(&mut env.windlass(["compose", "import", "none.yml"]));
    assert_eq!(refused, (2, "none.yml: there is no such file or directory".to_owned()));
}

#[test]
fn extends_does_not_leave_the_folder() {
    let env = Env::new();
    env.write("outside.yml", "services:\n  a:\n    image: x:1\n");
    env.write("in/sub/common.yml", "services:\n  a:\n    image: x:1\n    extends: { file: more.yml, service: b }\n");
    env.write("in/sub/more.yml", "services:\n  b:\n    user: '7'\n");
    env.write("in/f.yml", "services:\n  a:\n    extends: { file: sub/common.yml, service: a }\n");
    let nix: Value = serde_json::from_str(&env.ok(["compose", "import", "in/f.yml", "--json"])).unwrap();
    let container = eval(nix["nix"].as_str().unwrap())["virtualisation"]["windlass"]["containers"]["a"].clone();
    assert_eq!(container, serde_json::json!({ "image": "x:1", "user": "7", "restart": "no" }));
    std::os::unix::fs::symlink("../outside.yml", env.path("in/link.yml")).unwrap();
    for file in ["../outside.yml", "link.yml"] {
        env.write("in/f.yml", format!("services:\n  a:\n    extends: {{ file: {file}, service: a }}\n"));
        let (code, sentence) = env.refused(&mut env.windlass(["compose", "import", "in/f.yml"]));
        assert!(code == 2 && sentence.contains("outside of the folder of the compose file"), "{sentence}");
    }
}

#[test]
fn an_extended_service_is_put_together_as_compose_does_it() {
    let env = Env::new();
    let base = "services:\n  base:\n    image: 'x:1'\n    command: [a]\n    env_file: base.env\n    volumes: ['./data:/data', './old:/own']\n    \
                depends_on: { db: { condition: service_started } }\n    environment: { A: base, B: base }\n    labels: [l=1]\n    dns: 1.1.1.1\n";
    env.write("sub/base.yml", base);
    let text = "name: p\nservices:\n  db: { image: 'x:1' }\n  other: { image: 'x:1' }\n  a:\n    extends: { file: sub/base.yml, service: base }\n    \
                command: [b]\n    env_file: [own.env]\n    volumes: ['./new:/own']\n    depends_on: [other]\n    environment: [B=own]\n    labels:\n    dns: [8.8.8.8]\n";
    env.write("docker-compose.yml", text);
    let all = eval(import(&env, &[])["nix"].as_str().unwrap());
    let expected = serde_json::json!({
        "image": "x:1", "restart": "no", "networks": ["p_default"], "command": ["b"], "dependsOn": ["db", "other"],
        "environmentFiles": ["/srv/sub/base.env", "/srv/own.env"], "volumes": ["/srv/sub/data:/data", "/srv/new:/own"],
        "environment": { "A": "base", "B": "own" }, "labels": { "l": "1" }, "extraOptions": ["--dns=1.1.1.1", "--dns=8.8.8.8"],
    });
    assert_eq!(all["virtualisation"]["windlass"]["containers"]["a"], expected);
}

#[test]
fn the_account_says_what_is_waited_for() {
    let env = Env::new();
    let text = "services:\n  db: { image: 'postgres:17' }\n  sick: { image: 'x:1', healthcheck: { test: [CMD, 'true'] } }\n  \
                well: { image: 'x:1', healthcheck: { test: [CMD, x], disable: false } }\n  \
                a: { image: 'x:1', depends_on: { db: { condition: service_healthy }, sick: { condition: service_healthy }, well: { condition: service_started } } }\n  \
                b: { image: 'x:1', depends_on: [well, sick] }\n";
    env.write("docker-compose.yml", text);
    let imported = import(&env, &[]);
    let row = |path: &str| {
        let row = imported["account"].as_array().unwrap().iter().find(|row| row["path"] == path).unwrap();
        format!("{}: {}", row["to"].as_str().unwrap(), row["why"].as_str().unwrap_or_default())
    };
    for (path, said) in [
        ("a.depends_on.db.condition", "dependsOn, which waits until it is healthy: "),
        (
            "a.depends_on.sick.condition",
            "dependsOn: sick has no health check here, and is waited for until it has started",
        ),
        ("a.depends_on.well.condition", "dependsOn: well has a health check, and is waited for until it is healthy"),
        ("b.depends_on[0]", "dependsOn: well has a health check, and is waited for until it is healthy"),
        ("b.depends_on[1]", "dependsOn: "),
    ] {
        assert_eq!(row(&format!("services.{path}")), said, "{path}");
    }
}

#[test]
fn profiles_decide_what_is_taken_over() {
    let env = Env::new();
    let text = "services:\n  a: { image: 'x:1' }\n  b: { image: 'x:1', profiles: [p, q] }\n  c: { image: 'x:1', profiles: [r] }\n";
    env.write("docker-compose.yml", text);
    let names = |arguments: &[&str]| {
        let imported = import(&env, arguments);
        let containers = eval(imported["nix"].as_str().unwrap())["virtualisation"]["windlass"]["containers"].clone();
        (containers.as_object().unwrap().keys().cloned().collect::<String>(), imported["counts"]["leftOut"].clone())
    };
    assert_eq!(names(&[]), ("a".to_owned(), 2.into()));
    assert_eq!(names(&["--profile", "q"]), ("ab".to_owned(), 1.into()));
    assert_eq!(names(&["--profile", "*"]), ("abc".to_owned(), 0.into()));
    env.write(".env", "COMPOSE_PROFILES=r,x\n");
    assert_eq!(names(&[]), ("ac".to_owned(), 1.into()));
}

#[test]
fn variables_come_from_files_and_never_from_the_shell() {
    let env = Env::new();
    env.write("docker-compose.yml", "services:\n  a:\n    image: 'x:${V:-0}'\n    user: '${U-none}'\n");
    let container = |arguments: &[&str]| {
        let words = [&["compose", "import", "docker-compose.yml", "--json"], arguments].concat();
        let json = run_ok(env.windlass(words).envs([("V", "9"), ("U", "shell")]));
        let json: Value = serde_json::from_str(&json).unwrap();
        let container = eval(json["nix"].as_str().unwrap())["virtualisation"]["windlass"]["containers"]["a"].clone();
        format!("{} {}", container["image"].as_str().unwrap(), container["user"].as_str().unwrap())
    };
    assert_eq!(container(&[]), "x:0 none");
    env.write(".env", "V=1\nU=file\n");
    assert_eq!(container(&[]), "x:1 file");
    env.write("two.env", "V=2\n");
    assert_eq!(container(&["--env-file", "two.env"]), "x:2 none");
    assert_eq!(container(&["--env-file", ".env", "--env-file", "two.env"]), "x:2 file");
}

#[test]
fn services_of_the_ai_stack_keep_the_names_that_others_call_them_by() {
    let text = "name: p\nservices:\n  db: { image: postgres:17 }\n  db2: { image: pgvector/pgvector:pg17 }\n  \
                postgres: { image: 'x:1', depends_on: [db, db2] }\n";
    let all = configuration(text);
    assert_eq!(all["services"]["ai-stack"]["postgres"]["container"]["networks"][0], "p_default:alias=db");
    let containers = &all["virtualisation"]["windlass"]["containers"];
    assert_eq!(containers["db2"]["image"], "pgvector/pgvector:pg17", "a second one is a container of its own");
    let other = &containers["p-postgres"];
    assert_eq!(other["dependsOn"], serde_json::json!(["db2", "postgres"]), "and so is one that only has the name");
    assert_eq!(other["networks"][0], "p_default:alias=postgres");
}

#[test]
fn shared_directories_are_not_relabelled() {
    let services = "  a:\n    image: 'x:1'\n    volumes: ['/srv/s:/s:Z', '/srv/o:/o:Z', '/etc/ssl:/e:ro,z', '/run/x.sock:/x:z', 'v:/v:U', '/srv/s2:/t:z']\n  \
                    b:\n    image: 'x:1'\n    volumes: ['/srv/s:/s', 'v:/v']\n";
    let expected = ["/srv/s:/s", "/srv/o:/o:Z", "/etc/ssl:/e:ro", "/run/x.sock:/x", "p_v:/v", "/srv/s2:/t:z"];
    assert_eq!(containers(services)["a"]["volumes"], serde_json::json!(expected));
}

#[test]
fn values_take_the_form_that_the_modules_have() {
    let services = "  a:\n    image: 'x:1'\n    mem_limit: 1.5gb\n    shm_size: 64mb\n    pids_limit: -1\n    entrypoint: ''\n    \
                    stop_grace_period: 1500ms\n    cpus: '2'\n    healthcheck: { test: [CMD, x], interval: 1.5s }\n    \
                    restart: on-failure:3\n    ulimits: { nofile: { hard: 5 } }\n";
    let container = &containers(services)["a"];
    let expected = serde_json::json!({
        "image": "x:1", "memory": "1536m", "shmSize": "64m", "stopTimeout": 2, "cpus": 2, "restart": "on-failure",
        "extraOptions": ["--pids-limit=-1", "--entrypoint="], "ulimits": { "nofile": "5:5" },
        "health": { "command": ["x"], "interval": "2s" },
    });
    assert_eq!(container, &expected);
}

#[test]
fn what_the_ai_stack_says_itself_is_not_said_twice() {
    let text = "name: p\nservices:\n  qdrant:\n    image: qdrant/qdrant\n    ports: ['7000:6333', '6334:6334', '1:6335']\n    \
                network_mode: host\n    read_only: true\n    tmpfs: [/tmp, /x]\n    cap_drop: [ALL, CHOWN]\n    user: '5'\n    \
                security_opt: ['no-new-privileges:true']\n    entrypoint: sh\n    command: sh -c x\n    stop_grace_period: 5s\n  \
                redis: { image: valkey/valkey, command: [valkey-server, --save, ''] }\n  \
                llama-cpp: { image: 'ghcr.io/ggml-org/llama.cpp:server', command: /app/llama-server -m /m.gguf -c 5 }\n";
    let all = configuration(text);
    let stack = &all["services"]["ai-stack"];
    let expected = serde_json::json!({
        "enable": true, "port": 7000, "container": { "ports": ["1:6335"], "tmpfs": ["/x"], "capDrop": ["CHOWN"] }
    });
    assert_eq!(stack["qdrant"], expected);
    assert_eq!(stack["redis"]["container"]["command"], serde_json::json!(["redis-server", "--save", ""]));
    assert_eq!(stack["llama-cpp"]["container"]["command"], serde_json::json!(["-c", "5"]));
    assert_eq!(all.get("virtualisation"), None, "they have a network of their own: {all}");
}

#[test]
fn what_podman_would_refuse_is_left_with_a_reason() {
    let env = Env::new();
    let text = "name: p\nservices:\n  a:\n    image: 'x:1'\n    ports: ['53:53/UDP', '8000-8009:80']\n    ipc: service:gone\n    \
                volumes: ['data/x:/x', 'v:/v']\n    annotations: { token: hidden }\n    secrets: [{ source: s, target: ../x }, { source: s, target: sub/y }, s]\n    \
                deploy: { restart_policy: { condition: unless-stopped } }\n  \
                b: { image: 'x:1', deploy: { restart_policy: { delay: 5s } } }\n  \
                redis: { image: redis, ports: ['7000:6379', '7001:6379'], environment: { REDIS_PASSWORD: hidden } }\n\
                secrets: { s: { file: ./s } }\n";
    env.write("docker-compose.yml", text);
    let imported = import(&env, &[]);
    let all = eval(imported["nix"].as_str().unwrap());
    let expected = serde_json::json!({
        "image": "x:1", "restart": "always", "networks": ["p_default"], "ports": ["53:53/udp"],
        "volumes": ["p_v:/v", "/srv/s:/run/x:ro", "/srv/s:/run/secrets/sub/y:ro"], "secrets": { "s": "/srv/s" },
    });
    assert_eq!(all["virtualisation"]["windlass"]["containers"]["a"], expected);
    assert_eq!(all["virtualisation"]["windlass"]["containers"]["b"]["restart"], "always");
    assert_eq!(all["services"]["ai-stack"]["redis"]["port"], 7000);
    let account = imported["account"].as_array().unwrap();
    let left = account.iter().filter(|row| row["fate"] == "left").map(|row| row["path"].as_str().unwrap());
    let expected = [
        "services.a.ports[1]",
        "services.a.ipc",
        "services.a.volumes[0]",
        "services.a.annotations.token",
        "services.b.deploy.restart_policy.delay",
        "services.redis.ports[1]",
        "services.redis.environment.REDIS_PASSWORD",
    ];
    assert_eq!(left.collect::<Vec<_>>(), expected);
    let advice = "set services.ai-stack.redis.container.secrets.redis-password to its path";
    assert!(imported.to_string().contains(advice), "{imported}");
}

#[test]
fn secrets_in_every_place_stay_out() {
    let env = Env::new();
    let text = "services:\n  a:\n    image: 'x:1'\n    command: [run, --api-key, hidden]\n    entrypoint: sh -c 'x --token=hidden'\n    \
                environment:\n      - API_KEY=hidden\n      - URL=amqp://u:hidden@h\n      - OPTS=-p ${DB_PASSWORD}\n      - DERIVED\n      - ALSO=$DERIVED\n      - DB_PASSWORD_FILE=/run/secrets/x\n      - MAX_TOKENS=5\n    \
                healthcheck: { test: ['CMD', 'x', '--password', 'hidden'] }\n    labels: { token: hidden }\n    hostname: h-${DB_PASSWORD}\n    \
                annotations: { a: '${DB_PASSWORD}' }\n";
    env.write("docker-compose.yml", text);
    env.write(".env", "DB_PASSWORD=hidden\nDERIVED=x-${DB_PASSWORD}\n");
    let imported = import(&env, &[]);
    assert!(!imported.to_string().contains("hidden"), "{imported}");
    let all = eval(imported["nix"].as_str().unwrap());
    // Only the secret is left out of commands.
    let expected = serde_json::json!({
        "image": "x:1", "restart": "no", "environment": { "DB_PASSWORD_FILE": "/run/secrets/x", "MAX_TOKENS": "5" },
        "entrypoint": ["sh", "-c", "x --token=\"${TOKEN:?}\""], "command": ["run"],
        "health": { "command": ["/bin/sh", "-c", "exec x --password \"${PASSWORD:?}\""] }
    });
    assert_eq!(all["virtualisation"]["windlass"]["containers"]["a"], expected);
    let left = imported["counts"]["left"].as_u64().unwrap();
    assert_eq!(left, 8, "{imported}");
}

#[test]
fn help_says_how() {
    let env = Env::new();
    // The examples of the help are accepted: an unknown option would be an error before the help is printed.
    for line in env.ok(["compose", "--help"]).lines().filter_map(|line| line.trim().strip_prefix("windlass ")) {
        run_ok(Command::new(env!("CARGO_BIN_EXE_windlass")).args(line.split_whitespace()).arg("--help"));
    }
}
