#!/usr/bin/env bash
# The Debians of the matrix, each a folder with a Podman of its own. What is there already stays; one that was half made is made again.
#
#   tests/engines/chroots.sh [bookworm|trixie|sid|experimental|docker20.10…]
#
# ENGINES_DIR says where they are: target/engines by default.
set -euo pipefail
# shellcheck source=tests/parts.sh
. "$(dirname "${BASH_SOURCE[0]}")/../parts.sh"

ENGINES_DIR=${ENGINES_DIR:-$ROOT/target/engines}
PODMAN=(podman skopeo crun runc netavark aardvark-dns passt uidmap fuse-overlayfs nix-bin python3 busybox-static
  containers-storage ca-certificates iproute2 procps)
# The stack of the flake is built in Debian 13, with other tools than here.
STACK=(git jq patchelf curl)

# Docker as Debian 12 has it, beside no Podman.
DOCKER=(docker.io runc nix-bin python3 busybox-static redis-tools ca-certificates iproute2 procps)

# chroot_of SUITE
chroot_of() {
  local suite=$1 debian=$1 dir=$ENGINES_DIR/$1 packages=("${PODMAN[@]}") archive options=() file began=$SECONDS
  # Made under another name: what bears its own name is whole.
  if [[ -e $dir ]]; then return 0; fi
  say "making $dir"
  archive=$(mirror)
  local sources=("deb $archive $suite main")
  case $suite in
    bookworm) packages+=(containerd redis-tools) ;;
    trixie) packages+=("${STACK[@]}" containerd redis-tools) ;;
    # Debian has no crictl: CRI is asked without a client of its own.
    sid) packages+=(docker.io docker-cli containerd python3-grpcio redis-tools) ;;
    experimental)
      debian=sid
      sources=("deb $archive sid main" "deb $archive experimental main")
      packages=("${packages[@]/podman/podman/experimental}")
      ;;
    docker20.10)
      debian=bookworm
      sources=("deb $archive $debian main")
      packages=("${DOCKER[@]}")
      ;;
    *) refuse "no engine of the matrix is from Debian's $suite" ;;
  esac
  rm -rf --one-file-system "$dir.new"
  # How this machine reaches the archive holds for the new one too.
  for file in /etc/apt/apt.conf.d/99*; do
    if [[ -e $file ]]; then options+=(--aptopt="$file"); fi
  done
  # What it mounts and starts goes with it, also when it is killed.
  # shellcheck disable=SC2016 # the shell of the hook expands it
  setpriv --pdeathsig KILL -- unshare --mount --pid --fork --kill-child --mount-proc -- mmdebstrap --quiet --mode=root --variant=minbase --include="$(IFS=, && echo "${packages[*]}")" "${options[@]}" \
    --dpkgopt=force-unsafe-io --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false"' \
    --customize-hook='chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash ann' \
    --customize-hook='chroot "$1" useradd --create-home --uid 1001 --shell /bin/bash ben' \
    "$debian" "$dir.new" "${sources[@]}" >&2 ||
    refuse "could not make $dir from Debian's archive" "see above what mmdebstrap said, then run this again"
  mv "$dir.new" "$dir"
  say "made $dir in $((SECONDS - began)) s"
}

case ${1:-} in
  --one) chroot_of "$2" ;;
  *)
    if (($# == 0)); then set -- bookworm trixie sid experimental; fi
    mkdir -p "$ENGINES_DIR"
    exec 9>"$ENGINES_DIR/lock"
    flock 9
    export ENGINES_DIR
    # Some at a time: each waits for the network and unpacks.
    printf '%s\n' "$@" | xargs -n 1 -P "$(nproc)" "${BASH_SOURCE[0]}" --one ||
      refuse "not every Debian of the matrix could be made in $ENGINES_DIR; see above"
    ;;
esac
