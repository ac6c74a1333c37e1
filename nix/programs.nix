# Programs about an image or a stack, as attributes of it: `nix run .#image.load`.
#
# Type: { pkgs, windlass } -> Derivation -> Derivation with
#   load                load it into Podman
#   push                push it to a registry: nix run .#image.push -- docker://registry.example/team/redis:1
#   copyToPodman        the same as load, and
#   copyToRegistry      the same as push, by nix2container's names
#   copyToDockerDaemon  load it into Docker, from its archive
#   stream              write that archive to standard output, and nothing to the store: `… | podman load`, `… | docker load`
#   tests.verify        a derivation that fails unless every byte of it is as it should be
{ pkgs, windlass }:
made:
let
  # For a stack without its archives.
  source = "${made.lean or made}";
  program =
    verb: text:
    pkgs.writeShellScriptBin "${verb}-${made.name}" ''
      exec ${text} "$@"
    '';
  load = program "load" "${windlass}/bin/windlass load ${source}";
  push = program "push" "${windlass}/bin/windlass push ${source}";
in
made
// {
  inherit load push;
  copyToPodman = load;
  copyToRegistry = push;
  tests = made.tests or { } // {
    verify = pkgs.runCommand "verify-${made.name}" { } ''
      ${windlass}/bin/windlass verify --full ${source} >"$out"
    '';
  };
}
// (
  if made ? archive then
    {
      copyToDockerDaemon = program "docker-load" "docker load --input ${made.archive}";
      stream = program "stream" "${windlass}/bin/windlass export ${source} --output -";
    }
  else
    { }
)
