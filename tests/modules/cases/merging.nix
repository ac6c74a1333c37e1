# Priorities, order, conditions: what several definitions of one option are together.
{
  lib,
  config,
  x,
  is,
}:
let
  inherit (lib)
    mkAfter
    mkBefore
    mkDefault
    mkForce
    mkIf
    mkMerge
    mkOption
    mkOptionDefault
    mkOrder
    mkOverride
    types
    ;
  inherit (types)
    attrsOf
    bool
    int
    lazyAttrsOf
    lines
    listOf
    nullOr
    str
    submodule
    ;
  strings = listOf str;
in
{
  # nixpkgs puts the definitions of later modules first.
  lists-of-later-modules-come-first = is [ "c" "b" "a" ] (x strings [ [ "a" ] [ "b" ] [ "c" ] ]);
  a-list-in-one-module-keeps-its-order = is [ "a" "b" "c" ] (x strings [ (mkMerge [ [ "a" ] [ "b" "c" ] ]) ]);
  mkBefore-and-mkAfter = is [ "first" "c" "a" "last" ] (
    x strings [ [ "a" ] (mkAfter [ "last" ]) (mkBefore [ "first" ]) [ "c" ] ]
  );
  mkOrder-numbers = is [ "400" "b" "500" "600" "1000" "1400" "1500" "a" "2000" ] (
    x strings [
      (mkOrder 2000 [ "2000" ])
      (mkOrder 1600 [ "a" ])
      (mkAfter [ "1500" ])
      (mkOrder 1400 [ "1400" ])
      [ "1000" ]
      (mkOrder 600 [ "600" ])
      (mkBefore [ "500" ])
      (mkBefore [ "b" ])
      (mkOrder 400 [ "400" ])
    ]
  );
  mkBefore-in-mkIf = is [ "a" "b" ] (x strings [ [ "b" ] (mkIf true (mkBefore [ "a" ])) (mkIf false [ "c" ]) ]);
  order-within-a-priority = is [ "a" "b" ] (x strings [ (mkForce (mkAfter [ "b" ])) (mkForce [ "a" ]) [ "lost" ] ]);
  lines-are-joined = is "c\nb\na" (x lines [ "a" "b" (mkBefore "c") ]);

  default-is-weakest = is "set" ((config [
    { options.x = mkOption { type = str; default = "default"; }; }
    { x = "set"; }
  ]).x);
  a-set-default-is-gone-as-a-whole = is { b = 1; } ((config [
    { options.x = mkOption { type = attrsOf int; default.a = 1; }; }
    { x.b = 1; }
  ]).x);
  a-default-for-one-attribute-stays = is { a = 1; b = 1; } (x (attrsOf int) [ { a = mkDefault 1; } { b = 1; } ]);
  mkDefault-gives-way = is 2 (x int [ (mkDefault 1) 2 ]);
  mkDefault-beats-the-default = is 2 ((config [
    { options.x = mkOption { type = int; default = 1; }; }
    { x = mkDefault 2; }
  ]).x);
  mkOptionDefault-is-as-weak-as-the-default = is [ 2 1 ] ((config [
    { options.x = mkOption { type = listOf int; default = [ 2 ]; }; }
    { x = mkOptionDefault [ 1 ]; }
  ]).x);
  mkForce-wins = is 3 (x int [ 1 2 (mkForce 3) ]);
  mkOverride-by-number = is 3 (x int [ (mkOverride 60 2) (mkOverride 40 3) (mkForce 4) 1 ]);
  mkForce-of-an-empty-list = is [ ] (x strings [ [ "a" ] (mkForce [ ]) ]);
  mkForce-in-an-attribute = is { a = [ "2" ]; b = [ "1" ]; } (
    x (attrsOf strings) [
      {
        a = [ "1" ];
        b = [ "1" ];
      }
      { a = mkForce [ "2" ]; }
    ]
  );
  mkForce-around-a-set = is { a = 2; } (x (attrsOf int) [ (mkForce { a = 2; }) { b = 1; } ]);
  mkForce-around-a-config-is-for-each-option = is { a = 2; b = 1; } (config [
    {
      options.a = mkOption { type = int; };
      options.b = mkOption { type = int; };
      config = mkForce { a = 2; };
    }
    { b = 1; }
    { a = 1; }
  ]);
  same-strings-agree = is "a" (x str [ "a" "a" ]);
  same-booleans-agree = is true (x bool [ true true ]);
  mkIf-false-is-not-there = is { a = 1; } (x (attrsOf int) [ { a = 1; b = mkIf false 2; } (mkIf false { c = 3; }) ]);
  mkIf-around-a-config = is { x = 1; } (config [
    { options.x = mkOption { type = int; }; }
    (mkIf true { x = 1; })
    (mkIf false { x = 2; })
  ]);
  mkIf-looks-at-another-option = is { a = true; b = [ "on" ]; } (config [
    (
      { config, ... }:
      {
        options.a = mkOption { type = bool; };
        options.b = mkOption { type = strings; };
        config = mkIf config.a { b = [ "on" ]; };
      }
    )
    { a = true; }
  ]);
  # The condition may depend on what is beside the definition, and the names below an option are not looked at.
  mkIf-is-pushed-down = is { a = 1; b = 2; } (config [
    (
      { config, ... }:
      {
        options.a = mkOption { type = int; };
        options.b = mkOption { type = int; };
        config = mkMerge [
          { a = 1; }
          (mkIf (config.a == 1) { b = 2; })
        ];
      }
    )
  ]);
  mkMerge-in-mkIf-in-mkMerge = is { a = [ 1 2 3 ]; } (
    x (attrsOf (listOf int)) [
      (mkMerge [
        { a = [ 1 ]; }
        (mkIf true (mkMerge [ { a = [ 2 ]; } { a = mkAfter [ 3 ]; } ]))
      ])
    ]
  );
  attrsOf-merges = is { a = [ 2 1 ]; b = [ 3 ]; } (
    x (attrsOf (listOf int)) [ { a = [ 1 ]; } { a = [ 2 ]; b = [ 3 ]; } ]
  );
  lazyAttrsOf-of-nothing = is { a = null; } (x (lazyAttrsOf (nullOr int)) [ { a = mkIf false 1; } ]);
  attrsOf-of-nothing = is { } (x (attrsOf (nullOr int)) [ { a = mkIf false 1; } ]);
  listOf-of-nothing = is [ 2 ] (x (listOf int) [ [ (mkIf false 1) (mkForce 2) ] ]);
  submodules-merge = is { a = 1; b = 2; } (
    x (submodule { options.a = mkOption { type = int; }; options.b = mkOption { type = int; }; }) [
      { a = 1; }
      { b = 2; }
    ]
  );
  apply-is-last = is "<b,a>" ((config [
    {
      options.x = mkOption {
        type = strings;
        default = [ ];
        apply = list: "<${lib.concatStringsSep "," list}>";
      };
    }
    { x = [ "a" ]; }
    { x = [ "b" ]; }
  ]).x);
  readOnly-with-a-value = is 1 ((config [
    { options.x = mkOption { type = int; readOnly = true; }; }
    { x = 1; }
  ]).x);
  readOnly-with-a-default = is 1 ((config [ { options.x = mkOption { type = int; readOnly = true; default = 1; }; } ]).x);
}
