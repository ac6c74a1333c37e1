#!/usr/bin/env bash
# The main job, on real parts: ./result (from `./dev build`) is loaded into a Podman of its own without a network,
# Redis and a language model answer, then the app changes, is loaded again, and is taken back. Called by `./dev demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/parts.sh
nix_env

work=$(mktemp -d)
# Beside the Nix store, where files can have a second name.
linked=$(mktemp -d "$(dirname "$(nix-instantiate --eval --expr builtins.storeDir | tr -d '"')")/var/windlass-demo-XXXX")
tidy() {
  podman rm --force --all --time 0 >/dev/null 2>&1 || :
  umount -l "$work"/*/root/overlay 2>/dev/null || :
  rm -rf "$work" "$linked"
}
trap tidy EXIT
settings=$(podman_env "$work/podman")
eval "$settings"
windlass=target/release/windlass

step() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*" && "$@"; }
# digest FILE NAME: name and digest of an image in a stack.json
digest() { jq -r --arg name "$2" '.images[] | select(.name == $name) | (.ref | sub(":[^:]*$"; "")) + "@" + .digest' "$1"; }
# traced COMMAND…: runs it, then says how many bytes of the model were read: of its file and of its archive
traced() {
  local log=$work/strace
  printf '$ %s\n' "$*"
  strace --follow-forks --quiet=all --decode-fds=path --trace=read,pread64,copy_file_range --output="$log" "$@"
  sed -nE 's#.*(read|pread64|copy_file_range)\([0-9]+<[^>]*('"$model"')>.* = ([0-9]+)$#\3#p' "$log" |
    awk '{ bytes += $1 } END { printf "bytes of the model that were read: %d\n", bytes }'
}

step "what nix build gave"
show ls -l result/ result/images/ result/models/
model=$(jq -r '.models[0].layers[0].owners[0]' result/stack.json)
model="$model|$(readlink result/models/smollm2.tar)"
step "the layers, bottom first"
show "$windlass" inspect result

step "setting up the linked store: an additional image store for Podman, beside the Nix store"
show "$windlass" doctor --fix --storage-dir "$linked"
step "loading, with no network"
traced unshare --net "$windlass" load result
show podman images --digests --format 'table {{.Repository}} {{.Digest}} {{.Size}} {{.ReadOnly}}'
step "loading again"
show "$windlass" load result

step "Redis answers"
podman run --detach --pull=never --network=none --read-only --name redis "$(digest result/stack.json redis)" >/dev/null
redis=$(jq -r '.images[] | select(.name == "redis") | .layers[].owners[]' result/stack.json | grep -- '-redis-')/bin/redis-cli
for _ in {1..50}; do
  if [[ $(podman exec redis "$redis" ping 2>/dev/null) == PONG ]]; then break; fi
  sleep 0.2
done
show podman exec redis "$redis" ping

step "PostgreSQL with pgvector, from an empty directory and a password file: the nearest of three"
mkdir "$work/data" && chown 5432:5432 "$work/data"
openssl rand -hex 16 | install -m 0400 -o 5432 -g 5432 /dev/stdin "$work/password"
podman run --detach --pull=never --network=none --read-only --tmpfs /tmp --cap-drop=all --name postgres \
  --volume "$work/data:/var/lib/postgresql/data" --volume "$work/password:/run/secrets/postgres-password:ro" \
  "$(digest result/stack.json postgres)" >/dev/null
for _ in {1..150}; do
  if podman exec postgres pg_isready --quiet --host=127.0.0.1; then break; fi
  sleep 0.2
done
show podman exec postgres psql --username=postgres --quiet --command="CREATE EXTENSION vector" \
  --command="SELECT v FROM (VALUES ('[0,1]'::vector), ('[3,3]'), ('[2,1]')) AS t (v) ORDER BY v <-> '[2,2]' LIMIT 1"

# ask NAME: puts the question to the model server in a container
ask() {
  local pid
  pid=$(podman inspect --format '{{.State.Pid}}' "$1")
  for _ in {1..150}; do
    if nsenter --target "$pid" --net curl --silent --fail http://127.0.0.1:8080/health >/dev/null; then break; fi
    sleep 0.2
  done
  nsenter --target "$pid" --net curl --silent --fail http://127.0.0.1:8080/v1/completions \
    --data '{"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}' | jq -r '.choices[0].text'
}
step "the model answers: 'The capital of France is …'"
podman run --detach --pull=never --network=none --read-only --tmpfs /tmp --name llama "$(digest result/stack.json llama-cpp)" >/dev/null
answer=$(ask llama)
echo "$answer"
[[ $answer == *Paris* ]] || { echo "demo: expected Paris" >&2 && exit 1; }

step "the app changes (another llama-server, same model): build and load again"
changed=$work/nixpkgs
cp -r target/nixpkgs "$changed"
echo '# the next version' >>"$changed/llama-server.py"
traced nix build .#ai-stack-images --override-input nixpkgs "path:$changed" --no-write-lock-file --out-link "$work/changed"
show "$windlass" diff result "$work/changed"
traced unshare --net "$windlass" load "$work/changed"
podman run --detach --pull=never --network=none --read-only --tmpfs /tmp --name llama2 "$(digest "$work/changed/stack.json" llama-cpp)" >/dev/null
answer=$(ask llama2)
echo "$answer"
[[ $answer == *Paris* ]] || { echo "demo: expected Paris" >&2 && exit 1; }

step "prune takes nothing away; the version before is one command away"
podman rm --force --all --time 0 >/dev/null
show podman image prune --all --force
show "$windlass" rollback
show "$windlass" generations
show "$windlass" gc --keep-generations 1

step "with plain Podman and nothing of ours: archives and load.sh"
settings=$(podman_env "$work/plain")
eval "$settings"
traced sh result/load.sh
show sh result/load.sh
