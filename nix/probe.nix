# windlass-probe, the health check that every image of the AI stack has: one static file that refers to nothing.
#
# Linked with the static glibc of the caller's own nixpkgs: pkgsStatic would build a Rust compiler first. What glibc
# would read of its store path at run time is for locales and look-ups of names, which the probe has none of; the
# reference is taken out, and `allowedReferences` says that there is no other.
{
  lib,
  stdenv,
  rustc,
  glibc,
  nukeReferences,
}:
stdenv.mkDerivation {
  pname = "windlass-probe";
  # Not windlass' own: a release that leaves its source alone would change every image, and restart every container.
  version = "1";
  src = ../src/bin/windlass-probe;
  dontUnpack = true;

  strictDeps = true;
  nativeBuildInputs = [
    rustc
    nukeReferences
  ];
  buildInputs = lib.optional (stdenv.hostPlatform.libc == "glibc") glibc.static;

  # Static and at a fixed address by what probe.args says. nixpkgs 26.05 knows no hardening flag `pie`, and refuses one that it
  # does not know.

  buildPhase = ''
    runHook preBuild
    rustc @${./probe.args} --target ${stdenv.hostPlatform.rust.rustcTarget} \
      -C linker=${stdenv.cc.targetPrefix}cc -o windlass-probe "$src/main.rs"
    runHook postBuild
  '';
  installPhase = ''
    runHook preInstall
    install -D -m 555 windlass-probe "$out/bin/windlass-probe"
    nuke-refs "$out/bin/windlass-probe"
    runHook postInstall
  '';
  allowedReferences = [ ];

  doInstallCheck = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
  installCheckPhase = ''
    "$out/bin/windlass-probe" exec --contains Usage -- "$out/bin/windlass-probe" --help
  '';

  meta = {
    description = "Health check for images without a shell: http, tcp and exec";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "windlass-probe";
    platforms = lib.platforms.linux;
  };
}
