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
      throw "${lib.showValue value} is not a value of a key-value file";
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

  # A value as Nix writes it, over several lines.
  toPretty =
    {
      allowPrettyValues ? false,
      multiline ? true,
      indent ? "",
    }:
    let
      go =
        indent: value:
        let
          start = if multiline then "\n${indent}  " else " ";
          end = if multiline then "\n${indent}" else " ";
          entry = go (indent + "  ");
          between = open: close: entries: "${open}${start}${concatStringsSep start entries}${end}${close}";
          parts = lib.splitString "\n" value;
          quoted =
            "\"" + concatStringsSep "\\n" (map (escape [ "\\" "\"" "\${" ]) parts) + "\"";
          escaped = map (builtins.replaceStrings [ "\${" "''" ] [ "''\${" "'''" ]) parts;
          lines =
            "''"
            + start
            + concatStringsSep start (lib.init escaped)
            + (if lib.last escaped == "" then end else start + lib.last escaped)
            + "''";
          kind = builtins.typeOf value;
        in
        if kind == "string" then
          (if multiline && builtins.length parts > 1 then lines else quoted)
        else if kind == "bool" then
          lib.boolToString value
        else if value == null then
          "null"
        else if kind == "float" then
          builtins.toJSON value
        else if kind == "list" then
          (if value == [ ] then "[ ]" else between "[" "]" (map entry value))
        else if lib.isFunction value then
          "<function>"
        else if kind != "set" then
          toString value
        else if allowPrettyValues && value ? __pretty && value ? val then
          value.__pretty value.val
        else if value == { } then
          "{ }"
        else if lib.isDerivation value then
          "<derivation ${value.name or "???"}>"
        else
          between "{" "}" (mapAttrsToList (name: value: "${lib.escapeNixIdentifier name} = ${entry value};") value);
    in
    go indent;
}
