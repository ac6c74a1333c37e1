# llama.cpp's HTTP server, on 8080: with the models that lie in the image, or with those that are mounted.
#
# Type: { pkgs, windlass, probe, service, accel ? null, models ? [ ], settings ? { } } -> { image, available, state, container, serve }
#
# models            from buildModel, each the file NAME.gguf; with just one of them the image serves it by itself
# settings.package  instead of nixpkgs' llama-cpp for `accel`
# settings.uid      user and group, 8080 by default
#
# `serve FILE` is the command that serves FILE of the container: which model it is stands there and not in the image, so
# another one is a restart and not a new image.
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
  uid = toString (settings.uid or service.port);
  needs = import ./accel.nix {
    inherit pkgs accel;
    name = "llama-cpp";
  };
  package = settings.package or needs.package;
  listen = [
    "--host"
    "0.0.0.0"
    "--port"
    (toString service.port)
  ];
  serve =
    file:
    [
      "--model"
      file
    ]
    ++ listen;
  only = builtins.head models;
  file = only.modelName + (import ../formats.nix).gguf.ending;
in
{
  image = windlass.buildImage {
    name = "llama-cpp";
    packages = [ package ];
    inherit models;
    inherit (needs) forbid;
    symlinks."/bin/windlass-probe" = "${probe}/bin/windlass-probe";
    config = {
      User = "${uid}:${uid}";
      ExposedPorts = service.exposed;
      # Caches of shaders and the like: nothing that is kept.
      Env = [ "HOME=/tmp" ] ++ needs.env;
      Entrypoint = [ "${package}/bin/llama-server" ];
      Cmd =
        if builtins.length models == 1 && only.spec.files ? ${file} then
          serve "${only.spec.mountPath}/${file}"
        else
          listen;
    };
  };

  available = settings ? package || needs.available;

  inherit (service) state;

  container = {
    ports = service.published;
    inherit (needs) devices;
    readOnly = true;
    tmpfs = [ "/tmp" ];
    capDrop = [ "all" ];
    noNewPrivileges = true;
    # It answers 503 until the model is in memory: 20 GB from a slow disk take minutes.
    health = {
      command = [
        "/bin/windlass-probe"
        "http"
        "http://127.0.0.1:${toString service.port}/health"
      ];
      startPeriod = "10m";
    };
  };

  inherit serve;
}
