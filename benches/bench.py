"""Runs the rows of rows.py and background.py and prints their tables. Started by run.sh, which prepares the machine."""

import argparse
import os
import sys
import time

import background
import rows
from harness import Bench, first_line, host

ROWS = rows.ROWS + background.ROWS
README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "README.md")


def main():
    parser = argparse.ArgumentParser(prog="benches/run.sh", description="Measures steadfast beside its peers.")
    parser.add_argument("--quick", action="store_true", help="smaller numbers, 2 rounds: to see that it works, not to quote")
    parser.add_argument("--full", action="store_true", help="also the memory of a 4 GiB download")
    parser.add_argument("--rounds", type=int, help="rounds per row (default 5, 7 where it is close, 3 where a round takes minutes, 20 for `run`; 2 with --quick)")
    parser.add_argument("--rows", default="", help="only these, separated by commas; `apply` and `run` name all of a table")
    parser.add_argument("--out", help="write the tables to this file as well")
    parser.add_argument("--readme", action="store_true", help="put each table that was measured as a whole into README.md")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    options = parser.parse_args()
    if options.list:
        for row in ROWS:
            print("%-10s %s" % (row.name, row.__doc__.strip().splitlines()[0]))
        return 0
    wanted = [name for name in options.rows.split(",") if name]
    unknown = set(wanted) - {row.name for row in ROWS} - {row.group for row in ROWS}
    if unknown:
        parser.error("no such row: %s (see --list)" % ", ".join(sorted(unknown)))
    chosen = [row for row in ROWS if not wanted or row.name in wanted or row.group in wanted]

    bench = Bench(options)
    texts = {}
    for group in dict.fromkeys(row.group for row in chosen):
        started = time.monotonic()
        for row in chosen:
            if row.group == group:
                bench.measure(row)
        texts[group] = bench.table(group) + "\n\n" + about(time.monotonic() - started, options) + "\n"
    print("\n".join(texts.values()))
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            file.write("\n".join(texts.values()))
    for group, text in texts.items():
        if options.readme and all(row in chosen for row in ROWS if row.group == group):
            put_into_readme(group, text)
    return 0 if bench.good() else 1


def put_into_readme(group, text):
    begin, end = "<!-- benches:%s:begin -->\n" % group, "<!-- benches:%s:end -->" % group
    with open(README, encoding="utf-8") as file:
        before, rest = file.read().split(begin)
    _, after = rest.split(end)
    with open(README, "w", encoding="utf-8") as file:
        file.write(before + begin + text + end + after)


def about(seconds, options):
    versions = ", ".join([
        first_line(os.environ["STEADFAST"], "--version"), first_line("podman", "--version"),
        first_line("docker-compose", "--version"), first_line("podman-compose", "--version")])
    kind = "Quick run, not to be quoted. " if options.quick else ""
    return "%sMedians of interleaved rounds, in brackets the least and the greatest. %s; %s. The run took %d min." % (
        kind, host(), versions, (seconds + 30) // 60)


if __name__ == "__main__":
    sys.exit(main())
