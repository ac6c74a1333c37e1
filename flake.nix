{
  description = "Nix store paths and model weights in, reproducible OCI images out, straight into Podman";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach =
        f:
        builtins.listToAttrs (
          map (system: {
            name = system;
            value = f system nixpkgs.legacyPackages.${system};
          }) systems
        );
      # The functions for a caller's own packages, overlays and cross-compilation: lib.mkLib { pkgs = …; }.
      mkLib =
        {
          pkgs,
          windlass ? pkgs.buildPackages.callPackage ./nix/package.nix { },
        }:
        let
          functions = import ./nix/lib {
            inherit windlass;
            inherit (pkgs.stdenv.buildPlatform) system;
            targetSystem = pkgs.stdenv.hostPlatform.system;
          };
        in
        functions
        // {
          # The example stack: aiStack { models.NAME = GGUF-FILE; }.
          aiStack =
            args:
            import ./nix/ai-stack (
              {
                inherit pkgs;
                windlass = functions;
              }
              // args
            );
        };
    in
    {
      packages = forEach (
        system: pkgs: {
          default = self.packages.${system}.windlass;
          windlass = pkgs.callPackage ./nix/package.nix { };
          ai-stack-images = self.lib.${system}.aiStack { };
        }
      );

      lib = {
        inherit mkLib;
      }
      // forEach (
        system: pkgs:
        mkLib {
          inherit pkgs;
          inherit (self.packages.${system}) windlass;
        }
      );

      overlays.default = final: _: { windlass = final.callPackage ./nix/package.nix { }; };

      formatter = forEach (_: pkgs: pkgs.nixfmt);
    };
}
