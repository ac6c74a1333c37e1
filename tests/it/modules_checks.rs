//! What the modules refuse, and what they warn of: each with the configuration that has it, and silence in the one that is good.

use serde_json::json;

use crate::machine::{SHOP, SHOP_HOME, evaluated, expect, refused};

#[test]
fn a_good_machine_is_told_nothing() {
    let rootless =
        r#"virtualisation.windlass.user = "ai"; users.users.ai = { isNormalUser = true; uid = 1234; linger = true; };"#;
    let machines = evaluated(
        SHOP,
        [
            "{ }",
            r#"{ virtualisation.windlass.runner = "quadlet"; systemd.services.other.serviceConfig.RuntimeDirectory = "redis"; }"#,
            r#"{ virtualisation.windlass.via = "podman"; virtualisation.podman.autoPrune.enable = true; }"#,
            &format!(r#"{{ {rootless} virtualisation.windlass.runner = "quadlet"; }}"#),
            &format!(
                r#"{{ {rootless} virtualisation.windlass.containers.app.health.command = [ "/bin/app" "check" ]; }}"#
            ),
            r#"{ virtualisation.windlass = {
          models.chat = "words";
          gc = { above = 80; downTo = 60; };
          containers.app.environment = { POSTGRES_PASSWORD_FILE = "/run/secrets/pg"; TOKEN_USER = "me"; SECRET = ""; PASS = "true"; BYPASS = "all";
            DATABASE_URL = "postgres://me@db:5432/shop"; REDIS_URL = "redis://:$PASSWORD@redis:6379"; PWD = "/srv"; };
          containers.redis = { health.onFailure = lib.mkForce "restart"; restart = lib.mkForce "no"; };
        }; }"#,
        ],
    );
    for machine in machines.iter().chain(&evaluated(SHOP_HOME, ["{ }"])) {
        assert_eq!((&machine["assertions"], &machine["warnings"]), (&json!([]), &json!([])));
    }
}

#[test]
fn what_cannot_work_is_an_assertion() {
    expect(
        SHOP,
        "assertions",
        [
            (
                r#"{ virtualisation.windlass.containers.app.image = lib.mkForce "docker.io/app:1"; }"#,
                "virtualisation.windlass.containers.app.image: 'docker.io/app:1' is not one of the images that are loaded; take the `ref` of one of virtualisation.windlass.images: app redis words",
            ),
            (
                r#"{ virtualisation.windlass.containers.app.dependsOn = [ "postgres" ]; }"#,
                "virtualisation.windlass.containers.app.dependsOn: there is no container postgres",
            ),
            (
                r#"{ virtualisation.windlass.containers.redis.health.onFailure = lib.mkForce "restart"; }"#,
                r#"virtualisation.windlass.containers.redis: with health.onFailure = "restart" both Podman and systemd restart it"#,
            ),
            (
                r#"{ virtualisation.windlass.models.chat = "qwen3"; }"#,
                "virtualisation.windlass.models.chat: there is no model 'qwen3' in any stack; there are: words",
            ),
            (
                r#"{ systemd.services.other.serviceConfig.RuntimeDirectory = "other redis"; }"#,
                "virtualisation.windlass.containers.redis: its unit keeps its files in /run/redis, which belongs to other too",
            ),
            (
                r#"{ systemd.services.podman-redis.serviceConfig.Restart = "always"; }"#,
                "systemd.services.podman-redis.serviceConfig.Restart: this follows from virtualisation.windlass.containers.redis.restart; set that instead",
            ),
            (
                r#"{ systemd.services.podman-redis = lib.mkMerge [ { serviceConfig = lib.mkIf true { TimeoutStopSec = 5; }; } ]; }"#,
                "systemd.services.podman-redis.serviceConfig.TimeoutStopSec: this follows from virtualisation.windlass.containers.redis.stopTimeout",
            ),
            (
                r#"{ virtualisation.windlass.runner = "quadlet"; systemd.services.redis.script = "redis-server"; }"#,
                "the system has redis.service already, with a program of its own",
            ),
            (
                r#"{ virtualisation.oci-containers.backend = "docker"; }"#,
                r#"virtualisation.windlass.containers: virtualisation.oci-containers.backend is "docker", which has none of these images"#,
            ),
            ("{ virtualisation.windlass.gc.downTo = 50; }", "virtualisation.windlass.gc.downTo needs gc.above"),
            (
                "{ virtualisation.windlass.gc = { above = 40; downTo = 50; }; }",
                "virtualisation.windlass.gc.downTo needs gc.above, and is at most that",
            ),
            (
                r#"{ virtualisation.windlass = { user = "ai"; runner = "quadlet"; }; users.users.ai = { isNormalUser = true; uid = 7; }; }"#,
                "virtualisation.windlass.user: users.users.ai needs a fixed `uid` and `linger = true`",
            ),
            (
                r#"{ virtualisation.windlass = { user = "ai"; runner = "oci-containers"; };
              users.users.ai = { isNormalUser = true; uid = 7; linger = true; }; }"#,
                r#"virtualisation.windlass.runner = "oci-containers" cannot run the containers of virtualisation.windlass.user"#,
            ),
            (
                r#"{ virtualisation.windlass = { user = "ai"; runner = "quadlet"; via = "podman"; };
              users.users.ai = { isNormalUser = true; uid = 7; linger = true; }; }"#,
                "virtualisation.windlass.user: a rootless Podman takes its images from the linked store",
            ),
            (
                r#"{ virtualisation.windlass = { user = "ai"; runner = "quadlet"; via = "podman"; };
              virtualisation.containers.storage.settings.storage.driver = "vfs";
              users.users.ai = { isNormalUser = true; uid = 7; linger = true; }; }"#,
                "and root's driver has to be overlay",
            ),
            (
                r#"{ virtualisation.windlass.containers.app.environment.POSTGRES_PASSWORD = "hunter2"; }"#,
                "virtualisation.windlass.containers.app.environment.POSTGRES_PASSWORD looks like a secret",
            ),
            (
                r#"{ virtualisation.windlass.containers.app.environment.openai_api_key = "sk-1"; }"#,
                "virtualisation.windlass.containers.app.environment.openai_api_key looks like a secret",
            ),
            (
                r#"{ virtualisation.windlass.containers.app.environment.DB_PASS = "a"; }"#,
                "virtualisation.windlass.containers.app.environment.DB_PASS looks like a secret",
            ),
            (
                r#"{ virtualisation.windlass.containers.app.environment.AWS_SECRET_ACCESS_KEY = "a"; }"#,
                "virtualisation.windlass.containers.app.environment.AWS_SECRET_ACCESS_KEY looks like a secret",
            ),
            (
                r#"{ virtualisation.windlass.containers.app.environment.DATABASE_URL = "postgres://me:hunter2@db/shop"; }"#,
                "virtualisation.windlass.containers.app.environment.DATABASE_URL looks like a secret",
            ),
            (
                r#"{ virtualisation.windlass.via = "store"; virtualisation.containers.storage.settings.storage.driver = "btrfs"; }"#,
                r#"virtualisation.windlass.via = "store" needs Podman's driver overlay, and storage.conf says btrfs"#,
            ),
        ],
    );
}

#[test]
fn what_is_not_meant_is_a_warning() {
    expect(
        SHOP,
        "warnings",
        [
            (
                r#"{ virtualisation.containers.storage.settings.storage.driver = "btrfs"; }"#,
                "with Podman's driver btrfs every image is copied",
            ),
            (
                r#"{ virtualisation.podman.autoPrune = { enable = true; flags = [ "--all" ]; }; }"#,
                "virtualisation.podman.autoPrune.flags has --all",
            ),
        ],
    );
}

/// What only looks like a secret is said to be none, by its name.
#[test]
fn a_variable_that_is_not_a_secret_is_allowed() {
    let change = r#"{ virtualisation.windlass.containers.app = { environment.API_KEY = "none-here"; allowSecrets = [ "API_KEY" ]; }; }"#;
    let [machine] = evaluated(SHOP, [change]);
    assert!(!machine["assertions"].to_string().contains("looks like a secret"), "{machine}");
}

#[test]
fn options_take_only_what_they_can_use() {
    for (change, option) in [
        (r#"{ virtualisation.windlass.via = "docker"; }"#, "virtualisation.windlass.via"),
        ("{ virtualisation.windlass.keepGenerations = 0; }", "virtualisation.windlass.keepGenerations"),
        ("{ virtualisation.windlass.gc.above = 100; }", "virtualisation.windlass.gc.above"),
        (r#"{ virtualisation.windlass.storageDir = "storage"; }"#, "virtualisation.windlass.storageDir"),
        (r#"{ virtualisation.windlass.networks = [ "-x" ]; }"#, "virtualisation.windlass.networks"),
        (
            r#"{ virtualisation.windlass.directories."/x".mode = "755"; }"#,
            r#"virtualisation.windlass.directories."/x".mode"#,
        ),
        (r#"{ virtualisation.windlass.stacks.a = "/etc"; }"#, "virtualisation.windlass.stacks.a"),
        (r#"{ virtualisation.windlass.images.a = "docker.io/redis"; }"#, "virtualisation.windlass.images.a"),
        (
            r#"{ virtualisation.windlass.images.redis.ref = "localhost/redis:1"; }"#,
            "virtualisation.windlass.images.redis.ref",
        ),
        ("{ virtualisation.windlass.containers.app.prot = 1; }", "virtualisation.windlass.containers.app.prot"),
        ("{ virtualisation.windlass.containers.new.init = true; }", "virtualisation.windlass.containers.new.image"),
        ("{ virtualisation.windlass.containers.app.ports = [ 80 ]; }", "virtualisation.windlass.containers.app.ports"),
        (
            "{ virtualisation.windlass.containers.app.environment.A = 1; }",
            "virtualisation.windlass.containers.app.environment.A",
        ),
        (
            r#"{ virtualisation.windlass.containers.app.memory = "lots"; }"#,
            "virtualisation.windlass.containers.app.memory",
        ),
        (r#"{ virtualisation.windlass.containers.app.cpus = "2"; }"#, "virtualisation.windlass.containers.app.cpus"),
        (
            "{ virtualisation.windlass.containers.app.pidsLimit = -1; }",
            "virtualisation.windlass.containers.app.pidsLimit",
        ),
        (
            r#"{ virtualisation.windlass.containers.app.restart = "sometimes"; }"#,
            "virtualisation.windlass.containers.app.restart",
        ),
        (
            "{ virtualisation.windlass.containers.app.entrypoint = [ ]; }",
            "virtualisation.windlass.containers.app.entrypoint",
        ),
        (
            r#"{ virtualisation.windlass.containers.app.secrets.a = "keys/a"; }"#,
            "virtualisation.windlass.containers.app.secrets.a",
        ),
        (
            r#"{ virtualisation.windlass.containers.redis.health.interval = lib.mkForce "soon"; }"#,
            "virtualisation.windlass.containers.redis.health.interval",
        ),
        (
            r#"{ virtualisation.windlass.containers.redis.health.command = lib.mkForce "true"; }"#,
            "virtualisation.windlass.containers.redis.health.command",
        ),
    ] {
        let error = refused(SHOP, change);
        assert!(error.contains(&format!("`{option}")), "{change}: {error}");
    }
}
