# The functions for a caller's own packages, overlays and cross-compilation.
#
# Type: { pkgs, windlass ? } -> { buildImage, buildLayer, buildModel, buildRoot, buildStack, buildIndex, fetchImage, fetchModel, importImage, aiStack, aiStackMultiarch, probe }
#
# pkgs:     the packages that images are made of
# windlass: the package, with bin/windlass; by default built from this source, for the machine that builds
{
  pkgs,
  windlass ? pkgs.buildPackages.callPackage ./package.nix { },
}:
let
  plain = import ./lib {
    inherit windlass;
    inherit (pkgs.stdenv.buildPlatform) system;
    targetSystem = pkgs.stdenv.hostPlatform.system;
  };
  buildRoot = import ./root.nix { inherit pkgs; };
  buildDatabase = import ./database.nix { inherit pkgs buildRoot; };
  programs = import ./programs.nix { inherit pkgs windlass; };
  # Arguments of dockerTools and nix2container that packages are needed for: nix/migration.nix.
  withCommands = import ./migration.nix { inherit buildRoot buildDatabase; };
  # A function that takes more, or gives more, than that of nix/lib.
  changed =
    function: change:
    function
    // {
      __functor = _: change;
    };
  # With programs about what was made: `nix run .#image.load`.
  functions =
    plain
    // {
      buildImage = changed (withCommands.image plain.buildImage) (
        args: programs (withCommands.image plain.buildImage args)
      );
      buildLayer = withCommands.layer plain.buildLayer;
    }
    // builtins.mapAttrs (_: function: changed function (args: programs (function args))) {
      inherit (plain)
        buildIndex
        buildModel
        buildStack
        fetchImage
        importImage
        ;
    };
  # What health checks run inside of containers, for the machine that runs them.
  probe = pkgs.callPackage ./probe.nix { };
in
functions
// {
  inherit buildRoot probe;
  # The stack of nix/ai-stack: aiStack { models.NAME = GGUF-FILE; }
  aiStack =
    args:
    import ./ai-stack (
      {
        inherit pkgs probe;
        windlass = functions;
      }
      // args
    );

  # The stacks of several platforms as one, with an index for each service, of the platforms that have it:
  # aiStackMultiarch [ x86_64-stack aarch64-stack ]
  aiStackMultiarch =
    stacks:
    let
      same =
        key:
        let
          all = map (stack: stack.${key}) stacks;
          first = builtins.head all;
        in
        if builtins.all (other: other == first) all then
          first
        else
          throw "aiStackMultiarch: the stacks have different `${key}`";
    in
    functions.buildStack {
      name = "ai-stack-images-multiarch";
      licences = same "licences";
      policy = same "policy";
      images = map (
        name:
        functions.buildIndex {
          inherit name;
          images = builtins.catAttrs name (map (stack: stack.images) stacks);
        }
      ) (builtins.attrNames (builtins.foldl' (all: stack: all // stack.images) { } stacks));
    };
}
