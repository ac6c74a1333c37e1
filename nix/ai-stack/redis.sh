#!/bin/sh
# Process 1 of the redis image: looks whether the data can be written, then becomes the server.
#
#   REDIS_PASSWORD_FILE  a file with the password of clients; /run/secrets/redis-password when there is one
#
# The server reads its settings from standard input, so that the password is in no file, argument or environment. What
# the caller says comes after them and counts: a configuration file, options, or both.
set -eu

say() { printf 'redis image: %s\n' "$*" >&2; }
die() { say "$@" && exit 1; }

case ${1-} in
  "" | -*) set -- redis-server "$@" ;;
  redis-server) ;;
  *) exec "$@" ;;
esac
shift
# What asks the program, and not the server.
case ${1-} in -v | --version | -h | --help | --test-memory | --check-system) exec redis-server "$@" ;; esac

uid=$(id -u) gid=$(id -g)
# By absolute paths: in a directory that only another may enter, nothing can be asked of the relative ones.
for path in "$PWD" "$PWD/dump.rdb" "$PWD/appendonlydir"; do
  if [ ! -e "$path" ] || [ -w "$path" ]; then continue; fi
  die "$path belongs to $(stat -c %u:%g "$path") and cannot be written by the server, which runs as $uid:$gid." \
    "Mend it on the host with chown -R $uid:$gid DIRECTORY (of a rootless container: podman unshare chown -R" \
    "$uid:$gid DIRECTORY), or mount the volume with the option U once: --volume VOLUME:$PWD:U"
done

# A container's own network is private: what may reach it is decided where ports are published. The user is for the
# health check, which knows no password: it can ask whether the server answers, and nothing else.
settings="bind 0.0.0.0 -::*
protected-mode no
user health on nopass -@all +ping"

if [ -z "${REDIS_PASSWORD_FILE-}" ] && [ -e /run/secrets/redis-password ]; then
  REDIS_PASSWORD_FILE=/run/secrets/redis-password
fi
if [ -n "${REDIS_PASSWORD_FILE-}" ]; then
  [ -r "$REDIS_PASSWORD_FILE" ] || die "REDIS_PASSWORD_FILE: there is no $REDIS_PASSWORD_FILE, or user $uid may not read it"
  password=$(head -n 1 "$REDIS_PASSWORD_FILE" | tr -d '\r' | sed 's/[\\"]/\\&/g')
  [ -n "$password" ] || die "$REDIS_PASSWORD_FILE is empty: leave it out, or write a password"
  settings="$settings
requirepass \"$password\""
fi
case ${1--} in
  -*) ;;
  *)
    settings="$settings
include $1"
    shift
    ;;
esac

umask 077
exec redis-server - "$@" <<SETTINGS
$settings
SETTINGS
