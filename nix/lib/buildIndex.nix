# One name for the images of several platforms: an OCI index. Blobs that they share, models above all, are there once.
#
# Type: AttrSet -> Derivation with passthru as buildImage
#
# Example:
#   buildIndex { name = "redis"; images = [ self.packages.x86_64-linux.redis self.packages.aarch64-linux.redis ]; }
internal:
{
  # Name; `localhost/` is put before it when it names no registry.
  name,
  # Tag; by default derived from the images.
  tag ? null,
  # Images from buildImage, one for each platform.
  images,
  # Annotations of the index.
  annotations ? { },
}:
internal.build {
  inherit name tag;
  kind = "index";
  built.images = map internal.tagIn images;
  spec = {
    inherit name annotations;
    images = map internal.path images;
  };
}
// {
  inherit images;
  models = builtins.concatMap (image: image.models) images;
}
