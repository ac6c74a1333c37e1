# Declarations of options, how options and definitions are named in errors, and the plain ways of merging.
lib:
let
  inherit (builtins)
    all
    foldl'
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isString
    length
    match
    tail
    toJSON
    typeOf
    ;
  inherit (lib)
    any
    concatLists
    concatMapStrings
    concatMapStringsSep
    concatStrings
    concatStringsSep
    id
    isDerivation
    last
    mapAttrsToList
    optionalAttrs
    toList
    types
    ;

  valuesOf = map (definition: definition.value);
in
rec {
  mkOption = declaration: declaration // { _type = "option"; };
  isOption = value: value._type or null == "option";
  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  literalMD = text: {
    _type = "literalMD";
    inherit text;
  };
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${what}.";
    };
  mkPackageOption =
    pkgs: name:
    {
      nullable ? false,
      default ? name,
      example ? null,
      extraDescription ? "",
      pkgsText ? "pkgs",
    }:
    let
      path = toList default;
      missing = throw "${concatStringsSep "." path} cannot be found in ${pkgsText}";
    in
    mkOption (
      {
        type = (if nullable then types.nullOr else id) types.package;
        description = "The ${last (toList name)} package to use.${
          if extraDescription == "" then "" else " ${extraDescription}"
        }";
      }
      // (
        if default != null then
          {
            default = lib.attrByPath path missing pkgs;
            defaultText = literalExpression "${pkgsText}.${showOption path}";
          }
        else
          optionalAttrs nullable { default = null; }
      )
      // optionalAttrs (example != null) { inherit example; }
    );

  showOption = concatMapStringsSep "." (
    part: if match "[a-zA-Z_][a-zA-Z0-9_'-]*|<.*>|\\*" part != null then part else toJSON part
  );
  showValue =
    value:
    if isDerivation value then
      "<derivation ${value.name or "?"}>"
    else if isAttrs value then
      "{ ${concatStrings (mapAttrsToList (name: value: "${name} = ${showValue value}; ") value)}}"
    else if isList value then
      "[ ${concatMapStrings (value: "${showValue value} ") value}]"
    else if isFunction value then
      "<function>"
    else if typeOf value == "path" then
      toString value
    else
      toJSON value;
  showDefs = concatMapStrings (
    definition:
    let
      shown = builtins.tryEval (showValue definition.value);
    in
    "\n- in ${definition.file}: ${if shown.success then shown.value else "<error>"}"
  );
  showFiles = concatMapStringsSep " and " (file: "`${file}'");

  # One definition, or several that are the same.
  mergeEqualOption =
    loc: definitions:
    if length definitions > 1 && any (other: other.value != (head definitions).value) (tail definitions) then
      throw "The option `${showOption loc}' has conflicting definitions; mkForce or mkDefault say which counts:${showDefs definitions}"
    else
      (head definitions).value;
  mergeOneOption =
    loc: definitions:
    if length definitions > 1 then
      throw "The option `${showOption loc}' is defined ${toString (length definitions)} times, and can be once only:${showDefs definitions}"
    else
      (head definitions).value;
  # Without a type that says better: by what the values are.
  mergeDefaultOption =
    loc: definitions:
    let
      values = valuesOf definitions;
    in
    if length values == 1 then
      head values
    else if all isFunction values then
      argument: mergeDefaultOption loc (map (f: f argument) values)
    else if all isList values then
      concatLists values
    else if all isAttrs values then
      foldl' (a: b: a // b) { } values
    else if all isBool values then
      any id values
    else if all isString values then
      concatStrings values
    else if all isInt values && all (value: value == head values) values then
      head values
    else
      throw "The definitions of `${showOption loc}' cannot be merged:${showDefs definitions}";
  getValues = valuesOf;
  getFiles = map (definition: definition.file);
}
