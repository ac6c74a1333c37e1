# Debian's packages as store paths, Nix style: each finds its interpreter and its libraries in other store paths, so
# that it runs where there is no /lib and no /usr, and Nix sees the references.
{ part, system }:
let
  loader = {
    x86_64-linux = "ld-linux-x86-64.so.2";
    aarch64-linux = "ld-linux-aarch64.so.1";
  };

  # Runs `unpack` in the new store path, then moves it over to the Nix store's way of linking.
  build =
    { name, unpack, deps ? [ ], drop ? [ ], install ? "" }:
    derivation {
      inherit name system unpack drop install;
      builder = "/bin/bash";
      args = [ ./build.sh ];
      PATH = "/usr/bin:/bin";
      # glibc, which has no deps, stays as it is: the loader and libc do not survive patching.
      interpreter = if deps == [ ] then "" else "${packages.glibc}/lib/${loader.${system}}";
      libs = map (dep: "${packages.${dep}}/lib") deps;
    };

  fromDebs =
    name: { debs, deps ? [ ], drop ? [ ], install ? "" }:
    let
      inherit (part (builtins.head debs)) version;
    in
    build {
      inherit deps drop install;
      name = "${name}-${version}";
      unpack = ''
        for deb in ${toString (map part debs)}; do dpkg-deb -x "$deb" .; done
        flatten
      '';
    }
    // {
      pname = name;
      inherit version;
      buildInputs = map (dep: packages.${dep}) deps;
      srcs = map part debs;
      meta = { available = true; } // builtins.removeAttrs (meta.${name} or { }) [ "cpe" ] // identifiers version (meta.${name}.cpe or null);
    };

  meta = import ./meta.nix;
  # As nixpkgs makes it of `meta.identifiers.cpeParts`.
  identifiers =
    version: cpe:
    if cpe == null then
      { }
    else
      { identifiers.cpe = "cpe:2.3:a:${cpe.vendor}:${cpe.product}:${version}:*:*:*:*:*:*:*"; };

  # What Debian has not: it can be looked at, as anything in nixpkgs can, and says why it cannot be built.
  missing =
    pname:
    derivation {
      inherit system;
      name = "${pname}-0";
      builder = "/bin/sh";
      args = [ "-c" "echo '${pname} is not in Debian, and so not in this stand-in for nixpkgs' >&2; exit 1" ];
    }
    // { inherit pname; version = "0"; meta = { available = false; mainProgram = pname; }; };

  debs = builtins.mapAttrs fromDebs (import ./packages.nix);

  # PostgreSQL with extensions beside it, each a store path of its own. A program finds its extensions from the place
  # where its file really is, so the programs that start the server are copies.
  postgresqlWith =
    extensions:
    build {
      name = "postgresql-and-plugins-${debs.postgresql_17.version}";
      unpack = ''
        for package in ${toString ([ debs.postgresql_17 ] ++ extensions)}; do
          cp -rs "$package/." . && chmod -R u+w .
        done
        for program in postgres pg_ctl initdb; do
          cp --remove-destination {${debs.postgresql_17},.}/lib/postgresql/17/bin/$program
        done
        for program in lib/postgresql/17/bin/*; do ln -sf ../$program bin/; done
      '';
    }
    // {
      inherit (debs.postgresql_17) version meta;
      paths = [ debs.postgresql_17 ] ++ extensions;
      pname = "postgresql-and-plugins";
      psqlSchema = "17";
    };

  packages = builtins.removeAttrs debs [ "pgvector" ] // {
    postgresql_17 =
      let
        pkgs.pgvector = debs.pgvector;
      in
      debs.postgresql_17
      // {
        inherit pkgs;
        psqlSchema = "17";
        withPackages = extensions: postgresqlWith (extensions pkgs);
      };

    qdrant = missing "qdrant";
    ollama = missing "ollama";
    cacert = missing "cacert";

    xllamacpp =
      let
        wheel = part "xllamacpp";
      in
      build {
        name = "xllamacpp-${wheel.version}";
        deps = [ "glibc" "gcc-libs" ];
        unpack = "${packages.python3}/bin/python3 -IB -m zipfile -e ${wheel} lib/python3.13/site-packages";
      };

    llama-cpp =
      let
        inherit (part "xllamacpp") version;
      in
      build {
        name = "llama-cpp-${version}";
        unpack = ''
          mkdir bin
          sed -e 's|@python@|${packages.python3}/bin/python3|' \
            -e 's|@site@|${packages.xllamacpp}/lib/python3.13/site-packages|' ${./llama-server.py} >bin/llama-server
          chmod +x bin/llama-server
        '';
      }
      // {
        pname = "llama-cpp";
        inherit version;
        meta = { available = true; mainProgram = "llama-server"; };
      };
  };
in
packages
