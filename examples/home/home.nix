# Rootless containers of a user, with home-manager: `imports = [ windlass.homeModules.default ./home.nix ];`
#
# A switch loads the image into the user's own Podman, and Quadlet makes a unit of the container.
{ config, pkgs, ... }:
let
  inherit (config.virtualisation.windlass) images lib;
in
{
  virtualisation.windlass = {
    enable = true;
    images.redis = lib.buildImage {
      name = "redis";
      config.Cmd = [ "${pkgs.redis}/bin/redis-server" ];
    };
    containers.cache = {
      image = images.redis.ref;
      ports = [ "127.0.0.1:6379:6379" ];
    };
  };
}
