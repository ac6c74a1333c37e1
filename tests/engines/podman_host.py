"""The host of a row with Podman: its settings, its variants of storage.conf, and what Podman says of itself to each user."""

import os
import sys

from steps import WORK, Failed, check, write

STORE = "/nix/var/windlass/storage"
USERS = (None, "ann", "ben")
# Podman 4.3 and 5.4 read one storage.conf and no drop-ins.
OLD = ("debian12", "debian13")


def runtime(row):
    """crun 1.8 of Debian 12 sets a limit that not every machine lets it set."""
    return "runc" if row.engine == "debian12" else "crun"


def settings(row):
    """What this machine needs whatever the variant: no limits that it may not set, no systemd."""
    write("/etc/containers/containers.conf", """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
pids_limit = 0

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
pull_policy = "never"
runtime = "RUNTIME"
""".replace("RUNTIME", runtime(row)))
    for number, user in ((1000, "ann"), (1001, "ben")):
        os.makedirs(f"/run/user/{number}", mode=0o700)
        os.chown(f"/run/user/{number}", number, number)
    write("/home/ben/.config/containers/storage.conf", """[storage]
driver = "overlay"
graphroot = "/home/ben/graph"
runroot = "/run/user/1001/own"
""")
    row.run("chown", "--recursive", "ben:ben", "/home/ben")


def store_of_others(row, path):
    """An image store that was there before windlass, with an image of its own."""
    row.run("podman", "--root", path, "--runroot", "/run/others", "--storage-driver", "overlay", "import", f"{WORK}/tool.tar",
            "localhost/others:1")
    row.run("umount", f"{path}/overlay", code=None)
    row.run("chmod", "--recursive", "a+rX", path)


def variant_none(_row):
    """No storage.conf at all."""
    os.remove("/usr/share/containers/storage.conf")


def variant_debian(_row):
    """Debian's own file, as its package brings it."""
    check(os.path.exists("/usr/share/containers/storage.conf"), "Debian's package brings no storage.conf")


def variant_fedora(row):
    """Fedora's packaged files. Up to Podman 5 one file; from then on one without a graph root, and a drop-in that names the vendor's store."""
    stores = 'additionalimagestores = ["/usr/lib/containers/storage"]\n'
    if row.engine in OLD:
        places = 'runroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n'
        main = f'[storage]\ndriver = "overlay"\n{places}\n[storage.options]\n{stores}'
    else:
        main = '[storage]\ndriver = "overlay"\n'
        write("/usr/share/containers/storage.rootful.conf.d/00-vendor.conf", f"[storage.options]\n{stores}")
    store_of_others(row, "/usr/lib/containers/storage")
    write("/usr/share/containers/storage.conf", f'{main}\n[storage.options.overlay]\nmountopt = "nodev,metacopy=on"\n')


def variant_drop_in(row):
    """A drop-in of the administrator: its list replaces those that came before it."""
    os.remove("/usr/share/containers/storage.conf")
    store_of_others(row, "/srv/images")
    write("/etc/containers/storage.conf.d/90-site.conf", '[storage.options]\nadditionalimagestores = ["/srv/images"]\n')


def variant_home(_row):
    """root has a storage.conf in its home."""
    write("/root/.config/containers/storage.conf",
          '[storage]\ndriver = "overlay"\ngraphroot = "/var/lib/containers/roots"\nrunroot = "/run/roots"\n')


VARIANTS = {"none": variant_none, "debian": variant_debian, "fedora": variant_fedora, "drop-in": variant_drop_in, "home": variant_home}


def info(row, user=None):
    """Where the Podman of a user has its things, as it says itself."""
    store = row.json("podman", "info", "--format", "json", user=user)["store"]
    # Each version writes this option in its own way.
    stores = [value for name, value in (store.get("graphOptions") or {}).items() if name.lower().endswith(("imagestore", "imagestores"))]
    stores = [path for value in stores for path in ([value] if isinstance(value, str) else value)]
    return {"graphRoot": store["graphRoot"], "runRoot": store["runRoot"], "driver": store["graphDriverName"], "stores": sorted(stores)}


def images(row, user=None):
    """Every name that Podman lists, with its digest."""
    listed = row.json("podman", "images", "--format", "json", user=user)
    return {name: image["Digest"] for image in listed for name in image.get("Names") or ()}


def state(row, user):
    """What works for a user: what its Podman says, lists and runs; the failure, where it does not."""
    found = {}
    for name, ask in (
        ("info", lambda: info(row, user)),
        ("images", lambda: images(row, user)),
        ("run", lambda: row.run("podman", "run", "--rm", "localhost/own:1", "/bin/busybox", "echo", "it runs", user=user)),
    ):
        try:
            found[name] = ask()
        except (Failed, ValueError) as failure:
            found[name] = None
            print(f"       {user or 'root'}: podman {name} does not work: {failure}", file=sys.stderr)
    return found


def kept(row, before, after, user):
    """Whatever worked for a user before works after."""
    who = user or "root"
    for what, was in before.items():
        check(was is None or after[what] is not None, f"{who}: podman {what} worked before `doctor --fix`, and does not after it")
    for what in ("graphRoot", "runRoot", "driver") if before["info"] else ():
        check(before["info"][what] == after["info"][what], f"{who}: {what} was {before['info'][what]}, is {after['info'][what]}")
    if before["info"]:
        # Podman 4.3 prints the last of several stores.
        lost = set() if row.engine == "debian12" else set(before["info"]["stores"]) - set(after["info"]["stores"])
        check(not lost, f"{who}: Podman no longer names the image stores {sorted(lost)}")
    lost = {name for name, digest in (before["images"] or {}).items() if after["images"].get(name) != digest}
    check(not lost, f"{who}: Podman no longer lists {sorted(lost)}")
