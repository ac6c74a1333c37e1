# What nixpkgs says of packages: name, version, licence, source, patches, CPE and purl, for `windlass sbom`.
#
# Type: [ value ] -> [ AttrSet ]
#
# Told are those of the values that are packages, and what these are built with (buildInputs, propagatedBuildInputs, the C library
# and the compiler's own libraries): what can be in a closure. All of it is read at evaluation, from attributes that are there to
# instantiate the packages; nothing has to be built for it, and no text here makes something an input of an image.
values:
let
  inherit (builtins)
    baseNameOf
    concatMap
    filter
    genericClosure
    head
    isAttrs
    isList
    isString
    listToAttrs
    map
    match
    parseDrvName
    toString
    tryEval
    unsafeDiscardStringContext
    ;
  list = value: if isList value then value else [ value ];
  isPackage = value: isAttrs value && value.type or null == "derivation";
  # nixpkgs throws where a package is broken or not allowed here: then this is not known.
  try =
    value:
    let
      tried = tryEval value;
    in
    if tried.success then tried.value else null;
  text =
    value:
    let
      tried = try value;
    in
    if isString tried && tried != "" then unsafeDiscardStringContext tried else null;
  known = attrs: listToAttrs (filter (entry: entry.value != null && entry.value != [ ]) attrs);
  entry = name: value: { inherit name value; };
  # Sets and packages of a list that may throw.
  sets = value: filter (one: isAttrs (try one)) (list (if try value == null then [ ] else value));

  # What its store paths can refer to.
  needs =
    package:
    filter isPackage (
      sets (package.buildInputs or [ ])
      ++ sets (package.propagatedBuildInputs or [ ])
      ++ sets (package.paths or [ ])
      ++ sets (package.stdenv.cc.libc or [ ])
      ++ sets (package.stdenv.cc.cc or [ ])
    );
  nodes =
    packages:
    concatMap (
      package:
      let
        key = text package.drvPath;
      in
      if key == null then [ ] else [ { inherit key package; } ]
    ) packages;

  # "2f3…-fix.patch" of the store is fix.patch.
  nameOf =
    value:
    let
      name = baseNameOf (unsafeDiscardStringContext (toString value));
      parts = match "[0-9a-z]{32}-(.*)" name;
    in
    if parts == null then name else head parts;

  licence =
    value:
    if isString value then
      known [ (entry "name" (text value)) ]
    else
      known [
        (entry "spdx" (text (value.spdxId or null)))
        (entry "name" (text (value.fullName or value.shortName or null)))
      ];

  source =
    value:
    known [
      (entry "urls" (filter (url: url != null) (map text (value.urls or (list (value.url or [ ]))))))
      (entry "hash" (text (value.outputHash or null)))
      (entry "hashAlgo" (text (value.outputHashAlgo or null)))
      (entry "hashMode" (text (value.outputHashMode or null)))
    ];

  patch =
    value:
    known [
      (entry "name" (text (if isPackage value then value.name or null else nameOf value)))
      (entry "url" (text (if isPackage value then value.url or (head (value.urls or [ null ])) else null)))
    ];

  record =
    { package, ... }:
    let
      meta = if isAttrs (try (package.meta or null)) then package.meta else { };
      identifiers = if isAttrs (try (meta.identifiers or null)) then meta.identifiers else { };
      parsed = parseDrvName package.name;
      output = name: {
        inherit name;
        value = text (package.${name}.outPath or package.outPath);
      };
    in
    known [
      (entry "pname" (text (package.pname or parsed.name)))
      (entry "version" (text (package.version or parsed.version)))
      (entry "outputs" (known (map output (package.outputs or [ "out" ]))))
      (entry "licences" (
        filter (licence: licence != { }) (
          map licence (
            filter (one: isString (try one) || isAttrs (try one)) (list (if try (meta.license or null) == null then [ ] else meta.license))
          )
        )
      ))
      (entry "description" (text (meta.description or null)))
      (entry "homepage" (text (meta.homepage or null)))
      (entry "mainProgram" (text (meta.mainProgram or null)))
      (entry "sources" (filter (source: source != { }) (map source (sets (if try (package.srcs or null) == null then package.src or [ ] else package.srcs)))))
      (entry "patches" (map patch (list (if try (package.patches or null) == null then [ ] else package.patches))))
      (entry "cpe" (text (identifiers.cpe or null)))
      (entry "purl" (text (identifiers.purl or null)))
    ];
in
map record (genericClosure {
  startSet = nodes (filter (value: isPackage (try value)) (concatMap list (list values)));
  operator = node: nodes (needs node.package);
})
