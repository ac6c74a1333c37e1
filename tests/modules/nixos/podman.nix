# `virtualisation.containers`, `.podman` and `.docker` of NixOS.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkIf mkOption types;
  containers = config.virtualisation.containers;
  podman = config.virtualisation.podman;
  toml = pkgs.formats.toml { };
in
{
  options.virtualisation = {
    containers = {
      enable = lib.mkEnableOption "it";
      containersConf.settings = mkOption {
        type = toml.type;
        default = { };
      };
      storage.settings = mkOption { type = toml.type; };
      policy = mkOption {
        type = types.attrs;
        default = { };
      };
    };
    podman = {
      enable = lib.mkEnableOption "it";
      package = mkOption {
        type = types.package;
        default = pkgs.podman;
        # NixOS gives it what it finds its helpers with: what a user says with `override` of the same is lost.
        apply = package: package.override { extraPackages = podman.extraPackages ++ [ "/run/wrappers" ]; };
      };
      extraPackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
      };
      autoPrune = {
        enable = lib.mkEnableOption "it";
        flags = mkOption {
          type = types.listOf types.str;
          default = [ ];
        };
        dates = mkOption {
          type = types.str;
          default = "weekly";
        };
      };
      defaultNetwork.settings = mkOption {
        type = (pkgs.formats.json { }).type;
        default = { };
      };
      dockerCompat = lib.mkEnableOption "it";
    };
    docker.enable = lib.mkEnableOption "it";
    docker.package = mkOption {
      type = types.package;
      default = pkgs.docker;
    };
  };

  config = lib.mkMerge [
    (mkIf containers.enable {
      virtualisation.containers = {
        containersConf.settings.engine.init_path = "${pkgs.catatonit}/bin/catatonit";
        storage.settings.storage = {
          driver = mkDefault "overlay";
          graphroot = mkDefault "/var/lib/containers/storage";
          runroot = mkDefault "/run/containers/storage";
        };
      };
      environment.etc = {
        "containers/containers.conf".source = toml.generate "containers.conf" containers.containersConf.settings;
        "containers/storage.conf".source = toml.generate "storage.conf" containers.storage.settings;
      };
    })
    (mkIf podman.enable {
      environment.systemPackages = [ podman.package ];
      virtualisation.containers.enable = true;
      virtualisation.containers.containersConf.settings.network.network_backend = "netavark";
      systemd.packages = [ podman.package ];
      systemd.services.podman.environment = config.networking.proxy.envVars;
      systemd.sockets.podman = {
        wantedBy = [ "sockets.target" ];
        socketConfig.SocketGroup = "podman";
      };
      systemd.services.podman-prune = {
        description = "Prune podman resources";
        restartIfChanged = false;
        unitConfig.X-StopOnRemoval = false;
        serviceConfig.Type = "oneshot";
        script = "${podman.package}/bin/podman system prune -f ${toString podman.autoPrune.flags}\n";
        startAt = lib.optional podman.autoPrune.enable podman.autoPrune.dates;
        after = [ "podman.service" ];
        requires = [ "podman.service" ];
      };
      systemd.timers.podman-prune.timerConfig = mkIf podman.autoPrune.enable {
        Persistent = true;
        RandomizedDelaySec = 1800;
      };
      users.groups.podman = { };
      assertions = [
        {
          assertion = podman.dockerCompat -> !config.virtualisation.docker.enable;
          message = "virtualisation.podman.dockerCompat and virtualisation.docker.enable exclude each other";
        }
      ];
    })
  ];
}
