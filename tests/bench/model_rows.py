"""A new app above a model, and another model below an app: beside `podman build` with COPY, and beside an image of one
tar as `dockerTools.buildImage` makes it (uncompressed: weights do not gain by it). Needs root."""

import json
import os
import shlex
import subprocess

from common import MIB, MODEL, STORE, WINDLASS, WORK, in_child, noise, prepare, row, run, say, vouch
from load_rows import SYNC, forget, settings

OTHER = WORK / "other.bin"
CONTEXT = WORK / "context"
# What every app has beside the model.
APP = 1 << 20
# As Nix has them: each in a store path of its own.
STORED = {MODEL: STORE / f"{'0' * 31}1-model.gguf", OTHER: STORE / f"{'0' * 31}2-model.gguf"}
ONE_TAR = f"""
cd tar
rm -rf layer.tar image.tar
tar --create --sort=name --mtime=@1 --owner=0 --group=0 --file=layer.tar --directory={shlex.quote(str(CONTEXT))} app model.gguf
sum=$(sha256sum layer.tar | cut -d' ' -f1)
printf '{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:%s"]}}}}' $sum >config.json
echo '[{{"Config":"config.json","RepoTags":["localhost/tar:1"],"Layers":["layer.tar"]}}]' >manifest.json
tar --create --file=image.tar manifest.json config.json layer.tar
rm layer.tar
podman load --quiet --input image.tar >/dev/null
{SYNC}
"""
COPIED = f"""
podman build --quiet --file app.Containerfile --tag localhost/app:1 context >/dev/null
podman build --quiet --file model.Containerfile --tag localhost/baked:1 context >/dev/null
{SYNC}
"""


def peers_have(app, model):
    """The app and the model that an image is made of by hand."""
    CONTEXT.mkdir(exist_ok=True)
    in_child(lambda: noise(CONTEXT / "app", APP, app))
    (CONTEXT / "model.gguf").unlink(missing_ok=True)
    os.link(model, CONTEXT / "model.gguf")


def specs(app):
    for name, model in ("weights", MODEL), ("others", OTHER):
        spec = {"kind": "model", "name": name, "files": {"model.gguf": str(STORED[model])}, "storeDir": str(STORE)}
        (WORK / f"{name}.json").write_text(json.dumps(spec))
    for name in "weights", "others":
        spec = {"kind": "image", "name": f"with-{name}", "storeDir": str(STORE), "models": [{"built": str(WORK / f"{name}.image")}],
                "content": {"files": {"/app": str(WORK / app)}}}
        (WORK / f"with-{name}.json").write_text(json.dumps(spec))


def ours(model):
    program = shlex.quote(str(WINDLASS))
    build = f"{program} build {model}.json --output {model}.image >/dev/null\n" if model == "others" else ""
    return (f"rm -rf with.image\n{build}{program} build with-{model}.json --output with.image >/dev/null\n"
            f"{program} load with.image >/dev/null")


def before(model):
    """What there is before: the first app above the first model, loaded."""
    settings(True)
    specs("app1")
    prepare("build", "weights.json", "--output", "weights.image")
    prepare("build", "with-weights.json", "--output", "with.image")
    prepare("load", "with.image")
    specs("app2" if model == "weights" else "app1")


def peers_before(command, app, model):
    settings(False)
    peers_have("app 1", MODEL)
    subprocess.run(["sh", "-ec", command], check=True, cwd=WORK, stdout=subprocess.DEVNULL)
    peers_have(app, model)


def bytes_of(name, one):
    return f"{name} read {one.read:,} and wrote {one.written:,}"


def rows(notes):
    (WORK / "tar").mkdir()
    (WORK / "app.Containerfile").write_text("FROM scratch\nCOPY app /app\n")
    (WORK / "model.Containerfile").write_text("FROM localhost/app:1\nCOPY model.gguf /models/model.gguf\n")
    in_child(lambda: noise(OTHER, MIB << 20, "other model"))
    for n in 1, 2:
        in_child(lambda: noise(WORK / f"app{n}", APP, f"app {n}"))
        vouch(WORK / f"app{n}")
    vouch(OTHER)
    for file, stored in STORED.items():
        os.link(file, stored)
    os.environ |= {"NIX_STORE_DIR": str(STORE), "NIX_STATE_DIR": str(WORK / "nix-state")}
    (WORK / "nix-state/gcroots/auto").mkdir(parents=True, exist_ok=True)
    try:
        for what, ours_is, app, model in (
            ("app changed, model as before", "weights", "app 2", MODEL), ("other model, app as before", "others", "app 1", OTHER),
        ):
            mine = run(ours(ours_is), lambda: before(ours_is))
            copied = run(COPIED, lambda: peers_before(COPIED, app, model))
            tar = run(ONE_TAR, lambda: peers_before(ONE_TAR, app, model))
            say(f"{what}: {mine.wall:.2f} s, podman build {copied.wall:.2f} s, one tar {tar.wall:.2f} s")
            row(f"{what}: build and load", [mine], [copied], "`podman build` with `COPY`, `sync`, once")
            row(f"{what}: build and load", [mine], [tar], "an image of one tar, `podman load`, `sync`, once")
            counts = [bytes_of(*pair) for pair in (("windlass", mine), ("`podman build`", copied), ("one tar", tar))]
            notes.append(f"{what[0].upper()}{what[1:]}: {'; '.join(counts)} bytes.")
    finally:
        forget()
        for stored in STORED.values():
            stored.unlink()
