# A machine's "system" for a Debian, as NixOS has one: units, files of /etc, tmpfiles rules and activation of the modules, as
# one store path.
#
# variant: a name of variants.nix
# podmanVersion: what the modules take Podman for; from 6 on they write for its new rules of storage.conf
#
# What the modules evaluate to is not changed; only programs that nixpkgs would build are Debian's own, under the names of
# nixpkgs' packages. `./dev machine` puts the stand-in for nixpkgs in target/nixpkgs first.
{
  variant,
  podmanVersion ? "5.4",
}:
let
  root = ../..;
  system = "x86_64-linux";
  stub = (builtins.getFlake "path:${toString root}/target/nixpkgs").legacyPackages.${system};
  lib = import (root + "/tests/nixpkgs/lib");

  make =
    pname: script:
    derivation {
      inherit pname system script;
      name = "${pname}-debian";
      version = "0";
      builder = "/bin/sh";
      PATH = "/usr/bin:/bin";
      args = [
        "-ec"
        ". $scriptPath"
      ];
      passAsFile = [ "script" ];
    }
    // {
      inherit pname;
      version = "0";
      meta.mainProgram = pname;
    };
  # Programs of Debian, below `bin`.
  debian =
    pname: programs: make pname "mkdir -p $out/bin; ln -s ${toString programs} $out/bin/";
  inUsrBin = pname: names: debian pname (map (name: "/usr/bin/${name}") names);
  programs = {
    # As nixpkgs' own wrapper, so that what Podman calls is found whatever PATH a unit has.
    podman = let it = make "podman" ''
      mkdir -p $out/bin
      printf '#!/bin/sh\nPATH=$PATH:/usr/bin:/usr/sbin exec /usr/bin/podman "$@"\n' >$out/bin/podman
      chmod 555 $out/bin/podman
    '' // { version = podmanVersion; override = _: it; }; in it;
    skopeo = inUsrBin "skopeo" [ "skopeo" ];
    bash = inUsrBin "bash" [ "bash" ];
    coreutils = inUsrBin "coreutils" (
      lib.splitString " " "basename cat chmod chown cp date dirname env false head id install ln ls mkdir mv readlink rm sleep sort tail test true"
    );
    findutils = inUsrBin "findutils" [ "find" "xargs" ];
    gnugrep = inUsrBin "gnugrep" [ "grep" ];
    gnused = inUsrBin "gnused" [ "sed" ];
    systemd = inUsrBin "systemd" [ "systemctl" "systemd-run" ];
    catatonit = inUsrBin "catatonit" [ "catatonit" ];
    netavark = debian "netavark" [ "/usr/lib/podman/netavark" ];
    aardvark-dns = debian "aardvark-dns" [ "/usr/lib/podman/aardvark-dns" ];
    shadow = inUsrBin "shadow" [ "newuidmap" "newgidmap" ];
    nix = inUsrBin "nix" [ "nix" "nix-store" "nix-env" "nix-instantiate" "nix-build" ];
  };
  pkgs = stub // programs;

  evaluate = import (root + "/tests/modules") { inherit lib pkgs; };
  inherit (import ./variants.nix { inherit lib stub; }) nixos home;
  modules = root + "/nix/modules";
  isHome = home ? ${variant};
  machine =
    if isHome then
      evaluate.home ([ (modules + "/home.nix") (modules + "/ai-stack.nix") ] ++ home.${variant})
    else
      evaluate.nixos ([ (modules + "/windlass.nix") (modules + "/ai-stack.nix") ] ++ nixos.${variant});
  inherit (machine) config;
  # The part of this project which the stand-ins' own evaluation writes to the store.
  write = evaluate.pkgs.writeText;
  each = function: set: lib.concatStrings (lib.mapAttrsToList function set);

  units =
    folder:
    each (
      name: unit:
      let
        file = write (builtins.replaceStrings [ "@" ] [ "_" ] "unit-${name}") unit.text;
        at = "$out/${folder}";
        wants = kind: target: "mkdir -p ${at}/${target}.${kind}; ln -s ../${name} ${at}/${target}.${kind}/${name}\n";
      in
      lib.optionalString (unit.enable or true) (
        (
          if unit.overrideStrategy or "" == "asDropin" then
            "mkdir -p ${at}/${name}.d; cp ${file} ${at}/${name}.d/overrides.conf\n"
          else
            "mkdir -p ${at}; cp ${file} ${at}/${name}\n"
        )
        + lib.concatMapStrings (wants "wants") (unit.wantedBy or [ ])
        + lib.concatMapStrings (wants "requires") (unit.requiredBy or [ ])
      )
    );
  # Podman's own, which Debian has too.
  ours = lib.filterAttrs (name: _: !lib.hasPrefix "podman-prune" name);
  ofNixos = ''
    ${units "units" (ours config.systemd.units)}
    ${units "user-units" config.systemd.user.units}
    ${each (_: file: lib.optionalString file.enable "mkdir -p $(dirname $out/etc/${file.target}); ln -s ${file.source} $out/etc/${file.target}\n") config.environment.etc}
    ${each (name: text: "mkdir -p $out/tmpfiles; cp ${write "tmpfiles-${name}" text} $out/tmpfiles/windlass-${name}\n") machine.tmpfiles}
    ${each (name: path: "mkdir -p $out/units; ln -s ${path} $out/units/$(basename ${name})\n") machine.unitLinks}
    cp ${write "activate" (lib.concatMapStrings (step: if step.name == "etc" then "" else "# ${step.name}\n${step.text}\n") machine.activation)} $out/activate
  '';
  # What home-manager would link below the home.
  ofHome = each (
    name: file: "mkdir -p $(dirname $out/home/${name}); ln -s ${file.source} $out/home/${name}\n"
  ) (lib.filterAttrs (_: file: file.enable or true) config.home.file);
in
if machine.assertions != [ ] then
  throw (lib.concatStringsSep "\n" machine.assertions)
else
  make "system-${variant}" ''
    mkdir -p $out/sw
    ${if isHome then ofHome else ofNixos}
    ln -s ${config.virtualisation.windlass.package}/bin $out/sw/bin
  ''
