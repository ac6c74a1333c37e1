# A network of Podman's, and how it is made and taken away.
#
# Type: { lib } -> { name, options, start, stop, definition }
{ lib }:
let
  inherit (lib) mkOption optional types;
  # For a command line of systemd: what a label or an option has is one word, whatever is in it.
  word =
    text:
    let
      escaped =
        builtins.replaceStrings [ "\\" "\"" "%" "$" "\n" ] [ "\\\\" "\\\"" "%%" "$$" "\\n" ]
          text;
    in
    if builtins.match "[a-zA-Z0-9_./:=,+@-]+" text != null then text else "\"${escaped}\"";
  words = lib.concatMapStringsSep " " word;
  arguments =
    name: network:
    optional (network.driver != null) "--driver=${network.driver}"
    ++ optional network.internal "--internal"
    ++ map (subnet: "--subnet=${subnet}") network.subnets
    ++ optional network.ipv6 "--ipv6"
    ++ lib.mapAttrsToList (key: value: "--opt=${key}=${value}") network.options
    ++ network.extraOptions
    # What `windlass gc` knows it by.
    ++ [
      "--label=windlass.network=${name}"
      name
    ];
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
    extraOptions = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "--gateway=10.89.7.1" ];
      description = "Further arguments of `podman network create`.";
    };
  };

  # Command lines of the unit. `podman network create --ignore` would start it in one, but Podman 4.3 does not know the flag: to make
  # one that is there already may fail, and whether it is there afterwards is what counts.
  start = podman: name: network: [
    "-${podman}/bin/podman network create ${words (arguments name network)}"
    "${podman}/bin/podman network exists ${name}"
  ];
  # One that a container still uses stays.
  stop = podman: name: "-${podman}/bin/podman network rm ${name}";

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
        extraOptions = [ ];
      };
      own = lib.filterAttrs (key: value: value != defaults.${key}) (builtins.intersectAttrs defaults network);
    in
    if own == { } then null else "network ${name}: ${builtins.toJSON own}";
}
