#!/usr/bin/env python3
"""Readers of windlass against what libFuzzer thinks of: `./dev fuzz`.

    fuzz/run.py [TARGET…] [--seconds N | --runs N]

Builds the targets, runs each for N seconds, and prints a table. What is new for the coverage is kept in target/fuzz/corpus, and
the next run begins with it; fuzz/corpus is only read. With --runs, each target runs N times from a fixed seed and from fuzz/corpus
alone, so that a second run does the same: that is for CI, where a change must not fail for what an earlier one did.
Ends with 1 if a target found something, with 7 if one cannot be run here.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BUILT = os.path.join(ROOT, "target", "fuzz")
# These make a root directory of their own, for an archive that wants out of it.
AS_ROOT = ("recipe", "unpack")
# MiB of memory, seconds and bytes of an input.
MEMORY, TIMEOUT, LONGEST = 512, 10, 16384


def targets(wanted):
    """The targets that were asked for, or all."""
    every = sorted(name.removesuffix(".rs") for name in os.listdir(os.path.join(HERE, "fuzz_targets")))
    unknown = [name for name in wanted if name not in every]
    if unknown:
        sys.exit(f"no such target: {' '.join(unknown)}; there are {' '.join(every)}")
    return wanted or every


def build():
    """Builds all targets, and says where they are."""
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"host: (\S+)", host)[1]
    # The flags of coverage are not stable. windlass has no unsafe code, so that a sanitizer would only see its libraries.
    environment = {**os.environ, "RUSTC_BOOTSTRAP": "1", "CARGO_TARGET_DIR": BUILT}
    command = ["cargo", "fuzz", "build", "--sanitizer", "none", "--no-cfg-fuzzing", "--codegen-units=16"]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0:
        sys.exit(7)
    return os.path.join(BUILT, host, "release")


def run(folder, target, options):
    """Runs a target. Gives the numbers for its row, and the inputs that it found."""
    kept, findings = (os.path.join(BUILT, name, target) for name in ("corpus", "findings"))
    for path in (kept, findings):
        os.makedirs(path, exist_ok=True)
    before = set(os.listdir(findings))
    # Of files that live for a millisecond, none should reach a disk.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="windlass-fuzz-", dir=memory) as temporary:
        if options.runs:
            limits, kept = [f"-runs={options.runs}", "-seed=1"], os.path.join(temporary, "corpus")
            os.mkdir(kept)
        else:
            limits = [f"-max_total_time={options.seconds}"]
        command = [
            os.path.join(folder, target), *limits, f"-rss_limit_mb={MEMORY}", f"-timeout={TIMEOUT}",
            f"-max_len={LONGEST}", f"-dict={os.path.join(HERE, 'dictionaries', target + '.dict')}",
            f"-artifact_prefix={findings}/", "-print_final_stats=1", kept, os.path.join(HERE, "corpus", target),
        ]  # fmt: skip
        environment = {**os.environ, "TMPDIR": temporary}
        log = os.path.join(BUILT, f"{target}.log")
        start = time.monotonic()
        with open(log, "wb") as to:
            code = subprocess.run(command, stdout=to, stderr=to, env=environment, check=False).returncode
        took = time.monotonic() - start
    with open(log, encoding="utf-8", errors="replace") as file:
        text = file.read()
    stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)", text, re.M))
    last = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/", text)
    found = sorted(os.path.join(findings, name) for name in set(os.listdir(findings)) - before)
    if code != 0 and not found:
        found = [log]
    edges, corpus = last[-1] if last else ("-", "-")
    runs = stats.get("number_of_executed_units", "-")
    return (target, runs, f"{took:.0f}", edges, corpus, stats.get("peak_rss_mb", "-"), str(len(found))), found, text


def main():
    """See the head of the file."""
    parser = argparse.ArgumentParser(prog="./dev fuzz", description="Runs the fuzz targets.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="which; all by default")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=int, default=60, help="for each target; 60 by default")
    length.add_argument("--runs", type=int, help="of each target, from a fixed seed and the committed corpus alone")
    options = parser.parse_args()
    wanted = targets(options.targets)
    if os.geteuid() != 0 and any(target in AS_ROOT for target in wanted):
        print(f"{' and '.join(AS_ROOT)} need root; as another user, name the others", file=sys.stderr)
        sys.exit(7)
    folder = build()
    line = "{:<13} {:>11} {:>8} {:>7} {:>7} {:>8} {:>9}"
    print(line.format("target", "executions", "seconds", "edges", "corpus", "peak MB", "findings"), flush=True)
    failed = []
    for target in wanted:
        row, found, text = run(folder, target, options)
        print(line.format(*row), flush=True)
        if found:
            failed.append((target, found, text))
    for target, found, text in failed:
        said = [part for part in text.splitlines() if "panicked at" in part or part.startswith("==")]
        print(f"\n{target} found something: {' | '.join(said[:3]) or 'see the log'}")
        for path in found:
            print(f"  the input: {path}\n  once more: {os.path.join(folder, target)} {path}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
