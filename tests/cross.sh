#!/usr/bin/env bash
# windlass and the probe built for other machines with the cross compilers of Debian's sid, run under QEMU, and what they make compared
# with what this machine's makes: image and model directories and exports, byte for byte. Needs root. Not part of CI: it takes minutes.
#
#   tests/cross.sh [aarch64|s390x…]
#
# s390x has its bytes in the other order. All is in target/cross, which is kept; CROSS_DIR names another place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/parts.sh
. tests/parts.sh

CROSS=${CROSS_DIR:-$ROOT/target/cross}
CHROOT=$CROSS/sid

# What Debian and GNU call a machine.
declare -A DEBIAN=([aarch64]=arm64 [s390x]=s390x)
# targets MACHINE: what Rust calls it.
targets() { printf '%s-unknown-linux-gnu' "$1"; }

# A Debian that builds for all of them, and the C libraries that their programs need.
compilers() {
  if [[ -e $CHROOT ]]; then return 0; fi
  local packages=(rustc cargo gcc libc6-dev qemu-user) options=() machine file archive
  for machine in "${!DEBIAN[@]}"; do
    packages+=("gcc-${machine/_/-}-linux-gnu" "libc6-dev-${DEBIAN[$machine]}-cross" "libstd-rust-dev:${DEBIAN[$machine]}")
  done
  for file in /etc/apt/apt.conf.d/99*; do
    if [[ -e $file ]]; then options+=(--aptopt="$file"); fi
  done
  archive=$(mirror)
  say "making $CHROOT"
  rm -rf --one-file-system "$CHROOT.new"
  setpriv --pdeathsig KILL -- unshare --mount --pid --fork --kill-child --mount-proc -- mmdebstrap --quiet --mode=root --variant=minbase \
    --architectures="$(dpkg --print-architecture),$(IFS=, && echo "${DEBIAN[*]}")" --include="$(IFS=, && echo "${packages[*]}")" "${options[@]}" \
    --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false"' sid "$CHROOT.new" "deb $archive sid main" >&2 ||
    refuse "could not make $CHROOT from Debian's archive" "see above what mmdebstrap said, then run this again"
  mv "$CHROOT.new" "$CHROOT"
}

# The crates, as Cargo.lock has them: the Debian has no network here.
crates() {
  if [[ -e $CROSS/vendor/.lock ]] && cmp -s Cargo.lock "$CROSS/vendor/.lock"; then return 0; fi
  say "fetching the crates"
  cargo vendor --locked --quiet "$CROSS/vendor" >/dev/null
  cp Cargo.lock "$CROSS/vendor/.lock"
}

# inside COMMAND…: in that Debian, with this tree as /src and the Nix store.
inside() {
  # shellcheck disable=SC2016 # the inner shell expands it
  CHROOT=$CHROOT TREE=$ROOT setpriv --pdeathsig KILL -- unshare --mount --net --pid --fork --kill-child -- bash -ec '
    mount --make-rprivate /
    mkdir -p "$CHROOT/src" "$CHROOT/nix"
    mount --bind "$TREE" "$CHROOT/src"
    mount --rbind /nix "$CHROOT/nix"
    mount -t proc proc "$CHROOT/proc"
    mount --rbind /dev "$CHROOT/dev"
    exec chroot "$CHROOT" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"' inside "$@"
}

# build MACHINE
build() {
  local target
  target=$(targets "$1")
  say "building for $1"
  # shellcheck disable=SC2016 # the inner shell expands it
  inside sh -ec '
    cd /src
    linker=$1-linux-gnu-gcc target=$2
    export CARGO_HOME=/src/target/cross/cargo CARGO_TARGET_DIR=/src/target/cross/build
    export "CARGO_TARGET_$(echo "$target" | tr a-z- A-Z_)_LINKER=$linker"
    cargo --config "source.crates-io.replace-with=\"vendored\"" --config "source.vendored.directory=\"/src/target/cross/vendor\"" \
      build --quiet --offline --locked --bin windlass --target "$target"
    rustc @nix/probe.args --target "$target" -C linker="$linker" -o "target/cross/probe-$1/windlass-probe" src/bin/windlass-probe/main.rs' \
    build "$1" "$target"
}

# What there is to build: a store path with what a layer can hold, a model, and the spec of a stack.
sources() {
  local tree=$CROSS/tree
  rm -rf "$tree" "$CROSS/model"
  mkdir -p "$tree"/{bin,order/a,empty} "$tree/$(printf 'd%.0s' {1..90})/$(printf 'e%.0s' {1..90})" "$CROSS/model"
  install -m 0555 "$(command -v busybox)" "$tree/bin/run"
  python3 - "$tree" "$CROSS/model" <<'PYTHON'
import os, sys
tree, model = sys.argv[1:]
def put(path, data, mode=0o444):
    with open(path, "wb") as out:
        out.write(data)
    os.chmod(path, mode)
# Bytes that no two places share.
pattern = lambda size: bytes((n * 2654435761 >> 24) & 255 for n in range(size))
for size in (0, 1, 511, 512, 513, (1 << 20) - 1, 1 << 20, (1 << 20) + 1):
    put(f"{tree}/file-{size}", pattern(size))
# By bytes `a-` comes before `a.`, but everything below `a/` comes first.
for name in ("a/x", "a-", "a.file", "B", "é", "n" * 120):
    put(f"{tree}/order/{name}", name.encode())
put(f"{tree}/{'d' * 90}/{'e' * 90}/far", b"far")
os.symlink("t" * 120, f"{tree}/link")
put(f"{model}/tiny.gguf", b"GGUF\x03\0\0\0" + b"\0" * 16 + pattern(4 << 20))
PYTHON
  tree=$(nix-store --add-fixed --recursive sha256 "$tree")
  jq -n --arg tree "$tree" --arg model "$(nix-store --add-fixed --recursive sha256 "$CROSS/model")" '{
    kind: "stack", name: "cross",
    images: [{
      name: "app", tag: "1", platform: "linux/amd64", content: {deps: [$tree]}, config: {Cmd: ["\($tree)/bin/run"], Env: ["B=2", "A=1"], User: "1000:1000"},
      models: [{spec: {name: "tiny", files: {"tiny.gguf": "\($model)/tiny.gguf"}}}]
    }]
  }' >"$CROSS/spec.json"
}

# made NAME WINDLASS…: all that it makes of the spec, and the digest of each file, in $CROSS/made-NAME.
made() {
  local out=$CROSS/made-$1 packed
  shift
  rm -rf --one-file-system "$out"
  mkdir "$out"
  "$@" build "$CROSS/spec.json" --output "$out/stack" >/dev/null
  for packed in none gzip zstd; do "$@" export "$out/stack/images/app" --compression "$packed" --output "$out/app-$packed.tar" >/dev/null; done
  for packed in modelpack docker-model; do "$@" export "$out/stack/models/tiny" --format "$packed" --output "$out/$packed" >/dev/null; done
  "$@" export "$out/stack" --output "$out/archives" >/dev/null
  (cd "$out" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$out.sums"
}

# compare MACHINE
compare() {
  local run=("$CHROOT/usr/bin/qemu-$1" -L "$CHROOT/usr/$1-linux-gnu") probe=$CROSS/probe-$1/windlass-probe
  say "running under qemu-$1"
  made "$1" "${run[@]}" "$CROSS/build/$(targets "$1")/debug/windlass"
  if ! diff -u "$CROSS/made-here.sums" "$CROSS/made-$1.sums" >&2; then
    say "windlass for $1 makes other bytes than windlass here: see $CROSS/made-here and $CROSS/made-$1"
    return 4
  fi
  # Static: it runs without the libraries of that machine.
  "$CHROOT/usr/bin/qemu-$1" "$probe" exec -- /bin/true
  if "$CHROOT/usr/bin/qemu-$1" "$probe" exec -- /bin/false; then
    say "windlass-probe for $1 says that /bin/false went well"
    return 4
  fi
  echo "$1: $(wc -l <"$CROSS/made-$1.sums") files, the same byte for byte; probe of $(stat --format %s "$probe") bytes, static"
}

nix_env
mkdir -p "$CROSS"
compilers
crates
if (($# == 0)); then set -- "${!DEBIAN[@]}"; fi
for machine in "$@"; do
  [[ -n ${DEBIAN[$machine]:-} ]] || refuse "no cross compiler is set up for $machine; there are: ${!DEBIAN[*]}"
  build "$machine"
done
sources
made here target/debug/windlass
jq -r '(.images + .models)[] | "\(.name) \(.digest)"' "$CROSS/made-here/stack/stack.json"
for machine in "$@"; do compare "$machine"; done
