#!/usr/bin/python3
"""What NixOS' switch-to-configuration-ng does with units, on a Debian.

  switch.py boot SYSTEM     files of /etc and the profile, for the next boot
  switch.py switch SYSTEM   and the units that changed: stop, activate, reload, restart, start

The order and the keys (X-StopIfChanged, X-RestartIfChanged) are those of nixpkgs' switch-to-configuration-ng. A failed unit
is exit code 4, as there: also one that failed before, and is not a unit of the system, as a health check of Podman's is.
"""

import json
import os
import subprocess
import sys

PROFILE = "/nix/var/nix/profiles/system"
MADE = "/var/lib/machine-files"


def call(*words):
    return subprocess.run(words, check=False).returncode


def units(system):
    """Name -> what the unit is made of."""
    found = {}
    folder = f"{system}/units"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = f"{folder}/{name}"
        if name.endswith((".wants", ".requires")):
            continue
        if name.endswith(".d"):
            with open(f"{path}/overrides.conf") as file:
                found[name[:-2]] = found.get(name[:-2], "") + file.read()
        elif os.path.islink(path):
            found[name] = f"link {os.readlink(path)}\n" + found.get(name, "")
        else:
            with open(path) as file:
                found[name] = file.read() + found.get(name, "")
    return found


def is_active(unit):
    return call("systemctl", "is-active", "--quiet", unit) == 0


def plan(old, new):
    """Units to stop, to restart and to start."""
    stop, restart, start = [], [], []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name) or name not in old or not is_active(name):
            continue
        if name not in new:
            stop.append(name)
        elif "X-RestartIfChanged=false" in new[name]:
            continue
        elif "X-StopIfChanged=false" in new[name]:
            restart.append(name)
        else:
            stop.append(name)
            start.append(name)
    return stop, restart, start


def set_up_etc(system):
    """Links from /etc to the system's files; those of the former system go."""
    try:
        with open(MADE) as file:
            former = json.load(file)
    except FileNotFoundError:
        former = []
    for path in former:
        if os.path.lexists(path):
            os.unlink(path)
    made = []
    places = {"units": "/etc/systemd/system", "user-units": "/etc/systemd/user", "etc": "/etc", "tmpfiles": "/etc/tmpfiles.d"}
    for part, place in places.items():
        for folder, _, names in os.walk(f"{system}/{part}"):
            for name in names:
                path = f"{folder}/{name}"
                at = f"{place}/{os.path.relpath(path, f'{system}/{part}')}"
                os.makedirs(os.path.dirname(at), exist_ok=True)
                if os.path.lexists(at):
                    os.unlink(at)
                # A link may lead to what a generator makes later.
                os.symlink(os.readlink(path) if os.path.islink(path) else path, at)
                made.append(at)
    with open(MADE, "w") as file:
        json.dump(made, file)


def failed():
    words = ["systemctl", "list-units", "--failed", "--plain", "--no-legend"]
    return {line.split()[0] for line in subprocess.run(words, capture_output=True, text=True).stdout.splitlines()}


def main():
    mode, system = sys.argv[1], os.path.realpath(sys.argv[2])
    former = os.path.realpath(PROFILE) if os.path.lexists(PROFILE) else ""
    stop, restart, start = plan(units(former), units(system)) if mode == "switch" else ([], [], [])
    if mode == "switch":
        print(json.dumps({"stop": stop, "restart": restart, "start": start}), flush=True)
    if stop:
        call("systemctl", "stop", *stop)
    set_up_etc(system)
    if mode == "switch" and call("/bin/sh", "-e", f"{system}/activate") != 0:
        return 2
    os.makedirs(os.path.dirname(PROFILE), exist_ok=True)
    os.symlink(system, f"{PROFILE}.new")
    os.rename(f"{PROFILE}.new", PROFILE)
    if mode == "boot":
        return 0
    call("systemctl", "daemon-reload")
    call("systemctl", "restart", "sysinit-reactivation.target")
    call("systemd-tmpfiles", "--create", "--remove", "--exclude-prefix=/dev")
    if restart:
        call("systemctl", "restart", "--", *restart)
    code = call("systemctl", "start", "--", "timers.target", "multi-user.target", *start)
    if found := failed():
        print("failed:", *sorted(found), flush=True)
        return 4
    return 4 if code else 0


sys.exit(main())
