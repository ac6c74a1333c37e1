# A network of Podman's, and how it is made and taken away.
#
# Type: { lib } -> { name, options, create, remove, definition }
{ lib }:
let
  inherit (lib) mkOption optional types;
in
{
  # A regular expression for its name.
  name = "[a-zA-Z0-9][a-zA-Z0-9_.-]*";

  # The module of `virtualisation.windlass.networks.<name>`.
  options = {
    driver = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "macvlan";
      description = "Its driver; null is Podman's default, `bridge`.";
    };
    internal = mkOption {
      type = types.bool;
      default = false;
      description = "Whether containers reach one another alone, and nothing beyond this network.";
    };
    subnets = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "10.89.7.0/24" ];
      description = "Its address ranges; none leaves the choice to Podman.";
    };
    ipv6 = mkOption {
      type = types.bool;
      default = false;
      description = "Whether it has IPv6 addresses too.";
    };
    options = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example.mtu = "1400";
      description = "Options of the driver.";
    };
  };

  # Arguments of `podman` that make it, and that take it away; one that a container still uses stays.
  create =
    name: network:
    [
      "network"
      "create"
      "--ignore"
    ]
    ++ optional (network.driver != null) "--driver=${network.driver}"
    ++ optional network.internal "--internal"
    ++ map (subnet: "--subnet=${subnet}") network.subnets
    ++ optional network.ipv6 "--ipv6"
    ++ lib.mapAttrsToList (key: value: "--opt=${key}=${value}") network.options
    ++ [ name ];
  remove = name: [
    "network"
    "rm"
    name
  ];

  # What is not Podman's default about it, as a line: containers in it are started anew when that changes. Null if all is.
  definition =
    name: network:
    let
      defaults = {
        driver = null;
        internal = false;
        subnets = [ ];
        ipv6 = false;
        options = { };
      };
      own = lib.filterAttrs (key: value: value != defaults.${key}) (builtins.intersectAttrs defaults network);
    in
    if own == { } then null else "network ${name}: ${builtins.toJSON own}";
}
