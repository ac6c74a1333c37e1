# How one container is run: the keys of a service in `services.json`, which `windlass compose export` writes and `windlass
# compose import` reads, as options. What they become is in oci-containers.nix and quadlet.nix.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  # What becomes a line of a unit, or a part of one; what is quoted there may be any text.
  line = types.strMatching "[^[:cntrl:]]*" // {
    description = "text without line breaks and other control characters";
  };
  list =
    description:
    mkOption {
      type = types.listOf line;
      default = [ ];
      inherit description;
    };
  texts = description: list description // { type = types.listOf types.str; };
  strings =
    description:
    mkOption {
      type = types.attrsOf types.str;
      default = { };
      inherit description;
    };
  maybe =
    type: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description;
    };
  switch =
    default: description:
    mkOption {
      type = types.bool;
      inherit default description;
    };
  section =
    description:
    mkOption {
      type =
        with types;
        attrsOf (oneOf [
          bool
          int
          line
          (listOf (either int line))
        ]);
      default = { };
      inherit description;
    };
  # As Podman and systemd both read it.
  duration = types.strMatching "([0-9]+(ms|s|m|h))+";
  size = types.strMatching "[0-9]+[bkmgBKMG]?";

  health = {
    options = {
      command = mkOption {
        type = types.nonEmptyListOf types.str;
        description = "Program and arguments, run in the container without a shell. Healthy is what exits with 0.";
        example = [
          "/bin/windlass-probe"
          "http"
          "http://127.0.0.1:8080/health"
        ];
      };
      interval = mkOption {
        type = duration;
        default = "30s";
        description = "The pause between two checks.";
      };
      timeout = mkOption {
        type = duration;
        default = "5s";
        description = "How long one check may take.";
      };
      retries = mkOption {
        type = types.ints.positive;
        default = 3;
        description = "Failed checks in a row after which the container is unhealthy.";
      };
      startPeriod = mkOption {
        type = duration;
        default = "0s";
        description = ''
          The time after the start in which a failed check does not count. Units that are made here have Podman wait until the
          container was healthy once before any failed check counts.
        '';
      };
      onFailure = mkOption {
        type = types.enum [
          "none"
          "kill"
          "restart"
          "stop"
        ];
        default = "none";
        description = ''
          What Podman does with an unhealthy container. `kill` lets systemd start it anew; with `restart` Podman and systemd
          both would.
        '';
      };
    };
  };
in
{
  options = {
    image = mkOption {
      type = types.str;
      description = "Reference of the image, `config.virtualisation.windlass.images.<name>.ref`. It is never pulled.";
      example = "localhost/redis:m2v73f3qikq9h90j51f90hcc6cskm64x";
    };
    entrypoint = maybe (types.nonEmptyListOf types.str) "Program and first arguments, instead of the image's.";
    command = texts "Arguments, instead of the image's `Cmd`; none keeps it.";
    environment = strings ''
      Environment variables. They are world-readable in the Nix store: secrets go in `secrets`. A name or a value that looks like a
      secret is an error, by the same table as in `windlass build`, unless `allowSecrets` has its name.
    '';
    allowSecrets = list "Names of variables in `environment` that look like a secret and are not one.";
    environmentFiles = list "Files of `KEY=VALUE` lines on the host, read when the container starts.";
    secrets = mkOption {
      # They are words of a command line of systemd.
      type = types.attrsOf (types.strMatching "/[A-Za-z0-9._/@+:-]+");
      default = { };
      description = ''
        Name -> absolute path of a file on the host. The container finds it as `/run/secrets/<name>`, readable for its own user
        only. The file is read when the container starts, and never copied to the Nix store or to a disk.
      '';
      example.postgres-password = "/run/keys/postgres-password";
    };
    ports = list "Published ports, `IP:HOST:CONTAINER[/udp]`. Without an IP, every address of the host.";
    volumes = list "`SOURCE:TARGET[:OPTIONS]`; a source without a slash is a named volume.";
    tmpfs = list "Directories in memory, `/tmp` or `/tmp:size=64m`.";
    devices = list "Devices of the host, `/dev/dri`, or names of the Container Device Interface, `nvidia.com/gpu=all`.";
    readOnly = switch false "Whether the root file system is read-only.";
    user = maybe line "`UID[:GID]`, instead of the image's.";
    workingDir = maybe line "Working directory, instead of the image's.";
    hostname = maybe (types.strMatching "[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?") "Host name in the container.";
    labels = strings "Labels of the container.";
    networks = list "Networks it is in; none is Podman's default network. Those of `virtualisation.windlass.networks` are made.";
    extraHosts = list "`NAME:IP` lines of its /etc/hosts.";
    capAdd = list "Capabilities that it has beyond Podman's default.";
    capDrop = list "Capabilities that it has not; `all` for none.";
    noNewPrivileges = switch false "Whether nothing in it can gain privileges, by set-user-ID files above all.";
    privileged = switch false "Whether it may do what root on the host may.";
    init = switch false "Whether an init process reaps its children.";
    dependsOn = list "Other containers that are started first. One that has a health check is waited for until it is healthy.";
    health = mkOption {
      type = types.nullOr (types.submodule health);
      default = null;
      description = "Health check. Those of Docker images are not in OCI images, so it belongs to the container.";
    };
    memory = maybe size "Limit of its memory, `2g`.";
    cpus = maybe types.number "Limit of its processor time, in processors.";
    shmSize = maybe size "Size of /dev/shm.";
    pidsLimit = maybe types.ints.unsigned "Limit of its processes.";
    ulimits = strings "Name -> `SOFT:HARD`.";
    stopSignal = maybe (types.strMatching "[A-Z0-9+-]+") "Signal that ends it, instead of the image's.";
    stopTimeout = maybe types.ints.unsigned "Seconds after that signal until it is killed; Podman's default is 10.";
    restart = mkOption {
      type = types.enum [
        "always"
        "on-failure"
        "no"
      ];
      default = "always";
      description = "When systemd starts it again, 3 s after it ended.";
    };
    autoStart = switch true "Whether it is started at boot.";
    extraOptions = texts "Further arguments of `podman run`.";
    unitConfig = section "Further keys of the section [Unit] of its unit.";
    serviceConfig = section ''
      Further keys of the section [Service] of its unit. A list adds to what is there, any other value goes in its place.
    '';
    quadlet = mkOption {
      type = types.lines;
      default = "";
      example = "[Container]\nTimezone=local\n";
      description = ''
        Text at the end of its Quadlet file, as podman-systemd.unit(5) has it: for what there is no option for. It is taken as it is:
        its lines are meant to be lines of the unit, and who writes this configuration may say anything in it. No other option can
        begin a line.
      '';
    };
    after = list "Units of systemd that are started first, `sops-install-secrets.service`.";
  };
}
