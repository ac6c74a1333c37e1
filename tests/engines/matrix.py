#!/usr/bin/env python3
"""windlass with every Podman from 4.3 to 6.1, with Docker 20.10 and 28 and containerd: `./dev engines`.

    tests/engines/matrix.py [ENGINE[/VARIANT]…] [--jobs N] [--binary FILE] [--output FILE]

Makes the Debians that are missing, runs each row in a host of its own (enter.sh), and prints a table of what each step came to.
Ends with 1 if a step failed, with 7 if a Debian cannot be made.
"""

import argparse
import concurrent.futures
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# A row that needs longer is ended, and fails.
SECONDS = 360

PODMAN_VARIANTS = ("none", "debian", "fedora", "drop-in", "home")
ENGINES = {
    # name: (Debian's suite, script, variants)
    "debian12": ("bookworm", "podman.py", PODMAN_VARIANTS),
    "debian13": ("trixie", "podman.py", PODMAN_VARIANTS),
    "sid": ("sid", "podman.py", PODMAN_VARIANTS),
    "experimental": ("experimental", "podman.py", PODMAN_VARIANTS),
    "docker": ("sid", "docker.py", ("overlay2", "containerd")),
    "docker20.10": ("docker20.10", "docker.py", ("overlay2",)),
    "containerd": ("sid", "containerd.py", ("overlayfs",)),
    "containerd-load": ("sid", "containerd_load.py", ("ext4", "xfs", "k3s")),
    "containerd12-load": ("bookworm", "containerd_load.py", ("ext4",)),
    "containerd13-load": ("trixie", "containerd_load.py", ("ext4",)),
    "crio": ("sid", "crio.py", ("linked",)),
    "erofs": ("sid", "erofs.py", ("xfs",)),
    "served": ("sid", "served.py", ("docker", "containerd")),
}
# Programs that are in no Debian, by the engine that is run with them: what names their folder.
OTHERS = {
    "crio": ("CRIO_BIN", ("crio", "crictl", "pinns")),
    "erofs": ("CONTAINERD_BIN", ("containerd", "ctr", "containerd-shim-runc-v2", "crictl")),
}


def rows(wanted):
    """The rows that were asked for, or all."""
    every = [(engine, variant) for engine, (_, _, variants) in ENGINES.items() for variant in variants]
    unknown = [name for name in wanted if name not in ENGINES and tuple(name.split("/")) not in every]
    if unknown:
        names = " ".join([*ENGINES, "debian13/fedora"])
        sys.exit(f"no such row of the matrix: {' '.join(unknown)}; there are {names} and so on")
    chosen = [row for row in every if not wanted or row[0] in wanted or "/".join(row) in wanted]
    # Debian has no package of them.
    for engine, (variable, programs) in OTHERS.items():
        folder = os.environ.get(variable, "")
        if any(row[0] == engine for row in chosen) and not all(os.path.exists(f"{folder}/{program}") for program in programs):
            print(f"{engine} is not run: {variable} names no folder with {', '.join(programs)}", file=sys.stderr)
            chosen = [row for row in chosen if row[0] != engine]
    if any(row[0] == "served" for row in chosen) and not os.path.exists(f"{ROOT}/target/engines-bundle/stack.json"):
        print("served is not run: `./dev engines --full` makes the bundle of the example stack that it loads", file=sys.stderr)
        chosen = [row for row in chosen if row[0] != "served"]
    return chosen


class Runner:
    """Runs rows, some at a time; what is left of rows of a run that was killed is removed first."""

    def __init__(self, binary):
        self.binary = binary
        self.folder = os.path.join(ROOT, "target", "engines-run")
        self.children = set()
        os.makedirs(self.folder, exist_ok=True)
        # pylint: disable-next=consider-using-with
        self.lock = open(os.path.join(self.folder, "lock"), "w", encoding="utf-8")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another run of the matrix holds {self.lock.name}; wait for it to end")
        for name in os.listdir(self.folder):
            if name != "lock":
                subprocess.run([f"{HERE}/enter.sh", "--clean", os.path.join(self.folder, name)], check=True)

    def run(self, engine, variant):
        """One row: its versions, what each step came to, and its seconds."""
        suite, script, _ = ENGINES[engine]
        scratch = os.path.join(self.folder, f"{engine}-{variant}")
        command = [f"{HERE}/enter.sh", f"{chroots()}/{suite}", scratch, str(SECONDS), "python3", f"/src/tests/engines/{script}", engine, variant]
        began = time.monotonic()
        environment = {**os.environ, "WINDLASS": self.binary, "DISK": variant}
        for other, (variable, _) in OTHERS.items():
            if other != engine:
                environment.pop(variable, None)
        with subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as child:
            self.children.add(child)
            said = child.communicate()[0].decode(errors="replace")
            self.children.discard(child)
        seconds = time.monotonic() - began
        try:
            with open(f"{scratch}.json", encoding="utf-8") as file:
                found = json.load(file)
            os.remove(f"{scratch}.json")
        except FileNotFoundError:
            # Nothing was found out: it was ended for want of time, or there is no such host. What it said comes first.
            found = {"versions": "", "results": {}}
            said += f"FAILED {engine}, {variant}: ended with {child.returncode} after {seconds:.0f} s, before its steps did\n"
        # In one piece, whatever runs beside it.
        sys.stderr.write(said)
        sys.stderr.flush()
        return {"engine": engine, "variant": variant, "code": child.returncode, "seconds": seconds, **found}

    def end(self, *_):
        """By a signal: each row cleans up, and so does this."""
        for child in list(self.children):
            child.terminate()
        for child in list(self.children):
            child.wait()
        os._exit(143)


def chroots():
    """Where the Debians are."""
    return os.environ.get("ENGINES_DIR") or os.path.join(ROOT, "target", "engines")


def table(done):
    """Markdown: a table for each kind of engine, a row for each row, a column for each step."""
    lines = []
    for script in dict.fromkeys(ENGINES[row["engine"]][1] for row in done):
        own = [row for row in done if ENGINES[row["engine"]][1] == script]
        steps = list(dict.fromkeys(step for row in own for step in row["results"]))
        if lines:
            lines.append("")
        lines.append("| " + " | ".join(["engine", "variant", *steps, "s"]) + " |")
        lines.append("|" + "---|" * (len(steps) + 3))
        last = None
        for row in own:
            name = row["versions"] or row["engine"]
            results = [row["results"].get(step, "not run") for step in steps]
            lines.append("| " + " | ".join(["" if name == last else name, row["variant"], *results, f"{row['seconds']:.0f}"]) + " |")
            last = name
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ENGINE[/VARIANT]")
    parser.add_argument("--output", metavar="FILE", help="write the table there too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="rows at a time; by default the number of processors")
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "debug", "windlass"), help="the windlass that is run")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the matrix mounts and makes users: run it as root")
    wanted = rows(arguments.rows)
    if not wanted:
        return 0
    suites = list(dict.fromkeys(ENGINES[engine][0] for engine, _ in wanted))
    made = subprocess.run([f"{HERE}/chroots.sh", *suites], check=False).returncode
    if made:
        sys.exit(made)
    runner = Runner(os.path.abspath(arguments.binary))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, runner.end)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        done = list(pool.map(lambda row: runner.run(*row), wanted))
    text = table(done)
    print(text)
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    failed = [f"{row['engine']}/{row['variant']}" for row in done if row["code"]]
    steps = sum(len(row["results"]) for row in done)
    print(f"{len(done)} rows, {steps} steps, {len(failed)} rows failed{': ' if failed else ''}{' '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
