#!/bin/sh
# An image of plain files, on a machine without Nix: a static program and a text. Run it in an empty folder.
set -eu
mkdir root
cp "$(command -v busybox)" root/
# Inputs are named by absolute paths: a spec means the same wherever it is read.
cat > hello.json <<END
{
  "kind": "image",
  "name": "hello",
  "content": {
    "copyToRoot": ["$PWD/root"],
    "texts": { "/etc/motd": "no Nix was needed\n" }
  },
  "config": { "Cmd": ["/busybox", "cat", "/etc/motd"] }
}
END
windlass build hello.json
windlass load hello
podman run --rm --pull=never "$(jq -r .ref hello/image.json)"
