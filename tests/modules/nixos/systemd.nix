# `systemd.*` of NixOS: units of the system and of users, timers from `startAt`, tmpfiles and generators.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.systemd;
  unitLib = import ./unit-options.nix {
    inherit lib pkgs;
    systemd = cfg.package;
  };
  plural = {
    services = "service";
    targets = "target";
    slices = "slice";
    timers = "timer";
    paths = "path";
    sockets = "socket";
  };
  options = lib.mapAttrs (
    _: kind:
    mkOption {
      type = unitLib.types.${kind};
      default = { };
    }
  ) plural // {
    units = mkOption {
      type = unitLib.unit;
      default = { };
    };
  };
  units =
    scope:
    lib.concatMapAttrs (
      plural: kind:
      lib.mapAttrs' (name: unit: lib.nameValuePair "${name}.${kind}" (unitLib.toUnit.${kind} unit)) scope.${plural}
    ) plural;
  timers =
    services:
    lib.mapAttrs (_: service: {
      wantedBy = [ "timers.target" ];
      timerConfig.OnCalendar = service.startAt;
    }) (lib.filterAttrs (_: service: service.startAt != [ ]) services);

  rules = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };
  field =
    default:
    mkOption {
      type = types.str;
      inherit default;
    };
  entry =
    { name, ... }:
    {
      options = {
        type = field name;
        mode = field "-";
        user = field "-";
        group = field "-";
        age = field "-";
        argument = field "";
      };
    };
  line =
    path: entry:
    "'${entry.type}' '${path}' '${entry.mode}' '${entry.user}' '${entry.group}' '${entry.age}' ${entry.argument}\n";
in
{
  options.systemd = options // {
    package = mkOption {
      type = types.package;
      default = pkgs.systemd;
    };
    packages = mkOption {
      type = types.listOf types.package;
      default = [ ];
    };
    generators = mkOption {
      type = types.attrsOf types.path;
      default = { };
    };
    tmpfiles = {
      inherit rules;
      settings = mkOption {
        type = types.attrsOf (types.attrsOf (types.attrsOf (types.submodule entry)));
        default = { };
      };
    };
    user = options // {
      tmpfiles = {
        inherit rules;
        users = mkOption {
          type = types.attrsOf (types.submodule { options = { inherit rules; }; });
          default = { };
        };
      };
    };
  };
  # What a test sees of it.
  options.result.scripts = mkOption { type = types.raw; };
  options.result.tmpfiles = mkOption { type = types.raw; };

  config = {
    systemd.units = units cfg;
    systemd.timers = timers cfg.services;
    systemd.user.units = units cfg.user;
    systemd.user.timers = timers cfg.user.services;
    environment.etc = lib.mapAttrs' (
      name: source: lib.nameValuePair "systemd/system-generators/${name}" { inherit source; }
    ) cfg.generators;

    # NixOS looks at the units before it says what failed: what cannot be evaluated in them hides that.
    assertions = lib.mapAttrsToList (name: service: {
      assertion = !(lib.elem "network-interfaces.target" (service.after ++ service.wants));
      message = "${name}.service: there is no network-interfaces.target";
    }) cfg.services;
    warnings = lib.concatLists (
      lib.mapAttrsToList (
        name: service:
        let
          inherit (service) serviceConfig;
          online = lib.elem "network-online.target";
        in
        lib.optional (
          serviceConfig.Type or "" == "oneshot" && lib.elem (serviceConfig.Restart or "") [ "always" "on-success" ]
        ) "${name}.service: Type=oneshot cannot be restarted always"
        ++ lib.optional (
          online service.after && !online (service.wants ++ service.requires ++ service.bindsTo)
        ) "${name}.service is after network-online.target and does not want it"
      ) cfg.services
    );

    result.scripts = lib.mapAttrs (_: unitLib.scripts) cfg.services;
    result.tmpfiles =
      lib.mapAttrs' (
        name: paths:
        lib.nameValuePair "${name}.conf" (
          lib.concatStrings (lib.concatLists (lib.mapAttrsToList (path: types: lib.mapAttrsToList (_: line path) types) paths))
        )
      ) cfg.tmpfiles.settings
      // lib.optionalAttrs (cfg.tmpfiles.rules != [ ]) { "00-nixos.conf" = lib.concatLines cfg.tmpfiles.rules; };
  };
}
