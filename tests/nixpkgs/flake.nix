# A stand-in for nixpkgs, for machines that cannot reach it: the few packages that the example stack needs, made from
# Debian's packages, a wheel and a model file. `./dev setup` copies this folder, with a parts.json, to target/nixpkgs.
{
  description = "stand-in for nixpkgs, made of Debian's packages";

  outputs =
    { self }:
    let
      lib = import ./lib;
      # As pkgs/stdenv/generic/make-derivation.nix of nixpkgs 26.05 has them; what it refuses is refused here.
      hardeningFlags = [
        "bindnow"
        "format"
        "fortify"
        "fortify3"
        "glibcxxassertions"
        "libcxxhardeningextensive"
        "libcxxhardeningfast"
        "nostrictaliasing"
        "pacret"
        "pic"
        "relro"
        "shadowstack"
        "stackclashprotection"
        "stackprotector"
        "strictflexarrays1"
        "strictflexarrays3"
        "strictoverflow"
        "trivialautovarinit"
        "zerocallusedregs"
      ];
      accepted =
        args:
        let
          flags = args.hardeningDisable or [ ] ++ args.hardeningEnable or [ ];
          unsupported = builtins.filter (flag: !(builtins.elem flag (hardeningFlags ++ [ "all" ]))) flags;
        in
        if unsupported == [ ] then
          args
        else
          throw "mkDerivation was called with unsupported hardening flags: ${toString unsupported}";
      packagesFor =
        system:
        let
          part = import ./parts.nix { inherit system; };
          debian = import ./debian.nix { inherit part system; };
          # Programs for people and for builds, which are looked at and not run: those of this machine are.
          tools = lib.genAttrs [ "attr" "cargo" "cargo-nextest" "clippy" "fakeroot" "jq" "nix" "nixfmt" "nixfmt-tree" "openssl" "rustfmt" "shellcheck" "skopeo" "sqlite" ] part;
          pkgs = tools // debian // {
            inherit lib system;
            installShellFiles = null;
            mkShell =
              _:
              derivation {
                inherit system;
                name = "nix-shell";
                builder = "/bin/sh";
                args = [ "-c" "echo >$out" ];
              };
            buildPackages = pkgs;
            # nixpkgs' small builders, with the shell of this machine.
            runCommand =
              name: env: script:
              derivation (
                # What it runs is on the PATH of this machine.
                builtins.removeAttrs env [
                  "meta"
                  "nativeBuildInputs"
                  "passthru"
                ]
                // {
                  inherit name system;
                  builder = "/bin/sh";
                  PATH = "/usr/bin:/bin";
                  args = [ "-ec" script ];
                }
              );
            writeShellScriptBin =
              name: text:
              derivation {
                inherit name system;
                text = "#!/bin/sh\n${text}";
                builder = "/bin/sh";
                PATH = "/usr/bin:/bin";
                args = [ "-c" "mkdir -p $out/bin && printf %s \"$text\" >$out/bin/$name && chmod 555 $out/bin/$name" ];
              }
              // {
                meta.mainProgram = name;
              };
            stdenv = rec {
              shell = "/bin/bash";
              hostPlatform = {
                inherit system;
                libc = "glibc";
                rust.rustcTarget = system;
              };
              buildPlatform = hostPlatform // {
                canExecute = _: true;
              };
              cc.targetPrefix = "";
              mkDerivation = args: part args.pname // { inherit (accepted args) pname version meta; };
            };
            callPackage =
              file: args:
              let
                function = if builtins.isPath file then import file else file;
              in
              function (builtins.intersectAttrs (builtins.functionArgs function) pkgs // args);

            # The GGUF file itself, as huggingface would serve it: a flat store path.
            windlassModels.smollm2 = part "smollm2";

            # Cargo's own build, put in the store by the set-up: whatever it is asked to build. The same of what is built by
            # hand: windlass-probe.
            rustc = null;
            nukeReferences = null;
            rustPlatform.buildRustPackage =
              args:
              let
                attrs = accepted (if builtins.isFunction args then args attrs else args);
              in
              part "windlass"
              // {
                inherit (attrs) pname version src;
                meta = {
                  mainProgram = attrs.pname;
                }
                // attrs.meta or { };
              };
          };
        in
        pkgs;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] packagesFor;
    };
}
