# What a flake.nix and a package.nix usually ask of nixpkgs' lib.
let
  everything = _: null;
in
{
  importTOML = file: builtins.fromTOML (builtins.readFile file);
  licenses = builtins.listToAttrs (map (spdxId: { name = spdxId; value = { inherit spdxId; }; }) [ "mit" "asl20" ]);
  platforms.linux = [ "x86_64-linux" "aarch64-linux" ];

  # Sources are not built here, so a file set need not be exact.
  fileset = {
    toSource = { root, ... }: root;
    unions = everything;
    union = _: everything;
    difference = _: everything;
    intersection = _: everything;
    fileFilter = _: everything;
    maybeMissing = everything;
    gitTracked = everything;
  };
}
