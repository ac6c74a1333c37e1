# The windlass package: the binary with its shell completions and man pages.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
}:
let
  cargo = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).package;
in
rustPlatform.buildRustPackage {
  pname = "windlass";
  inherit (cargo) version;

  # Only what the binary is made of: a change to a test or a document builds nothing again.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../src
      ../crates
      # What unit tests read.
      ../tests/fixtures/cosign
      ../tests/fixtures/sigstore
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [ installShellFiles ];

  # Not windlass-probe, which is linked otherwise: see probe.nix.
  cargoBuildFlags = [ "--bin=windlass" ];

  # The integration tests need Nix, Podman and root, which a sandbox has not; the unit tests run.
  cargoTestFlags = [ "--lib" ];

  # Made by the program itself, which a cross build cannot run.
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    installShellCompletion --cmd windlass \
      --bash <($out/bin/windlass completions bash) \
      --fish <($out/bin/windlass completions fish) \
      --zsh <($out/bin/windlass completions zsh)
    mkdir man
    $out/bin/windlass man man
    installManPage man/*
  '';

  meta = {
    description = "Nix store paths and model weights in, reproducible OCI images out, straight into Podman";
    license = with lib.licenses; [
      mit
      asl20
    ];
    maintainers = [ { name = "the maintainers of windlass"; } ];
    mainProgram = "windlass";
    platforms = lib.platforms.linux;
  }
  # Where Cargo.toml says that the project is.
  // lib.optionalAttrs (cargo ? repository) { homepage = cargo.repository; };
}
