"""containerd: windlass' archives in it, by what containerd itself reports.

    containerd.py containerd overlayfs    inside of a host that enter.sh has made
"""

import json
import subprocess
import sys
import tarfile

from steps import WORK, Row, Stack, check, sha256, wait_for

STEPS = ("set up", "import", "again", "digest", "run", "packed", "thin after model", "bundle", "export")


def ctr(row, *arguments, **options):
    """Asks containerd."""
    return row.run("ctr", *arguments, **options)


def digests(row):
    """Every name that containerd lists, with its digest."""
    lines = [line.split() for line in ctr(row, "images", "list").splitlines()[1:]]
    return {line[0]: line[2] for line in lines}


def check_image(row, stack, digest=None):
    """The image has our digest, and all of its content is there."""
    found = digests(row)
    check(found.get(stack.tag) == (digest or stack.digest), f"containerd has {stack.tag} as {found.get(stack.tag)}, not {digest or stack.digest}")
    line = next(line for line in ctr(row, "images", "check").splitlines() if line.startswith(f"{stack.tag} "))
    check(" complete " in line and line.split()[-1] == "true", f"not whole or not unpacked: {line}")


def exported():
    """The manifest's digest in the exported archive, once that is whole."""
    try:
        with tarfile.open(f"{WORK}/exported.tar") as archive:
            archive.getmembers()
            return json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]
    except tarfile.ReadError:
        return None


def runs(row, stack):
    """A container of it prints its text, and its model is in it."""
    options = ("run", "--rm", "--read-only", "--cgroup", "/ctr/test", "--cpu-shares", "0")
    printed = ctr(row, *options, stack.tag, "text")
    check(printed == stack.expected, f"the container printed {printed!r}, not {stack.expected!r}")
    size = ctr(row, *options, stack.tag, "size", stack.command[0], "stat", "-c", "%s", "/models/tiny.gguf").strip()
    check(size == str(24 + 64 * 4096), f"the model in the container has {size} bytes")


def main(engine, variant):
    row = Row(engine, variant, STEPS)
    with row.step("set up"):
        one, two = Stack(row, "app", 1), Stack(row, "app", 2)
        row.run("windlass", "export", one.directory, "--output", f"{WORK}/one.tar")
        with open(f"{WORK}/containerd.log", "wb") as log:
            subprocess.Popen(["containerd"], stdout=log, stderr=log)
        wait_for(lambda: row.try_run("ctr", "version", seconds=10)[1] == 0, "containerd")
        version = ctr(row, "version").split("Server:")[1].split("Version:")[1].split()[0]
        row.versions = f"containerd {version.split('+')[0].split('~')[0]}, {row.run('runc', '--version').split()[2]} of runc"
    if row.results["set up"] != "ok":
        row.finish()

    with row.step("import"):
        ctr(row, "images", "import", f"{WORK}/one.tar")
        check_image(row, one)
    with row.step("again"):
        ctr(row, "images", "import", f"{WORK}/one.tar")
        check_image(row, one)
        check(len(set(digests(row).values())) == 1, f"containerd lists {digests(row)}")
    with row.step("digest"):
        # The manifest as its bytes, not only as containerd calls it.
        found = sha256(ctr(row, "content", "get", one.digest).encode())
        check(found == one.digest, f"the manifest's bytes are {found}")
    with row.step("run"):
        runs(row, one)
    with row.step("packed"):
        for compression in ("gzip", "zstd"):
            row.run("windlass", "export", two.directory, "--output", f"{WORK}/{compression}.tar", "--compression", compression)
            with tarfile.open(f"{WORK}/{compression}.tar") as archive:
                packed = json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]
            ctr(row, "images", "import", f"{WORK}/{compression}.tar")
            check_image(row, two, packed)
            runs(row, two)
    with row.step("thin after model"):
        for name in digests(row):
            ctr(row, "images", "remove", "--sync", name)
        row.run("windlass", "export", two.path, "--output", f"{WORK}/folder")
        # There is nothing of the model to unpack here: it is not an image of this platform.
        ctr(row, "images", "import", "--no-unpack", "--all-platforms", f"{WORK}/folder/models/{two.model}.tar")
        ctr(row, "images", "import", f"{WORK}/folder/images/app.tar")
        check_image(row, two)
        runs(row, two)
    with row.step("bundle"):
        for name in digests(row):
            ctr(row, "images", "remove", "--sync", name)
        row.run("windlass", "export", one.path, "--bundle", f"{WORK}/bundle")
        # As people do it on a host where windlass is not: the layout as one archive.
        row.run("tar", "-c", "-f", f"{WORK}/bundle.tar", "-C", f"{WORK}/bundle", "oci-layout", "index.json", "blobs")
        ctr(row, "images", "import", "--no-unpack", "--all-platforms", f"{WORK}/bundle.tar")
        check(digests(row).get(one.tag) == one.digest, f"containerd lists {digests(row)}")
        for name in digests(row):
            ctr(row, "images", "remove", "--sync", name)
        row.run("windlass", "export", one.path, "--bundle", f"{WORK}/tars", "--tar")
        ctr(row, "images", "import", f"{WORK}/tars/images/app.tar")
        check_image(row, one)
        runs(row, one)
        # What comes after it.
        ctr(row, "images", "import", f"{WORK}/folder/images/app.tar")
    with row.step("export"):
        ctr(row, "images", "export", f"{WORK}/exported.tar", two.tag)
        # `ctr` may end before the last bytes that containerd sends are in its file.
        wait_for(lambda: exported() is not None, "the end of the archive")
        digest = exported()
        check(digest == two.digest, f"exported the manifest {digest}, not {two.digest}")
    row.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
