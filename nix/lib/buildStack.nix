# Images that are planned together, so that what they share is the same layers in the same order.
#
# Type: AttrSet -> Derivation with passthru
#   lean    the same stack without archives: image directories and stack.json, kilobytes whatever the models weigh
#   images  the images by short name (`redis`), with their `imageRef`
#   models  the models by name
#   replanned  the lean stack without the plan lock: to write it again
#   licences, policy  as given
#
# The result:
#   stack.json  images/<name>.tar  models/<model>.tar  load.sh  SHA256SUMS  lean -> the stack without archives
#   services.json, if there are any
# A model's archive is a derivation of its own that the result links to: a new version of an app does not write it again.
#
# A tag names what is in an image, a digest its bytes: when another image of the stack comes to share something, the
# digest of this one may change under the same tag, unless there is a plan lock.
internal:
{
  # Name of the derivation.
  name ? "stack",
  # Images from buildImage, planned together; from buildIndex, fetchImage and importImage, taken as they are.
  images,
  # Models that no image has in it, to be mounted.
  models ? [ ],
  # How containers of the images are run: name -> container description, whose `image` is the name of one of `images`.
  services ? { },
  # Which licences the models may have, in SPDX identifiers, or the beginning of some with a `*` ("LicenseRef-*"):
  # { allow ? null; deny ? [ ]; unknown ? "warn"; }. What is denied is denied; where there is a list of what is allowed, a
  # model has to be on it. An unknown licence is a warning, with `unknown = "deny"` an error.
  licences ? { },
  # What the stack may have in it; the build fails before anything is hashed, and says what to change. Each part asks for nothing
  # until it is given:
  #   licences = { allow ? null; deny ? [ ]; unknown ? "warn"; }   of packages and models, as above
  #   unlicensed = [ "my-script" ]                 names of packages whose licence is not looked at
  #   registries = [ "ghcr.io" "docker.io/qdrant" ]  where images of registries may come from
  #   models = [ "huggingface.co/Qwen" ]           where models may be fetched from
  #   signers = [ "sha256:…" ]                     keys or identities that must have signed images of registries, as `verified` in
  #                                                images.lock.json has them
  #   age = { days = 180; asOf = "2026-11-30"; }   how old images of registries may be at that date
  #   vulnerabilities = { report = ./scan.json; most ? "none"; allow ? [ ]; }   what a scanner of the bill of materials may have
  #                                                found: CycloneDX, grype's JSON or cve-bin-tool's
  policy ? { },
  # A plan lock, ./plan.lock.json: the layers of each image's closure, as `windlass plan result --write plan.lock.json` wrote them. They
  # move only when it is written again, so no image's digest depends on the others. Images that it does not have are planned together.
  planLock ? null,
}:
let
  asksNothing =
    licences == { }
    ||
      licences == {
        allow = null;
        deny = [ ];
        unknown = "warn";
      };
  # The report becomes an input.
  rules =
    policy
    // (
      if policy ? vulnerabilities.report then
        {
          vulnerabilities = policy.vulnerabilities // {
            report = internal.path policy.vulnerabilities.report;
          };
        }
      else
        { }
    );
  inherit (builtins) attrValues listToAttrs map;
  byName = key: values: listToAttrs (map (value: { name = value.${key}; inherit value; }) values);
  ofKinds = kinds: builtins.filter (image: builtins.elem image.imageKind kinds) images;
  whole = [
    "index"
    "upstream"
  ];
  planned = ofKinds [ "image" ];
  wrong = builtins.filter (image: !builtins.elem image.imageKind ([ "image" ] ++ whole)) images;
  allModels = byName "modelName" (builtins.concatMap (image: image.models) images ++ models);
  lock =
    if planLock == null then { images = { }; } else builtins.fromJSON (builtins.readFile planLock);
  locked =
    if lock.version or 1 != 1 then
      throw "buildStack ${name}: ${toString planLock} has version ${toString lock.version}; this windlass reads version 1: write it again with `windlass plan --write`"
    else
      image:
      image.spec
      // (
        if lock.images ? ${image.stackName} then { closureLayers = lock.images.${image.stackName}; } else { }
      );
  specOf =
    specOfImage:
    internal.specFile "${name}-spec" (
      {
        kind = "stack";
        inherit name;
        images = map specOfImage planned;
        built = map internal.path (ofKinds whole);
        models = map (
          model:
          {
            built = internal.path model;
          }
          // (if policy.models or null == null then { } else { sources = model.modelSources or [ ]; })
        ) (attrValues allModels);
      }
      # Left out when empty: the derivation of a stack without services does not mention them.
      // (if services == { } then { } else { inherit services; })
      // (if asksNothing then { } else { inherit licences; })
      // (if rules == { } then { } else { policy = rules; })
    );
  leanOf =
    spec:
    internal.derive {
      name = "${name}-lean";
      closureOf = [ spec ];
      action = {
        action = "build";
        specFile = "${spec}";
        storeDir = builtins.storeDir;
        tag = null;
      };
    };
  lean = leanOf (specOf locked);
  archives = internal.derive {
    name = name;
    action = {
      action = "export";
      from = "${lean}";
      format = "archive";
      models = builtins.mapAttrs (_: model: {
        archive = "${model.archive}";
        sum = "${model.archive.sum}";
      }) allModels;
    };
  };
in
if wrong != [ ] then
  throw "buildStack: ${(builtins.head wrong).imageName} is a ${(builtins.head wrong).imageKind}; `images` are from buildImage, buildIndex, fetchImage or importImage, models go in `models`"
else
archives
// {
  inherit lean licences policy;
  replanned = leanOf (specOf (image: image.spec));
  images = byName "stackName" images;
  models = allModels;
}
