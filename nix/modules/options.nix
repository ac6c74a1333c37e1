# The options of `virtualisation.windlass` that NixOS (windlass.nix) and home-manager (home.nix) share, and what both check.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.virtualisation.windlass;

  image =
    { config, ... }:
    {
      options = {
        image = mkOption {
          type = types.package;
          description = "The image, from `buildImage`, `buildIndex` or `buildModel`.";
        };
        ref = mkOption {
          type = types.str;
          readOnly = true;
          description = "Its reference, `localhost/<name>:<tag>`, known at evaluation: what a container names.";
        };
      };
      config.ref = config.image.imageRef;
    };

  network = import ./network.nix { inherit lib; };
  cannotFail = import ./health-check.nix;
  looksSecret = import ./secrets.nix { inherit lib; };
  secretsOf =
    container:
    filter (key: !(builtins.elem key container.allowSecrets)) (
      builtins.attrNames (lib.filterAttrs looksSecret container.environment)
    );
  directory.options = {
    mode = mkOption {
      type = types.strMatching "[0-7]{4}";
      default = "0700";
      description = "Its mode.";
    };
    user = mkOption {
      type = types.strMatching "[0-9]+";
      default = "0";
      description = "Its owner, a number.";
    };
    group = mkOption {
      type = types.strMatching "[0-9]+";
      default = "0";
      description = "Its group, a number.";
    };
  };

  inherit (lib) attrValues concatMap filter;
  stackImages = stack: attrValues stack.images ++ attrValues stack.models;
  # What is loaded beside the stacks.
  inStacks = map (image: image.imageRef) (concatMap stackImages (attrValues cfg.stacks));
  single = filter (image: !builtins.elem image.ref inStacks) (attrValues cfg.images);
  refs = map (image: image.ref) (attrValues cfg.images);
  userOf = import ./container-user.nix { inherit lib cfg; };
  # A bind of a store path whose owner Podman would change.
  ownsStore =
    volume:
    let
      parts = lib.splitString ":" volume;
    in
    lib.hasPrefix builtins.storeDir (builtins.head parts)
    && builtins.length parts > 2
    && builtins.elem "U" (lib.splitString "," (builtins.elemAt parts 2));
  # home-manager has no such option: all there is rootless.
  isRootless = (cfg.user or "") != null;
in
{
  options.virtualisation.windlass = {
    enable = lib.mkEnableOption "container images that are built by Nix and loaded into Podman without a registry";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./nix/package.nix { }";
      description = "The windlass package.";
    };

    lib = mkOption {
      type = types.raw;
      readOnly = true;
      default = import ../. {
        inherit pkgs;
        windlass = cfg.package;
      };
      defaultText = lib.literalMD "`windlass.lib.mkLib { inherit pkgs; }`";
      description = "The functions that build images from this configuration's packages: `buildImage`, `buildModel`, `buildStack`, …";
    };

    stacks = mkOption {
      type = types.attrsOf types.package;
      default = { };
      description = ''
        Stacks from `buildStack`, to be loaded. Their images are in `images` by name. Only the lean form is taken: no archive of
        it is built.
      '';
    };

    images = mkOption {
      type = types.attrsOf (
        types.coercedTo types.package (image: { inherit image; }) (types.submodule image)
      );
      default = { };
      description = "Images to be loaded, by any name; those of the stacks are added. `ref` is what a container names.";
      example = lib.literalExpression ''
        {
          hello = config.virtualisation.windlass.lib.buildImage {
            name = "hello";
            config.Cmd = [ "''${pkgs.hello}/bin/hello" ];
          };
        }
      '';
    };

    via = mkOption {
      type = types.enum [
        "auto"
        "store"
        "podman"
      ];
      default = "auto";
      description = ''
        How images reach Podman: `store` links them from the Nix store, without copying; `podman` hands them to Podman, which
        unpacks a copy; `auto` links where the host is set up for it.
      '';
    };

    keepGenerations = mkOption {
      type = types.ints.positive;
      default = 3;
      description = ''
        How many of the last loads the collector leaves, to go back to. A generation keeps its store paths from Nix's garbage
        collector, so a rollback needs no network.
      '';
    };

    gc = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Whether superseded images are removed regularly. Volumes, images of others and whatever a container uses stay.
        '';
      };
      dates = mkOption {
        type = types.str;
        default = "weekly";
        description = "When, as systemd.time(7) has it.";
      };
      above = mkOption {
        type = types.nullOr (types.ints.between 1 99);
        default = null;
        description = "Only if the file system is fuller than this, in percent. Null: always.";
      };
      downTo = mkOption {
        type = types.nullOr (types.ints.between 1 99);
        default = null;
        description = "With `above`: until it is no fuller than this, in percent. Null: as `above`.";
      };
    };

    verify = {
      enable = lib.mkEnableOption "a regular check of what is loaded; what is found is a failed unit";
      dates = mkOption {
        type = types.str;
        default = "monthly";
        description = "When, as systemd.time(7) has it.";
      };
      full = lib.mkEnableOption "reading every byte, instead of records and sizes only";
    };

    containers = mkOption {
      type = types.attrsOf (types.submodule ./container.nix);
      default = { };
      description = "Containers to run from these images. Each is a systemd unit, and none ever pulls.";
      example = lib.literalExpression ''
        {
          hello.image = config.virtualisation.windlass.images.hello.ref;
        }
      '';
    };

    networks = mkOption {
      type = types.coercedTo (types.listOf (types.strMatching network.name)) (
        names: lib.genAttrs names (_: { })
      ) (types.attrsOf (types.submodule { inherit (network) options; }));
      # nixpkgs' types that merge in their newer way pass an added check by.
      apply =
        networks:
        let
          wrong = filter (name: builtins.match network.name name == null) (builtins.attrNames networks);
        in
        if wrong == [ ] then
          networks
        else
          throw "The option `virtualisation.windlass.networks' has `${builtins.head wrong}', which is not a name that Podman takes: ${network.name}";
      default = { };
      example.shop.internal = true;
      description = ''
        Podman networks that are made before the containers start, by name; or just their names, as a list. Containers of one network
        find each other by name. One that is not named any more is removed when its unit stops, unless a container still uses it.
      '';
    };

    directories = mkOption {
      type = types.attrsOf (types.submodule directory);
      default = { };
      description = "Directories on the host that are made before the containers start, by absolute path.";
    };

    models = mkOption {
      type = types.attrsOf types.str;
      default = { };
      description = ''
        Slot -> name of the loaded model that is active in it after a load. `windlass model use` changes it until the next one,
        which is at boot at the latest: the journal of windlass-load.service then says "instead of" which model.
      '';
      example.chat = "qwen3";
    };

    loads = mkOption {
      type = types.listOf types.str;
      internal = true;
      readOnly = true;
      default = map (stack: "${stack.lean}") (attrValues cfg.stacks) ++ map (image: "${image.image}") single;
      description = "What the loader loads.";
    };
  };

  config = lib.mkIf cfg.enable {
    virtualisation.windlass.images = lib.mkMerge (
      lib.mapAttrsToList (_: stack: stack.models // stack.images) cfg.stacks
    );

    assertions =
      lib.mapAttrsToList (name: container: {
        assertion = builtins.elem container.image refs;
        message = ''
          virtualisation.windlass.containers.${name}.image: '${container.image}' is not one of the images that are loaded; take the
          `ref` of one of virtualisation.windlass.images: ${toString (builtins.attrNames cfg.images)}
        '';
      }) cfg.containers
      ++ lib.mapAttrsToList (name: container: {
        assertion = container.health == null || !cannotFail container.health.command;
        message = ''
          virtualisation.windlass.containers.${name}.health.command is a check that cannot fail, so that a container which does nothing
          counts as healthy; ask the program something, or leave `health` out
        '';
      }) cfg.containers
      ++ lib.mapAttrsToList (name: container: {
        assertion = lib.all (other: cfg.containers ? ${other}) container.dependsOn;
        message = ''
          virtualisation.windlass.containers.${name}.dependsOn: there is no container
          ${toString (filter (other: !(cfg.containers ? ${other})) container.dependsOn)}
        '';
      }) cfg.containers
      ++ lib.mapAttrsToList (name: container: {
        assertion = builtins.all (limit: builtins.match "[a-z]+" limit != null) (builtins.attrNames container.ulimits);
        message = ''
          virtualisation.windlass.containers.${name}.ulimits: a limit is called by a word like nofile; there are:
          ${builtins.toJSON (builtins.attrNames container.ulimits)}
        '';
      }) cfg.containers
      ++ lib.mapAttrsToList (name: container: {
        assertion = !(builtins.any ownsStore container.volumes);
        message = ''
          virtualisation.windlass.containers.${name}.volumes: with the option U Podman would give the files of the Nix store to the
          container's user; take it away from ${toString (filter ownsStore container.volumes)}
        '';
      }) cfg.containers
      ++ lib.mapAttrsToList (name: container: {
        assertion = container.health == null || container.health.onFailure != "restart" || container.restart == "no";
        message = ''
          virtualisation.windlass.containers.${name}: with health.onFailure = "restart" both Podman and systemd restart it; use
          "kill", or restart = "no"
        '';
      }) cfg.containers
      ++ lib.mapAttrsToList (name: container: {
        assertion =
          !(container.secrets != { } || isRootless) || builtins.match "[0-9]+(:[0-9]+)?" (userOf container) != null;
        message = ''
          virtualisation.windlass.containers.${name}: its files are given to its user, and '${userOf container}' is a name that only
          the image knows; give its number as virtualisation.windlass.containers.${name}.user
        '';
      }) cfg.containers
      ++ concatMap (
        name:
        map (key: {
          assertion = false;
          message = ''
            virtualisation.windlass.containers.${name}.environment.${key} looks like a secret: everybody on this host can read it in the
            Nix store. Put it in a file, and name that in `secrets` (with ${key}_FILE = "/run/secrets/…" where the program knows it) or
            in `environmentFiles`; if it is not a secret, say so with allowSecrets = [ "${key}" ]
          '';
        }) (secretsOf cfg.containers.${name})
      ) (builtins.attrNames cfg.containers)
      ++ lib.mapAttrsToList (slot: model: {
        assertion = builtins.any (stack: stack.models ? ${model}) (attrValues cfg.stacks);
        message = ''
          virtualisation.windlass.models.${slot}: there is no model '${model}' in any stack; there are:
          ${toString (concatMap (stack: builtins.attrNames stack.models) (attrValues cfg.stacks))}
        '';
      }) cfg.models
      ++ [
        {
          assertion = cfg.gc.downTo == null || (cfg.gc.above != null && cfg.gc.downTo <= cfg.gc.above);
          message = "virtualisation.windlass.gc.downTo needs gc.above, and is at most that";
        }
      ];
  };
}
