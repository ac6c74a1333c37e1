# Qdrant, on 6333 (HTTP) and 6334 (gRPC): keeps collections and snapshots in /qdrant/storage, as its own image does.
#
# Type: { pkgs, windlass, probe, service, settings ? { } } -> { image, available, state, container }
#
# settings.package  instead of nixpkgs' qdrant
# settings.uid      user and group, 6333 by default
#
# It reads, the later over the earlier: /qdrant/config/config.yaml, which is here; production.yaml and local.yaml beside it;
# and variables, QDRANT__SERVICE__MAX_REQUEST_SIZE_MB=64. local.yaml is the secret `qdrant.yaml`, if there is one: a key in
# a variable would be seen by everybody who may look at the container.
#
#   secrets."qdrant.yaml" = "/run/keys/qdrant.yaml";   # service: { api_key: … }
#
# Its web interface is a package of its own, and not in the image.
{
  pkgs,
  windlass,
  probe,
  service,
  settings ? { },
  ...
}:
let
  uid = settings.uid or service.port;
  user = "${toString uid}:${toString uid}";
  package = settings.package or pkgs.qdrant;
  inherit (service) state;
in
{
  image = windlass.buildImage {
    name = "qdrant";
    packages = [ package ];
    # Open to look at: a rootless Podman that takes the image from root's store maps its owner to `nobody`.
    directories.${state} = "0755";
    perms = [
      {
        regex = "^${state}$";
        inherit uid;
        gid = uid;
      }
    ];
    texts = {
      "/qdrant/config/config.yaml" = ''
        storage:
          storage_path: ${state}
          snapshots_path: ${state}/snapshots
        service:
          host: 0.0.0.0
          http_port: ${toString service.port}
          grpc_port: ${toString (builtins.elemAt service.ports 1)}
          enable_static_content: false
        telemetry_disabled: true
      '';
      # To be mounted over.
      "/qdrant/config/production.yaml" = "{}\n";
    };
    symlinks = {
      "/bin/windlass-probe" = "${probe}/bin/windlass-probe";
      "/qdrant/config/local.yaml" = "/run/secrets/qdrant.yaml";
    };
    config = {
      User = user;
      WorkingDir = "/qdrant";
      Volumes.${state} = { };
      ExposedPorts = service.exposed;
      Env = [
        "RUN_MODE=production"
        # It does not start when it cannot write that it did.
        "QDRANT_INIT_FILE_PATH=/tmp/qdrant-initialized"
        # Snapshots can be fetched from other hosts.
        "SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt"
      ];
      Entrypoint = [ "${package}/bin/qdrant" ];
    };
  };

  # Whether these packages have it at all, and for this platform.
  available = settings ? package || pkgs ? qdrant && pkgs.qdrant.meta.available or true;

  inherit state;

  container = {
    ports = service.published;
    readOnly = true;
    tmpfs = [ "/tmp" ];
    capDrop = [ "all" ];
    noNewPrivileges = true;
    # Answered without a key, once the collections are loaded.
    health = {
      command = [
        "/bin/windlass-probe"
        "http"
        "http://127.0.0.1:${toString service.port}/readyz"
      ];
      startPeriod = "2m";
    };
    # What was written is flushed.
    stopTimeout = 30;
  };
}
