# `lib.hm` of home-manager: entries with an order among them.
{ lib }:
let
  inherit (lib) elem mkOption types;
in
rec {
  dag = {
    entryBetween = before: after: data: { inherit data before after; };
    entryAnywhere = dag.entryBetween [ ] [ ];
    entryAfter = dag.entryBetween [ ];
    entryBefore = before: dag.entryBetween before [ ];
    isEntry = entry: entry ? data && entry ? after && entry ? before;

    # { result = [ { name, data } ] }; names that there are not are no matter.
    topoSort =
      entries:
      let
        nodes = lib.mapAttrsToList (name: entry: entry // { inherit name; }) entries;
        isBefore = a: b: elem a.name b.after || elem b.name a.before;
        sorted = lib.toposort isBefore nodes;
      in
      if sorted ? result then
        { result = map (node: { inherit (node) name data; }) sorted.result; }
      else
        throw "The entries ${toString (map (node: node.name) sorted.cycle)} are before one another";
  };

  types.dagOf =
    type:
    let
      plain = lib.types.addCheck lib.types.unspecified (value: !(builtins.isAttrs value && dag.isEntry value));
    in
    lib.types.attrsOf (
      lib.types.coercedTo plain dag.entryAnywhere (
        lib.types.submodule {
          options = {
            data = mkOption { inherit type; };
            after = mkOption { type = with lib.types; listOf str; };
            before = mkOption { type = with lib.types; listOf str; };
          };
        }
      )
    );
}
