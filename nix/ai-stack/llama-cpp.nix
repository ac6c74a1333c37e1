# llama.cpp's HTTP server, on 8080: with the models that lie in the image, or with those that are mounted.
#
# Type: { pkgs, windlass, probe, accel ? null, models ? [ ], settings ? { } } -> { image, available, state, container, serve }
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
  accel ? null,
  models ? [ ],
  settings ? { },
  ...
}:
let
  uid = toString (settings.uid or 8080);
  needs = import ./accel.nix {
    inherit pkgs accel;
    name = "llama-cpp";
  };
  package = settings.package or needs.package;
  listen = [
    "--host"
    "0.0.0.0"
    "--port"
    "8080"
  ];
  serve =
    file:
    [
      "--model"
      file
    ]
    ++ listen;
  only = builtins.head models;
in
{
  image = windlass.buildImage {
    name = "llama-cpp";
    inherit models;
    inherit (needs) forbid;
    symlinks."/bin/windlass-probe" = "${probe}/bin/windlass-probe";
    config = {
      User = "${uid}:${uid}";
      ExposedPorts."8080/tcp" = { };
      # Caches of shaders and the like: nothing that is kept.
      Env = [ "HOME=/tmp" ] ++ needs.env;
      Entrypoint = [ "${package}/bin/llama-server" ];
      Cmd =
        if builtins.length models == 1 && only.spec.files ? "${only.modelName}.gguf" then
          serve "${only.spec.mountPath}/${only.modelName}.gguf"
        else
          listen;
    };
  };

  available = settings ? package || needs.available;

  state = null;

  container = {
    ports = [ "127.0.0.1:8080:8080" ];
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
        "http://127.0.0.1:8080/health"
      ];
      startPeriod = "10m";
    };
  };

  inherit serve;
}
