# A container as the text of a Quadlet file, `<name>.container` (podman-systemd.unit(5), Podman 5.0 and later).
#
# Type: { lib } -> { name, container, after, preStart, postStart, restartSec, endings, runtimeDirectory, mounts, userns, path, wantedBy, definitions } -> string
#
# name:          of the container and of its unit
# container:     as container.nix describes it
# after:         units that are started before it
# preStart:      command lines that run before it
# postStart:     command lines that run when it has been started, and must end before others count it as started
# restartSec:    the pause before it is started again
# endings:       keys of [Service] about how it may end
# runtimeDirectory: directories below /run, or the user's own, that exist while it runs
# mounts:        further values of `Volume`, with specifiers of systemd
# userns:        value of `--userns`, or null
# path:          where podman looks for other programs, or null
# wantedBy:      the target that starts it
# definitions:   what else the container changes with, as lines
#
# Keys are in the order of the manual page's sections; what Podman 5.0 has no key for is in `PodmanArgs`.
{ lib }:
let
  inherit (lib) mapAttrsToList optional;

  # Quadlet hands values on to an ExecStart of systemd, which would replace variables and specifiers.
  inherit (import ./unit-text.nix { inherit lib; }) raw word words line;

  one = key: value: optional (value != null) "${key}=${raw (toString value)}";
  each = key: map (value: "${key}=${raw value}");
  eachWord = key: map (value: "${key}=${word value}");
  pairs = key: mapAttrsToList (name: value: "${key}=${word "${name}=${value}"}");
  set = key: value: optional value "${key}=true";
  argument = name: value: optional (value != null) "PodmanArgs=${word "--${name}=${value}"}";
  setting = value: if builtins.isBool value then lib.boolToString value else toString value;
  settings = section: lib.concatLists (mapAttrsToList (key: values: map (value: "${key}=${setting value}") (lib.toList values)) section);
  json = value: if value == null then null else builtins.toJSON value;
in
{
  name,
  container,
  after ? [ ],
  preStart ? [ ],
  postStart ? [ ],
  restartSec,
  endings ? { },
  runtimeDirectory ? [ ],
  mounts ? [ ],
  userns ? null,
  path ? null,
  wantedBy ? "default.target",
  definitions ? [ ],
}:
let
  health =
    { command, ... }@health:
    let
      startup = import ./health-startup.nix health;
    in
    one "HealthCmd" (import ./health-cmd.nix command)
    ++ one "HealthInterval" health.interval
    ++ one "HealthTimeout" health.timeout
    ++ one "HealthRetries" health.retries
    ++ one "HealthStartPeriod" health.startPeriod
    ++ one "HealthStartupCmd" startup.command
    ++ one "HealthStartupInterval" startup.interval
    ++ one "HealthStartupTimeout" startup.timeout
    ++ optional (health.onFailure != "none") "HealthOnFailure=${health.onFailure}";

  sections = {
    # Podman would have it wait for the network, which nothing here needs.
    Quadlet = [ "DefaultDependencies=false" ];
    Unit = [
      "Description=Container ${name}"
    ]
    ++ map (unit: "Wants=${unit}") after
    ++ map (unit: "After=${unit}") after
    ++ settings container.unitConfig;
    Container = [
      "ContainerName=${name}"
      "Image=${container.image}"
      "Pull=never"
    ]
    ++ one "Entrypoint" (json container.entrypoint)
    ++ optional (container.command != [ ]) "Exec=${words container.command}"
    ++ pairs "Environment" container.environment
    ++ eachWord "EnvironmentFile" container.environmentFiles
    ++ each "PublishPort" container.ports
    ++ each "Volume" container.volumes
    ++ map (mount: "Volume=${mount}") mounts
    ++ each "Tmpfs" container.tmpfs
    ++ eachWord "AddDevice" container.devices
    ++ set "ReadOnly" container.readOnly
    ++ one "UserNS" userns
    ++ argument "user" container.user
    ++ one "WorkingDir" container.workingDir
    ++ one "HostName" container.hostname
    ++ pairs "Label" container.labels
    ++ each "Network" container.networks
    ++ lib.concatMap (argument "add-host") container.extraHosts
    ++ eachWord "AddCapability" container.capAdd
    ++ eachWord "DropCapability" container.capDrop
    ++ set "NoNewPrivileges" container.noNewPrivileges
    ++ optional container.privileged "PodmanArgs=--privileged"
    ++ set "RunInit" container.init
    ++ lib.optionals (container.health != null) (health container.health)
    ++ argument "memory" container.memory
    ++ argument "cpus" (json container.cpus)
    ++ one "ShmSize" container.shmSize
    ++ one "PidsLimit" container.pidsLimit
    ++ mapAttrsToList (name: limit: "Ulimit=${name}=${raw limit}") container.ulimits
    ++ argument "stop-signal" container.stopSignal
    ++ argument "stop-timeout" (json container.stopTimeout)
    ++ map (option: "PodmanArgs=${word option}") container.extraOptions;
    Service =
      optional (path != null) "Environment=PATH=${path}"
      ++ map (directory: "RuntimeDirectory=${directory}") runtimeDirectory
      ++ map (command: "ExecStartPre=${command}") preStart
      ++ map (command: "ExecStartPost=${command}") postStart
      ++ [
        "Restart=${container.restart}"
        "RestartSec=${restartSec}"
      ]
      ++ settings endings
      ++ [
        # To be healthy may take a while, but not for ever.
        "TimeoutStartSec=${if postStart != [ ] then "15min" else "infinity"}"
        "TimeoutStopSec=${toString (60 + (if container.stopTimeout == null then 10 else container.stopTimeout))}"
      ]
      # The last value of a key counts, where it is not a list.
      ++ settings container.serviceConfig;
    Install = optional container.autoStart "WantedBy=${wantedBy}";
  };
  # Whatever is in it: a line of a section is one line, and no value begins another key.
  checked = line "virtualisation.windlass.containers.${name}";
  section = header: "[${header}]\n" + lib.concatMapStrings (text: checked text + "\n") sections.${header};
in
"# From virtualisation.windlass.containers.${name}\n"
# Another network is another container too.
+ lib.concatMapStrings (definition: "# ${definition}\n") definitions
+ "\n"
+ lib.concatMapStringsSep "\n" section (
  [
    "Quadlet"
    "Unit"
    "Container"
    "Service"
  ]
  ++ optional (sections.Install != [ ]) "Install"
)
+ lib.optionalString (container.quadlet != "") "\n${container.quadlet}"
