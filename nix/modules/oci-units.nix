# Containers as units of `virtualisation.oci-containers`: those of `virtualisation.windlass.containers` with that runner, and
# those of others with an image of ours.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf mkOption types;
  cfg = config.virtualisation.windlass;
  inherit (config.virtualisation.oci-containers) backend containers;
  podman = config.virtualisation.podman.package;
  ociContainer = import ./oci-containers.nix { inherit lib; };
  runtime = import ./runtime.nix {
    inherit lib cfg pkgs;
  };

  isRunner = cfg.runner == "oci-containers" && cfg.containers != { };
  ours = lib.optionalAttrs (isRunner && backend == "podman") cfg.containers;
  # Those of others too that run an image of ours.
  refs = map (image: image.ref) (builtins.attrValues cfg.images);
  all = lib.filterAttrs (_: container: builtins.elem container.image refs) containers;
  unit = name: "${containers.${name}.serviceName}.service";

  # Where the secrets of a container are while it runs.
  secretsAt = "/run/windlass";
  secretsFor =
    name:
    let
      own = runtime name;
    in
    own.installSecrets {
      directory = secretsAt;
      owner = { inherit (own) uid gid; };
    };
  withSecrets =
    name: container:
    container // { volumes = container.volumes ++ (runtime name).secretVolumes secretsAt; };

  # Whose directory /run/<name> is too: the unit of a container by that name would take it away when it stops.
  sharedBy =
    name:
    let
      directories = unit: lib.concatMap (lib.splitString " ") (lib.toList (unit.serviceConfig.RuntimeDirectory or [ ]));
      others = removeAttrs config.systemd.services [ containers.${name}.serviceName ];
    in
    builtins.attrNames (lib.filterAttrs (_: unit: unit.enable && builtins.elem name (directories unit)) others);

  # The units that oci-containers has wait for the network: it does not load their images itself.
  waitsForNetwork = lib.mapAttrs' (_: container: lib.nameValuePair container.serviceName true) (
    lib.filterAttrs (_: container: container.imageFile == null && container.imageStream == null) all
  );
  withoutFirst =
    value: list:
    let
      rest = builtins.tail list;
    in
    if list == [ ] then
      [ ]
    else if builtins.head list == value then
      rest
    else
      [ (builtins.head list) ] ++ withoutFirst value rest;

  # What of oci-containers' own settings a container of ours has otherwise, and the option that says so.
  forced =
    name:
    lib.optionalAttrs (ours.${name}.restart != "always" || !ours.${name}.autoStart) {
      Restart = {
        value = ours.${name}.restart;
        option = "restart";
      };
    }
    # A start that waits for a container to be healthy would wait for ever, and `nixos-rebuild switch` with it.
    // lib.optionalAttrs (runtime name).isWaitedFor {
      TimeoutStartSec = {
        value = "15min";
        option = "health";
      };
    }
    // lib.optionalAttrs (ours.${name}.stopTimeout != null) {
      TimeoutStopSec = {
        value = lib.max 120 (ours.${name}.stopTimeout + 60);
        option = "stopTimeout";
      };
    };
  # Before oci-containers' own, and after what a user forces.
  ourPriority = 90;
  # What `serviceConfig` and `unitConfig` of a container say goes before that; keys that may be there several times add up.
  own =
    key: value:
    if builtins.isList value || builtins.match "Exec.*|Environment.*|RuntimeDirectory" key != null then
      lib.toList value
    else
      lib.mkOverride (ourPriority - 10) value;
  # A value without mkMerge and mkIf around it: those that count.
  plain =
    value:
    {
      merge = lib.concatMap plain value.contents;
      "if" = lib.optionals value.condition (plain value.content);
    }
    .${value._type or "none"} or [ value ];
  # Settings of a unit of ours that others say plainly: ours would go before them without a word.
  overruled =
    name:
    let
      inherit (containers.${name}) serviceName;
      isOthers =
        definition:
        definition.file != toString ./oci-units.nix
        && builtins.match ".*/(nixos|virtualisation)/oci-containers[.]nix" definition.file == null;
      inherit (lib.modules) defaultOverridePriority;
      below =
        values: key:
        lib.concatMap (value: lib.optional (value ? ${key}) value.${key}) (
          builtins.filter builtins.isAttrs (lib.concatMap plain values)
        );
      definitions = map (definition: definition.value) (
        builtins.filter isOthers options.systemd.services.definitionsWithLocations
      );
      settings = lib.foldl' below definitions [
        serviceName
        "serviceConfig"
      ];
      priority = value: if value._type or "" == "override" then value.priority else defaultOverridePriority;
      # A default of others gives way, as it says.
      isPlain = value: priority value > ourPriority && priority value <= defaultOverridePriority;
      isOverruled = key: builtins.any isPlain (lib.concatMap plain (below settings key));
    in
    builtins.filter isOverruled (builtins.attrNames (forced name));
in
{
  # The network is taken out of what oci-containers says of units with our images, once; what others say of them stays.
  options.systemd.services = mkOption {
    type = types.attrsOf (
      types.submodule (
        { name, ... }:
        let
          withoutNetwork =
            units:
            if cfg.enable && waitsForNetwork ? ${name} then
              lib.unique (withoutFirst "network-online.target" units)
            else
              units;
        in
        {
          options = lib.genAttrs [ "after" "wants" ] (_: mkOption { apply = withoutNetwork; });
        }
      )
    );
  };

  # A container with an image of ours has nothing to pull, whichever module declares it.
  options.virtualisation.oci-containers.containers = mkOption {
    type = types.attrsOf (
      types.submodule (
        { config, ... }:
        {
          config.pull = mkIf (cfg.enable && builtins.elem config.image refs) (lib.mkDefault "never");
        }
      )
    );
  };

  config = mkIf cfg.enable {
    virtualisation.oci-containers = mkIf isRunner {
      backend = lib.mkDefault "podman";
      containers = lib.mapAttrs (name: container: ociContainer { container = withSecrets name container; }) ours;
    };

    systemd.services = {
      windlass-load = mkIf (cfg.loads != [ ]) { before = map unit (builtins.attrNames all); };
    }
    // lib.mapAttrs' (
      name: container:
      let
        first = if ours ? ${name} then (runtime name).after unit else [ "windlass-load.service" ];
      in
      lib.nameValuePair container.serviceName {
        wants = first;
        after = first;
        restartTriggers =
          let
            own = runtime name;
            triggers = if ours ? ${name} then own.definitions else own.layersAt;
          in
          mkIf (triggers != [ ]) triggers;
        unitConfig = mkIf (ours ? ${name}) (lib.mapAttrs own ours.${name}.unitConfig);
        serviceConfig = mkIf (ours ? ${name}) (lib.mkMerge [
          (lib.mapAttrs own ours.${name}.serviceConfig)
          ({
            ExecStartPre = secretsFor name;
          }
          // { RestartSec = lib.mkDefault (runtime name).restartSec; }
          // lib.optionalAttrs (runtime name).isWaitedFor {
            ExecStartPost = [ (toString ((runtime name).waitHealthy podman)) ];
            # As Quadlet has it: what the command above does at a stop is not ended by the same stop.
            KillMode = "mixed";
          }
          // lib.optionalAttrs (ours ? ${name}) (runtime name).endings
          // lib.optionalAttrs ((runtime name).runtimeDirectory != [ ]) {
            RuntimeDirectory = (runtime name).runtimeDirectory;
          }
          // lib.mapAttrs (_: setting: lib.mkOverride ourPriority setting.value) (forced name))
        ]);
      }
    ) all;

    assertions = [
      {
        assertion = !isRunner || backend == "podman";
        message = ''
          virtualisation.windlass.containers: virtualisation.oci-containers.backend is "${backend}", which has none of these images;
          use virtualisation.windlass.runner = "quadlet" beside it, or the backend "podman"
        '';
      }
    ]
    ++ map (name: {
      assertion = ours.${name}.quadlet == "";
      message = ''
        virtualisation.windlass.containers.${name}.quadlet: there is no Quadlet file with runner = "oci-containers"; use
        runner = "quadlet", or say it with `serviceConfig`, `unitConfig` and `extraOptions`
      '';
    }) (builtins.attrNames ours)
    ++ map (name: {
      assertion = overruled name == [ ];
      message = lib.concatMapStringsSep "\n" (key: ''
        systemd.services.${containers.${name}.serviceName}.serviceConfig.${key}: this follows from
        virtualisation.windlass.containers.${name}.${(forced name).${key}.option}; set that instead, or put lib.mkForce before the value
      '') (overruled name);
    }) (builtins.attrNames ours)
    ++ map (name: {
      assertion = sharedBy name == [ ];
      message = ''
        virtualisation.windlass.containers.${name}: its unit keeps its files in /run/${name}, which belongs to
        ${toString (sharedBy name)} too, and goes with the first of them that stops; disable one of them, or name it otherwise
      '';
    }) (builtins.attrNames ours);
  };
}
