"""Docker, with its graph driver or with the containerd image store: windlass' archives in it, by what Docker itself reports.

    docker.py docker|docker20.10 overlay2|containerd    inside of a host that enter.sh has made
"""

import json
import os
import subprocess
import sys
import tarfile

import into
from steps import REGISTRY, WORK, Redis, Row, Stack, check, manifest_of, sha256, start_registry, wait_for, write

STEPS = ("set up", "load", "again", "digest", "run", "packed", "thin after model", "load.sh", "save", "push", *into.STEPS, "redis")


def start(row, variant):
    """dockerd, with a containerd of its own; both end with the row."""
    write("/etc/docker/daemon.json", json.dumps({
        "bridge": "none", "iptables": False, "ip6tables": False, "data-root": "/var/lib/docker", "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "features": {"containerd-snapshotter": variant == "containerd"},
    }))
    with open(f"{WORK}/dockerd.log", "wb") as log:
        subprocess.Popen(["dockerd"], stdout=log, stderr=log)
    try:
        wait_for(lambda: row.try_run("docker", "info", seconds=10)[1] == 0, "dockerd")
    finally:
        with open(f"{WORK}/dockerd.log", encoding="utf-8", errors="replace") as log:
            row.ran = log.read().splitlines()[-20:]


def check_image(row, stack, variant, digest=None):
    """The image's ID is our config's digest (graph drivers) or our manifest's, and the layers are ours."""
    found = row.json("docker", "image", "inspect", stack.tag)[0]
    want = (digest or stack.digest) if variant == "containerd" else stack.config
    check(found["Id"] == want, f"its ID is {found['Id']}, not {want}")
    with open(f"{stack.directory}/image.json", encoding="utf-8") as file:
        layers = [layer["diffId"] if "diffId" in layer else layer["digest"] for layer in json.load(file)["platforms"][0]["layers"]]
    check(found["RootFS"]["Layers"] == layers, f"its layers are {found['RootFS']['Layers']}, not {layers}")


def runs(row, stack, reference=None):
    """A container of it prints its text, and its model is in it."""
    options = ("docker", "run", "--rm", "--pull=never", "--network=none", "--read-only")
    printed = row.run(*options, reference or stack.tag)
    check(printed == stack.expected, f"the container printed {printed!r}, not {stack.expected!r}")
    size = row.run(*options, stack.tag, stack.command[0], "stat", "-c", "%s", "/models/tiny.gguf").strip()
    check(size == str(24 + 64 * 4096), f"the model in the container has {size} bytes")


def redis_answers(row):
    """redis from an image of ours, in a container that stays, and is asked."""
    redis = Redis(row)
    row.run("windlass", "load", redis.directory, "--into", "docker")
    row.run("docker", "run", "--detach", "--name", "redis", "--pull=never", "--network=none", redis.tag)
    redis.answers(lambda *command: row.try_run("docker", "exec", "redis", *command)[0])
    row.run("docker", "rm", "--force", "redis")
    row.run("windlass", "unload", "redis", "--into", "docker")


def load_script(row, stack, variant):
    """What the script beside the archives says and does, which takes Podman where both are there and it is not told."""
    row.run("docker", "rmi", "--force", *row.run("docker", "images", "--quiet").split())

    def load(*names, code=0, env=None):
        said = row.run("sh", "-c", f'exec sh {WORK}/folder/load.sh "$@" 2>&1', "sh", *names, code=code, env={"ENGINE": "docker", **(env or {})})
        return said.splitlines()[-1]

    needs = f"load.sh: image app needs model {stack.model}, which is not loaded; load it first: sh load.sh {stack.model} app"
    check(load("app", code=1) == needs, "an image without its model is not refused")
    # The containerd store takes it all the same, and says that it is there: without its layers.
    row.run("docker", "load", "--input", f"{WORK}/folder/images/app.tar", code=None)
    if variant == "containerd":
        row.run("docker", "image", "inspect", stack.tag)
    check(load("app", code=1) == needs, "an image without its layers counts as there")
    # With the model, what the containerd store has of the image is whole.
    check(load() == ("1 loaded, 1 present" if variant == "containerd" else "2 loaded, 0 present"), "not all were loaded")
    check_image(row, stack, variant)
    runs(row, stack)
    check(load() == "0 loaded, 2 present", "what is there was loaded again")
    # A tag that was moved is moved back.
    model = next(name for name in stack.names if name != stack.tag)
    row.run("docker", "tag", model, stack.tag)
    check(load("app") == "0 loaded, 1 present", "an image without its tag was loaded again")
    check_image(row, stack, variant)
    check(load("ap", code=2) == f"load.sh: there is no image 'ap' in this stack; there are: {stack.model} app", "another name was taken")
    gone = load(code=7, env={"DOCKER_HOST": f"unix://{WORK}/nothing"})
    check(gone == "load.sh: docker does not answer; start its daemon, or set DOCKER_HOST to one that runs", "a daemon that is not there is not told")
    check("knows podman, docker, ctr and k3s" in load(code=2, env={"ENGINE": "lxc"}), "another engine was taken")
    # Podman has no part in it.
    check(row.run("podman", "images", "--quiet") == "", "Podman has images")


def windlass_loads(row, one, two, variant):
    """`windlass load --into docker`, and what comes after it."""
    there = row.run("docker", "images", "--quiet").split()
    if there:
        row.run("docker", "rmi", "--force", *there)

    def ids():
        lines = row.run("docker", "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
        return dict(line.split() for line in lines if "<none>" not in line)

    def partial():
        places = {"overlay2": "/var/lib/docker/tmp", "containerd": "/var/lib/docker/containerd/daemon/io.containerd.content.v1.content/ingest"}
        found = [os.path.join(folder, name) for folder, _, names in os.walk(places[variant]) for name in names]
        return sum(os.path.getsize(path) for path in found if os.path.exists(path))

    into.Into(
        row, "docker", ids, lambda stack: stack.digest if variant == "containerd" else stack.config, lambda stack, name: runs(row, stack, name),
        partial, lambda name: row.run("docker", "rmi", name), lambda: into.bytes_of("/var/lib/docker"),
    ).steps(one, two)


def main(engine, variant):
    # What is the same in 20.10, and what its archives do, was seen once by hand.
    old = engine == "docker20.10"
    row = Row(engine, variant, ("set up", *into.STEPS, "redis") if old else STEPS)
    with row.step("set up"):
        one, two = Stack(row, "app", 1), Stack(row, "app", 2)
        row.run("windlass", "export", one.directory, "--output", f"{WORK}/one.tar")
        start_registry()
        start(row, variant)
        said = row.json("docker", "version", "--format", "{{json .}}")["Server"]
        row.versions = f"Docker {said['Version'].split('+')[0]}, {row.run('runc', '--version').split()[2]} of runc"
        driver = row.run("docker", "info", "--format", "{{.Driver}} {{.DriverStatus}}")
        check(("io.containerd.snapshotter" in driver) == (variant == "containerd"), f"another image store: {driver}")
    if row.results["set up"] != "ok":
        row.finish()

    if old:
        windlass_loads(row, one, two, variant)
        with row.step("redis"):
            redis_answers(row)
        row.finish()

    with row.step("load"):
        said = row.run("docker", "load", "--input", f"{WORK}/one.tar")
        check(one.tag in said, f"docker load does not say {one.tag}: {said}")
        check_image(row, one, variant)
    with row.step("again"):
        row.run("docker", "load", "--input", f"{WORK}/one.tar")
        check_image(row, one, variant)
        listed = row.run("docker", "images", "--all", "--quiet", "--no-trunc").split()
        check(len(set(listed)) == 1, f"docker lists {listed}")
    with row.step("digest"):
        found = row.json("docker", "image", "inspect", one.tag)[0]["RepoDigests"]
        if variant == "containerd":
            check([name.split("@")[1] for name in found] == [one.digest], f"its digests are {found}, not {one.digest}")
            runs(row, one, one.by_digest)
        else:
            # It knows a digest only of what a registry gave it.
            check(found == [], f"a graph driver now has digests: {found}")
            row.note("digest", "none; the ID is ours")
    with row.step("run"):
        runs(row, one)
    with row.step("packed"):
        for compression in ("gzip", "zstd"):
            row.run("windlass", "export", two.directory, "--output", f"{WORK}/{compression}.tar", "--compression", compression)
            with tarfile.open(f"{WORK}/{compression}.tar") as archive:
                packed = json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]
            row.run("docker", "load", "--input", f"{WORK}/{compression}.tar")
            check_image(row, two, variant, packed)
            runs(row, two)
    with row.step("thin after model"):
        row.run("docker", "rmi", "--force", *row.run("docker", "images", "--quiet").split())
        row.run("windlass", "export", two.path, "--output", f"{WORK}/folder")
        for archive in (f"models/{two.model}", "images/app"):
            row.run("docker", "load", "--input", f"{WORK}/folder/{archive}.tar")
        check_image(row, two, variant)
        runs(row, two)
    with row.step("load.sh"):
        load_script(row, two, variant)
    with row.step("save"):
        row.run("docker", "save", "--output", f"{WORK}/saved.tar", two.tag)
        with tarfile.open(f"{WORK}/saved.tar") as archive:
            manifest = json.load(archive.extractfile("manifest.json"))[0]
            layers = [sha256(archive.extractfile(name).read()) for name in manifest["Layers"]]
            index = json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]
        want = row.json("docker", "image", "inspect", two.tag)[0]["RootFS"]["Layers"]
        check(layers == want, f"saved the layers {layers}, not {want}")
        if variant == "containerd":
            check(index == two.digest, f"saved the manifest {index}, not {two.digest}")
    with row.step("push"):
        row.run("docker", "tag", two.tag, f"{REGISTRY}/team/app:1")
        row.run("docker", "push", "--quiet", f"{REGISTRY}/team/app:1")
        manifest = manifest_of("team/app", "1")
        if variant == "containerd":
            check(sha256(manifest) == two.digest, f"the registry has {sha256(manifest)}, not {two.digest}")
        else:
            # It packs the layers for the registry; the image stays the same one.
            config = json.loads(manifest)["config"]["digest"]
            check(config == two.config, f"the config in the registry is {config}, not {two.config}")
            row.note("push", "another digest; the ID is ours")
    windlass_loads(row, one, two, variant)
    with row.step("redis"):
        redis_answers(row)
    row.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
