# An image that was not built here, pinned by a lock of `windlass upstream`: an image directory whose layers are links to
# fixed-output paths, one for each blob, which all images share.
#
# Type: AttrSet -> Derivation with passthru as buildImage, and
#   blobs   digest -> derivation of one file
#   locked  what the lock has of the image
#   sboms   the bills of materials that its publisher attached (`windlass upstream add --sbom`), of the index and of this platform:
#           [ { format; form; file = derivation of one file; … } ], as in the lock
#
# The lock holds the manifests byte for byte. Their digests are checked here, at evaluation; that of a blob is the hash of its
# path. So nothing is read that has to be built first, and a build asks no registry for a manifest.
#
# A blob is fetched by `windlass upstream fetch`, with the logins of the user who runs it, or in the sandbox of its derivation, without
# any. Nix' own `hashed-mirrors` serve too: `windlass upstream mirror --to DIR` makes one.
#
# Example:
#   fetchImage { lock = ./images.lock.json; name = "mindsdb"; }
internal:
{
  # images.lock.json: its path, or what is in it.
  lock,
  # Name of the image in the lock.
  name,
  # Go's name, "linux/arm64"; by default that of the machine that images are made for.
  platform ? internal.platformOf internal.targetSystem,
  # Name that it gets here; `localhost/` is put before it when it names no registry.
  imageName ? name,
  # Tag; by default derived from everything in the image.
  tag ? null,
}:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    filter
    fromJSON
    hashString
    head
    isAttrs
    listToAttrs
    map
    match
    readFile
    ;
  list = names: if names == [ ] then "none" else concatStringsSep ", " names;
  wrong = message: throw "fetchImage: ${message}";

  content = if isAttrs lock then lock else fromJSON (readFile lock);
  image =
    if content.version or null != 1 then
      wrong "the lock is of version ${toString (content.version or "?")}, and this windlass knows version 1; update windlass"
    else
      content.images.${name} or (wrong "there is no image '${name}' in the lock; there are: ${list (attrNames content.images)}");
  locked =
    if image.locked or null == null then
      wrong "${name} is not resolved yet; run `windlass upstream update --image ${name}`"
    else
      image.locked;

  # The bytes that a registry gave, if they are what the digest says.
  checked =
    what: document:
    if "sha256:${hashString "sha256" document.raw}" != document.digest then
      wrong "the lock is damaged: the ${what} of ${name} does not have the digest ${document.digest}; restore the lock, or lock the image again (`windlass upstream update --force --image ${name}`)"
    else
      document.raw;

  # linux/arm64 and linux/arm64/v8 are the same.
  plain = text: if match "linux/arm64(/v8)?" text != null then "linux/arm64" else text;
  fitting = filter (other: plain other == plain platform) (attrNames locked.platforms);
  of =
    if fitting == [ ] then
      wrong "${name} is locked for ${list (attrNames locked.platforms)}, and not for ${platform}; run `windlass upstream add --platform ${platform}` with its reference"
    else
      locked.platforms.${head fitting};
  raw = checked "manifest for ${head fitting}" of.manifest;
  manifest = fromJSON raw;

  upstream = "docker://${locked.registry}/${locked.repository}";
  mirrors = if image.mirror or null == null then [ ] else [ image.mirror ];
  sources = if image.source or "upstream" == "mirror" then mirrors ++ [ upstream ] else [ upstream ] ++ mirrors;

  blob =
    descriptor:
    let
      parts = match "sha256:([0-9a-f]{64})" descriptor.digest;
      hex = if parts == null then wrong "${name} has a blob without a SHA-256: ${descriptor.digest}" else head parts;
    in
    internal.derive {
      # Hash and name make the path: the same blob of another image, from elsewhere, is the same path.
      name = "oci-blob-sha256-${hex}";
      hash = hex;
      action = {
        action = "fetchBlob";
        image = name;
        inherit sources;
        inherit (descriptor) digest size;
        insecure = image.insecure or false;
      };
    };
  files = [ manifest.config ] ++ manifest.layers;
  config = blob manifest.config;
  # An image may have the same layer twice.
  layers = map blob manifest.layers;
  sboms = filter (
    bill: bill.subject == locked.root.digest || bill.subject == of.manifest.digest
  ) (locked.sboms or [ ]);
  isIndex = locked.root.digest != of.manifest.digest;
in
# The index is checked here, as nothing else reads it.
assert checked "index" locked.root != "";
internal.build {
  name = imageName;
  inherit tag;
  kind = "upstream";
  # Who has signed it, as `windlass upstream add` has verified: an identity, or the digest of a key.
  # And what its publisher says is in it. No tag and no digest depends on either.
  known =
    (
      if image.verified or null == null then
        { }
      else
        { signedBy = image.verified.identity or image.verified.key or null; }
    )
    // (if sboms == [ ] then { } else { inherit sboms; });
  spec = {
    name = imageName;
    inherit platform;
    manifest = raw;
    config = internal.path config;
    layers = map internal.path layers;
    source = image.original.ref or null;
    index = if isIndex then locked.root.digest else null;
  };
}
// {
  inherit locked;
  models = [ ];
  sboms = map (bill: bill // { file = blob bill; }) sboms;
  blobs = listToAttrs (
    map (descriptor: {
      name = descriptor.digest;
      value = blob descriptor;
    }) files
  );
}
