# llama.cpp's HTTP server with the models of the stack, the first of them served on 8080.
{
  pkgs,
  windlass,
  models,
}:
let
  serve =
    if models == [ ] then
      [ ]
    else
      [
        "--model"
        "/models/${(builtins.head models).modelName}.gguf"
      ];
in
windlass.buildImage {
  name = "llama-cpp";
  inherit models;
  config = {
    User = "1000:1000";
    ExposedPorts."8080/tcp" = { };
    Env = [ "HOME=/tmp" ];
    Entrypoint = [ "${pkgs.llama-cpp}/bin/llama-server" ];
    Cmd = serve ++ [
      "--host"
      "0.0.0.0"
      "--port"
      "8080"
    ];
  };
}
