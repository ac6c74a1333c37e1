# Ollama, on 11434: keeps its models and its key in /var/lib/ollama.
#
# Type: { pkgs, windlass, probe, accel ? null, settings ? { } } -> { image, available, state, container }
#
# settings.package  instead of nixpkgs' ollama for `accel`
# settings.uid      user and group, 11434 by default
{
  pkgs,
  windlass,
  probe,
  accel ? null,
  settings ? { },
  ...
}:
let
  uid = settings.uid or 11434;
  user = "${toString uid}:${toString uid}";
  needs = import ./accel.nix {
    inherit pkgs accel;
    name = "ollama";
  };
  package = settings.package or needs.package;
  state = "/var/lib/ollama";
in
{
  image = windlass.buildImage {
    name = "ollama";
    inherit (needs) forbid;
    # Open to look at: a rootless Podman that takes the image from root's store maps its owner to nobody.
    directories.${state} = "0755";
    perms = [
      {
        regex = "^${state}$";
        inherit uid;
        gid = uid;
      }
    ];
    symlinks = {
      "/bin/ollama" = "${package}/bin/ollama";
      "/bin/windlass-probe" = "${probe}/bin/windlass-probe";
    };
    config = {
      User = user;
      WorkingDir = state;
      Volumes.${state} = { };
      ExposedPorts."11434/tcp" = { };
      Env = [
        "PATH=/bin"
        "HOME=${state}"
        "OLLAMA_HOST=0.0.0.0:11434"
        "OLLAMA_MODELS=${state}/models"
        # At its start it would remove the blobs that no manifest of its own names.
        "OLLAMA_NOPRUNE=1"
        # For `ollama pull`, which is the user's to ask for.
        "SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt"
      ]
      ++ needs.env
      ++ (if accel == "vulkan" then [ "OLLAMA_VULKAN=1" ] else [ ]);
      Entrypoint = [ "${package}/bin/ollama" ];
      Cmd = [ "serve" ];
    };
  };

  available = settings ? package || needs.available;

  inherit state;

  container = {
    ports = [ "127.0.0.1:11434:11434" ];
    inherit (needs) devices;
    readOnly = true;
    tmpfs = [ "/tmp" ];
    capDrop = [ "all" ];
    noNewPrivileges = true;
    health = {
      command = [
        "/bin/windlass-probe"
        "http"
        "http://127.0.0.1:11434/api/version"
      ];
      startPeriod = "30s";
    };
  };
}
