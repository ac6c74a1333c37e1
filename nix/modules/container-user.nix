# The user that a container runs as, `UID[:GID]`: its own, or that of its image.
#
# Type: { lib, cfg } -> container -> string
#
# cfg: `config.virtualisation.windlass`
#
# Root where neither says anything; the images of an index all run as the first of them does.
{ lib, cfg }:
let
  images = lib.listToAttrs (
    map (image: lib.nameValuePair image.ref image.image) (builtins.attrValues cfg.images)
  );
in
container:
let
  image = images.${container.image} or { };
  config = image.spec.config or (builtins.head (image.images or [ { } ])).spec.config or { };
  user = if container.user != null then container.user else config.User or "";
in
if user == "" then "0" else user
