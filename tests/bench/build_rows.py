"""Building, exporting and planning, beside cat, cp, openssl, tar and the peers."""

import hashlib
import json
import os
import shlex
import shutil
import subprocess

from common import (
    LONG, MIB, MODEL, ROUNDS, STORE, WORK, XFS, build, interleave, model_spec, prepare, row, run, vouch, windlass,
)

NIX2CONTAINER, STREAM_LAYERED_IMAGE = os.environ.get("NIX2CONTAINER"), os.environ.get("STREAM_LAYERED_IMAGE")


def model():
    runs = interleave(ROUNDS, build=build("model.json"), openssl="openssl dgst -sha256 model.gguf",
                      cat="cat model.gguf >/dev/null")
    row("model: `build`", runs["build"], runs["openssl"], "`openssl dgst -sha256`", 1.02)
    row("model: `build`", runs["build"], runs["cat"], "`cat >/dev/null`")

    prepare("build", "model.json", "--output", "lean")
    export = windlass("export", "lean", "--output", "out")
    copy, digest = "cp model.gguf out && sync out", "openssl dgst -sha256 model.gguf"
    runs = interleave(LONG, full=build("model.json", "--full"), export=export, never=[*export, "--verify", "never"],
                      copy=copy, copy_hash=f"{copy} && {digest}")
    row("model: `build --full`", runs["full"], runs["copy_hash"], "`cp`, `sync`, `openssl`", 1.0)
    row("model: `export`, bytes compared with the digest", runs["export"], runs["copy_hash"],
        "`cp`, `sync`, `openssl`", 1.2)
    row("model: `export --verify never`", runs["never"], runs["copy"], "`cp`, `sync`")


def peers():
    if shutil.which("umoci"):
        insert = ("umoci init --layout peer && umoci new --image peer:m"
                  " && umoci insert --image peer:m model.gguf /models/model.gguf")
        ours = build("model.json", "--full")
        runs = interleave(1, ours=ours, umoci=insert)
        row("model: `build --full`, once", runs["ours"], runs["umoci"], "`umoci insert` (it compresses)")
    if shutil.which("skopeo"):
        def layout():
            prepare("build", "model.json", "--full", "--output", "out")
        skopeo = "skopeo --insecure-policy --tmpdir . copy oci:out docker-archive:peer:localhost/model:1"
        skopeo += " && sync peer"
        runs = interleave(1, ours=windlass("export", "lean", "--output", "out"), skopeo=(skopeo, layout))
        row("model: `export`, once", runs["ours"], runs["skopeo"], "`skopeo copy oci: docker-archive:`, `sync`")


def closure():
    graph = ["--closure", "closure.json"]
    runs = interleave(ROUNDS, plan=windlass("plan", "closure-image.json", *graph), du="du -s store",
                      build=build("closure-image.json", *graph), tar="tar -c store | openssl dgst -sha256")
    row("closure: `plan`", runs["plan"], runs["du"], "`du -s`", 1.5)
    row("closure: `build`", runs["build"], runs["tar"], "`tar -c \\| openssl dgst -sha256`", 0.5)
    prepare("build", "closure-image.json", *graph, "--output", "lean")
    runs = interleave(ROUNDS, export=windlass("export", "lean", "--output", "out"),
                      tar="tar -c store > out && sync out")
    row("closure: `export`, bytes compared with the digests", runs["export"], runs["tar"], "`tar -c >`, `sync`")
    nix_peers(graph)


def nix_peers(graph):
    """Neither is a package of Debian: they are named where they were made. Each gets the same store paths, and as many layers."""
    plan = subprocess.run(windlass("plan", "closure-image.json", *graph, "--json"), cwd=WORK, check=True, stdout=subprocess.PIPE)
    layers = json.loads(plan.stdout)["images"][0]["layers"]
    if NIX2CONTAINER:
        # It makes the digests of the layers too, and keeps no bytes.
        peer = [NIX2CONTAINER, "layers-from-reproducible-storepaths", "peer", "closure.json", "--max-layers", str(len(layers))]
        runs = interleave(ROUNDS, ours=build("closure-image.json", *graph), peer=shlex.join(peer))
        row("closure: `build`", runs["ours"], runs["peer"], "nix2container, as many layers")
    if STREAM_LAYERED_IMAGE:
        paths = [info["path"] for info in json.loads((WORK / "closure.json").read_text())]
        most = len(layers) - 1
        empty = WORK / "customisation"
        empty.mkdir()
        (empty / "layer.tar").write_bytes(bytes(10240))
        (empty / "checksum").write_text(hashlib.sha256(bytes(10240)).hexdigest())
        conf = {
            "store_layers": [[path] for path in paths[:most - 1]] + [paths[most - 1:]], "store_dir": str(STORE), "uid": 0, "gid": 0,
            "uname": "root", "gname": "root", "architecture": "amd64", "config": {}, "created": "1970-01-01T00:00:01+00:00",
            "mtime": "1970-01-01T00:00:01+00:00", "repo_tag": "closure:1", "from_image": None, "customisation_layer": str(empty),
        }
        (WORK / "conf.json").write_text(json.dumps(conf))
        made = shlex.join(build("closure-image.json", *graph)) + " && " + shlex.join(windlass("export", "out", "--output", "peer"))
        peer = f"{shlex.join(['python3', STREAM_LAYERED_IMAGE, 'conf.json'])} > peer && sync peer"
        runs = interleave(LONG, ours=made, peer=peer)
        row("closure: `build`, then `export`", runs["ours"], runs["peer"], "nixpkgs' `stream_layered_image.py`, `sync`")


def app_change():
    """The model is out of reach meanwhile, so that not a byte of it can be read."""
    prepare("build", "model.json", "--output", "built")
    small = min(json.loads((WORK / "closure.json").read_text()), key=lambda info: info["narSize"])
    (WORK / "app-closure.json").write_text(json.dumps([{**small, "references": []}]))
    version = iter(range(1, 1000))

    def change():
        image = {"kind": "image", "name": "app", "storeDir": str(STORE), "models": [{"built": str(WORK / "built")}],
                 "content": {"deps": [small["path"]], "texts": {"/etc/version": str(next(version))}}}
        (WORK / "app.json").write_text(json.dumps(image))
    MODEL.rename(WORK / "away")
    try:
        command = build("app.json", "--closure", "app-closure.json", "--json")
        runs = interleave(ROUNDS, app=(command, change))["app"]
    finally:
        (WORK / "away").rename(MODEL)
    read = json.loads(runs[-1].output)["read"]
    row("app changed, model built before: `build`", runs)
    return read, small["narSize"]


def xfs():
    """Needs root. The model moves to an XFS in a file, which is grown as it is filled."""
    image = WORK / "xfs.img"
    XFS.mkdir()
    with open(image, "wb") as file:
        file.truncate(2 * MIB * 2**20 + (1 << 30))
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, XFS], check=True)
    weights = XFS / f"{'0' * 32}-model.gguf"
    shutil.copyfile(MODEL, weights)
    MODEL.unlink()
    vouch(weights)
    model_spec("on-xfs", weights, storeDir=str(XFS))
    prepare("build", "on-xfs.json", "--output", "xfs/lean")
    export = windlass("export", "xfs/lean", "--output", "xfs/out")
    stock, digest = f"cp {weights} xfs/out && sync xfs/out", f"openssl dgst -sha256 {weights}"
    copy = stock.replace("cp ", "cp --reflink=never ", 1)
    runs = interleave(LONG, export=export, always=[*export, "--verify", "always"], shared=f"{stock} && {digest}",
                      copy=f"{copy} && {digest}", stock=stock, bundle=windlass("export", "xfs/lean", "--bundle", "xfs/out"))
    row("XFS, model: `export --bundle`", runs["bundle"], runs["copy"], "`cp --reflink=never`, `sync`, `openssl`", 0.05)
    row("XFS, model: `export`", runs["export"], runs["copy"], "`cp --reflink=never`, `sync`, `openssl`", 0.05)
    row("XFS, model: `export`", runs["export"], runs["shared"], "`cp` (it shares), `sync`, `openssl`", 0.05)
    row("XFS, model: `export`", runs["export"], runs["stock"], "`cp` (it shares), `sync`")
    row("XFS, model: `export --verify always`", runs["always"], runs["shared"], "`cp` (it shares), `sync`, `openssl`")

    def used():
        # Space is given back some time after a file is gone, but not later than this.
        subprocess.run(["umount", XFS], check=True)
        subprocess.run(["mount", "-o", "loop", image, XFS], check=True)
        stat = os.statvfs(XFS)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    shutil.rmtree(XFS / "out")  # the bundle, which came last
    before = used()
    run(export)
    return used() - before, (XFS / "out").stat().st_size
