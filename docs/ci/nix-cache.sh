#!/bin/sh
# What CI keeps from one run to the next: the store paths of a result, as a Nix binary cache in a directory. Copy it beside
# your jobs; docs/ci/github.yml and gitlab.yml call it.
#
#   nix-cache.sh key                              a word for the cache: it changes when a locked digest does
#   nix-cache.sh build DIRECTORY INSTALLABLE      nix build, with what the directory has; says how much that was
#
# The key is made of the manifest digests and file hashes in images.lock.json and models.lock.json, and of flake.lock,
# which fixes the packages. A run with the same key builds and fetches nothing.
set -eu

# The store paths that a cache has, sorted.
paths() {
  find "$1" -name '*.narinfo' -exec sed -n 's/^StorePath: //p' {} + 2>/dev/null | sort
}

case $# in 1 | 3) ;; *) set -- "" ;; esac
case $1 in
key)
  for lock in images.lock.json models.lock.json flake.lock; do
    if [ -e "$lock" ]; then cat "$lock"; fi
  done | sha256sum | cut -c 1-32
  ;;
build)
  mkdir -p "$2"
  cache=$(cd "$2" && pwd)
  # Only from here is `trusted` no risk: these are paths that an earlier run of these jobs built, and the runner keeps them.
  nix build "$3" --extra-substituters "file://$cache?trusted=1&priority=1"
  before=$(mktemp) after=$(mktemp)
  trap 'rm -f "$before" "$after"' EXIT
  paths "$cache" >"$before"
  nix path-info --recursive ./result >"$after"
  sort -o "$after" "$after"
  hits=$(comm -12 "$before" "$after" | wc -l)
  echo "cache: $hits of $(wc -l <"$after") store paths were there"
  # What is not of this result goes, so that the cache does not grow from run to run.
  if [ "$hits" -ne "$(wc -l <"$after")" ] || [ "$hits" -ne "$(wc -l <"$before")" ]; then
    rm -rf "$cache.new"
    nix copy --to "file://$cache.new?compression=zstd" ./result
    rm -rf "$cache"
    mv "$cache.new" "$cache"
  fi
  ;;
*)
  sed -n 's/^# \{0,1\}//; 2,9p' "$0" >&2
  exit 2
  ;;
esac
