# Redis: keeps its data in /data, on 6379.
#
# Type: { pkgs, windlass, probe, service, settings ? { } } -> { image, state, available, container }
#
# settings.package  the server, pkgs.redis by default
# settings.uid      user and group, 6379 by default
#
# It saves as Redis does by default: after an hour with a change, 5 minutes with 100, a minute with 10 000, and when it
# is stopped. What came after the last save is lost in a crash; the arguments `--appendonly yes` keep all but a second.
{
  pkgs,
  windlass,
  probe,
  service,
  settings ? { },
  ...
}:
let
  inherit (pkgs.lib) getBin;
  uid = settings.uid or service.port;
  package = getBin (settings.package or pkgs.redis);
  busybox = getBin pkgs.busybox;
  inherit (service) state;
in
{
  image = windlass.buildImage {
    name = "redis";
    packages = [
      package
      busybox
    ];
    # Open to look at: a rootless Podman that takes the image from root's store maps its owner to `nobody`.
    directories.${state} = "0755";
    perms = [
      {
        regex = "^${state}$";
        inherit uid;
        gid = uid;
      }
    ];
    symlinks."/bin/windlass-probe" = "${probe}/bin/windlass-probe";
    config = {
      User = "${toString uid}:${toString uid}";
      WorkingDir = state;
      Env = [ "PATH=${package}/bin:${busybox}/bin" ];
      Entrypoint = [
        "${busybox}/bin/ash"
        "${./redis.sh}"
      ];
      Cmd = [ "redis-server" ];
      Volumes.${state} = { };
      ExposedPorts = service.exposed;
    };
  };

  inherit state;
  # Whether nixpkgs has it for this platform.
  available = package.meta.available or true;

  container = {
    ports = service.published;
    readOnly = true;
    tmpfs = [ "/tmp" ];
    capDrop = [ "all" ];
    noNewPrivileges = true;
    health = {
      command = [
        "/bin/windlass-probe"
        "tcp"
        "127.0.0.1:${toString service.port}"
        "--send"
        "AUTH health -\\r\\nPING\\r\\n"
        "--expect"
        "+PONG"
      ];
      # Podman asks at the start, which may be too early, and then after this time: what waits for it waits so long.
      interval = "10s";
    };
    # To save what is in memory.
    stopTimeout = 120;
  };
}
