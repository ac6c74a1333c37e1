# What each type takes, and what it makes of it.
{
  lib,
  x,
  is,
  ...
}:
let
  inherit (lib) types;
  inherit (types)
    attrsOf
    coercedTo
    either
    int
    listOf
    nullOr
    oneOf
    str
    submodule
    ;
  # Which of these the type takes.
  takes = type: values: lib.filter type.check values;
  package = derivation {
    name = "p";
    system = "none";
    builder = "none";
  };
  toml =
    nullOr (oneOf [
      types.bool
      int
      types.float
      str
      types.path
      (attrsOf toml)
      (listOf toml)
    ]);
in
{
  bool = is [ true false ] (takes types.bool [ true false 0 "true" null ]);
  int = is [ 0 (-1) ] (takes int [ 0 (-1) 1.5 "1" true ]);
  ints-positive = is [ 1 ] (takes types.ints.positive [ 0 1 (-1) 1.5 ]);
  ints-unsigned = is [ 0 1 ] (takes types.ints.unsigned [ 0 1 (-1) "1" ]);
  ints-between = is [ 3 5 ] (takes (types.ints.between 3 5) [ 2 3 5 6 "4" ]);
  ints-u8 = is [ 0 255 ] (takes types.ints.u8 [ 0 255 256 (-1) ]);
  port = is [ 0 65535 ] (takes types.port [ 0 65535 65536 (-1) "80" ]);
  float = is [ 1.5 ] (takes types.float [ 1.5 1 "1.5" ]);
  number = is [ 1.5 1 ] (takes types.number [ 1.5 1 "1" true ]);
  str = is [ "" "a\nb" ] (takes str [ "" "a\nb" 1 ./module.nix ]);
  nonEmptyStr = is [ "a" " a" ] (takes types.nonEmptyStr [ "" " \n" "a" " a" ]);
  singleLineStr = is [ "a" "a\n" "" ] (takes types.singleLineStr [ "a" "a\n" "" "a\nb" "a\r" ]);
  singleLineStr-without-its-newline = is "a" (x types.singleLineStr [ "a\n" ]);
  strMatching = is [ "ab" "b" ] (takes (types.strMatching "a*b") [ "ab" "b" "abc" 1 ]);
  lines = is [ "a" "" ] (takes types.lines [ "a" "" 1 [ ] ]);
  path = is [ "/a" ] (takes types.path [ "/a" "a" "" 1 ]);
  path-takes-paths-and-packages = is [ true true ] (map types.path.check [ ./module.nix package ]);
  package = is [ true true false false ] (map types.package.check [
    package
    "${builtins.storeDir}/00000000000000000000000000000000-p"
    "${builtins.storeDir}/00000000000000000000000000000000-p/bin"
    "/p"
  ]);
  package-stays-itself = is package.outPath (x types.package [ package ]).outPath;
  enum = is [ "a" 1 null ] (takes (types.enum [ "a" 1 null ]) [ "a" 1 null "b" true ]);
  nullOr = is [ null 1 ] (takes (nullOr int) [ null 1 "1" ]);
  nullOr-null = is null (x (nullOr int) [ null null ]);
  nullOr-of-lists-merges = is [ 2 1 ] (x (nullOr (listOf int)) [ [ 1 ] [ 2 ] ]);
  either = is [ 1 "a" ] (takes (either int str) [ 1 "a" null [ ] ]);
  either-merges-as-the-one-all-fit = is [ 2 1 ] (x (either int (listOf int)) [ [ 1 ] [ 2 ] ]);
  oneOf = is [ 1 "a" null ] (takes (oneOf [ int str (types.enum [ null ]) ]) [ 1 "a" null true ]);
  listOf-looks-no-deeper = is [ [ 1 ] [ "a" ] ] (takes (listOf int) [ [ 1 ] [ "a" ] 1 ]);
  nonEmptyListOf = is [ [ 1 ] ] (takes (types.nonEmptyListOf int) [ [ ] [ 1 ] ]);
  attrsOf-takes-sets = is [ { } ] (takes (attrsOf int) [ { } [ ] 1 ]);
  coercedTo = is [ 1 2 ] (x (coercedTo int (n: [ n ]) (listOf int)) [ [ 2 ] 1 ]);
  coercedTo-takes = is [ 1 [ 1 ] ] (takes (coercedTo int (n: [ n ]) (listOf int)) [ 1 [ 1 ] "1" ]);
  coercedTo-in-a-list = is [ { a = "t"; } { a = "u"; } ] (
    x (listOf (coercedTo str (a: { inherit a; }) (submodule { options.a = lib.mkOption { type = str; }; }))) [ [ "t" { a = "u"; } ] ]
  );
  addCheck = is [ 2 ] (takes (types.addCheck int (n: n > 1)) [ 1 2 "2" ]);
  attrs-last-wins = is { a = 1; b = 2; c = 3; } (x types.attrs [ { a = 1; b = 2; } { b = 9; c = 3; } ]);
  raw = is "x" (x types.raw [ "x" ]);
  anything-merges-sets = is { a = { b = 1; c = 2; }; d = [ 1 ]; } (
    x types.anything [ { a.b = 1; } { a.c = 2; d = [ 1 ]; } ]
  );
  anything-agrees = is [ 1 ] (x types.anything [ [ 1 ] [ 1 ] ]);
  anything-has-priorities-inside = is { a = 2; } (x types.anything [ { a = 1; } { a = lib.mkForce 2; } ]);
  anything-functions = is { a = 1; b = 2; } (x types.anything [ (n: { a = n; }) (n: { b = n + 1; }) ] 1);
  unspecified-lists = is [ 2 1 ] (x types.unspecified [ [ 1 ] [ 2 ] ]);
  unspecified-sets = is { a = 1; b = 2; } (x types.unspecified [ { a = 1; } { b = 2; } ]);
  functionTo = is [ 3 2 ] (x (types.functionTo (listOf int)) [ (n: [ (n + 1) ]) (n: [ (n + 2) ]) ] 1);
  # The type of pkgs.formats.toml, as storage.conf has it.
  toml-merges-by-attribute = is
    {
      storage = {
        driver = "overlay";
        graphroot = "/g";
        options.additionalimagestores = [ "/b" "/a" ];
      };
    }
    (
      x toml [
        {
          storage = {
            driver = lib.mkDefault "overlay";
            graphroot = lib.mkDefault "/var";
          };
        }
        { storage.options.additionalimagestores = [ "/a" ]; }
        {
          storage.graphroot = "/g";
          storage.options.additionalimagestores = [ "/b" ];
        }
      ]
    );
  descriptions = is [ "null or string" "list of attribute set of string" "attribute set of (submodule)" "list of (null or string)" ] (
    map (type: type.description) [
      (nullOr str)
      (listOf (attrsOf str))
      (attrsOf (submodule { }))
      (listOf (nullOr str))
    ]
  );
}
