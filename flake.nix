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
      # The functions for a caller's own packages: lib.mkLib { pkgs = …; windlass = …; }.
      mkLib =
        {
          pkgs,
          windlass ? pkgs.callPackage ./nix/package.nix { },
        }:
        import ./nix/lib {
          inherit windlass;
          inherit (pkgs.stdenv.hostPlatform) system;
        };
    in
    {
      packages = forEach (
        system: pkgs: {
          default = self.packages.${system}.windlass;
          windlass = pkgs.callPackage ./nix/package.nix { };
          ai-stack-images = import ./nix/ai-stack {
            inherit pkgs;
            windlass = self.lib.${system};
          };
        }
      );

      lib = {
        inherit mkLib;
      }
      // forEach (system: pkgs: mkLib { inherit pkgs; inherit (self.packages.${system}) windlass; });

      overlays.default = final: _: { windlass = final.callPackage ./nix/package.nix { }; };

      formatter = forEach (_: pkgs: pkgs.nixfmt-rfc-style);
    };
}
