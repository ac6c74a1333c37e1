# Modules and their imports, arguments, submodules, free forms, and what is known of an option.
{
  lib,
  config,
  x,
  is,
}:
let
  inherit (lib)
    evalModules
    mkDefault
    mkForce
    mkIf
    mkOption
    types
    ;
  inherit (types)
    attrsOf
    int
    listOf
    nullOr
    str
    submodule
    submoduleWith
    ;
  list.options.x = mkOption {
    type = listOf str;
    default = [ ];
  };
  named =
    { name, config, ... }:
    {
      options.name = mkOption { type = str; };
      options.label = mkOption { type = str; };
      config.name = mkDefault name;
      config.label = "<${config.name}>";
    };
in
{
  imports-in-all-ways = is [ "b" "file" "a" "d" "c" "e" ] ((config [
    list
    {
      imports = [
        { x = [ "a" ]; }
        ./module.nix
        ({ lib, ... }: { config.x = lib.mkIf true [ "b" ]; })
      ];
      x = [ "e" ];
    }
    { x = [ "c" ]; }
    (_: { x = [ "d" ]; })
  ]).x);
  a-path-is-imported-once = is [ "file" ] ((config [ list ./module.nix { imports = [ ./module.nix ]; } ]).x);
  a-path-as-text-too = is [ "file" ] ((config [ list ./module.nix (toString ./module.nix) ]).x);
  a-key-is-imported-once = is [ "a" ] ((config [
    list
    { key = "k"; x = [ "a" ]; }
    { imports = [ { key = "k"; x = [ "a" ]; } ]; }
  ]).x);
  the-same-set-without-a-key-is-imported-twice = is [ "a" "a" ] ((config [ list { x = [ "a" ]; } { x = [ "a" ]; } ]).x);
  what-is-imported-comes-first = is [ "deep" "deeper" "top" ] ((config [
    list
    {
      imports = [ { imports = [ { x = [ "deeper" ]; } ]; x = lib.mkBefore [ "deep" ]; } ];
      x = [ "top" ];
    }
  ]).x);
  specialArgs-are-arguments = is [ "given" ] ((evalModules {
    specialArgs.it = "given";
    modules = [ list ({ it, ... }: { x = [ it ]; }) ];
  }).config.x);
  module-args-are-arguments = is [ "given" ] ((config [
    list
    ({ it, ... }: { x = [ it ]; })
    { _module.args.it = "given"; }
  ]).x);
  arguments-may-have-defaults-that-are-not-used = is [ "given" ] ((config [
    list
    ({ it ? "default", ... }: { x = [ it ]; })
    { _module.args.it = "given"; }
  ]).x);
  specialArgs-choose-imports = is [ "file" ] ((evalModules {
    specialArgs.which = ./module.nix;
    modules = [ list ({ which, ... }: { imports = [ which ]; }) ];
  }).config.x);
  a-freeform-module = is { a = 1; b = 2; } (config [
    { freeformType = attrsOf int; options.a = mkOption { type = int; default = 1; }; }
    { b = 2; }
  ]);
  a-freeform-module-without-more = is { a = 1; } (config [
    { freeformType = attrsOf int; options.a = mkOption { type = int; default = 1; }; }
  ]);
  a-freeform-module-with-nothing-left = is { } (config [ { freeformType = attrsOf int; b = lib.mkIf false 1; } ]);
  a-freeform-module-is-deep = is { a.b = 1; a.c = "x"; } (config [
    { freeformType = attrsOf (attrsOf str); options.a.b = mkOption { type = int; default = 1; }; }
    { a.c = "x"; }
  ]);
  unchecked-definitions-are-dropped = is { a = 1; } (config [
    { config._module.check = false; options.a = mkOption { type = int; default = 1; }; }
    { b = 2; }
  ]);

  submodule-name = is { one = { label = "<one>"; name = "one"; }; two = { label = "<2>"; name = "2"; }; } (
    x (attrsOf (submodule named)) [ { one = { }; } { two.name = "2"; } ]
  );
  submodule-of-several = is { a = 1; b = "n"; } (
    (x (attrsOf (submodule [
      { options.a = mkOption { type = int; }; }
      ({ name, ... }: { options.b = mkOption { type = str; default = name; }; })
    ])) [ { n.a = 1; } ]).n
  );
  submodule-values-may-be-functions = is { a = 2; b = 1; } (
    x (submodule { options.a = mkOption { type = int; }; options.b = mkOption { type = int; }; }) [
      ({ config, ... }: { a = config.b + 1; })
      { b = 1; }
    ]
  );
  submodule-shorthand-may-have-a-config-attribute = is { config = 1; } (
    x (submodule { options.config = mkOption { type = int; }; }) [ { config = 1; } ]
  );
  submoduleWith-takes-modules = is { a = 1; } (
    x (submoduleWith { modules = [ { options.a = mkOption { type = int; }; } ]; }) [ { config.a = 1; } ]
  );
  submoduleWith-specialArgs = is { a = 7; } (
    x (submoduleWith {
      specialArgs.seven = 7;
      modules = [ ({ seven, ... }: { options.a = mkOption { type = int; default = seven; }; }) ];
    }) [ { } ]
  );
  submodule-freeform = is { a = 1; b = 2; } (
    x (submodule { freeformType = attrsOf int; options.a = mkOption { type = int; default = 1; }; }) [ { b = 2; } ]
  );
  submodules-see-their-own-options = is [ false true ] (
    map (value: value.b) (builtins.attrValues (
      x (attrsOf (submodule ({ options, ... }: {
        options.a = mkOption { type = int; };
        options.b = mkOption { type = types.bool; default = options.a.isDefined; };
      }))) [ { one = { }; two.a = 1; } ]
    ))
  );
  submodules-in-lists = is [ { a = 1; } { a = 2; } ] (
    x (listOf (submodule { options.a = mkOption { type = int; default = 2; }; })) [ [ { a = 1; } { } ] ]
  );
  a-submodule-is-not-there-until-defined = is null (x (nullOr (submodule named)) [ null ]);
  mkIf-in-submodules = is { a = 5; } (
    x (submodule ({ config, ... }: {
      options.a = mkOption { type = int; };
      config = mkIf true { a = mkForce 5; };
    })) [ { a = 1; } ]
  );
  # How other modules add options to a submodule, and what it does with them.
  a-submodule-declared-twice = is { a = 1; b = 2; c = 3; } (
    (config [
      { options.x = mkOption { type = attrsOf (submodule { options.a = mkOption { type = int; }; }); default = { }; }; }
      {
        options.x = mkOption {
          type = attrsOf (submodule ({ config, ... }: {
            options.b = mkOption { type = int; };
            options.c = mkOption { type = int; };
            config.c = config.a + config.b;
          }));
        };
      }
      { x.n = { a = 1; b = 2; }; }
    ]).x.n
  );
  an-enum-declared-twice = is "b" ((config [
    { options.x = mkOption { type = types.enum [ "a" ]; }; }
    { options.x = mkOption { type = types.enum [ "b" ]; }; }
    { x = "b"; }
  ]).x);
  options-say-where-they-come-from = is
    {
      declarations = [ "decl.nix" ];
      definitions = [ [ "b" ] [ "a" ] ];
      files = [ "two.nix" "one.nix" ];
      highestPrio = 100;
      isDefined = true;
      loc = [ "x" ];
      text = "x";
    }
    (
      let
        option = (evalModules {
          modules = [
            { _file = "decl.nix"; options.x = mkOption { type = listOf str; }; }
            { _file = "one.nix"; x = [ "a" ]; }
            { _file = "two.nix"; x = [ "b" ]; }
          ];
        }).options.x;
      in
      {
        inherit (option) declarations definitions files highestPrio isDefined loc;
        text = "${option}";
      }
    );
  an-option-that-nothing-defines = is [ false 9999 ] (
    let
      option = (evalModules { modules = [ { options.x = mkOption { type = str; }; } ]; }).options.x;
    in
    [ option.isDefined option.highestPrio ]
  );
  a-default-has-its-priority = is [ true 1500 ] (
    let
      option = (evalModules { modules = [ { options.x = mkOption { type = str; default = "a"; }; } ]; }).options.x;
    in
    [ option.isDefined option.highestPrio ]
  );
  extendModules-adds = is [ "b" "a" ] (
    ((evalModules { modules = [ list { x = [ "a" ]; } ]; }).extendModules { modules = [ { x = [ "b" ]; } ]; }).config.x
  );
  showOption-quotes = is ''a."b.c".d-e."1"'' (lib.showOption [ "a" "b.c" "d-e" "1" ]);
  mkEnableOption-is-off = is { enable = false; } (config [ { options.enable = lib.mkEnableOption "it"; } ]);
  mkPackageOption-is-the-package = is "/p" (
    toString (config [ { options.package = lib.mkPackageOption { a.b = { type = "derivation"; outPath = "/p"; }; } [ "a" "b" ] { }; } ]).package
  );
  mkPackageOption-may-be-null = is null (
    (config [ { options.package = lib.mkPackageOption { } "a" { nullable = true; default = null; }; } ]).package
  );
}
