# MindsDB, on 47334 (HTTP) and 47335 (the protocol of MySQL): keeps all it has in /root/mdb_storage.
#
# Type: { upstream } -> { image, state, container }
#
# Its image is upstream's, as the lock has it under `mindsdb`: nixpkgs has no package. It runs as root, without any capability: its configuration is
# in /root, which nobody else can read.
{ upstream, ... }:
{
  image = upstream "mindsdb";

  state = "/root/mdb_storage";

  container = {
    ports = [
      "127.0.0.1:47334:47334"
      "127.0.0.1:47335:47335"
    ];
    environment = {
      MINDSDB_STORAGE_DIR = "/root/mdb_storage";
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
        "http://127.0.0.1:47334/api/util/ping"
      ];
      startPeriod = "5m";
    };
  };
}
