//! `services.ai-stack`, evaluated as NixOS and home-manager evaluate it: what the whole stack is made of, and what changes
//! with what.

use serde_json::{Value, json};

use crate::env::Env;
use crate::foreign::Foreign;
use crate::machine::{
    STACK, STACK_HOME, assert_page, containers_without_a_network, differences, evaluated, messages, page, texts,
    values, with_modules,
};
use crate::nix::{eval, requisites, root};

/// All but llama.cpp and PostgreSQL.
const TWO: &str =
    r#"services.ai-stack = lib.genAttrs [ "redis" "qdrant" "ollama" ] (_: { enable = lib.mkForce false; });"#;
const QUADLET: &str = r#"virtualisation.windlass.runner = "quadlet";"#;
const ROOTLESS: &str =
    r#"virtualisation.windlass.user = "ai"; users.users.ai = { isNormalUser = true; uid = 1234; linger = true; };"#;

/// The command line of a container under oci-containers.
fn run<'a>(machine: &'a Value, name: &str) -> &'a str {
    machine["scripts"][format!("podman-{name}")]["ExecStart"].as_str().unwrap_or_else(|| panic!("no container {name}"))
}

fn assert_good(machine: &Value) {
    assert_eq!((messages(machine, "assertions"), messages(machine, "warnings")), (vec![], vec![]));
}

#[test]
fn the_units_of_the_stack() {
    let [machine, two] = evaluated(STACK, ["{ }", &format!("{{ {TWO} {QUADLET} }}")]);
    assert_page("stack", &page(&machine));
    assert_page("stack_quadlet", &page(&two));
}

#[test]
fn the_files_of_a_home_with_the_stack() {
    let [home] = evaluated(STACK_HOME, ["{ }"]);
    assert_page("stack_home", &page(&home));
}

#[test]
fn nothing_of_the_stack_pulls_or_waits_for_the_network() {
    let machines = evaluated(
        STACK,
        [
            "{ }",
            &format!("{{ {QUADLET} }}"),
            &format!("{{ {ROOTLESS} }}"),
            &format!("{{ {ROOTLESS} {QUADLET} }}"),
            r#"{ services.ai-stack.accel = "vulkan"; virtualisation.windlass.via = "podman"; }"#,
        ],
    );
    for machine in machines.iter().chain(&evaluated(STACK_HOME, ["{ }"])) {
        assert_eq!(containers_without_a_network(machine), 6);
        assert_good(machine);
    }
}

#[test]
fn the_stack_is_loaded_once_and_before_all_of_it() {
    let names = ["llama-cpp", "llama-cpp-embed", "ollama", "postgres", "qdrant", "redis"];
    for (machine, prefix) in evaluated(STACK, ["{ }", &format!("{{ {QUADLET} }}")]).iter().zip(["podman-", ""]) {
        let loaders: Vec<_> = texts(machine, "units").into_iter().filter(|(_, unit)| unit.contains(" load ")).collect();
        let [("windlass-load.service", loader)] = loaders[..] else { panic!("{loaders:?}") };
        let [load, activate] = values(loader, "ExecStart")[..] else { panic!("{loader}") };
        let (command, paths) = load.split_once(" --via auto ").unwrap();
        assert!(command.ends_with("/bin/windlass load"), "{load}");
        assert_eq!(&paths[44..], "ai-stack-images-lean");
        assert!(activate.ends_with("/bin/windlass model use large --slot chat"), "{activate}");
        assert_eq!(values(loader, "Before"), [names.map(|name| format!("{prefix}{name}.service")).join(" ")]);
        for name in names {
            let text = match prefix {
                "" => &machine["etc"][format!("containers/systemd/{name}.container")],
                _ => &machine["units"][format!("podman-{name}.service")],
            };
            let after = values(text.as_str().unwrap(), "After").join(" ");
            assert!(after.split(' ').any(|unit| unit == "windlass-load.service"), "{text}");
        }
    }
}

#[test]
fn no_archive_is_built_for_a_machine_with_the_stack() {
    // All that a machine is made of, as one text with what has to be built for it.
    let text = |base: &str, of: &str| {
        with_modules(&format!(
            r#"derivation {{ name = "text"; system = builtins.currentSystem; builder = "/bin/sh"; text =
              let m = evaluate.{base}; values = builtins.attrValues; in {of}; }}"#
        ))
    };
    let nixos = "toString (values m.units ++ values m.etc ++ map values (values m.scripts) ++ map (step: step.text) m.activation)";
    let home = "toString (values m.files ++ map (step: step.text) m.activation)";
    for expression in [text(&format!("nixos {STACK}"), nixos), text(&format!("home {STACK_HOME}"), home)] {
        let needed = requisites(&expression);
        assert!(needed.iter().any(|name| name == "ai-stack-images-lean"), "{needed:?}");
        for name in &needed {
            assert!(name != "ai-stack-images" && !name.ends_with(".tar"), "{name}");
        }
    }
    // What the archives are called, where there are some.
    let stack =
        requisites(&text(&format!("nixos {STACK}"), r#"toString (values m.config.virtualisation.windlass.stacks)"#));
    assert!(stack.iter().any(|name| name == "ai-stack-images"), "{stack:?}");
    assert!(stack.iter().any(|name| name == "large.tar"), "{stack:?}");
}

#[test]
fn only_what_changed_is_restarted() {
    let containers = ["llama-cpp", "llama-cpp-embed", "ollama", "postgres", "qdrant", "redis"];
    let all: Vec<String> = containers.iter().map(|name| format!("podman-{name}.service")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let loader = "windlass-load.service";
    let cases = [
        ("{ }", vec![]),
        (r#"{ services.ai-stack.redis.container.environment.LEVEL = "debug"; }"#, vec!["podman-redis.service"]),
        ("{ services.ai-stack.redis.port = 6380; }", vec!["podman-redis.service"]),
        (r#"{ services.ai-stack.ollama.container.memory = "8g"; }"#, vec!["podman-ollama.service"]),
        ("{ services.ai-stack.hostMemory = 64; users.users.me.isNormalUser = true; }", vec![]),
        // Another model under the same path.
        (r#"{ services.ai-stack.activeModel.chat = lib.mkForce "larger"; }"#, vec!["podman-llama-cpp.service", loader]),
        (
            r#"{ pkgs, ... }: { services.ai-stack.models.large.src = lib.mkForce (pkgs.writeText "large.gguf" "other"); }"#,
            vec!["podman-llama-cpp.service", loader],
        ),
        // In the stack, and served by no service.
        (
            r#"{ pkgs, ... }: { services.ai-stack.models.larger.src = lib.mkForce (pkgs.writeText "larger.gguf" "other"); }"#,
            vec![loader],
        ),
        (
            r#"{ pkgs, ... }: { services.ai-stack.models.vectors.src = lib.mkForce (pkgs.writeText "vectors.gguf" "other"); }"#,
            // It lies in llama.cpp's image and in Ollama's.
            vec!["podman-llama-cpp.service", "podman-llama-cpp-embed.service", "podman-ollama.service", loader],
        ),
        // The tags of the other images stay, although all are planned together.
        ("{ pkgs, ... }: { services.ai-stack.redis.package = pkgs.python3; }", vec!["podman-redis.service", loader]),
        ("{ services.ai-stack.qdrant.enable = lib.mkForce false; }", vec!["podman-qdrant.service", loader]),
        (
            r#"{ services.ai-stack.network = "ai"; }"#,
            [&all[..], &["windlass-network-ai-stack.service", "windlass-network-ai.service"]].concat(),
        ),
        // A new windlass makes the same images.
        (
            r#"{ pkgs, ... }: { virtualisation.windlass.package = pkgs.writeShellScriptBin "windlass" "echo new"; }"#,
            vec!["windlass-gc.service", loader],
        ),
    ];
    let [machine] = evaluated(STACK, ["{ }"]);
    for ((change, units), changed) in cases.iter().zip(&evaluated(STACK, cases.each_ref().map(|(change, _)| *change))) {
        let mut expected: Vec<String> = units.iter().map(|unit| format!("units {unit}")).collect();
        if change.contains("windlass.package") {
            expected.extend(["activation windlass", "units windlass-store.service"].map(str::to_owned));
        }
        if change.contains("qdrant") {
            expected.push("tmpfiles 00-nixos.conf".to_owned());
        }
        let mut found = differences(&machine, changed);
        for list in [&mut expected, &mut found] {
            list.sort_unstable();
        }
        assert_eq!(found, expected, "{change}");
    }
}

#[test]
fn a_home_restarts_only_what_changed() {
    let [home, environment, model, windlass] = evaluated(
        STACK_HOME,
        [
            "{ }",
            r#"{ services.ai-stack.redis.container.environment.LEVEL = "debug"; }"#,
            r#"{ services.ai-stack.activeModel.chat = lib.mkForce "larger"; }"#,
            r#"{ pkgs, ... }: { virtualisation.windlass.package = pkgs.writeShellScriptBin "windlass" "echo new"; }"#,
        ],
    );
    let containers = "files .config/containers/systemd";
    let units = "files .config/systemd/user";
    let loader =
        [format!("{units}/default.target.wants/windlass-load.service"), format!("{units}/windlass-load.service")];
    assert_eq!(differences(&home, &evaluated(STACK_HOME, ["{ }"])[0]), [""; 0]);
    assert_eq!(differences(&home, &environment), [format!("{containers}/redis.container")]);
    assert_eq!(differences(&home, &model), [&[format!("{containers}/llama-cpp.container")][..], &loader].concat());
    assert_eq!(
        differences(&home, &windlass),
        [&loader[..1], &[format!("{units}/windlass-gc.service")], &loader[1..]].concat()
    );
}

#[test]
fn a_rootless_stack_has_its_own_files_and_identities() {
    let [machine, path] = evaluated(
        STACK,
        [
            &format!("{{ {ROOTLESS} }}"),
            &format!("{{ {ROOTLESS} services.ai-stack.models.large.src = lib.mkForce /etc/hosts; }}"),
        ],
    );
    let rules = machine["tmpfiles"]["00-nixos.conf"].as_str().unwrap();
    for name in ["ollama", "postgres", "qdrant", "redis"] {
        assert!(rules.contains(&format!("d /var/lib/ai-stack/{name} 0700 ai users - -\n")), "{rules}");
    }
    // Slots are in the storage of root, which this user cannot reach.
    assert!(!machine["units"]["windlass-load.service"].as_str().unwrap().contains("model use"));
    let container = |machine: &Value, name: &str| {
        machine["etc"][format!("containers/systemd/users/1234/{name}.container")].as_str().unwrap().to_owned()
    };
    assert_eq!(values(&container(&machine, "redis"), "UserNS"), ["keep-id:uid=6379,gid=6379"]);
    for (machine, name) in [(&machine, "large.gguf"), (&path, "hosts")] {
        let llama = container(machine, "llama-cpp");
        let file = values(&llama, "Volume")[0].strip_suffix(":/models/chat.gguf:ro").unwrap();
        assert!(file.starts_with("/nix/store/") && file.ends_with(&format!("-{name}")), "{llama}");
    }
}

#[test]
fn accel_brings_devices_and_packages() {
    let all = [
        ("null", vec![]),
        (r#""vulkan""#, vec!["/dev/dri"]),
        (r#""rocm""#, vec!["/dev/kfd", "/dev/dri"]),
        (r#""cuda""#, vec!["nvidia.com/gpu=all"]),
    ];
    let change = |accel: &str| {
        format!("{{ services.ai-stack.accel = {accel}; hardware.nvidia-container-toolkit.enable = true; }}")
    };
    let changes = all.each_ref().map(|(accel, _)| change(accel));
    for ((accel, devices), machine) in all.iter().zip(&evaluated(STACK, changes.each_ref().map(String::as_str))) {
        assert_good(machine);
        for (name, of_this) in [("llama-cpp", true), ("llama-cpp-embed", true), ("ollama", true), ("redis", false)] {
            let found: Vec<&str> =
                run(machine, name).lines().filter_map(|line| line.trim().strip_prefix("--device=")).collect();
            let word =
                |device: &&str| if device.starts_with('/') { (*device).to_owned() } else { format!("'{device}'") };
            let expected: Vec<String> = devices.iter().map(|device| format!("{} \\", word(device))).collect();
            assert_eq!(found, if of_this { expected } else { vec![] }, "{accel}: {name}");
        }
    }
    let programs = |accel: &str| {
        let text = with_modules(&format!(
            r#"derivation {{ name = "text"; system = builtins.currentSystem; builder = "/bin/sh";
              text = (evaluate.nixos ({STACK} ++ [ ({}) ])).units."windlass-load.service"; }}"#,
            change(accel)
        ));
        let mut found = requisites(&text);
        found.retain(|name| {
            ["llama-cpp", "ollama", "mesa"].iter().any(|package| name.starts_with(package)) && name.ends_with("-0")
        });
        found.sort_unstable();
        found.dedup();
        found
    };
    assert_eq!(programs("null"), ["ollama-0"]);
    assert_eq!(programs(r#""vulkan""#), ["llama-cpp-vulkan-0", "mesa-0", "ollama-vulkan-0"]);
    assert_eq!(programs(r#""rocm""#), ["llama-cpp-with-rocmSupport-0", "ollama-rocm-0"]);
    assert_eq!(programs(r#""cuda""#), ["llama-cpp-with-cudaSupport-0", "ollama-cuda-0"]);
}

#[test]
fn models_reach_llama_cpp_as_they_are_to_be_delivered() {
    let [layer, image, only, none] = evaluated(
        STACK,
        [
            r#"{ services.ai-stack.activeModel.chat = lib.mkForce "vectors"; services.ai-stack.models.vectors.mountPath = "/weights"; }"#,
            r#"{ virtualisation.windlass.via = "podman"; services.ai-stack.models.large.delivery = lib.mkForce "image"; }"#,
            r#"{ services.ai-stack = { activeModel = { chat = lib.mkForce null; embed = lib.mkForce null; }; models = lib.mkForce { one.src = /etc/hosts; }; }; }"#,
            r#"{ services.ai-stack = { llama-cpp.enable = lib.mkForce false; activeModel.embed = lib.mkForce null; }; }"#,
        ],
    );
    let command = run(&layer, "llama-cpp");
    assert!(command.contains("  --model \\\n  /weights/vectors.gguf \\\n") && !command.contains("  -v "), "{command}");
    assert!(!layer["units"]["windlass-load.service"].as_str().unwrap().contains("model use"));
    let command = run(&image, "llama-cpp");
    // Whichever model the slot has: the container is not made anew for another one.
    assert!(command.contains("  --model \\\n  /mnt/models/model.file \\\n"), "{command}");
    let own = r#"{ virtualisation.windlass.via = "podman"; services.ai-stack.models.large = { delivery = lib.mkForce "image"; mountPath = "/weights"; }; }"#;
    let [own] = evaluated(STACK, [own]);
    let refused = messages(&own, "assertions").join(" ");
    assert!(refused.contains(r#"large with delivery = "image" and a mountPath of its own"#), "{refused}");
    assert!(command.contains("--mount=type=image,source=localhost/windlass/chat:active,destination=/mnt"), "{command}");
    assert!(image["units"]["windlass-load.service"].as_str().unwrap().contains(" model use large --slot chat\n"));
    let command = run(&only, "llama-cpp");
    assert!(command.contains("  --model \\\n  /models/one.gguf \\\n"), "the only one: {command}");
    assert_eq!(only["scripts"]["podman-llama-cpp-embed"], Value::Null);
    assert_eq!(none["scripts"]["podman-llama-cpp"], Value::Null);
    for machine in [layer, image, only, none] {
        assert_good(&machine);
    }
}

#[test]
fn options_of_a_service_arrive_in_its_container() {
    let [machine, six] = evaluated(
        STACK,
        [
            r#"{ services.ai-stack = {
              dataDir = "/data"; address = "0.0.0.0"; network = "ai";
              redis = { port = 6380; uid = 777; container = { command = [ "redis-server" "--appendonly" "yes" ]; memory = "1g"; }; };
              qdrant.port = 7333;
              llama-cpp.port = 9000;
              postgres.settings.extensions = _: [ ];
              ollama.container = lib.mkMerge [ { user = "5:6"; } (lib.mkIf true { readOnly = lib.mkForce false; }) ];
            }; }"#,
            r#"{ services.ai-stack.address = "::1"; }"#,
        ],
    );
    assert_good(&machine);
    let has = |name: &str, lines: &[&str]| {
        let command = run(&machine, name);
        for line in lines {
            assert!(command.contains(&format!("  {line} \\\n")), "{name} without {line}: {command}");
        }
    };
    has("redis", &["-p 0.0.0.0:6380:6379", "-v /data/redis:/data", "--network=ai", "'--memory=1g'", "redis-server"]);
    has("qdrant", &["-p 0.0.0.0:7333:6333", "-p 0.0.0.0:6334:6334"]);
    has("llama-cpp", &["-p 0.0.0.0:9000:8080"]);
    has("llama-cpp-embed", &["-p 0.0.0.0:9001:8080"]);
    assert!(!run(&machine, "ollama").contains("--read-only"));
    let rules = machine["tmpfiles"]["00-nixos.conf"].as_str().unwrap();
    // Whom they belong to, wherever it is said.
    for rule in ["redis 0700 777 777", "ollama 0700 5 6", "qdrant 0700 6333 6333"] {
        assert!(rules.contains(&format!("d /data/{rule} - -\n")), "{rules}");
    }
    assert!(run(&six, "redis").contains("-p '[::1]:6379:6379' \\\n"), "{}", run(&six, "redis"));
}

#[test]
fn an_image_of_ones_own_runs_in_the_place_of_ours() {
    let own = |service: &str, image: &str, more: &str| {
        format!(
            r#"({{ config, pkgs, ... }}: let w = config.virtualisation.windlass.lib; in lib.mkMerge [
              {{ services.ai-stack.{service} = {{ enable = true; image = {image}; }}; }}
              {{ {more} }}
            ])"#
        )
    };
    let changes = [
        own("redis", r#"w.buildImage { name = "my/redis"; tag = "1"; config.User = "7:8"; }"#, ""),
        own(
            "redis",
            r#"w.buildImage { name = "my/redis"; tag = "1"; symlinks."/bin/windlass-probe" = "${w.probe}/bin/windlass-probe"; }"#,
            "",
        ),
        own(
            "redis",
            r#"w.buildIndex { name = "my/redis"; tag = "1"; images = [ (w.buildImage { name = "my/redis"; config.User = "7:8"; }) ]; }"#,
            r#"services.ai-stack.redis.container.secrets.a = "/run/keys/a";"#,
        ),
        // As it comes from elsewhere: a reference, and nothing else that is known of it.
        own(
            "open-webui",
            r#"pkgs.writeText "open-webui" "" // { imageRef = "ghcr.io/open-webui/open-webui:0.6"; }"#,
            "",
        ),
        own(
            "open-webui",
            r#"pkgs.writeText "open-webui" "" // { imageRef = "ghcr.io/open-webui/open-webui:0.6"; }"#,
            "services.ai-stack.open-webui.uid = 3000;",
        ),
        own("mindsdb", r#"w.buildImage { name = "mindsdb"; tag = "25.1"; }"#, ""),
        // Nothing is built here, and there still are models.
        own(
            "llama-cpp",
            r#"w.buildImage { name = "my/llama-cpp"; tag = "1"; }"#,
            r#"services.ai-stack = { activeModel.embed = lib.mkForce null; }
              // lib.genAttrs [ "redis" "postgres" "qdrant" "ollama" ] (_: { enable = lib.mkForce false; });"#,
        ),
    ];
    let machines = evaluated(STACK, changes.each_ref().map(String::as_str));
    let cases = [
        ("redis", "localhost/my/redis:1", true, "redis 0700 7 8"),
        ("redis", "localhost/my/redis:1", false, "redis 0700 0 0"),
        ("redis", "localhost/my/redis:1", true, "redis 0700 7 8"),
        ("open-webui", "ghcr.io/open-webui/open-webui:0.6", true, "open-webui 0700 0 0"),
        ("open-webui", "ghcr.io/open-webui/open-webui:0.6", true, "open-webui 0700 3000 3000"),
        ("mindsdb", "localhost/mindsdb:25.1", true, "mindsdb 0700 0 0"),
        ("llama-cpp", "localhost/my/llama-cpp:1", true, ""),
    ];
    for (machine, (name, reference, mounted, rule)) in machines.iter().zip(cases) {
        assert_good(machine);
        let command = run(machine, name);
        assert!(command.contains(&format!("\n  {reference}")), "{command}");
        assert_eq!(command.contains("/bin/windlass-probe:/windlass-probe:ro"), mounted, "{command}");
        assert_eq!(command.contains(r#"--health-cmd=["/windlass-probe""#), mounted, "{command}");
        let rules = machine["tmpfiles"]["00-nixos.conf"].as_str().unwrap_or_default();
        assert!(rules.contains(rule), "{rules}");
    }
    let unit = machines[2]["units"]["podman-redis.service"].as_str().unwrap();
    assert!(unit.contains(" --mode=0400 --owner=7 --group=8 /run/keys/a "), "{unit}");
    let loader = machines[6]["units"]["windlass-load.service"].as_str().unwrap();
    assert!(loader.contains("-ai-stack-images-lean") && loader.contains("-image-my-llama-cpp"), "{loader}");
}

#[test]
fn services_that_nixpkgs_has_not_come_from_the_lock() {
    let env = Env::new();
    let lock = env.write("images.lock.json", Foreign::new(&env).lock("open-webui").to_string());
    let change = |more: &str| {
        format!("{{ services.ai-stack = {{ lock = {}; open-webui.enable = true; }}; {more} }}", lock.display())
    };
    let [machine] = evaluated(STACK, [change("").as_str()]);
    assert_good(&machine);
    let command = run(&machine, "open-webui");
    assert!(command.contains(r#"--health-cmd=["/windlass-probe","http""#), "{command}");
    assert!(!command.contains(":/windlass-probe:ro") && command.contains("--pull never"), "{command}");
    assert!(command.contains("\n  localhost/open-webui:"), "{command}");
    let loader = machine["units"]["windlass-load.service"].as_str().unwrap();
    assert!(loader.contains("podman-open-webui.service") && loader.contains("-ai-stack-images-lean"), "{loader}");
    let [machine] = evaluated(STACK, [change("services.ai-stack.mindsdb.enable = true;").as_str()]);
    let assertions = machine["assertions"].to_string();
    assert!(assertions.contains("services.ai-stack.lock has no image of that name"), "{assertions}");
}

#[test]
fn the_template_is_a_good_machine() {
    let env = Env::new();
    let template = std::fs::read(root().join("nix/templates/ai-stack/ai-stack.nix")).unwrap();
    let module = env.write("ai-stack.nix", template);
    let [machine] = evaluated(&format!("[ windlass stack {} ]", module.display()), ["{ }"]);
    assert_good(&machine);
    let names: Vec<&str> = texts(&machine, "units")
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("podman-") && !name.contains("prune"))
        .collect();
    assert_eq!(
        names,
        ["llama-cpp", "ollama", "postgres", "qdrant", "redis"].map(|name| format!("podman-{name}.service"))
    );
    assert!(
        run(&machine, "postgres")
            .contains("/run/windlass/postgres/postgres-password:/run/secrets/postgres-password:ro")
    );
}

#[test]
fn a_stack_that_is_not_enabled_is_nothing() {
    let [machine] = evaluated(
        "[ windlass stack ]",
        ["{ services.ai-stack.redis.enable = true; virtualisation.containers.enable = true; }"],
    );
    assert!(texts(&machine, "units").iter().all(|(name, _)| !name.contains("redis") && !name.contains("windlass")));
    let described =
        eval(&with_modules(r#"builtins.attrNames (evaluate.nixos [ windlass stack ]).config.services.ai-stack"#));
    assert!(described.as_array().unwrap().contains(&json!("activeModel")));
}
