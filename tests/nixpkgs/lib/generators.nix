# Key-value files.
lib:
let
  inherit (lib)
    concatStringsSep
    concatStrings
    escape
    mapAttrsToList
    toList
    ;
in
rec {
  mkValueStringDefault =
    { }:
    value:
    if value == null then
      "null"
    else if builtins.isBool value then
      lib.boolToString value
    else if builtins.isInt value || builtins.isString value || lib.isDerivation value then
      toString value
    else
      throw "${lib.showValue value} is no value of a key-value file";
  mkKeyValueDefault =
    {
      mkValueString ? mkValueStringDefault { },
    }:
    separator: key: value: "${escape [ separator ] key}${separator}${mkValueString value}";
  toKeyValue =
    {
      mkKeyValue ? mkKeyValueDefault { } "=",
      listsAsDuplicateKeys ? false,
      indent ? "",
    }:
    let
      lines = key: value: map (value: "${indent}${mkKeyValue key value}\n") (if listsAsDuplicateKeys then toList value else [ value ]);
    in
    set: concatStrings (lib.concatLists (mapAttrsToList lines set));
  toINI =
    {
      mkSectionName ? escape [ "[" "]" ],
      mkKeyValue ? mkKeyValueDefault { } "=",
      listsAsDuplicateKeys ? false,
    }:
    sections:
    concatStringsSep "\n" (
      mapAttrsToList (
        name: set: "[${mkSectionName name}]\n${toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } set}"
      ) sections
    );
  toJSON = { }: builtins.toJSON;
}
