# PostgreSQL with pgvector: keeps its cluster in /var/lib/postgresql/data, as the pgvector image does, on 5432.
#
# Type: { pkgs, windlass, probe, service, settings ? { } } -> { image, state, available, dataVersion, container }
#
# settings.extensions  as `postgresql.withPackages` takes them: pgvector by default
# settings.package     the server with its extensions, instead of PostgreSQL 17
# settings.locales     glibc's locales, for a cluster that was made with others than C (by Docker's image: en_US.utf8)
# settings.uid         user and group, 5432 by default
#
# What the image does at its start, and what it reads, stands in postgres.sh.
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
  user = "${toString uid}:${toString uid}";
  package = settings.package or (pkgs.postgresql_17.withPackages (
    settings.extensions or (available: [ available.pgvector ])
  ));
  inherit (service) state;
  programs = map getBin [
    package
    pkgs.busybox
    pkgs.zstd
  ];
in
{
  image = windlass.buildImage {
    name = "postgres";
    packages = programs;
    # Open to look at: a rootless Podman that takes the image from root's store maps its owner to `nobody`.
    directories = {
      ${state} = "0755";
      "/docker-entrypoint-initdb.d" = "0755";
    };
    perms = [
      {
        regex = "^${state}$";
        inherit uid;
        gid = uid;
      }
    ];
    symlinks = {
      # initdb and the server start programs through it.
      "/bin/sh" = "${getBin pkgs.busybox}/bin/ash";
      "/usr/bin/env" = "${getBin pkgs.busybox}/bin/env";
      "/bin/windlass-probe" = "${probe}/bin/windlass-probe";
    };
    texts = {
      # psql in the container is the superuser of the same name.
      "/etc/passwd" = ''
        root:x:0:0:root:/root:/bin/sh
        postgres:x:${user}:postgres:/tmp:/bin/sh
        nobody:x:65534:65534:nobody:/nonexistent:/bin/sh
      '';
      "/etc/group" = ''
        root:x:0:
        postgres:x:${toString uid}:
        nobody:x:65534:
      '';
    };
    config = {
      User = user;
      Env = [
        "PATH=${builtins.concatStringsSep ":" (map (program: "${program}/bin") programs)}"
        "PGDATA=${state}"
        # The socket is in the one place that every user can write to, whatever is mounted; clients here look there.
        "PGHOST=/tmp"
      ]
      ++ (if settings ? locales then [ "LOCALE_ARCHIVE=${settings.locales}/lib/locale/locale-archive" ] else [ ]);
      Entrypoint = [
        "${getBin pkgs.busybox}/bin/ash"
        "${./postgres.sh}"
      ];
      Cmd = [ "postgres" ];
      ExposedPorts = service.exposed;
      Volumes.${state} = { };
      # Ends the sessions and writes a checkpoint; SIGTERM waits for the sessions to end by themselves.
      StopSignal = "SIGINT";
    };
  };

  inherit state;
  # No cluster is made without it, unless everybody is to be let in.
  secrets = [ service.password ];
  # Whether nixpkgs has it for this platform.
  available = package.meta.available or true;
  # The major version, which alone reads its data; null for a package whose name has no version.
  dataVersion =
    let
      numbers = builtins.splitVersion (builtins.parseDrvName package.name or "").version;
    in
    if numbers == [ ] then null else builtins.head numbers;

  container = {
    ports = service.published;
    readOnly = true;
    tmpfs = [ "/tmp" ];
    capDrop = [ "all" ];
    noNewPrivileges = true;
    # Over TCP, which the server does not listen on while a cluster is made.
    health = {
      command = [
        "/bin/windlass-probe"
        "exec"
        "--"
        "${getBin package}/bin/pg_isready"
        "--host=127.0.0.1"
        "--username=postgres"
        "--dbname=postgres"
      ];
      interval = "10s";
      startPeriod = "2m";
    };
    # Parallel queries and index builds share memory there; Podman's own limit is 64 MB.
    shmSize = "256m";
    stopTimeout = 120;
  };
}
