# Model files: a layer that images have at the bottom, or several, and an image of only these.
#
# It is a derivation of its own, so nothing about an app makes the model be read again. The layers depend on the files,
# their names and `mountPath`; not on the name of the model, an architecture or any image.
#
# Type: AttrSet -> Derivation with passthru as buildImage
#
# Examples:
#   buildModel { name = "smollm2"; src = fetchModel { lock = ./models.lock.json; name = "smollm2"; }; }
#   buildModel { name = "smollm2"; files."smollm2.gguf" = pkgs.fetchurl { … }; }
#   buildModel { name = "qwen3"; src = pkgs.fetchurl { … }; split = "metadata"; }
internal:
{
  # Name of the model and of its image.
  name,
  # Tag of its image; by default derived from the model.
  tag ? null,
  # Place below mountPath -> file or directory. Symbolic links are followed. The SHA-256 of a file from fetchModel is known,
  # and is not found out again.
  files ? { },
  # Instead of `files`: what fetchModel gives, with all its files; a file, put there under its own name; or a directory, whose
  # content is put there.
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
  # What looks like a secret among its files and may be there all the same, "/models/qwen3/.env": as in buildImage.
  allowSecrets ? [ ],
}:
let
  inherit (builtins)
    attrNames
    baseNameOf
    dirOf
    filter
    head
    isAttrs
    length
    listToAttrs
    map
    mapAttrs
    match
    replaceStrings
    ;
  gguf = (import ../formats.nix).gguf.ending;
  wrong = message: throw "buildModel: model '${name}': ${message}";
  isFetched = value: isAttrs value && value ? model && value ? files;
  isNamed = src == null || isFetched src;
  all = if isFetched src then src.files else files;
  # Place -> SHA-256, of the files of which it is known.
  sha256 = listToAttrs (
    map (place: {
      name = place;
      value = "sha256:${(head all.${place}.model.files).sha256}";
    }) (filter (place: isFetched all.${place} && length all.${place}.model.files == 1) (attrNames all))
  );

  # That of its page or card, where its files do not say one.
  licence =
    if isFetched src && src.model.licence or null != null then
      { "org.opencontainers.image.licenses" = src.model.licence; }
    else
      { };

  # The one file that is split, and its place below mountPath.
  place = if isNamed then head (attrNames all) else "${name}${gguf}";
  base = match "(.*)${replaceStrings [ "." ] [ "[.]" ] gguf}" (baseNameOf place);
  shards = internal.derive {
    name = "${internal.storeName name}-shards";
    action = {
      action = "splitModel";
      file = internal.path (if isNamed then all.${place} else src);
      name = head base;
      maxSize = splitSize;
    };
  };
  isSplit =
    if split != "metadata" then
      false
    else if isNamed && length (attrNames all) != 1 then
      wrong "split = \"metadata\" is for one GGUF file; files that are shards already are given with split = \"files\""
    else if base == null then
      wrong "split = \"metadata\" is for a GGUF file, and the name of ${place} does not end in ${gguf}"
    else
      true;

  # Only when asked for: the tag of a model of one layer does not depend on it.
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
  spec = {
    inherit name;
    annotations = licence // annotations;
    storeDir = builtins.storeDir;
    mountPath = if isSplit && dirOf place != "." then "${mountPath}/${dirOf place}" else mountPath;
    files = if isSplit then { } else mapAttrs (_: internal.path) all;
    source =
      if isSplit then
        internal.path shards
      else if isNamed then
        null
      else
        internal.path src;
  }
  // layers;
  known =
    internal.allowed allowSecrets // (if isSplit || sha256 == { } then { } else { inherit sha256; });
}
// {
  modelName = name;
  # Where its files are fetched from, for `policy.models` of buildStack.
  modelSources = builtins.concatMap (
    value:
    if !isAttrs value then
      [ ]
    else if value ? model then
      value.model.urls or [ ]
    else
      value.urls or (if value ? url then [ value.url ] else [ ])
  ) (if src == null then builtins.attrValues files else [ src ]);
}
