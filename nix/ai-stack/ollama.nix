# Ollama, on 11434: keeps its key in /var/lib/ollama, and the models that it pulls, where none lies in the image.
#
# Type: { pkgs, windlass, probe, service, accel ? null, models ? [ ], settings ? { } } -> { image, available, state, container }
#
# models               from buildModel; those that are one GGUF file are in the image, under their own names. Then Ollama
#                      pulls no others: the directory of the image is read-only
# settings.bake        false: no model in the image, all are pulled
# settings.modelfiles  name of a model -> what buildOllama takes for it beside `model`: { template = "…"; }
# settings.package     instead of nixpkgs' ollama for `accel`
# settings.uid         user and group, 11434 by default
{
  pkgs,
  windlass,
  probe,
  service,
  accel ? null,
  models ? [ ],
  settings ? { },
  ...
}:
let
  uid = settings.uid or service.port;
  user = "${toString uid}:${toString uid}";
  gguf = (import ../formats.nix).gguf.ending;
  needs = import ./accel.nix {
    inherit pkgs accel;
    name = "ollama";
  };
  package = settings.package or needs.package;
  inherit (service) state;
  baked =
    if settings.bake or true then
      builtins.filter (model: model.spec.files ? "${model.modelName}${gguf}") models
    else
      [ ];
  isBaked = baked != [ ];
  directory = if isBaked then "/models/ollama" else "${state}/models";
in
{
  image = windlass.buildImage {
    name = "ollama";
    packages = [ package ];
    inherit (needs) forbid;
    models = baked;
    layers =
      if isBaked then
        [
          (windlass.buildOllama {
            name = "ollama-models";
            inherit directory;
            models = map (model: { inherit model; } // settings.modelfiles.${model.modelName} or { }) baked;
          })
        ]
      else
        [ ];
    # Open to look at: a rootless Podman that takes the image from root's store maps its owner to `nobody`.
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
      ExposedPorts = service.exposed;
      Env = [
        "PATH=/bin"
        "HOME=${state}"
        "OLLAMA_HOST=0.0.0.0:${toString service.port}"
        "OLLAMA_MODELS=${directory}"
        # At its start it would remove the blobs that no manifest of its own names; where it may not, it would not start.
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
    ports = service.published;
    inherit (needs) devices;
    readOnly = true;
    tmpfs = [ "/tmp" ];
    capDrop = [ "all" ];
    noNewPrivileges = true;
    health = {
      command = [
        "/bin/windlass-probe"
        "http"
        "http://127.0.0.1:${toString service.port}/api/version"
      ];
      startPeriod = "30s";
    };
  };
}
