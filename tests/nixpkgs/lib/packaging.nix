# What a flake.nix and a package.nix usually ask of nixpkgs' lib.
let
  everything = _: null;
in
{
  importTOML = file: builtins.fromTOML (builtins.readFile file);
  licenses = builtins.listToAttrs (map (spdxId: { name = spdxId; value = { inherit spdxId; }; }) [ "mit" "asl20" ]);
  platforms.linux = [ "x86_64-linux" "aarch64-linux" ];

  # A file set is two questions: whether a file is in it, and whether a directory may have one that is. A source is the same
  # files as nixpkgs', and beside them directories in which nothing was left.
  fileset =
    let
      isBelow = folder: path: path == folder || builtins.substring 0 (builtins.stringLength folder + 1) path == "${folder}/";
      toSet =
        value:
        if builtins.isAttrs value then
          value
        else
          let
            base = toString value;
          in
          if builtins.pathExists value then
            {
              has = isBelow base;
              enters = directory: isBelow base directory || isBelow directory base;
            }
          else
            throw "lib.fileset: ${base} does not exist";
      none = {
        has = _: false;
        enters = _: false;
      };
      union' =
        a: b:
        {
          has = path: a.has path || b.has path;
          enters = path: a.enters path || b.enters path;
        };
    in
    rec {
      toSource =
        { root, fileset }:
        let
          set = toSet fileset;
        in
        {
          outPath = builtins.path {
            path = root;
            name = "source";
            filter = path: type: if type == "directory" then set.enters path else set.has path;
          };
        };
      unions = values: builtins.foldl' union' none (map toSet values);
      union = a: b: union' (toSet a) (toSet b);
      difference =
        a: b:
        let
          from = toSet a;
        in
        from // { has = path: from.has path && !((toSet b).has path); };
      intersection =
        a: b:
        let
          one = toSet a;
          other = toSet b;
        in
        {
          has = path: one.has path && other.has path;
          enters = path: one.enters path && other.enters path;
        };
      fileFilter =
        predicate: path:
        let
          from = toSet path;
          nameOf = baseNameOf;
          extensionsOf = name: builtins.match ".*([.][^.]*)" name;
        in
        from
        // {
          has =
            path:
            from.has path
            && predicate {
              name = nameOf path;
              type = "regular";
              hasExt = extension: extensionsOf (nameOf path) == [ ".${extension}" ];
            };
        };
      maybeMissing = path: if builtins.pathExists path then toSet path else none;
      # A flake's source has nothing else.
      gitTracked = toSet;
    };
}
