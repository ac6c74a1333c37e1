# Models as Ollama keeps them, as a layer: `ollama list` shows them with no pull, no server and no network.
#
# It is kilobytes: the blobs of the weights are links to where the models lie in the image, so an image that gets this
# layer in `layers` has to name the same models in `models`. It has no architecture.
#
# Type: AttrSet -> Derivation
#
# Example:
#   let smollm2 = buildModel { name = "smollm2"; files."smollm2.gguf" = pkgs.fetchurl { … }; }; in
#   buildImage {
#     name = "ollama";
#     models = [ smollm2 ];
#     layers = [ (buildOllama { models = [ { model = smollm2; } ]; }) ];
#     config = {
#       Entrypoint = [ "${pkgs.ollama}/bin/ollama" "serve" ];
#       # What is read-only cannot be tidied up. HOME is where its key goes.
#       Env = [ "OLLAMA_MODELS=/root/.ollama/models" "OLLAMA_NOPRUNE=1" "HOME=/tmp" ];
#     };
#   }
internal:
{
  # Name, for tables and history.
  name ? "ollama",
  # What OLLAMA_MODELS is in the image.
  directory ? "/root/.ollama/models",
  # [ {
  #   model;                from buildModel, with one GGUF file
  #   reference ? null;     what Ollama calls it, [HOST/][NAMESPACE/]NAME[:TAG]; the model's name by default
  #   template ? null;      a Go template; the chat template of the file by default
  #   system ? null;        the system prompt
  #   params ? { };         { temperature = 0.2; stop = [ "<|im_end|>" ]; }
  #   licences ? [ ];       texts
  #   renderer ? null;      Ollama's own prompt format
  #   parser ? null;        and the one for answers
  # } ]
  models,
}:
let
  entry =
    link:
    {
      model,
      reference ? null,
      template ? null,
      system ? null,
      params ? { },
      licences ? [ ],
      renderer ? null,
      parser ? null,
    }:
    {
      model = link model;
      options = {
        inherit
          reference
          template
          system
          params
          licences
          renderer
          parser
          ;
      };
    };
in
internal.build {
  inherit name;
  tag = null;
  kind = "ollama";
  built.models = map (entry internal.tagIn) models;
  spec = {
    inherit name directory;
    models = map (entry internal.path) models;
  };
}
// {
  inherit directory;
  # What an image with this layer has to have.
  ollamaModels = map (of: of.model) models;
}
