# Evaluates modules as NixOS and home-manager do, and gives what they make as text.
#
# lib:  nixpkgs', or the stand-in
# pkgs: packages of either
#
# nixos: [ module ] -> AttrSet, home: [ module ] -> AttrSet
{ lib, pkgs }:
let
  packages = import ./pkgs.nix { inherit lib pkgs; };

  evaluate =
    lib: modules:
    (lib.evalModules {
      # home-manager hands its own `lib` to modules.
      specialArgs = { inherit lib; };
      modules = modules ++ [ { _module.args.pkgs = packages; } ];
    }).config;
  # A file's text, or what it is a link to.
  fileText = file: file.source.text or (toString file.source);
  messages = config: {
    assertions = map (failed: failed.message) (lib.filter (one: !one.assertion) config.assertions);
    inherit (config) warnings;
  };
in
{
  pkgs = packages;

  nixos =
    modules:
    let
      config = evaluate lib (
        modules
        ++ [
          ./nixos/systemd.nix
          ./nixos/system.nix
          ./nixos/podman.nix
          ./nixos/oci-containers.nix
        ]
      );
      texts = lib.mapAttrs (_: unit: unit.text);
    in
    messages config
    // {
      inherit config;
      units = texts config.systemd.units;
      userUnits = texts config.systemd.user.units;
      # Those that are a part of a unit from elsewhere.
      dropIns =
        let
          of = lib.filterAttrs (_: unit: unit.overrideStrategy == "asDropin");
        in
        builtins.attrNames (of config.systemd.units // of config.systemd.user.units);
      # What the lines of each service start; `ExecStartPre` of oci-containers is beside the others.
      scripts = lib.mapAttrs (
        name: scripts:
        scripts // lib.optionalAttrs (config.result.preStart ? ${name}) { pre-start = config.result.preStart.${name}; }
      ) config.result.scripts;
      etc = lib.mapAttrs (_: fileText) (lib.filterAttrs (_: file: file.enable) config.environment.etc);
      storageConf = config.virtualisation.containers.storage.settings or null;
      inherit (config.result) activation tmpfiles;
      preSwitch = config.system.preSwitchChecks;
      firewall = config.networking.firewall.interfaces;
      packages = map lib.getName config.environment.systemPackages;
      # Units that packages bring: file -> what it is a link to.
      unitLinks = lib.listToAttrs (
        map ({ name, path }: lib.nameValuePair name path) (
          lib.concatMap (package: package.entries or [ ]) config.systemd.packages
        )
      );
    };

  home =
    modules:
    let
      hm = lib // {
        hm = import ./home-lib.nix { inherit lib; };
      };
      config = evaluate hm (modules ++ [ ./home.nix ]);
    in
    messages config
    // {
      inherit config;
      files = lib.mapAttrs (_: fileText) config.home.file;
      activation = map ({ name, data }: { inherit name; text = data; }) (
        (hm.hm.dag.topoSort config.home.activation).result
      );
      packages = map lib.getName config.home.packages;
      podmanContainers = lib.mapAttrs (_: container: container.extraConfig) config.services.podman.containers;
    };
}
