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
      mkLib = import ./nix;
      prefixed =
        prefix: values:
        builtins.listToAttrs (
          map (name: {
            name = prefix + name;
            value = values.${name};
          }) (builtins.attrNames values)
        );
      # By their paths: whoever imports one twice has it once.
      modules = {
        windlass.imports = [ ./nix/modules/windlass.nix ];
        ai-stack.imports = [ ./nix/modules/ai-stack.nix ];
      };
    in
    {
      packages = forEach (
        system: pkgs:
        let
          stack = self.lib.${system}.aiStack { };
        in
        {
          default = self.packages.${system}.windlass;
          windlass = pkgs.callPackage ./nix/package.nix { };
          windlass-probe = self.lib.${system}.probe;
          ai-stack-images = stack;
          # One name for both platforms; the models are in it once.
          ai-stack-images-multiarch = self.lib.${system}.aiStackMultiarch (
            map (platform: self.lib.${platform}.aiStack { }) systems
          );
        }
        // prefixed "image-" stack.images
        // prefixed "model-" stack.models
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

      nixosModules = modules // {
        default.imports = builtins.attrValues modules;
      };

      # For flake-parts: perSystem.windlass.{images,models,stacks}.
      flakeModules.default = import ./nix/flake-module.nix { inherit mkLib; };

      # nix run .#load: the example stack into the Podman of the user who runs it. nix run .#demo: and a container of it answers.
      apps = forEach (
        system: pkgs: {
          demo =
            let
              inherit (self.packages.${system}) ai-stack-images windlass;
              demo = pkgs.writeShellScriptBin "windlass-demo" ''
                exec sh ${./nix/demo.sh} ${windlass}/bin/windlass ${ai-stack-images.lean} \
                  ${ai-stack-images.images.redis.imageRef} ${pkgs.redis}/bin/redis-cli
              '';
            in
            {
              type = "app";
              program = pkgs.lib.getExe demo;
              meta.description = "Load the example stack into Podman, and have a container of it answer";
            };
          load = {
            type = "app";
            program = pkgs.lib.getExe self.packages.${system}.ai-stack-images.load;
            meta.description = "Load the images of the example stack into Podman";
          };
        }
      );

      # Rootless, with Quadlet files.
      homeModules.default.imports = [
        ./nix/modules/home.nix
        ./nix/modules/ai-stack.nix
      ];

      overlays.default = final: _: { windlass = final.callPackage ./nix/package.nix { }; };

      templates = {
        default = {
          path = ./nix/templates/default;
          description = "Images of your own, built by Nix and loaded into Podman";
        };
        ai-stack = {
          path = ./nix/templates/ai-stack;
          description = "A NixOS machine with the AI stack in containers that never pull";
        };
      };

      checks = forEach (
        system: pkgs:
        {
          inherit (self.packages.${system}) windlass windlass-probe;
          # The images themselves, without archives.
          ai-stack-images = self.packages.${system}.ai-stack-images.lean;
          dev-shell = self.devShells.${system}.default;
        }
        # A machine that runs the stack, where there is nixpkgs to make one.
        // (
          if pkgs ? testers then
            { ai-stack-vm = pkgs.testers.runNixOSTest (import ./nix/tests/ai-stack.nix { inherit self; }); }
          else
            { }
        )
      );

      devShells = forEach (
        _: pkgs: {
          default = pkgs.callPackage ./nix/shell.nix { };
        }
      );

      # `nix fmt` gives a directory since Nix 2.25, which nixfmt itself does not take.
      formatter = forEach (_: pkgs: pkgs.nixfmt-tree);
    };
}
