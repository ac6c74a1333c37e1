#!/bin/sh
# Loads this stack into Podman, models first, without a registry and without a network.
# Needs a POSIX shell and podman; $PODMAN_ARGS goes before each of Podman's verbs (--root /DIR, for example; absolute
# paths, as this script changes to its own directory).
# Names given as arguments load only these images and models. What is there already is not read again.
set -eu
CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")"
loaded=0 present=0 host=
all="@NAMES@"

run() {
    # shellcheck disable=SC2086 # several arguments are meant
    podman ${PODMAN_ARGS-} "$@"
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

# tagged REF NAME@DIGEST: whether both are the same image
tagged() {
    ids=$(run image inspect --format '{{.Id}}' "$1" "$2" 2>/dev/null) || return 1
    [ "$(printf '%s\n' "$ids" | sort -u | wc -l)" -eq 1 ]
}

# runs PLATFORMS: whether one of them (os/architecture with commas between them, or any) is this host's
runs() {
    [ "$1" != any ] || return 0
    [ -n "$host" ] || host=$(run info --format '{{.Host.OS}}/{{.Host.Arch}}') || fail 7 "podman info does not say what this host is"
    case ",$1," in *",$host,"*) return 0 ;; *) return 1 ;; esac
}

# load KIND NAME REF NAME@DIGEST FILE PLATFORMS [MODEL MODEL@DIGEST]…: the archive of an image leaves out the weights of
# its models
load() {
    wanted "$2" || return 0
    kind=$1 name=$2 ref=$3 image=$4 file=$5 platforms=$6
    shift 6
    if run image exists "$image"; then
        # The same bytes can have been loaded under another tag, or the tag have been moved since.
        tagged "$ref" "$image" || run tag "$image" "$ref"
        echo "$kind $name: present"
        present=$((present + 1))
        return 0
    fi
    runs "$platforms" || fail 1 "$kind $name is for $platforms, and this host is $host; build it for $host"
    [ -f "$file" ] || fail 1 "$kind $name: $file is missing; copy the whole directory, links followed (cp -rL)"
    while [ $# -gt 0 ]; do
        run image exists "$2" || fail 1 "image $name needs model $1, which is not loaded; load it first: sh load.sh $1 $name"
        shift 2
    done
    echo "$kind $name: loading $file"
    run load --quiet --input "$file"
    if ! run image exists "$image" || ! tagged "$ref" "$image"; then
        fail 4 "$kind $name: podman said that $file is loaded, but has no $image"
    fi
    loaded=$((loaded + 1))
}

command -v podman >/dev/null || fail 7 "podman is not on PATH; install it"
only="$*"
for name in "$@"; do
    case " $all " in
    *" $name "*) ;;
    *) fail 2 "'$name' is not a name of this stack; it has: $all" ;;
    esac
done
@LOADS@
echo "$loaded loaded, $present present"
