# The images of the AI stack, planned together.
#
# pkgs:     the caller's own packages; `windlassModels` in them (an overlay's, name -> GGUF file) are the models
# windlass: the functions of nix/lib
{
  pkgs,
  windlass,
  models ? pkgs.windlassModels or { },
}:
let
  built = builtins.mapAttrs (
    name: file:
    windlass.buildModel {
      inherit name;
      files."${name}.gguf" = file;
    }
  ) models;
  service = file: import file { inherit pkgs windlass; models = builtins.attrValues built; };
in
windlass.buildStack {
  name = "ai-stack-images";
  images = [
    (service ./llama-cpp.nix)
    (service ./redis.nix)
  ];
}
