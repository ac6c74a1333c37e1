# A stand-in for nixpkgs' lib: what packages, modules and their tests use of it, in its names and with its results.
#
# tests/modules/cases is evaluated with this one and, where NIXPKGS_LIB names it, with the real one: both must say the same.
let
  lib =
    import ./basics.nix
    // import ./strings.nix lib
    // import ./options.nix lib
    // import ./docs.nix lib
    // import ./properties.nix lib
    // import ./modules.nix lib
    // import ./packaging.nix
    // {
      types = import ./types.nix lib;
      generators = import ./generators.nix lib;
      inherit (lib.types) mkOptionType;
      trivial = lib;
      lists = lib;
      attrsets = lib;
      strings = lib;
      options = lib;
      modules = lib;
      meta = lib;
    };
in
lib
