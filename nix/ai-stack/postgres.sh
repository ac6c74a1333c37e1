#!/bin/sh
# Process 1 of the postgres image: makes a database cluster in an empty volume, then becomes the server.
#
# What counts while the cluster is made, as in the image of Docker's library; each may be a file that NAME_FILE names:
#   POSTGRES_PASSWORD          of the superuser; /run/secrets/postgres-password when neither form is given
#   POSTGRES_USER              the superuser, postgres by default
#   POSTGRES_DB                a database that is created, named like the user by default
#   POSTGRES_INITDB_ARGS       further arguments of initdb, divided at white space
#   POSTGRES_HOST_AUTH_METHOD  for connections over TCP, scram-sha-256 by default
# and the files in /docker-entrypoint-initdb.d, in C order: *.sh, *.sql, *.sql.gz, *.sql.xz, *.sql.zst.
#
# The cluster is made in $PGDATA/.initialising and moved to its place when it is whole, PG_VERSION last. After a kill at
# any moment the next start goes on with the move, or makes the cluster anew; nothing else is ever taken away.
#
# shellcheck shell=dash
# shellcheck disable=SC3040 # busybox has pipefail
set -euo pipefail

SOCKETS=/tmp

say() { printf 'postgres image: %s\n' "$*" >&2; }
die() { say "$@" && exit 1; }

# setting NAME DEFAULT: what the environment says, or the file that it names, in $value
setting() {
  eval "value=\${$1-} file=\${$1_FILE-}"
  if [ -n "$value" ] && [ -n "$file" ]; then die "$1 and $1_FILE are both set: give one of them"; fi
  if [ -n "$file" ]; then
    [ -r "$file" ] || die "$1_FILE: there is no $file, or user $(id -u) may not read it"
    value=$(cat "$file")
  fi
  : "${value:=$2}"
}

settings() {
  if [ -n "${POSTGRES_INITDB_WALDIR-}" ]; then
    die "POSTGRES_INITDB_WALDIR is not known here: give POSTGRES_INITDB_ARGS=--waldir=DIRECTORY"
  fi
  if [ -z "${POSTGRES_PASSWORD-}${POSTGRES_PASSWORD_FILE-}" ] && [ -e /run/secrets/postgres-password ]; then
    POSTGRES_PASSWORD_FILE=/run/secrets/postgres-password
  fi
  setting POSTGRES_PASSWORD ""
  password=$value
  setting POSTGRES_USER postgres
  user=$value
  setting POSTGRES_DB "$user"
  database=$value
  setting POSTGRES_INITDB_ARGS ""
  initdb_args=$value
  setting POSTGRES_HOST_AUTH_METHOD scram-sha-256
  method=$value
  # The scripts in initdb.d alone are given it again.
  unset POSTGRES_PASSWORD
  loopback=scram-sha-256
  if [ "$method" = trust ]; then
    say "POSTGRES_HOST_AUTH_METHOD=trust: every client that reaches the port is let in without a password"
    loopback=trust
  elif [ -z "$password" ]; then
    die "the superuser needs a password: give the secret postgres-password or POSTGRES_PASSWORD_FILE," \
      "or let everybody in with POSTGRES_HOST_AUTH_METHOD=trust"
  fi
}

# alone VOLUME: nothing else is where a cluster is to be made
alone() {
  for entry in "$1"/* "$1"/.[!.]*; do
    case ${entry##*/} in lost+found | .initialising) continue ;; esac
    if [ -e "$entry" ] || [ -L "$entry" ]; then
      die "$1 has ${entry##*/} in it and no PG_VERSION: it is neither empty nor a data directory, and was not changed." \
        "Give the container an empty volume; scripts in initdb.d write to \$PGDATA, which is elsewhere while they run"
    fi
  done
}

# cluster: initdb, and what the settings say that it has no words for
cluster() {
  set --
  if [ -n "$password" ]; then
    (umask 077 && printf '%s\n' "$password" >"$private/password")
    set -- --pwfile="$private/password"
  fi
  case $initdb_args in
    *locale* | *--lc-*) ;;
    # Sorted by code point, by PostgreSQL itself from 17 on: no index depends on the C library.
    *) if [ "$ours" -ge 17 ]; then set -- "$@" --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8; else set -- "$@" --locale=C; fi ;;
  esac
  set -f
  # shellcheck disable=SC2086 # divided at white space
  initdb --username="$user" --auth-local=trust --auth-host="$loopback" --encoding=UTF8 --data-checksums --no-instructions "$@" $initdb_args
  set +f
  rm -f "$private/password"
  printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
  printf "\n# What may reach a container is decided where its ports are published.\nlisten_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
}

# start SERVER…: the server, for this script alone
start() {
  "$@" -c listen_addresses= -c unix_socket_directories="$private" -c unix_socket_permissions=0700 -c port="$PGPORT" &
  server=$!
  until pg_isready --quiet --dbname=postgres; do
    kill -0 "$server" 2>/dev/null || die "the server ended before it was ready"
    sleep 0.1
  done
}

# sql FILE: its statements, up to the first that fails; - for standard input
sql() { psql --no-psqlrc --no-password --quiet --set=ON_ERROR_STOP=1 --file="$1"; }

run() {
  case $1 in
    *.sh)
      (
        export POSTGRES_PASSWORD="$password" POSTGRES_USER="$user" POSTGRES_DB="$database"
        # shellcheck source=/dev/null
        if [ -x "$1" ]; then exec "$1"; else . "$1"; fi
      )
      ;;
    *.sql) sql "$1" ;;
    *.sql.gz) gunzip -c "$1" | sql - ;;
    *.sql.xz) unxz -c "$1" | sql - ;;
    *.sql.zst) zstd -dc "$1" | sql - ;;
    *) say "$1 is left out: neither *.sh nor *.sql, *.sql.gz, *.sql.xz, *.sql.zst" ;;
  esac
}

# ended STATUS: says where it stopped, when that is not the end
ended() {
  case $1 in
    0) return ;;
    126 | 127) say "here are the programs of PostgreSQL and busybox, sh among them, and no bash" ;;
  esac
  say "not initialised: stopped at $step"
}

# initialise SERVER…: a whole cluster in $new/data; SERVER is the command line of the server
initialise() {
  volume=$PGDATA
  private=$SOCKETS/initialising
  step="the settings"
  trap 'ended $?' EXIT
  alone "$volume"
  settings
  step=initdb
  say "initialising $volume for PostgreSQL $ours"
  rm -rf "$new" "$private"
  mkdir "$new"
  mkdir -m 0700 "$private" || die "$SOCKETS cannot be written: mount a tmpfs there"
  export PGDATA="$new/data" PGHOST="$private" PGPORT=5432 PGUSER="$user"
  cluster
  step="the first start of the server"
  start "$@"
  step="database $database"
  if [ "$database" != postgres ]; then createdb --no-password -- "$database"; fi
  export PGDATABASE="$database"
  for file in /docker-entrypoint-initdb.d/*; do
    if [ ! -e "$file" ]; then continue; fi
    step=$file
    say "running $file"
    run "$file"
  done
  step="the end of the server's first run"
  kill -INT "$server"
  wait "$server"
  rm -rf "$private"
  step="what the scripts left"
  alone "$volume"
  sync -f "$volume"
  : >"$new/whole"
}

# move: the whole cluster to its place, or what is left of it after a kill
move() {
  sync -f "$PGDATA"
  chmod "$(stat -c %a "$new/data")" "$PGDATA"
  for entry in "$new"/data/* "$new"/data/.[!.]*; do
    if [ "${entry##*/}" != PG_VERSION ] && { [ -e "$entry" ] || [ -L "$entry" ]; }; then mv "$entry" "$PGDATA/"; fi
  done
  sync -f "$PGDATA"
  mv "$new/data/PG_VERSION" "$PGDATA/"
  sync -f "$PGDATA"
}

# owned PATH: by the user of the container, as PostgreSQL wants it
owned() {
  owner=$(stat -c %u:%g "$1")
  [ "${owner%:*}" = "$uid" ] || die "$1 belongs to $owner, and the server runs as $uid:$gid. Mend it on the host with" \
    "chown -R $uid:$gid DIRECTORY (of a rootless container: podman unshare chown -R $uid:$gid DIRECTORY)," \
    "or mount the volume with the option U once: --volume VOLUME:${PGDATA}:U"
}

case ${1-} in
  "" | -*) set -- postgres "$@" ;;
  postgres) ;;
  *) exec "$@" ;;
esac
case " $* " in *" --help "* | *" -? "* | *" --version "* | *" -V "* | *" --describe-config "*) exec "$@" ;; esac

uid=$(id -u) gid=$(id -g)
[ "$uid" != 0 ] || die "the server does not run as root: start the container without --user, the image has a user for it"
PGDATA=${PGDATA%/}
[ -d "$PGDATA" ] || mkdir -p "$PGDATA" || die "$PGDATA does not exist, and user $uid cannot make it"
owned "$PGDATA"
ours=$(postgres --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
if [ -e "$PGDATA/PG_VERSION" ]; then
  owned "$PGDATA/PG_VERSION"
  theirs=$(cat "$PGDATA/PG_VERSION")
  [ "$theirs" = "$ours" ] || die "$PGDATA is of PostgreSQL $theirs, and this is $ours; nothing was changed. Dump it with" \
    "an image of PostgreSQL $theirs (pg_dumpall), give this one an empty volume, and restore the dump with psql; or use pg_upgrade"
fi
case $(stat -c %a "$PGDATA") in 700 | 750) ;; *) chmod 0700 "$PGDATA" ;; esac

new=$PGDATA/.initialising
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  if [ ! -e "$new/whole" ]; then
    # Process 1 is not ended by a signal that it has no trap for; when it ends, so does all that it has started.
    trap 'exit 143' INT TERM QUIT
    initialise "$@" &
    wait $!
    trap - INT TERM QUIT
  fi
  move
fi
if [ -e "$new" ]; then rm -f "$new/whole" && rmdir "$new/data" "$new"; fi
unset POSTGRES_PASSWORD
# Before what the caller says, so that it can say otherwise.
shift
exec postgres -c unix_socket_directories="$SOCKETS" "$@"
