#!/bin/sh
# Loads this stack into Podman, models first, without a registry and without a network.
# Needs a POSIX shell and podman; $PODMAN_ARGS goes before each of Podman's verbs (--root DIR, for example).
# Names given as arguments load only these images and models. What is there already is not read again.
set -eu
cd -- "$(dirname -- "$0")"
loaded=0 present=0

exists() {
    # shellcheck disable=SC2086 # several arguments are meant
    podman ${PODMAN_ARGS-} image exists "$1"
}

# wanted NAME: whether NAME was asked for
wanted() {
    [ -n "$only" ] || return 0
    case " $only " in *" $1 "*) return 0 ;; *) return 1 ;; esac
}

# load KIND NAME REFERENCE FILE
load() {
    wanted "$2" || return 0
    if exists "$3"; then
        echo "$1 $2: present"
        present=$((present + 1))
        return 0
    fi
    if [ ! -f "$4" ]; then
        echo "load.sh: $1 $2: $4 is missing; copy the whole directory" >&2
        exit 1
    fi
    echo "$1 $2: loading $4"
    # shellcheck disable=SC2086
    podman ${PODMAN_ARGS-} load --quiet --input "$4"
    if ! exists "$3"; then
        echo "load.sh: $1 $2: podman said that $4 is loaded, but has no $3" >&2
        exit 4
    fi
    loaded=$((loaded + 1))
}

# needs IMAGE MODEL REFERENCE: the archive of IMAGE leaves out the weights of MODEL
needs() {
    wanted "$1" || return 0
    if ! exists "$3"; then
        echo "load.sh: image $1 needs model $2, which is not loaded; load it first: sh load.sh $2 $1" >&2
        exit 1
    fi
}

only="$*"
known=" "
for name in $only; do
    case $name in
    *[!a-z0-9._-]*) echo "load.sh: '$name' is not a name of this stack" >&2; exit 2 ;;
    esac
    if ! grep -q "^load [a-z]* $name " "$0"; then
        echo "load.sh: '$name' is not a name of this stack" >&2
        exit 2
    fi
done
@LOADS@
echo "$loaded loaded, $present present"
