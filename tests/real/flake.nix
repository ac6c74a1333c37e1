# Packages on a real stdenv as the input `nixpkgs`. CORE_PKGS names their source; so it is evaluated with --impure.
{
  outputs =
    _:
    let
      packagesFor =
        system:
        import ./core.nix {
          core = builtins.getEnv "CORE_PKGS";
          inherit system;
        };
    in
    {
      inherit (packagesFor "x86_64-linux") lib;
      legacyPackages = builtins.listToAttrs (
        map
          (system: {
            name = system;
            value = packagesFor system;
          })
          [
            "x86_64-linux"
            "aarch64-linux"
          ]
      );
    };
}
