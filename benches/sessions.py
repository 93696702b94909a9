"""What is measured of sessions and workspaces: one function per row. The first line of each docstring is its title in --list.

The agent's image is busybox: `cat` is what is sent to, and what podman exec runs beside.
"""

import os
import re
import statistics
import subprocess
import time

from harness import MIB, mib, registry, spread
from kept import Kept

ROWS = []
row = registry("sessions", ROWS)

AGENT = "a000"
SESSION = AGENT + "/cat"
PAYLOAD = "x" * 1023 + "\n"


class Agent(Kept):
    """One agent, and the words to speak to its sessions."""

    def __init__(self, bench, name):
        super().__init__(bench, name, 1)
        bench.load_agent_image()
        bench.apply(self.file)

    def session(self, verb, *words, **more):
        return self.bench.run(self.bench.steadfast, "session", verb, "--file", self.file, *words, env=self.env(), **more)

    def cat(self):
        self.session("start", SESSION, "--", "cat")

    def send(self):
        return self.session("send", SESSION, PAYLOAD).seconds

    def exec_once(self):
        """What it takes to start a `podman exec` for it."""
        with open(os.devnull, "rb") as nothing:
            return self.bench.run("podman", "exec", "-i", self.containers[0], "cat", env=self.bench.local_env, stdin=nothing).seconds


@row("send")
def send(bench):
    """`session send` of 1 KiB, with `run` and without, against starting a `podman exec` for it"""
    agent = Agent(bench, "sends")
    agent.cat()
    alone = bench.turns(bench.rounds(20), {"steadfast": agent.send, "podman exec": agent.exec_once})
    bench.compare("`session send` of 1 KiB, without `run`", alone, "steadfast", "not slower", lambda ours, other: other / ours, lambda value: value >= 1)
    with agent:
        agent.send()
        served = bench.turns(bench.rounds(20), {"steadfast": agent.send, "podman exec": agent.exec_once})
    bench.compare("`session send` of 1 KiB, with `run`", served, "steadfast", "≥ 3× faster", lambda ours, other: other / ours, lambda value: value >= 3)


@row("attach")
def attach(bench):
    """`session attach`, until the first replayed byte"""
    agent = Agent(bench, "attaches")
    agent.cat()
    agent.send()

    def first_byte():
        begin = time.perf_counter()
        with subprocess.Popen(
                [bench.steadfast, "session", "attach", "--file", agent.file, "--read-only", SESSION], env=agent.env(), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as attached:
            assert attached.stdout.read(1) == b"x", "nothing is replayed"
            took = time.perf_counter() - begin
            attached.kill()
        return took

    results = bench.turns(bench.rounds(20), {"steadfast": first_byte, "podman exec": agent.exec_once})
    median = statistics.median(results["steadfast"])
    bench.add("`session attach` → first replayed byte", spread(results["steadfast"]), "podman exec " + spread(results["podman exec"]),
              "", "< 100 ms", median < 0.1)


@row("keeper")
def keeper(bench):
    """what a keeper takes while nothing happens: memory, and how often it wakes"""
    agent = Agent(bench, "idles")
    agent.cat()
    agent.send()
    time.sleep(3)
    pid = keeper_of("cat")
    before = status(pid)
    pause = 10 if bench.quick else 60
    time.sleep(pause)
    after = status(pid)
    resident = int(after["VmRSS"].split()[0])
    bench.add("keeper of an idle session: memory", mib(resident), "", "", "< 2 MiB", resident < 2048)
    woken = sum(int(after[word]) - int(before[word]) for word in ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"))
    bench.add("keeper of an idle session: wake-ups in %d s" % pause, str(woken), "", "", "0", woken == 0)


@row("throughput")
def throughput(bench):
    """a session's output to `attach`, against `podman exec` and a pipe"""
    agent = Agent(bench, "floods")
    size = (50 if bench.quick else 400) * MIB
    flood = "head -c %d /dev/zero" % size

    def count(process):
        total = 0
        while piece := process.stdout.read(MIB):
            total += len(piece)
        assert total == size, "%d bytes instead of %d" % (total, size)

    def attached():
        agent.session("start", SESSION, "--", "sh", "-c", "read go; " + flood)
        with subprocess.Popen(
                [bench.steadfast, "session", "attach", "--file", agent.file, "--read-only", SESSION], env=agent.env(), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            time.sleep(1)
            begin = time.perf_counter()
            agent.session("send", SESSION, "go\n")
            count(process)
            took = time.perf_counter() - begin
        agent.session("rm", SESSION)
        return took

    def execed():
        begin = time.perf_counter()
        with subprocess.Popen(["podman", "exec", agent.containers[0], "sh", "-c", flood], env=bench.local_env, stdout=subprocess.PIPE) as process:
            count(process)
        return time.perf_counter() - begin

    def piped():
        begin = time.perf_counter()
        with subprocess.Popen("%s | cat" % flood, shell=True, stdout=subprocess.PIPE) as process:
            count(process)
        return time.perf_counter() - begin

    results = bench.turns(bench.rounds(5), {"steadfast": attached, "podman exec": execed, "a pipe": piped})
    rate = {name: size / statistics.median(values) / 1e6 for name, values in results.items()}
    against = "<br>".join("%s %.0f MB/s" % (name, rate[name]) for name in ("podman exec", "a pipe"))
    bench.add("throughput of a session's output to `attach`", "%.0f MB/s" % rate["steadfast"], against, "",
              "≥ 100 MB/s, or what a pipe gives", rate["steadfast"] >= min(100, rate["a pipe"]))


@row("workspace")
def workspace(bench):
    """a workspace of 20,000 files and 500 MB: first, unchanged, and with one file changed"""
    agent = Agent(bench, "brings")
    files, size = (2_000, 50) if bench.quick else (20_000, 500)
    source = bench.directory("source")
    make_source(source, files, size * 1_000_000 // files)

    def prepare():
        return bench.run(bench.steadfast, "workspace", "prepare", "-f", agent.file, AGENT, source, "/work", env=agent.env()).seconds

    def piped():
        begin = time.perf_counter()
        archive = subprocess.Popen(["tar", "-C", source, "-cf", "-", "."], stdout=subprocess.PIPE)
        unpacked = ["podman", "exec", "-i", agent.containers[0], "sh", "-c", "mkdir -p /piped && busybox tar -C /piped -xf -"]
        bench.run(*unpacked, env=bench.local_env, stdin=archive.stdout)
        took = time.perf_counter() - begin
        archive.stdout.close()
        assert archive.wait() == 0
        bench.run("podman", "exec", agent.containers[0], "rm", "-rf", "/piped", env=bench.local_env)
        return took

    def first():
        took = prepare()
        bench.run(bench.steadfast, "workspace", "rm", "-f", agent.file, "--force", AGENT, "/work", env=agent.env())
        return took

    results = bench.turns(bench.rounds(3), {"steadfast": first, "tar, podman exec tar": piped})
    what = "workspace of %d files, %d MB" % (files, size)
    bench.compare(what + ": first", results, "steadfast", "≤ 1.2× its time", lambda ours, other: ours / other, lambda value: value <= 1.2)
    prepare()
    again = [prepare() for _ in range(bench.rounds(5))]
    bench.add(what + ": again, nothing changed", spread(again), "", "", "< 300 ms", statistics.median(again) < 0.3)
    changed = []
    for number in range(bench.rounds(5)):
        with open(os.path.join(source, "d0", "f0"), "ab") as file:
            file.write(b"%d\n" % number)
        changed.append(prepare())
    bench.add(what + ": again, one file changed", spread(changed), "", "", "< 500 ms", statistics.median(changed) < 0.5)


def make_source(directory, files, size):
    """A repository with so many files of so many bytes, that do not compress."""
    for number in range(files):
        parent = os.path.join(directory, "d%d" % (number // 200))
        os.makedirs(parent, exist_ok=True)
        with open(os.path.join(parent, "f%d" % number), "wb") as file:
            file.write(os.urandom(size))
    # Nobody tidies up while it is read.
    config = ["-c", "user.name=bench", "-c", "user.email=bench@example.com", "-c", "gc.auto=0", "-c", "maintenance.auto=false"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run(["git", "-C", directory, *config, *words], check=True)


def keeper_of(session):
    """The process on this host that keeps this session."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if len(words) > 2 and words[1] == b"keep" and re.search(rb"/sessions/%s$" % session.encode(), words[2]):
            return int(pid)
    raise AssertionError("session %s has no keeper" % session)


def status(pid):
    with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as file:
        return {name: value.strip() for name, value in (line.split(":", 1) for line in file)}
