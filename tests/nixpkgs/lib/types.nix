# The types of options: what a definition may be, and what several definitions are together.
lib:
let
  inherit (builtins)
    all
    concatLists
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isString
    length
    mapAttrs
    match
    substring
    typeOf
    ;
  inherit (lib)
    concatMapStringsSep
    concatStringsSep
    filterAttrs
    flip
    getFiles
    getValues
    imap1
    isDerivation
    isStorePath
    isStringLike
    last
    mergeDefinitions
    mergeDefaultOption
    mergeEqualOption
    mergeOneOption
    showFiles
    showOption
    toList
    unique
    zipAttrsWith
    ;

  # `combine`: what the type and another of the same name are when an option is declared twice; null: they do not fit.
  mkOptionType =
    {
      name,
      description ? name,
      check ? (_: true),
      merge ? mergeDefaultOption,
      # { value } of an option that nothing defines
      emptyValue ? { },
      combine ? (_: type),
      # Whether what it says needs parentheses in what another type says: "noun", "conjunction", "composite",
      # "nonRestrictiveClause"; null always does.
      descriptionClass ? null,
      # For documentation: the options in a value, and the modules that they are of.
      getSubOptions ? (_: { }),
      getSubModules ? null,
      ...
    }@type:
    let
      self = type // {
        _type = "option-type";
        inherit
          name
          description
          check
          merge
          emptyValue
          descriptionClass
          getSubOptions
          getSubModules
          ;
        combine = if type ? combine then type.combine else _: self;
        typeMerge = other: if other.name != name then null else self.combine other;
      };
    in
    self;

  simple =
    name: description: check:
    mkOptionType {
      inherit name description check;
      descriptionClass = "noun";
      merge = mergeEqualOption;
    };
  # A type made of another.
  container =
    build: below: element: type:
    mkOptionType (
      {
        descriptionClass = "composite";
        inherit (element) getSubModules;
      }
      // type
      // {
        getSubOptions = prefix: element.getSubOptions (prefix ++ below);
        nestedTypes.elemType = element;
        combine =
          other:
          let
            merged = element.typeMerge other.nestedTypes.elemType;
          in
          if merged == null then null else build merged;
      }
    );
  # What a type says within what another says; `plain` are the classes that need no parentheses there.
  phrase = plain: type: if elem type.descriptionClass plain then type.description else "(${type.description})";
  listed = phrase [
    "noun"
    "composite"
  ];
  either' = phrase [
    "noun"
    "conjunction"
  ];
  noun = phrase [ "noun" ];
  # What a definition has for one attribute or entry.
  part = definition: value: { inherit (definition) file; inherit value; };

  attrsWith =
    build: name: lazy: element:
    container build [ "<name>" ] element {
      inherit name;
      description = "${if lazy then "lazy " else ""}attribute set of ${listed element}";
      check = isAttrs;
      emptyValue.value = { };
      merge =
        loc: definitions:
        let
          merged = zipAttrsWith (name: mergeDefinitions (loc ++ [ name ]) element) (
            map (definition: mapAttrs (_: part definition) definition.value) definitions
          );
        in
        if lazy then
          # Which attributes there are is known without what is in them.
          mapAttrs (_: value: if value.isDefined then value.mergedValue else element.emptyValue.value or value.mergedValue) merged
        else
          mapAttrs (_: value: value.mergedValue) (filterAttrs (_: value: value.isDefined) merged);
    };
  separatedString =
    separator:
    mkOptionType {
      name = "separatedString";
      description = if separator == "" then "concatenated strings" else "strings concatenated with ${builtins.toJSON separator}";
      descriptionClass = "noun";
      check = isString;
      merge = _: definitions: concatStringsSep separator (getValues definitions);
      combine = other: if other.separator == separator then separatedString separator else null;
      inherit separator;
    };

  between =
    lowest: highest:
    types.addCheck types.int (value: value >= lowest && value <= highest)
    // {
      name = "intBetween";
      description = "integer between ${toString lowest} and ${toString highest} (both inclusive)";
    };
  sized = name: bits: lowest: highest: between lowest highest // {
    inherit name;
    description = "${bits}; between ${toString lowest} and ${toString highest} (both inclusive)";
  };

  types = rec {
    inherit mkOptionType separatedString;

    raw = mkOptionType {
      name = "raw";
      description = "raw value";
      descriptionClass = "noun";
      merge = mergeOneOption;
    };
    unspecified = mkOptionType {
      name = "unspecified";
      description = "unspecified value";
      descriptionClass = "noun";
    };
    anything = mkOptionType {
      name = "anything";
      descriptionClass = "noun";
      merge =
        loc: definitions:
        let
          kindOf = value: if isAttrs value && isStringLike value then "package" else typeOf value;
          kinds = unique (map kindOf (getValues definitions));
          merges = {
            set = (attrsOf anything).merge;
            package = mergeOneOption;
            lambda =
              loc: definitions: argument:
              anything.merge (loc ++ [ "<function body>" ]) (
                map (definition: part definition (definition.value argument)) definitions
              );
          };
        in
        if length kinds > 1 then
          throw "The option `${showOption loc}' is of several types in ${showFiles (getFiles definitions)}"
        else
          (merges.${head kinds} or mergeEqualOption) loc definitions;
    };

    bool = simple "bool" "boolean" isBool;
    int = simple "int" "signed integer" isInt;
    float = simple "float" "floating point number" isFloat;
    number = either int float;
    ints = {
      inherit between;
      unsigned = addCheck int (value: value >= 0) // {
        name = "unsignedInt";
        description = "unsigned integer, meaning >=0";
        descriptionClass = "nonRestrictiveClause";
      };
      positive = addCheck int (value: value > 0) // {
        name = "positiveInt";
        description = "positive integer, meaning >0";
        descriptionClass = "nonRestrictiveClause";
      };
      u8 = sized "unsignedInt8" "8 bit unsigned integer" 0 255;
      u16 = sized "unsignedInt16" "16 bit unsigned integer" 0 65535;
      u32 = sized "unsignedInt32" "32 bit unsigned integer" 0 4294967295;
    };
    port = ints.u16;

    str = simple "str" "string" isString;
    nonEmptyStr = simple "nonEmptyStr" "non-empty string" (
      value: isString value && match "[ \t\r\n]*" value == null
    );
    singleLineStr = (simple "singleLineStr" "(optionally newline-terminated) single-line string" (
      value: isString value && match "[^\n\r]*\n?" value != null
    )) // {
      merge = loc: definitions: lib.removeSuffix "\n" (mergeEqualOption loc definitions);
    };
    strMatching =
      pattern:
      simple "strMatching ${builtins.toJSON pattern}" "string matching the pattern ${pattern}" (
        value: isString value && match pattern value != null
      );
    lines = separatedString "\n";
    commas = separatedString ",";
    envVar = separatedString ":";

    path = simple "path" "absolute path" (value: isStringLike value && substring 0 1 (toString value) == "/");
    pathInStore = simple "pathInStore" "path in the Nix store" (
      value: isStringLike value && match "${builtins.storeDir}/[^.].*" (toString value) != null
    );
    package = mkOptionType {
      name = "package";
      descriptionClass = "noun";
      check = value: isDerivation value || isStorePath value;
      merge =
        loc: definitions:
        let
          value = mergeOneOption loc definitions;
        in
        if isDerivation value then value else lib.toDerivation value;
    };

    attrs = mkOptionType {
      name = "attrs";
      description = "attribute set";
      check = isAttrs;
      merge = _: definitions: foldl' (all: definition: all // definition.value) { } definitions;
      emptyValue.value = { };
    };
    attrsOf = attrsWith attrsOf "attrsOf" false;
    lazyAttrsOf = attrsWith lazyAttrsOf "lazyAttrsOf" true;
    listOf =
      element:
      container listOf [ "*" ] element {
        name = "listOf";
        description = "list of ${listed element}";
        check = isList;
        emptyValue.value = [ ];
        merge =
          loc: definitions:
          let
            entry =
              n: definition: m: value:
              mergeDefinitions (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]) element [
                (part definition value)
              ];
            merged = concatLists (imap1 (n: definition: imap1 (entry n definition) definition.value) definitions);
          in
          map (value: value.mergedValue) (filter (value: value.isDefined) merged);
      };
    nonEmptyListOf =
      element:
      addCheck (listOf element) (list: list != [ ])
      // {
        description = "non-empty ${noun (listOf element)}";
        emptyValue = { };
      };
    nullOr =
      element:
      container nullOr [ ] element {
        name = "nullOr";
        descriptionClass = "conjunction";
        description = "null or ${either' element}";
        check = value: value == null || element.check value;
        emptyValue.value = null;
        merge =
          loc: definitions:
          let
            nulls = length (filter (value: value == null) (getValues definitions));
          in
          if nulls == length definitions then
            null
          else if nulls != 0 then
            throw "The option `${showOption loc}' is both null and not null, in ${showFiles (getFiles definitions)}"
          else
            element.merge loc definitions;
      };

    enum =
      values:
      mkOptionType {
        name = "enum";
        description =
          if values == [ ] then
            "impossible (empty enum)"
          else if length values == 1 then
            "value ${lib.showValue (head values)} (singular enum)"
          else
            "one of ${concatMapStringsSep ", " lib.showValue values}";
        descriptionClass = if length values < 2 then "noun" else "conjunction";
        check = flip elem values;
        merge = mergeEqualOption;
        combine = other: enum (unique (values ++ other.values));
        inherit values;
      };
    either =
      a: b:
      mkOptionType {
        name = "either";
        description =
          if a.descriptionClass == "nonRestrictiveClause" then
            "${a.description}, or ${either' b}"
          else
            "${either' a} or ${
              phrase [
                "noun"
                "conjunction"
                "composite"
              ] b
            }";
        descriptionClass = "conjunction";
        check = value: a.check value || b.check value;
        merge =
          loc: definitions:
          let
            values = getValues definitions;
          in
          if all a.check values then
            a.merge loc definitions
          else if all b.check values then
            b.merge loc definitions
          else
            mergeOneOption loc definitions;
        nestedTypes = {
          left = a;
          right = b;
        };
        combine =
          other:
          let
            left = a.typeMerge other.nestedTypes.left;
            right = b.typeMerge other.nestedTypes.right;
          in
          if left == null || right == null then null else either left right;
      };
    oneOf = choices: foldl' either (head choices) (builtins.tail choices);
    coercedTo =
      from: coerce: to:
      mkOptionType {
        name = "coercedTo";
        description = "${noun to} or ${noun from} convertible to it";
        inherit (to) getSubOptions getSubModules;
        check = value: (from.check value && to.check (coerce value)) || to.check value;
        merge =
          loc: definitions:
          to.merge loc (
            map (definition: if from.check definition.value then definition // { value = coerce definition.value; } else definition) definitions
          );
        inherit (to) emptyValue;
        combine = _: null;
      };
    functionTo =
      element:
      container functionTo [ "<function body>" ] element {
        name = "functionTo";
        description = "function that evaluates to a(n) ${listed element}";
        check = isFunction;
        merge =
          loc: definitions: argument:
          (mergeDefinitions (loc ++ [ "<function body>" ]) element (
            map (definition: part definition (definition.value argument)) definitions
          )).mergedValue;
      };

    submodule =
      modules:
      submoduleWith {
        shorthandOnlyDefinesConfig = true;
        modules = toList modules;
      };
    submoduleWith =
      {
        modules,
        specialArgs ? { },
        # A definition that is a set has nothing but values in it, also when it has an attribute `config`.
        shorthandOnlyDefinesConfig ? false,
        description ? null,
        class ? null,
      }@args:
      let
        inherit (lib.modules) evalModules;
        evaluate =
          loc: extra:
          evalModules {
            inherit specialArgs;
            prefix = loc;
            modules = [ { _module.args.name = lib.mkOptionDefault "‹name›"; } ] ++ modules ++ extra;
          };
        # Nothing is defined where it is documented, so nothing is checked.
        documented = loc: evaluate loc [ { _module.check = lib.mkForce false; } ];
        freeform = (documented [ ])._module.freeformType;
        asModule =
          definition:
          if shorthandOnlyDefinesConfig && isAttrs definition.value then
            {
              _file = definition.file;
              config = definition.value;
            }
          else
            lib.setDefaultModuleLocation definition.file definition.value;
      in
      mkOptionType {
        name = "submodule";
        description =
          if description != null then
            description
          else if freeform ? description then
            "open submodule of ${listed freeform}"
          else
            "submodule";
        getSubOptions = prefix: (documented prefix).options;
        check = value: isAttrs value || isFunction value || path.check value;
        emptyValue.value = { };
        merge =
          loc: definitions: (evaluate loc ([ { _module.args.name = last loc; } ] ++ map asModule definitions)).config;
        getSubModules = modules;
        inherit args;
        combine =
          other:
          submoduleWith (
            args
            // {
              modules = modules ++ other.args.modules;
              specialArgs = specialArgs // other.args.specialArgs or { };
            }
          );
      };
    optionType = mkOptionType {
      name = "optionType";
      check = value: value._type or null == "option-type";
      merge = mergeOneOption;
    };

    addCheck = type: check: type // { check = value: type.check value && check value; };
  };
in
types
