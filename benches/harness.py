"""Timing, turns, and the table. What is measured stands in rows.py."""

import argparse
import http.client
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

MIB = 1 << 20


def registry(group, rows):
    """A decorator that gives a row its name and notes it."""

    def row(name):
        def register(function):
            function.name, function.group = name, group
            rows.append(function)
            return function

        return register

    return row


def command_line(rows, prog, description, full, rounds):
    """Its options, and the rows that they choose; None when all that is asked for is a list. `full` and `rounds` explain these
    options."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--quick", action="store_true", help="smaller numbers, 2 rounds: to see that it works, not to quote")
    parser.add_argument("--full", action="store_true", help=full)
    parser.add_argument("--rounds", type=int, help=rounds)
    groups = " and ".join("`%s`" % group for group in dict.fromkeys(row.group for row in rows))
    parser.add_argument("--rows", default="", help="only these, separated by commas; %s: all of a table" % groups)
    parser.add_argument("--out", metavar="FILE", help="write the table to this file as well")
    parser.add_argument("--docs", action="store_true", help="write each table that was measured as a whole into docs/benchmarks.md")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    options = parser.parse_args()
    if options.list:
        for row in rows:
            print("%-10s %s" % (row.name, row.__doc__.strip().splitlines()[0]))
        return options, None
    wanted = [name for name in options.rows.split(",") if name]
    unknown = set(wanted) - {row.name for row in rows} - {row.group for row in rows}
    if unknown:
        parser.error("no such row: %s (see --list)" % ", ".join(sorted(unknown)))
    return options, [row for row in rows if not wanted or row.name in wanted or row.group in wanted]


class Run:
    """One finished command: wall seconds, peak memory in KiB (of the greatest process), output."""

    def __init__(self, seconds, rss, stdout, code):
        self.seconds, self.rss, self.stdout, self.code = seconds, rss, stdout, code


def ends(process, limit):
    """Waits for its end and yields its code; kills it after `limit` seconds. Python's own wait with a limit asks now and then,
    up to 50 ms too late."""
    watchdog = threading.Timer(limit, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        return process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        watchdog.cancel()


class Bench:
    def __init__(self, options):
        self.options = options
        self.quick, self.full = options.quick, options.full
        self.scratch = os.environ["BENCH_SCRATCH"]
        self.steadfast = os.environ["STEADFAST"]
        self.socket = os.environ["CONTAINER_HOST"]
        self.compose = shutil.which("docker-compose")
        self.podman_compose = shutil.which("podman-compose")
        # Built by run.sh, since Debian 12 has none.
        self.compose_v5 = os.environ.get("BENCH_COMPOSE_V5")
        self.lines = []
        # What the row that is being measured belongs to.
        self.group = ""
        # For clients of the socket.
        self.env = dict(os.environ, DOCKER_HOST=self.socket, COMPOSE_PARALLEL_LIMIT="300", NO_COLOR="1", no_proxy="127.0.0.1")
        # For `podman` without the socket, which podman-compose starts.
        self.local_env = {k: v for k, v in os.environ.items() if k not in ("CONTAINER_HOST", "DOCKER_HOST")}
        if "BENCH_PODMAN_ENV" in os.environ:
            with open(os.environ["BENCH_PODMAN_ENV"], encoding="utf-8") as file:
                self.local_env.update(line.rstrip("\n").split("=", 1) for line in file)

    def rounds(self, usual=5):
        return self.options.rounds or (2 if self.quick else usual)

    def measure(self, row):
        print("== %s" % row.name, file=sys.stderr)
        self.group = row.group
        try:
            row(self)
        except (AssertionError, OSError, KeyError, ValueError, subprocess.SubprocessError, http.client.HTTPException) as error:
            self.failed(row.__doc__.strip().splitlines()[0], error)
        finally:
            self.clear()

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, *command, env=None, cwd=None, stdin=subprocess.DEVNULL, ok=(0,), memory=False, limit=1800):
        """Runs a command to its end. With `memory` through GNU time, which costs about a millisecond."""
        report = os.path.join(self.scratch, "time")
        argv = (["/usr/bin/time", "-q", "-f", "%M", "-o", report] if memory else []) + [str(word) for word in command]
        with open(os.path.join(self.scratch, "stdout"), "w+b") as out, open(os.path.join(self.scratch, "stderr"), "w+b") as err:
            begin = time.perf_counter()
            code = ends(subprocess.Popen(argv, env=env or self.env, cwd=cwd, stdin=stdin, stdout=out, stderr=err), limit)
            seconds = time.perf_counter() - begin
            out.seek(0)
            err.seek(0)
            stdout = out.read()
            if code not in ok:
                raise AssertionError("`%s` ended with %d: %s" % (" ".join(argv), code, err.read()[-1500:].decode(errors="replace")))
        rss = None
        if memory:
            with open(report, encoding="utf-8") as file:
                rss = int(file.read().split()[-1])
        return Run(seconds, rss, stdout, code)

    def apply(self, file, *flags, **more):
        return self.run(self.steadfast, "apply", "-f", file, *flags, **more)

    def podman(self, *words):
        return self.run("podman", "--url", self.socket, *words).stdout.decode()

    def clear(self):
        """Removes all containers; images stay."""
        self.run("podman", "rm", "--all", "--force", "--time", "0", env=self.local_env, ok=(0, 1, 125))

    def turns(self, rounds, contestants):
        """Lets each contestant (name -> function that gives seconds) have its turn in every round: A B A B."""
        results = {name: [] for name in contestants}
        for number in range(rounds):
            for name, function in contestants.items():
                took = function()
                results[name].append(took)
                print("   round %d  %-22s %.4f s" % (number + 1, name, took), file=sys.stderr)
        return results

    def directory(self, name, fresh=True):
        path = os.path.join(self.scratch, name)
        if fresh:
            shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path, exist_ok=True)
        return path

    def library(self, script, *arguments):
        """Runs shell with the functions of scripts/common.sh and scripts/image.sh."""
        prelude = 'set -euo pipefail; . "$BENCH_SCRIPTS/common.sh"; . "$BENCH_SCRIPTS/image.sh"; '
        return self.run("bash", "-c", prelude + script, "bash", *arguments).stdout.decode().strip()

    def load_agent_image(self):
        self.run("podman", "--url", self.socket, "load", "-q", "-i", os.path.join(self.scratch, "agent.tar"))

    # -- the table ----------------------------------------------------------------------------------------------------

    def compare(self, what, results, ours, target, ratio, good, beside=()):
        """A row from rounds: our median, every other one's, `ratio(ours, best of the others)` against the target. Those
        `beside` are shown and not judged by."""
        mine = statistics.median(results[ours])
        others = {name: statistics.median(values) for name, values in results.items() if name != ours and name not in beside}
        if not others:
            self.add(what, spread(results[ours]), "nothing to compare with", "", target, None)
            return
        value = ratio(mine, min(others.values()))
        against = "<br>".join("%s %s" % (name, spread(results[name])) for name in [*others, *beside] if name in results)
        self.add(what, spread(results[ours]), against, "%.2f×" % value if value < 10 else "%.0f×" % value, target, good(value))

    def add(self, what, ours, against, ratio, target, good):
        verdict = {True: "pass", False: "**fail**", None: "not judged"}[good]
        self.lines.append((self.group, what, ours, against, ratio, target, verdict))
        print("   %s: %s, target %s: %s" % (what, ours, target, verdict), file=sys.stderr)

    def failed(self, what, error):
        text = re.sub(r"\s+", " ", str(error)).replace("|", "\\|")
        self.add(what, "error: " + text[:300], "", "", "", False)
        print("   " + str(error), file=sys.stderr)

    def good(self):
        return bool(self.lines) and all(line[-1] == "pass" or line[-1] == "not judged" for line in self.lines)

    def table(self, group):
        head = ("measured side by side, in one run", "steadfast", "against", "ratio", "must be", "")
        rows = [head, ("---",) * len(head)] + [line[1:] for line in self.lines if line[0] == group]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def spread(values):
    """The median with the least and the greatest."""
    return "%s [%s..%s]" % (seconds(statistics.median(values)), seconds(min(values)), seconds(max(values)))


def p95(values):
    """The smallest value that 95 % of them do not exceed: of 20 the last but one."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def tail(values):
    """The median and the 95th percentile, with the least and the greatest."""
    return "%s, p95 %s [%s..%s]" % tuple(seconds(value) for value in (statistics.median(values), p95(values), min(values), max(values)))


def seconds(value):
    return "%.1f ms" % (value * 1e3) if abs(value) < 0.1 else "%.0f ms" % (value * 1e3) if abs(value) < 1 else "%.2f s" % value


def host():
    """This machine in a few words."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except FileNotFoundError:
        model = first_line("sysctl", "-n", "machdep.cpu.brand_string")
    return "%d × %s, %s %s" % (os.cpu_count(), model, platform.system(), platform.release())


def first_line(*command):
    """What a command prints first, such as its version."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "no " + command[0]


def mib(kib):
    return "%.1f MiB" % (kib / 1024)
