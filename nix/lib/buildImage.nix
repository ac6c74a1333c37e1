# One image for one platform, as an image directory: kilobytes in the store, whatever it holds.
#
# Type: AttrSet -> Derivation with passthru
#   imageName  "localhost/redis"
#   imageTag   a hash of everything in the image
#   imageRef   "localhost/redis:<imageTag>"; known at evaluation
#   archive    derivation of one tar file: OCI archive and docker-archive at once (`podman load -i`)
#   layout     derivation of an OCI directory (`skopeo copy oci:…`)
#
# Example:
#   buildImage {
#     name = "redis";
#     config.Cmd = [ "${pkgs.redis}/bin/redis-server" ];
#   }
internal:
args@{
  # Name; `localhost/` is put before it when it names no registry.
  name,
  # Tag; by default derived from everything in the image. Floating tags (latest, main, …) are refused.
  tag ? null,
  # Packages whose trees are linked from `/`, with their closures. As in dockerTools.
  contents ? [ ],
  # Trees whose content is moved to `/`, with what they refer to. As in nix2container.
  copyToRoot ? [ ],
  # Packages that are there with their closures, and nowhere else.
  deps ? [ ],
  # Place in the image -> file or tree that is moved there.
  files ? { },
  # Place in the image -> text of a small file.
  texts ? { },
  # Place in the image -> target of a symbolic link.
  symlinks ? { },
  # Place in the image -> octal mode of an empty directory, "0755".
  directories ? { },
  # The `config` of the OCI image config: Cmd, Entrypoint, Env, ExposedPorts, Labels, StopSignal, User, Volumes,
  # WorkingDir. The packages it mentions are in the image without being listed again.
  config ? { },
  # When the image says it was made, RFC 3339.
  created ? "1970-01-01T00:00:01Z",
  # Who made it.
  author ? null,
  # Annotations of the manifest.
  annotations ? { },
  # Layers that the closure is split into at most.
  maxLayers ? 20,
  # [ { path ? null; regex ? ".*"; mode ? null; uid ? null; gid ? null; uname ? null; gname ? null; } ] for what is not
  # below the store. `regex` is searched for in the absolute path in the image; the last rule that fits wins. For store
  # paths give the rules to buildLayer.
  perms ? [ ],
  # Regular expressions, searched for in the names of store paths (what comes after the hash): the build fails when the
  # image would have one that fits, [ "^cuda" ], and says by which references it got there.
  forbid ? [ ],
  # What looks like a secret and may be in it all the same: paths in the image, "/app/.env" (a directory stands for all that is
  # below it, `*` for anything in one part, `**` for anything), and names of variables, labels and annotations, "API_KEY", or
  # "Cmd" or "Entrypoint". The build fails at anything else that looks like one (README, "Security"), and at an entry that
  # nothing needs.
  allowSecrets ? [ ],
  # Packages whose licence, source and CPE `windlass sbom` tells though only a string mentions them, as `config` and `texts` do:
  # [ pkgs.redis ]. Of those that are in contents, copyToRoot, deps, files or symlinks, and of what a package is built with, it knows
  # without being told. Nothing in the image depends on it.
  packages ? [ ],
  # An image that this one is built upon, from fetchImage, importImage or buildImage, or a docker-archive or OCI directory, which
  # importImage reads: its layers lie below (but for those of models, which lie
  # below everything), and its `config` is handed down: Env by name, Labels, ExposedPorts and Volumes beside those that are
  # there, all else in its place; a new Entrypoint takes the old Cmd away.
  fromImage ? null,
  # Which image of an archive that is: its name and its tag there.
  fromImageName ? null,
  fromImageTag ? null,
  # Layers from buildLayer, bottom first; they lie below the closure, and their store paths are not repeated in it.
  layers ? [ ],
  # Models from buildModel; each is a layer of its own at the very bottom.
  models ? [ ],
  # Go's names, for images that are made for another machine than the one that builds them.
  os ? null,
  architecture ? null,
  variant ? null,
  # Whether the image brings the places that Podman mounts over (/proc, /tmp, /etc/hosts, …), and an /etc/passwd and
  # /etc/group with root, the user `nobody` and a numeric `config.User`, wherever nothing else gives them. With `fromImage` the
  # image brings none of them by default: they would hide the files of the image below.
  mountPoints ? fromImage == null,
}:
let
  host = builtins.match "([^/]+)/([^/]+)(/.*)?" (internal.platformOf internal.targetSystem);
  or' = value: default: if value == null then default else value;
  hostVariant = or' (builtins.elemAt host 2) "";
  all = models ++ (if base == null then [ ] else base.models or [ ]);
  # A layer from buildOllama has links to models: without the model they lead nowhere.
  isMissing = model: !(builtins.elem (internal.path model) (map internal.path all));
  base =
    if fromImage == null || fromImage ? imageKind then
      fromImage
    else
      import ./importImage.nix internal {
        name = "${name}-base";
        source = fromImage;
        platform = full;
        reference =
          if fromImageName == null then
            fromImageTag
          else
            fromImageName + (if fromImageTag == null then "" else ":${fromImageTag}");
      };
  missing = builtins.filter isMissing (builtins.concatMap (layer: layer.ollamaModels or [ ]) layers);
  platform = builtins.concatStringsSep "/" [
    (or' os (builtins.elemAt host 0))
    (or' architecture (builtins.elemAt host 1))
  ];
  full =
    platform
    + (
      if variant != null then
        "/${variant}"
      else if architecture == null then
        hostVariant
      else
        ""
    );
in
if (fromImageName != null || fromImageTag != null) && fromImage ? imageKind then
  throw "buildImage ${name}: fromImageName and fromImageTag are for an archive or an OCI directory in fromImage; this image is one already"
else
internal.build {
  inherit name tag;
  kind = "image";
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
  built = {
    layers = map internal.tagIn layers;
    models = map internal.tagIn models;
  }
  // (if base == null then { } else { fromImage = internal.tagIn base; });
  spec = {
    inherit
      name
      config
      created
      author
      annotations
      maxLayers
      mountPoints
      ;
    storeDir = builtins.storeDir;
    platform = full;
    content = internal.content (builtins.intersectAttrs (builtins.functionArgs internal.content) args);
    perms = map internal.perm perms;
    layers =
      if missing == [ ] then
        map internal.path layers
      else
        throw "buildImage ${name}: a layer from buildOllama needs the model '${(builtins.head missing).modelName}' in the image: name it in `models` too";
    models = map (model: { built = internal.path model; }) models;
  }
  # Only when given: the tag of an image that forbids nothing does not depend on it.
  // (if forbid == [ ] then { } else { inherit forbid; })
  // (if base == null then { } else { fromImage = internal.path base; })
  // internal.ownersOf copyToRoot;
}
// {
  models = all;
}
