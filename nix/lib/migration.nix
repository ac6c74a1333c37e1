# What to write for the arguments of dockerTools and nix2container that the functions here do not take. docs/migration.md has the
# same as a table.
#
# Type: { FUNCTION.ARGUMENT = { says, fine ? } }
#
# says: what to write instead
# fine: whether a value asks for nothing that is not so anyway, and is passed over
let
  owner = "say it with `perms`, as in nix2container: perms = [ { uid = 1000; gid = 1000; } ] for what is not below the store; for store paths give the rule to buildLayer, with `path`";
  commands = "make the tree in a derivation of its own and move its content to `/`: copyToRoot = pkgs.runCommand \"root\" { } \"mkdir -p $out/data\"; modes and owners are said with `perms`, empty directories with `directories`";
  from = "pin the image with `windlass upstream add NAME REFERENCE`, and write fromImage = fetchImage { lock = ./images.lock.json; name = \"NAME\"; }";
  database = "put the closure's registration in the image: files.\"/registration\" = \"\${pkgs.closureInfo { rootPaths = [ … ]; }}/registration\"; and run `nix-store --load-db </registration` where Nix is used first";
  own = "write `image // { … }` around the call";
  isNull = value: value == null;
  isDefault = default: value: value == default;
  image = {
    arch.says = "it is called `architecture`, in Go's names: amd64, arm64";
    buildVMMemorySize.says = "no virtual machine is used: leave it out";
    compressor = {
      fine = isDefault "none";
      says = "layers are kept as they are, so that they can be linked; `windlass push --compression` and `windlass export --compression` pack them";
    };
    debug.says = "leave it out; the build log is always whole";
    diskSize.says = "no virtual machine is used: leave it out";
    enableFakechroot = {
      fine = isDefault false;
      says = commands;
    };
    extraCommands = {
      fine = isDefault "";
      says = commands;
    };
    fakeRootCommands = {
      fine = isDefault "";
      says = commands;
    };
    fromImageName = {
      fine = isNull;
      says = from;
    };
    fromImageTag = {
      fine = isNull;
      says = from;
    };
    gid = {
      fine = isDefault 0;
      says = owner;
    };
    gname = {
      fine = isDefault "root";
      says = owner;
    };
    imageDigest.says = from;
    includeNixDB = {
      fine = isDefault false;
      says = database;
    };
    includeStorePaths = {
      fine = isDefault true;
      says = "the store paths are always in the image: loading links them and copies nothing. Leave it out; for a container on the host's store mount /nix/store and give its files with `symlinks`";
    };
    initializeNixDatabase = {
      fine = isDefault false;
      says = database;
    };
    keepContentsDirlinks.says = "links to directories are always merged like directories: leave it out";
    layeringPipeline.says = "layers are planned by how the images of a stack share them: leave it out; `layers` with buildLayer and `maxLayers` change it";
    meta.says = own;
    mtime.says = "every file has the time of the Nix store, 1970-01-01T00:00:01Z, as else no link to the store could be the file: leave it out";
    passthru.says = own;
    pathsToLink.says = "make that tree with nixpkgs: copyToRoot = pkgs.buildEnv { name = \"root\"; paths = [ … ]; pathsToLink = [ \"/bin\" ]; }";
    runAsRoot = {
      fine = isNull;
      says = commands;
    };
    uid = {
      fine = isDefault 0;
      says = owner;
    };
    uname = {
      fine = isDefault "root";
      says = owner;
    };
  };
in
{
  buildImage = image;
  buildLayer = {
    ignore.says = "a store path that lies in another layer is left out by naming that layer in `layers`";
    metadata.says = "the history of a layer is its name: use `name`";
    reproducible = {
      fine = isDefault true;
      says = "every layer is reproducible: leave it out";
    };
    inherit (image)
      extraCommands
      gid
      gname
      mtime
      uid
      uname
      ;
  };
}
