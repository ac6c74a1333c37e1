#!/usr/bin/env python3
"""Boots a Debian with the units of the NixOS modules, and checks what they do. `./dev machine` runs it.

  checks.py [--suite trixie|sid] [--root DIR] [--restarts N] [STEP...]

Each step prints what it found and how long it took. Nothing here has a network: the machine has its loopback alone, and
what tried to leave it is counted. A failed step is told with the journal of the machine, and the exit code is 1.
"""

import argparse
import fcntl
import os
import re
import signal
import subprocess
import sys
import time

import machine as debian
from machine import Failed, Machine
from steps import Steps

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
NIX = "experimental-features = nix-command flakes\nsandbox = false\nbuild-users-group =\nsubstitute = false"
STEPS = """boot healthy_when_serving unchanged changed back secrets kill prune artifact restarts reboot model_use rollback timers
 quadlet model_image rootless home offline""".split()
VARIANTS = "base changed bind image timers quadlet quadletchanged rootless home none".split()


def build(variant, suite):
    words = ["nix-build", "--no-out-link", f"{HERE}/system.nix", "--argstr", "variant", variant]
    if suite != "trixie":
        # Its Podman 5.8 is built with the library that brought the new rules, which is otherwise that of Podman 6.
        words += ["--argstr", "podmanVersion", "6.0"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(done.stderr)
    return done.stdout.strip()


def run(session, steps, log):
    """Those that failed."""
    failed = []
    # Whatever a former run has left, the first step begins anew.
    for step in steps if steps[0] == "boot" else ["boot", *steps]:
        function = getattr(session, f"step_{step}")
        what = re.sub(r"\s+", " ", function.__doc__)
        begin = time.monotonic()
        try:
            found = function()
            session.say(f"ok      {what} ({time.monotonic() - begin:.1f} s): {found}")
        except (Failed, subprocess.SubprocessError, ValueError, KeyError, IndexError) as error:
            failed.append(step)
            session.say(f"FAILED  {what} ({time.monotonic() - begin:.1f} s): {type(error).__name__} {error}")
            if session.box.leader:
                log.write(session.box.call("journalctl --boot --no-pager --output short-monotonic | tail -300; podman ps --all").stdout)
    return failed


def main():
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--suite", default="trixie", help="the Debian: trixie (default), sid, …")
    parser.add_argument("--root", help="where its root file system is kept (default: target/machine/SUITE)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="the archive that it is made from")
    parser.add_argument("--restarts", type=int, default=20, help="how often `restarts` restarts each service (default: 20)")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"in this order, by default all: {' '.join(STEPS)}")
    args = parser.parse_args()
    for step in args.steps:
        if step not in STEPS:
            parser.error(f"there is no step {step}; there are {' '.join(STEPS)}")
    steps = args.steps or STEPS
    os.environ["NIX_CONFIG"] = NIX
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kept = os.path.abspath(args.root or f"{TOP}/target/machine/{args.suite}")
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    with open(f"{kept}.lock", "w") as lock, open(f"{kept}.log", "w") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        session = Steps(Machine(kept, f"windlass-{args.suite}"), {}, log, args.restarts)
        if debian.make_root(kept, args.suite, args.mirror, log):
            session.say(f"a Debian {args.suite} made in {kept}")
        debian.set_up(kept)
        for variant in VARIANTS:
            session.systems[variant] = build(variant, args.suite)
            debian.copy_system(kept, session.systems[variant], log)
        session.say(f"{len(VARIANTS)} systems built and in the machine's store")
        try:
            failed = run(session, steps, log)
        finally:
            session.box.stop()
        session.say(f"{len(steps) - len(failed)} of {len(steps)} steps are right" + (f"; failed: {' '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
