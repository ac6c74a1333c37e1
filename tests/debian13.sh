#!/usr/bin/env bash
# The example stack on Debian 13 (Nix 2.26, Podman 5.4), in a folder: the same bytes as ./result, loaded and run there,
# linked too, under a /nix/store that is read-only as on NixOS; and an image of a registry, pinned, fetched and run.
# Not part of `./dev test`: it downloads a Debian and takes some minutes. Needs root, debootstrap, and `./dev build` first.
#
#   tests/debian13.sh [DIR]    DIR keeps the Debian for the next time; target/debian13 by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ ${1:-} != --inside ]]; then
  debian=${1:-target/debian13}
  command -v debootstrap >/dev/null || { echo "install debootstrap first" >&2 && exit 7; }
  if [[ ! -e $debian/etc/installed ]]; then
    mkdir -p "$debian"
    # Its own try to configure Nix fails on a Perl package; apt does it in the second step.
    debootstrap --variant=minbase --include=ca-certificates,git,jq trixie "$debian"
    cp /etc/resolv.conf "$debian/etc/"
    for file in /etc/apt/apt.conf.d/99*; do [[ ! -e $file ]] || cp "$file" "$debian/etc/apt/apt.conf.d/"; done
    chroot "$debian" sh -ec 'apt-get update -qq
      apt-get install -y -qq --no-install-recommends nix-bin podman skopeo runc fuse-overlayfs uidmap patchelf curl python3
      touch /etc/installed'
  fi
  # What must be the same, and the packages it is made from: built there, with other tools, they would have other bytes.
  . tests/parts.sh
  nix_env
  cat result/stack.json result/SHA256SUMS >"$debian/root/expected"
  mapfile -t packages < <(jq -r '.images[].layers[].owners[]' result/stack.json | grep "^/nix/store" | sort -u)
  mapfile -t closure < <(nix-store --query --requisites "${packages[@]}")
  nix-store --export "${closure[@]}" >"$debian/root/closure.nar"
  mkdir -p "$debian/nix" "$debian/src"
  export debian
  # What is upstream there: two layers, of which the second removes a file of the first. The network is the same inside.
  upstream=$(mktemp --directory)
  umoci init --layout "$upstream/oci"
  umoci new --image "$upstream/oci:1"
  umoci insert --image "$upstream/oci:1" /bin/busybox /bin/busybox
  umoci insert --image "$upstream/oci:1" tests /tests
  umoci insert --image "$upstream/oci:1" --whiteout /tests/parts.sh
  umoci config --image "$upstream/oci:1" --config.entrypoint /bin/busybox
  printf '%s\n' 'version: 0.1' "storage: { filesystem: { rootdirectory: $upstream/registry } }" \
    "http: { addr: '127.0.0.1:5731' }" >"$upstream/config.yml"
  docker-registry serve "$upstream/config.yml" >"$upstream/log" 2>&1 &
  trap 'kill %1; rm -rf "$upstream"' EXIT
  sleep 1
  skopeo copy --quiet --dest-tls-verify=false "oci:$upstream/oci:1" docker://127.0.0.1:5731/team/upstream:1.0
  # shellcheck disable=SC2016 # the inner shell expands it
  unshare --mount bash -ec '
    mount --rbind "$debian" "$debian" && mount --make-rslave "$debian"
    for place in proc sys dev; do mount --rbind "/$place" "$debian/$place"; done
    mount -t tmpfs tmpfs "$debian/tmp"
    mount --bind . "$debian/src"
    exec chroot "$debian" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin /src/tests/debian13.sh --inside'
  exit
fi

. tests/parts.sh
nix_env
git config --global --replace-all safe.directory '*'
work=/root/windlass
rm -rf "$work" && mkdir -p "$work/target/release"
# A copy, as the list of what is in the store is about another store.
git ls-files -z | xargs -0 cp --parents -t "$work"
cp -r target/parts "$work/target/"
cp target/release/windlass "$work/target/release/"
# What a compiler made, and there is none in here.
cp -r target/probe "$work/target/"
cd "$work"
git init -q . && git add -A
# This script and the functions it uses, from here on about the copy.
ROOT=$work STUB=$work/tests/nixpkgs PARTS=$work/target/parts PROBE=$work/target/probe/windlass-probe
nix-store --import </root/closure.nar >/dev/null
stub target/release/windlass
nix build .#ai-stack-images --override-input nixpkgs path:target/nixpkgs --no-write-lock-file

nix --version
if cat result/stack.json result/SHA256SUMS | cmp - /root/expected; then
  echo "stack.json and SHA256SUMS: the same, byte for byte"
else
  echo "stack.json or SHA256SUMS differ" >&2
  exit 4
fi
settings=$(podman_env "$work/podman")
eval "$settings"
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

windlass=target/release/windlass
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
  if grep -q parts.sh "$work/there" || ! grep -q debian13.sh "$work/there"; then
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
settings=$(podman_env "$work/linked")
eval "$settings"
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
settings=$(podman_env "$work/pulled")
eval "$settings"
"$windlass" load result
"$windlass" load result
podman run --rm --pull=never --network=none --entrypoint "${cli%-cli}-server" "$(by_digest redis)" --version
"$windlass" verify --full
"$windlass" gc
