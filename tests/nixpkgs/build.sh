# The builder of debian.nix. Nix gives it: out, unpack and install (shell), drop (patterns), interpreter, libs (folders).
# shellcheck disable=SC2154
set -euo pipefail
shopt -s nullglob

# Debian's layout to the store's: one bin, one lib.
flatten() {
  local dir
  rm -rf usr/share/{bash-completion,bug,doc,doc-base,lintian,locale,man} lib64 usr/lib64
  mkdir -p bin lib
  for dir in usr/lib/*-linux-gnu lib/*-linux-gnu usr/lib; do
    if [[ -d $dir ]]; then cp -a "$dir/." lib/ && rm -rf "$dir"; fi
  done
  for dir in sbin usr/bin usr/sbin; do
    if [[ -d $dir ]]; then cp -a "$dir/." bin/ && rm -rf "$dir"; fi
  done
  if [[ -d usr/share ]]; then mv usr/share share; fi
  rm -rf usr etc var
  find . -xtype l -delete
  find . -mindepth 1 -maxdepth 1 -type d -empty -delete
}

is_elf() { [[ $(head -c 4 "$1" | od -An -tx1) == " 7f 45 4c 46" ]]; }

has_library() {
  local dir
  for dir in "$out/lib" $libs; do
    if [[ -e $dir/$1 ]]; then return 0; fi
  done
  return 1
}

mkdir "$out"
cd "$out"
eval "$unpack"
eval "rm -rf -- $drop"
find . -mindepth 1 -maxdepth 1 -type d -empty -delete
eval "$install"

if [[ -n $interpreter ]]; then
  while IFS= read -r -d '' file; do
    is_elf "$file" || continue
    for library in $(patchelf --print-needed "$file"); do
      has_library "$library" || { echo "$file needs $library, which no package in its deps has" >&2; exit 1; }
    done
    if patchelf --print-interpreter "$file" >/dev/null 2>&1; then patchelf --set-interpreter "$interpreter" "$file"; fi
    patchelf --set-rpath "$out/lib:${libs// /:}" "$file"
    patchelf --shrink-rpath "$file"
  done < <(find . -type f \( -perm -u+x -o -name '*.so' -o -name '*.so.*' \) -print0 | sort -z)
fi
