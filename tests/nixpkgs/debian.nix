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
    { name, unpack, deps ? [ ], drop ? [ ] }:
    derivation {
      inherit name system unpack drop;
      builder = "/bin/bash";
      args = [ ./build.sh ];
      PATH = "/usr/bin:/bin";
      # glibc, which has no deps, stays as it is: the loader and libc do not survive patching.
      interpreter = if deps == [ ] then "" else "${packages.glibc}/lib/${loader.${system}}";
      libs = map (dep: "${packages.${dep}}/lib") deps;
    };

  fromDebs =
    name: { debs, deps ? [ ], drop ? [ ], links ? { } }:
    let
      inherit (part (builtins.head debs)) version;
      link = path: "ln -s ${links.${path}} ${path}\n";
    in
    build {
      inherit deps drop;
      name = "${name}-${version}";
      unpack = ''
        for deb in ${toString (map part debs)}; do dpkg-deb -x "$deb" .; done
        flatten
        ${toString (map link (builtins.attrNames links))}
      '';
    }
    // { pname = name; inherit version; };

  packages = builtins.mapAttrs fromDebs (import ./packages.nix) // {
    xllamacpp =
      let
        wheel = part "xllamacpp";
      in
      build {
        name = "xllamacpp-${wheel.version}";
        deps = [ "glibc" "gcc-libs" ];
        unpack = "${packages.python3}/bin/python3 -IB -m zipfile -e ${wheel} lib/python3.11/site-packages";
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
            -e 's|@site@|${packages.xllamacpp}/lib/python3.11/site-packages|' ${./llama-server.py} >bin/llama-server
          chmod +x bin/llama-server
        '';
      }
      // {
        pname = "llama-cpp";
        inherit version;
        meta.mainProgram = "llama-server";
      };
  };
in
packages
