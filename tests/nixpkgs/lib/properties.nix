# The marks around definitions (mkIf, mkForce, mkAfter…), and how the definitions of one option become one value.
lib:
let
  inherit (builtins)
    concatMap
    filter
    foldl'
    isAttrs
    sort
    ;
  inherit (lib)
    mapAttrs
    min
    showDefs
    showOption
    ;

  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOrder = priority: content: {
    _type = "order";
    inherit priority content;
  };
  kind = value: if isAttrs value then value._type or null else null;
  defaultOverridePriority = 100;
  defaultOrder = 1000;
in
rec {
  inherit mkOverride mkOrder defaultOverridePriority;

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOptionDefault = mkOverride 1500;
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  mkBefore = mkOrder 500;
  mkAfter = mkOrder 1500;

  # A set with marks around it, as sets with the same marks inside: what is known of one attribute without the others.
  pushDownProperties =
    value:
    if kind value == "merge" then
      concatMap pushDownProperties value.contents
    else if kind value == "if" then
      map (mapAttrs (_: mkIf value.condition)) (pushDownProperties value.content)
    else if kind value == "override" then
      map (mapAttrs (_: mkOverride value.priority)) (pushDownProperties value.content)
    else
      # mkOrder makes sense on a value only.
      [ value ];

  # Definitions without mkMerge and mkIf: those that hold.
  dischargeProperties =
    value:
    if kind value == "merge" then
      concatMap dischargeProperties value.contents
    else if kind value == "if" then
      if builtins.isBool value.condition then
        if value.condition then dischargeProperties value.content else [ ]
      else
        throw "mkIf was given a condition that is not a boolean"
    else
      [ value ];

  # Definitions of the strongest mkOverride only, and its priority.
  filterOverrides' =
    definitions:
    let
      priorityOf = definition: if kind definition.value == "override" then definition.value.priority else defaultOverridePriority;
      highestPrio = foldl' (best: definition: min best (priorityOf definition)) 9999 definitions;
    in
    {
      inherit highestPrio;
      values = map (
        definition: if kind definition.value == "override" then definition // { value = definition.value.content; } else definition
      ) (filter (definition: priorityOf definition == highestPrio) definitions);
    };
  filterOverrides = definitions: (filterOverrides' definitions).values;

  # Definitions by their mkOrder; those of one order stay as they are, as Nix's sort is stable.
  sortProperties =
    definitions:
    let
      orderOf = definition: if kind definition.value == "order" then definition.value.priority else defaultOrder;
      unmarked =
        definition: if kind definition.value == "order" then definition // { value = definition.value.content; } else definition;
    in
    map unmarked (sort (a: b: orderOf a < orderOf b) definitions);

  # What the definitions of the option at `loc` amount to.
  mergeDefinitions = loc: type: definitions: rec {
    overridden = filterOverrides' (
      concatMap (definition: map (value: definition // { inherit value; }) (dischargeProperties definition.value)) definitions
    );
    inherit (overridden) highestPrio;
    defsFinal = sortProperties overridden.values;
    isDefined = defsFinal != [ ];
    wrong = filter (definition: !type.check definition.value) defsFinal;
    mergedValue =
      if !isDefined then
        throw "The option `${showOption loc}' is used, and nothing defines it: set it."
      else if wrong != [ ] then
        throw "A definition of the option `${showOption loc}' is not of type `${type.description}'. It is:${showDefs wrong}"
      else
        type.merge loc defsFinal;
    optionalValue = if isDefined then { value = mergedValue; } else { };
  };
}
