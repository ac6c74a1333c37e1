"""Layer caches that `windlass export --format erofs-cache` writes, in a containerd that mounts them instead of unpacking.

    erofs.py erofs xfs    inside of a host that enter.sh has made

containerd has them since 2.4, which Debian does not have: the folder CONTAINERD_BIN has `containerd`, `ctr`, `containerd-shim-runc-v2`
and `crictl`.
/nix, containerd's folder and the cache are on one XFS. The host has no mkfs.erofs: a layer that containerd does not take from the cache it cannot
have at all.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys

from cri import RUNTIME, printed_in_pod
from steps import REGISTRY, WORK, Row, Stack, check, start_registry, wait_for, write

STEPS = ("set up", "export", "again", "pull", "run", "app changed", "damaged", "import", "cri", "pod")
MODEL = 48 << 20
CACHE = "/nix/erofs-cache"
ROOT = "/var/lib/containerd"
SOCKET = "/run/containerd/containerd.sock"
SETTINGS = f"""version = 3
[plugins."io.containerd.snapshotter.v1.erofs"]
layer_content_caches = ["{CACHE}"]
[plugins."io.containerd.transfer.v1.local"]
max_concurrent_unpacks = 3
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "erofs"
differ = "walking"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "erofs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
disable_cgroup = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "/usr/local/bin/runc-here"
"""


class Host:
    """The containerd of this host: how it is started and asked."""

    def __init__(self, row):
        self.row = row

    def start(self):
        """Starts it and waits until it answers."""
        write(f"{WORK}/config.toml", SETTINGS)
        with open(f"{WORK}/containerd.log", "ab") as log:
            # pylint: disable-next=consider-using-with
            subprocess.Popen(["containerd", "--log-level", "debug", "--config", f"{WORK}/config.toml"], stdout=log, stderr=log)
        wait_for(lambda: self.row.try_run("ctr", "version", seconds=10)[1] == 0, "containerd")

    def ctr(self, *arguments, **options):
        """Asks it."""
        return self.row.run("ctr", *arguments, **options)

    def windlass(self, verb, *arguments):
        """What windlass says of it as JSON."""
        return json.loads(self.row.run("windlass", verb, *arguments, "--json"))

    def pull(self, stack, *options):
        """Has it pull an image from the registry of this host, by the digest that it was built with."""
        name = f"{REGISTRY}/{stack.tag.split('/', 1)[1]}"
        self.row.run("windlass", "push", stack.directory, f"docker://{name}", "--insecure")
        self.ctr("images", "pull", "--plain-http", "--snapshotter", "erofs", *options, name)
        return name

    def runs(self, stack, name):
        """A container of it prints its text, can write, and has the model with all its bytes."""
        options = ("run", "--rm", "--snapshotter", "erofs", "--cgroup", "/ctr/test", "--cpu-shares", "0")
        printed = self.ctr(*options, name, "text")
        check(printed == stack.expected, f"the container printed {printed!r}, not {stack.expected!r}")
        tool = stack.command[0]
        found = self.ctr(*options, name, "model", tool, "sh", "-c", f"{tool} touch /tmp/new && {tool} sha256sum /models/tiny.gguf").split()[0]
        check(found == stack.weights, f"the model in the container has the SHA-256 {found}, not {stack.weights}")

    def crictl(self, *arguments, **options):
        """Asks it as the kubelet does."""
        return self.row.run("crictl", "--config", "/dev/null", "--runtime-endpoint", f"unix://{SOCKET}", *arguments, **options)

    def runs_in_a_pod(self, stack, image):
        """A container in a pod prints its text, and its model is in it with all its bytes."""
        printed = printed_in_pod(self.crictl, stack, image)
        check(printed[0] == stack.text and printed[1].split()[0] == stack.weights, f"the container printed {printed}")
        self.crictl("rmp", "--all", "--force")

    def blobs(self):
        """The blobs that it has."""
        folder = f"{ROOT}/io.containerd.content.v1.content/blobs/sha256"
        return set(os.listdir(folder)) if os.path.exists(folder) else set()

    def clear(self):
        """Takes all images away, with their layers."""
        for namespace in ("default", "k8s.io"):
            names = self.ctr("--namespace", namespace, "images", "list", "--quiet").split()
            if names:
                self.ctr("--namespace", namespace, "images", "remove", "--sync", *names)
        wait_for(lambda: not self.mounted(), "the collector of containerd")

    def mounted(self):
        """What its layers are: the files that they lead to."""
        folder = f"{ROOT}/io.containerd.snapshotter.v1.erofs/snapshots"
        layers = [f"{folder}/{number}/layer.erofs" for number in os.listdir(folder)]
        return {os.path.realpath(layer) for layer in layers if os.path.lexists(layer)}


def layers_of(image):
    """The diff IDs of an image, in hex: of a folder, or of the one in a stack."""
    with open(f"{getattr(image, 'directory', image)}/image.json", encoding="utf-8") as file:
        return [layer["digest"].removeprefix("sha256:") for layer in json.load(file)["platforms"][0]["layers"]]


def entry(layer):
    """Where the cache has a layer."""
    return f"{CACHE}/sha256/{layer[:2]}/{layer}.erofs"


def used(path):
    """Bytes that are in use on the file system of a path."""
    os.sync()
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def pause_image(row, host, stack):
    """An image that waits, as the one of a pod does, imported and not unpacked; its layers in the cache."""
    tool = stack.command[0]
    spec = {"kind": "image", "name": "pause", "tag": "1", "content": {"deps": [tool.split("/bin/")[0]]}, "config": {"Cmd": [tool, "sleep", "1000"]}}
    write(f"{WORK}/pause.json", json.dumps(spec))
    row.run("windlass", "build", f"{WORK}/pause.json", "--output", f"{WORK}/pause")
    host.windlass("export", f"{WORK}/pause", "--format", "erofs-cache", "--output", CACHE)
    return f"{WORK}/pause"


def main(engine, variant):
    row = Row(engine, variant, STEPS)
    host = Host(row)
    with row.step("set up"):
        check(shutil.which("mkfs.erofs") is None, "this host has mkfs.erofs, which would hide what is not taken from the cache")
        one, two = Stack(row, "app", 1, MODEL), Stack(row, "app", 2, MODEL)
        start_registry()
        write("/usr/local/bin/runc-here", RUNTIME)
        os.chmod("/usr/local/bin/runc-here", 0o755)
        # A layer is mounted by a loop device.
        for node, kind, number in (("loop-control", 10, 237), *((f"loop{n}", 7, n) for n in range(64))):
            os.mknod(f"/dev/{node}", stat.S_IFCHR | 0o600, os.makedev(kind, number))
        host.start()
        version = host.ctr("version").split("Server:")[1].split("Version:")[1].split()[0]
        row.versions = f"containerd {version.split('+')[0]}"
    if row.results["set up"] != "ok":
        row.finish()

    with row.step("export"):
        before = used("/nix")
        report = host.windlass("export", one.directory, "--format", "erofs-cache", "--output", CACHE)
        grown = used("/nix") - before
        check(report["cloned"] >= MODEL and report["present"] == [], f"{report}")
        check(grown < 6 << 20, f"the cache took {grown} bytes")
        check(all(os.path.exists(entry(layer)) for layer in layers_of(one)), "a layer is not there")
        row.note("export", f"{report['written']} B written, {report['cloned']} B shared, {grown >> 10} KiB on the disk")
    with row.step("again"):
        report = host.windlass("export", one.directory, "--format", "erofs-cache", "--output", CACHE)
        check((report["written"], report["read"], len(report["present"])) == (0, 0, len(layers_of(one))), f"{report}")
        row.note("again", "0 B")
    with row.step("pull"):
        before = used(ROOT)
        name = host.pull(one)
        grown = used(ROOT) - before
        check(host.blobs().isdisjoint(layers_of(one)), "it has fetched a layer")
        check(host.mounted() == {entry(layer) for layer in layers_of(one)}, f"its layers are {host.mounted()}")
        check(grown < 2 << 20, f"it took {grown} bytes")
        row.note("pull", f"{grown >> 10} KiB")
    with row.step("run"):
        host.runs(one, name)
    with row.step("app changed"):
        report = host.windlass("export", two.directory, "--format", "erofs-cache", "--output", CACHE)
        check(report["written"] < 5 << 20 and report["present"], f"{report}")
        name = host.pull(two)
        check({entry(layer) for layer in layers_of(two)} <= host.mounted(), f"its layers are {host.mounted()}")
        host.runs(two, name)
        row.note("app changed", f"{report['written']} B")
    with row.step("damaged"):
        # An entry that is cut is made anew, beside the one that is in use.
        path = entry(layers_of(one)[0])
        shutil.copy(path, f"{WORK}/whole")
        with open(f"{WORK}/cut", "wb") as cut, open(path, "rb") as whole:
            cut.write(whole.read(1 << 20))
        os.rename(shutil.move(f"{WORK}/cut", f"{path}.cut"), path)
        report = host.windlass("export", one.directory, "--format", "erofs-cache", "--output", CACHE)
        check(report["cloned"] >= MODEL, f"{report}")
        check(digest_of(path) == digest_of(f"{WORK}/whole"), "it was made with other bytes")
        host.runs(two, name)
    with row.step("import"):
        # `ctr images import` unpacks one layer after the other, and containerd looks into the cache for the lowest alone.
        host.clear()
        row.run("windlass", "export", one.directory, "--output", f"{WORK}/one.tar")
        said, code = row.try_run("sh", "-c", f"ctr images import --snapshotter erofs {WORK}/one.tar 2>&1")
        check(code != 0 and "mkfs.erofs" in said, f"it had all layers from the cache: {said}")
        check(host.mounted() == {entry(layers_of(one)[0])}, f"its layers are {host.mounted()}")
    with row.step("cri"):
        host.clear()
        host.crictl("pull", name)
        check(host.blobs().isdisjoint(layers_of(two)), "it has fetched a layer")
        check(host.mounted() == {entry(layer) for layer in layers_of(two)}, f"its layers are {host.mounted()}")
    with row.step("pod"):
        # Images that are there and not unpacked, without a single layer: a pod has them from the cache.
        host.clear()
        for image in (pause_image(row, host, one), one.directory):
            left_out = [option for layer in layers_of(image) for option in ("--without", f"sha256:{layer}")]
            row.run("windlass", "export", image, *left_out, "--output", f"{WORK}/thin.tar")
            host.ctr("--namespace", "k8s.io", "images", "import", "--no-unpack", "--local", f"{WORK}/thin.tar")
        check(host.mounted() == set(), f"something is unpacked: {host.mounted()}")
        wait_for(lambda: one.tag in host.crictl("images", "--output", "json"), "CRI with the images")
        host.runs_in_a_pod(one, one.tag)
        check(host.blobs().isdisjoint(layers_of(one)), "it has a layer")
        check({entry(layer) for layer in layers_of(one)} <= host.mounted(), f"its layers are {host.mounted()}")
    row.finish()


def digest_of(path):
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    main(*sys.argv[1:])
