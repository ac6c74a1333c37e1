"""windlass load --into containerd and k3s, by what containerd itself reports.

    containerd_load.py ENGINE ext4|xfs|k3s    inside of a host that enter.sh has made

`xfs`: /nix and containerd's folder are on one XFS, so layers share their data with the Nix store. `k3s`: containerd as k3s lays it out (root,
socket and namespace), with CRI, as k3s itself cannot be had here.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

from steps import WORK, Redis, Row, Stack, check, sha256, wait_for, write

STEPS = (
    "set up", "plan", "load", "again", "run", "app changed", "rollback", "killed", "gc between", "prune and restart", "damaged",
    "archive", "load.sh", "gc", "unload", "redis",
)
# Like weights: bytes that do not compress, and most of what there is.
MODEL = 48 << 20
ROOTS = {"k3s": ("/var/lib/rancher/k3s/agent/containerd", "/run/k3s/containerd", "k8s.io")}
KILLS = 6
OTHER = "localhost/other:1"


class Host:
    """The containerd of this host: how it is started, asked, and loaded into."""

    def __init__(self, row, variant):
        self.row, self.engine = row, "k3s" if variant == "k3s" else "containerd"
        self.root, self.state, self.namespace = ROOTS.get(variant, ("/var/lib/containerd", "/run/containerd", "default"))
        self.socket = f"{self.state}/containerd.sock"
        self.content = f"{self.root}/io.containerd.content.v1.content"
        self.process = None
        # As a shell of k3s has them; `default` is what there is without.
        os.environ["CONTAINERD_ADDRESS"] = self.socket
        os.environ["CONTAINERD_NAMESPACE"] = self.namespace
        if variant == "k3s":
            os.makedirs(self.root, exist_ok=True)
            row.run("mount", "--bind", "/var/lib/containerd", self.root)

    def start(self, sharing="shared"):
        """Starts it, with this policy of sharing content between namespaces."""
        version = 2 if " v1." in self.row.run("containerd", "--version") or " 1." in self.row.run("containerd", "--version") else 3
        write(f"{WORK}/config.toml", f"""version = {version}
root = "{self.root}"
state = "{self.state}"
[grpc]
address = "{self.socket}"
[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = "{sharing}"
""")
        with open(f"{WORK}/containerd.log", "ab") as log:
            self.process = subprocess.Popen(["containerd", "--config", f"{WORK}/config.toml"], stdout=log, stderr=log)
        wait_for(lambda: self.row.try_run("ctr", "version", seconds=10)[1] == 0, "containerd")

    def stop(self):
        """Ends it, as a restart of the service does: containers and data stay."""
        self.process.terminate()
        self.process.wait(20)

    def ctr(self, *arguments, **options):
        """Asks it."""
        return self.row.run("ctr", *arguments, **options)

    def images(self):
        """Every name with its digest and its labels."""
        lines = [line.split() for line in self.ctr("images", "list").splitlines()[1:]]
        return {line[0]: (line[2], line[-1]) for line in lines}

    def collect(self):
        """Has its garbage collector run now."""
        self.ctr("leases", "create", "--id", "now")
        self.ctr("leases", "delete", "--sync", "now")

    def windlass(self, verb, *arguments, **options):
        """windlass, with this engine."""
        return self.row.run("windlass", verb, *arguments, "--into", self.engine, **options)

    def load(self, *arguments, **options):
        """A load, as JSON."""
        return json.loads(self.windlass("load", *arguments, "--json", **options))

    def check(self, stack):
        """The image has our digest under each name, is pinned, and is there whole and unpacked."""
        found = self.images()
        for name in (stack.tag, stack.by_digest):
            check(name in found, f"containerd knows no {name}, but {sorted(found)}")
            check(found[name][0] == stack.digest, f"containerd has {found[name][0]} as {name}, not {stack.digest}")
        pinned = [name for name, (digest, labels) in found.items() if digest == stack.digest and "io.cri-containerd.pinned=pinned" in labels]
        check(pinned, f"no name of {stack.tag} is pinned: {found}")
        line = next(line for line in self.ctr("images", "check").splitlines() if line.startswith(f"{stack.tag} "))
        check(" complete " in line and line.split()[-1] == "true", f"not whole or not unpacked: {line}")

    def check_cri(self, stack):
        """What the kubelet sees of it: the ID that is the digest of our config, our names, and that its collector leaves it alone."""
        if self.engine != "k3s":
            return
        seen = {}

        def is_seen():
            seen.update(cri_images(self.socket))
            return stack.config in seen and {stack.tag, stack.by_digest} <= seen[stack.config][0]

        # CRI hears of it by an event.
        wait_for(is_seen, f"CRI with {stack.tag}, {stack.by_digest} and the ID {stack.config}", 10)
        check(seen[stack.config][1], f"CRI does not pin it: {seen}")

    def blobs(self):
        """Its blobs by their names, each with the digest of its bytes."""
        folder, found = f"{self.content}/blobs/sha256", {}
        for name in sorted(os.listdir(folder)):
            # What nobody needs goes at any moment.
            with contextlib.suppress(FileNotFoundError):
                found[name] = digest_of(f"{folder}/{name}")
        return found

    def clear(self, *stacks):
        """Takes images away behind windlass' back, with all that is in them."""
        digests = {digest for stack in stacks for digest in stack.names.values()}
        names = [name for name, (digest, _) in self.images().items() if digest in digests]
        if names:
            self.ctr("images", "remove", "--sync", *names)

    def others(self):
        """What other people's image is: its digest, and the bytes of its blobs."""
        digest = self.images()[OTHER][0]
        manifest = self.ctr("content", "get", digest)
        blobs = [json.loads(manifest)["config"], *json.loads(manifest)["layers"]]
        return digest, [sha256(self.row.run("sh", "-c", f"ctr content get {blob['digest']} | sha256sum").encode()) for blob in blobs]

    def runs(self, stack):
        """A container of it prints its text, and its model is in it with all its bytes."""
        options = ("run", "--rm", "--read-only", "--cgroup", "/ctr/test", "--cpu-shares", "0")
        printed = self.ctr(*options, stack.tag, "text")
        check(printed == stack.expected, f"the container printed {printed!r}, not {stack.expected!r}")
        found = self.ctr(*options, stack.tag, "model", stack.command[0], "sha256sum", "/models/tiny.gguf").split()[0]
        check(found == stack.weights, f"the model in the container has the SHA-256 {found}, not {stack.weights}")


def redis_answers(row, host):
    """redis from an image of ours, in a container that stays, and is asked."""
    redis = Redis(row)
    host.load(redis.directory)
    host.ctr("run", "--detach", "--cgroup", "/ctr/test", "--cpu-shares", "0", redis.tag, "redis")
    asked = iter(range(1000))
    redis.answers(lambda *command: row.try_run("ctr", "task", "exec", "--exec-id", f"ask-{next(asked)}", "redis", *command)[0])
    host.ctr("task", "delete", "--force", "redis")
    host.ctr("container", "delete", "redis")
    host.windlass("unload", "redis")


def fields(message):
    """The fields of a protobuf message (encoding of proto3): number and value, one after the other."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            check(key & 7 == 2, f"a field of another kind: {key}")
            size = number()
            at += size
            yield key >> 3, message[at - size:at]


def cri_images(socket):
    """The images that CRI lists (runtime.v1, ImageService/ListImages): names by ID, and whether each is pinned."""
    import grpc  # pylint: disable=import-outside-toplevel

    same = lambda data: data
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        ask = channel.unary_unary("/runtime.v1.ImageService/ListImages", request_serializer=same, response_deserializer=same)
        answer = ask(b"", timeout=10)
    images = {}
    for _, image in fields(answer):
        found = list(fields(image))
        names = {value.decode() for number, value in found if number in (2, 3)}
        images[next(value for number, value in found if number == 1).decode()] = (names, (8, 1) in found)
    return images


def digest_of(path):
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()


def used(shares):
    """Bytes that containerd has on the disk: of a file system of its own what is in use, as files share their data there."""
    os.sync()
    if not shares:
        return int(subprocess.run(["du", "--summarize", "--block-size=1", "/var/lib/containerd"], capture_output=True, check=True).stdout.split()[0])
    found = os.statvfs("/var/lib/containerd")
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def killed(host, stack, seconds):
    """A load that is killed at many moments leaves nothing that containerd takes for whole; the next load puts it right."""
    ended = []
    for n in range(KILLS):
        host.clear(stack)
        with subprocess.Popen(
            ["windlass", "load", stack.directory, "--into", host.engine],
            cwd=WORK, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as child:
            time.sleep(seconds * (n + 1) / (KILLS + 1))
            ended.append(child.poll())
            child.send_signal(signal.SIGKILL)
        wrong = {name: found for name, found in host.blobs().items() if name != found}
        check(not wrong, f"killed at moment {n}: blobs with other bytes: {wrong}")
        for line in host.ctr("images", "check").splitlines()[1:]:
            check(" complete " in line, f"killed at moment {n}, containerd has {line}")
        report = host.load(stack.directory)
        check(report["failed"] == 0, f"the load after it failed: {report}")
        host.check(stack)
    check(ended.count(None) >= KILLS - 2, f"these ended before they were killed: {ended}")
    check(os.listdir(f"{host.content}/windlass") == [], f"left there: {os.listdir(f'{host.content}/windlass')}")
    left = host.ctr("content", "list", "--quiet", 'labels."containerd.io/gc.root"==windlass')
    check(left == "", f"roots of the garbage collector that are left: {left}")


def main(engine, variant):
    row = Row(engine, variant, STEPS)
    with row.step("set up"):
        one, two, other = Stack(row, "app", 1, MODEL), Stack(row, "app", 2, MODEL), Stack(row, "other", 1)
        host = Host(row, variant)
        host.start()
        version = host.ctr("version").split("Server:")[1].split("Version:")[1].split()[0]
        row.versions = f"containerd {version.split('+')[0].split('~')[0]}"
        row.run("windlass", "export", other.directory, "--output", f"{WORK}/other.tar")
        host.ctr("images", "import", f"{WORK}/other.tar")
        before = host.others()
    if row.results["set up"] != "ok":
        row.finish()
    shares = variant == "xfs"

    with row.step("plan"):
        planned = host.load(one.directory, "--dry-run")["images"][0]["bytesToWrite"]
        check(planned < MODEL * 1.1 + (4 << 20) if shares else 2 * MODEL < planned < 2 * MODEL + (12 << 20), f"it would write {planned}")
        check(OTHER in host.images() and len([name for name in host.images() if "other" not in name and not name.startswith("sha256:")]) == 0, "a dry run loaded")
    with row.step("load"):
        began, clock = used(shares), time.monotonic()
        report = host.load(one.directory)
        grown, seconds = used(shares) - began, time.monotonic() - clock
        check((report["loaded"], report["failed"], report["network"]) == (1, 0, 0), f"{report}")
        host.check(one)
        host.check_cri(one)
        # What containerd's snapshotter unpacks, and on ext4 one copy of the layers.
        check(grown < MODEL * 1.1 + (6 << 20) if shares else grown < 2 * MODEL + (12 << 20), f"it took {grown} bytes")
        row.note("load", f"{grown / MODEL:.1f} × the model, {seconds:.1f} s")
    with row.step("again"):
        began, clock = used(shares), time.monotonic()
        report = host.load(one.directory)
        milliseconds = (time.monotonic() - clock) * 1000
        check((report["present"], report["loaded"], report["written"]) == (1, 0, 0), f"{report}")
        check(abs(used(shares) - began) < 1 << 20, f"a second load took {used(shares) - began} bytes")
        row.note("again", f"0 B, {milliseconds:.0f} ms")
    with row.step("run"):
        host.runs(one)
    with row.step("app changed"):
        began = used(shares)
        report = host.load(two.directory)
        # The text is in the layer of the tool, which has 2 MB: as a blob and unpacked.
        check(report["written"] < 5 << 20, f"another text of some bytes made it write {report['written']}")
        check(used(shares) - began < 6 << 20, f"it took {used(shares) - began} bytes")
        host.check(two)
        host.check_cri(two)
        host.runs(two)
        row.note("app changed", f"{report['written']} B")
    with row.step("rollback"):
        host.windlass("rollback", "1")
        host.check(one)
        host.runs(one)
        host.windlass("rollback", "2")
        host.check(two)
    with row.step("killed"):
        killed(host, two, seconds)
    with row.step("gc between"):
        collecting = subprocess.Popen(["sh", "-c", "while ctr leases create --id busy && ctr leases delete --sync busy; do :; done"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(2):
                host.clear(two)
                report = host.load(two.directory)
                check((report["failed"], report["loaded"]) == (0, 1), f"{report}")
                host.check(two)
        finally:
            collecting.terminate()
            collecting.wait(10)
        row.try_run("ctr", "leases", "delete", "busy")
    with row.step("prune and restart"):
        host.ctr("content", "prune", "references")
        host.collect()
        host.stop()
        host.start()
        host.collect()
        host.check(two)
        host.runs(two)
        check(host.load(two.directory)["present"] == 1, "it is not there any more")
        # Of other people's images that verb has taken the layers away, as it says.
        host.ctr("images", "import", f"{WORK}/other.tar")
    with row.step("damaged"):
        host.windlass("verify", "--full")
        with open(f"{two.directory}/image.json", encoding="utf-8") as file:
            layer = max(json.load(file)["platforms"][0]["layers"], key=lambda layer: layer["size"])["digest"][7:]
        path = f"{host.content}/blobs/sha256/{layer}"
        with open(path, "r+b") as file:
            file.seek(1 << 20)
            file.write(b"another byte")
        said = host.windlass("verify", "--full", code=4)
        check(layer[:12] in said or layer[:12] in "\n".join(row.ran), f"the blob is not named: {said}")
        # One that is gone is put there again.
        os.remove(path)
        report = host.load(two.directory)
        check(report["loaded"] == 1, f"{report}")
        check(host.blobs()[layer] == layer, "it is not what it was")
        host.windlass("verify", "--full")
    with row.step("archive"):
        # Namespaces that share nothing: then everything goes through containerd.
        host.clear(one, two)
        host.stop()
        host.start("isolated")
        said = json.loads(host.windlass("load", two.directory, "--json"))
        check(any("isolated" in warning for warning in said["warnings"]), f"it does not say why: {said['warnings']}")
        host.check(two)
        host.runs(two)
        host.clear(two)
        host.stop()
        host.start()
    with row.step("load.sh"):
        load_script(row, host, two)
    with row.step("gc"):
        host.load(two.directory)
        host.load(one.directory)
        host.windlass("gc", "--keep-generations", "1", "--apply", "--yes")
        found = [digest for digest, _ in host.images().values()]
        check(two.digest not in found, "the former image is still there")
        host.check(one)
        host.runs(one)
    with row.step("unload"):
        host.windlass("unload", "app")
        check(one.tag not in host.images(), "it still has its name")
        host.windlass("gc", "--keep-generations", "1", "--apply", "--yes")
        left = [name for name, (digest, _) in host.images().items() if digest != before[0]]
        check(left == [], f"left there: {left}")
        host.collect()
        check(host.others() == before, f"other people's image changed: {host.others()}, it was {before}")
    with row.step("redis"):
        redis_answers(row, host)
    row.finish()


def load_script(row, host, stack):
    """What the script beside the archives says and does."""
    row.run("windlass", "export", stack.path, "--output", f"{WORK}/folder")

    def load(*names, code=0, env=None):
        command = f'exec sh {WORK}/folder/load.sh "$@" 2>&1'
        said = row.run("sh", "-c", command, "sh", *names, code=code, env={"ENGINE": "ctr", **(env or {})})
        return said.splitlines()[-1]

    needs = f"load.sh: image app needs model {stack.model}, which is not loaded; load it first: sh load.sh {stack.model} app"
    check(load("app", code=1) == needs, "an image without its model is not refused")
    # containerd itself takes its record all the same, up to 1.7.
    row.try_run("ctr", "images", "import", f"{WORK}/folder/images/app.tar")
    check(load("app", code=1) == needs, "an image without its layers counts as there")
    check(load().endswith("present"), "not all were loaded")
    host.ctr("images", "import", f"{WORK}/folder/images/app.tar")
    host.runs(stack)
    check(load() == "0 loaded, 2 present", "what is there was loaded again")
    model = next(name for name in stack.names if name != stack.tag)
    host.ctr("images", "tag", "--force", model, stack.tag)
    check(load("app") == "0 loaded, 1 present", "an image without its tag was loaded again")
    check(host.images()[stack.tag][0] == stack.digest, "its tag was not moved back")
    check(load("ap", code=2) == f"load.sh: there is no image 'ap' in this stack; there are: {stack.model} app", "another name was taken")
    gone = load(code=7, env={"CONTAINERD_ADDRESS": f"{WORK}/nothing"})
    check(gone == "load.sh: containerd does not answer; start it, or set CONTAINERD_ADDRESS to the socket of one that runs", "a containerd that is not there is not told")
    host.clear(stack)


if __name__ == "__main__":
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    main(*sys.argv[1:])
