//! What `services.ai-stack` refuses, and what it warns of: each with the configuration that has it, and silence in the one
//! that is good.

use serde_json::Value;

use crate::machine::{STACK, STACK_HOME, evaluated, expect, messages, refused};

fn assert_good(machine: &Value, change: &str) {
    assert_eq!((messages(machine, "assertions"), messages(machine, "warnings")), (vec![], vec![]), "{change}");
}

/// A change under `services.ai-stack`.
fn stack(change: &str) -> String {
    format!("{{ pkgs, ... }}: {{ services.ai-stack = {{ {change} }}; }}")
}

/// Each change makes one such message, with this sentence in it.
fn each<const N: usize>(kind: &str, cases: [(&str, &str); N]) {
    let changes = cases.map(|(change, _)| stack(change));
    let cases: Vec<(&str, &str)> =
        changes.iter().map(String::as_str).zip(cases.map(|(_, sentence)| sentence)).collect();
    expect::<N>(STACK, kind, cases.try_into().unwrap());
}

#[test]
fn a_good_stack_is_told_nothing() {
    let changes = [
        "{ }",
        // On other ports than the host's own services.
        r#"{ services = {
          redis.servers = { "" = { enable = true; port = 6380; }; cache.enable = true; off.port = 5432; };
          postgresql = { enable = true; settings.port = 5433; };
          qdrant = { enable = true; settings.service = { http_port = 7333; grpc_port = 7334; }; };
          ollama = { enable = true; port = 11435; };
          llama-cpp = { enable = true; settings.port = 8090; };
          open-webui = { enable = true; port = 3001; };
        }; }"#,
        // Or these on others.
        r#"{ services = {
          redis.servers."".enable = true;
          postgresql.enable = true;
          qdrant.enable = true;
          ollama.enable = true;
          open-webui.enable = true;
          ai-stack = {
            redis.port = 6380;
            postgres.port = 5433;
            qdrant = { port = 7333; container.ports = lib.mkForce [ "127.0.0.1:7333:6333" "127.0.0.1:7334:6334" "127.0.0.1:53:53/udp" ]; };
            ollama.port = 11435;
            llama-cpp.port = 8090;
          };
        }; }"#,
        r#"{ services.ai-stack = { hostMemory = 3; redis.container.memory = "1g"; qdrant.container.memory = "1024M";
          ollama.container.memory = "524288k"; llama-cpp.container.memory = "536870912"; }; }"#,
        r#"{ services.ai-stack = { models = { vectors.delivery = "bind"; }; };
          virtualisation.windlass.via = "podman"; virtualisation.podman.autoPrune = { enable = true; flags = [ "--volumes" "--filter=label=a" ]; }; }"#,
        r#"{ virtualisation.podman.autoPrune.flags = [ "--all" ]; }"#,
        r#"{ services.ai-stack.postgres.container = { secrets = lib.mkForce { }; environment.POSTGRES_HOST_AUTH_METHOD = "trust"; }; }"#,
        r#"{ services.ai-stack = { activeModel.embed = lib.mkForce null; llama-cpp.container.environment.LLAMA_API_KEY_FILE = "/run/secrets/key"; }; }"#,
        r#"{ services.ai-stack.accel = "cuda"; hardware.nvidia-container-toolkit.enable = true; }"#,
        r#"{ services.ollama.enable = true; services.ai-stack.ollama.enable = lib.mkForce false; virtualisation.windlass.runner = "quadlet"; }"#,
    ];
    for (change, machine) in changes.iter().zip(&evaluated(STACK, changes)) {
        assert_good(machine, change);
    }
    // home-manager's hosts are not known.
    let changes = ["{ }", r#"{ services.ai-stack.accel = "cuda"; }"#];
    for (change, home) in changes.iter().zip(&evaluated(STACK_HOME, changes)) {
        assert_good(home, change);
    }
}

#[test]
fn names_of_images_are_refused() {
    let floating = "is a floating tag, which names another image tomorrow, and nothing here pulls; give an image that is built, or none for the one of nixpkgs";
    for reference in [
        "docker.io/library/redis:latest",
        "redis",
        "localhost:5000/redis",
        "ghcr.io/open-webui/open-webui:main",
        "ghcr.io/ggml-org/llama.cpp:server",
        "ghcr.io/ggml-org/llama.cpp:server-cuda",
    ] {
        each(
            "assertions",
            [(
                &format!(r#"redis.image = "{reference}";"#),
                &format!("services.ai-stack.redis.image: '{reference}' {floating}"),
            )],
        );
    }
    for reference in
        ["docker.io/library/redis:8.2.1", "localhost:5000/redis:8", "redis@sha256:0123", "redis:latest@sha256:0123"]
    {
        each(
            "assertions",
            [(
                &format!(r#"redis.image = "{reference}";"#),
                &format!("services.ai-stack.redis.image: '{reference}' would be pulled, and nothing here pulls"),
            )],
        );
    }
    each(
        "assertions",
        [
            (
                r#"redis.container.image = lib.mkForce "docker.io/redis:8";"#,
                "virtualisation.windlass.containers.redis.image: 'docker.io/redis:8' is not one of the images that are loaded; take the `ref` of one of virtualisation.windlass.images: large larger llama-cpp ollama postgres qdrant redis vectors",
            ),
            (
                "open-webui.enable = true;",
                "services.ai-stack.open-webui: there is no image: nixpkgs has no package that it could be built from here, and services.ai-stack.lock has no image of that name; pin one (`windlass upstream add open-webui REFERENCE`), or give an image of your own as services.ai-stack.open-webui.image",
            ),
            ("mindsdb.enable = true;", "services.ai-stack.mindsdb: there is no image"),
            // What is not enabled is not looked at.
            (
                r#"mindsdb.enable = true; open-webui.image = "ghcr.io/open-webui/open-webui:main";"#,
                "services.ai-stack.mindsdb: there is no image",
            ),
        ],
    );
}

#[test]
fn models_that_cannot_be_served_are_refused() {
    each(
        "assertions",
        [
            (
                r#"activeModel.chat = lib.mkForce "qwen3";"#,
                "services.ai-stack.activeModel.chat: there is no model 'qwen3'; there are: large, larger, vectors",
            ),
            (
                r#"activeModel.embed = lib.mkForce "qwen3";"#,
                "services.ai-stack.activeModel.embed: there is no model 'qwen3'; there are: large, larger, vectors",
            ),
            (
                "activeModel.chat = lib.mkForce null;",
                "services.ai-stack.llama-cpp serves one model: say which in services.ai-stack.activeModel.chat; there are: large, larger, vectors",
            ),
            (
                "activeModel = { chat = lib.mkForce null; embed = lib.mkForce null; }; models = lib.mkForce { };",
                "say which in services.ai-stack.activeModel.chat; there are: none",
            ),
            (
                r#"models.large.delivery = lib.mkForce "image";"#,
                r#"services.ai-stack.models: large with delivery = "image": Podman does not mount images of the linked store; use delivery = "bind""#,
            ),
        ],
    );
    expect(
        STACK,
        "assertions",
        [
            (
                r#"({ config, ... }: { services.ai-stack.llama-cpp.image = config.virtualisation.windlass.lib.buildImage { name = "mine"; }; })"#,
                r#"services.ai-stack.models: vectors with delivery = "layer" would be in the image that is built here, and services.ai-stack.llama-cpp.image is one without it"#,
            ),
            // It has one of another name.
            (
                r#"({ config, pkgs, ... }: let w = config.virtualisation.windlass.lib; in { services.ai-stack.llama-cpp.image = w.buildImage {
                  name = "mine"; models = [ (w.buildModel { name = "large"; src = pkgs.writeText "x" "x"; }) ]; }; })"#,
                "services.ai-stack.models: vectors with delivery",
            ),
        ],
    );
    let [own, vfs, copied] = evaluated(
        STACK,
        [
            r#"({ config, pkgs, ... }: let w = config.virtualisation.windlass.lib; in { services.ai-stack.llama-cpp.image = w.buildImage {
              name = "mine"; models = [ (w.buildModel { name = "vectors"; src = pkgs.writeText "x" "x"; }) ]; }; })"#,
            r#"{ virtualisation.containers.storage.settings.storage.driver = "vfs"; }"#,
            r#"{ virtualisation.containers.storage.settings.storage.driver = "vfs"; services.ai-stack.models.vectors.delivery = "bind"; }"#,
        ],
    );
    assert_good(&own, "an image with the model in it");
    let [message] = &messages(&vfs, "assertions")[..] else { panic!("{vfs}") };
    assert!(message.starts_with(r#"services.ai-stack.models: vectors with delivery = "layer" and Podman's driver vfs: it would copy the weights"#), "{message}");
    assert_eq!(messages(&copied, "assertions"), [""; 0]);
}

#[test]
fn ports_that_two_would_have_are_refused() {
    let clash = |port: u16, name: &str, other: &str, option: &str| {
        format!(
            "services.ai-stack: port {port} of {name} is also that of {other}; change services.ai-stack.{option}, or disable one of them"
        )
    };
    let changes = [
        (r#"redis.servers."".enable = true;"#, clash(6379, "redis", "services.redis.servers.", "redis.port")),
        (
            "redis.servers.cache = { enable = true; port = 5432; };",
            clash(5432, "postgres", "services.redis.servers.cache", "postgres.port"),
        ),
        ("postgresql.enable = true;", clash(5432, "postgres", "services.postgresql", "postgres.port")),
        (
            "qdrant = { enable = true; settings.service.grpc_port = 7334; };",
            clash(6333, "qdrant", "services.qdrant", "qdrant.port"),
        ),
        (
            "qdrant = { enable = true; settings.service.http_port = 7333; };",
            clash(6334, "qdrant", "services.qdrant", "qdrant.container.ports"),
        ),
        ("ollama.enable = true;", clash(11434, "ollama", "services.ollama", "ollama.port")),
        ("llama-cpp.enable = true;", clash(8080, "llama-cpp", "services.llama-cpp", "llama-cpp.port")),
        (
            "llama-cpp = { enable = true; settings.port = 8081; };",
            clash(8081, "llama-cpp-embed", "services.llama-cpp", "llama-cpp.port"),
        ),
        ("open-webui.enable = true;", clash(8080, "llama-cpp", "services.open-webui", "llama-cpp.port")),
    ];
    for (change, sentence) in &changes {
        expect(STACK, "assertions", [(&format!("{{ services = {{ {change} }}; }}"), sentence)]);
    }
    // Among the services each is told, and both of a native one's ports.
    let changes = [
        "{ services.ai-stack.redis.port = 6333; }",
        r#"{ services.ai-stack.ollama.container.ports = [ "127.0.0.1:6379:1/tcp" ]; }"#,
        "{ services.qdrant.enable = true; }",
    ];
    let cases = [
        [clash(6333, "qdrant", "redis", "qdrant.port"), clash(6333, "redis", "qdrant", "redis.port")],
        [clash(6379, "ollama", "redis", "ollama.container.ports"), clash(6379, "redis", "ollama", "redis.port")],
        [
            clash(6333, "qdrant", "services.qdrant", "qdrant.port"),
            clash(6334, "qdrant", "services.qdrant", "qdrant.container.ports"),
        ],
    ];
    for (machine, expected) in evaluated(STACK, changes).iter().zip(cases) {
        assert_eq!(messages(machine, "assertions"), expected);
    }
    let quadlet = r#"{ services.ollama.enable = true; services.ai-stack.ollama.port = 1; virtualisation.windlass.runner = "quadlet";
      systemd.services.ollama.script = "ollama serve"; }"#;
    expect(
        STACK,
        "assertions",
        [(
            quadlet,
            r#"virtualisation.windlass.runner = "quadlet": the system has ollama.service already, with a program of its own; disable that"#,
        )],
    );
}

#[test]
fn users_are_numbers_where_files_are_given_to_them() {
    let own = |more: &str| {
        format!(
            r#"({{ config, ... }}: {{ {more} virtualisation.windlass = rec {{
              images.own = config.virtualisation.windlass.lib.buildImage {{ name = "own"; config.User = "me:us"; }};
              containers.own = {{ image = images.own.imageRef; health.command = [ "/ok" ]; }};
            }}; }})"#
        )
    };
    let sentence = "virtualisation.windlass.containers.own: its files are given to its user, and 'me:us' is a name that only the image knows; give its number as virtualisation.windlass.containers.own.user";
    let rootless =
        r#"virtualisation.windlass.user = "ai"; users.users.ai = { isNormalUser = true; uid = 7; linger = true; };"#;
    let secret = r#"virtualisation.windlass.containers.own.secrets.a = "/run/keys/a";"#;
    // Two definitions of one set: the first stands in a module of its own.
    let with = |first: &str| format!("{{ imports = [ {{ {first} }} {} ]; }}", own(""));
    expect(STACK, "assertions", [(&with(rootless), sentence), (&with(secret), sentence)]);
    let numbers = format!(r#"{secret} virtualisation.windlass.containers.own.user = "7";"#);
    for machine in evaluated(STACK, [&with(""), &with(&numbers)]) {
        assert_good(&machine, &numbers);
    }
}

#[test]
fn what_is_not_meant_is_a_warning() {
    each(
        "warnings",
        [
            (
                r#"hostMemory = 16; redis.container.memory = "2g"; llama-cpp.container.memory = "15g";"#,
                "services.ai-stack: the containers may use 17408 MiB together, and this machine has 16 GiB; lower `memory` of one of llama-cpp, llama-cpp-embed, ollama, postgres, qdrant, redis",
            ),
            (
                r#"accel = "cuda";"#,
                r#"services.ai-stack.accel = "cuda": containers see the GPU through hardware.nvidia-container-toolkit, which is not enabled"#,
            ),
            (
                "postgres.container.secrets = lib.mkForce { };",
                "services.ai-stack.postgres: without the secret postgres-password it cannot start on an empty /var/lib/ai-stack/postgres; set",
            ),
        ],
    );
    for flags in [r#""--all""#, r#""-a""#, r#""--volumes" "-fa""#, r#""--volumes --all""#] {
        let change = format!("{{ virtualisation.podman.autoPrune = {{ enable = true; flags = [ {flags} ]; }}; }}");
        expect(STACK, "warnings", [(&change, "virtualisation.podman.autoPrune.flags has --all")]);
    }
    let change = stack(r#"postgres.container.environment.POSTGRES_PASSWORD = "hunter2";"#);
    let [machine] = evaluated(STACK, [&change]);
    let assertions = machine["assertions"].to_string();
    let said = "virtualisation.windlass.containers.postgres.environment.POSTGRES_PASSWORD looks like a secret";
    assert!(assertions.contains(said) && !assertions.contains("hunter2"), "{machine}");
    assert!(!machine["warnings"].to_string().contains("hunter2"), "{machine}");
}

#[test]
fn options_take_only_what_they_can_use() {
    for (change, option) in [
        (r#"accel = "metal";"#, "services.ai-stack.accel"),
        (r#"dataDir = "data";"#, "services.ai-stack.dataDir"),
        (r#"address = "localhost";"#, "services.ai-stack.address"),
        (r#"network = "my network";"#, "services.ai-stack.network"),
        ("hostMemory = 0;", "services.ai-stack.hostMemory"),
        (r#"activeModel.vision = "large";"#, "services.ai-stack.activeModel.vision"),
        ("activeModel.chat = lib.mkForce 1;", "services.ai-stack.activeModel.chat"),
        ("mysql.enable = true;", "services.ai-stack.mysql"),
        (r#"redis.enable = lib.mkForce "yes";"#, "services.ai-stack.redis.enable"),
        ("redis.port = 70000;", "services.ai-stack.redis.port"),
        ("redis.uid = 0;", "services.ai-stack.redis.uid"),
        (r#"redis.package = "redis";"#, "services.ai-stack.redis.package"),
        ("redis.image = 8;", "services.ai-stack.redis.image"),
        ("redis.container = 8;", "services.ai-stack.redis.container"),
        ("redis.container.prot = 1;", "virtualisation.windlass.containers.redis.prot"),
        (r#"redis.container.memory = "lots";"#, "virtualisation.windlass.containers.redis.memory"),
        (r#"redis.container.secrets.a = "/etc/my secret";"#, "virtualisation.windlass.containers.redis.secrets.a"),
        (r#"models.large.format = "onnx";"#, "services.ai-stack.models.large.format"),
        (r#"models.large.delivery = lib.mkForce "copy";"#, "services.ai-stack.models.large.delivery"),
        (r#"models.large.mountPath = "models";"#, "services.ai-stack.models.large.mountPath"),
        (r#"models.large.src = lib.mkForce "large.gguf";"#, "services.ai-stack.models.large.src"),
        (r#"models.new.delivery = "bind"; activeModel.chat = lib.mkForce "new";"#, "services.ai-stack.models.new.src"),
    ] {
        let error = refused(STACK, &stack(change));
        assert!(error.contains(&format!("`{option}'")), "{change}: {error}");
    }
    // A user that is a name, where directories are made for it.
    let error = refused(STACK, &stack(r#"redis.container.user = "redis";"#));
    assert!(error.contains(r#"`virtualisation.windlass.directories."/var/lib/ai-stack/redis"."#), "{error}");
}

/// A misspelt setting would do nothing.
#[test]
fn a_setting_that_no_service_has_is_refused() {
    for (change, message) in [
        (
            "postgres.settings.extension = p: [ ];",
            "services.ai-stack.postgres.settings.extension: there is no such key; there are: extensions, locales, package, uid",
        ),
        (
            "qdrant.settings.storage = { };",
            "services.ai-stack.qdrant.settings.storage: there is no such key; there are: package, uid",
        ),
    ] {
        let said = refused(STACK, &stack(change));
        assert!(said.contains(message), "{said}");
    }
}

/// The check runs before the switch: it says so where the data are of another version, and ends well in any case.
#[test]
fn data_of_another_postgres_are_told_before_anything_restarts() {
    let env = crate::env::Env::new();
    let folder = env.path("data'dir");
    let change = stack(&format!("dataDir = {:?};", folder.display().to_string()));
    let [machine] = evaluated(STACK, [&change]);
    let [home] = evaluated(STACK_HOME, [&change]);
    // In a home among the checks, which come before anything is written.
    let steps = home["activation"].as_array().unwrap();
    let step = |name: &str| steps.iter().position(|step| step["name"] == name).unwrap();
    assert!(step("ai-stack-data") < step("writeBoundary"));
    let scripts = [&machine["preSwitch"]["ai-stack-data"], &steps[step("ai-stack-data")]["text"]];
    for script in scripts.map(|script| script.as_str().unwrap()) {
        let run = || {
            let output = std::process::Command::new("bash").args(["-euc", script]).output().unwrap();
            assert!(output.status.success(), "{script}");
            String::from_utf8(output.stderr).unwrap()
        };
        drop(std::fs::remove_dir_all(&folder));
        assert_eq!(run(), "");
        env.write("data'dir/postgres/PG_VERSION", "17\n");
        assert_eq!(run(), "");
        env.write("data'dir/postgres/PG_VERSION", "16\n");
        let said = run();
        let place = folder.join("postgres").display().to_string();
        let expected = format!(
            "warning: services.ai-stack.postgres: {place} is of version 16, and 17 does not read it; before it"
        );
        assert!(said.starts_with(&expected), "{said}");
    }
}
