# A tree with Nix' database of an image's store paths, so that `nix` works in its containers: for `copyToRoot`.
#
# Type: { pkgs, buildRoot } -> Derivation from buildImage -> Derivation
#
# The paths that no other one refers to are roots, so that a garbage collection in the container takes nothing of the image away.
# Every path was registered at second 1, as every file is of second 1: the same image has the same database.
{ pkgs, buildRoot }:
{
  # The image, without the database.
  image,
  # The number of the user and the group that may write to it.
  uid ? 0,
  gid ? 0,
}:
let
  inherit (pkgs) buildPackages;
  database =
    buildPackages.runCommand "nix-database-${image.name}"
      {
        nativeBuildInputs = [
          buildPackages.nix
          buildPackages.sqlite
        ];
      }
      ''
        export HOME=$PWD USER=nobody NIX_REMOTE="local?root=$PWD/root" NIX_CONF_DIR=$PWD
        nix-store --option build-users-group "" --load-db <${image.registration}/registration
        cd root${builtins.dirOf builtins.storeDir}/var/nix
        sqlite3 db/db.sqlite "PRAGMA journal_mode = DELETE; UPDATE ValidPaths SET registrationTime = 1; VACUUM;"
        mkdir -p "$out/db" "$out/gcroots/windlass"
        cp db/db.sqlite db/schema "$out/db"
        while read -r path; do
          ln -s "$path" "$out/gcroots/windlass/''${path##*/}"
        done <${image.registration}/roots
      '';
in
buildRoot {
  name = "nix-state-${image.name}";
  fakeRootCommands = ''
    mkdir -p nix/store nix/var/nix
    cp -r --no-preserve=mode ${database}/. nix/var/nix
    chown -R ${toString uid}:${toString gid} nix
  '';
}
