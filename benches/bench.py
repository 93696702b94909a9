"""Runs the rows of rows.py and prints the table. Started by run.sh, which prepares the machine."""

import argparse
import os
import platform
import subprocess
import sys
import time

from harness import Bench
from rows import ROWS


def main():
    parser = argparse.ArgumentParser(prog="benches/run.sh", description="Measures steadfast beside its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller numbers, 2 rounds: to see that it works, not to quote")
    parser.add_argument("--full", action="store_true", help="also the memory of a 4 GiB download")
    parser.add_argument("--rounds", type=int, help="rounds per row (default 5; 3 where a round takes minutes; 2 with --quick)")
    parser.add_argument("--rows", default="", help="only these, separated by commas")
    parser.add_argument("--out", help="write the table to this file as well")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    options = parser.parse_args()
    if options.list:
        for row in ROWS:
            print("%-10s %s" % (row.name, row.__doc__.strip().splitlines()[0]))
        return 0
    wanted = [name for name in options.rows.split(",") if name]
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        parser.error("no such row: %s (see --list)" % ", ".join(sorted(unknown)))

    bench = Bench(options)
    started = time.monotonic()
    for row in ROWS:
        if wanted and row.name not in wanted:
            continue
        print("== %s" % row.name, file=sys.stderr)
        try:
            row(bench)
        except (AssertionError, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
            bench.failed(row.__doc__.strip().splitlines()[0], error)
        finally:
            bench.clear()
    table = bench.table() + "\n\n" + about(time.monotonic() - started, options) + "\n"
    print(table)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write(table)
    return 0 if bench.good() else 1


def about(seconds, options):
    def first_line(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
        except (OSError, subprocess.SubprocessError, IndexError):
            return "no " + command[0]

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    versions = ", ".join([
        first_line(os.environ["STEADFAST"], "--version"), first_line("podman", "--version"),
        first_line("docker-compose", "--version"), first_line("podman-compose", "--version")])
    kind = "Quick run, not to be quoted. " if options.quick else ""
    return "%sMedians of interleaved rounds, in brackets the least and the greatest. %d × %s, Linux %s; %s. The run took %d min." % (
        kind, os.cpu_count(), model, platform.release(), versions, (seconds + 30) // 60)


if __name__ == "__main__":
    sys.exit(main())
