#!/bin/sh
# A model as an image of its own, from a file: model.sh FILE.gguf. Run it in an empty folder.
#
# A container gets it as a volume, `--mount type=image,source=localhost/NAME:TAG,destination=/weights`; it is stored once, however
# many containers read it.
set -eu
file=$(realpath "$1")
cat > model.json <<END
{
  "kind": "model",
  "name": "words",
  "files": { "words.gguf": "$file" }
}
END
windlass model inspect "$file"
windlass build model.json
windlass export model --output model.tar
podman load --input model.tar
