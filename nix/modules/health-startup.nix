# The health check of a container that has not been healthy yet.
#
# Type: health -> { command, interval, timeout }, command as the value of `--health-startup-cmd`
#
# With a usual check only, a container is healthy at the end of the first `interval` after it serves, and every check before
# that is a failed unit: the system is `degraded` and `nixos-rebuild switch` fails
# (https://github.com/NixOS/nixpkgs/issues/558533; Podman 5.8 no longer does so). The probe waits inside of the container until
# that is healthy. Another command is run every second.
health:
let
  inherit (builtins) head tail;
  isProbe = builtins.match ".*/windlass-probe" (head health.command) != null && tail health.command != [ ];
  toValue = import ./health-cmd.nix;
in
if isProbe then
  {
    command = toValue (
      [
        (head health.command)
        (head (tail health.command))
        "--wait=15m"
      ]
      ++ tail (tail health.command)
    );
    interval = "1s";
    # Longer than the probe waits.
    timeout = "16m";
  }
else
  {
    command = toValue health.command;
    interval = "1s";
    inherit (health) timeout;
  }
