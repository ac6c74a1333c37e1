# A tree that commands make, with the modes and owners that they set: for `copyToRoot` of buildImage and buildLayer.
#
# Type: { pkgs } -> AttrSet -> Derivation, with an output `owners`, which the Nix store's files cannot tell
#
# The commands run in the directory that becomes `/`, so paths there have no slash in front: `mkdir -p home/app`. What they may
# use is what nixpkgs' runCommand has, with fakeroot around `fakeRootCommands`: it makes them root, and remembers what they do
# with chmod and chown. Devices, FIFOs and extended attributes (setcap) are refused, as the Nix store cannot keep them.
#
# Example:
#   buildImage {
#     name = "app";
#     copyToRoot = [ (buildRoot { fakeRootCommands = "mkdir -p home/app && chown 1000:1000 home/app && chmod 700 home/app"; }) ];
#   }
{ pkgs }:
{
  # The name of the derivation.
  name ? "root",
  # Packages whose trees are linked into it before the commands run; of two that have the same file the first one counts.
  contents ? [ ],
  # The places of `contents` that are linked, with all below them.
  pathsToLink ? [ "/" ],
  # Trees whose content is copied into it before the commands run.
  copyToRoot ? [ ],
  # Shell, as the user who builds.
  extraCommands ? "",
  # Shell, as root under fakeroot, after extraCommands.
  fakeRootCommands ? "",
}:
let
  inherit (pkgs) buildPackages;
  list = value: if builtins.isList value then value else [ value ];
  reverse = values: builtins.foldl' (all: value: [ value ] ++ all) [ ] values;
  bad = builtins.filter (place: builtins.substring 0 1 place != "/") (list pathsToLink);
in
if bad != [ ] then
  throw "buildRoot ${name}: pathsToLink: '${builtins.head bad}' does not begin with /, as \"/bin\" does"
else
  buildPackages.runCommand name
    {
      nativeBuildInputs = [
        buildPackages.attr
        buildPackages.fakeroot
      ];
      outputs = [
        "out"
        "owners"
      ];
      inherit extraCommands fakeRootCommands;
      bash = buildPackages.stdenv.shell;
      # Those that come first are put over the others.
      linked = map (value: "${value}") (reverse (list contents));
      places = list pathsToLink;
      copied = map (value: "${value}") (list copyToRoot);
      # What cannot be kept, and what was set: src/owners.rs reads the latter.
      record = ''
        # The mode makes find look at the entry as fakeroot tells it, and not as the directory lists it.
        special=$(find . -mindepth 1 -printf '%y%m /%P\n' | sed -n 's|^[^dfl][0-7]* \(/.*\)|\1 (a device, FIFO or socket)|p')
        attributes=$(getfattr --recursive --physical --dump --match='^(user\.|security\.capability$|system\.posix_acl_)' . | sed -n 's|^# file: |/|p')
        if [ -n "$special$attributes" ]; then
          echo "the Nix store keeps no devices and no extended attributes, so that an image cannot have:" >&2
          printf '%s\n' "$special" "$attributes" | sed '/^$/d' >&2
          echo "mount devices when the container is run (--device), and give capabilities there (--cap-add) or with a setuid mode" >&2
          exit 1
        fi
        find . -mindepth 1 -printf '%m %U %G %y %P\0' | LC_ALL=C sort -z >"$owners"
      '';
    }
    ''
      mkdir root
      cd root
      for tree in $linked; do
        for place in $places; do
          if [ -e "$tree$place" ]; then
            mkdir -p ".$place"
            cp -rsfHT --no-preserve=mode,ownership "$tree$place" ".$place"
          fi
        done
      done
      for tree in $copied; do
        cp -rHT --no-preserve=ownership "$tree" .
        chmod -R u+w .
      done
      (eval "$extraCommands")
      # As in dockerTools the commands have the functions of stdenv.
      fakeroot -- "$bash" -ec '
        if [ -e "''${stdenv:-}/setup" ]; then . "$stdenv/setup"; fi
        (eval "$fakeRootCommands")
        eval "$record"
      '
      cd ..
      mv root "$out"
    ''
