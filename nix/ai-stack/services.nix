# The services of the stack: for each name there is a file beside this one.
#
# Type: AttrSet of { port, ports, published, exposed, state, password, settings, dataFormat }
#
# What is known of a service stands in the table that `windlass compose import` reads too (src/compose/import/services.json):
#
# port       the port of the container that comes first
# ports      all that the service listens on in its container
# published  how they are published: on this host alone, under the same numbers or, the first one, under `hostPort`
# exposed    the same for an image's config
# state      where it keeps its data in the container; null if it has none
# password   the secret with its password; null if it has none
# settings   the keys that its file takes as `settings`
# dataFormat the file among its data with the version that alone reads them; null where newer versions read those of older ones
builtins.mapAttrs
  (
    _: row:
    let
      inherit (builtins) head listToAttrs map;
      hostPort = port: if port == head row.ports then row.hostPort or port else port;
    in
    {
      inherit (row) password ports settings state;
      dataFormat = row.dataFormat or null;
      port = head row.ports;
      published = map (port: "127.0.0.1:${toString (hostPort port)}:${toString port}") row.ports;
      exposed = listToAttrs (
        map (port: {
          name = "${toString port}/tcp";
          value = { };
        }) row.ports
      );
    }
  )
  (builtins.fromJSON (builtins.readFile ../../src/compose/import/services.json))
