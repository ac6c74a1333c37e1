# Lists, attribute sets and what else has nothing to do with modules. Argument order and results are nixpkgs'.
let
  inherit (builtins)
    all
    attrNames
    attrValues
    catAttrs
    concatMap
    elem
    elemAt
    filter
    foldl'
    genList
    head
    isAttrs
    isList
    length
    listToAttrs
    mapAttrs
    match
    removeAttrs
    sort
    tail
    ;
in
rec {
  inherit (builtins)
    add
    all
    any
    attrNames
    attrValues
    catAttrs
    compareVersions
    concatLists
    concatMap
    deepSeq
    elem
    elemAt
    filter
    foldl'
    fromJSON
    genList
    genericClosure
    getAttr
    groupBy
    hasAttr
    head
    intersectAttrs
    isAttrs
    isBool
    isFloat
    isInt
    isList
    isPath
    isString
    length
    lessThan
    listToAttrs
    mapAttrs
    match
    partition
    pathExists
    readFile
    removeAttrs
    seq
    sort
    split
    stringLength
    sub
    substring
    tail
    throw
    trace
    tryEval
    typeOf
    ;

  id = value: value;
  const = value: _: value;
  flip = f: a: b: f b a;
  pipe = foldl' (value: f: f value);
  mod = base: int: base - (int * (base / int));
  min = a: b: if a < b then a else b;
  max = a: b: if a > b then a else b;
  boolToString = value: if value then "true" else "false";
  throwIf = condition: message: if condition then throw message else id;
  throwIfNot = condition: throwIf (!condition);
  assertMsg = condition: message: condition || throw message;
  versionAtLeast = a: b: builtins.compareVersions a b >= 0;
  versionOlder = a: b: builtins.compareVersions a b < 0;
  mapNullable = f: value: if value == null then null else f value;
  defaultTo = default: value: if value == null then default else value;
  # Also a set with __functor can be called.
  isFunction = value: builtins.isFunction value || (value ? __functor && isFunction (value.__functor value));
  functionArgs =
    f: if f ? __functor then f.__functionArgs or (functionArgs (f.__functor f)) else builtins.functionArgs f;
  setFunctionArgs = f: args: {
    __functor = _: f;
    __functionArgs = args;
  };

  # Lists.
  singleton = value: [ value ];
  toList = value: if isList value then value else [ value ];
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  forEach = values: f: map f values;
  last = list: elemAt list (length list - 1);
  init = list: genList (elemAt list) (length list - 1);
  take = count: list: genList (elemAt list) (min count (length list));
  drop = count: list: genList (n: elemAt list (n + count)) (max 0 (length list - count));
  reverseList = list: genList (n: elemAt list (length list - n - 1)) (length list);
  range = first: last: if first > last then [ ] else genList (n: first + n) (last - first + 1);
  replicate = count: value: genList (_: value) count;
  imap0 = f: list: genList (n: f n (elemAt list n)) (length list);
  imap1 = f: imap0 (n: f (n + 1));
  foldr =
    op: nul: list:
    let
      from = n: if n == length list then nul else op (elemAt list n) (from (n + 1));
    in
    from 0;
  flatten = value: if isList value then concatMap flatten value else [ value ];
  unique = foldl' (seen: value: if elem value seen then seen else seen ++ [ value ]) [ ];
  allUnique = list: length (unique list) == length list;
  remove = value: filter (other: other != value);
  subtractLists = drop: filter (value: !elem value drop);
  intersectLists = keep: filter (value: elem value keep);
  mutuallyExclusive = a: b: all (value: !elem value b) a;
  count = predicate: list: length (filter predicate list);
  findFirst =
    predicate: default: list:
    let
      found = filter predicate list;
    in
    if found == [ ] then default else head found;
  zipListsWith = f: a: b: genList (n: f (elemAt a n) (elemAt b n)) (min (length a) (length b));
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  sortOn = key: sort (a: b: key a < key b);
  naturalSort = sort (a: b: builtins.compareVersions a b < 0);
  # Kahn's way, the first that nothing is before comes first; { cycle } when there is no order.
  toposort =
    before: list:
    let
      step =
        done: left:
        let
          free = filter (a: all (b: !(before b a)) left) left;
        in
        if left == [ ] then
          { result = done; }
        else if free == [ ] then
          {
            cycle = left;
            loops = filter (a: before a a) left;
          }
        else
          step (done ++ [ (head free) ]) (filter (value: value != head free) left);
    in
    step [ ] list;

  # Attribute sets.
  nameValuePair = name: value: { inherit name value; };
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  concatMapAttrs = f: set: foldl' (all: more: all // more) { } (mapAttrsToList f set);
  filterAttrs =
    predicate: set: removeAttrs set (filter (name: !predicate name set.${name}) (attrNames set));
  optionalAttrs = condition: set: if condition then set else { };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  getAttrs = names: set: genAttrs names (name: set.${name});
  attrVals = names: set: map (name: set.${name}) names;
  mergeAttrsList = foldl' (a: b: a // b) { };
  foldlAttrs = f: start: set: foldl' (value: name: f value name set.${name}) start (attrNames set);
  foldAttrs =
    op: nul: sets:
    foldr (set: all: mapAttrs (name: value: op value (all.${name} or nul)) set // removeAttrs all (attrNames set)) { } sets;
  inherit (builtins) zipAttrsWith;
  zipAttrs = zipAttrsWith (_: values: values);
  attrByPath =
    path: default: set:
    if path == [ ] then
      set
    else if isAttrs set && set ? ${head path} then
      attrByPath (tail path) default set.${head path}
    else
      default;
  hasAttrByPath =
    path: set: path == [ ] || (isAttrs set && set ? ${head path} && hasAttrByPath (tail path) set.${head path});
  getAttrFromPath = path: set: attrByPath path (throw "cannot find attribute '${builtins.concatStringsSep "." path}'") set;
  setAttrByPath = path: value: foldr (name: inner: { ${name} = inner; }) value path;
  recursiveUpdateUntil =
    stop: left: right:
    let
      merge =
        path:
        zipAttrsWith (
          name: values:
          let
            here = path ++ [ name ];
          in
          if length values == 1 || stop here (elemAt values 1) (head values) then elemAt values (length values - 1) else merge here values
        );
    in
    merge [ ] [
      left
      right
    ];
  recursiveUpdate = recursiveUpdateUntil (_: left: right: !(isAttrs left && isAttrs right));
  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  mapAttrsRecursiveCond =
    cond: f: set:
    let
      recurse =
        path: set:
        mapAttrs (
          name: value:
          if isAttrs value && cond value then recurse (path ++ [ name ]) value else f (path ++ [ name ]) value
        ) set;
    in
    recurse [ ] set;
  collect =
    predicate: value:
    if predicate value then
      [ value ]
    else if isAttrs value then
      concatMap (collect predicate) (attrValues value)
    else
      [ ];
  matchAttrs = pattern: set: all (name: set ? ${name} && set.${name} == pattern.${name}) (attrNames pattern);

  # Packages.
  isDerivation = value: value.type or null == "derivation";
  isStringLike = value: builtins.isString value || builtins.isPath value || value ? outPath || value ? __toString;
  isStorePath =
    value: isStringLike value && match "${builtins.storeDir}/[^/.][^/]*" (toString value) != null;
  # A store path as the package that it was built as.
  toDerivation =
    path:
    let
      outPath = builtins.storePath path;
      package = {
        type = "derivation";
        name = builtins.substring 33 (-1) (baseNameOf path);
        inherit outPath;
        outputs = [ "out" ];
        out = package;
        outputName = "out";
      };
    in
    package;
  getOutput = output: package: if package.outputSpecified or false then package else package.${output} or package.out or package;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
  getName =
    package:
    if builtins.isString package then (builtins.parseDrvName package).name else package.pname or (getName package.name);
  getVersion =
    package:
    if builtins.isString package then (builtins.parseDrvName package).version else package.version or (getVersion package.name);
  getExe = package: getExe' package (package.meta.mainProgram or (getName package));
  getExe' = package: program: "${getBin package}/bin/${program}";
  cartesianProduct =
    sets:
    foldl' (
      done: name:
      concatMap (set: map (value: set // { ${name} = value; }) sets.${name}) done
    ) [ { } ] (attrNames sets);
}
