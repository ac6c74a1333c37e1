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
  containers = config.virtualisation.oci-containers.containers;
  storage = config.virtualisation.containers.storage.settings.storage;
  podman = config.virtualisation.podman.package;
  windlass = "${cfg.package}/bin/windlass";
  account = config.users.users.${cfg.user};
  linked = cfg.via != "podman";
  quadlet = import ./quadlet.nix { inherit lib; };
  ociContainer = import ./oci-containers.nix { inherit lib; };
  restarts = import ./restarts.nix;
  runtime = import ./runtime.nix {
    inherit lib cfg;
    install = "${pkgs.coreutils}/bin/install";
  };

  ofQuadlet = lib.optionalAttrs (cfg.runner == "quadlet") cfg.containers;
  ofOci = lib.optionalAttrs (cfg.runner == "oci-containers") cfg.containers;
  # Those of others too that run an image of ours.
  refs = map (image: image.ref) (builtins.attrValues cfg.images);
  oci = lib.filterAttrs (_: container: builtins.elem container.image refs) containers;
  ociUnit = name: "${containers.${name}.serviceName}.service";
  quadletUnit = name: "${name}.service";
  # Containers whose units the system has others of the same name for.
  shadowed = lib.optionals (cfg.user == null) (
    builtins.filter (name: config.systemd.services ? ${name}) (builtins.attrNames ofQuadlet)
  );

  # Whether `podman system prune` is told --all, -a, or -af.
  prunesAll = lib.any (flag: builtins.match "--all(=true)?|-[a-z]*a[a-z]*" flag != null) (
    lib.concatMap (lib.splitString " ") config.virtualisation.podman.autoPrune.flags
  );

  # Whose directory /run/<name> is too: the unit of a container by that name would take it away when it stops.
  sharedBy =
    name:
    let
      directories = unit: lib.concatMap (lib.splitString " ") (lib.toList (unit.serviceConfig.RuntimeDirectory or [ ]));
      others = removeAttrs config.systemd.services [ containers.${name}.serviceName ];
    in
    builtins.attrNames (lib.filterAttrs (_: unit: unit.enable && builtins.elem name (directories unit)) others);

  # Where the secrets of a container are while it runs.
  secretsAt = "/run/windlass";
  secretsFor =
    name:
    let
      own = runtime name;
    in
    own.installSecrets { directory = secretsAt; owner = { inherit (own) uid gid; }; };
  withSecrets =
    name: container:
    container // { volumes = container.volumes ++ (runtime name).secretVolumes secretsAt; };

  # Whether the containers are units of the user's own systemd.
  ofUser = cfg.user != null && cfg.runner == "quadlet";
  networks =
    more:
    lib.listToAttrs (
      map (
        network:
        lib.nameValuePair "windlass-network-${network}" (
          lib.recursiveUpdate {
            description = "Podman network ${network}";
            path = [ podman ];
            stopIfChanged = false;
            serviceConfig = {
              Type = "oneshot";
              RemainAfterExit = true;
              ExecStart = "${podman}/bin/podman network create --ignore ${network}";
            };
          } more
        )
      ) cfg.networks
    );

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
  imports = [ ./options.nix ];

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
    # Podman's name server listens on the host's end of a network, where NixOS' firewall lets nothing in.
    networking.firewall.interfaces = mkIf (cfg.user == null && cfg.networks != [ ]) {
      ${if config.networking.nftables.enable then "podman*" else "podman+"}.allowedUDPPorts = [ 53 ];
    };
    virtualisation.containers.storage.settings.storage = {
      # NixOS' own defaults, which would be gone with the first definition.
      driver = lib.mkDefault "overlay";
      graphroot = lib.mkDefault "/var/lib/containers/storage";
      runroot = lib.mkDefault "/run/containers/storage";
      options = mkIf linked { additionalimagestores = [ cfg.storageDir ]; };
    };

    # First the store, then the storage.conf that names it.
    system.activationScripts = mkIf linked {
      windlass.text = "${windlass} doctor --make-store --storage-dir ${lib.escapeShellArg cfg.storageDir}";
      etc.deps = [ "windlass" ];
    };

    systemd.services = lib.mkMerge [
      {
        windlass-load = mkIf (cfg.loads != [ ]) (
          lib.recursiveUpdate oneshot {
            description = "Load container images from the Nix store into Podman";
            wantedBy = [ "multi-user.target" ];
            before =
              map ociUnit (builtins.attrNames oci)
              ++ map quadletUnit (builtins.attrNames ofQuadlet)
              ++ lib.optional (cfg.user != null) "user@${toString account.uid}.service";
            # What it loaded stays: a change only makes it run again, and stops no container.
            stopIfChanged = false;
            serviceConfig.RemainAfterExit = true;
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
      # oci-containers makes a container whose image it does not load itself wait for the network; and what it requires, it
      # is restarted with.
      (lib.mapAttrs' (
        name: container:
        let
          ours = ofOci ? ${name};
          first =
            if ours then (runtime name).after ociUnit else [ "windlass-load.service" ] ++ map ociUnit container.dependsOn;
        in
        lib.nameValuePair container.serviceName {
          wants = lib.mkForce first;
          after = lib.mkForce first;
          requires = lib.mkForce [ ];
          serviceConfig = mkIf ours (
            {
              ExecStartPre = secretsFor name;
            }
            // lib.mapAttrs (_: lib.mkDefault) restarts
            # NixOS checks values with one mark around them at most, and a key's definitions are all lists or none is.
            // lib.optionalAttrs (ofOci.${name}.restart != "always") {
              Restart = lib.mkForce ofOci.${name}.restart;
            }
            # A start that waits for a container to be healthy would wait for ever, and `nixos-rebuild switch` with it.
            // lib.optionalAttrs (runtime name).isWaitedFor {
              ExecStartPost = (runtime name).waitHealthy podman;
              TimeoutStartSec = lib.mkForce "15min";
            }
            // lib.optionalAttrs (ofOci.${name}.stopTimeout != null) {
              TimeoutStopSec = lib.mkForce (lib.max 120 (ofOci.${name}.stopTimeout + 60));
            }
            // lib.optionalAttrs ((runtime name).runtimeDirectory != [ ]) {
              RuntimeDirectory = lib.mkForce ([ name ] ++ (runtime name).runtimeDirectory);
            }
          );
        }
      ) oci)
    ];

    # The system's units cannot be wanted by a user's.
    systemd.user.services = mkIf ofUser (networks { unitConfig.ConditionUser = cfg.user; });

    systemd.timers = {
      windlass-gc = mkIf cfg.gc.enable timer;
      windlass-verify = mkIf cfg.verify.enable timer;
    };

    virtualisation.oci-containers = mkIf (ofOci != { }) {
      backend = "podman";
      containers = lib.mapAttrs (
        name: container:
        ociContainer {
          container = withSecrets name container;
        }
      ) ofOci;
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
            inherit (own) runtimeDirectory;
            postStart = lib.optional own.isWaitedFor (own.waitHealthy podman);
            userns = if ofUser then own.keepId else null;
            path = if ofUser then own.userPath else null;
            wantedBy = if ofUser then "default.target" else "multi-user.target";
          };
        }
      ) ofQuadlet)
      (mkIf (cfg.user != null) {
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
    systemd.units = mkIf (cfg.user == null) (
      lib.mapAttrs' (
        name: _:
        lib.nameValuePair (quadletUnit name) {
          overrideStrategy = "asDropin";
          text = ''
            [Unit]
            X-Windlass-Quadlet=${builtins.hashString "sha256" config.environment.etc."containers/systemd/${name}.container".text}
          '';
        }
      ) (removeAttrs ofQuadlet shadowed)
    );

    systemd.tmpfiles.rules =
      lib.mapAttrsToList (
        path: directory:
        let
          owner = if cfg.user == null then "${directory.user} ${directory.group}" else "${cfg.user} ${account.group}";
        in
        "d ${path} ${directory.mode} ${owner} - -"
      ) cfg.directories
      # Podman reads this user's settings from here only.
      ++ lib.optionals (cfg.user != null) [
        "d ${account.home}/.config 0755 ${cfg.user} ${account.group} - -"
        "d ${account.home}/.config/containers 0755 ${cfg.user} ${account.group} - -"
        "L ${account.home}/.config/containers/storage.conf - ${cfg.user} ${account.group} - /etc/containers/windlass-rootless.conf"
      ];

    assertions = [
      {
        assertion = cfg.user == null || (account.uid != null && account.linger);
        message = ''
          virtualisation.windlass.user: users.users.${toString cfg.user} needs a fixed `uid` and `linger = true`, so that its containers run
          without a login
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
          virtualisation.windlass.runner = "quadlet": the system has ${toString (map quadletUnit shadowed)} already; disable that, give the
          container another name, or use runner = "oci-containers"
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
    ]
    ++ map (name: {
      assertion = sharedBy name == [ ];
      message = ''
        virtualisation.windlass.containers.${name}: its unit keeps its files in /run/${name}, which belongs to
        ${toString (sharedBy name)} too, and goes with the first of them that stops; disable one of them, or name it otherwise
      '';
    }) (builtins.attrNames ofOci);

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
