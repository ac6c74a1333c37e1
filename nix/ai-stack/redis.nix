# Redis: keeps its data in the volume /data, runs as a user of its own, listens on 6379.
{
  pkgs,
  windlass,
  models,
}:
windlass.buildImage {
  name = "redis";
  # Open to look at: a rootless Podman that takes the image from root's store maps its owner to nobody.
  directories."/data" = "0755";
  perms = [
    {
      regex = "^/data$";
      uid = 999;
      gid = 999;
    }
  ];
  config = {
    User = "999:999";
    WorkingDir = "/data";
    Volumes."/data" = { };
    ExposedPorts."6379/tcp" = { };
    # A container's own network is private: what may reach it is decided where ports are published.
    Cmd = [
      "${pkgs.redis}/bin/redis-server"
      "--bind"
      "0.0.0.0"
      "-::*"
      "--protected-mode"
      "no"
      "--dir"
      "/data"
    ];
  };
}
