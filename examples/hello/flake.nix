{
  description = "The smallest image: one program";

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
      # nix build && windlass load result && podman run --rm localhost/hello
      packages.${system}.default = w.buildImage {
        name = "hello";
        # What the command names is in the image, with its closure; nothing else is.
        config.Cmd = [
          "${pkgs.busybox}/bin/echo"
          "hello from the Nix store"
        ];
      };
    };
}
