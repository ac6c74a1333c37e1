# A health command as the value of `podman run --health-cmd`: program and arguments, without a shell.
#
# Type: [ string ] -> string
#
# Podman (4.3 to 5.4) takes a JSON array of two or more words for that. An array of one word it hands to a shell, so that
# one is written in the form of a Dockerfile.
command:
if builtins.length command == 1 then "CMD ${builtins.head command}" else builtins.toJSON command
