# part NAME: a file or folder from outside, that the set-up has put in the store and written down in parts.json.
# It is a fixed-output derivation whose path is valid already, so its builder runs only when the part is missing. A part
# that is not in parts.json, or is for another system, can be evaluated all the same: `nix flake show` looks at all.
{ system }:
let
  recorded = builtins.fromJSON (builtins.readFile ./parts.json);
  parts = if recorded.system == system then recorded.parts else { };
in
key:
let
  missing = {
    name = key;
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000";
    recursive = false;
  };
  part = parts.${key} or missing;
in
derivation {
  inherit system;
  inherit (part) name;
  builder = "/bin/sh";
  args = [ "-c" "echo 'part ${part.name} for ${system} is not in the store: run ./dev setup' >&2; exit 1" ];
  outputHashAlgo = "sha256";
  outputHash = part.sha256;
  outputHashMode = if part.recursive then "recursive" else "flat";
}
// {
  version = part.version or "0";
}
