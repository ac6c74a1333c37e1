# A home of home-manager's own modules with ours beside them, on nixpkgs' own lib.
#
# Type: { lib, homeManager, nixpkgs, pkgs, modules } -> AttrSet
#
# lib:         nixpkgs' lib, its directory
# homeManager: home-manager's source
# nixpkgs:     a directory that is nixpkgs as far as home-manager reads it: see ../real.sh
# pkgs:        the stand-in's packages
{
  lib,
  homeManager,
  nixpkgs,
  pkgs,
  modules,
}:
let
  lib' = import lib;
  standIns = import ../modules/pkgs.nix {
    lib = lib';
    inherit pkgs;
  };
  packages = standIns // {
    path = nixpkgs;
    config = { };
    formats = standIns.formats // {
      ini = standIns.formats.toml;
    };
    glibcLocales = standIns.coreutils // {
      override = _: standIns.coreutils;
    };
    skopeo = standIns.skopeo // {
      policy = standIns.skopeo;
    };
    stdenv = standIns.stdenv // {
      hostPlatform = lib'.systems.elaborate standIns.system // standIns.stdenv.hostPlatform;
    };
  };
  home = import (homeManager + "/modules") {
    lib = lib';
    # Its modules for other programs ask more of nixpkgs than there is here.
    minimal = true;
    pkgs = packages;
    configuration = {
      imports = modules ++ [
        (homeManager + "/modules/services/podman")
        # A module that is imported without what it belongs to.
        { options.programs.fish = lib'.mkOption { type = lib'.types.anything; default = { }; }; }
      ];
      home = {
        username = "ai";
        homeDirectory = "/home/ai";
        stateVersion = "26.05";
      };
      _module.args.pkgs = lib'.mkForce packages;
      manual.manpages.enable = false;
      services.podman.enable = true;
      virtualisation.windlass.storageDir = "/nix/var/windlass/storage";
    };
  };
  inherit (home) config;
in
{
  inherit (config) warnings;
  assertions = map (one: one.message) (builtins.filter (one: !one.assertion) config.assertions);
  storageConf = config.xdg.configFile."containers/storage.conf".source.text;
  containers = map (name: config.xdg.configFile."containers/systemd/${name}.container".text) (
    builtins.attrNames config.virtualisation.windlass.containers
  );
  services = builtins.attrNames config.systemd.user.services;
  activatedAfter = config.home.activation.windlassContainers.after;
}
