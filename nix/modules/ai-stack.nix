# `services.ai-stack`: qdrant, ollama, llama.cpp, Open WebUI, PostgreSQL with pgvector, Redis and MindsDB as containers whose
# images are built, not pulled. For NixOS beside windlass.nix, and for home-manager beside home.nix.
#
# What each service is (image, ports, volume, health check) is in nix/ai-stack/<service>.nix; here is where and with what.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.ai-stack;
  windlass = config.virtualisation.windlass;
  table = import ../ai-stack/services.nix;
  names = attrNames table;

  # All definitions, to be handed on: they are checked as virtualisation.windlass.containers.<name>.
  definitions = lib.mkOptionType {
    name = "container";
    description = "keys of virtualisation.windlass.containers.<name>";
    check = builtins.isAttrs;
    merge = _: map (definition: definition.value);
  };

  service = name: {
    enable = lib.mkEnableOption "the service ${name}";
    port = mkOption {
      type = types.nullOr types.port;
      default = null;
      description = "Its (first) port on the host; null is the service's usual one.";
    };
    package = mkOption {
      type = types.nullOr types.package;
      default = null;
      description = "The program in the image that is built here; null is that of nixpkgs for `services.ai-stack.accel`.";
    };
    image = mkOption {
      type = types.nullOr (types.either types.package types.str);
      default = null;
      description = ''
        An image of your own from `buildImage`, instead of the one that is built here; where it has no probe, the probe is
        mounted. A name like `docker.io/redis:8` is refused: nothing is pulled.
      '';
    };
    uid = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      description = ''
        User and group ID that it runs as, and that owns its data; null is the number of its port. An image of your own runs as
        the user that it names, and so does mindsdb's; open-webui's does where this is null. After a change the data that are there
        have to be given to the new user by hand (`chown -R`): the image says so when it starts.
      '';
    };
    settings = mkOption {
      type = types.attrsOf types.raw;
      default = { };
      description = "What else nix/ai-stack/${name}.nix takes as `settings`; its header says what. Another key is an error.";
      example = lib.literalExpression "{ extensions = p: [ p.pgvector p.postgis ]; }";
    };
    container = mkOption {
      type = definitions;
      default = { };
      description = "What is different from nix/ai-stack/${name}.nix: keys of `virtualisation.windlass.containers.<name>`.";
      example = lib.literalExpression ''{ memory = "2g"; environment.LOG_LEVEL = "debug"; }'';
    };
  };

  model.options = {
    src = mkOption {
      type = types.path;
      description = "The file, or a directory of files, in the Nix store (`pkgs.fetchurl`, a path of the flake).";
    };
    format = mkOption {
      type = types.enum [
        "gguf"
        "directory"
      ];
      default = "gguf";
      description = "`gguf`: one file, found as <mountPath>/<name>.gguf. `directory`: many (safetensors), as <mountPath>/<name>/.";
    };
    mountPath = mkOption {
      type = types.strMatching "/.*";
      default = "/models";
      description = "Where the container finds it.";
    };
    annotations = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        "org.opencontainers.image.licenses" = "Apache-2.0";
      };
      description = "Annotations of the model's own image; they go before what the files say of themselves.";
    };
    delivery = mkOption {
      type = types.enum [
        "layer"
        "image"
        "bind"
      ];
      default = "layer";
      description = ''
        How it reaches the container. `layer`: the lowest layer of the image, which every version of the app shares. `bind`: a
        place on the host that leads to it, so that `windlass model use` switches it without a rebuild; only the active model is
        there. `image`: an image of its own that Podman mounts, where images are not linked (`via = "podman"`).
      '';
    };
  };

  inherit (builtins) attrNames attrValues elem filter;

  enabled = filter (name: cfg.${name}.enable) names;
  # What is built here, and what the user gives. A name of an image is refused by an assertion.
  built = filter (name: cfg.${name}.image == null && describe.${name}.image != null) enabled;
  given = filter (name: cfg.${name}.image != null && !lib.isString cfg.${name}.image) enabled;
  run = filter (name: elem name built || elem name given) enabled;

  ofDelivery = deliveries: lib.filterAttrs (_: model: elem model.delivery deliveries) cfg.models;
  baked = ofDelivery [ "layer" ];
  only = if builtins.length (attrNames cfg.models) == 1 then builtins.head (attrNames cfg.models) else null;
  active = lib.filterAttrs (_: name: name != null && cfg.models ? ${name}) {
    chat = if cfg.activeModel.chat != null then cfg.activeModel.chat else only;
    inherit (cfg.activeModel) embed;
  };

  described = _: model: {
    inherit (model)
      annotations
      format
      mountPath
      src
      ;
  };
  asked = {
    inherit (cfg)
      accel
      licences
      lock
      policy
      ;
    models = lib.mapAttrs described baked;
    mountedModels = lib.mapAttrs described (
      ofDelivery [
        "bind"
        "image"
      ]
    );
    settings = lib.genAttrs names (
      name: cfg.${name}.settings // lib.filterAttrs (_: value: value != null) { inherit (cfg.${name}) package uid; }
    );
  };
  userOf = import ./container-user.nix {
    inherit lib;
    cfg = windlass;
  };
  # What there is, before it is known which of it is built.
  inherit (windlass.lib.aiStack (asked // { services = [ ]; })) describe;
  stack = windlass.lib.aiStack (asked // { services = built; });
  imageOf = name: if elem name given then cfg.${name}.image else describe.${name}.image;

  address = if lib.hasInfix ":" cfg.address then "[${cfg.address}]" else cfg.address;
  # `IP:HOST:CONTAINER`, on the address and the port that are asked for.
  published =
    name:
    lib.imap0 (
      index: port:
      let
        parts = builtins.match ".*:([0-9]+):([0-9]+(/.*)?)" port;
        host = if index == 0 && cfg.${name}.port != null then toString cfg.${name}.port else builtins.head parts;
      in
      {
        host = lib.toInt host;
        text = "${address}:${host}:${builtins.elemAt parts 1}";
      }
    ) describe.${name}.container.ports;
  firstPort = name: (builtins.head (published name)).host;

  # The user of the container, a number: whose the data are.
  ids =
    name:
    let
      parts = lib.splitString ":" (userOf windlass.containers.${name});
    in
    {
      user = builtins.head parts;
      group = lib.last parts;
    };

  # How llama.cpp gets the active model of a slot: where it is in the container, and what is mounted for that.
  delivered =
    slot:
    let
      name = active.${slot};
      model = cfg.models.${name};
      suffix = (import ../formats.nix).${model.format}.ending or "";
      inSlot = "${windlass.slots}/${slot}/${if model.format == "gguf" then "file" else "tree"}";
      place = "${model.mountPath}/${if model.delivery == "bind" then slot else name}${suffix}";
    in
    {
      layer = {
        inherit place;
      };
      bind = {
        inherit place;
        # Without a slot that this user can reach, the file of the store itself.
        volumes = [ "${if windlass.slots == null then "${model.src}" else inSlot}:${place}:ro" ];
      };
      image = {
        # The link that the image of each model has beside its file: the place is the same after `windlass model use`.
        place = "/mnt/models/model.file";
        extraOptions = [ "--mount=type=image,source=localhost/windlass/${slot}:active,destination=/mnt" ];
      };
    }
    .${model.delivery};

  # An image of the user's own may have no probe in it. It is mounted at the top then: a rootless Podman that has the image
  # from root's store can make nothing further down.
  links = name: (imageOf name).spec.content.symlinks or { };
  probeOf = name: if links name ? "/bin/windlass-probe" then "/bin/windlass-probe" else "/windlass-probe";
  hasProbe = name: links name ? ${probeOf name};

  # The definitions of one container: the service, where it runs, and what the user changes.
  container = name: [
    (removeAttrs describe.${name}.container [
      "health"
      "ports"
    ])
    {
      health =
        let
          inherit (describe.${name}.container) health;
        in
        health // { command = [ (probeOf name) ] ++ builtins.tail health.command; };
      image = (imageOf name).imageRef;
      ports = map (port: port.text) (published name);
      networks = [ cfg.network ];
      volumes =
        lib.optional (describe.${name}.state != null) "${cfg.dataDir}/${name}:${describe.${name}.state}"
        ++ lib.optional (!hasProbe name) "${windlass.lib.probe}/bin/windlass-probe:${probeOf name}:ro";
    }
  ];
  serving = slot: flags: {
    # Another model under the same path is a change too, for which the container is started anew.
    labels."windlass.model.${slot}" = (stack.models.${active.${slot}} or { imageRef = active.${slot}; }).imageRef;
    command = describe.llama-cpp.serve (delivered slot).place ++ flags;
    volumes = (delivered slot).volumes or [ ];
    extraOptions = (delivered slot).extraOptions or [ ];
  };
  hasEmbed = cfg.llama-cpp.enable && active ? embed;

  limits = lib.concatMap (name: lib.optional (memoryOf name != null) (memoryOf name)) (attrNames ours);
  ours = lib.filterAttrs (name: _: elem name run || name == "llama-cpp-embed") windlass.containers;
  memoryOf = name: windlass.containers.${name}.memory;
  # What is published in the end, with the option that says so.
  hostPorts =
    name:
    lib.concatMap (
      port:
      let
        parts = builtins.match "(.*:)?([0-9]+):[0-9]+(/tcp)?" port;
        host = lib.toInt (builtins.elemAt parts 1);
        service = if name == "llama-cpp-embed" then "llama-cpp" else name;
        isFirst = name != service || host == firstPort name;
      in
      lib.optional (parts != null) {
        inherit name host;
        option = "services.ai-stack.${service}.${if isFirst then "port" else "container.ports"}";
      }
    ) ours.${name}.ports;
  mebibytes =
    text:
    let
      parts = builtins.match "([0-9]+)([bkmg]?)" (lib.toLower text);
      number = lib.toInt (builtins.head parts);
    in
    {
      b = number / 1048576;
      k = number / 1024;
      m = number;
      g = number * 1024;
    }
    .${if builtins.elemAt parts 1 == "" then "b" else builtins.elemAt parts 1};

  # Before anything restarts: data that the new version does not read. The image refuses them at its start.
  dataCheck =
    name:
    let
      inherit (table.${name}.dataFormat) file upgrade;
      version = describe.${name}.dataVersion;
      path = "${cfg.dataDir}/${name}/${file}";
    in
    ''
      if [ -r ${lib.escapeShellArg path} ] && [ "$(cat ${lib.escapeShellArg path})" != ${version} ]; then
        echo "warning: services.ai-stack.${name}:" ${lib.escapeShellArg "${cfg.dataDir}/${name}"} "is of version $(cat ${lib.escapeShellArg path})," \
          "and ${version} does not read it; before it restarts, ${upgrade}" >&2
      fi
    '';
  withFormat = filter (name: table.${name}.dataFormat != null && describe.${name}.dataVersion or null != null) built;

  checks = import ./ai-stack-checks.nix {
    inherit lib config active;
    services = attrNames ours;
    unavailable = filter (name: !elem name run && !lib.isString cfg.${name}.image) enabled;
    ports = lib.concatMap hostPorts (attrNames ours);
    withoutModel = filter (
      name:
      elem "llama-cpp" given
      && cfg.models.${name}.delivery == "layer"
      && !lib.any (model: model.modelName == name) (cfg.llama-cpp.image.models or [ ])
    ) (lib.unique (attrValues active));
    needed = lib.concatMap (
      service:
      let
        container = windlass.containers.${service};
        isGiven =
          secret:
          container.secrets ? ${secret}
          || container.environmentFiles != [ ]
          || container.environment ? POSTGRES_PASSWORD_FILE
          || container.environment ? POSTGRES_HOST_AUTH_METHOD;
      in
      map (secret: { inherit service secret; }) (
        filter (secret: !isGiven secret) (describe.${service}.secrets or [ ])
      )
    ) built;
    memory = lib.foldl' (total: text: total + mebibytes text) 0 limits;
  };
in
{
  options.services.ai-stack = {
    enable = lib.mkEnableOption "the AI stack: the services below that are enabled";
    dataDir = mkOption {
      type = types.strMatching "/.*";
      default = if config ? home then "${config.xdg.dataHome}/ai-stack" else "/var/lib/ai-stack";
      defaultText = lib.literalMD "`/var/lib/ai-stack`; with home-manager `ai-stack` below `xdg.dataHome`";
      description = "Where the services keep their data, each in a directory of its name. No clean-up touches it.";
    };
    address = mkOption {
      type = types.strMatching "[0-9A-Fa-f.:]+";
      default = "127.0.0.1";
      description = "The host's address on which ports are published. Podman's ports pass by NixOS' firewall.";
    };
    network = mkOption {
      type = types.strMatching "[a-zA-Z0-9][a-zA-Z0-9_.-]*";
      default = "ai-stack";
      description = "Podman network in which the services find each other by name.";
    };
    accel = mkOption {
      type = types.nullOr (
        types.enum [
          "vulkan"
          "rocm"
          "cuda"
        ]
      );
      default = null;
      description = ''
        What llama.cpp and ollama compute with; null is the processor. Libraries of CUDA and ROCm are in no image unless they are
        asked for: a build fails when they slip in.
      '';
    };
    lock = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = lib.literalExpression "./images.lock.json";
      description = ''
        What `windlass upstream` keeps: upstream images, each by digest, for the services that nixpkgs does not build: open-webui
        and mindsdb, under these names. `windlass upstream add open-webui ghcr.io/open-webui/open-webui:v0.6.41` adds one.
      '';
    };
    hostMemory = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 27;
      description = "Memory of this machine in GiB. When the limits of the containers are more than that together, there is a warning.";
    };
    models = mkOption {
      type = types.attrsOf (types.submodule model);
      default = { };
      description = "Model files, by name.";
      example = lib.literalExpression "{ qwen3.src = pkgs.fetchurl { … }; }";
    };
    licences = {
      allow = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [
          "Apache-2.0"
          "MIT"
        ];
        description = ''
          Licences that models may have, by their SPDX identifiers; `"LicenseRef-*"` is all that begin so. With null all may be used
          that are not denied. What a model's file does not say, its `annotations."org.opencontainers.image.licenses"` may.
        '';
      };
      deny = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Licences that no model may have, whatever is allowed.";
      };
      unknown = mkOption {
        type = types.enum [
          "warn"
          "deny"
        ];
        default = "warn";
        description = "Whether a model with an unknown licence is warned of, where there are rules, or fails the build.";
      };
    };
    policy = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      example = lib.literalExpression ''
        {
          registries = [ "docker.io/qdrant" ];
          licences.deny = [ "SSPL-1.0" ];
          vulnerabilities = { report = ./scan.json; most = "medium"; };
        }
      '';
      description = ''
        What the stack may have in it, as `policy` of buildStack takes it: licences of packages, registries, places of models, signers, ages
        and vulnerabilities. The build fails before anything is hashed, and says what to change.
      '';
    };
    activeModel = lib.genAttrs [ "chat" "embed" ] (
      slot:
      mkOption {
        type = types.nullOr types.str;
        default = null;
        description =
          {
            chat = "The model that llama.cpp serves; null is the only one, if there is only one.";
            embed = ''
              The model of a second llama.cpp for embeddings only, on the next port; null for no such server. What is different about its
              container is in `virtualisation.windlass.containers.llama-cpp-embed`.
            '';
          }
          .${slot};
      }
    );
  }
  // lib.genAttrs names service;

  config = lib.mkIf cfg.enable ({
    virtualisation.windlass = {
      enable = true;
      stacks = lib.mkIf (stack.images != { } || stack.models != { }) { ai-stack = stack; };
      images = lib.genAttrs given imageOf;
      networks = [ cfg.network ];
      models = lib.mkIf (windlass.slots != null) (
        lib.filterAttrs (_: name: cfg.models.${name}.delivery != "layer") active
      );
      directories = lib.listToAttrs (
        map (name: lib.nameValuePair "${cfg.dataDir}/${name}" (ids name)) (
          filter (name: describe.${name}.state != null) run
        )
      );
      containers = lib.mkMerge [
        (lib.genAttrs run (name: lib.mkMerge (container name ++ cfg.${name}.container)))
        (lib.mkIf (elem "llama-cpp" run && active ? chat) { llama-cpp = serving "chat" [ ]; })
        (lib.mkIf hasEmbed {
          llama-cpp-embed = lib.mkMerge (
            container "llama-cpp"
            ++ [
              (serving "embed" [ "--embeddings" ])
              { ports = lib.mkForce [ "${address}:${toString (firstPort "llama-cpp" + 1)}:${toString table.llama-cpp.port}" ]; }
            ]
          );
        })
      ];
    };

    inherit (checks) assertions warnings;
  }
  // lib.optionalAttrs (options ? system.preSwitchChecks) {
    system.preSwitchChecks = lib.mkIf (withFormat != [ ]) { ai-stack-data = lib.concatMapStrings dataCheck withFormat; };
  }
  # Among the checks of home-manager, before it writes or restarts anything.
  // lib.optionalAttrs (options ? home.activation) {
    home.activation = lib.mkIf (withFormat != [ ]) {
      ai-stack-data = lib.hm.dag.entryBefore [ "writeBoundary" ] (lib.concatMapStrings dataCheck withFormat);
    };
  });
}
