#!/usr/bin/env bash
# The example stack in Debian 13 (Nix 2.26, Podman 5.4): built there it has the same bytes as RESULT; it is loaded and run there, linked
# too, under a /nix/store that is read-only as on NixOS; and an image of a registry, pinned, fetched and run. Part of `./dev engines --full`.
#
#   tests/engines/stack.sh RESULT    what `nix build .#ai-stack-images` gave here with target/debug/windlass
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/parts.sh
nix_env

if [[ ${1:-} != --inside ]]; then
  result=${1:?the stack, as nix build gave it} suites=${ENGINES_DIR:-$ROOT/target/engines} given=$ROOT/target/engines-run/stack-given
  tests/engines/chroots.sh trixie
  rm -rf "$given" && mkdir -p "$given"
  trap 'rm -rf "$given"' EXIT
  mkdir "$given/tree"
  git ls-files -z | xargs -0 cp --parents -t "$given/tree"
  # What must be the same, and the packages it is made from: built there, with other tools, they would have other bytes.
  cat "$result/stack.json" "$result/SHA256SUMS" >"$given/expected"
  mapfile -t packages < <(jq -r '.images[].layers[].owners[]' "$result/stack.json" | grep "^/nix/store" | sort -u)
  mapfile -t closure < <(nix-store --query --requisites "${packages[@]}")
  nix-store --export "${closure[@]}" >"$given/closure.nar"
  # What is upstream there: two layers, of which the second removes a file of the first.
  umoci init --layout "$given/oci"
  umoci new --image "$given/oci:1"
  umoci insert --image "$given/oci:1" /bin/busybox /bin/busybox
  umoci insert --image "$given/oci:1" tests /tests
  umoci insert --image "$given/oci:1" --whiteout /tests/parts.sh
  umoci config --image "$given/oci:1" --config.entrypoint /bin/busybox
  WINDLASS=$ROOT/target/debug/windlass tests/engines/enter.sh "$suites/trixie" "$ROOT/target/engines-run/stack" 1200 \
    bash /src/tests/engines/stack.sh --inside
  exit
fi

given=/src/target/engines-run/stack-given
printf '%s\n' 'version: 0.1' 'storage: { filesystem: { rootdirectory: /srv/registry } }' "http: { addr: '127.0.0.1:5731' }" >/srv/registry.yml
docker-registry serve /srv/registry.yml >/srv/registry.log 2>&1 &
work=/srv/windlass
# A copy, as the list of what is in the store is about another store.
cp -r "$given/tree" "$work"
mkdir -p "$work/target/debug"
cp -r target/parts "$work/target/"
cp target/debug/windlass "$work/target/debug/"
# Compiled files; there is no compiler in here.
cp -r target/probe "$work/target/"
cd "$work"
git init -q . && git add -A
# This script and the functions it uses, from here on about the copy.
ROOT=$work STUB=$work/tests/nixpkgs PARTS=$work/target/parts PROBE=$work/target/probe/windlass-probe
nix-store --import <"$given/closure.nar" >/dev/null
stub target/debug/windlass
nix build .#ai-stack-images --override-input nixpkgs path:target/nixpkgs --no-write-lock-file

# podman_of DIR: a Podman of its own, where control groups are of version 2 and have no controllers.
podman_of() {
  settings=$(podman_env "$1")
  sed -i 's/^netns/pids_limit = 0\nnetns/' "$1/containers.conf"
  eval "$settings"
}

nix --version
if cat result/stack.json result/SHA256SUMS | cmp - "$given/expected"; then
  echo "stack.json and SHA256SUMS: the same, byte for byte"
else
  echo "stack.json or SHA256SUMS differ" >&2
  exit 4
fi
podman_of "$work/podman"
trap 'podman rm --force --all --time 0 >/dev/null' EXIT
podman --version
sh result/load.sh
sh result/load.sh
podman images --digests
by_digest() { jq -r --arg name "$1" '(.images + .models)[] | select(.name == $name) | (.ref | sub(":[^:]*$"; "")) + "@" + .digest' result/stack.json; }
podman run --detach --pull=never --network=none --read-only --name redis "$(by_digest redis)" >/dev/null
cli=$(jq -r '.images[] | select(.name == "redis") | .layers[].owners[]' result/stack.json | grep -- '-redis-')/bin/redis-cli
sleep 2
nsenter --target "$(podman inspect --format '{{.State.Pid}}' redis)" --net "$cli" ping
model=$(jq -r '.models[0].ref' result/stack.json)
podman run --rm --pull=never --network=none --mount "type=image,source=$model,destination=/mnt" \
  --entrypoint "${cli%-cli}-server" "$(by_digest redis)" --version

windlass=target/debug/windlass
# A model in Podman's artifact store: the file of the Nix store itself, under the digest that was known before.
artifact=$("$windlass" model artifact result/lean/models/smollm2 --json)
name=$(jq -r .name <<<"$artifact") digest=$(jq -r .digest <<<"$artifact")
podman artifact ls
if [[ $(podman artifact inspect "$name" | jq -r .Digest) != "$digest" ]]; then
  echo "podman artifact inspect $name: not $digest" >&2
  exit 4
fi
"$windlass" export result/lean/models/smollm2 --format modelpack --output pack
[[ $(jq -r '.manifests[0].digest' pack/index.json) == "$digest" ]]
weights=$(jq -r '.model.files[0].sha256' result/lean/models/smollm2/image.json)
stat --format '%n: inode %i, %h links' "$work/podman/root/artifacts/blobs/sha256/${weights#sha256:}"
[[ $("$windlass" model artifact result/lean/models/smollm2 --json | jq .isNew) == false ]]
# Podman itself takes it from there to elsewhere, and finds nothing to change.
skopeo copy --preserve-digests "oci:$work/podman/root/artifacts:$name" "oci:$work/copy"
[[ $(jq -r '.manifests[0].digest' "$work/copy/index.json") == "$digest" ]]
podman artifact rm "$name"

skopeo copy --quiet --dest-tls-verify=false "oci:$given/oci:1" docker://127.0.0.1:5731/team/upstream:1.0
# Upstream: what is fetched is what Nix builds with, and its second load finds it there, linked and as an archive.
"$windlass" upstream add upstream 127.0.0.1:5731/team/upstream:1.0 --insecure
"$windlass" upstream fetch
upstream=$(nix-build --no-out-link --expr "
  (import ./nix/lib { windlass = builtins.storePath $(awk '$1 == "windlass" { print $2 }' target/parts/store.tsv); }).fetchImage
  { lock = ./images.lock.json; name = \"upstream\"; }")
"$windlass" export "$upstream" --output upstream.tar
podman load --input upstream.tar
upstream_runs() {
  local image
  image=$(jq -r .ref "$upstream/image.json")
  [[ $(podman image inspect --format '{{.Digest}}' "$image") == "$(jq -r '.images.upstream.locked.root.digest' images.lock.json)" ]]
  podman run --rm --pull=never --network=none "$image" ls /tests | tee "$work/there"
  if grep -q parts.sh "$work/there" || ! grep -q demo.sh "$work/there"; then
    echo "$image: the whiteout of its second layer is not heeded" >&2
    exit 4
  fi
  # Podman gives back every layer as it was, though umoci has left out what an archive ends with.
  rm -f "$work/saved.tar"
  podman save --quiet --output "$work/saved.tar" "$image"
  for layer in $(podman image inspect --format '{{range .RootFS.Layers}}{{.}} {{end}}' "$image"); do
    [[ $(tar -xOf "$work/saved.tar" "${layer#sha256:}.tar" | sha256sum) == "${layer#sha256:}"* ]]
  done
}
upstream_runs

# Linked, with /nix/store mounted read-only over itself.
podman rm --force --all --time 0 >/dev/null
podman_of "$work/linked"
"$windlass" doctor --fix --storage-dir /nix/var/windlass/storage
mount --bind /nix/store /nix/store && mount -o remount,ro,bind /nix/store
"$windlass" load result
"$windlass" load result
podman images --digests
"$windlass" load "$upstream"
"$windlass" load "$upstream"
upstream_runs
file=$(jq -r '.models[0].layers[0].owners[0]' result/stack.json)
ls -li "$file" /nix/var/windlass/storage/overlay/*/diff/models/*
podman run --rm --pull=never --network=none --entrypoint "${cli%-cli}-server" "$(by_digest redis)" --version
for name in redis llama-cpp smollm2; do
  podman push --quiet "$(by_digest "$name")" "dir:$work/pushed"
  echo "$(by_digest "$name"): pushed sha256:$(sha256sum <"$work/pushed/manifest.json" | cut -d' ' -f1)"
done
podman image prune --all --force
"$windlass" verify --full
"$windlass" status --sizes
# Pulled, through the skopeo of there.
podman_of "$work/pulled"
"$windlass" load result
"$windlass" load result
podman run --rm --pull=never --network=none --entrypoint "${cli%-cli}-server" "$(by_digest redis)" --version
"$windlass" verify --full
"$windlass" gc
