# The functions that turn Nix store paths into images.
#
# Type: { windlass, system, targetSystem } ->
#   { buildImage, buildLayer, buildModel, buildOllama, buildStack, buildIndex, fetchImage, fetchModel }
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
in
{
  buildImage = import ./buildImage.nix internal;
  buildLayer = import ./buildLayer.nix internal;
  buildModel = import ./buildModel.nix internal;
  buildOllama = import ./buildOllama.nix internal;
  buildStack = import ./buildStack.nix internal;
  buildIndex = import ./buildIndex.nix internal;
  fetchImage = import ./fetchImage.nix internal;
  fetchModel = import ./fetchModel.nix internal;
}
