{
  description = "A tree that shell commands make, as dockerTools users write it";

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
      # fakeRootCommands run under fakeroot in a derivation of their own; the owners and modes that they set are in the layer.
      packages.${system}.default = w.buildImage {
        name = "commands";
        fakeRootCommands = ''
          mkdir -p srv/app
          echo 'made by a command' > srv/app/note
          chown -R 1000:100 srv/app
          chmod 0750 srv/app
        '';
        config.Cmd = [
          "${pkgs.busybox}/bin/stat"
          "-c"
          "%u:%g %a %n"
          "/srv/app"
        ];
      };
    };
}
