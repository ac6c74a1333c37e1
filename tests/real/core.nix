# Packages with nixpkgs' own stdenv, and stand-ins for what the flake names and they do not have: for evaluation alone.
#
# Type: { core, system } -> AttrSet
#
# core: the source of ekala-project/corepkgs
{ core, system }:
let
  packages = import core { inherit system; };
  named =
    name:
    packages.runCommand name {
      pname = name;
      version = "0";
      meta.mainProgram = name;
    } "echo ${name} is a stand-in >&2; exit 1";
  missing = builtins.listToAttrs (
    map
      (name: {
        inherit name;
        value = named name;
      })
      [
        "llama-cpp"
        "nixfmt"
        "nixfmt-tree"
        "ollama"
        "qdrant"
        "shellcheck"
      ]
  );
  all =
    missing
    // {
      postgresql_17 = named "postgresql" // {
        withPackages = _: named "postgresql-and-plugins";
      };
      mkShell = args: packages.stdenv.mkDerivation ({ name = "nix-shell"; } // args);
    }
    # Without machines to test: NixOS is not there.
    // removeAttrs packages [ "testers" ]
    // {
      callPackage = packages.lib.callPackageWith all;
    };
in
all
