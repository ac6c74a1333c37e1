# What a container's unit needs beside the container: whom its files belong to, what is started before it, its secrets.
#
# Type: { lib, cfg, pkgs } -> name -> AttrSet
#
# cfg: `config.virtualisation.windlass`
{
  lib,
  cfg,
  pkgs,
}:
let
  inherit (import ./network.nix { inherit lib; }) definition;
  userOf = import ./container-user.nix { inherit lib cfg; };
  loader = lib.optional (cfg.loads != [ ]) "windlass-load.service";
in
name:
let
  container = cfg.containers.${name};
  parts = lib.splitString ":" (userOf container);
  secrets = builtins.attrNames container.secrets;
in
rec {
  uid = builtins.head parts;
  gid = if builtins.length parts > 1 then builtins.elemAt parts 1 else uid;
  # In a user namespace of one's own, the container's user is oneself: files and secrets are readable without a chown.
  keepId = if uid == "0" then null else "keep-id:uid=${uid},gid=${gid}";

  # Rootless Podman needs the set-user-ID newuidmap, which lies where the system's own programs do, and not always on the
  # path of a user's systemd.
  userPath = "/run/wrappers/bin:/run/current-system/sw/bin:/usr/bin:/bin";

  # Below /run, or the user's directory there. It is gone when the unit stops.
  runtimeDirectory = lib.optional (secrets != [ ]) "windlass/${name}";

  # Command lines that put the secrets there, below `directory`, for the user and group `owner`.
  installSecrets =
    { directory, owner }:
    map (
      secret:
      toString (
        [
          "${pkgs.coreutils}/bin/install"
          "--mode=0400"
        ]
        ++ lib.optionals (owner != null) [
          "--owner=${owner.uid}"
          "--group=${owner.gid}"
        ]
        ++ [
          container.secrets.${secret}
          "${directory}/${name}/${secret}"
        ]
      )
    ) secrets;
  secretVolumes = directory: map (secret: "${directory}/${name}/${secret}:/run/secrets/${secret}:ro") secrets;

  # Whether others wait until it is healthy.
  isWaitedFor =
    container.health != null
    && builtins.any (other: builtins.elem name other.dependsOn) (builtins.attrValues cfg.containers);

  # A command line that ends when the container is healthy, or is gone, for a unit that others wait for. `--sdnotify=healthy`
  # would say so too, but now and then so late that systemd does not know whose word it is and waits for ever
  # (https://github.com/containers/podman/issues/19724). systemd calls no ExecStop of a unit that has not started yet, and the
  # SIGTERM that it sends instead does not end a server that hangs: then the container is stopped here, as Podman does it.
  waitHealthy =
    podman:
    pkgs.writeShellScript "windlass-healthy-${name}" ''
      trap '${podman}/bin/podman stop --ignore ${name}' TERM
      ${podman}/bin/podman wait --condition=healthy ${name} &
      wait $!
    '';

  # Where Podman has the image's layers, if that is not the usual place: where they are otherwise from one moment to the next,
  # Podman cannot describe a container any more that runs on them, so it is started anew.
  layersAt =
    let
      linked = cfg.via or "auto" != "podman" && cfg.storageDir != null;
      place = if linked then cfg.storageDir else "Podman's own storage";
    in
    lib.optional (place != "/nix/var/windlass/storage") "layers in ${place}";

  # Names of the networks that it is in, without its options there: `shop:ip=10.89.7.2`.
  joined = map (network: builtins.head (lib.splitString ":" network)) container.networks;

  # What the container changes with beside itself.
  definitions = layersAt ++ builtins.filter (definition: definition != null) (
    map (network: definition network cfg.networks.${network}) (
      lib.intersectLists (builtins.attrNames cfg.networks) joined
    )
  );

  # The pause before a container that ended is started again: long enough that one that always fails does not come to systemd's
  # start limit, 5 starts in 10 s, after which it would stay down.
  restartSec = "3s";

  # A container that a stop has to kill, or that SIGTERM ends, has not failed: a failed unit that the system does not have any more
  # would make `nixos-rebuild switch` end with 4. It is started again all the same if that was not a stop.
  endings = lib.optionalAttrs (container.restart != "no") (
    {
      SuccessExitStatus = "137 143";
    }
    // lib.optionalAttrs (container.restart == "on-failure") { RestartForceExitStatus = "137 143"; }
  );

  # Units that come first. They are wanted, not required: a new version of one of them restarts nothing else.
  after =
    unit:
    loader
    ++ map (network: "windlass-network-${network}.service") (
      lib.intersectLists (builtins.attrNames cfg.networks) joined
    )
    # Those that there are: an assertion names the others.
    ++ map unit (builtins.filter (other: cfg.containers ? ${other}) container.dependsOn)
    ++ container.after;
}
