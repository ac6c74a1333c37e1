# What `nix run .#demo` does: the example stack into your own Podman, and a container of it that answers.
#
#   sh demo.sh WINDLASS STACK IMAGE CLIENT
#
#   WINDLASS  the program
#   STACK     the stack, without archives
#   IMAGE     the image of Redis in it, by name and tag
#   CLIENT    redis-cli, in the image
set -eu

windlass=$1 stack=$2 image=$3 client=$4

step() { printf '\n# %s\n' "$*"; }
show() { printf '$ %s\n' "$*" && "$@"; }

if ! command -v podman >/dev/null; then
  echo "demo: there is no podman on the PATH; on NixOS set virtualisation.podman.enable = true, on another system install its package 'podman'" >&2
  exit 7
fi

step "loading into Podman: links where it reads a linked store ('windlass doctor --fix' sets one up), else what it lacks is copied"
show "$windlass" load "$stack"
step "loading again: nothing is left to do"
show "$windlass" load "$stack"

step "Redis answers, in a container without a network"
container=$(podman run --detach --rm --pull=never --network=none --read-only "$image")
trap 'podman rm --force --time 0 "$container" >/dev/null' EXIT
tries=0
until [ "$(podman exec "$container" "$client" ping 2>/dev/null)" = PONG ]; do
  tries=$((tries + 1))
  if [ "$tries" -gt 100 ]; then
    echo "demo: Redis does not answer in $image; what it says: podman logs $container" >&2
    trap - EXIT
    exit 1
  fi
  sleep 0.2
done
show podman exec "$container" "$client" ping

step "what is loaded, and what it costs"
show "$windlass" status
