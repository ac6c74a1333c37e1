#!/usr/bin/env bash
# windlass beside cat, cp, openssl, tar and Podman of the same bytes, in the same run, as a Markdown table.
#
#   tests/bench.sh [RESULTS.md]    print the table, and write it to RESULTS.md
#
# The commands of a row take turns; a ratio is the median of the rounds' own ratios. Inputs, always the same bytes, are
# made in a folder `windlass-bench` of $BENCH_DIR (target), which is removed at the end. As root, an XFS in a file there
# and loading into a Podman of its own are measured too. GNU time, where it is there, tells the peak memory exactly.
# WINDLASS is the program (target/release/windlass); BENCH_MIB, BENCH_FILES and BENCH_ROUNDS make a quicker run,
# BENCH_ONLY=build, load, bundle, model or registry a part of it. NIX2CONTAINER (the program) and STREAM_LAYERED_IMAGE
# (nixpkgs' script of that name) add a row each: neither is a package of Debian.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
exec python3 -B tests/bench "$@"
