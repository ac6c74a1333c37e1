//! Compose files as people have them: what is translated is translated whole, or not at all and said.

use std::fs;

use serde_json::{Value, json};

use crate::compose::{configuration, eval, import};
use crate::env::Env;
use crate::foreign::Foreign;
use crate::machine::evaluated;
use crate::nix::try_eval;
use crate::registry_server::RealRegistry;

/// The row of a key, as the account has it.
fn row(imported: &Value, path: &str) -> Value {
    let rows = imported["account"].as_array().unwrap();
    rows.iter().find(|row| row["path"] == path).cloned().unwrap_or_else(|| panic!("no row for {path}: {rows:#?}"))
}

fn containers(services: &str) -> Value {
    configuration(&format!("name: p\nservices:\n{services}"))["virtualisation"]["windlass"]["containers"].clone()
}

#[test]
fn networks_are_made_as_the_file_has_them_or_not_at_all() {
    let env = Env::new();
    env.write(
        "docker-compose.yml",
        r#"
name: d
services:
  sandbox: { image: "example/sandbox:1", networks: [ssrf] }
  dns: { image: "example/dns:1", networks: { mail: { ipv4_address: 172.22.1.254, aliases: [resolver] }, plain: { ipv4_address: 10.0.0.9 } } }
  apart: { image: "example/a:1", networks: [alone] }
  swarm: { image: "example/s:1", networks: [overlay] }
  bound: { image: "example/b:1", networks: [local], ports: ["80", "8080:80", "0.0.0.0:81:81", "53:53/udp"] }
  free: { image: "example/f:1", networks: [none-at-all, there] }
networks:
  ssrf: { driver: bridge, internal: true }
  mail:
    driver: bridge
    enable_ipv6: true
    labels: { of: mail }
    driver_opts: { com.docker.network.driver.mtu: "1400" }
    ipam: { driver: default, config: [{ subnet: 172.22.1.0/24, gateway: 172.22.1.1, ip_range: 172.22.1.128/25 }] }
  plain: {}
  alone: { driver_opts: { com.docker.network.bridge.enable_icc: "false" } }
  overlay: { driver: overlay }
  local: { driver_opts: { com.docker.network.bridge.host_binding_ipv4: 127.0.0.1 } }
  none-at-all: { driver: none }
  there: { external: true, name: there }
"#,
    );
    let imported = import(&env, &[]);
    let windlass = eval(imported["nix"].as_str().unwrap())["virtualisation"]["windlass"].clone();
    assert_eq!(
        windlass["networks"],
        json!({
            "d_ssrf": { "internal": true },
            "d_mail": { "ipv6": true, "subnets": ["172.22.1.0/24"], "options": { "mtu": "1400" },
                "extraOptions": ["--label=of=mail", "--gateway=172.22.1.1", "--ip-range=172.22.1.128/25"] },
            "d_plain": {}, "d_local": {},
        })
    );
    let of = |name: &str| windlass["containers"][name].clone();
    assert_eq!(of("dns")["networks"], json!(["d_mail:ip=172.22.1.254,alias=resolver", "d_plain"]));
    assert!(
        row(&imported, "services.dns.networks.plain.ipv4_address")["why"].as_str().unwrap().contains("has no subnet")
    );
    // Less isolation than the file asks for is not a choice: nothing makes the network, and so nothing starts in it.
    for (name, why) in [("alone", "enable_icc is off"), ("overlay", "its driver, overlay, is not one of Podman's")] {
        let row = row(&imported, &format!("networks.{name}"));
        assert!(row["fate"] == "left" && row["why"].as_str().unwrap().contains(why), "{row}");
        let notes = imported["notes"].to_string();
        assert!(notes.contains(&format!("the network d_{name} has to be made before the containers start")), "{notes}");
        let below = format!("networks.{name}.");
        let rows = imported["account"].as_array().unwrap();
        assert!(!rows.iter().any(|row| row["path"].as_str().unwrap().starts_with(&below)), "{rows:?}");
    }
    assert_eq!(of("apart")["networks"], json!(["d_alone"]));
    assert_eq!(of("free")["networks"], json!(["none", "there"]));
    assert_eq!(
        of("bound")["ports"],
        json!(["127.0.0.1::80", "127.0.0.1:8080:80", "0.0.0.0:81:81", "127.0.0.1:53:53/udp"])
    );
    // The modules make them so, and a container waits for its network, whatever its options there.
    let image =
        "virtualisation.windlass.images.mine = config.virtualisation.windlass.lib.buildImage { name = \"mine\"; };";
    let mine: String = ["sandbox", "dns", "apart", "swarm", "bound", "free"]
        .map(|name| format!("virtualisation.windlass.containers.{name}.image = lib.mkForce config.virtualisation.windlass.images.mine.ref;"))
        .concat();
    let module =
        format!("{{ config, lib, ... }}: {{ imports = [ ({}) ]; {image} {mine} }}", imported["nix"].as_str().unwrap());
    let [machine] = evaluated("[ windlass ]", [module.as_str()]);
    let unit = |name: &str| machine["units"][name].as_str().unwrap_or_default().to_owned();
    assert!(
        unit("windlass-network-d_ssrf.service").contains(" --internal "),
        "{}",
        unit("windlass-network-d_ssrf.service")
    );
    let mail = unit("windlass-network-d_mail.service");
    assert!(mail.contains("--subnet=172.22.1.0/24") && mail.contains("--gateway=172.22.1.1"), "{mail}");
    assert!(unit("podman-dns.service").contains("windlass-network-d_mail.service"), "{}", unit("podman-dns.service"));
    assert_eq!(unit("windlass-network-d_alone.service"), "");
}

#[test]
fn what_was_a_secret_once_is_one_everywhere() {
    let env = Env::new();
    env.write(
        ".env",
        "REDIS_AUTH=canary-redis\nSALT=canary-salt\nLLM=canary-llm\nPORT=8080\nDATA=/srv/data\nDEBUG=true\nDB_HOST=db\n\
         API=http://db:9000/v1\nVIA=http://me:canary-url@db\nTAG=1.2.3\nUSER_NAME=canary-user\n",
    );
    env.write(
        "docker-compose.yml",
        r#"
name: s
services:
  cache: { image: "redis:7", command: "--requirepass ${REDIS_AUTH:-canary-default} --maxmemory 1g" }
  again: { image: "redis:7", command: "--requirepass ${REDIS_AUTH} --save '60 1'" }
  db: { image: "example/db:1", environment: { DB_PASSWORD: canary-literal, OTHER: "x-canary-literal-y" } }
  web:
    image: "example/web:${TAG}"
    environment:
      REDIS: ${REDIS_AUTH:-canary-default}
      DEFAULTED: ${NEVER_GIVEN:-canary-only-default}
      SALTED: ${SALT}
      LLM_KEY: ${LLM}
      PORT: ${PORT}
      DATA: ${DATA}
      DEBUG: ${DEBUG}
      HOST: ${DB_HOST}
      API: ${API}
      VIA: ${VIA}
      NAME: ${USER_NAME}
      COPY: canary-literal
    labels: { copied: "${LLM}", plain: "${PORT}" }
    volumes: ["${DATA}:/data"]
  keeps: { image: "example/keeps:1", environment: { SECRET_KEY: "${NEVER_GIVEN:-canary-only-default}" } }
"#,
    );
    let imported = import(&env, &[]);
    let text = imported.to_string();
    assert!(!text.contains("canary"), "{text}");
    let windlass = eval(imported["nix"].as_str().unwrap().trim_start_matches("x"));
    let web = &windlass["virtualisation"]["windlass"]["containers"]["web"];
    let expected =
        json!({ "PORT": "8080", "DATA": "/srv/data", "DEBUG": "true", "HOST": "db", "API": "http://db:9000/v1" });
    assert_eq!(web["environment"], expected);
    assert_eq!((&web["image"], &web["labels"]), (&json!("example/web:1.2.3"), &json!({ "plain": "8080" })));
    assert_eq!(web["volumes"], json!(["/srv/data:/data"]));
    for name in ["SALTED", "NAME"] {
        let why = row(&imported, &format!("services.web.environment.{name}"))["why"].as_str().unwrap().to_owned();
        assert!(why.contains("is from a file of variables and may be a secret"), "{why}");
    }
    // The rest of a command is kept: of the AI stack without the option that a file gives it, elsewhere with a variable.
    assert_eq!(windlass["services"]["ai-stack"]["redis"]["container"]["command"], json!(["--maxmemory", "1g"]));
    let again = &windlass["virtualisation"]["windlass"]["containers"]["again"];
    let script = "exec redis-server --requirepass \"${REDIS_AUTH:?}\" --save '60 1'";
    assert_eq!(again["command"], json!(["/bin/sh", "-c", script]));
    let why = row(&imported, "services.again.command")["why"].as_str().unwrap().to_owned();
    assert!(why.contains("write REDIS_AUTH=… to a file of the host and name it in environmentFiles"), "{why}");
}

#[test]
fn a_command_keeps_all_its_words_but_the_secret() {
    let env = Env::new();
    env.write(".env", "PW=canary-1\n");
    env.write(
        "docker-compose.yml",
        r#"
name: c
services:
  script: { image: "example/a:1", command: ["sh", "-c", "serve --token canary-2 --url http://:${PW}@x && echo '${PW}'"] }
  options: { image: "example/b:1", command: "--listen 80 --password ${PW} --verbose" }
  entry: { image: "example/c:1", entrypoint: ["serve", "--key=${PW}"], command: ["--listen", "80"] }
  shell: { image: "example/d:1", entrypoint: ["/bin/sh", "-c"], command: ["run -p ${PW}"] }
  own: { image: "alpine:3", command: ["run", "--token", "${PW}", "it's"] }
  checked:
    image: "example/e:1"
    healthcheck: { test: ["CMD", "redis-cli", "-a", "${PW}", "ping"] }
  asked:
    image: "example/f:1"
    healthcheck: { test: "redis-cli -a '${PW}' ping | grep PONG" }
"#,
    );
    let imported = import(&env, &[]);
    assert!(!imported.to_string().contains("canary"), "{imported}");
    let of = eval(imported["nix"].as_str().unwrap())["virtualisation"]["windlass"]["containers"].clone();
    let script = of["script"]["command"][2].as_str().unwrap();
    assert!(
        script.contains("serve --token \"${TOKEN:?}\"") && script.contains("${PW:?}") && script.contains("&& echo"),
        "{script}"
    );
    assert_eq!(of["options"]["command"], json!(["--listen", "80", "--verbose"]));
    assert!(
        row(&imported, "services.options.command")["why"]
            .as_str()
            .unwrap()
            .starts_with("without --password, whose value may be a secret")
    );
    assert_eq!(of["entry"]["entrypoint"], json!(["/bin/sh", "-c", "exec serve '--key='\"${PW:?}\" \"$@\"", "sh"]));
    assert_eq!(of["entry"]["command"], json!(["--listen", "80"]));
    assert_eq!(of["shell"]["command"], json!(["run -p \"${PW:?}\""]));
    let own = of["own"]["command"][2].as_str().unwrap();
    assert!(own.starts_with("exec run --token \"${PW:?}\" "), "{own}");
    assert_eq!(of["checked"]["health"]["command"], json!(["/bin/sh", "-c", "exec redis-cli -a \"${PW:?}\" ping"]));
    assert_eq!(of["asked"]["health"]["command"][2], "redis-cli -a ''\"${PW:?}\"'' ping | grep PONG");
    // What a shell makes of it: the variable of the container, and no container without it.
    let run = |variable: &str| {
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", "run() { printf '%s|' \"$@\"; }; eval \"$1\"", "sh", &own.replacen("exec ", "", 1)]);
        if !variable.is_empty() {
            sh.env("PW", variable);
        }
        sh.output().unwrap()
    };
    assert_eq!(String::from_utf8(run("a b$c").stdout).unwrap(), "--token|a b$c|it's|");
    assert!(!run("").status.success());
}

#[test]
fn a_script_is_no_list_of_options() {
    let services = "
  ollama: { image: \"ollama/ollama:1\", entrypoint: [\"/bin/sh\", \"-c\"], command: \"ollama serve & sleep 5; ollama pull m\" }
  llama: { image: \"ghcr.io/ggml-org/llama.cpp:server\", command: \"/scripts/start.sh --fast\" }
  qdrant: { image: \"qdrant/qdrant:1\", entrypoint: qdrant, command: [\"--config-path\", \"/c.yaml\"] }
";
    let env = Env::new();
    env.write("docker-compose.yml", format!("name: p\nservices:{services}"));
    let imported = import(&env, &[]);
    let stack = eval(imported["nix"].as_str().unwrap())["services"]["ai-stack"].clone();
    assert!(stack["ollama"].get("container").is_none_or(|of| of.get("command").is_none()), "{stack}");
    assert!(stack["llama-cpp"].get("container").is_none_or(|of| of.get("command").is_none()), "{stack}");
    assert_eq!(stack["qdrant"]["container"]["command"], json!(["--config-path", "/c.yaml"]));
    for (service, why) in
        [("ollama", "is for sh, the entrypoint of the file"), ("llama", "runs /scripts/start.sh, which")]
    {
        let row = row(&imported, &format!("services.{service}.command"));
        assert!(row["fate"] == "left" && row["why"].as_str().unwrap().contains(why), "{row}");
    }
}

#[test]
fn included_files_are_read() {
    let env = Env::new();
    env.write(
        "docker-compose.yml",
        "name: p\ninclude:\n  - parts/db.yml\n  - path: [parts/web.yml, parts/over.yml]\n  - oci://registry.example/x:1\nservices:\n  app: { image: \"example/app:1\", depends_on: [db] }\n",
    );
    env.write("parts/.env", "DB_TAG=17\nPORT=9000\n");
    env.write("parts/db.yml", "services:\n  db: { image: \"example/db:${DB_TAG}\", volumes: [\"./data:/data\"], networks: [inner] }\nnetworks: { inner: { internal: true } }\n");
    env.write(
        "parts/web.yml",
        "include: [db.yml]\nservices:\n  web: { image: \"example/web:1\", ports: [\"${PORT}:80\"] }\n",
    );
    env.write("parts/over.yml", "services:\n  web: { hostname: over }\n");
    let imported = import(&env, &[]);
    let windlass = eval(imported["nix"].as_str().unwrap())["virtualisation"]["windlass"].clone();
    let of = &windlass["containers"];
    assert_eq!(
        (&of["db"]["image"], &of["db"]["volumes"]),
        (&json!("example/db:17"), &json!(["/srv/parts/data:/data"]))
    );
    assert_eq!((&of["web"]["ports"], &of["web"]["hostname"]), (&json!(["9000:80"]), &json!("over")));
    assert_eq!(of["app"]["dependsOn"], json!(["db"]));
    assert_eq!(windlass["networks"]["p_inner"], json!({ "internal": true }));
    assert!(row(&imported, "include[2]")["why"].as_str().unwrap().contains("is on a server"), "{imported}");
    // Two things of one name, a file that includes itself, and one outside of the folder.
    for (file, text, message) in [
        (
            "parts/over.yml",
            "services:\n  app: { image: \"example/other:1\" }\n",
            "has services.app too, and something else under it",
        ),
        (
            "parts/over.yml",
            "include: [../docker-compose.yml]\nservices: {}\n",
            "includes the file that it is included by",
        ),
    ] {
        env.write(file, text);
        let (code, error) = env.fails(["compose", "import", "docker-compose.yml"]);
        assert!(code == 2 && error.contains(message), "{error}");
    }
    env.write("out/docker-compose.yml", "include: [../docker-compose.yml]\n");
    let (code, error) = env.fails(["compose", "import", "out/docker-compose.yml"]);
    assert!(code == 2 && error.contains("is outside of the folder of the compose file"), "{error}");
}

#[test]
fn the_project_has_its_name_in_every_variable() {
    let env = Env::new();
    env.write(".env", "NET=${COMPOSE_PROJECT_NAME}-net\n");
    env.write(
        "docker-compose.yml",
        "name: Shop\nservices:\n  v:\n    image: busybox:1\n    container_name: ${COMPOSE_PROJECT_NAME}-v\n    labels: { of: \"${COMPOSE_PROJECT_NAME}\", net: \"${NET}\" }\n    environment: [COMPOSE_PROJECT_NAME]\n  w: { image: busybox:1 }\n",
    );
    let imported = import(&env, &[]);
    let of = eval(imported["nix"].as_str().unwrap())["virtualisation"]["windlass"]["containers"]["v"].clone();
    assert_eq!(of["extraOptions"], json!(["--network-alias=shop-v"]));
    assert_eq!((&of["labels"]["of"], &of["environment"]), (&json!("shop"), &json!({ "COMPOSE_PROJECT_NAME": "shop" })));
    // `.env` goes before the file, as it does for compose.
    env.write(".env", "COMPOSE_PROJECT_NAME=other\n");
    let imported = import(&env, &[]);
    assert!(imported["nix"].as_str().unwrap().contains("--network-alias=other-v"), "{imported}");
}

#[test]
fn what_is_no_container_is_none_and_valkey_stays_valkey() {
    let env = Env::new();
    env.write(
        "docker-compose.yml",
        r#"
name: c
services:
  chat: { image: "example/chat:1", depends_on: [llm] }
  llm: { provider: { type: model, options: { model: ai/smollm2 } } }
  cache: { image: "valkey/valkey:8", command: "valkey-server --save ''" }
  llama:
    image: "ghcr.io/ggml-org/llama.cpp:server-vulkan"
    volumes: ["./models:/models", "/usr/share/vulkan/icd.d:/usr/share/vulkan/icd.d:ro", "./cache:/cache"]
    environment: { VK_ICD_FILENAMES: /usr/share/vulkan/icd.d/radeon_icd.json, LLAMA_ARG_CTX_SIZE: "4096" }
    mem_limit: 3g
  small: { image: "example/small:1", mem_limit: 512m }
"#,
    );
    let imported = import(&env, &[]);
    let nix = imported["nix"].as_str().unwrap();
    assert!(!nix.contains("c-llm"), "{nix}");
    assert_eq!((&imported["counts"]["provided"], &imported["counts"]["leftOut"]), (&json!(1), &json!(0)));
    assert!(row(&imported, "services.llm")["why"].as_str().unwrap().contains("(model), and not as a container"));
    assert!(row(&imported, "services.chat.depends_on[0]")["why"].as_str().unwrap().contains("is run by a provider"));
    assert!(
        nix.starts_with("# docker-compose.yml, imported by windlass.\n{ lib, pkgs, ... }:\n")
            || nix.contains("{ pkgs, ... }:\n"),
        "{nix}"
    );
    assert!(nix.contains("package = pkgs.valkey;"), "{nix}");
    // A mount over the models, and places that only distributions have, are left out; what is beside them stays.
    for (path, why) in [
        ("services.llama.volumes[0]", "would hide the models that are in the image at /models"),
        ("services.llama.volumes[1]", "is a place of distributions, which neither NixOS"),
        ("services.llama.environment.VK_ICD_FILENAMES", "is a place of the upstream image"),
    ] {
        let row = row(&imported, path);
        assert!(row["fate"] == "left" && row["why"].as_str().unwrap().contains(why), "{row}");
    }
    assert!(nix.contains("/srv/cache:/cache") && nix.contains("LLAMA_ARG_CTX_SIZE"), "{nix}");
    assert_eq!(imported["memory"], json!((3_u64 << 30) + (512 << 20)));
    // More than any host has.
    env.write(
        "docker-compose.yml",
        "services:\n  a: { image: \"x:1\", mem_limit: 900000g }\n  b: { image: \"x:1\", mem_limit: 900000g }\n",
    );
    let notes = import(&env, &[])["notes"].to_string();
    assert!(
        notes.contains("the memory limits of all containers together are 1932735.3 TB")
            || notes.contains("the memory limits of all containers together are"),
        "{notes}"
    );
}

/// What a check asks has to be there once the command is translated.
#[test]
fn a_check_that_does_not_fit_the_command_is_told() {
    let env = Env::new();
    env.write(
        "docker-compose.yml",
        r#"
services:
  cache: { image: "redis:8", command: "redis-server --port 7000", healthcheck: { test: [CMD, redis-cli, -p, "7000", ping] } }
  same: { image: "postgres:17", command: [postgres, -p, "5432"] }
  o: { image: "ollama/ollama", environment: { OLLAMA_HOST: "0.0.0.0:9999" } }
  other: { image: "bitnami/redis:8", command: "redis-server --requirepass hunter2secret", healthcheck: { test: "redis-cli -a hunter2secret ping" } }
"#,
    );
    let imported = import(&env, &[]);
    for (path, why) in [
        (
            "services.cache.command",
            "its check asks port 6379, and this says 7000: leave the port out and publish it as 7000:6379",
        ),
        ("services.o.environment.OLLAMA_HOST", "its check asks port 11434, and this says 9999"),
        (
            "services.other.healthcheck.test",
            "it fails until the program has that password again, which its command has no more",
        ),
    ] {
        let row = row(&imported, path);
        assert!(row["why"].as_str().unwrap().contains(why), "{row}");
    }
    assert!(row(&imported, "services.same.command").get("why").is_none(), "{imported}");
}

const CANNOT_FAIL: [&str; 6] = [
    r#"["true"]"#,
    r#"["/bin/true"]"#,
    r#"["busybox", "true"]"#,
    r#"["sh", "-c", "exit 0"]"#,
    r#"["/bin/sh", "-c", "curl -f http://x || true"]"#,
    r#"["sh", "-c", "echo ok"]"#,
];

const CAN_FAIL: [&str; 4] = [
    r#"["pg_isready"]"#,
    r#"["sh", "-c", "curl -f http://x || exit 1"]"#,
    r#"["sh", "-c", "if a; then exit 1; fi; exit 0"]"#,
    r#"["sh", "-c", "echo PING | nc x 1 | grep P"]"#,
];

/// The import, stacks and the modules say the same.
#[test]
fn a_check_that_cannot_fail_is_refused_everywhere() {
    let check = crate::nix::root().join("nix/modules/health-check.nix");
    let nix = |commands: &[&str]| {
        let lists: String = commands.iter().map(|list| format!("({} ) ", list.replace(", ", " "))).collect();
        let lists = lists.replace("([", "[").replace("] )", "]");
        try_eval(&format!("map (import {}) [ {lists} ]", check.display())).unwrap()
    };
    assert_eq!(nix(&CANNOT_FAIL), json!([true, true, true, true, true, true]));
    assert_eq!(nix(&CAN_FAIL), json!([false, false, false, false]));
    let env = Env::new();
    for (commands, fails) in [(&CANNOT_FAIL[..], true), (&CAN_FAIL[..], false)] {
        for command in commands {
            let words: Vec<String> = serde_json::from_str(command).unwrap();
            // A stack.
            let image = json!({ "name": "i", "tag": "1", "content": { "texts": { "/x": "" } } });
            let services = json!({ "s": { "image": "i", "health": { "command": words } } });
            let spec = json!({ "kind": "stack", "name": "s", "images": [image], "services": services });
            env.write("stack.json", spec.to_string());
            drop(fs::remove_dir_all(env.path("stack")));
            let built = env.windlass(["build", "stack.json", "--output", "stack"]).output().unwrap();
            let said = String::from_utf8_lossy(&built.stderr).into_owned();
            assert_eq!(!built.status.success(), fails, "{command}: {said}");
            assert!(!fails || said.contains("is a check that cannot fail"), "{command}: {said}");
            // A compose file.
            let test = serde_json::to_string(&[&["CMD".to_owned()], &words[..]].concat()).unwrap();
            let health =
                containers(&format!("  s: {{ image: \"x:1\", healthcheck: {{ test: {test} }} }}\n"))["s"]["health"]
                    .clone();
            assert_eq!(health.is_null(), fails, "{command}");
        }
    }
    let shell = containers("  s: { image: \"x:1\", healthcheck: { test: \"exit 0\" } }\n");
    assert!(shell["s"].get("health").is_none(), "{shell}");
}

/// `upstream import`, then `compose import`: what comes out evaluates as it is.
#[test]
fn images_of_the_lock_are_found_without_an_edit() {
    let env = Env::new();
    let registry = RealRegistry::start(&env);
    Foreign::new(&env).push(&env, &registry.host, "a/web");
    let reference = format!("{}/a/web:1.0", registry.host);
    let web = format!("name: p\nservices:\n  web: {{ image: \"{reference}\" }}\n");
    let both = format!("{web}  other: {{ image: \"example/other:2\" }}\n");
    env.write("docker-compose.yml", &both);
    let imported = |env: &Env| {
        env.ok(["compose", "import", "docker-compose.yml", "--output", "p.nix"]);
        fs::read_to_string(env.path("p.nix")).unwrap()
    };
    // Without a lock the configuration has the file's own name.
    assert!(imported(&env).contains(&format!("image = \"{reference}\";")));
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    env.ok(["upstream", "add", "web", &reference, "--insecure", "--platform", &platform]);
    let nix = imported(&env);
    assert!(nix.contains("image = config.virtualisation.windlass.images.web.ref;"), "{nix}");
    assert!(nix.contains("lib.fetchImage { lock = ./images.lock.json; name = \"web\"; };"), "{nix}");
    assert!(nix.contains("image = \"example/other:2\";"), "{nix}");
    // `upstream import` of the same file calls each image by its service, and all are found.
    let fresh = Env::new();
    fresh.write("docker-compose.yml", &both);
    fresh.ok(["upstream", "import", "docker-compose.yml"]);
    let nix = imported(&fresh);
    assert!(nix.contains("images.web.ref;") && nix.contains("images.other.ref;"), "{nix}");
    // Real modules take it as it is.
    env.write("docker-compose.yml", web);
    imported(&env);
    let module = format!("import {}", env.path("p.nix").display());
    let [machine] = evaluated("[ windlass ]", [module.as_str()]);
    let unit = machine["units"]["podman-web.service"].to_string();
    assert!(unit.contains("localhost/web:") || machine.to_string().contains("localhost/web:"), "{machine}");
}
