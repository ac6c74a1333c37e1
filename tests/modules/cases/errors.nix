# What must fail, and what its message must name.
{ lib, config, x, ... }:
let
  inherit (lib) mkIf mkMerge mkOption types;
  inherit (types)
    attrsOf
    enum
    int
    listOf
    nullOr
    str
    submodule
    ;
  fails = says: value: { inherit says value; };
  service = submodule { options.port = mkOption { type = types.port; }; };
in
{
  unknown-option = fails [ "`a.b'" "does not exist" ] (config [ { options.a.c = mkOption { default = 1; }; } { a.b = 1; } ]);
  unknown-option-in-mkIf-false = fails [ "`b'" "does not exist" ] (config [ { config = mkIf false { b = 1; }; } ]);
  unknown-option-in-a-submodule = fails [ "`x.redis.prot'" "does not exist" ] (x (attrsOf service) [ { redis.prot = 1; } ]).redis;
  wrong-type = fails [ "`x'" "string" "17" ] (x str [ 17 ]);
  wrong-type-of-an-attribute = fails [ "`x.a'" "signed integer" "one" ] (x (attrsOf int) [ { a = "one"; } ]);
  wrong-type-of-a-quoted-attribute = fails [ "`x.\"a.b\"'" ] (x (attrsOf int) [ { "a.b" = "one"; } ]);
  wrong-type-of-an-entry = fails [ "`x.\"[definition 1-entry 2]\"'" "string" ] (x (listOf str) [ [ "a" 2 ] ]);
  wrong-type-in-a-submodule = fails [ "`x.redis.port'" "16 bit unsigned integer" "70000" ] (
    (x (attrsOf service) [ { redis.port = 70000; } ]).redis.port
  );
  wrong-type-beats-mkForce = fails [ "`x'" ] (x int [ 1 (lib.mkForce "a") ]);
  not-of-the-enum = fails [ "`x'" "one of" "\"c\"" ] (x (enum [ "a" "b" ]) [ "c" ]);
  not-matching = fails [ "`x'" "[0-9]+[smh]" "soon" ] (x (types.strMatching "[0-9]+[smh]") [ "soon" ]);
  a-list-for-a-string = fails [ "`x'" ] (x str [ [ "a" ] ]);
  null-for-a-string = fails [ "`x'" "null" ] (x str [ null ]);
  conflicting-strings = fails [ "`x'" "conflicting" "\"a\"" "\"b\"" ] (x str [ "a" "b" ]);
  conflicting-defaults = fails [ "`x'" "conflicting" ] (x int [ (lib.mkDefault 1) (lib.mkDefault 2) ]);
  conflicting-packages = fails [ "`x'" ] (
    let
      p = name: derivation { inherit name; system = "none"; builder = "none"; };
    in
    (x types.package [ (p "p") (p "q") ]).outPath
  );
  null-and-not-null = fails [ "`x" "null" ] (x (nullOr int) [ null 1 ]);
  two-raw-values = fails [ "`x'" ] (x types.raw [ 1 1 ]);
  nothing-defined = fails [ "`x'" ] (x int [ ]);
  nothing-defined-after-mkIf = fails [ "`x'" ] (x int [ (mkIf false 1) ]);
  nothing-defined-in-a-submodule = fails [ "`x.redis.port'" ] ((x (attrsOf service) [ { redis = { }; } ]).redis.port);
  read-only-and-set-twice = fails [ "`x'" "read-only" ] (config [
    { options.x = mkOption { type = int; readOnly = true; default = 1; }; }
    { x = 1; }
  ]).x;
  options-declared-twice = fails [ "`x'" ] (config [
    { options.x = mkOption { type = int; }; }
    { options.x = mkOption { type = str; }; }
    { x = 1; }
  ]).x;
  defaults-declared-twice = fails [ "`x'" ] (config [
    { options.x = mkOption { type = int; default = 1; }; }
    { options.x = mkOption { type = int; default = 1; }; }
  ]).x;
  config-beside-options-and-more = fails [ "enable" ] (config [ { options.x = mkOption { default = 1; }; enable = true; } ]);
  a-value-where-options-are = fails [ "`a'" ] (config [ { options.a.b = mkOption { default = 1; }; } { a = 1; } ]);
  an-unknown-argument = fails [ "nobody" ] (config [ ({ nobody, ... }: { options.x = mkOption { default = nobody; }; }) ]).x;
  mkMerge-keeps-the-conflict = fails [ "`x'" ] (x int [ (mkMerge [ 1 2 ]) ]);
  a-failed-assertion-of-a-type = fails [ "`x'" ] (x (types.addCheck int (n: n > 1)) [ 1 ]);
  anything-of-two-types = fails [ "`x'" ] (x types.anything [ 1 "a" ]);
  toInt-of-words = fails [ "one" ] (lib.toInt "one");
  toInt-of-octal-looks = fails [ "010" ] (lib.toInt "010");
  a-missing-package = fails [ "b" ] (config [ { options.package = lib.mkPackageOption { } "b" { }; } ]).package.outPath;
}
