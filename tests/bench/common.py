"""What all rows share: where the work is done, the inputs, and how commands are measured."""

import hashlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

WINDLASS = os.path.abspath(os.environ.get("WINDLASS", "target/release/windlass"))
WORK = Path(os.environ.get("BENCH_DIR", "target")).absolute() / "windlass-bench"
MIB = int(os.environ.get("BENCH_MIB", 4096))
FILES = int(os.environ.get("BENCH_FILES", 30000))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 5))
LONG = min(ROUNDS, 3)  # rounds of what writes the whole model
LARGE = [80, 60, 50, 40, 30, 20]  # files of the closure, in MB
MEMORY_AIM = 64
NEEDS = 7 * MIB * 2**20 + (4 << 30)
GNU_TIME = "/usr/bin/time" if os.access("/usr/bin/time", os.X_OK) else None
MODEL, STORE, XFS = WORK / "model.gguf", WORK / "store", WORK / "xfs"


def say(text):
    print(text, file=sys.stderr, flush=True)


def shell(command):
    return subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def noise(path, size, seed):
    bytes_of = random.Random(seed)
    with open(path, "wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(bytes_of.randbytes(min(1 << 20, size - start)))


def vouch(path):
    """As Nix leaves the files of its store: of those windlass need not read again what it shares."""
    path.chmod(0o444)
    os.utime(path, (1, 1))


def make_closure():
    """Store paths as a package set has them: few with thousands of files, many with a handful, most files small."""
    draw = random.Random("windlass")
    names, graph = [], []
    for n in range(60):
        hash32 = "".join(draw.choice("0123456789abcdfghijklmnpqrsvwxyz") for _ in range(32))
        names.append(f"{hash32}-package{n:02}-1.{n}")
    # The last needs everything; each is needed by one that comes later, and most by a few more.
    needs = [{n - 1} if n else set() for n in range(60)]
    for n in range(60):
        needs[n] |= {draw.randrange(n) for _ in range(3 if n else 0)}
    weights = [1 / (n + 1) for n in range(60)]
    draw.shuffle(weights)
    owner = list(range(60)) + draw.choices(range(60), weights, k=FILES - 60)
    sizes = [0] * 60
    for n, path in enumerate(owner):
        place = STORE / names[path] / draw.choice(["bin", "lib", "lib/python", "share/doc/more", "share/locale/de"])
        place.mkdir(parents=True, exist_ok=True)
        size = LARGE[n // 7] * 1_000_000 if n % 7 == 3 and n < 7 * len(LARGE) else int(draw.lognormvariate(8.318, 1.7))
        file = place / f"file-{n:05}.so"
        file.write_bytes(draw.randbytes(size))
        vouch(file)
        file.chmod(0o555 if place.name == "bin" else 0o444)
        sizes[path] += size
    for n, name in enumerate(names):
        graph.append({
            "path": f"{STORE}/{name}",
            "narHash": "sha256:" + hashlib.sha256(name.encode()).hexdigest(),
            "narSize": sizes[n],
            "references": sorted(f"{STORE}/{names[other]}" for other in needs[n]),
        })
    (WORK / "closure.json").write_text(json.dumps(graph))
    image = {"kind": "image", "name": "closure", "content": {"deps": [f"{STORE}/{names[-1]}"]}, "storeDir": str(STORE)}
    (WORK / "closure-image.json").write_text(json.dumps(image))


def in_child(work):
    """A child's peak memory begins at its parent's: what needs much is done in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            say(repr(error))
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        sys.exit(1)


def model_spec(name, file, **more):
    spec = {"kind": "model", "name": name, "files": {"model.gguf": str(file)}, **more}
    (WORK / f"{name}.json").write_text(json.dumps(spec))


def moved():
    """Bytes that were read and written by system calls, of this process and of all its children that ended: a link costs
    none, and a page cache hides none."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])


def settle():
    """An ext4 without a journal looks at each inode that was freed in the last minute before it makes a new one: what is measured
    next would pay for the files that the row before it has removed."""
    os.sync()
    if shell(f"df --output=fstype {shlex.quote(str(WORK))}").split()[-1] == "ext4" and not os.listdir("/proc/fs/jbd2"):
        time.sleep(61)


class Run:
    def __init__(self, wall, usage, peak, output, read, written):
        self.wall, self.cpu, self.peak, self.output = wall, usage.ru_utime + usage.ru_stime, peak, output
        self.read, self.written = read, written


def run(command, before=None, peak=True):
    """Runs it once, with nothing of an earlier command left to be written. Of ours the peak memory is told by GNU time, whose start takes 2 ms."""
    for path in [WORK / "out", WORK / "peer", XFS / "out"]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if before:
        before()
    is_ours = isinstance(command, list)
    arguments = command if is_ours else ["sh", "-ec", command]
    is_timed = is_ours and GNU_TIME and peak
    if is_timed:
        arguments = [GNU_TIME, "--quiet", "--format", "%M", "--output", "peak", *command]
    os.sync()
    read, written = moved()
    start = time.monotonic()
    with open(WORK / "errors", "wb") as errors:
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=WORK)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command}: {(WORK / 'errors').read_text()}")
    peak = int((WORK / "peak").read_text()) if is_timed else 0 if is_ours and GNU_TIME else usage.ru_maxrss
    now = moved()
    return Run(wall, usage, peak, output, now[0] - read, now[1] - written)


def interleave(rounds, **commands):
    """{name: [Run, …]}: every command once in each round; commands are values or (value, what to do before).

    Every other round goes backwards, because what ran before leaves its marks on the memory that a command gets.
    """
    runs = {name: [] for name in commands}
    for n in range(rounds):
        for name, command in list(commands.items())[:: -1 if n % 2 else 1]:
            pair = command if isinstance(command, tuple) else (command, None)
            runs[name].append(run(*pair, peak=n == 0))
            say(f"{name} {n + 1}/{rounds}: {runs[name][-1].wall:.2f} s")
    return runs


def windlass(*arguments):
    return [WINDLASS, *map(str, arguments)]


def prepare(*arguments):
    subprocess.run(windlass(*arguments), cwd=WORK, check=True, stdout=subprocess.DEVNULL)


def build(spec, *arguments):
    return windlass("build", spec, "--output", "out", *arguments)


ROWS = []


def row(what, ours, base=None, base_name="", aim=None):
    seconds = lambda runs: f"{median(r.wall for r in runs):.2f} s (CPU {median(r.cpu for r in runs):.2f})"
    cells = [what, seconds(ours), "", "", "", ""]
    if base:
        ratios = [mine.wall / theirs.wall for mine, theirs in zip(ours, base)]
        cells[2] = f"{base_name}: {seconds(base)}"
        digits = 2 if median(ratios) >= 0.1 else 4
        cells[3] = f"{median(ratios):.{digits}f} ({min(ratios):.{digits}f}–{max(ratios):.{digits}f})"
        if aim:
            cells[4] = f"{aim} {'met' if median(ratios) <= aim else '**missed**'}"
    peak = max(r.peak for r in ours) / 1024
    cells[5] = f"{peak:.0f} MiB" + ("" if peak < MEMORY_AIM else " **missed**")
    ROWS.append("| " + " | ".join(cells) + " |")
