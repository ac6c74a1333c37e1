# What a module system and its library have to say, with the stand-in or with nixpkgs' own.
#
# lib: the one that is asked
# Gives: wrong: the cases with another result than the expected one; count: how many cases there are;
#        errors: name -> { value: what must fail, says: what its message must hold }
{ lib }:
let
  inherit (lib) evalModules mkOption;
  helpers = {
    inherit lib;
    # What the modules are together.
    config = modules: (evalModules { inherit modules; }).config;
    # The value of one option `x` of that type with these definitions, each in a module of its own.
    x =
      type: definitions:
      (evalModules {
        modules = [ { options.x = mkOption { inherit type; }; } ] ++ map (value: { config.x = value; }) definitions;
      }).config.x;
    is = expected: actual: { inherit expected actual; };
  };
  cases =
    import ./functions.nix helpers
    // import ./merging.nix helpers
    // import ./structure.nix helpers
    // import ./types.nix helpers;
in
{
  wrong = lib.filterAttrs (_: { expected, actual }: expected != actual) cases;
  count = builtins.length (builtins.attrNames cases);
  errors = import ./errors.nix helpers;
}
