{
  description = "A stack that says how its images are run";

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
      # `windlass compose export result` writes a compose file for it. On NixOS the modules take the same keys.
      packages.${system}.default = (w.buildStack {
        name = "shop";
        images = [
          (w.buildImage {
            name = "redis";
            contents = [ pkgs.redis ];
            config.Cmd = [ "${pkgs.redis}/bin/redis-server" ];
          })
        ];
        services.cache = {
          image = "redis";
          command = [
            "--appendonly"
            "yes"
          ];
          ports = [ "127.0.0.1:6379:6379" ];
          volumes = [ "cache:/data" ];
          health.command = [
            "redis-cli"
            "ping"
          ];
          memory = "256m";
        };
      }).lean;
    };
}
