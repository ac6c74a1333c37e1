#!/bin/sh
# Loads this stack into Podman, Docker, containerd or k3s, models first, without a registry and without a network.
# Needs a POSIX shell and podman, docker, ctr or k3s; of those that are there it takes the first, or what $ENGINE says. $PODMAN_ARGS
# goes before each of Podman's verbs (--root /DIR, for example; absolute paths, as this script changes to its own directory).
# Docker reads $DOCKER_HOST and $DOCKER_CONTEXT itself, ctr $CONTAINERD_ADDRESS, $CONTAINERD_NAMESPACE and $CONTAINERD_SNAPSHOTTER.
# Names given as arguments load only these images and models. What is there already is not read again.
set -eu
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"
loaded=0 present=0 host='' found=''
all="@NAMES@"

run() {
    case $engine in
    docker) docker "$@" ;;
    ctr) ctr "$@" ;;
    k3s) k3s ctr "$@" ;;
    *)
        # shellcheck disable=SC2086 # several arguments are meant
        podman ${PODMAN_ARGS-} "$@"
        ;;
    esac
}

fail() {
    code=$1
    shift
    echo "load.sh: $*" >&2
    exit "$code"
}

# wanted NAME: whether NAME was asked for
wanted() {
    [ -n "$only" ] || return 0
    case " $only " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}

# is_containerd: whether the engine is asked through ctr
is_containerd() {
    [ "$engine" = ctr ] || [ "$engine" = k3s ]
}

# checked: name, digest and state of every image of containerd; `complete` where every blob of it is there
checked() {
    run images check 2>/dev/null | while read -r name _ digest state _; do
        echo "$name $digest $state"
    done
}

# id_of IMAGE: its ID
id_of() {
    if is_containerd; then
        checked | while read -r name digest state; do
            [ "$name" != "$1" ] || echo "$digest"
        done
        return
    fi
    run image inspect --format '{{.Id}}' "$1" 2>/dev/null
}

# has NAME@DIGEST IDS: whether the image is there, with its layers; $found names it then. Docker's classic stores know no digest of a
# manifest: there the ID is that of a config, with its containerd store that of the manifest or index. IDS has all of them, with commas
# between. With the containerd store an image can be there without its layers: then it has none.
has() {
    if is_containerd; then
        found=$(checked | while read -r name digest state; do
            # One of its names is enough.
            case ",$2,$state" in *",$digest,"*,complete) echo "$name" && break ;; esac
        done)
        [ -n "$found" ]
        return
    fi
    if [ "$engine" = podman ]; then
        found=$1
        run image exists "$1"
        return
    fi
    for found in $(printf '%s' "$2" | tr , ' '); do
        case $(run image inspect --format '{{len .RootFS.Layers}}' "$found" 2>/dev/null) in
        '' | 0) ;;
        *) return 0 ;;
        esac
    done
    return 1
}

# tagged REF: whether it is the image that `has` found
tagged() {
    of_tag=$(id_of "$1") && of_image=$(id_of "$found") && [ "$of_tag" = "$of_image" ]
}

# runs PLATFORMS: whether one of them (os/architecture with commas between them, or any) is this host's
runs() {
    [ "$1" != any ] || return 0
    [ -n "$host" ] || host=$(run info --format '{{.Host.OS}}/{{.Host.Arch}}') || fail 7 "podman info does not say what this host is"
    case ",$1," in *",$host,"*) return 0 ;; *) return 1 ;; esac
}

# name_it NAME: makes NAME lead to the image that `has` found
name_it() {
    if is_containerd; then
        run images tag --force "$found" "$1" >/dev/null
    else
        run tag "$found" "$1"
    fi
}

# hold: containerd has an image by its names alone. One with the digest is what a pod asks for, and stays when the tag moves; the
# kubelet leaves an image with this label alone when it makes room
hold() {
    is_containerd || return 0
    tagged "$image" || name_it "$image"
    run images label "$image" io.cri-containerd.pinned=pinned >/dev/null
}

# take KIND FILE: has the engine load an archive
take() {
    if ! is_containerd; then
        run load --quiet --input "$2"
    elif [ "$1" = model ]; then
        # Nothing of it is unpacked: it is files for others.
        run images import --no-unpack --all-platforms "$2" >/dev/null
    else
        run images import "$2" >/dev/null
    fi
}

# load KIND NAME REF NAME@DIGEST IDS FILE PLATFORMS [MODEL MODEL@DIGEST IDS]…: the archive of an image leaves out the weights
# of its models
load() {
    wanted "$2" || return 0
    kind=$1 name=$2 ref=$3 image=$4 ids=$5 file=$6 platforms=$7
    shift 7
    if has "$image" "$ids"; then
        # The same bytes can have been loaded under another tag, or the tag have been moved since.
        tagged "$ref" || name_it "$ref"
        hold
        echo "$kind $name: present"
        present=$((present + 1))
        return 0
    fi
    runs "$platforms" || fail 1 "$kind $name is for $platforms, and this host is $host; build it for $host"
    [ -f "$file" ] || fail 1 "$kind $name: $file is missing; copy the whole directory, links followed (cp -rL)"
    while [ $# -gt 0 ]; do
        has "$2" "$3" || fail 1 "image $name needs model $1, which is not loaded; load it first: sh load.sh $1 $name"
        shift 3
    done
    echo "$kind $name: loading $file"
    take "$kind" "$file" || fail 4 "$kind $name: $engine cannot load $file; is it as it was written? sha256sum -c SHA256SUMS"
    if ! has "$image" "$ids" || ! tagged "$ref"; then
        fail 4 "$kind $name: $engine said that $file is loaded, but has no $image; is it as it was written? sha256sum -c SHA256SUMS"
    fi
    hold
    loaded=$((loaded + 1))
}

engine=${ENGINE-}
case $engine in
podman | docker | ctr | k3s) command -v "$engine" >/dev/null || fail 7 "$engine is not on PATH; install it" ;;
'')
    for engine in podman docker ctr k3s none; do
        if command -v "$engine" >/dev/null; then break; fi
    done
    [ "$engine" != none ] || fail 7 "none of podman, docker, ctr and k3s is on PATH; install one of them"
    ;;
*) fail 2 "ENGINE is '$engine'; this script knows podman, docker, ctr and k3s" ;;
esac
case $engine in
docker)
    host=$(docker version --format '{{.Server.Os}}/{{.Server.Arch}}') || fail 7 "docker does not answer; start its daemon, or set DOCKER_HOST to one that runs"
    ;;
ctr | k3s)
    if [ "$engine" = k3s ]; then
        CONTAINERD_ADDRESS=${CONTAINERD_ADDRESS:-/run/k3s/containerd/containerd.sock}
        CONTAINERD_NAMESPACE=${CONTAINERD_NAMESPACE:-k8s.io}
        export CONTAINERD_ADDRESS CONTAINERD_NAMESPACE
    fi
    run version >/dev/null || fail 7 "containerd does not answer; start it, or set CONTAINERD_ADDRESS to the socket of one that runs"
    # It is on this host.
    case $(uname -m) in
    x86_64) host=linux/amd64 ;;
    aarch64) host=linux/arm64 ;;
    *) host=linux/$(uname -m) ;;
    esac
    ;;
esac
only="$*"
for name in "$@"; do
    case " $all " in
    *" $name "*) ;;
    *) fail 2 "there is no image '$name' in this stack; there are: $all" ;;
    esac
done
@LOADS@
echo "$loaded loaded, $present present"
