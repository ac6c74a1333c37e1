#!/bin/sh
# Puts the blobs of this bundle together that were cut into parts: blobs/sha256/<sum>.part-00, .part-01, …
# Copy the bundle to a file system that holds large files, and run `sh join.sh` there. windlass needs no joining.
set -eu
cd -- "$(dirname -- "$0")/blobs/sha256"

sum() {
  if command -v sha256sum >/dev/null 2>&1; then
    sha256sum <"$1" | cut -c 1-64
  else
    openssl dgst -sha256 -r <"$1" | cut -c 1-64
  fi
}

for first in *.part-00; do
  [ -e "$first" ] || continue
  name=${first%.part-00}
  if [ -e "$name" ] && [ "$(sum "$name")" = "$name" ]; then
    echo "$name is there"
    continue
  fi
  cat "$name".part-[0-9][0-9] >"$name.new"
  if [ "$(sum "$name.new")" != "$name" ]; then
    rm -f "$name.new"
    echo "join.sh: the parts of blobs/sha256/$name are not what they were; copy them again" >&2
    exit 4
  fi
  mv -f "$name.new" "$name"
  echo "$name is put together"
done
