# The AI stack: images that are planned together, and how each is run.
#
# Type: AttrSet -> Derivation, as from buildStack, with passthru
#   describe.<service>  { image, state, container, … }: what the file of that name gives, built or not
#
# Example:
#   aiStack { models.qwen3 = ./qwen3.gguf; services = [ "llama-cpp" "redis" ]; accel = "vulkan"; }
{
  # The caller's own packages.
  pkgs,
  # The functions of nix/lib, and the probe of nix/probe.nix.
  windlass,
  probe,
  # Name -> GGUF file, or { src, format ? "gguf" | "directory", mountPath ? "/models", annotations ? { } }: in the images that
  # serve models.
  models ? pkgs.windlassModels or { },
  # The same, in the stack but in no image: they are mounted.
  mountedModels ? { },
  # Names of services; by default all that can be built from these packages.
  services ? null,
  # null, "vulkan", "rocm" or "cuda".
  accel ? null,
  # A lock of `windlass upstream`, for what comes from upstream images only: images.lock.json, or what is in it.
  lock ? pkgs.windlassLock or null,
  # Service -> what its file takes as `settings`.
  settings ? { },
  # Which licences the models may have, as buildStack takes them.
  licences ? { },
  # What the stack may have in it, as buildStack takes it.
  policy ? { },
}:
let
  inherit (builtins)
    attrValues
    elem
    filter
    listToAttrs
    map
    mapAttrs
    ;
  table = import ./services.nix;
  names = builtins.attrNames table;
  genAttrs = f: list: listToAttrs (map (name: { inherit name; value = f name; }) list);

  buildModel =
    name: value:
    let
      # A package has a `src` too.
      model = if value.type or null == "derivation" || !(value ? src) then { src = value; } else value;
      format = model.format or "gguf";
      # A directory has no ending.
      suffix = (import ../formats.nix).${format}.ending or "";
    in
    windlass.buildModel {
      inherit name;
      mountPath = model.mountPath or "/models";
      annotations = model.annotations or { };
      files.${name + suffix} = model.src;
    };
  baked = attrValues (mapAttrs buildModel models);

  pinned = if lock == null then { images = { }; } else if builtins.isAttrs lock then lock else builtins.fromJSON (builtins.readFile lock);
  # The image that the lock has under this name, with the probe on top; null if it has none. The probe is at the top of the tree:
  # in most images /bin is a link, which a directory of ours would take the place of.
  upstream =
    name:
    if !(pinned.images ? ${name}) then
      null
    else
      windlass.buildImage {
        inherit name;
        fromImage = windlass.fetchImage {
          lock = pinned;
          inherit name;
        };
        symlinks."/windlass-probe" = "${probe}/bin/windlass-probe";
      };

  describe = genAttrs (
    name:
    import (./. + "/${name}.nix") {
      inherit
        pkgs
        windlass
        probe
        accel
        upstream
        ;
      service = table.${name};
      services = table;
      models = baked;
      settings = checked name (settings.${name} or { });
    }
  ) names;

  # A key that is misspelt would do nothing, without a word.
  checked =
    name: given:
    let
      known = table.${name}.settings;
      unknown = builtins.filter (key: !elem key known) (builtins.attrNames given);
    in
    if unknown == [ ] then
      given
    else
      throw "services.ai-stack.${name}.settings.${builtins.head unknown}: there is no such key; there are: ${builtins.concatStringsSep ", " known}";

  # nixpkgs says of each package whether it can be built here.
  isThere = name: describe.${name}.image != null && describe.${name}.available or true;
  chosen = if services == null then filter isThere names else services;
  image =
    name:
    if !elem name names then
      throw "aiStack: there is no service '${name}'; there are: ${toString names}"
    else if describe.${name}.image == null then
      throw "aiStack: ${name} comes from an upstream image only: pin it (`windlass upstream add ${name} REFERENCE`), and give the lock as `lock`"
    else
      describe.${name}.image;
in
windlass.buildStack {
  name = "ai-stack-images";
  inherit licences policy;
  images = map image chosen;
  models = attrValues (mapAttrs buildModel mountedModels);
  services = genAttrs (
    name:
    let
      inherit (describe.${name}) state container;
      secrets = describe.${name}.secrets or [ ];
    in
    container
    # Where they are is another place on every host, so the user gives it.
    // (if secrets == [ ] then { } else { secrets = genAttrs (secret: "/run/secrets/${secret}") secrets; })
    // {
      image = name;
      volumes = container.volumes or [ ] ++ (if state == null then [ ] else [ "${name}:${state}" ]);
    }
  ) chosen;
}
// {
  inherit describe;
}
