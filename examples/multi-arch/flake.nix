{
  description = "One name for the images of two platforms";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # Where your windlass is: a repository, or a path.
    windlass.url = "git+https://example.org/windlass";
    windlass.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, windlass, ... }:
    let
      libFor = system: windlass.lib.mkLib { pkgs = nixpkgs.legacyPackages.${system}; };
      imageFor =
        system:
        (libFor system).buildImage {
          name = "hello";
          config.Cmd = [
            "${nixpkgs.legacyPackages.${system}.busybox}/bin/echo"
            "hello from ${system}"
          ];
        };
    in
    {
      # Each image is built on a machine of its platform, or by a remote builder; the index is the same on both.
      packages.x86_64-linux.default = (libFor "x86_64-linux").buildIndex {
        name = "hello";
        images = map imageFor [
          "x86_64-linux"
          "aarch64-linux"
        ];
      };
    };
}
