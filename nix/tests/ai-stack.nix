# A machine that runs Redis and PostgreSQL out of the AI stack, with no network at all.
#
# Type: { self } -> module of pkgs.testers.runNixOSTest
#
# Example:
#   nix build .#checks.x86_64-linux.ai-stack-vm
#
# The Nix store of the machine is the one that builds, seen from outside: what is linked elsewhere is copied here.
{ self }:
{
  name = "windlass-ai-stack";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.default ];

      virtualisation = {
        memorySize = 2048;
        diskSize = 4096;
        # Nothing to pull from.
        vlans = [ ];
        windlass.via = "store";
      };

      services.ai-stack = {
        enable = true;
        redis.enable = true;
        postgres.enable = true;
        postgres.container.secrets.postgres-password = "/etc/postgres-password";
      };

      environment.etc.postgres-password.text = "of a test";
      environment.systemPackages = [
        pkgs.redis
        pkgs.postgresql_17
      ];

      specialisation.changed.configuration = {
        services.ai-stack.redis.container.environment.TZ = "Europe/Berlin";
      };
    };

  testScript = ''
    def started(name: str) -> str:
        unit = f"podman-{name}.service"
        return machine.succeed(f"systemctl show --value --property=ActiveEnterTimestampMonotonic {unit}")

    def healthy(name: str) -> None:
        machine.wait_for_unit(f"podman-{name}.service")
        machine.wait_until_succeeds(f"podman healthcheck run {name}", timeout=180)

    def sql(statement: str) -> str:
        connection = "host=127.0.0.1 user=postgres password='of a test'"
        return machine.succeed(f"psql --tuples-only --no-align \"{connection}\" --command=\"{statement}\"").strip()

    machine.wait_for_unit("multi-user.target")

    with subtest("the containers come up from what was built"):
        healthy("redis")
        healthy("postgres")
        machine.succeed("podman image exists $(podman inspect --format '{{.ImageName}}' redis)")
        status = machine.succeed("windlass status")
        assert "redis" in status and "postgres" in status, status

    with subtest("Redis keeps its data over a restart"):
        machine.succeed("redis-cli SET kept yes")
        machine.succeed("systemctl restart podman-redis.service")
        healthy("redis")
        assert machine.succeed("redis-cli GET kept").strip() == "yes"

    with subtest("PostgreSQL answers with the password of its file, has pgvector, and comes back after a kill"):
        machine.fail("psql \"host=127.0.0.1 user=postgres password=wrong\" --command='SELECT 1'")
        sql("CREATE EXTENSION IF NOT EXISTS vector")
        assert sql("SELECT '[1,2]'::vector <-> '[1,5]'") == "3"
        since = started("postgres").strip()
        machine.succeed("podman kill postgres")
        machine.wait_until_succeeds(
            "test $(systemctl show --value --property=ActiveEnterTimestampMonotonic podman-postgres.service)"
            f" -gt {since}",
            timeout=60,
        )
        healthy("postgres")
        assert sql("SELECT extname FROM pg_extension WHERE extname = 'vector'") == "vector"

    with subtest("loading again writes nothing and restarts nothing"):
        before = started("redis"), started("postgres")
        machine.succeed("systemctl restart windlass-load.service")
        said = machine.succeed("journalctl --unit=windlass-load.service --output=cat --lines=20")
        assert "0 loaded" in said and "wrote 0 B" in said, said
        assert (started("redis"), started("postgres")) == before

    with subtest("prune takes none of the images, used or not"):
        machine.succeed("systemctl stop podman-redis.service")
        images = machine.succeed("podman images --quiet | sort")
        machine.succeed("podman image prune --all --force")
        assert machine.succeed("podman images --quiet | sort") == images
        machine.succeed("systemctl start podman-redis.service")
        healthy("redis")

    with subtest("a changed environment restarts its container only"):
        redis, postgres = started("redis"), started("postgres")
        machine.succeed("/run/current-system/specialisation/changed/bin/switch-to-configuration test")
        healthy("redis")
        assert started("redis") != redis
        assert started("postgres") == postgres
        environment = machine.succeed("podman inspect --format '{{.Config.Env}}' redis")
        assert "TZ=Europe/Berlin" in environment, environment
        assert machine.succeed("redis-cli GET kept").strip() == "yes"
  '';
}
