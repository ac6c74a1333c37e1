# An image that another program wrote, as an image directory: to build upon, or to load as it is. No byte of it changes.
#
# Type: AttrSet -> Derivation, as from buildImage
#
# What is taken: a docker-archive (`docker save`, `podman save`, skopeo, dockerTools), an OCI archive, both also packed with gzip
# or zstd, and an OCI directory. Nix' hash of the file pins it. An image in a registry is pinned with fetchImage.
#
# Example:
#   buildImage { name = "app"; fromImage = ./base.tar.gz; }
#   importImage { name = "base"; source = ./base.tar.gz; reference = "debian:13"; }
internal:
{
  # Name that it gets here; `localhost/` is put before it when it names no registry.
  name,
  # The file or directory: a path, or a derivation.
  source,
  # What the image is called there, where there are several: "redis:7", or the tag alone.
  reference ? null,
  # Go's name, "linux/arm64"; by default that of the machine that images are made for.
  platform ? internal.platformOf internal.targetSystem,
  # Tag; by default derived from the source.
  tag ? null,
}:
let
  place = internal.path source;
  layout = internal.derive {
    name = "${internal.storeName name}-imported";
    action = {
      action = "import";
      source = place;
    };
  };
in
if !(builtins.hasContext place) then
  throw "importImage ${name}: source is the text '${place}', which no build can read: write the path without quotes, ./base.tar"
else
  internal.build {
    inherit name tag;
    kind = "oci";
    # What it is, not what reads it.
    built.layout = place;
    spec = {
      inherit name platform reference;
      layout = internal.path layout;
    };
  }
  // {
    # For stacks it is one that was not built here, as those from fetchImage.
    imageKind = "upstream";
    models = [ ];
  }
