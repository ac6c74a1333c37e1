# home-manager: the same for one user's rootless Podman, with Quadlet files (Podman 5.0 or later).
#
# Images that root's linked store has are taken from there, others are unpacked into the user's own storage.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf mkOption types;
  cfg = config.virtualisation.windlass;
  windlass = "${cfg.package}/bin/windlass";
  quadlet = import ./quadlet.nix { inherit lib; };
  network = import ./network.nix { inherit lib; };
  refs = map (image: image.ref) (builtins.attrValues cfg.images);
  runtime = import ./runtime.nix {
    inherit lib cfg pkgs;
  };
  unit = name: "${name}.service";
  # home-manager's own module for Podman, which writes storage.conf when it is enabled, and so has to know the store.
  hasPodman = options ? services.podman.settings.storage;
  writesStorage = hasPodman && config.services.podman.enable;

  service = description: lines: {
    Unit.Description = description;
    Service = {
      Type = "oneshot";
      # Podman needs the set-user-ID newuidmap, which lies where the system's own programs do.
      Environment = "PATH=${
        lib.makeBinPath [
          cfg.podman
          pkgs.skopeo
          pkgs.nix
        ]
      }:/run/wrappers/bin:/run/current-system/sw/bin:/usr/bin:/bin";
      ExecStart = lines;
    };
  };
  timer = dates: {
    Timer = {
      OnCalendar = dates;
      Persistent = true;
      RandomizedDelaySec = "15min";
    };
    Install.WantedBy = [ "timers.target" ];
  };
  atStart = service: lib.recursiveUpdate service {
    Service.RemainAfterExit = true;
    Install.WantedBy = [ "default.target" ];
  };
  file = name: "containers/systemd/${name}.container";
  # In a generation of home-manager.
  folder = "home-files${lib.removePrefix config.home.homeDirectory config.xdg.configHome}/containers/systemd";
  started = builtins.attrNames (lib.filterAttrs (_: container: container.autoStart) cfg.containers);
in
{
  imports = [ ./options.nix ];

  # A container of home-manager's own module with an image of ours: the loader comes first, and nothing pulls.
  options.services.podman.containers = mkOption {
    type = types.attrsOf (
      types.submodule (
        { config, ... }:
        {
          config.extraConfig = mkIf (cfg.enable && builtins.elem config.image refs) {
            Unit.After = [ "windlass-load.service" ];
            Unit.Wants = [ "windlass-load.service" ];
            Container.Pull = "never";
          };
        }
      )
    );
  };

  options.virtualisation.windlass = {
    slots = mkOption {
      type = types.str;
      internal = true;
      readOnly = true;
      default = "${config.xdg.dataHome}/containers/storage/windlass/models";
      description = "Where the slots of `windlass model use` are.";
    };
    podman = lib.mkPackageOption pkgs "podman" { };
    storageDir = mkOption {
      type = types.nullOr (types.strMatching "/.*");
      default = null;
      example = "/nix/var/windlass/storage";
      description = ''
        Root's linked store, to take images from without a copy. It must exist and be shared (`windlass doctor --share`, or on NixOS
        `virtualisation.windlass.share`): without that no podman command of this user works. Null leaves storage.conf alone.
      '';
    };
  };

  config = mkIf cfg.enable {
    home.packages = [ cfg.package ];

    xdg.configFile = lib.mkMerge [
      (lib.mapAttrs' (
        name: container:
        let
          own = runtime name;
        in
        lib.nameValuePair (file name) {
          text = quadlet {
            inherit name container;
            after = own.after unit;
            preStart = own.installSecrets {
              directory = "%t/windlass";
              owner = null;
            };
            inherit (own) runtimeDirectory;
            mounts = own.secretVolumes "%t/windlass";
            inherit (own) definitions;
            inherit (own) restartSec endings;
            postStart = lib.optional own.isWaitedFor (own.waitHealthy cfg.podman);
            userns = own.keepId;
            path = own.userPath;
          };
        }
      ) cfg.containers)
      (mkIf (cfg.storageDir != null && !writesStorage) {
        "containers/storage.conf".text = ''
          [storage]
          driver = "overlay"

          [storage.options]
          additionalimagestores = ["${cfg.storageDir}"]
        '';
      })
    ];

    services = lib.optionalAttrs hasPodman {
      podman.settings.storage.storage.options = mkIf (cfg.storageDir != null && writesStorage) {
        additionalimagestores = [ cfg.storageDir ];
      };
    };

    systemd.user = {
      services = lib.mkMerge [
        {
          windlass-load = mkIf (cfg.loads != [ ]) (
            atStart (
              service "Load container images from the Nix store into Podman" (
                [
                  "${windlass} load --via ${cfg.via} ${toString cfg.loads}"
                ]
                ++ lib.mapAttrsToList (slot: model: "${windlass} model use ${model} --slot ${slot}") cfg.models
              )
            )
          );
          windlass-gc = mkIf cfg.gc.enable (
            service "Remove container images that no kept generation has" [
              (toString (
                [
                  "${windlass} gc --apply --yes --keep-generations ${toString cfg.keepGenerations}"
                ]
                ++ lib.optional (cfg.gc.above != null) "--above ${toString cfg.gc.above}%%"
                ++ lib.optional (cfg.gc.downTo != null) "--down-to ${toString cfg.gc.downTo}%%"
              ))
            ]
          );
          windlass-verify = mkIf cfg.verify.enable (
            service "Verify the container images in Podman" [
              ("${windlass} verify" + lib.optionalString cfg.verify.full " --full")
            ]
          );
        }
        (lib.mapAttrs' (
          name: settings:
          lib.nameValuePair "windlass-network-${name}" (
            lib.recursiveUpdate
              (atStart (service "Podman network ${name}" (network.start cfg.podman name settings)))
              { Service.ExecStop = network.stop cfg.podman name; }
          )
        ) cfg.networks)
      ];
      timers = {
        windlass-gc = mkIf cfg.gc.enable (timer cfg.gc.dates);
        windlass-verify = mkIf cfg.verify.enable (timer cfg.verify.dates);
      };
      tmpfiles.rules = lib.mapAttrsToList (
        path: directory: "d ${path} ${directory.mode} - - - -"
      ) cfg.directories;
    };

    # Units that Quadlet generates are not among those that home-manager compares: stop those whose file is gone, and start
    # anew those whose file changed. As home-manager does it with its own: only where this user's systemd runs (at boot it
    # does not yet), and where to find it is not known in an activation by NixOS. What does not start is told, and no
    # reason to leave the rest of the activation undone.
    home.activation.windlassContainers = lib.hm.dag.entryAfter [ "reloadSystemd" ] ''
      windlassSystemctl() {
        env XDG_RUNTIME_DIR="''${XDG_RUNTIME_DIR:-/run/user/$(id -u)}" ${pkgs.systemd}/bin/systemctl --user "$@"
      }
      case $(windlassSystemctl is-system-running 2>/dev/null) in
        running | degraded)
          windlassOld=''${oldGenPath:+$oldGenPath/${folder}}
          windlassNew=$newGenPath/${folder}
          windlassGone=()
          windlassChanged=()
          for file in "$windlassOld"/*.container; do
            name=$(basename "$file" .container)
            if grep --quiet --no-messages "^# From virtualisation.windlass.containers.$name$" "$file" && [[ ! -e $windlassNew/$name.container ]]; then
              windlassGone+=("$name.service")
            fi
          done
          for name in ${toString started}; do
            if ! cmp --quiet "$windlassOld/$name.container" "$windlassNew/$name.container"; then
              windlassChanged+=("$name.service")
            fi
          done
          if (( ''${#windlassGone[@]} )); then
            run windlassSystemctl stop "''${windlassGone[@]}" || warnEcho "windlass: could not stop ''${windlassGone[*]}"
          fi
          if (( ''${#windlassChanged[@]} )); then
            run windlassSystemctl daemon-reload
            run windlassSystemctl restart "''${windlassChanged[@]}" || warnEcho "windlass: not all of these started: ''${windlassChanged[*]}"
          fi
          ;;
        *) echo "The systemd of this user is not running. Containers start with it." ;;
      esac
    '';
  };
}
