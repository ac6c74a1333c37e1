# Model files: one layer that images have at the bottom, and an image of only that.
#
# It is a derivation of its own, so nothing about an app makes the model be read again. The layer depends on the files,
# their names and `mountPath`; not on the name of the model, an architecture or any image.
#
# Type: AttrSet -> Derivation with passthru as buildImage
#
# Example:
#   buildModel { name = "smollm2"; files."smollm2.gguf" = pkgs.fetchurl { … }; }
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
}:
internal.build {
  inherit name tag;
  kind = "model";
  spec = {
    inherit name mountPath annotations;
    storeDir = builtins.storeDir;
    files = builtins.mapAttrs (_: internal.path) files;
    source = if src == null then null else internal.path src;
  };
}
// {
  modelName = name;
}
