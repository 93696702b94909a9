"""Runs the rows of rows.py, background.py, publishing.py and sessions.py and prints their tables. Started by run.sh, which prepares the machine."""

import os
import sys
import time

import background
import publishing
import rows
import sessions
from harness import Bench, command_line, first_line, host

ROWS = rows.ROWS + background.ROWS + publishing.ROWS + sessions.ROWS
PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs", "benchmarks.md")


def main():
    options, chosen = command_line(
        ROWS, "benches/run.sh", "Measures steadfast beside its peers.", full="also the memory of a 4 GiB download",
        rounds="rounds per row (default 5, 7 where it is close, 3 where a round takes minutes, 20 for `run`; 2 with --quick)")
    if chosen is None:
        return 0
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
        if options.docs and all(row in chosen for row in ROWS if row.group == group):
            put_into_docs(group, text)
    return 0 if bench.good() else 1


def put_into_docs(group, text):
    begin, end = "<!-- benches:%s:begin -->\n" % group, "<!-- benches:%s:end -->" % group
    with open(PAGE, encoding="utf-8") as file:
        before, rest = file.read().split(begin)
    _, after = rest.split(end)
    with open(PAGE, "w", encoding="utf-8") as file:
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
