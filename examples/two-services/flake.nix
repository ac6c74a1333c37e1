{
  description = "Redis and PostgreSQL, planned together";

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
      # What both need is one layer with the same digest: it is stored once. `lean` has no archives, which only Podman's own
      # `podman load` needs.
      packages.${system}.default = (w.buildStack {
        name = "two-services";
        images = [
          (w.buildImage {
            name = "redis";
            config = {
              Cmd = [ "${pkgs.redis}/bin/redis-server" ];
              ExposedPorts."6379/tcp" = { };
            };
          })
          (w.buildImage {
            name = "postgres";
            # Programs that no setting names, for people and for health checks.
            contents = [ pkgs.postgresql_17 ];
            config.Cmd = [ "${pkgs.postgresql_17}/bin/postgres" ];
          })
        ];
      }).lean;
    };
}
