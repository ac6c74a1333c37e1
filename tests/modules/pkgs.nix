# Packages for evaluating modules: those there are, stand-ins for others that modules name, and nixpkgs' small builders.
#
# What the builders write is their attribute `text` too, so that a test can read it without a build.
{ lib, pkgs }:
let
  inherit (pkgs) system;

  # A package that is named and never built.
  stand-in =
    pname:
    derivation {
      inherit pname system;
      name = "${pname}-0";
      version = "0";
      builder = "/bin/sh";
      args = [
        "-c"
        "echo ${pname} is a stand-in >&2; exit 1"
      ];
    }
    // {
      inherit pname;
      version = "0";
      meta.mainProgram = pname;
    };
  names = [
    "aardvark-dns"
    "bash"
    "catatonit"
    "coreutils"
    "findutils"
    "gnugrep"
    "gnused"
    "llama-cpp-vulkan"
    "mesa"
    "netavark"
    "nix"
    "ollama"
    "ollama-cuda"
    "ollama-rocm"
    "ollama-vulkan"
    "podman"
    "postgresql"
    "qdrant"
    "shadow"
    "skopeo"
    "systemd"
  ];

  write =
    {
      name,
      text,
      destination ? "",
      executable ? false,
      meta ? { },
      ...
    }:
    derivation {
      inherit name system text destination;
      mode = if executable then "555" else "444";
      builder = "/bin/sh";
      PATH = "/usr/bin:/bin";
      args = [
        "-c"
        ''mkdir -p "$(dirname "$out$destination")" && printf %s "$text" >"$out$destination" && chmod "$mode" "$out$destination"''
      ];
    }
    // {
      inherit text meta;
    };
  shell = "#!${all.runtimeShell}\n";
  program =
    name: text:
    write {
      inherit name text;
      executable = true;
      destination = "/bin/${name}";
      meta.mainProgram = name;
    };

  # TOML as storage.conf and its kin have it: tables, and values without dates.
  toTOML =
    path: set:
    let
      kept = lib.filterAttrs (_: value: value != null) set;
      isTable = value: builtins.isAttrs value && !lib.isDerivation value;
      key = name: if builtins.match "[A-Za-z0-9_-]+" name != null then name else builtins.toJSON name;
      value =
        value:
        if builtins.isList value then
          "[${lib.concatMapStringsSep ", " toValue value}]"
        else if builtins.isPath value || lib.isDerivation value then
          builtins.toJSON "${value}"
        else
          builtins.toJSON value;
      toValue = value;
      scalars = lib.filterAttrs (_: value: !isTable value) kept;
      header = lib.optionalString (path != [ ] && (scalars != { } || kept == { })) "[${lib.concatMapStringsSep "." key path}]\n";
    in
    header
    + lib.concatStrings (lib.mapAttrsToList (name: inner: "${key name} = ${value inner}\n") scalars)
    + lib.concatStrings (lib.mapAttrsToList (name: toTOML (path ++ [ name ])) (lib.filterAttrs (_: isTable) kept));

  all =
    lib.genAttrs names stand-in
    # What the stand-in for nixpkgs takes from this machine is not a package.
    // removeAttrs pkgs (builtins.filter (name: pkgs.${name} or null == null) names)
    // {
      podman =
        let
          # As nixpkgs' functions leave it: what was put beside it by hand (`//`) is gone after `override`, what overrideAttrs
          # changed is not.
          of =
            changed:
            stand-in "podman"
            // changed
            // {
              override = _: of changed;
              overrideAttrs = change: of (changed // change changed);
            };
        in
        if pkgs.podman.override or null == null then of { } else pkgs.podman;
      llama-cpp = pkgs.llama-cpp // {
        override = support: stand-in "llama-cpp-with-${toString (builtins.attrNames support)}";
      };
      inherit lib;
      buildPackages = all;
      runtimeShell = "${all.bash}/bin/bash";
      writeTextFile = write;
      writeText = name: text: write { inherit name text; };
      writeTextDir =
        path: text:
        write {
          name = baseNameOf path;
          inherit text;
          destination = "/${path}";
        };
      writeScript = name: text: write { inherit name text; executable = true; };
      writeShellScript = name: text: write { inherit name; text = shell + text; executable = true; };
      linkFarm =
        name: entries:
        derivation {
          inherit name system;
          builder = "/bin/sh";
          PATH = "/usr/bin:/bin";
          args = [
            "-c"
            (lib.concatMapStrings (
              link: "mkdir -p $out/${dirOf link.name} && ln -s ${link.path} $out/${link.name}\n"
            ) entries)
          ];
        }
        // {
          inherit entries;
        };
      writeShellScriptBin = name: text: program name "${shell}${text}\n";
      writeShellApplication =
        {
          name,
          text,
          runtimeInputs ? [ ],
          ...
        }:
        program name ''
          ${shell}set -o errexit
          set -o nounset
          set -o pipefail

          ${lib.optionalString (runtimeInputs != [ ]) "export PATH=\"${lib.makeBinPath runtimeInputs}:$PATH\"\n"}
          ${text}
        '';
      formats = {
        json = _: {
          type = valueType "JSON value";
          generate = name: value: write { inherit name; text = builtins.toJSON value; };
        };
        toml = _: {
          type = valueType "TOML value";
          generate = name: value: write { inherit name; text = toTOML [ ] value; };
        };
      };
    };

  valueType =
    description:
    let
      type =
        with lib.types;
        nullOr (oneOf [
          bool
          int
          float
          str
          path
          (attrsOf type)
          (listOf type)
        ])
        // {
          inherit description;
        };
    in
    type;
in
all
