# What of `services.ai-stack` cannot work, or will not do what was meant.
#
# Type: { lib, config, services, unavailable, active, withoutModel, ports, needed, memory } -> { assertions, warnings }
#
# services:     names of the containers that run
# unavailable:  names of services that are enabled and have no image
# active:       slot -> name of its model
# withoutModel: names of active models that would have to be in the user's own image, and are not
# ports:        [ { name, host, option } ], those that the container `name` publishes, and what changes them
# needed:       [ { service, secret } ], secrets that a first start needs and that are not given
# memory:       sum of the containers' limits, in MiB
{
  lib,
  config,
  services,
  unavailable,
  active,
  withoutModel,
  ports,
  needed,
  memory,
}:
let
  inherit (builtins) attrNames elem filter;
  cfg = config.services.ai-stack;
  windlass = config.virtualisation.windlass;
  list = names: if names == [ ] then "none" else lib.concatStringsSep ", " names;

  # Tags that name another image tomorrow.
  isFloating =
    reference:
    let
      name = lib.last (lib.splitString "/" (builtins.head (lib.splitString "@" reference)));
      parts = lib.splitString ":" name;
    in
    !(lib.hasInfix "@sha256:" reference)
    && (
      builtins.length parts == 1
      || builtins.match "latest|main|master|edge|nightly|stable|dev|server.*" (lib.last parts) != null
    );

  # Services of the host itself, of NixOS only: [ { name, host } ].
  native =
    let
      of = config.services;
      one = enabled: name: port: lib.optional (enabled && port != null && port != 0) { inherit name; host = port; };
      has = name: of.${name}.enable or false;
      redis = of.redis.servers or { };
    in
    lib.concatMap (name: one redis.${name}.enable "services.redis.servers.${name}" redis.${name}.port) (attrNames redis)
    ++ one (has "postgresql") "services.postgresql" (of.postgresql.settings.port or 5432)
    ++ one (has "qdrant") "services.qdrant" (of.qdrant.settings.service.http_port or 6333)
    ++ one (has "qdrant") "services.qdrant" (of.qdrant.settings.service.grpc_port or 6334)
    ++ one (has "ollama") "services.ollama" (of.ollama.port or 11434)
    ++ one (has "llama-cpp") "services.llama-cpp" (of.llama-cpp.settings.port or of.llama-cpp.port or 8080)
    ++ one (has "open-webui") "services.open-webui" (of.open-webui.port or 8080);
  clash =
    mine:
    let
      others = filter (other: other.host == mine.host && other.name != mine.name) (native ++ ports);
    in
    {
      assertion = others == [ ];
      message = ''
        services.ai-stack: port ${toString mine.host} of ${mine.name} is also that of
        ${list (lib.unique (map (other: other.name) others))}; change ${mine.option}, or disable one of them
      '';
    };

  inherit (config.virtualisation.containers.storage.settings.storage or { driver = "overlay"; }) driver;
  baked = filter (name: cfg.models.${name}.delivery == "layer") (attrNames cfg.models);
  mounted = filter (name: cfg.models.${name}.delivery == "image") (attrNames cfg.models);
in
{
  assertions =
    map (name: {
      assertion = !lib.isString cfg.${name}.image;
      message =
        "services.ai-stack.${name}.image: '${cfg.${name}.image}' "
        + (if isFloating cfg.${name}.image then "is a floating tag, which names another image tomorrow" else "would be pulled")
        + ", and nothing here pulls; give an image that is built, or none for the one of nixpkgs";
    }) (filter (name: cfg.${name}.enable && cfg.${name}.image != null) (builtins.attrNames (import ../ai-stack/services.nix)))
    ++ map (name: {
      assertion = false;
      message = ''
        services.ai-stack.${name}: there is no image: nixpkgs has no package that it could be built from here, and
        services.ai-stack.lock has no image of that name; pin one (`windlass upstream add ${name} REFERENCE`), or give an image
        of your own as services.ai-stack.${name}.image
      '';
    }) unavailable
    ++ map (slot: {
      assertion = cfg.activeModel.${slot} == null || cfg.models ? ${cfg.activeModel.${slot}};
      message = ''
        services.ai-stack.activeModel.${slot}: there is no model '${toString cfg.activeModel.${slot}}'; there are:
        ${list (attrNames cfg.models)}
      '';
    }) (attrNames cfg.activeModel)
    ++ map (slot: {
      assertion = !(elem "llama-cpp" services) || cfg.models.${active.${slot}}.format == "gguf";
      message = ''
        services.ai-stack.activeModel.${slot}: llama.cpp serves one GGUF file, and '${active.${slot}}' has format = "directory"
      '';
    }) (attrNames active)
    ++ [
      {
        # A name that there is not has an assertion of its own.
        assertion = !(elem "llama-cpp" services) || active ? chat || cfg.activeModel.chat != null;
        message = ''
          services.ai-stack.llama-cpp serves one model: say which in services.ai-stack.activeModel.chat; there are:
          ${list (attrNames cfg.models)}
        '';
      }
      {
        assertion = withoutModel == [ ];
        message = ''
          services.ai-stack.models: ${list withoutModel} with delivery = "layer" would be in the image that is built here, and
          services.ai-stack.llama-cpp.image is one without it; build that with the model in its `models`, or use
          delivery = "bind"
        '';
      }
      {
        assertion = mounted == [ ] || windlass.via == "podman";
        message = ''
          services.ai-stack.models: ${list mounted} with delivery = "image": Podman does not mount images of the linked store; use
          delivery = "bind", which copies nothing either, or virtualisation.windlass.via = "podman"
        '';
      }
      {
        assertion = lib.all (name: lib.hasPrefix "/models/" "${cfg.models.${name}.mountPath}/") mounted;
        message = ''
          services.ai-stack.models: ${list mounted} with delivery = "image" and a mountPath of its own: llama.cpp finds a mounted model
          as /models/model.file, which only an image with the model below /models has; remove mountPath
        '';
      }
      {
        assertion = driver != "vfs" || baked == [ ];
        message = ''
          services.ai-stack.models: ${list baked} with delivery = "layer" and Podman's driver vfs: it would copy the weights once for
          every layer above them; use delivery = "bind", or the driver overlay
        '';
      }
    ]
    ++ map clash ports;

  warnings =
    lib.optional (cfg.hostMemory != null && memory > cfg.hostMemory * 1024) ''
      services.ai-stack: the containers may use ${toString memory} MiB together, and this machine has ${toString cfg.hostMemory} GiB;
      lower `memory` of one of ${list services}
    ''
    ++ lib.optional (cfg.accel == "cuda" && !(config.hardware.nvidia-container-toolkit.enable or true)) ''
      services.ai-stack.accel = "cuda": containers see the GPU through hardware.nvidia-container-toolkit, which is not enabled
    ''
    ++ map ({ service, secret }: ''
      services.ai-stack.${service}: without the secret ${secret} it cannot start on an empty ${cfg.dataDir}/${service}; set
      services.ai-stack.${service}.container.secrets.${secret} = "/path/of/a/file"
    '') needed;
}
