"""windlass beside cat, cp, openssl, tar and Podman, in the same run, as a Markdown table."""

import datetime
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import build_rows
import load_rows
import model_rows
import registry_rows
from common import (
    FILES, GNU_TIME, LONG, MEMORY_AIM, MIB, MODEL, NEEDS, ROUNDS, ROWS, WINDLASS, WORK, XFS, in_child, make_closure,
    model_spec, noise, say, shell, vouch,
)

ONLY = os.environ.get("BENCH_ONLY")


def machine():
    first = lambda command: (shell(command).splitlines() or ["not there"])[0].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = first("sed -n 's/^model name[^:]*: //p' /proc/cpuinfo")
    file_system = shell(f"df --output=fstype {shlex.quote(str(WORK))}").split()[-1]
    return [
        f"- Machine: {cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB; Linux {os.uname().release}; "
        f"{file_system}",
        f"- Date: {datetime.date.today()}; load before the start: {os.getloadavg()[0]:.1f}",
        "- " + "; ".join([first(f"{shlex.quote(WINDLASS)} --version"), first("openssl version"), first("tar --version"),
                          first("cp --version"), first("umoci --version"), first("skopeo --version"), first("podman --version")]),
    ]


def main():
    if not os.access(WINDLASS, os.X_OK):
        say("no windlass: `cargo build --release` first, or name one in WINDLASS")
        sys.exit(7)
    clean()
    WORK.mkdir(parents=True)
    if shutil.disk_usage(WORK).free < NEEDS:
        say(f"the benchmark needs {NEEDS / 1e9:.0f} GB free in target; free some, or set BENCH_DIR to a folder elsewhere")
        sys.exit(5)
    head = machine()
    say("making the inputs")
    in_child(lambda: noise(MODEL, MIB << 20, "model"))
    vouch(MODEL)
    in_child(make_closure)
    model_spec("model", MODEL)
    size = sum(info["narSize"] for info in json.loads((WORK / "closure.json").read_text()))
    notes = []
    if ONLY in (None, "load", "bundle"):
        if os.geteuid() == 0 and shutil.which("podman") and shutil.which("skopeo"):
            load_rows.rows(notes, [ONLY] if ONLY else ["load", "bundle"])
        else:
            notes.append("Loading: not measured, needs root, podman and skopeo.")
    if ONLY in (None, "model"):
        if os.geteuid() == 0 and shutil.which("podman"):
            model_rows.rows(notes)
        else:
            notes.append("Models in images: not measured, needs root and podman.")
    if ONLY in (None, "registry"):
        if shutil.which("docker-registry") and shutil.which("skopeo"):
            registry_rows.rows(notes)
        else:
            notes.append("Registries: not measured, needs docker-registry and skopeo.")
    if ONLY in (None, "build"):
        build_rows.closure()
        build_rows.model()
        read, app_size = build_rows.app_change()
        build_rows.peers()
        notes.append(f"App changed: {read:,} bytes read, all of the app ({app_size:,}); of the model none: its file was "
                     "moved away.")
        if os.geteuid() == 0 and shutil.which("mkfs.xfs"):
            used, length = build_rows.xfs()
            notes.append(f"XFS: the archive of {length:,} bytes takes {used:,} bytes of the disk.")
        else:
            notes.append("XFS: not measured, needs root and mkfs.xfs.")
    floor = 0 if GNU_TIME else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = [
        "# Benchmark", "", "Written by `./dev bench`.", "", *head,
        f"- Model: one file of {MIB << 20:,} bytes. Closure: {FILES:,} files of 60 store paths, {size:,} bytes. "
        f"Both are in the page cache.", "",
        "| what | windlass | baseline | ratio | aim | peak memory |", "|---|---|---|---|---|---|", *ROWS, "",
        f"Medians of {ROUNDS} rounds ({LONG} where the model is written) in which the commands take turns. Seconds are "
        "wall-clock, CPU those of user and system. The ratio is the median of the rounds' ratios, in brackets the "
        "least and the largest. Whatever windlass writes is on the disk when it ends (fsync, then rename), so `sync "
        f"FILE` follows what it is compared with. Peak memory is the largest of all rounds"
        + (f", not told below {floor:.0f} MiB" if floor else "") + f"; the aim is less than {MEMORY_AIM} MiB.", "", *(f"- {note}" for note in notes), "",
    ]
    text = "\n".join(lines)
    print(text, end="")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)


def clean():
    if os.path.ismount(XFS):
        subprocess.run(["umount", XFS], check=True)
    shutil.rmtree(WORK, ignore_errors=True)


def stopped(*_):
    sys.exit(143)


signal.signal(signal.SIGTERM, stopped)
try:
    main()
finally:
    clean()
