# The functions beside the module system.
{ lib, is, ... }:
let
  set = {
    a = 1;
    b = 2;
  };
  package = {
    type = "derivation";
    pname = "tool";
    name = "tool-1.2";
    version = "1.2";
    outPath = "/tool";
    outputs = [ "out" "bin" ];
    out.outPath = "/tool";
    bin.outPath = "/tool-bin";
    meta.mainProgram = "tl";
  };
in
{
  # Lists.
  optional = is [ [ 1 ] [ ] ] [ (lib.optional true 1) (lib.optional false 1) ];
  optionals = is [ [ 1 2 ] [ ] ] [ (lib.optionals true [ 1 2 ]) (lib.optionals false [ 1 ]) ];
  singleton-and-toList = is [ [ 1 ] [ 1 ] [ 1 ] ] [ (lib.singleton 1) (lib.toList 1) (lib.toList [ 1 ]) ];
  flatten = is [ 1 2 3 4 ] (lib.flatten [ 1 [ 2 [ 3 ] ] [ ] 4 ]);
  unique = is [ 3 1 2 ] (lib.unique [ 3 1 3 2 1 ]);
  allUnique = is [ true false ] [ (lib.allUnique [ 1 2 ]) (lib.allUnique [ 1 1 ]) ];
  last-and-init = is [ 3 [ 1 2 ] ] [ (lib.last [ 1 2 3 ]) (lib.init [ 1 2 3 ]) ];
  take-and-drop = is [ [ 1 2 ] [ 3 ] [ 1 ] [ ] ] [ (lib.take 2 [ 1 2 3 ]) (lib.drop 2 [ 1 2 3 ]) (lib.take 9 [ 1 ]) (lib.drop 9 [ 1 ]) ];
  reverseList = is [ 3 2 1 ] (lib.reverseList [ 1 2 3 ]);
  range-and-replicate = is [ [ 2 3 4 ] [ ] [ "a" "a" ] ] [ (lib.range 2 4) (lib.range 3 2) (lib.replicate 2 "a") ];
  imap = is [ [ "0a" "1b" ] [ "1a" "2b" ] ] (map (imap: imap (n: v: toString n + v) [ "a" "b" ]) [ lib.imap0 lib.imap1 ]);
  folds = is [ "abc" "((ab)c)" "(a(bc))" ] [
    (lib.foldl' (a: b: a + b) "" [ "a" "b" "c" ])
    (lib.foldl' (a: b: if a == "" then b else "(${a}${b})") "" [ "a" "b" "c" ])
    (lib.foldr (a: b: if b == "" then a else "(${a}${b})") "" [ "a" "b" "c" ])
  ];
  remove-and-others = is [ [ 1 3 ] [ 1 ] [ 2 ] ] [
    (lib.remove 2 [ 1 2 3 2 ])
    (lib.subtractLists [ 2 3 ] [ 1 2 3 ])
    (lib.intersectLists [ 2 3 ] [ 1 2 ])
  ];
  count-and-findFirst = is [ 2 2 null ] [
    (lib.count (n: n > 1) [ 1 2 3 ])
    (lib.findFirst (n: n > 1) null [ 1 2 3 ])
    (lib.findFirst (n: n > 9) null [ 1 ])
  ];
  zipLists = is [ [ 5 7 ] [ { fst = 1; snd = 3; } ] ] [ (lib.zipListsWith (a: b: a + b) [ 1 2 9 ] [ 4 5 ]) (lib.zipLists [ 1 ] [ 3 4 ]) ];
  sorts = is [ [ "bb" "a" ] [ "a2" "a10" ] ] [
    (lib.sortOn (t: 0 - builtins.stringLength t) [ "a" "bb" ])
    (lib.naturalSort [ "a10" "a2" ])
  ];
  mutuallyExclusive = is [ true false ] [ (lib.mutuallyExclusive [ 1 ] [ 2 ]) (lib.mutuallyExclusive [ 1 2 ] [ 2 ]) ];
  toposort = is [ "a" "b" "c" ] (lib.toposort (a: b: a < b) [ "c" "a" "b" ]).result;
  toposort-cycle = is true ((lib.toposort (a: b: a != b) [ 1 2 ]) ? cycle);

  # Attribute sets.
  attrs-and-lists = is [ set [ "a=1" "b=2" ] { a = "a"; } { a-x = 1; b-x = 2; } ] [
    (lib.listToAttrs (lib.attrsToList set))
    (lib.mapAttrsToList (n: v: "${n}=${toString v}") set)
    (lib.genAttrs [ "a" ] lib.id)
    (lib.mapAttrs' (n: lib.nameValuePair "${n}-x") set)
  ];
  filterAttrs = is { b = 2; } (lib.filterAttrs (_: v: v > 1) set);
  optionalAttrs = is [ set { } ] [ (lib.optionalAttrs true set) (lib.optionalAttrs false set) ];
  getAttrs-and-attrVals = is [ { a = 1; } [ 2 1 ] ] [ (lib.getAttrs [ "a" ] set) (lib.attrVals [ "b" "a" ] set) ];
  concatMapAttrs = is { a1 = 1; b1 = 2; } (lib.concatMapAttrs (n: v: { "${n}1" = v; }) set);
  mergeAttrsList = is { a = 1; b = 3; } (lib.mergeAttrsList [ set { b = 3; } ]);
  foldlAttrs = is "a1b2" (lib.foldlAttrs (all: n: v: "${all}${n}${toString v}") "" set);
  foldAttrs = is { a = [ 1 3 ]; b = [ 2 ]; } (lib.foldAttrs (v: all: [ v ] ++ all) [ ] [ set { a = 3; } ]);
  zipAttrs = is { a = [ 1 3 ]; b = [ 2 ]; } (lib.zipAttrs [ set { a = 3; } ]);
  zipAttrsWith = is { a = 4; b = 2; } (lib.zipAttrsWith (_: lib.foldl' lib.add 0) [ set { a = 3; } ]);
  paths = is [ 1 0 true false 1 { a.b = 1; } ] [
    (lib.attrByPath [ "x" "y" ] 0 { x.y = 1; })
    (lib.attrByPath [ "x" "z" ] 0 { x.y = 1; })
    (lib.hasAttrByPath [ "x" "y" ] { x.y = 1; })
    (lib.hasAttrByPath [ "x" "y" "z" ] { x.y = 1; })
    (lib.getAttrFromPath [ "x" "y" ] { x.y = 1; })
    (lib.setAttrByPath [ "a" "b" ] 1)
  ];
  recursiveUpdate = is { a = { b = 2; c = 3; }; d = [ 1 ]; e = 1; } (
    lib.recursiveUpdate { a = { b = 1; c = 3; }; d = [ 0 ]; e.f = 1; } { a.b = 2; d = [ 1 ]; e = 1; }
  );
  mapAttrsRecursive = is { a.b = "a.b=1"; } (
    lib.mapAttrsRecursive (path: v: "${lib.concatStringsSep "." path}=${toString v}") { a.b = 1; }
  );
  collect = is [ 1 2 ] (lib.collect builtins.isInt { a = 1; b.c = 2; d = "x"; });
  matchAttrs = is [ true false ] [ (lib.matchAttrs { a = 1; } set) (lib.matchAttrs { a = 2; } set) ];
  cartesianProduct = is [ { a = 1; b = 3; } { a = 2; b = 3; } ] (lib.cartesianProduct { a = [ 1 2 ]; b = [ 3 ]; });

  # Text.
  joins = is [ "a, b" "ab" "a-b-" "0a" "a=1;b=2" "a\nb\n" ] [
    (lib.concatStringsSep ", " [ "a" "b" ])
    (lib.concatStrings [ "a" "b" ])
    (lib.concatMapStrings (t: "${t}-") [ "a" "b" ])
    (lib.concatMapStringsSep "," (t: "0${t}") [ "a" ])
    (lib.concatMapAttrsStringSep ";" (n: v: "${n}=${toString v}") set)
    (lib.concatLines [ "a" "b" ])
  ];
  imap-joins = is "1a2b" (lib.concatImapStrings (n: t: "${toString n}${t}") [ "a" "b" ]);
  intersperse = is [ "a" "/" "b" ] (lib.intersperse "/" [ "a" "b" ]);
  optionalString = is [ "a" "" ] [ (lib.optionalString true "a") (lib.optionalString false "a") ];
  affixes = is [ true false true false true false ] [
    (lib.hasPrefix "ab" "abc")
    (lib.hasPrefix "b" "abc")
    (lib.hasSuffix "bc" "abc")
    (lib.hasSuffix "abcd" "abc")
    (lib.hasInfix "b.c" "ab.cd")
    (lib.hasInfix "b.c" "abxcd")
  ];
  removals = is [ "c" "abc" "a" "abc" ] [
    (lib.removePrefix "ab" "abc")
    (lib.removePrefix "b" "abc")
    (lib.removeSuffix "bc" "abc")
    (lib.removeSuffix "b" "abc")
  ];
  splitString = is [ [ "a" "b" "" ] [ "a" ] [ "1" "2" ] [ "" ] ] [
    (lib.splitString "." "a.b.")
    (lib.splitString "." "a")
    (lib.splitString "||" "1||2")
    (lib.splitString "." "")
  ];
  trim = is [ "a  b" "" "a" ] [ (lib.trim " \ta  b\n") (lib.trim " \n") (lib.trim "a") ];
  cases-of-letters = is [ "abc1" "ABC1" ] [ (lib.toLower "aBC1") (lib.toUpper "aBc1") ];
  fixedWidth = is [ "007" "..a" ] [ (lib.fixedWidthNumber 3 7) (lib.fixedWidthString 3 "." "a") ];
  stringToCharacters = is [ "a" "b" ] (lib.stringToCharacters "ab");
  escapes = is [ ''a\.b'' ''a\$b'' ] [ (lib.escapeRegex "a.b") (lib.escape [ "$" ] "a$b") ];
  escapeShellArg = is [ "'a b'" "''" "'it'\\''s'" "'$x'" "1" "'é'" "'a\nb'" "'~'" "'a;b'" ] (
    map lib.escapeShellArg [ "a b" "" "it's" "$x" 1 "é" "a\nb" "~" "a;b" ]
  );
  escapeShellArg-leaves-what-is-safe = is [ "a-b_c,d.e+f:g@h%i/j" "'a=b'" ] (map lib.escapeShellArg [ "a-b_c,d.e+f:g@h%i/j" "a=b" ]);
  escapeShellArgs = is "a 'b c' 'd'\\''e'" (lib.escapeShellArgs [ "a" "b c" "d'e" ]);
  toInt = is [ 12 (-3) 0 5 ] (map lib.toInt [ "12" "-3" "0" " 5 " ]);
  versions = is [ true true false true ] [
    (lib.versionAtLeast "5.4.2" "5.4")
    (lib.versionAtLeast "5.4" "5.4")
    (lib.versionAtLeast "4.9" "5.0")
    (lib.versionOlder "4.9" "4.10")
  ];
  json = is ''{"a":1}'' (lib.strings.toJSON { a = 1; });
  boolToString = is [ "true" "false" ] (map lib.boolToString [ true false ]);

  # Functions and numbers.
  pipe-and-flip = is [ 4 "ab" 1 ] [ (lib.pipe 1 [ (n: n + 1) (n: n * 2) ]) (lib.flip (a: b: b + a) "a" "b") (lib.const 1 2) ];
  min-max-mod = is [ 1 2 1 ] [ (lib.min 1 2) (lib.max 1 2) (lib.mod 7 3) ];
  null-helpers = is [ null 2 1 ] [ (lib.mapNullable (n: n + 1) null) (lib.mapNullable (n: n + 1) 1) (lib.defaultTo 1 null) ];
  throwIf = is [ 1 1 true ] [ (lib.throwIf false "no" 1) (lib.throwIfNot true "no" 1) (lib.assertMsg true "no") ];
  functionArgs = is [ { a = false; b = true; } { c = true; } true true false ] [
    (lib.functionArgs ({ a, b ? 1 }: a))
    (lib.functionArgs (lib.setFunctionArgs (args: args) { c = true; }))
    (lib.isFunction lib.id)
    (lib.isFunction { __functor = _: lib.id; })
    (lib.isFunction { })
  ];

  # Packages.
  getExe = is [ "/tool-bin/bin/tl" "/tool-bin/bin/other" ] [ (lib.getExe package) (lib.getExe' package "other") ];
  getBin = is [ "/tool-bin" "/tool" ] [ (toString (lib.getBin package)) (toString (lib.getLib package)) ];
  makeBinPath = is "/tool-bin/bin:/b/bin" (lib.makeBinPath [ package "/b" ]);
  makeSearchPath = is "/a/lib:/b/lib" (lib.makeSearchPath "lib" [ "/a" "/b" ]);
  names = is [ "tool" "1.2" "x" "2" ] [ (lib.getName package) (lib.getVersion package) (lib.getName "x-2") (lib.getVersion "x-2") ];
  isDerivation = is [ true false ] [ (lib.isDerivation package) (lib.isDerivation { }) ];

  # Files.
  toKeyValue = is "A=1\nB=true\nC=x\n" (lib.generators.toKeyValue { } { A = 1; B = true; C = "x"; });
  toINI = is "[One]\na=1\n\n[Two]\nb=x y\nb=z\n" (
    lib.generators.toINI { listsAsDuplicateKeys = true; } { One.a = 1; Two.b = [ "x y" "z" ]; }
  );
  toINI-with-own-lines = is "[S]\na: 1\n" (lib.generators.toINI { mkKeyValue = k: v: "${k}: ${toString v}"; } { S.a = 1; });
}
