# Open WebUI, on 3000: keeps all it has in /app/backend/data.
#
# Type: { upstream, service, services, settings ? { } } -> { image, state, container }
#
# settings.uid  user and group; by default the image's own, root without any capability: upstream tests no other
#
# Its image is upstream's, as the lock has it under `open-webui`. The one of nixpkgs is unfree, and not in the binary cache.
{
  upstream,
  service,
  services,
  settings ? { },
  ...
}:
{
  image = upstream "open-webui";

  inherit (service) state;

  container = {
    # 8080 is llama.cpp's.
    ports = service.published;
    environment = {
      # Its own defaults; what is changed in its settings later goes first.
      OLLAMA_BASE_URL = "http://ollama:${toString services.ollama.port}";
      OPENAI_API_BASE_URL = "http://llama-cpp:${toString services.llama-cpp.port}/v1";
      # The file is made at the first start. Beside the program it would be gone with the container, and all sessions too.
      WEBUI_SECRET_KEY_FILE = "${service.state}/.webui_secret_key";
      ANONYMIZED_TELEMETRY = "false";
      DO_NOT_TRACK = "true";
      SCARF_NO_ANALYTICS = "true";
      ENABLE_VERSION_UPDATE_CHECK = "false";
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
        "http://127.0.0.1:${toString service.port}/health"
        "--contains"
        "true"
      ];
      # The first start makes the database and fetches what it embeds texts with.
      startPeriod = "5m";
    };
  }
  // (
    if settings ? uid then { user = "${toString settings.uid}:${toString settings.uid}"; } else { }
  );
}
