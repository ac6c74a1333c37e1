# Model files: one layer that images have at the bottom, and an image of only that.
#
# It is a derivation of its own, so nothing about an app makes the model be read again. The layer depends on the files,
# their names and `mountPath`; not on the name of the model, an architecture or any image.
#
# Type: AttrSet -> Derivation with passthru as buildImage
#
# Examples:
#   buildModel { name = "smollm2"; src = fetchModel { lock = ./models.lock.json; name = "smollm2"; }; }
#   buildModel { name = "smollm2"; files."smollm2.gguf" = pkgs.fetchurl { … }; }
internal:
{
  # Name of the model and of its image.
  name,
  # Tag of its image; by default derived from the model.
  tag ? null,
  # Place below mountPath -> file or directory. Symbolic links are followed. Of a file from fetchModel the SHA-256 is known,
  # and is not found out again.
  files ? { },
  # Instead of `files`: what fetchModel gives, with all its files; a file, put there under its own name; or a directory, whose
  # content is put there.
  src ? null,
  # Where containers find the files.
  mountPath ? "/models",
  # Annotations of its image's manifest.
  annotations ? { },
}:
let
  inherit (builtins)
    attrNames
    filter
    head
    isAttrs
    length
    listToAttrs
    map
    mapAttrs
    ;
  isFetched = value: isAttrs value && value ? model && value ? files;
  all = if isFetched src then src.files else files;
  # Place -> SHA-256, of the files of which it is known.
  sha256 = listToAttrs (
    map (place: {
      name = place;
      value = "sha256:${(head all.${place}.model.files).sha256}";
    }) (filter (place: isFetched all.${place} && length all.${place}.model.files == 1) (attrNames all))
  );
in
internal.build {
  inherit name tag;
  kind = "model";
  spec = {
    inherit name mountPath annotations;
    storeDir = builtins.storeDir;
    files = mapAttrs (_: internal.path) all;
    source = if src == null || isFetched src then null else internal.path src;
  };
  known = if sha256 == { } then { } else { inherit sha256; };
}
// {
  modelName = name;
}
