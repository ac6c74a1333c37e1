# part NAME: a file or folder from outside, that the set-up has put in the store and written down in parts.json.
# It is a fixed-output derivation whose path is valid already, so its builder runs only when the part is missing.
{ system }:
let
  recorded = builtins.fromJSON (builtins.readFile ./parts.json);
  parts =
    if recorded.system == system then
      recorded.parts
    else
      throw "the parts here are for ${recorded.system}, not for ${system}";
in
key:
let
  part = parts.${key} or (throw "no part ${key} in parts.json: run ./dev setup");
in
derivation {
  inherit system;
  inherit (part) name;
  builder = "/bin/sh";
  args = [ "-c" "echo 'part ${part.name} is not in the store: run ./dev setup' >&2; exit 1" ];
  outputHashAlgo = "sha256";
  outputHash = part.sha256;
  outputHashMode = if part.recursive then "recursive" else "flat";
}
// {
  version = part.version or "0";
}
