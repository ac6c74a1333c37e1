{
  description = "An image on top of another, and a layer that two images share";

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
      base = w.buildImage {
        name = "base";
        texts."/etc/base-release" = "base 1.0\n";
        config.Env = [
          "FROM_BASE=and from below"
          "PATH=${pkgs.busybox}/bin"
        ];
      };
      # A layer by itself: every image that names it has the same bytes under the same digest.
      tools = w.buildLayer {
        name = "tools";
        deps = [ pkgs.busybox ];
      };
    in
    {
      # `base` may also be an archive of `docker save`, an OCI directory, or `w.fetchImage { lock = ./images.lock.json; name = "debian"; }`.
      packages.${system}.default = w.buildImage {
        name = "app";
        fromImage = base;
        layers = [ tools ];
        # Beside what the base has: Env is joined by name, Labels by key.
        config = {
          Env = [ "GREETING=hello from above" ];
          Cmd = [
            "${pkgs.busybox}/bin/sh"
            "-c"
            "echo $GREETING, $FROM_BASE; cat /etc/base-release"
          ];
        };
      };
    };
}
