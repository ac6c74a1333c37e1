"""windlass load --into crio, by what CRI-O itself reports through crictl.

    crio.py crio linked    inside of a host that enter.sh has made

Debian has no CRI-O: the folder CRIO_BIN has `crio`, `crictl` and `pinns`. There is no network but a loopback, so nothing can be pulled.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

from cri import RUNTIME, printed_in_pod
from steps import WORK, Row, Stack, check, wait_for, write

STEPS = ("set up", "refused", "load", "again", "run", "app changed", "rollback", "rmi", "killed", "verify", "gc", "unload")
SOCKET = "/var/run/crio/crio.sock"
STORE = "/nix/var/windlass/storage"
MODEL = 48 << 20
DROP_IN = "/etc/crio/crio.conf.d/50-windlass.conf"
SETTINGS = """[crio.runtime]
conmon_cgroup = "pod"
cgroup_manager = "cgroupfs"
default_runtime = "here"
seccomp_profile = "unconfined"
[crio.runtime.runtimes.here]
runtime_path = "/usr/local/bin/runc-here"
runtime_root = "/run/runc"
monitor_path = "/usr/bin/conmon"
monitor_cgroup = "pod"
[crio.image]
pause_image = "localhost/app:1"
signature_policy = "/etc/containers/policy.json"
"""


class Host:
    """The CRI-O of this host: how it is started, asked, and loaded into."""

    def __init__(self, row):
        self.row, self.process = row, None

    def start(self):
        """Starts it and waits until it answers."""
        with open(f"{WORK}/crio.log", "ab") as log:
            # pylint: disable-next=consider-using-with
            self.process = subprocess.Popen(["crio"], stdout=log, stderr=log)
        wait_for(lambda: self.row.try_run("crictl", "--config", "/dev/null", "--runtime-endpoint", f"unix://{SOCKET}", "version", seconds=10)[1] == 0, "CRI-O")

    def stop(self, number=signal.SIGTERM):
        """Ends it."""
        self.process.send_signal(number)
        self.process.wait(30)

    def crictl(self, *arguments, **options):
        """Asks it as the kubelet does."""
        return self.row.run("crictl", "--config", "/dev/null", "--runtime-endpoint", f"unix://{SOCKET}", *arguments, **options)

    def windlass(self, *arguments, **options):
        """What windlass does in it."""
        return self.row.run("windlass", *arguments, "--into", "crio", **options)

    def load(self, *arguments):
        """Loads, and says what came of it."""
        return json.loads(self.windlass("load", *arguments, "--json"))

    def images(self):
        """The images that it lists: names by ID."""
        found = json.loads(self.crictl("images", "--output", "json"))["images"]
        return {image["id"]: {*image.get("repoTags", []), *image.get("repoDigests", [])} for image in found}

    def check(self, stack):
        """It lists the image under its ID and both names."""
        names = self.images().get(stack.config.removeprefix("sha256:"), set())
        check({stack.tag, stack.by_digest} <= names, f"CRI-O has {names} of {stack.config}")

    def runs(self, stack):
        """A container of it, in a pod, prints its text, and its model is in it with all its bytes."""
        printed = printed_in_pod(self.crictl, stack, stack.by_digest)
        check(printed[0] == stack.text, f"the container printed {printed}")
        check(printed[1].split()[0] == stack.weights, f"the model in the container is another one: {printed[1]}")

    def clear(self):
        """Takes all pods away."""
        self.crictl("rmp", "--all", "--force")


def written(path):
    """Bytes that lie in a folder, each file once."""
    return int(subprocess.run(["du", "--one-file-system", "--summarize", "--block-size=1", path], capture_output=True, check=True).stdout.split()[0])


def main(engine, variant):
    row = Row(engine, variant, STEPS)
    host = Host(row)
    with row.step("set up"):
        one, two = Stack(row, "app", 1, MODEL), Stack(row, "app", 2, MODEL)
        write("/etc/crio/crio.conf.d/10-host.conf", SETTINGS)
        write("/usr/local/bin/runc-here", RUNTIME)
        os.chmod("/usr/local/bin/runc-here", 0o755)
        write("/etc/containers/policy.json", json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        host.start()
        version = host.row.run("crio", "--version").split()[2]
        row.versions = f"CRI-O {version}"
    if row.results["set up"] != "ok":
        row.finish()

    with row.step("refused"):
        # Nothing names a linked store: it says what to write, and that is enough.
        said = json.loads(host.windlass("load", one.directory, "--json", code=7))["error"]["message"]
        check(DROP_IN in said and STORE in said, f"it does not say what to write: {said}")
        row.try_run("windlass", "doctor", "--fix", "--storage-dir", STORE)
        write(DROP_IN, f"[crio]\nstorage_option = ['overlay.imagestore={STORE}']\n")
        host.stop()
        host.start()
    with row.step("load"):
        report = host.load(one.directory)
        check((report["loaded"], report["failed"], report["network"]) == (1, 0, 0), f"{report}")
        check(report["written"] < 4 << 20 and report["linked"] > MODEL, f"{report['written']} written, {report['linked']} linked")
        # CRI-O was not restarted.
        host.check(one)
        row.note("load", f"{report['written']} B written, {report['seconds']:.1f} s")
    with row.step("again"):
        began = time.monotonic()
        report = host.load(one.directory)
        check((report["present"], report["loaded"], report["written"]) == (1, 0, 0), f"{report}")
        row.note("again", f"0 B, {(time.monotonic() - began) * 1000:.0f} ms")
    with row.step("run"):
        before = written("/var/lib/containers")
        host.runs(one)
        check(written("/var/lib/containers") - before < 4 << 20, "CRI-O copied the model")
        host.clear()
    with row.step("app changed"):
        report = host.load(two.directory)
        check(report["failed"] == 0 and report["written"] < 4 << 20, f"{report}")
        host.check(two)
        host.runs(two)
        host.clear()
    with row.step("rollback"):
        host.windlass("rollback", "1")
        host.check(one)
        host.runs(one)
        host.clear()
        host.windlass("rollback", "2")
        host.check(two)
    with row.step("rmi"):
        # As the kubelet's collector of images does it: by ID.
        number = two.config.removeprefix("sha256:")
        host.crictl("rmi", number, code=None)
        host.check(two)
        host.runs(two)
        host.clear()
        # By name CRI-O makes a record of its own without that name, which hides it; by ID that record goes.
        host.crictl("rmi", two.tag, code=None)
        check(host.crictl("inspecti", "--output", "json", two.tag, code=None) == "", "the name is not hidden")
        host.crictl("rmi", number, code=None)
        host.check(two)
        host.runs(two)
        host.clear()
        host.windlass("verify", "--full")
    with row.step("killed"):
        # As after a crash: CRI-O looks through its store, and could wipe it.
        host.runs(two)
        host.stop(signal.SIGKILL)
        host.start()
        host.check(two)
        # It may have wiped its graph root, with the generations.
        check(host.load(two.directory)["loaded"] == 0, "it was not there any more")
        host.windlass("verify", "--full")
        host.clear()
        host.load(one.directory)
        host.load(two.directory)
    with row.step("verify"):
        host.windlass("verify", "--full")
        status = json.loads(host.windlass("status", "--json"))
        check(status["engine"] == "crio" and all(image["state"] == "present" for image in status["images"]), f"{status}")
        check(host.load(two.directory, "--dry-run")["toLoad"] == 0, "a dry run would load it again")
    with row.step("gc"):
        host.windlass("gc", "--only", "containers", code=2)
        host.windlass("gc", "--keep-generations", "1", "--apply", "--yes")
        check(one.config.removeprefix("sha256:") not in host.images(), "the former image is still there")
        host.check(two)
        host.runs(two)
        host.clear()
    with row.step("unload"):
        host.windlass("unload", "app")
        host.windlass("gc", "--keep-generations", "1", "--apply", "--yes")
        check(two.config.removeprefix("sha256:") not in host.images(), f"it is still there: {host.images()}")
    row.finish()


if __name__ == "__main__":
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    main(*sys.argv[1:])
