# A container as an attribute of `virtualisation.oci-containers.containers`.
#
# Type: { lib } -> { container } -> AttrSet
#
# container: as container.nix describes it
#
# What oci-containers has no option for goes into `extraOptions`, in a fixed order.
{ lib }:
{ container }:
let
  inherit (lib) optional optionals;
  json = builtins.toJSON;
  flag = name: value: optional (value != null) "--${name}=${toString value}";
  number = name: value: optional (value != null) "--${name}=${json value}";
  set = name: value: optional value "--${name}";
  each = name: map (value: "--${name}=${value}");

  health =
    health:
    let
      startup = import ./health-startup.nix health;
    in
    [
      "--health-cmd=${import ./health-cmd.nix health.command}"
      "--health-interval=${health.interval}"
      "--health-timeout=${health.timeout}"
      "--health-retries=${toString health.retries}"
      "--health-start-period=${health.startPeriod}"
    ]
    ++ [
      "--health-startup-cmd=${startup.command}"
      "--health-startup-interval=${startup.interval}"
      "--health-startup-timeout=${startup.timeout}"
    ]
    ++ optional (health.onFailure != "none") "--health-on-failure=${health.onFailure}";
in
{
  inherit (container)
    image
    environment
    environmentFiles
    ports
    volumes
    devices
    user
    hostname
    labels
    networks
    privileged
    autoStart
    ;
  pull = "never";
  workdir = container.workingDir;
  # Podman takes a JSON array here too.
  entrypoint = if container.entrypoint == null then null else json container.entrypoint;
  cmd = container.command;
  extraOptions =
    optionals (container.health != null) (health container.health)
    ++ set "read-only" container.readOnly
    ++ each "tmpfs" container.tmpfs
    ++ each "cap-add" container.capAdd
    ++ each "cap-drop" container.capDrop
    ++ optional container.noNewPrivileges "--security-opt=no-new-privileges"
    ++ set "init" container.init
    ++ each "add-host" container.extraHosts
    ++ flag "memory" container.memory
    ++ number "cpus" container.cpus
    ++ flag "shm-size" container.shmSize
    ++ flag "pids-limit" container.pidsLimit
    ++ lib.mapAttrsToList (name: limit: "--ulimit=${name}=${limit}") container.ulimits
    ++ flag "stop-signal" container.stopSignal
    ++ flag "stop-timeout" container.stopTimeout
    ++ container.extraOptions;
}
