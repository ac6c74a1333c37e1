# What becomes of the arguments of dockerTools and nix2container that the functions here do not take. docs/migration.md has the
# same as a table.
#
# Type: { FUNCTION.ARGUMENT = { says, fine ?, works ? } }
#
# says:  what to write instead
# fine:  whether a value asks for nothing that is not so anyway, and is passed over
# works: what it does in the functions of `mkLib { inherit pkgs; }`, which have packages: nix/migration.nix
let
  owner = "say it with `perms`, as in nix2container: perms = [ { uid = 1000; gid = 1000; } ] for what is not below the store; for store paths give the rule to buildLayer, with `path`";
  packages = "only the functions from `windlass.lib.mkLib { inherit pkgs; }` take it, as they have packages to do it with";
  commands = "write it as `fakeRootCommands`, which are run as root by fakeroot in the directory that becomes `/`: paths begin without a slash, and no machine is started";
  from = "pin the image with `windlass upstream add NAME REFERENCE`, and write fromImage = fetchImage { lock = ./images.lock.json; name = \"NAME\"; }";
  database = "Nix' database is in the image, with its store paths and roots that keep them, each registered at second 1: `nix` works there";
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
      works = "run in the directory that becomes `/`, with `contents` linked and `copyToRoot` copied into it";
      says = packages;
    };
    fakeRootCommands = {
      fine = isDefault "";
      works = "the same, as root under fakeroot: modes and owners that they set are those in the image";
      says = packages;
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
      works = database;
      says = packages;
    };
    includeStorePaths = {
      fine = isDefault true;
      says = "the store paths are always in the image: loading links them and copies nothing. Leave it out; a container may still mount the host's /nix/store over them";
    };
    initializeNixDatabase = {
      fine = isDefault false;
      works = database;
      says = packages;
    };
    keepContentsDirlinks.says = "links to directories are always merged like directories: leave it out";
    layeringPipeline.says = "layers are planned by how the images of a stack share them: leave it out; `layers` with buildLayer and `maxLayers` change it";
    meta.says = own;
    mtime.says = "every file has the time of the Nix store, 1970-01-01T00:00:01Z, as else no link to the store could be the file: leave it out";
    nixGid = {
      fine = isDefault 0;
      works = "the group that may write to Nix' database";
      says = packages;
    };
    nixUid = {
      fine = isDefault 0;
      works = "the user who may write to Nix' database";
      says = packages;
    };
    passthru.says = own;
    pathsToLink = {
      fine = value: value == "/" || value == [ "/" ];
      works = "of `contents` only what is below these places is linked: [ \"/bin\" ]";
      says = packages;
    };
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
      fakeRootCommands
      gid
      gname
      mtime
      pathsToLink
      uid
      uname
      ;
  };
}
