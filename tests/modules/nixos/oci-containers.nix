# `virtualisation.oci-containers` of NixOS: the options, and the units that it makes of them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    escapeShellArg
    mapAttrsToList
    mkIf
    mkOption
    optional
    optionals
    types
    ;
  cfg = config.virtualisation.oci-containers;
  isPodman = cfg.backend == "podman";

  of =
    type: default:
    mkOption { inherit type default; };
  strings = of (types.listOf types.str) [ ];
  maybe = type: of (types.nullOr type) null;
  container =
    { name, ... }:
    {
      options = {
        image = mkOption { type = types.str; };
        imageFile = maybe types.package;
        imageStream = maybe types.package;
        serviceName = of types.str "${cfg.backend}-${name}";
        login = lib.genAttrs [
          "username"
          "passwordFile"
          "registry"
        ] (_: maybe types.str);
        cmd = strings;
        labels = of (types.attrsOf types.str) { };
        entrypoint = maybe types.str;
        environment = of (types.attrsOf types.str) { };
        environmentFiles = of (types.listOf types.path) [ ];
        log-driver = of types.str "journald";
        ports = strings;
        user = maybe types.str;
        volumes = strings;
        workdir = maybe types.str;
        dependsOn = strings;
        hostname = maybe types.str;
        preRunExtraOptions = strings;
        extraOptions = strings;
        autoStart = of types.bool true;
        podman = maybe (
          types.submodule {
            options = {
              sdnotify = of (types.enum [
                "conmon"
                "healthy"
                "container"
              ]) "conmon";
              user = of types.str "root";
            };
          }
        );
        pull = of (types.enum [
          "always"
          "missing"
          "never"
          "newer"
        ]) "missing";
        capabilities = of (types.lazyAttrsOf (types.nullOr types.bool)) { };
        devices = strings;
        privileged = of types.bool false;
        autoRemoveOnStop = of types.bool true;
        networks = strings;
      };
      config.podman = mkIf isPodman { };
    };

  # What runs before the container: it takes away the old one, and gets an image that is not pulled.
  preStart =
    name: container:
    pkgs.writeShellApplication {
      name = "pre-start";
      text = lib.concatLines (
        [ "${cfg.backend} rm -f ${name} || true" ]
        ++ optional (lib.all (value: value != null) (builtins.attrValues container.login)) (
          "${cfg.backend} login ${container.login.registry} --username ${escapeShellArg container.login.username} "
          + "--password-stdin < ${container.login.passwordFile} || ${cfg.backend} image inspect ${container.image} >/dev/null"
        )
        ++ optional (container.imageFile != null) "${cfg.backend} load -i ${container.imageFile}"
        ++ optional (container.imageStream != null) "${container.imageStream} | ${cfg.backend} load"
        ++ optional isPodman "rm -f /run/${escapeShellArg name}/ctr-id"
      );
    };
  run =
    name: container:
    let
      each = flag: map (value: "${flag} ${escapeShellArg value}");
      one = flag: value: optional (value != null) "${flag}=${escapeShellArg value}";
      pairs = flag: mapAttrsToList (key: value: "${flag} ${escapeShellArg key}=${escapeShellArg value}");
      capabilities = flag: wanted: map (key: "${flag}=${escapeShellArg key}") (
        builtins.attrNames (lib.filterAttrs (_: value: value == wanted) container.capabilities)
      );
      escapedName = escapeShellArg name;
    in
    lib.concatStringsSep " \\\n  " (
      [ "exec ${cfg.backend} " ]
      ++ map escapeShellArg container.preRunExtraOptions
      ++ [
        "run"
        "--name=${escapedName}"
        "--log-driver=${container.log-driver}"
      ]
      ++ one "--entrypoint" container.entrypoint
      ++ one "--hostname" container.hostname
      ++ optionals isPodman [
        "--cidfile=/run/${escapedName}/ctr-id"
        "--cgroups=enabled"
        "--sdnotify=${container.podman.sdnotify}"
        "-d"
        "--replace"
      ]
      ++ pairs "-e" container.environment
      ++ each "--env-file" container.environmentFiles
      ++ each "-p" container.ports
      ++ optional (container.user != null) "-u ${escapeShellArg container.user}"
      ++ each "-v" container.volumes
      ++ pairs "-l" container.labels
      ++ optional (container.workdir != null) "-w ${escapeShellArg container.workdir}"
      ++ optional container.privileged "--privileged"
      ++ optional container.autoRemoveOnStop "--rm"
      ++ capabilities "--cap-add" true
      ++ capabilities "--cap-drop" false
      ++ map (device: "--device=${escapeShellArg device}") container.devices
      ++ map (network: "--network=${escapeShellArg network}") (lib.unique container.networks)
      ++ [ "--pull ${escapeShellArg container.pull}" ]
      ++ map escapeShellArg container.extraOptions
      ++ [ container.image ]
      ++ map escapeShellArg container.cmd
    );

  service =
    name: container:
    let
      others = map (other: "${cfg.containers.${other}.serviceName}.service") (
        builtins.attrNames (lib.getAttrs container.dependsOn cfg.containers)
      );
      user = container.podman.user or "root";
      account = config.users.users.${user};
      lingers = optional (isPodman && user != "root" && account.linger == true) "linger-users.service";
      # Without a file of its own an image is thought to come from a registry.
      network = optional (container.imageFile == null && container.imageStream == null) "network-online.target";
      session = optional (user != "root" && container.podman.sdnotify == "healthy") "user@${toString account.uid}.service";
      cidfile = "--cidfile=/run/${escapeShellArg name}/ctr-id";
    in
    {
      wantedBy = optional container.autoStart "multi-user.target";
      wants = network ++ lingers;
      after =
        optionals (!isPodman) [
          "docker.service"
          "docker.socket"
        ]
        ++ network
        ++ others
        ++ lingers
        ++ session;
      requires = others ++ session;
      environment = lib.mkMerge [
        config.networking.proxy.envVars
        (mkIf (isPodman && user != "root") { HOME = account.home; })
      ];
      path = [ (if isPodman then config.virtualisation.podman.package else config.virtualisation.docker.package) ];
      script = run name container;
      preStop = if isPodman then "podman stop --ignore ${cidfile}" else "docker stop ${name} || true";
      postStop = if isPodman then "podman rm -f --ignore ${cidfile}" else "docker rm -f ${name} || true";
      unitConfig = mkIf (user != "root") { RequiresMountsFor = "/run/user/${toString account.uid}/containers"; };
      serviceConfig = {
        ExecStartPre = [ "${preStart name container}/bin/pre-start" ];
        TimeoutStartSec = 0;
        TimeoutStopSec = 120;
        Restart = if container.autoStart then "always" else "on-failure";
      }
      // lib.optionalAttrs isPodman {
        Environment = "PODMAN_SYSTEMD_UNIT=%n";
        Type = "notify";
        NotifyAccess = "all";
        Delegate = mkIf (container.podman.sdnotify == "healthy") true;
        User = user;
        RuntimeDirectory = escapeShellArg name;
      };
    };
in
{
  options.virtualisation.oci-containers = {
    backend = mkOption {
      type = types.enum [
        "podman"
        "docker"
      ];
      default = if lib.versionAtLeast config.system.stateVersion "22.05" then "podman" else "docker";
    };
    containers = of (types.attrsOf (types.submodule container)) { };
  };
  # What a test sees of it.
  options.result.preStart = mkOption { type = types.raw; };

  config = lib.mkMerge [
    {
      result.preStart = lib.mapAttrs' (
        name: container: lib.nameValuePair container.serviceName (preStart name container).text
      ) cfg.containers;
    }
    (mkIf (cfg.containers != { }) {
      systemd.services = lib.mapAttrs' (
        name: container: lib.nameValuePair container.serviceName (service name container)
      ) cfg.containers;
      virtualisation.podman.enable = mkIf isPodman true;
      virtualisation.docker.enable = mkIf (!isPodman) true;
      assertions = lib.concatMap (
        name:
        let
          container = cfg.containers.${name};
          at = "virtualisation.oci-containers.containers.${name}";
        in
        [
          {
            assertion = container.imageFile == null || container.imageStream == null;
            message = "${at}: only one of imageFile and imageStream can be defined";
          }
          {
            assertion = isPodman || container.podman == null;
            message = "${at}: `podman` cannot be set with the backend docker";
          }
          {
            assertion =
              isPodman && container.podman.sdnotify == "healthy" && container.podman.user != "root"
              -> config.users.users.${container.podman.user}.uid != null;
            message = "${at}: with sdnotify=healthy the user ${container.podman.user} needs a fixed uid";
          }
        ]
      ) (builtins.attrNames cfg.containers);
      warnings = mkIf isPodman (
        lib.concatMap (
          name:
          let
            inherit (cfg.containers.${name}.podman) user sdnotify;
            linger = config.users.users.${user}.linger == true;
          in
          optional (user != "root" && linger && sdnotify == "conmon")
            "oci-containers ${name}: rootless with sdnotify=conmon, and its user lingers"
          ++ optional (user != "root" && !linger && sdnotify == "healthy")
            "oci-containers ${name}: rootless with sdnotify=healthy, and its user does not linger"
        ) (builtins.attrNames cfg.containers)
      );
    })
  ];
}
