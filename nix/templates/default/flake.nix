{
  description = "Container images from the Nix store";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # Where your windlass is: a repository, or a path.
    windlass.url = "git+https://example.org/windlass";
    windlass.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, windlass, ... }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};
      w = windlass.lib.mkLib { inherit pkgs; };
    in
    {
      # nix build .#images.lean && windlass load result
      packages.${system}.images = w.buildStack {
        name = "images";
        images = [
          (w.buildImage {
            name = "redis";
            config.Cmd = [ "${pkgs.redis}/bin/redis-server" ];
          })
        ];
      };
    };
}
