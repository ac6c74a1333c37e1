# What `./dev` needs: the compiler, and the tools that the tests talk to.
{
  mkShell,
  cargo,
  rustc,
  clippy,
  rustfmt,
  cargo-nextest,
  nixfmt,
  shellcheck,
  skopeo,
  jq,
  openssl,
}:
mkShell {
  packages = [
    cargo
    rustc
    clippy
    rustfmt
    cargo-nextest
    nixfmt
    shellcheck
    skopeo
    jq
    openssl
  ];
}
