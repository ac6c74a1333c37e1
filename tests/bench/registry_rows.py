"""Registries: fetch, check and push beside skopeo, from and to Debian's docker-registry on loopback."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import time

from common import LONG, MIB, WINDLASS, WORK, in_child, interleave, noise, prepare, row, run, say, windlass

DATA, CONFIG = WORK / "registry", WORK / "registry.yml"
LAYERS = 20
IMAGES = 30
SKOPEO = "skopeo --insecure-policy"


class Registry:
    """One on a free port, which keeps nothing of the one before."""

    def __init__(self, fresh=True):
        if fresh:
            shutil.rmtree(DATA, ignore_errors=True)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        CONFIG.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {DATA}}}}}\nhttp: {{addr: \"{self.host}\"}}\n"
        )
        self.process = subprocess.Popen(["docker-registry", "serve", CONFIG], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("docker-registry does not start")

    def empty(self):
        """The same place, with nothing in it. Blobs are looked up on the disk: its cache is off."""
        shutil.rmtree(DATA, ignore_errors=True)

    def stop(self):
        self.process.kill()
        self.process.wait()


def image():
    """2 GiB in 20 layers, as windlass has it and as an OCI directory."""
    models = []
    for n in range(LAYERS):
        file = WORK / f"part{n:02}.bin"
        in_child(lambda: noise(file, (MIB << 20) // 2 // LAYERS, f"part {n}"))
        models.append({"spec": {"name": f"part{n:02}", "files": {f"part{n:02}.bin": str(file)}}})
    (WORK / "parts.json").write_text(json.dumps({"kind": "image", "name": "parts", "models": models}))
    prepare("build", "parts.json", "--output", "parts.image")
    prepare("export", "parts.image", "--format", "oci", "--output", "parts.oci")
    return json.loads((WORK / "parts.image/image.json").read_text())["ref"]


def fetch(reference, notes):
    registry = Registry()
    to = f"{registry.host}/parts:1"
    subprocess.run(f"{SKOPEO} copy --quiet --dest-tls-verify=false oci:parts.oci:{reference} docker://{to}", shell=True,
                   check=True, cwd=WORK)
    nix = WORK / "fetched"
    for name, folder in ("NIX_STORE_DIR", "store"), ("NIX_STATE_DIR", "state"), ("NIX_LOG_DIR", "log"):
        os.environ[name] = str(nix / folder)
    os.environ |= {"XDG_CACHE_HOME": str(nix / "cache"), "XDG_STATE_HOME": str(nix / "xdg"), "NIX_CONFIG": "build-users-group ="}

    def forget():
        if nix.exists():
            subprocess.run(["chmod", "-R", "u+w", nix], check=True)
        shutil.rmtree(nix, ignore_errors=True)
        (nix / "state/gcroots/auto").mkdir(parents=True)
        (nix / "store").mkdir()
        shutil.rmtree(WORK / "copied", ignore_errors=True)
    forget()
    prepare("upstream", "add", "parts", to, "--insecure")
    copy = f"{SKOPEO} copy --quiet --src-tls-verify=false docker://{to} oci:copied:1"
    runs = interleave(
        LONG,
        ours=(f"{shlex.quote(str(WINDLASS))} upstream fetch && sync --file-system fetched", forget),
        skopeo=(f"{copy} && sync --file-system copied", forget),
        both=(f"{copy} && nix-store --add-fixed sha256 copied/blobs/sha256/* >/dev/null && sync --file-system copied", forget),
    )
    what = f"fetch: {MIB // 2} MiB in {LAYERS} layers, into the Nix store"
    row(what, runs["ours"], runs["skopeo"], "`skopeo copy docker: oci:`, `sync`", 1.0)
    row(what, runs["ours"], runs["both"], "the same, then `nix-store --add-fixed`, `sync`")
    again = run(windlass("upstream", "fetch"), lambda: (forget(), prepare("upstream", "fetch")))
    notes.append(f"Fetch when all is there: {again.wall * 1000:.0f} ms; {again.output.decode().splitlines()[-1]}.")

    lock = json.loads((WORK / "images.lock.json").read_text())
    one = lock["images"]["parts"]
    lock["images"] = {f"parts{n:02}": one for n in range(IMAGES)}
    (WORK / "thirty.json").write_text(json.dumps(lock))
    each = f"for n in $(seq {IMAGES}); do {SKOPEO} inspect --raw --tls-verify=false docker://{to} >/dev/null; done"
    runs = interleave(LONG, ours=windlass("upstream", "check", "--lock", "thirty.json"), skopeo=each)
    row(f"check: {IMAGES} images, none changed", runs["ours"], runs["skopeo"], f"`skopeo inspect --raw`, {IMAGES} times")
    forget()
    shutil.rmtree(nix)
    registry.stop()


def push(reference):
    registry = Registry()
    to = f"docker://{registry.host}/parts:1"
    ours = windlass("push", "parts.image", to, "--insecure")
    theirs = f"{SKOPEO} copy --quiet --dest-tls-verify=false oci:parts.oci:{reference} {to}"
    runs = interleave(LONG, ours=(ours, registry.empty), skopeo=(theirs, registry.empty))
    row(f"push: {MIB // 2} MiB in {LAYERS} layers, from recipes", runs["ours"], runs["skopeo"], "`skopeo copy oci: docker:`")
    runs = interleave(LONG, ours=ours, skopeo=theirs)
    row("push again: all is there", runs["ours"], runs["skopeo"], "the same")
    registry.stop()


def rows(notes):
    kept = dict(os.environ)
    try:
        reference = image()
        push(reference)
        fetch(reference, notes)
    finally:
        os.environ.clear()
        os.environ.update(kept)
        say("registries: done")
