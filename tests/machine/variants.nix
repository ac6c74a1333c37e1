# The machines that are switched between, and a home, as lists of modules. Each is `base` with one thing changed.
{ lib, stub }:
let
  # The model with some of its bytes changed, of the same length.
  edited =
    name: expression:
    derivation {
      name = "${name}.gguf";
      system = "x86_64-linux";
      builder = "/bin/sh";
      PATH = "/usr/bin:/bin";
      model = stub.windlassModels.smollm2;
      args = [
        "-c"
        "sed '${expression}' $model >$out; ! cmp -s $model $out"
      ];
    };
  smollm2 = stub.windlassModels.smollm2;
  models = delivery: {
    services.ai-stack.models = lib.mapAttrs (_: src: { inherit src delivery; }) {
      inherit smollm2;
      second = edited "second" "s/Smollm2 135M 8k/Smollm3 135M 8k/";
      # A GGUF file that windlass reads and llama.cpp gives up on.
      unknown = edited "unknown" "s/general.architecture\\(.\\{12\\}\\)llama/general.architecture\\1xlama/";
    };
    services.ai-stack.activeModel.chat = "smollm2";
  };

  common = {
    services.ai-stack = {
      enable = true;
      redis.enable = true;
      postgres.enable = true;
      postgres.container.secrets.postgres-password = "/run/keys/postgres-password";
      llama-cpp.enable = true;
    };
    # All three are waited for: redis and postgres by llama.cpp, and that by another one.
    virtualisation.windlass.containers.llama-cpp.dependsOn = [
      "redis"
      "postgres"
    ];
    imports = [
      (
        { config, ... }:
        {
          virtualisation.windlass.containers.last = {
            inherit (config.virtualisation.windlass.containers.redis) image tmpfs user;
            entrypoint = [ "busybox" ];
            command = [
              "sleep"
              "infinity"
            ];
            dependsOn = [ "llama-cpp" ];
            stopTimeout = 0;
          };
        }
      )
    ];
  };
  layer.services.ai-stack.models.smollm2.src = smollm2;
  changed.services.ai-stack.redis.container.environment.TZ = "Europe/Berlin";
  quadlet.virtualisation.windlass.runner = "quadlet";
  rootless = {
    virtualisation.windlass.user = "ai";
    users.users.ai = {
      isNormalUser = true;
      uid = 1500;
      group = "ai";
      linger = true;
      home = "/home/ai";
    };
    users.groups.ai.gid = 1500;
    services.ai-stack.postgres.container.secrets.postgres-password = lib.mkForce "/run/keys/ai-password";
  };
  timers.virtualisation.windlass = {
    keepGenerations = 1;
    gc.dates = "*:*:0/20";
    verify = {
      enable = true;
      full = true;
      dates = "*:*:0/20";
    };
  };
  soon.systemd.timers = lib.genAttrs [ "windlass-gc" "windlass-verify" ] (_: {
    timerConfig.RandomizedDelaySec = lib.mkForce 0;
    timerConfig.AccuracySec = "1s";
  });
in
{
  nixos = {
    base = [ common layer ];
    changed = [ common layer changed ];
    bind = [ common (models "bind") ];
    image = [
      common
      (models "image")
      { virtualisation.windlass.via = "podman"; }
    ];
    timers = [ common layer timers soon ];
    quadlet = [ common layer quadlet ];
    quadletchanged = [ common layer quadlet changed ];
    rootless = [ common layer rootless ];
    # The linked store, and nothing that runs.
    none = [ { virtualisation.windlass.enable = true; } ];
  };
  home.home = [
    common
    layer
    {
      services.ai-stack.postgres.container.secrets.postgres-password = lib.mkForce "/run/keys/ai-password";
      virtualisation.windlass.storageDir = "/nix/var/windlass/storage";
    }
  ];
}
