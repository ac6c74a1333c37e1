# What of home-manager a module meets: files, a user's units as it writes them, activation, assertions.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkIf mkOption types;
  of =
    type: default:
    mkOption { inherit type default; };
  list = type: of (types.listOf type) [ ];
  toml = pkgs.formats.toml { };

  file =
    base:
    { name, config, ... }:
    {
      options = {
        enable = of types.bool true;
        target = mkOption {
          type = types.str;
          apply = target: "${base}${target}";
        };
        text = of (types.nullOr types.lines) null;
        source = mkOption { type = types.path; };
        executable = of (types.nullOr types.bool) null;
        onChange = of types.lines "";
        force = of types.bool false;
      };
      config.target = mkDefault name;
      config.source = mkIf (config.text != null) (mkDefault (pkgs.writeText "hm_${baseNameOf name}" config.text));
    };
  files = base: of (types.attrsOf (types.submodule (file base))) { };

  primitive = types.oneOf [
    types.bool
    types.int
    types.str
    types.path
  ];
  texts = types.coercedTo types.str lib.toList (types.listOf types.str);
  unit =
    options:
    types.attrsOf (
      types.submodule [
        {
          freeformType = types.attrsOf (types.attrsOf (types.either primitive (types.listOf primitive)));
          options.Unit = {
            Description = of (types.nullOr types.str) null;
            Documentation = of texts [ ];
          };
        }
        { inherit options; }
      ]
    );
  triggers = list (types.either types.package types.str);
  command = types.either types.package types.str;
  kinds = {
    service = unit {
      Unit = {
        X-Reload-Triggers = triggers;
        X-Restart-Triggers = triggers;
        X-SwitchMethod = of (types.enum [
          null
          "reload"
          "restart"
          "stop-start"
          "keep-old"
        ]) null;
      };
      Service = {
        Environment = of texts [ ];
        ExecStart = mkOption {
          type = types.either command (types.listOf command);
          apply = lib.toList;
          default = [ ];
        };
      };
    };
  }
  // lib.genAttrs [
    "slice"
    "socket"
    "target"
    "timer"
    "path"
  ] (_: unit { });

  value = value: if builtins.isBool value then lib.boolToString value else toString value;
  ini = lib.generators.toINI {
    listsAsDuplicateKeys = true;
    mkKeyValue = key: item: "${key}=${value item}";
  };
  unitFiles =
    kind: name: sections:
    let
      fileName = "${name}.${kind}";
      source = pkgs.writeText fileName (
        ini (
          lib.filterAttrs (_: section: section != { }) (
            lib.mapAttrs (_: lib.filterAttrs (_: value: value != null && value != [ ])) sections
          )
        )
      );
      link = folder: target: lib.nameValuePair "systemd/user/${target}.${folder}/${fileName}" { inherit source; };
      install = key: lib.toList (sections.Install.${key} or [ ]);
    in
    [ (lib.nameValuePair "systemd/user/${fileName}" { inherit source; }) ]
    ++ map (link "wants") (install "WantedBy")
    ++ map (link "requires") (install "RequiredBy");
  # Below the home directory.
  relative = path: "${lib.removePrefix "${config.home.homeDirectory}/" path}/";
in
{
  options = {
    assertions = list types.unspecified;
    warnings = list types.str;
    meta = of types.anything { };
    home = {
      username = of types.str "ai";
      homeDirectory = of types.path "/home/ai";
      stateVersion = of types.str "26.05";
      packages = list types.package;
      sessionVariables = of (types.lazyAttrsOf (types.either types.str types.int)) { };
      file = files "";
      activation = mkOption {
        type = lib.hm.types.dagOf types.str;
        default = { };
      };
    };
    xdg = {
      configHome = of types.path "${config.home.homeDirectory}/.config";
      dataHome = of types.path "${config.home.homeDirectory}/.local/share";
      configFile = files (relative config.xdg.configHome);
      dataFile = files (relative config.xdg.dataHome);
    };
    # Its own module for Podman, as far as another meets it.
    services.podman = {
      enable = lib.mkEnableOption "it";
      settings.storage = mkOption { type = toml.type; };
      containers = of (types.attrsOf (
        types.submodule {
          options = {
            image = mkOption { type = types.str; };
            extraConfig = of (types.attrsOf (types.attrsOf (types.either primitive (types.listOf primitive)))) { };
          };
        }
      )) { };
    };
    systemd.user = lib.mapAttrs' (kind: type: lib.nameValuePair "${kind}s" (of type { })) kinds // {
      tmpfiles.rules = list types.str;
    };
  };

  config = {
    xdg.configFile = lib.mkMerge [
      (lib.listToAttrs (
        lib.concatMap (
          kind: lib.concatLists (lib.mapAttrsToList (unitFiles kind) config.systemd.user."${kind}s")
        ) (builtins.attrNames kinds)
      ))
      (mkIf config.services.podman.enable {
        "containers/storage.conf".source = toml.generate "storage.conf" config.services.podman.settings.storage;
      })
      (mkIf (config.systemd.user.tmpfiles.rules != [ ]) {
        "user-tmpfiles.d/home-manager.conf".text = lib.concatLines config.systemd.user.tmpfiles.rules;
      })
    ];
    services.podman.settings = mkIf config.services.podman.enable { storage.storage.driver = mkDefault "overlay"; };
    home.file = lib.listToAttrs (
      map (file: lib.nameValuePair file.target { inherit (file) source; }) (
        lib.filter (file: file.enable) (builtins.attrValues config.xdg.configFile ++ builtins.attrValues config.xdg.dataFile)
      )
    );
    home.activation = {
      writeBoundary = lib.hm.dag.entryAnywhere "";
      linkGeneration = lib.hm.dag.entryAfter [ "writeBoundary" ] "link files";
      installPackages = lib.hm.dag.entryAfter [ "writeBoundary" ] "install packages";
      reloadSystemd = lib.hm.dag.entryAfter [ "linkGeneration" ] "reload units";
    };
  };
}
