# Arguments of dockerTools and nix2container that need packages: commands, and Nix' database. What nix/lib takes is passed on.
#
# Type: { buildRoot, buildDatabase } -> { image, layer }, each of a function of nix/lib -> the function with these arguments too
{ buildRoot, buildDatabase }:
let
  inherit (builtins)
    attrNames
    elem
    intersectAttrs
    isList
    listToAttrs
    removeAttrs
    ;
  list = value: if isList value then value else [ value ];
  commands = {
    extraCommands = "";
    fakeRootCommands = "";
    pathsToLink = [ "/" ];
  };
  database = {
    includeNixDB = false;
    initializeNixDatabase = false;
    nixUid = 0;
    nixGid = 0;
  };
  # Whether one of these arguments asks for something.
  asks = known: args: builtins.any (name: args.${name} or known.${name} != known.${name}) (attrNames known);
  # What `contents` and `copyToRoot` give is in the tree that the commands run in.
  ran =
    args:
    let
      rest = removeAttrs args (attrNames commands);
      contents = list (args.contents or [ ]);
    in
    if asks commands args then
      removeAttrs rest [ "contents" ]
      // {
        deps = list (args.deps or [ ]) ++ contents;
        copyToRoot = [
          (buildRoot (
            intersectAttrs commands args
            // {
              name = "root-${storeName (args.name or "layer")}";
              inherit contents;
              copyToRoot = args.copyToRoot or [ ];
            }
          ))
        ];
      }
    else
      rest;
  storeName = builtins.replaceStrings [ "/" ":" "@" ] [ "-" "-" "-" ];
  stored =
    function: args:
    let
      rest = ran (removeAttrs args (attrNames database));
      own = args: args.includeNixDB or false || args.initializeNixDatabase or false;
    in
    if own args then
      function (
        rest
        // {
          copyToRoot = list (rest.copyToRoot or [ ]) ++ [
            (buildDatabase {
              image = function rest;
              uid = args.nixUid or 0;
              gid = args.nixGid or 0;
            })
          ];
        }
      )
    else
      function rest;
  taking =
    known: function: run:
    function
    // {
      __functionArgs =
        function.__functionArgs
        // listToAttrs (
          map (name: {
            inherit name;
            value = true;
          }) (attrNames known)
        );
      __functor = _: run;
    };
in
{
  image = function: taking (commands // database) function (stored function);
  layer = function: taking commands function (args: function (ran args));
}
