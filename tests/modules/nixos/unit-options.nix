# The options of NixOS' systemd units, as nixos/lib/systemd-unit-options.nix and systemd-lib.nix have them: what a module can
# set, how several definitions of one setting merge, and what a unit's file is made of.
#
# Gives: types of `systemd.services` and its kin, and `toUnit.<kind>`: name -> unit -> { text, wantedBy, … }
{
  lib,
  pkgs,
  systemd,
}:
let
  inherit (lib)
    concatMap
    concatMapStrings
    mapAttrsToList
    mkAfter
    mkIf
    mkMerge
    mkOption
    optionalAttrs
    optionalString
    types
    ;

  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  # A setting of a section: with lists among them definitions are repeated keys and add up, else they must agree.
  setting = lib.mkOptionType {
    name = "systemd option";
    merge =
      loc: definitions:
      let
        strongest = lib.modules.filterOverrides definitions;
        isList = definition: builtins.isList definition.value;
      in
      if lib.any isList strongest then
        concatMap (definition: lib.toList definition.value) strongest
      else
        lib.options.mergeEqualOption loc strongest;
  };
  settings = mkOption {
    type = types.attrsOf setting;
    default = { };
  };
  # A setting that has one of a few values, where it is set.
  withChecks =
    checks:
    mkOption {
      default = { };
      type = types.addCheck (types.attrsOf setting) (
        section:
        lib.all (
          name:
          let
            value = section.${name}.content or section.${name};
          in
          !(section ? ${name}) || lib.elem value checks.${name}
        ) (builtins.attrNames checks)
      );
    };
  many =
    type:
    mkOption {
      type = types.listOf type;
      default = [ ];
    };
  units = many unitName;
  flag =
    default:
    mkOption {
      type = types.bool;
      inherit default;
    };
  text = mkOption {
    type = types.lines;
    default = "";
  };

  shared = {
    enable = flag true;
    overrideStrategy = mkOption {
      type = types.enum [
        "asDropinIfExists"
        "asDropin"
      ];
      default = "asDropinIfExists";
    };
    aliases = units;
    requiredBy = units;
    upheldBy = units;
    wantedBy = units;
  };
  dependencies = {
    Requires = "requires";
    Wants = "wants";
    Upholds = "upholds";
    After = "after";
    Before = "before";
    BindsTo = "bindsTo";
    PartOf = "partOf";
    Conflicts = "conflicts";
    Requisite = "requisite";
    OnFailure = "onFailure";
    OnSuccess = "onSuccess";
  };
  triggers =
    name: list:
    let
      value = toString (map (item: if builtins.isPath item then "${item}" else item) (lib.flatten list));
    in
    "${pkgs.writeText name value}";

  # What all kinds of units have.
  common =
    suffix:
    {
      name,
      config,
      options,
      ...
    }:
    {
      options =
        shared
        // lib.listToAttrs (map (option: lib.nameValuePair option units) (builtins.attrValues dependencies))
        // {
          name = mkOption { type = types.str; };
          description = mkOption {
            type = types.singleLineStr;
            default = "";
          };
          documentation = many types.str;
          unitConfig = settings;
          startLimitBurst = mkOption { type = types.int; };
          startLimitIntervalSec = mkOption { type = types.int; };
          restartTriggers = many types.unspecified;
          reloadTriggers = many setting;
        };
      config.name = "${name}.${suffix}";
      config.unitConfig =
        lib.concatMapAttrs (
          key: option: optionalAttrs (config.${option} != [ ]) { ${key} = toString config.${option}; }
        ) dependencies
        // optionalAttrs (config.restartTriggers != [ ]) {
          X-Restart-Triggers = triggers "X-Restart-Triggers-${name}" config.restartTriggers;
        }
        // optionalAttrs (config.reloadTriggers != [ ]) {
          X-Reload-Triggers = triggers "X-Reload-Triggers-${name}" config.reloadTriggers;
        }
        // optionalAttrs (config.description != "") { Description = config.description; }
        // optionalAttrs (config.documentation != [ ]) { Documentation = toString config.documentation; }
        // optionalAttrs options.startLimitIntervalSec.isDefined {
          StartLimitIntervalSec = toString config.startLimitIntervalSec;
        }
        // optionalAttrs options.startLimitBurst.isDefined { StartLimitBurst = toString config.startLimitBurst; };
    };

  # A script as the program that a unit starts.
  jobScript =
    name: text: lib.getExe (pkgs.writeShellScriptBin (builtins.replaceStrings [ "\\" "@" ] [ "-" "_" ] name) "set -e\n\n${text}\n");
  # Option -> the key it becomes, and whether NixOS gives it as a list.
  jobs = {
    preStart = {
      key = "ExecStartPre";
      name = "pre-start";
      list = true;
    };
    postStart = {
      key = "ExecStartPost";
      name = "post-start";
      list = true;
    };
    reload = {
      key = "ExecReload";
      name = "reload";
    };
    preStop = {
      key = "ExecStop";
      name = "pre-stop";
    };
    postStop = {
      key = "ExecStopPost";
      name = "post-stop";
    };
  };
  service =
    { name, config, ... }:
    {
      options =
        lib.mapAttrs (_: _: text) jobs
        // {
          script = text;
          scriptArgs = mkOption {
            type = types.str;
            default = "";
          };
          environment = mkOption {
            type =
              with types;
              attrsOf (
                nullOr (oneOf [
                  str
                  path
                  package
                ])
              );
            default = { };
          };
          path = many (types.oneOf [
            types.package
            types.str
          ]);
          serviceConfig = withChecks {
            Type = [
              "exec"
              "simple"
              "forking"
              "oneshot"
              "dbus"
              "notify"
              "notify-reload"
              "idle"
            ];
            Restart = [
              "no"
              "on-success"
              "on-failure"
              "on-abnormal"
              "on-abort"
              "always"
            ];
          };
          restartIfChanged = flag true;
          reloadIfChanged = flag false;
          stopIfChanged = flag true;
          notSocketActivated = flag false;
          enableStrictShellChecks = flag false;
          startAt = mkOption {
            type = types.either types.str (types.listOf types.str);
            default = [ ];
            apply = lib.toList;
          };
        };
      config = mkMerge (
        [
          {
            path = mkAfter [
              pkgs.coreutils
              pkgs.findutils
              pkgs.gnugrep
              pkgs.gnused
              systemd
            ];
            environment.PATH = mkIf (
              config.path != [ ]
            ) "${lib.makeBinPath config.path}:${lib.makeSearchPathOutput "bin" "sbin" config.path}";
          }
          (mkIf (config.script != "") {
            serviceConfig.ExecStart = "${jobScript "${name}-start" config.script} ${config.scriptArgs}";
          })
        ]
        ++ mapAttrsToList (
          option: job:
          let
            program = jobScript "${name}-${job.name}" config.${option};
          in
          mkIf (config.${option} != "") {
            serviceConfig.${job.key} = if job.list or false then [ program ] else program;
          }
        ) jobs
      );
    };

  section = key: { options.${key} = settings; };
  kinds = {
    service = [ service ];
    target = [ ];
    slice = [ (section "sliceConfig") ];
    timer = [ (section "timerConfig") ];
    path = [ (section "pathConfig") ];
    socket = [
      (section "socketConfig")
      {
        options.listenStreams = many types.str;
        options.listenDatagrams = many types.str;
      }
    ];
  };

  value = value: if builtins.isBool value then lib.boolToString value else toString value;
  lines =
    section:
    lib.concatStrings (
      lib.concatLists (mapAttrsToList (key: values: map (item: "${key}=${value item}\n") (lib.toList values)) section)
    );
  # The file of a unit: [Unit], what belongs to its kind, and what it is wanted by.
  render =
    header: body: unit:
    "[Unit]\n${lines unit.unitConfig}\n"
    + "[${header}]\n${body unit}"
    + optionalString (unit.wantedBy != [ ]) "\n[Install]\nWantedBy=${toString unit.wantedBy}\n";
  texts = {
    target = unit: "[Unit]\n${lines unit.unitConfig}\n";
    slice = render "Slice" (unit: "${lines unit.sliceConfig}\n");
    timer = render "Timer" (unit: "${lines unit.timerConfig}\n");
    path = render "Path" (unit: "${lines unit.pathConfig}\n");
    socket = render "Socket" (
      unit:
      "${lines unit.socketConfig}\n"
      + concatMapStrings (address: "ListenStream=${address}\n") unit.listenStreams
      + concatMapStrings (address: "ListenDatagram=${address}\n") unit.listenDatagrams
    );
    service = render "Service" (
      unit:
      lib.concatStrings (
        mapAttrsToList (
          name: value: optionalString (value != null) "Environment=${builtins.toJSON "${name}=${value}"}\n"
        ) unit.environment
      )
      + (
        if unit.reloadIfChanged then
          "X-ReloadIfChanged=true\n"
        else
          optionalString (!unit.restartIfChanged) "X-RestartIfChanged=false\n"
      )
      + optionalString (!unit.stopIfChanged) "X-StopIfChanged=false\n"
      + optionalString unit.notSocketActivated "X-NotSocketActivated=true\n"
      + lines unit.serviceConfig
    );
  };
in
{
  types = lib.mapAttrs (kind: modules: types.attrsOf (types.submodule ([ (common kind) ] ++ modules))) kinds;

  # `systemd.units`: what is in the file, and by what it is wanted.
  unit = types.attrsOf (
    types.submodule (
      { name, ... }:
      {
        options = shared // {
          name = mkOption {
            type = types.str;
            default = name;
          };
          text = mkOption {
            type = types.nullOr types.str;
            default = null;
          };
        };
      }
    )
  );
  toUnit = lib.mapAttrs (_: text: unit: {
    inherit (unit)
      name
      enable
      overrideStrategy
      aliases
      requiredBy
      upheldBy
      wantedBy
      ;
    text = text unit;
  }) texts;

  # The scripts of a service, by the key that starts them.
  scripts =
    service:
    optionalAttrs (service.script != "") { ExecStart = service.script; }
    // lib.concatMapAttrs (
      option: job: optionalAttrs (service.${option} != "") { ${job.key} = service.${option}; }
    ) jobs;
}
