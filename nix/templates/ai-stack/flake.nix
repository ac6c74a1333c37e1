{
  description = "A NixOS machine with the AI stack in containers that never pull";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # Where your windlass is: a repository, or a path.
    windlass.url = "git+https://example.org/windlass";
    windlass.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, windlass, ... }:
    {
      # nixos-rebuild switch --flake .#machine
      nixosConfigurations.machine = nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          windlass.nixosModules.default
          ./ai-stack.nix
          # and ./configuration.nix of the machine
        ];
      };
    };
}
