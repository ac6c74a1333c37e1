"""A Podman of the matrix, in one variant of storage.conf: what windlass does with it, by what Podman itself reports.

    podman.py ENGINE VARIANT    inside of a host that enter.sh has made
"""

import gzip
import json
import os
import sys
import tarfile

from podman_host import STORE, USERS, VARIANTS, images, info, kept, runtime, settings, state
from records import differences
from steps import REGISTRY, WORK, Failed, Row, Stack, check, manifest_of, sha256, start_registry, tool_folder

STEPS = (
    "set up", "pulled", "pulled, user", "doctor", "doctor --fix", "users kept", "linked", "records", "again", "run", "verify --full", "prune",
    "rollback", "gc", "save", "push", "rootless",
)

# Whose rootless users read what /etc says of stores.
NEW_RULES = ("sid", "experimental")


def loaded(row, stack, action, user=None, options=()):
    """Loads a stack; each of its images must have gone this way (`new`: the image so, its model was there), and Podman must list each
    with its digest."""
    want = {name: action if name == stack.tag or action != "new" else "present" for name in stack.names}
    if action == "new":
        want[stack.tag] = "link"
    report = row.json("windlass", "load", stack.path, "--json", *options, user=user)
    actions = {image["ref"]: image["action"] for image in report["images"]}
    check(actions == want, f"loaded {actions}, expected {want}")
    check(report["network"] == 0, "it used the network")
    if action == "present":
        check(report["written"] == 0 and report["linked"] == 0, f"nothing was to be written: {report['written']} B")
    check_listed(row, stack, user)
    return report


def check_listed(row, stack, user=None):
    """Podman lists the stack's images, with our digests."""
    listed = images(row, user)
    for name, digest in stack.names.items():
        check(listed.get(name) == digest, f"`podman images` has {name} as {listed.get(name)}, not {digest}")


def runs(row, stack, user=None, reference=None):
    """A container of it prints its text, and its model is in it."""
    reference = reference or stack.by_digest
    options = ("podman", "run", "--rm", "--pull=never", "--network=none", "--read-only")
    printed = row.run(*options, reference, user=user)
    check(printed == stack.expected, f"the container printed {printed!r}, not {stack.expected!r}")
    size = row.run(*options, reference, stack.command[0], "stat", "-c", "%s", "/models/tiny.gguf", user=user).strip()
    check(size == str(24 + 64 * 4096), f"the model in the container has {size} bytes")


def check_saved(row, stack):
    """What Podman saves has our layers byte for byte and our config, as both kinds of archive."""
    row.run("podman", "save", "--quiet", "--format", "docker-archive", "--output", f"{WORK}/saved.tar", stack.tag)
    want = row.json("podman", "image", "inspect", stack.by_digest)[0]["RootFS"]["Layers"]
    with tarfile.open(f"{WORK}/saved.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]
        layers = [sha256(archive.extractfile(name).read()) for name in manifest["Layers"]]
        config = sha256(archive.extractfile(manifest["Config"]).read())
    check((layers, config) == (want, stack.config), f"saved the layers {layers}, not {want}; the config {config}, not {stack.config}")
    row.run("podman", "save", "--quiet", "--format", "oci-archive", "--output", f"{WORK}/saved-oci.tar", stack.tag)
    with tarfile.open(f"{WORK}/saved-oci.tar") as archive:
        blob = lambda digest: archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}").read()
        digest = json.load(archive.extractfile("index.json"))["manifests"][0]["digest"]
        manifest = json.loads(blob(digest))
        # Podman packs what it writes as OCI.
        layers = [sha256(gzip.decompress(blob(layer["digest"]))) for layer in manifest["layers"]]
    check((layers, manifest["config"]["digest"]) == (want, stack.config), f"saved as OCI: layers {layers}, {manifest['config']}")


def check_pushed(row, stack):
    """To a folder and with --preserve-digests to a registry the digest is ours; what Podman packs for a registry has our config."""
    row.run("podman", "push", "--quiet", stack.by_digest, f"dir:{WORK}/pushed")
    with open(f"{WORK}/pushed/manifest.json", "rb") as file:
        found = sha256(file.read())
    check(found == stack.digest, f"pushed to a folder: {found}, not {stack.digest}")
    row.run("podman", "push", "--quiet", "--tls-verify=false", stack.by_digest, f"docker://{REGISTRY}/team/app:packed")
    config = json.loads(manifest_of("team/app", "packed"))["config"]["digest"]
    check(config == stack.config, f"the config in the registry is {config}, not {stack.config}")
    options = ("--quiet", "--preserve-digests", "--dest-tls-verify=false")
    # The store is named: skopeo of Debian 12 does not read what Podman does.
    at = info(row)
    place = f"[overlay@{at['graphRoot']}+{at['runRoot']}:overlay.imagestore={STORE}]"
    row.run("skopeo", "copy", *options, f"containers-storage:{place}{stack.by_digest}", f"docker://{REGISTRY}/team/app:1")
    found = sha256(manifest_of("team/app", "1"))
    check(found == stack.digest, f"the registry has {found}, not {stack.digest}")


def rootless(row, stack):
    """A user's own Podman has root's images, where root shares them, and runs them."""
    row.run("windlass", "doctor", "--share")
    row.run("windlass", "doctor", "--close")
    check(state(row, "ann")["info"] is not None, "ann: no podman command works after `doctor --close`")
    check_listed(row, stack)
    row.run("windlass", "doctor", "--share")
    if row.engine in NEW_RULES:
        # One file of root's names the store for all.
        check_listed(row, stack, "ann")
    if info(row, "ann")["driver"] != "overlay":
        # Without a storage.conf Podman 4.3 takes vfs for such a user, which has no image stores: refused, and nothing changed.
        was = state(row, "ann")
        said = row.run("windlass", "doctor", "--fix", "--storage-dir", STORE, user="ann", code=7)
        check("the storage driver is vfs" in said, "windlass does not say that the driver is vfs")
        check(state(row, "ann") == was, "ann: something changed")
        row.note("rootless", "vfs: refused")
        return
    try:
        check_listed(row, stack, "ann")
    except Failed:
        row.run("windlass", "doctor", "--fix", "--storage-dir", STORE, user="ann")
        check_listed(row, stack, "ann")
    runs(row, stack, "ann")
    row.run("podman", "rmi", "--all", "--force", user="ann", code=None)
    check_listed(row, stack, "ann")
    check_listed(row, stack)


def main(engine, variant):
    row = Row(engine, variant, STEPS)
    with row.step("set up"):
        os.makedirs(WORK, exist_ok=True)
        settings(row)
        with tarfile.open(f"{WORK}/tool.tar", "w") as archive:
            archive.add(tool_folder(), arcname=".")
        row.versions = versions(row)
        before, one, two = Stack(row, "before", 1), Stack(row, "app", 1), Stack(row, "app", 2)
        VARIANTS[variant](row)
        # As on NixOS.
        row.run("mount", "--bind", "/nix/store", "/nix/store")
        row.run("mount", "-o", "remount,ro,bind", "/nix/store")
        start_registry()
        for user in USERS:
            row.run("podman", "import", f"{WORK}/tool.tar", "localhost/own:1", user=user)
    if row.results["set up"] != "ok":
        row.finish()

    for name, user in (("pulled", None), ("pulled, user", "ann")):
        with row.step(name):
            loaded(row, before, "pull", user)
            loaded(row, before, "present", user)
            runs(row, before, user)
            row.run("windlass", "verify", "--full", user=user)
    was = {user: state(row, user) for user in USERS}
    with row.step("doctor"):
        # It says that there is no linked store, and changes nothing.
        report = row.json("windlass", "doctor", "--json", code=7)
        check(was[None]["info"]["graphRoot"] in json.dumps(report), f"doctor does not say {was[None]['info']['graphRoot']}")
        for user in USERS:
            check(state(row, user) == was[user], f"{user or 'root'}: something changed")
    with row.step("doctor --fix"):
        row.run("windlass", "doctor", "--fix")
        check(STORE in info(row)["stores"], f"Podman does not name {STORE}: {info(row)}")
        row.run("windlass", "doctor")
    with row.step("users kept"):
        for user in USERS:
            kept(row, was[user], state(row, user), user)
    with row.step("linked"):
        loaded(row, one, "link")
    with row.step("records"):
        # The same image, pulled by this Podman into a store of its own.
        row.run("windlass", "export", one.directory, "--format", "oci", "--output", f"{WORK}/oci")
        options = ("--root", "/srv/pulled", "--runroot", "/run/pulled", "--storage-driver", "overlay")
        identifier = row.run("podman", *options, "pull", "--quiet", f"oci:{WORK}/oci").strip()
        check(identifier == one.config.removeprefix("sha256:"), f"Podman pulled {identifier}")
        found = differences("/srv/pulled", STORE, identifier)
        check(not found, "the linked store has other records than Podman makes:\n" + "\n".join(found))
    with row.step("again"):
        loaded(row, one, "present")
    with row.step("run"):
        runs(row, one)
    with row.step("verify --full"):
        report = row.json("windlass", "verify", "--full", "--json")
        check(report["images"] and report["read"] and not report["problems"], f"{report}")
    with row.step("prune"):
        row.run("podman", "image", "prune", "--all", "--force")
        row.run("podman", "system", "prune", "--all", "--force")
        check_listed(row, one)
        loaded(row, one, "present")
    with row.step("rollback"):
        loaded(row, two, "new")
        runs(row, two, reference=two.tag)
        row.run("windlass", "rollback")
        check_listed(row, one)
        runs(row, one, reference=one.tag)
    with row.step("gc"):
        row.run("windlass", "gc", "--apply", "--aggressive", "--yes")
        gone = row.try_run("podman", "image", "exists", two.by_digest)[1]
        check(gone == 1, f"the superseded {two.by_digest} is still there")
        check_listed(row, one)
        runs(row, one)
    with row.step("save"):
        check_saved(row, one)
    with row.step("push"):
        check_pushed(row, one)
    with row.step("rootless"):
        rootless(row, one)
    row.finish()


def versions(row):
    """Of the Podman and what it works with."""
    said = lambda *command: row.run(*command).split("\n")[0].split()
    parts = [f"Podman {said('podman', '--version')[-1]}", f"{runtime(row)} {said(runtime(row), '--version')[-1]}",
             f"skopeo {said('skopeo', '--version')[2]}", f"Nix {said('nix-store', '--version')[-1]}"]
    return ", ".join(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
