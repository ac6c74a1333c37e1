#!/usr/bin/env bash
# A host in a folder: runs COMMAND in the Debian at CHROOT, as on a machine of its own. Needs root.
#
#   tests/engines/enter.sh CHROOT SCRATCH SECONDS COMMAND…
#   tests/engines/enter.sh --clean SCRATCH      what a run that was killed left there
#
# Its root is CHROOT below a layer of changes in SCRATCH, so that CHROOT stays as it is; Nix, Podman's places and the homes are folders
# of SCRATCH. Mounts, processes, names, network (a loopback alone) and control groups (version 2 alone) are its own: whatever COMMAND leaves
# running or mounted goes when it ends, and after SECONDS it is ended. /src (this tree), windlass and docker-registry are this machine's.
# With CRIO_BIN in the environment it has the crio, crictl and pinns of that folder.
# With CONTAINERD_BIN it has the containerd, ctr, containerd-shim-runc-v2 and crictl of that folder, in place of Debian's.
# With DISK=xfs in the environment /nix and containerd's folder are on an XFS of 2 GB, where files share their data.
set -euo pipefail

# What a host has left on this machine: its control group and its folder.
clean() {
  local group
  if [[ -s $1/groups ]]; then
    group=$(<"$1/groups")
    # Its processes have ended, and the kernel may take a moment to say so.
    for _ in 1 2 3 4 5; do
      find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
      if [[ ! -e $group ]]; then break; fi
      sleep 0.2
    done
  fi
  rm -rf --one-file-system "$1"
}

if [[ $1 == --clean ]]; then clean "$2" && exit; fi
chroot=$1 scratch=$2 seconds=$3
shift 3
tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

if [[ ${ENTERED:-} != yes ]]; then
  clean "$scratch"
  mkdir -p "$scratch"
  trap 'leave; exit 143' HUP INT TERM
  leave() {
    if [[ -n ${child:-} ]]; then
      kill -KILL "$child" 2>/dev/null || true
      wait "$child" 2>/dev/null || true
    fi
    # What the row has found out is kept.
    if [[ -e $scratch/disk/srv/row.json ]]; then mv "$scratch/disk/srv/row.json" "$scratch.json"; fi
    clean "$scratch"
  }
  # A group of version 2, wherever this machine has it.
  groups=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  if [[ -z $groups ]]; then echo "no cgroup2 file system is mounted here" >&2 && exit 7; fi
  groups=$groups/windlass-engines.$$
  mkdir "$groups"
  echo "$groups" >"$scratch/groups"
  # When this is killed, they are too.
  ENTERED=yes setpriv --pdeathsig KILL -- unshare --mount --pid --fork --kill-child --net --uts --ipc -- "${BASH_SOURCE[0]}" "$chroot" "$scratch" "$seconds" "$@" &
  child=$!
  code=0
  wait "$child" || code=$?
  child=
  leave
  exit "$code"
fi

mount --make-rprivate /
mkdir -p "$scratch"/{upper,work,root,disk/{nix,containers,vendor,docker,containerd,home,srv,tmp}}
if [[ ${DISK:-} == xfs ]]; then
  truncate -s 2G "$scratch/xfs.img"
  mkfs.xfs -q "$scratch/xfs.img"
  mkdir "$scratch/xfs"
  mount -o loop "$scratch/xfs.img" "$scratch/xfs"
  for place in nix containerd; do
    mkdir "$scratch/xfs/$place"
    mount --bind "$scratch/xfs/$place" "$scratch/disk/$place"
  done
fi
mount -t overlay overlay -o "lowerdir=$chroot,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
root=$scratch/root
mkdir -p "$root"/{nix,src,old,run,var/lib/containers,var/lib/docker,var/lib/containerd,usr/lib/containers,home}
cp -a "$root/home/." "$scratch/disk/home/"
chmod 1777 "$scratch/disk/tmp"
bind() { mount --bind "$1" "$root$2"; }
bind "$scratch/disk/nix" /nix
bind "$scratch/disk/containers" /var/lib/containers
bind "$scratch/disk/vendor" /usr/lib/containers
bind "$scratch/disk/docker" /var/lib/docker
bind "$scratch/disk/containerd" /var/lib/containerd
bind "$scratch/disk/home" /home
bind "$scratch/disk/srv" /srv
bind "$scratch/disk/tmp" /tmp
bind "$tree" /src
mount -o remount,ro,bind "$root/src"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
programs=("$WINDLASS" "$(command -v docker-registry)")
if [[ -n ${CRIO_BIN:-} ]]; then programs+=("$CRIO_BIN"/{crio,crictl,pinns}); fi
if [[ -n ${CONTAINERD_BIN:-} ]]; then programs+=("$CONTAINERD_BIN"/{containerd,ctr,containerd-shim-runc-v2,crictl}); fi
for program in "${programs[@]}"; do
  touch "$root/usr/local/bin/${program##*/}"
  bind "$program" "/usr/local/bin/${program##*/}"
done
# Its own too: Podman's locks are in /dev/shm, and /dev/fuse is for everyone, as udev makes it.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root"/dev/{pts,shm,net}
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" "fuse 10 229" "net/tun 10 200"; do
  read -r name major minor <<<"$node"
  mknod -m 0666 "$root/dev/$name" c "$major" "$minor"
done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
groups=$(<"$scratch/groups")
mkdir "$groups/driver"
echo $$ >"$groups/cgroup.procs"
ip link set lo up
hostname engines
export PIVOT="$root" END_AFTER=$seconds
# Podman wants a root that is a shared mount; pivot_root wants one that is not.
# Not by exec from here on: this shell is the first process of its namespace and takes in what others leave behind.
# shellcheck disable=SC2016 # the inner shell expands it
unshare --cgroup -- bash -euo pipefail -c '
  mount -t cgroup2 cgroup2 "$PIVOT/sys/fs/cgroup"
  echo $$ >"$PIVOT/sys/fs/cgroup/driver/cgroup.procs"
  cd "$PIVOT"
  pivot_root . old
  umount --lazy /old
  cd /
  mount --make-rshared /
  exec env -i HOME=/root USER=root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    timeout --kill-after=5 "$END_AFTER" "$@"' bash "$@"
