# Layers built by themselves, for several images to name in `layers`. As in nix2container.
#
# Type: AttrSet -> Derivation
#
# Example:
#   base = buildLayer { name = "base"; deps = [ pkgs.glibc pkgs.cacert ]; };
#   app = buildImage { name = "app"; layers = [ base ]; config.Cmd = [ "${app}/bin/app" ]; };
internal:
args@{
  # Name, for tables and history.
  name ? "layer",
  # Packages that are there with their closures.
  deps ? [ ],
  # The same as in buildImage.
  contents ? [ ],
  copyToRoot ? [ ],
  files ? { },
  texts ? { },
  symlinks ? { },
  directories ? { },
  # Modes and owners, for store paths too: { path = pkgs.foo; regex = "/bin/"; mode = "0755"; }.
  perms ? [ ],
  # Layers that this one lies on: their store paths are left out of it.
  layers ? [ ],
  # Layers that the closure is split into at most.
  maxLayers ? 1,
  # Packages that `windlass sbom` tells of though only a string mentions them, as in buildImage.
  packages ? [ ],
  # What looks like a secret and may be in it all the same: paths in the image, as in buildImage.
  allowSecrets ? [ ],
}:
internal.build {
  inherit name;
  tag = null;
  kind = "layer";
  known =
    internal.allowed allowSecrets
    // internal.described {
      inherit
        packages
        contents
        copyToRoot
        deps
        files
        symlinks
        ;
    };
  built.layers = map internal.tagIn layers;
  spec = {
    inherit name maxLayers;
    storeDir = builtins.storeDir;
    content = internal.content (builtins.intersectAttrs (builtins.functionArgs internal.content) args);
    perms = map internal.perm perms;
    layers = map internal.path layers;
  }
  // internal.ownersOf copyToRoot;
}
