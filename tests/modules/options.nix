# The options of both modules as Markdown, as docs/options.md has them: nixpkgs' nixosOptionsDoc, of which the data come from the
# same `lib.optionAttrSetToDocList`, but without the packages that it renders them with.
#
# Type: { lib, pkgs } -> String
#
# lib:  nixpkgs', or the stand-in: both give the same text
# pkgs: packages of either
{ lib, pkgs }:
let
  packages = import ./pkgs.nix { inherit lib pkgs; };
  root = toString ../..;
  documented =
    lib: modules:
    let
      evaluated = lib.evalModules {
        specialArgs = { inherit lib; };
        modules = modules ++ [ { _module.args.pkgs = packages; } ];
      };
      # Options of NixOS or home-manager, which our modules only add to, are in their documentation.
      ours =
        option:
        option.declarations != [ ]
        && lib.all (file: lib.hasPrefix "${root}/nix/" (toString file)) option.declarations;
    in
    lib.filter (option: option.visible or true == true && !option.internal && ours option) (
      lib.optionAttrSetToDocList evaluated.options
    );
  nixos = documented lib [
    ../../nix/modules/windlass.nix
    ../../nix/modules/ai-stack.nix
    ./nixos/systemd.nix
    ./nixos/system.nix
    ./nixos/podman.nix
    ./nixos/oci-containers.nix
  ];
  hm = lib // {
    hm = import ./home-lib.nix { inherit lib; };
  };
  home = documented hm [
    ../../nix/modules/home.nix
    ../../nix/modules/ai-stack.nix
    ./home.nix
  ];
  names = map (option: option.name);
  both = lib.intersectLists (names nixos) (names home);
  marked = name: mark: all: lib.optionalString (!(builtins.elem name all)) mark;
  text = value: value.text or (toString value);
  # A value on a line of its own where it is long.
  code =
    value:
    let
      shown = lib.removeSuffix "\n" (text value);
    in
    if value._type or null == "literalMD" then
      " ${shown}"
    else if lib.hasInfix "\n" shown then "\n\n```nix\n${shown}\n```" else " `${shown}`";
  value = what: option: lib.optionalString (option ? ${what}) "\n\n*${what}*:${code option.${what}}";
  entry =
    option:
    let
      where = if builtins.elem option.name both then "" else if builtins.elem option.name (names nixos) then " (NixOS)" else " (home-manager)";
    in
    "### `${option.name}`${where}\n\n"
    + lib.removeSuffix "\n" (text option.description)
    + "\n\n*type*: `${option.type}`"
    + lib.optionalString option.readOnly " (read only)"
    + value "default" option
    + value "example" option;
  all = lib.sort (a: b: a.name < b.name) (
    nixos ++ lib.filter (option: !(builtins.elem option.name both)) home
  );
in
''
  # Options of the modules

  For `nixosModules.default` (NixOS) and `homeModules.default` (home-manager). An option that only one of them has says which. This
  file is made of the modules by tests/modules/options.nix, and a test holds it current.

''
+ lib.concatMapStringsSep "\n\n" entry all
+ "\n"
