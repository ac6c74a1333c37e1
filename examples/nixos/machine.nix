# Containers of your own on NixOS: `imports = [ windlass.nixosModules.default ./machine.nix ];`
#
# A switch builds both images, links them into Podman's storage, and starts the containers; nothing is pulled.
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
    images.web = lib.buildImage {
      name = "web";
      config.Cmd = [
        "${pkgs.busybox}/bin/httpd"
        "-f"
        "-p"
        "8080"
      ];
    };
    # Loaded first, and restarted when its own image changed.
    containers.cache = {
      image = images.redis.ref;
      ports = [ "127.0.0.1:6379:6379" ];
      memory = "256m";
    };
  };

  # NixOS' own option with an image of ours: it waits for the loader, and never pulls.
  virtualisation.oci-containers.containers.web = {
    image = images.web.ref;
    ports = [ "127.0.0.1:8080:8080" ];
  };
}
