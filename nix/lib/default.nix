# The functions that turn Nix store paths into images.
#
# Type: { windlass, system, targetSystem } ->
#   { buildImage, buildLayer, buildModel, buildOllama, buildStack, buildIndex, fetchImage, fetchModel, importImage }
#
# windlass:     the package, with bin/windlass
# system:       where the derivations are built, "x86_64-linux"
# targetSystem: what the images run on unless they say otherwise; `system` by default
#
# Nothing of nixpkgs is used, and no shell: the builder of every derivation is windlass itself, with structured
# attributes. Nothing is read at evaluation that has to be built first.
{
  windlass,
  system ? builtins.currentSystem,
  targetSystem ? system,
}:
let
  internal = import ./internal.nix { inherit windlass system targetSystem; };
  inherit (builtins) attrNames filter functionArgs head;
  others = import ./migration.nix;
  # A function that says what to write for arguments of dockerTools and nix2container that it does not take.
  checked =
    name: function:
    let
      known = functionArgs function;
      foreign = others.${name} or { };
      isFine = args: argument: foreign ? ${argument} && (foreign.${argument}.fine or (_: false)) args.${argument};
      wrong = args: filter (argument: !(known ? ${argument} || isFine args argument)) (attrNames args);
      list = builtins.concatStringsSep ", " (attrNames known);
      says =
        argument:
        if foreign ? ${argument} then
          foreign.${argument}.says
        else
          "there is no such argument; there are: ${list}";
    in
    {
      __functionArgs = known;
      __functor =
        _: args:
        if wrong args == [ ] then
          function (builtins.intersectAttrs known args)
        else
          throw "${name}${if args ? name then " ${args.name}" else ""}: ${head (wrong args)}: ${says (head (wrong args))}";
    };
in
builtins.mapAttrs checked {
  buildImage = import ./buildImage.nix internal;
  buildLayer = import ./buildLayer.nix internal;
  buildModel = import ./buildModel.nix internal;
  buildOllama = import ./buildOllama.nix internal;
  buildStack = import ./buildStack.nix internal;
  buildIndex = import ./buildIndex.nix internal;
  fetchImage = import ./fetchImage.nix internal;
  fetchModel = import ./fetchModel.nix internal;
  importImage = import ./importImage.nix internal;
}
