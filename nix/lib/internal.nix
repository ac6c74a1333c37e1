# What the functions beside this file share. Not for users.
{
  windlass,
  system,
  targetSystem,
}:
let
  inherit (builtins)
    compareVersions
    elemAt
    filter
    hashString
    head
    isList
    length
    listToAttrs
    mapAttrs
    match
    nixVersion
    replaceStrings
    split
    substring
    toJSON
    toString
    unsafeDiscardStringContext
    ;

  # A derivation whose builder is windlass. `action` is its attribute `windlass`, see src/cli/nix_builder.rs.
  derive =
    {
      name,
      action,
      # Store paths whose closure the builder is told, as the attribute `closure`.
      closureOf ? [ ],
      outputs ? [ "out" ],
      # SHA-256 in hex of the one file that comes out: then it may be fetched from elsewhere.
      hash ? null,
      # Whether the outputs only seem to refer to what they mention: an archive holds all of it.
      selfContained ? false,
    }:
    derivation (
      {
        inherit name system outputs;
        builder = "${windlass}/bin/windlass";
        args = [ "nix-builder" ];
        __structuredAttrs = true;
        windlass = action;
      }
      // (
        if hash == null then
          { }
        else
          {
            outputHashMode = "flat";
            outputHashAlgo = "sha256";
            outputHash = hash;
            preferLocalBuild = true;
            impureEnvVars = [
              "http_proxy"
              "https_proxy"
              "all_proxy"
              "no_proxy"
              "HTTP_PROXY"
              "HTTPS_PROXY"
              "ALL_PROXY"
              "NO_PROXY"
              "SSL_CERT_FILE"
              "NIX_SSL_CERT_FILE"
              "REGISTRY_AUTH_FILE"
              "DOCKER_CONFIG"
            ];
          }
      )
      // (if closureOf == [ ] then { } else { exportReferencesGraph.closure = closureOf; })
      # Nix knows this from 2.17 on; with an earlier one an archive keeps alive what it was made from.
      // (
        if selfContained && compareVersions nixVersion "2.17" >= 0 then
          {
            unsafeDiscardReferences = listToAttrs (
              map (name: {
                inherit name;
                value = true;
              }) outputs
            );
          }
        else
          { }
      )
    );
in
rec {
  inherit derive targetSystem;

  # A path, derivation or string as a string that carries its dependencies.
  path = value: "${value}";
  list = value: if isList value then value else [ value ];

  # What a name may hold in a store path.
  storeName = replaceStrings [ "/" ":" "@" ] [ "-" "-" "-" ];

  # A spec as a file in the store. Nix finds what it refers to by reading it: that is how a config's store paths are in
  # the closure without being listed twice.
  specFile =
    name: spec:
    derive {
      name = "${storeName name}.json";
      action = {
        action = "spec";
        inherit spec;
      };
    };

  # A tag that depends on everything in an image, and on nothing else: a new windlass that makes the same bytes gives the
  # same tag, so that no container restarts for it. `bytes` counts the changes to what is made of the same spec; the golden
  # digests in tests/it/golden.rs say when that happens.
  tagOf =
    identity:
    substring 0 32 (
      hashString "sha256" (
        unsafeDiscardStringContext (toJSON {
          bytes = 2;
          inherit identity;
        })
      )
    );

  # What stands for a layer, a model or an image in the tag of what is made with it.
  tagIn = part: part.imageTag or (path part);

  # `redis` -> `localhost/redis`; a name with a registry stays. The same rule as src/oci/reference.rs.
  fullName =
    name:
    let
      first = head (split "/" name);
      hasRegistry = length (split "/" name) > 1 && (first == "localhost" || match ".*[.:].*" first != null);
    in
    if hasRegistry then name else "localhost/${name}";

  # What an image is called among the files of a stack: `localhost/redis` -> `redis`. As `file_name` in src/oci/reference.rs.
  fileName = fullName: replaceStrings [ "/" ] [ "-" ] (head (match "[^/]*/(.*)" fullName));

  # `x86_64-linux` -> `linux/amd64`
  platformOf =
    system:
    let
      parts = match "([^-]+)-([^-]+)" system;
      architectures = {
        x86_64 = "amd64";
        aarch64 = "arm64";
        i686 = "386";
        armv7l = "arm/v7";
        riscv64 = "riscv64";
      };
    in
    "${elemAt parts 1}/${architectures.${head parts} or (head parts)}";

  # What images and layers can hold, as src/spec/mod.rs reads it.
  content =
    {
      deps ? [ ],
      contents ? [ ],
      copyToRoot ? [ ],
      files ? { },
      texts ? { },
      symlinks ? { },
      directories ? { },
    }:
    {
      deps = map path (list deps);
      contents = map path (list contents);
      copyToRoot = map path (list copyToRoot);
      files = mapAttrs (_: path) files;
      symlinks = mapAttrs (_: path) symlinks;
      inherit texts directories;
    };

  # The files with modes and owners that come with trees from buildRoot. Only when there are some: the tag of what has none does
  # not depend on it.
  ownersOf =
    trees:
    let
      owners = listToAttrs (
        map (tree: {
          name = unsafeDiscardStringContext (path tree);
          value = path tree.owners;
        }) (filter (tree: tree ? owners) (list trees))
      );
    in
    if owners == { } then { } else { inherit owners; };

  # What of a spec looks like a secret and is allowed. The tag does not depend on it.
  allowed = entries: if entries == [ ] then { } else { allowSecrets = entries; };

  # What nixpkgs says of the packages among what an image or a layer is given, and of what they are built with. The tag does not
  # depend on it.
  described =
    {
      packages,
      contents,
      copyToRoot,
      deps,
      files,
      symlinks,
    }:
    let
      found = import ./packages.nix [
        packages
        contents
        copyToRoot
        deps
        (builtins.attrValues files)
        (builtins.attrValues symlinks)
      ];
    in
    if found == [ ] then { } else { packages = found; };

  perm = rule: rule // (if rule.path or null == null then { path = null; } else { path = path rule.path; });

  # An image directory or layer from a spec, with what scripts and modules ask of it.
  build =
    {
      name,
      kind,
      spec,
      # What of the spec names things that windlass has built, by their tags: where these are differs from one windlass to
      # the next.
      built ? { },
      # What nothing in the image depends on: what is known of things in the spec and need not be found out, and what is
      # allowed in it.
      known ? { },
      tag,
    }:
    let
      file = specFile "${kind}-${name}-spec" ({ inherit kind; } // spec // known);
      imageTag = if tag == null then tagOf ({ inherit kind; } // spec // built) else tag;
      imageName = fullName name;
      drv = derive {
        name = storeName "${kind}-${name}";
        closureOf = [ file ];
        action = {
          action = "build";
          specFile = "${file}";
          storeDir = builtins.storeDir;
          tag = if kind == "layer" || kind == "ollama" then null else imageTag;
        };
      };
    in
    drv
    // {
      inherit imageName imageTag;
      stackName = fileName imageName;
      imageKind = kind;
      imageRef = "${imageName}:${imageTag}";
      spec =
        spec
        // known
        // {
          tag = imageTag;
        };
      specFile = file;
      # What `nix-store --load-db` reads of the store paths in it: nix/database.nix.
      registration = derive {
        name = "${storeName name}-registration";
        closureOf = [ file ];
        action = {
          action = "registration";
          specFile = "${file}";
          storeDir = builtins.storeDir;
        };
      };
      # One file that is an OCI archive and a docker-archive at once; output `sum` has its SHA-256.
      archive = derive {
        name = "${storeName name}.tar";
        selfContained = true;
        outputs = [
          "out"
          "sum"
        ];
        action = {
          action = "export";
          from = "${drv}";
          format = "archive";
        };
      };
      # An OCI directory with all its blobs.
      layout = derive {
        name = "${storeName name}-oci";
        selfContained = true;
        action = {
          action = "export";
          from = "${drv}";
          format = "oci";
        };
      };
    };
}
