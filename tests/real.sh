#!/usr/bin/env bash
# The modules on nixpkgs' own lib and in home-manager's own modules, and the flake on a real stdenv, all evaluated and nothing
# built. Not part of CI: the user fetches the trees, and nothing of them is in this repository.
#
#   tests/real.sh NIXPKGS_LIB=DIR HOME_MANAGER=DIR CORE_PKGS=DIR [DEBIAN=DIR]
#
#   NIXPKGS_LIB   the directory `lib` of nixpkgs, or of nix-community/nixpkgs.lib
#   HOME_MANAGER  nix-community/home-manager
#   CORE_PKGS     ekala-project/corepkgs with ekala-project/nix-lib beside it: pins.nix says `{ lib = ../nix-lib; }`, and
#                 nix-lib's default.nix takes `isPath` from builtins instead of from its filesystem.nix
#   DEBIAN        a root directory with Nix 2.18 or later in it, where this machine's is older
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/parts.sh
nix_env

declare -A given=()
for argument in "$@"; do
  given[${argument%%=*}]=$(realpath --canonicalize-missing "${argument#*=}")
done

# tree NAME FILE: the directory that NAME names, which has to have FILE.
tree() {
  local path=${given[$1]:-}
  [[ -n $path ]] || refuse "$1 is not set: tests/real.sh says at its top what it is"
  [[ -e $path/$2 ]] || refuse "$1=$path has no $2: tests/real.sh says at its top what it is"
  printf '%s\n' "$path"
}

lib=$(tree NIXPKGS_LIB modules.nix)
home_manager=$(tree HOME_MANAGER modules/modules.nix)
core=$(tree CORE_PKGS pins.nix)

say "──── the modules' tests on $lib"
NIXPKGS_LIB=$lib cargo nextest run --locked --profile full -E 'test(/^modules?(_checks|_containers|_networks|_settings|_options)?::/) + test(/^ai_stack(_checks)?::/)'

say "──── a home of $home_manager"
nixpkgs=$PWD/target/real
mkdir -p "$nixpkgs/nixos/modules/misc"
ln -sfn "$lib" "$nixpkgs/lib"
# What home-manager takes from NixOS: the options alone.
echo '{ lib, ... }: { options = lib.genAttrs [ "assertions" "warnings" ] (_: lib.mkOption { type = lib.types.listOf lib.types.raw; default = [ ]; }); }' \
  >"$nixpkgs/nixos/modules/misc/assertions.nix"
echo '{ lib, ... }: { options.meta = lib.mkOption { type = lib.types.anything; default = { }; }; }' >"$nixpkgs/nixos/modules/misc/meta.nix"
home=$(nix eval --impure --json --expr "import ./tests/real/home.nix {
  lib = $lib; homeManager = $home_manager; nixpkgs = $nixpkgs;
  pkgs = (builtins.getFlake \"path:$PWD/target/nixpkgs\").legacyPackages.\${builtins.currentSystem};
  modules = [ ./nix/modules/home.nix ./tests/modules/machine.nix ];
}")
jq '{ assertions, warnings, services, storageConf, containers: (.containers | length) }' <<<"$home"
jq --exit-status '.assertions == [] and .warnings == [] and (.storageConf | contains("/nix/var/windlass/storage"))
  and (.containers | length == 2 and all(contains("Pull=never"))) and (.services | index("windlass-load") != null)
  and .activatedAfter == ["reloadSystemd"]' <<<"$home" >/dev/null

say "──── the flake on $core"
source=$(mktemp --directory)
trap 'rm -rf "$source" "$source.helpers"' EXIT
# The package's files alone, as a flake has those that Git knows.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory "$source"
# What takes packages: commands, Nix' database, and images of other programs as a base; and the programs of an image.
echo base >"$source/base.tar"
cat >"$source/helpers.nix" <<'NIX'
f: builtins.mapAttrs (_: made: builtins.unsafeDiscardStringContext made.drvPath) rec {
  commands = f.buildImage {
    name = "commands";
    fakeRootCommands = "mkdir -m 700 data; chown 1000 data";
    pathsToLink = [ "/bin" ];
  };
  layer = f.buildLayer { extraCommands = "mkdir data"; };
  database = f.buildImage {
    name = "database";
    includeNixDB = true;
    copyToRoot = [ root ];
  };
  root = f.buildRoot { fakeRootCommands = "mkdir data"; };
  above = f.buildImage {
    name = "above";
    fromImage = ./base.tar;
  };
  imported = f.importImage {
    name = "imported";
    source = ./base.tar;
  };
  inherit (commands) load push stream copyToDockerDaemon;
  verified = commands.tests.verify;
}
NIX
real=$PWD/tests/real
# evaluate REAL SOURCE: with both where they are, or where a chroot has them.
# shellcheck disable=SC2016 # the inner shell expands it
evaluate='set -e
  input() { nix "$@" --impure --no-write-lock-file --override-input nixpkgs "path:$0"; }
  input flake check --no-build --all-systems "path:$1"
  input eval --json "path:$1#lib.x86_64-linux" --apply "import $1/helpers.nix"
'
version=$(nix --version)
if [[ $(printf '%s\n' 2.18 "${version##* }" | sort --version-sort | head -1) == 2.18 ]]; then
  CORE_PKGS=$core sh -c "$evaluate" "$real" "$source" >"$source.helpers"
else
  debian=$(tree DEBIAN usr/bin/nix)
  # shellcheck disable=SC2016 # the inner shell expands it
  debian=$debian core=$core source=$source real=$real unshare --mount bash -ec '
    mount --make-rprivate /
    for place in proc dev; do mount --rbind "/$place" "$debian/$place"; done
    mkdir -p "$debian/nix"
    for place in nix mnt tmp; do mount -t tmpfs tmpfs "$debian/$place"; done
    mkdir "$debian"/mnt/{trees,source,real}
    mount --bind "$(dirname "$core")" "$debian/mnt/trees"
    mount --bind "$source" "$debian/mnt/source"
    mount --bind "$real" "$debian/mnt/real"
    exec chroot "$debian" env HOME=/tmp CORE_PKGS="/mnt/trees/$(basename "$core")" sh -c "$1" /mnt/real /mnt/source
  ' real "$evaluate" >"$source.helpers"
fi
jq . "$source.helpers"
jq --exit-status 'length == 11 and all(endswith(".drv"))' "$source.helpers" >/dev/null
say "all evaluated"
