# evalModules: modules in, one tree of options and one of values out.
lib:
let
  inherit (builtins)
    concatLists
    concatMap
    concatStringsSep
    foldl'
    genericClosure
    head
    intersectAttrs
    isAttrs
    isList
    length
    mapAttrs
    removeAttrs
    seq
    typeOf
    ;
  inherit (lib)
    functionArgs
    imap1
    isFunction
    isOption
    mapAttrsToList
    mergeDefinitions
    mkOption
    mkOptionDefault
    optional
    pushDownProperties
    recursiveUpdate
    reverseList
    setAttrByPath
    showDefs
    showFiles
    showOption
    types
    zipAttrs
    zipAttrsWith
    ;

  reserved = [
    "_class"
    "_file"
    "config"
    "disabledModules"
    "freeformType"
    "imports"
    "key"
    "meta"
    "options"
    "require"
  ];

  # A module in any way of writing, with all its parts.
  normalise =
    file: key: module:
    let
      own = module._file or file;
      freeform = if module ? freeformType then [ { _module.freeformType = module.freeformType; } ] else [ ];
      strange = removeAttrs module reserved;
      part =
        {
          options ? { },
          config,
        }:
        {
          file = toString own;
          key = toString module.key or key;
          imports = module.require or [ ] ++ module.imports or [ ];
          inherit options;
          config = if freeform == [ ] then config else lib.mkMerge ([ config ] ++ freeform);
        };
    in
    if !isAttrs module then
      throw "The module ${own} is not an attribute set but a ${typeOf module}"
    else if module.disabledModules or [ ] != [ ] then
      throw "The module ${own} disables others, which this stand-in does not know"
    else if module ? config || module ? options then
      if strange != { } then
        throw ''
          The module ${own} has `${concatStringsSep "', `" (builtins.attrNames strange)}' beside `config' or `options'; move it
          into `config'
        ''
      else
        part {
          options = module.options or { };
          config = module.config or { };
        }
    else
      part {
        config = removeAttrs module [
          "_class"
          "_file"
          "freeformType"
          "imports"
          "key"
          "require"
        ];
      };

  load =
    call: file: key: module:
    if isFunction module then
      normalise file key (call key module)
    else if isAttrs module then
      if module._type or "module" == "module" then
        normalise file key module
      else if module._type == "if" || module._type == "override" then
        load call file key { config = module; }
      else
        throw "A value of type `${module._type}' is imported as a module, in ${file}"
    else if isList module then
      throw "A list is imported as a module, in ${file}"
    else
      let
        path = toString module;
        content = import module;
      in
      normalise path path (if isFunction content then call path content else content);

  # All modules with what they import, each key once.
  collect =
    call: modules:
    let
      nodes =
        file: key:
        imap1 (
          n: value:
          let
            module = load call file "${key}:anon-${toString n}" value;
          in
          {
            inherit (module) key;
            inherit module;
          }
        );
    in
    map (node: node.module) (genericClosure {
      startSet = nodes "<unknown-file>" "" modules;
      operator = { module, ... }: nodes module.file module.key module.imports;
    });

  # Several declarations of one option as one.
  mergeDeclarations =
    loc: declarations:
    let
      once = [
        "default"
        "example"
        "description"
        "apply"
      ];
      add =
        done: declaration:
        let
          both = intersectAttrs done declaration.options;
          type = done.type.typeMerge declaration.options.type;
        in
        if lib.any (name: both ? ${name}) once || (both ? type && type == null) then
          throw "The option `${showOption loc}' is declared twice and differently, in ${
            showFiles (map (declaration: declaration.file) declarations)
          }"
        else
          done // declaration.options // (if both ? type then { inherit type; } else { });
      merged = foldl' add { } declarations;
    in
    merged
    // {
      inherit loc;
      type = merged.type or types.unspecified;
      declarations = map (declaration: declaration.file) declarations;
    };

  # An option with its value.
  evalOption =
    loc: option: definitions:
    let
      definitions' =
        optional (option ? default) {
          file = head option.declarations;
          value = mkOptionDefault option.default;
        }
        ++ definitions;
      merged =
        if option.readOnly or false && length definitions' > 1 then
          throw "The option `${showOption loc}' is read-only, but set several times:${showDefs definitions'}"
        else
          mergeDefinitions loc option.type definitions';
    in
    option
    // {
      value = builtins.addErrorContext "while evaluating the option `${showOption loc}':" (
        (option.apply or (value: value)) merged.mergedValue
      );
      inherit (merged) isDefined highestPrio;
      definitions = lib.getValues merged.defsFinal;
      files = lib.getFiles merged.defsFinal;
      definitionsWithLocations = merged.defsFinal;
      __toString = _: showOption loc;
    };

  # The tree under `prefix`: { options, config, unmatched }. The latter are definitions that no option takes.
  evalTree =
    prefix: declarations: definitions:
    let
      declared = zipAttrs (
        map (
          { file, options }: mapAttrs (_: options: { inherit file options; }) options
        ) declarations
      );
      checked = map (
        { file, config }@definition:
        if isAttrs config then
          definition
        else
          throw "In ${file} a ${typeOf config} is the value of `${showOption prefix}', which has options below it"
      ) definitions;
      byName = f: zipAttrsWith (_: concatLists) (map ({ file, config }: mapAttrs (_: f file) config) checked);
      whole = byName (file: value: [ { inherit file value; } ]);
      pushed = byName (file: value: map (config: { inherit file config; }) (pushDownProperties value));
      tree = mapAttrs (
        name: declarations:
        let
          loc = prefix ++ [ name ];
          inherit (builtins.partition (declaration: isOption declaration.options) declarations) right wrong;
          option = evalOption loc (mergeDeclarations loc right) (whole.${name} or [ ]);
        in
        if wrong == [ ] then
          {
            options = option;
            config = option.value;
            unmatched = [ ];
          }
        else if right == [ ] then
          evalTree loc declarations (pushed.${name} or [ ])
        else
          throw ''
            `${showOption loc}' is an option in ${showFiles (lib.getFiles right)}, and has options below it in
            ${showFiles (lib.getFiles wrong)}
          ''
      ) declared;
    in
    {
      options = mapAttrs (_: branch: branch.options) tree;
      config = mapAttrs (_: branch: branch.config) tree;
      unmatched =
        concatLists (mapAttrsToList (_: branch: branch.unmatched) tree)
        ++ concatLists (
          mapAttrsToList (name: map (definition: definition // { loc = prefix ++ [ name ]; })) (
            removeAttrs whole (builtins.attrNames declared)
          )
        );
    };

  internal.config._module.args = { };
  internal.options._module = {
    args = mkOption {
      type = types.lazyAttrsOf types.raw;
      internal = true;
    };
    check = mkOption {
      type = types.bool;
      default = true;
      internal = true;
    };
    freeformType = mkOption {
      type = types.nullOr types.optionType;
      default = null;
      internal = true;
    };
  };
in
{
  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
      class ? null,
    }@args:
    let
      given = {
        inherit lib options config specialArgs;
        _class = class;
        _prefix = prefix;
      }
      // specialArgs;
      call =
        key: f:
        let
          argument =
            name: _:
            builtins.addErrorContext "while evaluating the module argument `${name}' in ${key}:" (
              given.${name} or config._module.args.${name}
            );
        in
        f (given // mapAttrs argument (functionArgs f));
      # The last that is imported defines first, as in nixpkgs.
      collected = reverseList (collect call (modules ++ [ (internal // { _file = "lib/modules.nix"; key = "lib/modules.nix"; }) ]));
      tree = evalTree prefix (map (module: { inherit (module) file options; }) collected) (
        concatMap (
          module: map (config: { inherit (module) file; inherit config; }) (pushDownProperties module.config)
        ) collected
      );
      freeform = tree.config._module.freeformType;
      # The path within these modules, without their prefix.
      below = loc: lib.drop (length prefix) loc;
      taken = (
        mergeDefinitions prefix freeform (
          map ({ file, value, loc }: {
            inherit file;
            value = setAttrByPath (below loc) value;
          }) tree.unmatched
        )
      ).mergedValue;
      config = if freeform == null || tree.unmatched == [ ] then tree.config else recursiveUpdate taken tree.config;
      inherit (tree) options;
      unknown = head tree.unmatched;
      check =
        if tree.config._module.check && freeform == null && tree.unmatched != [ ] then
          throw "The option `${showOption unknown.loc}' does not exist. It is defined:${showDefs [ unknown ]}"
        else
          null;
    in
    {
      _type = "configuration";
      inherit options class;
      config = seq check (removeAttrs config [ "_module" ]);
      _module = tree.config._module;
      extendModules =
        {
          modules ? [ ],
          specialArgs ? { },
          prefix ? [ ],
        }:
        lib.evalModules (
          args
          // {
            modules = args.modules ++ modules;
            specialArgs = args.specialArgs or { } // specialArgs;
            prefix = if prefix != [ ] then prefix else args.prefix or [ ];
          }
        );
      type = types.submoduleWith { inherit modules specialArgs class; };
    };

  setDefaultModuleLocation = file: module: {
    _file = file;
    imports = [ module ];
  };
}
