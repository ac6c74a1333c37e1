# The options of evaluated modules as a list, for documentation.
lib:
let
  inherit (builtins) concatMap filter isBool;
  inherit (lib) optionalAttrs optionals;

  rendered =
    value:
    if value ? _type && value ? text then
      value
    else
      lib.literalExpression (
        lib.generators.toPretty {
          multiline = true;
          allowPrettyValues = true;
        } value
      );
  # The options in the value of another are declared where that is, unless they say where.
  listed =
    file: options:
    concatMap (
      option:
      let
        visible = option.visible or true;
        known = filter (file: file != "<unknown-file>") option.declarations;
        declarations = if known == [ ] then file else known;
        empty = option.type.emptyValue ? value && option.type.getSubModules == null;
        below = option.type.getSubOptions option.loc;
      in
      [
        (
          {
            inherit (option) loc;
            inherit declarations;
            name = lib.showOption option.loc;
            description = option.description or null;
            internal = option.internal or false;
            visible = if isBool visible then visible else visible == "shallow";
            readOnly = option.readOnly or false;
            type = option.type.description;
          }
          // optionalAttrs (option ? example) { example = rendered option.example; }
          // optionalAttrs (option ? defaultText || option ? default || empty) {
            default = rendered (option.defaultText or option.default or option.type.emptyValue.value);
          }
        )
      ]
      ++ optionals (if isBool visible then visible else visible == "transparent") (listed declarations below)
    ) (lib.collect lib.isOption options);
in
{
  optionAttrSetToDocList = listed [ ];
}
