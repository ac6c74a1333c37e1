"""Podman's own records of an image that it pulled itself, beside those that windlass wrote for the same image: field by field."""

import base64
import gzip
import json
import os

# When and under which names it came there, and what is made when a layer is mounted.
OWN = ("created", "names", "names-history")
MOUNTED = ("merged", "work", "empty")
# Written by containers-storage 1.64 and newer, beside `lower`; older ones read `lower` alone.
NEWER = "lower-layers"


def records(store, identifier):
    """What an image store says of an image and its layers, without times and names: `{where: value}`."""
    found = {}
    with open(f"{store}/overlay-images/images.json", encoding="utf-8") as file:
        image = next(image for image in json.load(file) if image["id"] == identifier)
    # Podman 4.3 notes that an image has no signature; later ones note nothing, as windlass does.
    unsigned = [name for name in image["big-data-names"] if name.startswith("signature-") and image["big-data-sizes"][name] == 0]
    if unsigned and json.loads(image["metadata"]) == {"signatures-sizes": {image["digest"]: []}}:
        image["metadata"] = "{}"
    image["big-data-names"] = sorted(set(image["big-data-names"]) - set(unsigned))
    for name in unsigned:
        del image["big-data-sizes"][name], image["big-data-digests"][name]
    found.update({f"image: {key}": value for key, value in image.items() if key not in OWN})
    folder = f"{store}/overlay-images/{identifier}"
    for name in os.listdir(folder):
        key = base64.b64decode(name[1:]).decode() if name.startswith("=") else name
        if key not in unsigned:
            with open(f"{folder}/{name}", "rb") as file:
                found[f"image: file {key}"] = file.read()
    with open(f"{store}/overlay-layers/layers.json", encoding="utf-8") as file:
        layers = {layer["id"]: layer for layer in json.load(file)}
    layer = layers[image["layer"]]
    while layer:
        where = f"layer {layer['id'][:12]}"
        found.update({f"{where}: {key}": value for key, value in layer.items() if key not in OWN})
        with gzip.open(f"{store}/overlay-layers/{layer['id']}.tar-split.gz") as file:
            found[f"{where}: tar-split"] = pieces(file)
        found.update(folder_of(store, layer["id"], where))
        layer = layers.get(layer.get("parent"))
    return found


def pieces(file):
    """What an archive is put together from: bytes, and files with their checksums. How bytes are cut into entries is each writer's own."""
    found = []
    for entry in map(json.loads, file):
        if entry["type"] == 2:
            if not found or not isinstance(found[-1], bytes):
                found.append(b"")
            found[-1] += base64.b64decode(entry["payload"])
        elif entry.get("size"):
            # Without content a file is only its header, which is in the bytes.
            found.append((entry["name"], entry["size"], entry["payload"]))
    return found


def folder_of(store, identifier, where):
    """What overlay's folder of a layer has; short links are resolved, as each store draws its own."""
    folder = f"{store}/overlay/{identifier}"
    found = {f"{where}: entries": sorted(name for name in os.listdir(folder) if name not in (*MOUNTED, NEWER))}
    for name in ("lower", NEWER):
        if os.path.exists(f"{folder}/{name}"):
            with open(f"{folder}/{name}", encoding="utf-8") as file:
                below = file.read().split(":")
            if name == "lower":
                below = [os.path.realpath(f"{store}/overlay/{link}").split("/")[-2] for link in below]
            found[f"{where}: {name}"] = below
    with open(f"{folder}/link", encoding="utf-8") as file:
        leads = os.path.realpath(f"{store}/overlay/l/{file.read()}")
    found[f"{where}: link leads to"] = os.path.relpath(leads, f"{store}/overlay")
    for folder, folders, files in sorted(os.walk(f"{store}/overlay/{identifier}/diff")):
        for name in [".", *folders, *files]:
            status = os.lstat(os.path.join(folder, name))
            place = os.path.relpath(os.path.join(folder, name), f"{store}/overlay/{identifier}")
            # The folder itself is in no archive, and has no time of its own.
            written = None if place == "diff" else int(status.st_mtime)
            found[f"{where}: {place}"] = (oct(status.st_mode), status.st_uid, status.st_gid, written)
    return found


def differences(theirs, ours, identifier):
    """Lines of what differs, nothing where the stores say the same."""
    podman, linked = records(theirs, identifier), records(ours, identifier)
    missing = object()
    lines = []
    for key in sorted(podman.keys() | linked.keys()):
        one, other = podman.get(key, missing), linked.get(key, missing)
        if key.endswith(f": {NEWER}") and one is missing:
            continue
        if one != other:
            shown = ["nothing" if value is missing else str(value)[:300] for value in (one, other)]
            lines.append(f"{key}: Podman has {shown[0]}; windlass has {shown[1]}")
    return lines
