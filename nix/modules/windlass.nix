# NixOS: images from the Nix store in Podman, before the containers start, and without a network.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf mkOption types;
  cfg = config.virtualisation.windlass;
  # What storage.conf says, without the empty texts, which leave it to Podman.
  places = lib.filterAttrs (_: value: value != "") (
    config.virtualisation.containers.storage.settings.storage or { }
  );
  storage = {
    driver = "overlay";
    graphroot = "/var/lib/containers/storage";
  }
  // places;
  podman = config.virtualisation.podman.package;
  windlass = "${cfg.package}/bin/windlass";
  account = config.users.users.${cfg.user};
  linked = cfg.via != "podman";
  firewalld = config.networking.firewall.backend or "iptables" == "firewalld";
  # By the rules of Podman 6 drop-ins are honoured: the store is named in one of its own. And graphroot and runroot in /etc are those
  # of rootless users too, who cannot write there.
  newRules = lib.versionAtLeast (podman.version or "0") "6";
  quadlet = import ./quadlet.nix { inherit lib; };
  network = import ./network.nix { inherit lib; };
  runtime = import ./runtime.nix {
    inherit lib cfg pkgs;
  };

  ofQuadlet = lib.optionalAttrs (cfg.runner == "quadlet") cfg.containers;
  quadletUnit = name: "${name}.service";
  # Units of systemd's own kind, which the drop-ins of those that Quadlet generates are among.
  services = if ofUser then config.systemd.user.services else config.systemd.services;
  # Containers whose units the system has others of the same name for: they start something.
  shadowed = builtins.filter (
    name:
    let
      unit = services.${name};
    in
    unit.script != "" || unit.serviceConfig ? ExecStart || unit.overrideStrategy != "asDropin"
  ) (builtins.attrNames ofQuadlet);

  # Whether `podman system prune` is told --all, -a, or -af.
  prunesAll = lib.any (flag: builtins.match "--all(=true)?|-[a-z]*a[a-z]*" flag != null) (
    lib.concatMap (lib.splitString " ") config.virtualisation.podman.autoPrune.flags
  );

  # Whether the containers are units of the user's own systemd.
  ofUser = cfg.user != null && cfg.runner == "quadlet";
  networks =
    more:
    lib.mapAttrs' (
      name: settings:
      lib.nameValuePair "windlass-network-${name}" (
        lib.recursiveUpdate {
          description = "Podman network ${name}";
          path = [ podman ];
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            ExecStart = network.start podman name settings;
            ExecStop = network.stop podman name;
          };
        } more
      )
    ) cfg.networks;

  # NixOS restarts what is in /etc/systemd/system and has changed, with its drop-ins. So there is a drop-in that changes with
  # what Quadlet generates from; and what the user says of the unit is in the same one.
  dropIns = lib.mapAttrs (
    name: _:
    lib.optionalAttrs (!ofUser) {
      unitConfig.X-Windlass-Quadlet =
        builtins.hashString "sha256"
          config.environment.etc."containers/systemd/${name}.container".text;
    }
    // {
      overrideStrategy = "asDropin";
      # NixOS would have the unit find coreutils and nothing that Podman needs.
      environment.PATH = lib.mkForce "${lib.makeBinPath services.${name}.path}:${(runtime name).userPath}";
    }
  ) ofQuadlet;

  # The first thing that a machine does once its file systems are there: a storage.conf that names a store that is not there
  # stops every podman command. Activation does the same where there is one, before it writes storage.conf.
  makeStore = "${windlass} doctor --make-store ${lib.optionalString cfg.share "--share "}--storage-dir ${lib.escapeShellArg cfg.storageDir}";
  early = [
    "sysinit.target"
    "sysinit-reactivation.target"
  ];
  store = {
    description = "Make the linked store of container images";
    wantedBy = early;
    before = early ++ [ "shutdown.target" ];
    after = [ "local-fs.target" ];
    conflicts = [ "shutdown.target" ];
    stopIfChanged = false;
    unitConfig = {
      DefaultDependencies = false;
      RequiresMountsFor = [ cfg.storageDir ];
    };
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStart = makeStore;
    };
  };
  hasActivation = !(config.system.nixos-init.enable or false);

  oneshot = {
    serviceConfig = {
      Type = "oneshot";
      # No address to talk to: what is not on this host is an error, not a download.
      RestrictAddressFamilies = [
        "AF_UNIX"
        "AF_NETLINK"
      ];
      IPAddressDeny = "any";
    };
    path = [
      podman
      pkgs.skopeo
      pkgs.nix
    ];
    unitConfig.RequiresMountsFor = [ storage.graphroot ] ++ lib.optional linked cfg.storageDir;
  };
  timer = {
    timerConfig = {
      Persistent = true;
      RandomizedDelaySec = "15min";
    };
  };
in
{
  imports = [
    ./options.nix
    ./oci-units.nix
  ];

  options.virtualisation.windlass = {
    slots = mkOption {
      type = types.nullOr types.str;
      internal = true;
      readOnly = true;
      # What root's Podman has is closed to others.
      default = if cfg.user == null then "${storage.graphroot}/windlass/models" else null;
      description = "Where the slots of `windlass model use` are; null if the containers cannot reach them.";
    };
    storageDir = mkOption {
      type = types.strMatching "/.*";
      default = "/nix/var/windlass/storage";
      description = ''
        The linked store: an additional image store for Podman whose files are hard links to the Nix store. It must be on the
        file system of the Nix store. It is made before storage.conf names it, because without it no podman command works.
      '';
    };
    share = mkOption {
      type = types.bool;
      default = cfg.user != null;
      defaultText = lib.literalMD "whether there is a `user`";
      description = ''
        Whether rootless users of this host may take images from the linked store. Then it is mounted read-only over itself, at
        boot and before any of them is there, and only then opened. Otherwise no other user reaches anything in it.
      '';
    };
    runner = mkOption {
      type = types.enum [
        "oci-containers"
        "quadlet"
      ];
      default = if cfg.user == null then "oci-containers" else "quadlet";
      defaultText = lib.literalMD "`oci-containers`; with `user` it is `quadlet`";
      description = ''
        What runs `containers`: units of `virtualisation.oci-containers`, `podman-<name>.service`, or Quadlet files in
        /etc/containers/systemd, `<name>.service`. A `user` needs Quadlet.
      '';
    };
    user = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "ai";
      description = ''
        The account whose rootless Podman runs the containers; null is root's. It takes the images from the linked store, which
        root fills, and needs a `uid`, `linger = true` and subordinate IDs. A storage.conf of its own that is there is left alone,
        and then has to name the linked store; `windlass doctor` says whether it does.
      '';
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    virtualisation.podman.enable = true;
    virtualisation.containers.enable = true;
    # Podman's name server listens on the host's end of a network, where NixOS' firewall lets nothing in. Podman itself tells
    # firewalld of its networks, and NixOS' rules for an interface are refused there.
    networking.firewall.interfaces = mkIf (cfg.user == null && cfg.networks != { } && !firewalld) {
      ${if config.networking.nftables.enable then "podman*" else "podman+"}.allowedUDPPorts = [ 53 ];
    };
    virtualisation.containers.storage.settings.storage = {
      # NixOS' own defaults, which would be gone with the first definition.
      driver = lib.mkDefault "overlay";
      # An empty text leaves the place to Podman: the same one for root, and for every other user one of their own. What NixOS says
      # by default gives way to it, what a user says does not.
      graphroot = if newRules then lib.mkOverride 900 "" else lib.mkDefault "/var/lib/containers/storage";
      runroot = if newRules then lib.mkOverride 900 "" else lib.mkDefault "/run/containers/storage";
      options = mkIf (linked && !newRules) { additionalimagestores = [ cfg.storageDir ]; };
    };

    # First the store, and over it the read-only mount if it is shared; then the storage.conf that names it.
    system.activationScripts = mkIf (linked && hasActivation) {
      windlass.text = makeStore;
      etc.deps = [ "windlass" ];
    };

    systemd.services = lib.mkMerge [
      {
        windlass-store = mkIf linked store;
        windlass-load = mkIf (cfg.loads != [ ]) (
          lib.recursiveUpdate oneshot {
            description = "Load container images from the Nix store into Podman";
            wantedBy = [ "multi-user.target" ];
            before =
              map quadletUnit (builtins.attrNames ofQuadlet)
              ++ lib.optional (cfg.user != null) "user@${toString account.uid}.service";
            # What it loaded stays: a change only makes it run again, and stops no container.
            stopIfChanged = false;
            serviceConfig.RemainAfterExit = true;
            # A oneshot has no limit of its own, and whatever waits for it would wait with it.
            serviceConfig.TimeoutStartSec = lib.mkDefault "1h";
            serviceConfig.ExecStart = [
              "${windlass} load --via ${cfg.via} ${toString cfg.loads}"
            ]
            ++ lib.mapAttrsToList (slot: model: "${windlass} model use ${model} --slot ${slot}") cfg.models;
          }
        );
        windlass-gc = mkIf cfg.gc.enable (
          lib.recursiveUpdate oneshot {
            description = "Remove container images that no kept generation has";
            startAt = cfg.gc.dates;
            restartIfChanged = false;
            serviceConfig.ExecStart = toString (
              [
                "${windlass} gc --apply --yes --keep-generations ${toString cfg.keepGenerations}"
              ]
              ++ lib.optional (cfg.gc.above != null) "--above ${toString cfg.gc.above}%%"
              ++ lib.optional (cfg.gc.downTo != null) "--down-to ${toString cfg.gc.downTo}%%"
            );
          }
        );
        windlass-verify = mkIf cfg.verify.enable (
          lib.recursiveUpdate oneshot {
            description = "Verify the container images in Podman";
            startAt = cfg.verify.dates;
            restartIfChanged = false;
            serviceConfig.ExecStart = "${windlass} verify" + lib.optionalString cfg.verify.full " --full";
          }
        );
      }
      (mkIf (!ofUser) (networks { }))
      (mkIf (!ofUser) dropIns)
    ];

    # The system's units cannot be wanted by a user's.
    systemd.user.services = mkIf ofUser (
      lib.mkMerge [
        (networks { unitConfig.ConditionUser = cfg.user; })
        dropIns
      ]
    );

    systemd.timers = {
      windlass-gc = mkIf cfg.gc.enable timer;
      windlass-verify = mkIf cfg.verify.enable timer;
    };

    environment.etc = lib.mkMerge [
      (lib.mapAttrs' (
        name: container:
        let
          folder = lib.optionalString (cfg.user != null) "users/${toString account.uid}/";
          own = runtime name;
        in
        lib.nameValuePair "containers/systemd/${folder}${name}.container" {
          text = quadlet {
            inherit name container;
            # A user's units do not see the system's; the user's own systemd starts after the loader.
            after = if ofUser then lib.remove "windlass-load.service" (own.after quadletUnit) else own.after quadletUnit;
            preStart = own.installSecrets {
              directory = "%t/windlass";
              owner = if ofUser then null else { inherit (own) uid gid; };
            };
            mounts = own.secretVolumes "%t/windlass";
            inherit (own) definitions;
            inherit (own) runtimeDirectory;
            inherit (own) restartSec endings;
            postStart = lib.optional own.isWaitedFor (own.waitHealthy podman);
            userns = if ofUser then own.keepId else null;
            path = if ofUser then own.userPath else null;
            wantedBy = if ofUser then "default.target" else "multi-user.target";
          };
        }
      ) ofQuadlet)
      (mkIf (linked && newRules) {
        # A store that a user's Podman cannot read makes all of its commands fail: root's alone is named for root alone.
        "containers/storage.${lib.optionalString (cfg.user == null) "rootful."}conf.d/50-windlass.conf".text = ''
          [storage.options]
          additionalimagestores = ["${cfg.storageDir}", {append = true}]
        '';
      })
      (mkIf (cfg.user != null && !newRules) {
        "containers/windlass-rootless.conf".text = ''
          [storage]
          driver = "overlay"

          [storage.options]
          additionalimagestores = ["${cfg.storageDir}"]
        '';
      })
    ];

    # NixOS restarts what is in /etc/systemd/system and has changed, with its drop-ins. So there is a link to what Quadlet
    # generates, and a drop-in that changes with it.
    systemd.packages = mkIf (cfg.user == null && ofQuadlet != { }) [
      (pkgs.linkFarm "windlass-quadlet-units" (
        map (name: {
          name = "etc/systemd/system/${quadletUnit name}";
          path = "/run/systemd/generator/${quadletUnit name}";
        }) (builtins.attrNames ofQuadlet)
      ))
    ];

    systemd.tmpfiles.rules =
      lib.mapAttrsToList (
        path: directory:
        let
          owner = if cfg.user == null then "${directory.user} ${directory.group}" else "${cfg.user} ${account.group}";
        in
        "d ${path} ${directory.mode} ${owner} - -"
      ) cfg.directories
      # Before Podman 6 it reads this user's settings from here only.
      ++ lib.optionals (cfg.user != null && !newRules) [
        "d ${account.home}/.config 0755 ${cfg.user} ${account.group} - -"
        "d ${account.home}/.config/containers 0755 ${cfg.user} ${account.group} - -"
        "L ${account.home}/.config/containers/storage.conf - ${cfg.user} ${account.group} - /etc/containers/windlass-rootless.conf"
      ];

    assertions = [
      {
        assertion = cfg.user == null || cfg.share || !linked;
        message = ''
          virtualisation.windlass.user: a rootless Podman takes its images from the linked store, which no other user reaches unless
          virtualisation.windlass.share is true
        '';
      }
      {
        assertion = cfg.user == null || (account.uid != null && account.linger == true);
        message = ''
          virtualisation.windlass.user: users.users.${toString cfg.user} needs a fixed `uid` and `linger = true`, so that its containers run
          without a login
        '';
      }
      {
        assertion = cfg.user == null || !newRules || !places ? graphroot || lib.hasInfix "$" places.graphroot;
        message = ''
          virtualisation.windlass.user: by the rules of Podman 6 graphroot = "${places.graphroot or ""}" in
          virtualisation.containers.storage.settings.storage is that of ${toString cfg.user} too, who cannot write there. Remove it there,
          and say the same for root alone: environment.etc."containers/storage.rootful.conf.d/10-places.conf".text
        '';
      }
      {
        assertion = cfg.user == null || cfg.runner == "quadlet";
        message = ''
          virtualisation.windlass.runner = "oci-containers" cannot run the containers of virtualisation.windlass.user: a unit of the
          system must not move the processes of a rootless Podman to a control group of the user. Remove `runner`, or say
          runner = "quadlet"
        '';
      }
      {
        assertion = shadowed == [ ];
        message = ''
          virtualisation.windlass.runner = "quadlet": the system has ${toString (map quadletUnit shadowed)} already, with a program of its
          own; disable that, give the container another name, or use runner = "oci-containers"
        '';
      }
      {
        assertion = cfg.user == null || linked && (storage.driver == "overlay" || cfg.via == "store");
        message = ''
          virtualisation.windlass.user: a rootless Podman takes its images from the linked store, so `via` cannot be "podman", and
          root's driver has to be overlay; or use the home-manager module, with which the user loads them
        '';
      }
      {
        assertion = !linked || cfg.via == "auto" || storage.driver == "overlay";
        message = ''
          virtualisation.windlass.via = "store" needs Podman's driver overlay, and storage.conf says ${storage.driver}
        '';
      }
    ];

    warnings =
      lib.optional (storage.driver != "overlay" && cfg.via == "auto") ''
        virtualisation.windlass: with Podman's driver ${storage.driver} every image is copied; only overlay can take it from the
        linked store
      ''
      ++ lib.optional
        (config.virtualisation.podman.autoPrune.enable && prunesAll)
        ''
          virtualisation.podman.autoPrune.flags has --all: it removes every image that Podman itself unpacked and no container uses.
          Linked images are safe; virtualisation.windlass.gc removes what is superseded
        '';
  };
}
