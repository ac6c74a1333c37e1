"""Loading into a Podman of its own, beside `podman load`, `podman image exists` and skopeo. Needs root."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from statistics import median

from common import (
    LONG, MIB, MODEL, ROUNDS, STORE, WORK, interleave, prepare, row, run, say, settle, shell, windlass,
)

PODMAN = WORK / "podman"
LINKED = WORK / "linked"
# What windlass does before it calls an image loaded; neither Podman nor skopeo syncs the files of layers.
SYNC = f"sync --file-system {PODMAN}/root"
READER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static char buffer[1 << 20];
int main(int count, char **names) {
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int file = open(names[1], O_RDONLY);
    long long all = 0;
    for (ssize_t got; (got = read(file, buffer, sizeof buffer)) > 0;) all += got;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%lld %.4f\n", all, end.tv_sec - start.tv_sec + (end.tv_nsec - start.tv_nsec) / 1e9);
}
"""


def image(name, **more):
    spec = {"kind": "image", "name": name, "storeDir": str(STORE), **more}
    (WORK / f"{name}.json").write_text(json.dumps(spec))
    prepare("build", f"{name}.json", "--closure", "closure.json", "--output", f"{name}.image")
    return f"{name}.image"


def settings(linked):
    """A new Podman, with or without a linked store, for every command that follows."""
    forget()
    text = subprocess.run(["bash", "tests/parts.sh", "podman", PODMAN], check=True, capture_output=True, text=True).stdout
    for line in text.splitlines():
        name, value = line.removeprefix("export ").split("=", 1)
        os.environ[name] = value.strip("'")
    if linked:
        subprocess.run(windlass("doctor", "--fix", "--storage-dir", LINKED), stdout=subprocess.DEVNULL)


def forget():
    subprocess.run(["umount", "-l", PODMAN / "root/overlay"], stderr=subprocess.DEVNULL)
    for folder in (PODMAN, LINKED):
        shutil.rmtree(folder, ignore_errors=True)


def grown():
    """Bytes of the linked store that are its own: what the Nix store has too costs nothing."""
    own = 0
    for folder, names, files in os.walk(LINKED):
        for path in [folder, *(f"{folder}/{name}" for name in files)]:
            stat = os.lstat(path)
            if os.path.isdir(path) and not os.path.islink(path) or stat.st_nlink == 1:
                own += stat.st_blocks * 512
    return own


def first(notes):
    """The first load of the model and the closure, linked, and through `podman load` of the same archive."""
    big = image("big", models=[{"built": str(WORK / "weights.image")}],
                content={"deps": [json.loads((WORK / "closure.json").read_text())[-1]["path"]]})
    layout = json.loads((WORK / big / "image.json").read_text())
    runs = {"linked": [], "podman": []}
    for n in range(LONG):
        runs["linked"].append(run(windlass("load", big), lambda: settings(True)))
        say(f"first linked load {n + 1}/{LONG}: {runs['linked'][-1].wall:.2f} s")
    size = layout["platforms"][0]["size"]
    notes.append(f"First linked load: {grown():,} bytes of disk for an image of {size:,}; "
                 f"{int(shell(f'find {LINKED} -type f | wc -l')):,} files.")
    reading(layout["ref"], notes)
    prepare("export", big, "--output", "big.tar")
    base = run(f"podman load --quiet --input big.tar >/dev/null && {SYNC}", lambda: settings(False))
    say(f"podman load: {base.wall:.2f} s")
    (WORK / "big.tar").unlink()
    row("first load, linked: model and closure", runs["linked"], [base] * LONG, "`podman load` of the archive, `sync`, once", 0.02)
    forget()


def reading(reference, notes):
    """How fast a container reads its model, and whose pages those are."""
    source = WORK / "reader.c"
    source.write_text(READER)
    subprocess.run(["gcc", "-O2", "-static", "-o", WORK / "reader", source], check=True)
    inside = ["podman", "run", "--rm", "--pull=never", "--network=none", "--volume", f"{WORK}/reader:/reader:ro",
              "--entrypoint", "/reader", reference, "/models/model.gguf"]
    rates = {"host": [], "container": []}
    for _ in range(LONG):
        for name, command in ("host", [WORK / "reader", MODEL]), ("container", inside):
            size, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            rates[name].append(int(size) / float(seconds) / 1e9)
    subprocess.run(["sync"])
    Path("/proc/sys/vm/drop_caches").write_text("1")
    subprocess.run(inside, check=True, stdout=subprocess.DEVNULL)
    cached = int(shell(f"fincore --bytes --noheadings --output RES {MODEL}") or 0)
    notes.append(f"Model read in a container of the linked image: {median(rates['container']):.2f} GB/s, on the host "
                 f"{median(rates['host']):.2f} GB/s. After a container has read it, {cached:,} bytes of the store's own "
                 "file are in the page cache.")


def second(notes):
    """A second load of eight images with the model."""
    images = [{"name": f"app{n}", "storeDir": str(STORE), "models": [{"built": str(WORK / "weights.image")}],
               "content": {"texts": {"/etc/app": str(n)}}} for n in range(8)]
    (WORK / "stack.json").write_text(json.dumps({"kind": "stack", "name": "eight", "images": images}))
    prepare("build", "stack.json", "--closure", "closure.json", "--output", "eight")
    settings(True)
    prepare("load", "eight")
    summary = json.loads((WORK / "eight/stack.json").read_text())["images"][0]
    runs = interleave(2 * ROUNDS, again=windlass("load", "eight"), exists=f"podman image exists {summary['ref']}")
    row("second load: 8 images with the model", runs["again"], runs["exists"], "`podman image exists`, one image", 1.0)
    child = subprocess.Popen(windlass("load", "eight"), stdout=subprocess.DEVNULL, cwd=WORK)
    blocks = os.wait4(child.pid, 0)[2].ru_oublock
    wall = median(r.wall for r in runs["again"]) * 1000
    started = shell(f"cd {WORK} && strace -f -e trace=execve -o trace {' '.join(map(str, windlass('load', 'eight')))} "
                    ">/dev/null && grep -c execve trace").strip() or "not counted: no strace"
    notes.append(f"Second load of 8 images: {wall:.1f} ms, {blocks} blocks written, processes: {started} (its own).")
    forget()


def pulled():
    """Through Podman: the model's image, and then an app above it that changes."""
    one, two = (image(f"bump{n}", models=[{"built": str(WORK / "weights.image")}],
                      content={"texts": {"/etc/version": str(n)}}) for n in (1, 2))
    prepare("export", one, "--format", "oci", "--output", "oci")
    layout = json.loads((WORK / one / "image.json").read_text())
    target = f"containers-storage:{layout['name']}@{layout['digest']}"
    skopeo = f"skopeo --insecure-policy --tmpdir {PODMAN}/tmp copy --quiet oci:oci:{layout['ref']} {target} && {SYNC}"
    fresh = lambda: settings(False)
    runs = interleave(min(LONG, 2), ours=(windlass("load", one, "--via", "podman"), fresh), skopeo=(skopeo, fresh))
    row("first load, pulled: model", runs["ours"], runs["skopeo"], "`skopeo copy oci: containers-storage:`, `sync`", 1.0)
    shutil.rmtree(WORK / "oci")

    def before():
        settings(False)
        prepare("load", one, "--via", "podman")
    prepare("export", two, "--output", "two.tar")
    before()
    runs = {"ours": [run(windlass("load", two, "--via", "podman"))], "podman": []}
    before()
    runs["podman"].append(run(f"podman load --quiet --input two.tar >/dev/null && {SYNC}"))
    row("app changed above the model: load, pulled", runs["ours"], runs["podman"], "`podman load` of the archive, `sync`, once", 0.1)
    forget()


def unpacked():
    """The closure as an image of others would have it, in layers that are packed: unpacked once."""
    made = image("packed", content={"deps": [json.loads((WORK / "closure.json").read_text())[-1]["path"]]})
    prepare("export", made, "--format", "oci", "--compression", "gzip", "--output", "packed.oci")
    reference = json.loads((WORK / made / "image.json").read_text())["ref"]
    blob = lambda digest: WORK / "packed.oci/blobs/sha256" / digest.removeprefix("sha256:")
    raw = blob(json.loads((WORK / "packed.oci/index.json").read_text())["manifests"][0]["digest"]).read_text()
    manifest = json.loads(raw)
    spec = {"kind": "upstream", "name": "others", "manifest": raw, "config": str(blob(manifest["config"]["digest"])),
            "layers": [str(blob(layer["digest"])) for layer in manifest["layers"]]}
    (WORK / "others.json").write_text(json.dumps(spec))
    prepare("build", "others.json", "--output", "others.image")
    skopeo = (f"skopeo --insecure-policy --tmpdir {PODMAN}/tmp copy --quiet oci:packed.oci:{reference} "
              f"containers-storage:{reference} && {SYNC}")
    runs = interleave(LONG, ours=(windlass("load", "others.image"), lambda: (settings(True), settle())),
                      skopeo=(skopeo, lambda: (settings(False), settle())))
    row("first load, linked: an upstream image, the closure in gzip", runs["ours"], runs["skopeo"],
        "`skopeo copy oci: containers-storage:`, `sync`", 1.0)
    shutil.rmtree(WORK / "packed.oci")
    forget()


def bundled(notes):
    """A stick with the model and the closure: written, brought up to date, and loaded on a host without Nix."""
    big = image("big", models=[{"built": str(WORK / "weights.image")}],
                content={"deps": [json.loads((WORK / "closure.json").read_text())[-1]["path"]]})
    copy = (f"mkdir peer && cp model.gguf peer && cp -r {STORE}/*-package* peer && sync --file-system peer"
            f" && openssl dgst -sha256 model.gguf && tar -c -C {STORE} --exclude='*-model.gguf' . | openssl dgst -sha256")
    runs = interleave(LONG, export=windlass("export", big, "--bundle", "out"), copy=copy)
    row("bundle of model and closure: `export`", runs["export"], runs["copy"], "`cp -r`, `sync`, `openssl`", 1.2)
    prepare("export", big, "--bundle", "stick")
    again = run(windlass("export", big, "--bundle", "stick", "--json"))
    notes.append(f"Bundle brought up to date, nothing changed: {again.wall * 1000:.0f} ms, "
                 f"{json.loads(again.output)['written']} bytes written, {again.read:,} read.")
    nix = {name: os.environ.pop(name) for name in ("NIX_STORE_DIR", "NIX_STATE_DIR")}
    runs = interleave(LONG, load=(windlass("load", "stick"), lambda: (settings(True), settle())),
                      copy=("cp -r stick peer && sync --file-system peer", lambda: (settings(True), settle())))
    row("bundle: `load`, linked, without Nix", runs["load"], runs["copy"], "`cp -r` of it, `sync`", 1.1)
    os.environ.update(nix)
    shutil.rmtree(WORK / "stick")
    forget()


def cached(notes):
    """An image that a Containerfile builds: nothing has changed, and it is loaded."""
    settings(True)
    context = WORK / "project/src"
    context.mkdir(parents=True)
    (context / "Containerfile").write_text("FROM scratch\nCOPY . /\n")
    for n in range(1000):
        (context / f"file{n}.py").write_text(f"print({n})\n")
    prepare("cache", "init", "app", "--project", "project", "--context", "project/src")
    prepare("cache", "build", "app", "--project", "project")
    runs = interleave(2 * ROUNDS, hit=windlass("cache", "update", "app", "--project", "project"),
                      exists="podman image exists localhost/app:cache")
    row("cache hit: 1,000 files in the context, image loaded", runs["hit"], runs["exists"], "`podman image exists`", 1.0)
    forget()


def rows(notes, parts):
    # As Nix would have it: in the store, and not to be written to.
    weights = STORE / f"{'0' * 32}-model.gguf"
    os.link(MODEL, weights)
    os.environ["NIX_STORE_DIR"] = str(STORE)
    os.environ["NIX_STATE_DIR"] = str(WORK / "nix-state")
    (WORK / "nix-state/gcroots/auto").mkdir(parents=True)
    spec = {"kind": "model", "name": "weights", "files": {"model.gguf": str(weights)}, "storeDir": str(STORE)}
    (WORK / "weights.json").write_text(json.dumps(spec))
    prepare("build", "weights.json", "--output", "weights.image")
    try:
        if "load" in parts:
            second(notes)
            first(notes)
            unpacked()
            pulled()
        if "bundle" in parts:
            bundled(notes)
            cached(notes)
    finally:
        forget()
        weights.unlink()
