# A module for flake-parts: images, models and stacks as packages, with programs to load and push them, and checks.
#
# Type: { mkLib } -> module of flake-parts
#
# Example:
#   perSystem = { config, pkgs, ... }: {
#     windlass.images.redis = config.windlass.lib.buildImage {
#       name = "redis";
#       config.Cmd = [ "${pkgs.redis}/bin/redis-server" ];
#     };
#     windlass.digests.redis = "sha256:…";
#   };
#
#   nix build .#redis
#   nix run .#load-redis
#   nix run .#push-redis -- docker://registry.example/team/redis:1
#   nix flake check
{ mkLib }:
{ lib, flake-parts-lib, ... }:
{
  options.perSystem = flake-parts-lib.mkPerSystemOption (
    { config, pkgs, ... }:
    let
      inherit (lib) mkOption types;
      cfg = config.windlass;
      made = description: mkOption {
        type = types.attrsOf types.package;
        default = { };
        inherit description;
      };
      all = cfg.images // cfg.models // cfg.stacks;
      apps = verb: lib.mapAttrs' (
        name: made:
        lib.nameValuePair "${verb}-${name}" {
          type = "app";
          program = lib.getExe made.${verb};
          meta.description = "${verb} ${name}";
        }
      ) all;
    in
    {
      options.windlass = {
        lib = mkOption {
          type = types.raw;
          readOnly = true;
          default = mkLib { inherit pkgs; };
          defaultText = lib.literalExpression "windlass.lib.mkLib { inherit pkgs; }";
          description = "The functions that build images from this system's packages.";
        };
        images = made "Images from `buildImage`, `buildIndex` or `fetchImage`.";
        models = made "Models from `buildModel`.";
        stacks = made "Stacks from `buildStack`.";
        digests = mkOption {
          type = types.attrsOf (types.strMatching "sha256:[0-9a-f]{64}");
          default = { };
          description = "Name of an image or a model -> the digest that it must have: `nix flake check` compares.";
        };
      };
      config = {
        packages = all;
        apps = apps "load" // apps "push";
        checks =
          lib.mapAttrs' (name: made: lib.nameValuePair "${name}-verify" made.tests.verify) all
          // lib.mapAttrs' (
            name: digest:
            lib.nameValuePair "${name}-digest" (
              pkgs.runCommand "${name}-digest" { } ''
                if ! grep -q '"digest": *"${digest}"' ${all.${name}}/image.json; then
                  echo "${name} has not the digest that windlass.digests.${name} says; it has:" >&2
                  grep -m1 '"digest"' ${all.${name}}/image.json >&2
                  exit 1
                fi
                echo ${digest} >"$out"
              ''
            )
          ) cfg.digests;
      };
    }
  );
}
