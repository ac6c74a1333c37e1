# What is left of NixOS: assertions, /etc, accounts, activation, the firewall, graphics, and the services that hold ports.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkDefault
    mkIf
    mkOption
    types
    ;
  of =
    type: default:
    mkOption { inherit type default; };
  list = type: of (types.listOf type) [ ];
  enable = lib.mkEnableOption "it";

  file =
    { name, config, ... }:
    {
      options = {
        enable = of types.bool true;
        target = of types.str name;
        text = of (types.nullOr types.lines) null;
        source = mkOption { type = types.path; };
        mode = of types.str "symlink";
        user = of types.str "+0";
        group = of types.str "+0";
      };
      config.source = mkIf (config.text != null) (
        mkDefault (pkgs.writeText "etc-${baseNameOf name}" config.text)
      );
    };

  idRanges = list (types.submodule {
    options = {
      startSubUid = of types.int 0;
      startSubGid = of types.int 0;
      count = of types.int 1;
    };
  });
  user =
    { name, config, ... }:
    {
      options = {
        name = of types.str name;
        description = of types.str "";
        uid = of (types.nullOr types.int) null;
        group = of types.str "";
        extraGroups = list types.str;
        home = of types.path "/var/empty";
        homeMode = of (types.strMatching "[0-7]{1,5}") "700";
        createHome = of types.bool false;
        isSystemUser = of types.bool false;
        isNormalUser = of types.bool false;
        # Null since the state version 25.11: left as it is.
        linger = of (types.nullOr types.bool) null;
        autoSubUidGidRange = of types.bool false;
        subUidRanges = idRanges;
        subGidRanges = idRanges;
      };
      config = mkIf config.isNormalUser {
        group = mkDefault "users";
        createHome = mkDefault true;
        home = mkDefault "/home/${config.name}";
        autoSubUidGidRange = mkIf (config.subUidRanges == [ ] && config.subGidRanges == [ ]) (mkDefault true);
      };
    };

  snippet = types.either types.str (
    types.submodule {
      options = {
        deps = list types.str;
        text = mkOption { type = types.lines; };
        supportsDryActivation = of types.bool false;
      };
    }
  );
  # Snippets with those that they depend on before them.
  inOrder =
    snippets:
    let
      add =
        done: name:
        if lib.elem name done then
          done
        else if !(snippets ? ${name}) then
          throw "An activation script depends on `${name}', which there is not"
        else
          lib.foldl' add done (snippets.${name}.deps or [ ]) ++ [ name ];
    in
    lib.unique (lib.foldl' add [ ] (builtins.attrNames snippets));

  freeform =
    options:
    types.submodule {
      freeformType = types.attrsOf types.anything;
      inherit options;
    };
in
{
  options = {
    assertions = list types.unspecified;
    warnings = list types.str;
    meta = of types.anything { };
    environment = {
      etc = of (types.attrsOf (types.submodule file)) { };
      systemPackages = list types.package;
    };
    users = {
      users = of (types.attrsOf (types.submodule user)) { };
      groups = of (types.attrsOf (types.submodule { options.gid = of (types.nullOr types.int) null; })) { };
    };
    networking = {
      proxy.envVars = of (types.attrsOf types.str) { };
      firewall.allowedTCPPorts = list types.port;
      firewall.backend = of (types.enum [
        "iptables"
        "nftables"
        "firewalld"
      ]) (if config.networking.nftables.enable then "nftables" else "iptables");
      firewall.interfaces = of (types.attrsOf (
        types.submodule { options = lib.genAttrs [ "allowedTCPPorts" "allowedUDPPorts" ] (_: list types.port); }
      )) { };
      nftables.enable = enable;
    };
    system = {
      stateVersion = of types.str "26.05";
      activationScripts = of (types.attrsOf snippet) { };
      preSwitchChecks = of (types.attrsOf types.str) { };
      nixos-init = { inherit enable; };
    };
    hardware.graphics.enable = enable;
    hardware.nvidia-container-toolkit.enable = enable;

    services = {
      redis.servers = of (types.attrsOf (
        types.submodule (
          { name, ... }:
          {
            options = {
              inherit enable;
              port = of types.port (if name == "" then 6379 else 0);
            };
          }
        )
      )) { };
      postgresql = {
        inherit enable;
        settings = of (freeform { port = of types.port 5432; }) { };
      };
      qdrant = {
        inherit enable;
        settings = mkOption { type = types.attrsOf types.anything; };
      };
      ollama = {
        inherit enable;
        host = of types.str "127.0.0.1";
        port = of types.port 11434;
      };
      llama-cpp = {
        inherit enable;
        settings = of (freeform { port = of types.port 8080; }) { };
      };
      open-webui = {
        inherit enable;
        port = of types.port 8080;
      };
    };

    # What a test sees of it.
    result.activation = mkOption { type = types.raw; };
  };

  config = {
    assertions = lib.concatMap (user: [
      {
        assertion = user.isNormalUser != user.isSystemUser || user.name == "root";
        message = "users.users.${user.name}: exactly one of isSystemUser and isNormalUser must be set";
      }
      {
        assertion = user.group != "";
        message = "users.users.${user.name}.group is not set";
      }
    ]) (builtins.attrValues config.users.users)
    ++ [
      {
        assertion = config.networking.firewall.backend != "firewalld" || config.networking.firewall.interfaces == { };
        message = "networking.firewall.interfaces: the backend firewalld has no rules for an interface";
      }
    ];
    users.users.root = {
      uid = 0;
      group = "root";
      home = "/root";
    };
    # Those that others depend on.
    system.activationScripts = {
      users.text = "";
      groups.text = "";
      specialfs = "";
      etc = {
        text = "setup-etc";
        deps = [
          "users"
          "groups"
          "specialfs"
        ];
      };
    };
    services.qdrant.settings = mkIf config.services.qdrant.enable {
      service.http_port = mkDefault 6333;
      service.grpc_port = mkDefault 6334;
    };

    # nixos-init runs none of it.
    result.activation = lib.optionals (!config.system.nixos-init.enable) (
      map (name: {
        inherit name;
        text = config.system.activationScripts.${name}.text or config.system.activationScripts.${name};
      }) (inOrder config.system.activationScripts)
    );
  };
}
