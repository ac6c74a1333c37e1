# MindsDB, on 47334 (HTTP) and 47335 (the protocol of MySQL): keeps all it has in /root/mdb_storage.
#
# Type: { upstream, service } -> { image, state, container }
#
# Its image is upstream's, as the lock has it under `mindsdb`: nixpkgs has no package. It runs as root, without any capability: its configuration is
# in /root, which no other user can read.
{ upstream, service, ... }:
{
  image = upstream "mindsdb";

  inherit (service) state;

  container = {
    ports = service.published;
    environment = {
      MINDSDB_STORAGE_DIR = service.state;
      PYTHONUNBUFFERED = "1";
    };
    # It writes beside its program.
    readOnly = false;
    tmpfs = [ "/tmp" ];
    capDrop = [ "all" ];
    noNewPrivileges = true;
    health = {
      command = [
        "/windlass-probe"
        "http"
        "http://127.0.0.1:${toString service.port}/api/util/ping"
      ];
      startPeriod = "5m";
    };
  };
}
