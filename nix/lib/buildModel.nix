# Model files: a layer that images have at the bottom, or several, and an image of only these.
#
# It is a derivation of its own, so nothing about an app makes the model be read again. The layers depend on the files,
# their names and `mountPath`; not on the name of the model, an architecture or any image.
#
# Type: AttrSet -> Derivation with passthru as buildImage
#
# Example:
#   buildModel { name = "smollm2"; files."smollm2.gguf" = pkgs.fetchurl { … }; }
#   buildModel { name = "qwen3"; src = pkgs.fetchurl { … }; split = "metadata"; }
internal:
{
  # Name of the model and of its image.
  name,
  # Tag of its image; by default derived from the model.
  tag ? null,
  # Place below mountPath -> file or directory. Symbolic links are followed.
  files ? { },
  # Instead of `files`: a file, put there under its own name, or a directory, whose content is put there.
  src ? null,
  # Where containers find the files.
  mountPath ? "/models",
  # Annotations of its image's manifest.
  annotations ? { },
  # "files": each file of weights is a layer of its own, and what describes them (config.json, the first of several GGUF
  # shards) is one above. "metadata": the one GGUF file is split first, so that its first shard has everything but tensors,
  # NAME-00001-of-0000N.gguf: with another chat template or licence only that layer, megabytes, is another one.
  split ? null,
  # Bytes that a shard has at most, unless one tensor has more. Many registries refuse layers of more than 5 or 10 GB.
  splitSize ? 4 * 1024 * 1024 * 1024,
}:
let
  inherit (builtins)
    attrNames
    attrValues
    baseNameOf
    dirOf
    head
    length
    mapAttrs
    match
    ;

  wrong = message: throw "buildModel: model '${name}': ${message}";

  # The one file that is split, and its place below mountPath.
  place = if src == null then head (attrNames files) else "${name}.gguf";
  whole = if src == null then head (attrValues files) else src;
  base = match "(.*)[.]gguf" (baseNameOf place);
  shards = internal.derive {
    name = "${internal.storeName name}-shards";
    action = {
      action = "splitModel";
      file = internal.path whole;
      name = head base;
      maxSize = splitSize;
    };
  };
  isSplit =
    if split != "metadata" then
      false
    else if src == null && length (attrNames files) != 1 then
      wrong "split = \"metadata\" is for one GGUF file; files that are shards already are given with split = \"files\""
    else if base == null then
      wrong "split = \"metadata\" is for a GGUF file, and ${place} is none by its name"
    else
      true;

  layers =
    if split == null then
      { }
    else if split == "metadata" || split == "files" then
      { layers = "files"; }
    else
      wrong "split = \"${split}\": expected \"metadata\" or \"files\"";
in
internal.build {
  inherit name tag;
  kind = "model";
  # What is given as `layers` only when asked for: the tag of a model of one layer does not depend on it.
  spec = {
    inherit name annotations;
    storeDir = builtins.storeDir;
    mountPath = if isSplit && dirOf place != "." then "${mountPath}/${dirOf place}" else mountPath;
    files = if isSplit then { } else mapAttrs (_: internal.path) files;
    source =
      if isSplit then
        internal.path shards
      else if src == null then
        null
      else
        internal.path src;
  }
  // layers;
}
// {
  modelName = name;
}
