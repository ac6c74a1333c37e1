#!/usr/bin/env bash
# windlass beside cat, cp, openssl and tar of the same bytes, in the same run, as a Markdown table.
#
#   tests/bench.sh [RESULTS.md]    print the table, and write it to RESULTS.md
#
# The commands of a row take turns; a ratio is the median of the rounds' own ratios. Inputs, always the same bytes, are
# made in a folder `windlass-bench` of $BENCH_DIR (target), which is removed at the end. As root, an XFS in a file there
# is measured too. GNU time, where it is there, tells the peak memory exactly. WINDLASS is the program
# (target/release/windlass); BENCH_MIB, BENCH_FILES and BENCH_ROUNDS make a quicker run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin

exec python3 - "$@" <<'PYTHON'
import datetime, hashlib, json, os, random, resource, shlex, shutil, signal, subprocess, sys, time
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
NEEDS = 3 * MIB * 2**20 + (2 << 30)
GNU_TIME = "/usr/bin/time" if os.access("/usr/bin/time", os.X_OK) else None
MODEL, STORE, XFS = WORK / "model.gguf", WORK / "store", WORK / "xfs"


def say(text):
    print(text, file=sys.stderr, flush=True)


def shell(command):
    return subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


# ---- inputs --------------------------------------------------------------------------------------------------------


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


# ---- measuring -----------------------------------------------------------------------------------------------------


class Run:
    def __init__(self, wall, usage, peak, output):
        self.wall, self.cpu, self.peak, self.output = wall, usage.ru_utime + usage.ru_stime, peak, output


def run(command, before=None):
    """Runs it once, with nothing of an earlier command left to be written."""
    for path in [WORK / "out", WORK / "peer", XFS / "out"]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if before:
        before()
    is_ours = isinstance(command, list)
    arguments = command if is_ours else ["sh", "-ec", command]
    if is_ours and GNU_TIME:
        arguments = [GNU_TIME, "--quiet", "--format", "%M", "--output", "peak", *command]
    os.sync()
    start = time.monotonic()
    with open(WORK / "errors", "wb") as errors:
        child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=WORK)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command}: {(WORK / 'errors').read_text()}")
    peak = int((WORK / "peak").read_text()) if is_ours and GNU_TIME else usage.ru_maxrss
    return Run(wall, usage, peak, output)


def interleave(rounds, **commands):
    """{name: [Run, …]}: every command once in each round; commands are values or (value, what to do before).

    Every other round goes backwards, because what ran before leaves its marks on the memory that a command gets.
    """
    runs = {name: [] for name in commands}
    for n in range(rounds):
        for name, command in list(commands.items())[:: -1 if n % 2 else 1]:
            pair = command if isinstance(command, tuple) else (command, None)
            runs[name].append(run(*pair))
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


# ---- the rows ------------------------------------------------------------------------------------------------------


def model():
    runs = interleave(ROUNDS, build=build("model.json"), openssl="openssl dgst -sha256 model.gguf",
                      cat="cat model.gguf >/dev/null")
    row("model: `build`", runs["build"], runs["openssl"], "`openssl dgst -sha256`", 1.1)
    row("model: `build`", runs["build"], runs["cat"], "`cat >/dev/null`")

    prepare("build", "model.json", "--output", "lean")
    export = windlass("export", "lean", "--output", "out")
    copy, digest = "cp model.gguf out && sync out", "openssl dgst -sha256 model.gguf"
    runs = interleave(LONG, full=build("model.json", "--full"), export=export, never=[*export, "--verify", "never"],
                      copy=copy, copy_hash=f"{copy} && {digest}")
    row("model: `build --full`", runs["full"], runs["copy_hash"], "`cp`, `sync`, `openssl`", 1.2)
    row("model: `export`, bytes compared with the digest", runs["export"], runs["copy_hash"],
        "`cp`, `sync`, `openssl`", 1.2)
    row("model: `export --verify never`", runs["never"], runs["copy"], "`cp`, `sync`")


def peers():
    if shutil.which("umoci"):
        insert = ("umoci init --layout peer && umoci new --image peer:m"
                  " && umoci insert --image peer:m model.gguf /models/model.gguf")
        ours = build("model.json", "--full")
        runs = interleave(1, ours=ours, umoci=insert)
        row("model: `build --full`, once", runs["ours"], runs["umoci"], "`umoci insert` (it compresses)")
    if shutil.which("skopeo"):
        def layout():
            prepare("build", "model.json", "--full", "--output", "out")
        skopeo = "skopeo --insecure-policy --tmpdir . copy oci:out docker-archive:peer:localhost/model:1"
        skopeo += " && sync peer"
        runs = interleave(1, ours=windlass("export", "lean", "--output", "out"), skopeo=(skopeo, layout))
        row("model: `export`, once", runs["ours"], runs["skopeo"], "`skopeo copy oci: docker-archive:`, `sync`")


def closure():
    graph = ["--closure", "closure.json"]
    runs = interleave(ROUNDS, plan=windlass("plan", "closure-image.json", *graph), du="du -s store",
                      build=build("closure-image.json", *graph), tar="tar -c store | openssl dgst -sha256")
    row("closure: `plan`", runs["plan"], runs["du"], "`du -s`")
    row("closure: `build`", runs["build"], runs["tar"], "`tar -c \\| openssl dgst -sha256`", 1.0)
    prepare("build", "closure-image.json", *graph, "--output", "lean")
    layers = len(json.loads((WORK / "lean/image.json").read_text())["platforms"][0]["layers"])
    runs = interleave(ROUNDS, export=windlass("export", "lean", "--output", "out"),
                      tar="tar -c store > out && sync out")
    row("closure: `export`, bytes compared with the digests", runs["export"], runs["tar"], "`tar -c >`, `sync`")
    return layers


def app_change():
    """The model is out of reach meanwhile, so that not a byte of it can be read."""
    prepare("build", "model.json", "--output", "built")
    small = min(json.loads((WORK / "closure.json").read_text()), key=lambda info: info["narSize"])
    (WORK / "app-closure.json").write_text(json.dumps([{**small, "references": []}]))
    version = iter(range(1, 1000))

    def change():
        image = {"kind": "image", "name": "app", "storeDir": str(STORE), "models": [{"built": str(WORK / "built")}],
                 "content": {"deps": [small["path"]], "texts": {"/etc/version": str(next(version))}}}
        (WORK / "app.json").write_text(json.dumps(image))
    MODEL.rename(WORK / "away")
    try:
        command = build("app.json", "--closure", "app-closure.json", "--json")
        runs = interleave(ROUNDS, app=(command, change))["app"]
    finally:
        (WORK / "away").rename(MODEL)
    read = json.loads(runs[-1].output)["read"]
    row("app changed, model built before: `build`", runs)
    return read, small["narSize"]


def xfs():
    """Needs root. The model moves to an XFS in a file, which is grown as it is filled."""
    image = WORK / "xfs.img"
    XFS.mkdir()
    with open(image, "wb") as file:
        file.truncate(2 * MIB * 2**20 + (1 << 30))
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, XFS], check=True)
    weights = XFS / f"{'0' * 32}-model.gguf"
    shutil.copyfile(MODEL, weights)
    MODEL.unlink()
    vouch(weights)
    model_spec("on-xfs", weights, storeDir=str(XFS))
    prepare("build", "on-xfs.json", "--output", "xfs/lean")
    export = windlass("export", "xfs/lean", "--output", "xfs/out")
    stock, digest = f"cp {weights} xfs/out && sync xfs/out", f"openssl dgst -sha256 {weights}"
    copy = stock.replace("cp ", "cp --reflink=never ", 1)
    runs = interleave(LONG, export=export, always=[*export, "--verify", "always"], shared=f"{stock} && {digest}",
                      copy=f"{copy} && {digest}", stock=stock)
    row("XFS, model: `export`", runs["export"], runs["copy"], "`cp --reflink=never`, `sync`, `openssl`", 0.05)
    row("XFS, model: `export`", runs["export"], runs["shared"], "`cp` (it shares), `sync`, `openssl`", 0.05)
    row("XFS, model: `export`", runs["export"], runs["stock"], "`cp` (it shares), `sync`")
    row("XFS, model: `export --verify always`", runs["always"], runs["shared"], "`cp` (it shares), `sync`, `openssl`")

    def used():
        # Space is given back some time after a file is gone, but not later than this.
        subprocess.run(["umount", XFS], check=True)
        subprocess.run(["mount", "-o", "loop", image, XFS], check=True)
        stat = os.statvfs(XFS)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    (XFS / "out").unlink()
    before = used()
    run(export)
    return used() - before, (XFS / "out").stat().st_size


# ---- the document --------------------------------------------------------------------------------------------------


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
                          first("cp --version"), first("umoci --version"), first("skopeo --version")]),
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
    layers = closure()
    model()
    read, app_size = app_change()
    peers()
    notes = [
        f"App changed: {read:,} bytes read, all of the app ({app_size:,}); of the model none: its file was moved away."]
    if os.geteuid() == 0 and shutil.which("mkfs.xfs"):
        used, length = xfs()
        notes.append(f"XFS: the archive of {length:,} bytes takes {used:,} bytes of the disk.")
    else:
        notes.append("XFS: not measured, needs root and mkfs.xfs.")
    floor = 0 if GNU_TIME else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = [
        "# Benchmark", "", "Written by `./dev bench`.", "", *head,
        f"- Model: one file of {MIB << 20:,} bytes. Closure: {FILES:,} files of 60 store paths, {size:,} bytes, "
        f"{layers} layers. Both are in the page cache.", "",
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
PYTHON
