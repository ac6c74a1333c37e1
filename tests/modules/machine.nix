# A NixOS machine with containers of its own images: what a user of nixosModules.windlass writes. The tests change one thing
# of it at a time. It is a home-manager user's too.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (config.virtualisation) windlass;
  inherit (windlass.lib) buildImage buildModel buildStack;
  stack = buildStack {
    name = "shop";
    images = [
      (buildImage {
        name = "app";
        models = [
          (buildModel {
            name = "words";
            files."words.gguf" = config.shop.weights;
          })
        ];
        config = {
          User = "5000:5000";
          Cmd = [ "${pkgs.python3}/bin/python3" ];
        };
      })
    ];
  };
in
{
  # What changes in the images.
  options.shop = {
    release = lib.mkOption { default = "1"; };
    weights = lib.mkOption { default = ./machine.nix; };
  };

  config.virtualisation.windlass = {
    enable = true;
    stacks = { inherit stack; };
    images.redis = buildImage {
      name = "redis";
      config = {
        Env = [ "RELEASE=${config.shop.release}" ];
        User = "6379:6379";
        Cmd = [ "${pkgs.redis}/bin/redis-server" ];
      };
    };
    networks = [ "shop" ];
    directories."/var/lib/shop/redis" = {
      user = "6379";
      group = "6379";
    };
    containers = {
      redis = {
        image = windlass.images.redis.ref;
        command = [
          "redis-server"
          "--save"
          "60 1"
        ];
        ports = [ "127.0.0.1:6379:6379" ];
        volumes = [ "/var/lib/shop/redis:/data" ];
        tmpfs = [ "/tmp" ];
        readOnly = true;
        capDrop = [ "all" ];
        noNewPrivileges = true;
        networks = [ "shop" ];
        memory = "512m";
        cpus = 1.5;
        ulimits.nofile = "1024:2048";
        stopTimeout = 30;
        restart = "on-failure";
        secrets.password = "/run/keys/redis";
        health = {
          command = [
            "/bin/windlass-probe"
            "tcp"
            "127.0.0.1:6379"
          ];
          onFailure = "kill";
        };
      };
      app = {
        image = windlass.images.app.ref;
        environment = {
          GREETING = "it's \"here\" for 100% $HOME";
          REDIS = "redis:6379";
        };
        environmentFiles = [ "/etc/shop.env" ];
        ports = [ "127.0.0.1:8000:8000" ];
        networks = [ "shop" ];
        devices = [ "/dev/dri" ];
        labels.team = "shop";
        extraHosts = [ "db:10.0.0.2" ];
        dependsOn = [ "redis" ];
        init = true;
        extraOptions = [ "--log-opt=tag=app" ];
      };
    };
  };
}
