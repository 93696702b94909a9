"""What is measured of `steadfast run`: one function per row. The first line of each docstring is its title in --list.

Times end when Podman's own inspection says that the container runs with another process; it is asked every 8 ms over a
kept connection. Containers take turns, so that each has been up for a while before it is killed again.
"""

import os
import random
import signal
import statistics
import time

from harness import mib, p95, registry, seconds, tail
from kept import Kept, until, until_new_process
from podman import Podman, Service

ROWS = []
row = registry("run", ROWS)

ROUNDS = 20
# Containers that take turns.
TURNS = 4
# After this long nobody starts a container a second time any more.
QUIET = 1.5


@row("killed")
def killed(bench):
    """kill -9 of a process under `unless-stopped`, until it runs again: with `run` and without; its starts counted"""
    bench.load_agent_image()
    podman = Podman(bench.socket)
    kept, alone = Kept(bench, "kept", TURNS), Kept(bench, "alone", TURNS)
    bench.apply(alone.file)
    starts = {}

    def revive(who, contestant):
        turn = len(starts.setdefault(contestant, []))
        name = who.containers[turn % TURNS]
        identity, process = podman.up(name)
        since, begin = time.time(), time.perf_counter()
        os.kill(process, signal.SIGKILL)
        after = until_new_process(podman, name, process)
        took = time.perf_counter() - begin
        time.sleep(QUIET)
        assert podman.up(name) == after and after[0] == identity, "%s was started again, or made anew" % name
        starts[contestant].append(len([event for event in podman.events(since, event=["start"]) if event["name"] == name]))
        return took

    with kept:
        results = bench.turns(bench.rounds(ROUNDS), {
            "steadfast": lambda: revive(kept, "steadfast"), "without `run`": lambda: revive(alone, "without `run`")})
    what = "`kill -9` under `unless-stopped` → running (Podman does it)"
    ratio = statistics.median(results["steadfast"]) / statistics.median(results["without `run`"])
    bench.add(what, tail(results["steadfast"]), "without `run` " + tail(results["without `run`"]), "%.2f×" % ratio, "the same, ± 15 %", abs(ratio - 1) <= 0.15)
    counted = starts["steadfast"]
    bench.add(what + ": starts", "%d..%d" % (min(counted), max(counted)), "without `run` %d..%d" % (
        min(starts["without `run`"]), max(starts["without `run`"])), "", "1 each time", set(counted) == {1})


@row("revived")
def revived(bench):
    """`podman kill` under `on-failure`, which Podman does not make up for, until it runs again: against one `podman start`

    Podman 4.3 restarts what dies by itself under `on-failure` without end (a limit is nothing the state file has), so only
    what was killed through Podman is left down. That it is so is looked at first.
    """
    bench.load_agent_image()
    podman = Podman(bench.socket)
    alone = Kept(bench, "alone", 1, restart="on-failure")
    bench.apply(alone.file)
    for _ in range(6):
        _, process = podman.up(alone.containers[0])
        os.kill(process, signal.SIGKILL)
        until_new_process(podman, alone.containers[0], process, limit=20)
    kept, turn = Kept(bench, "kept", TURNS, restart="on-failure"), iter(range(1 << 30))

    def ours():
        name = kept.containers[next(turn) % TURNS]
        _, process = podman.up(name)
        begin = time.perf_counter()
        podman.call("POST", "/containers/%s/kill?signal=KILL" % name)
        until_new_process(podman, name, process)
        took = time.perf_counter() - begin
        time.sleep(0.7)
        return took

    def theirs():
        name = alone.containers[0]
        podman.call("POST", "/containers/%s/kill?signal=KILL" % name)
        until(lambda: podman.inspect(name)["State"]["Status"] == "exited", "%s has ended" % name)
        took = bench.run("podman", "start", name, env=bench.local_env).seconds
        assert podman.up(name), "`podman start` did not start it"
        return took

    with kept:
        results = bench.turns(bench.rounds(ROUNDS), {"steadfast": ours, "podman start": theirs})
    mine, start = statistics.median(results["steadfast"]), statistics.median(results["podman start"])
    bench.add("`podman kill` under `on-failure` → running (what dies by itself Podman 4.3 restarts without end)", tail(results["steadfast"]),
              "podman start (CLI, of a stopped container) " + tail(results["podman start"]), "%.2f×" % (mine / start),
              "p50 ≤ 4× one `podman start`, p95 < 800 ms", mine <= 4 * start and p95(results["steadfast"]) < 0.8)


@row("removed")
def removed(bench):
    """`podman rm -f`, from its return until the container is made anew and runs"""
    bench.load_agent_image()
    podman, kept, turn = Podman(bench.socket), Kept(bench, "kept", TURNS), iter(range(1 << 30))

    def ours():
        name = kept.containers[next(turn) % TURNS]
        _, process = podman.up(name)
        bench.run("podman", "rm", "--force", name, env=bench.local_env)
        begin = time.perf_counter()
        until_new_process(podman, name, process)
        took = time.perf_counter() - begin
        time.sleep(0.7)
        return took

    with kept:
        results = bench.turns(bench.rounds(ROUNDS), {"steadfast": ours})["steadfast"]
    bench.add("`podman rm -f` → made anew and running, from its return", tail(results), "", "", "p95 < 1.5 s", p95(results) < 1.5)


@row("gap")
def gap(bench):
    """Podman's service killed, a container killed while it is gone, the service started again: until it runs again

    From the service's first answer to a ping. It is gone for up to two seconds longer than the kill takes.
    """
    bench.load_agent_image()
    service, chance, turn = Service(bench), random.Random(4), iter(range(1 << 30))
    kept = Kept(bench, "kept", TURNS, address=service.address)
    # The other service sees the same containers, and is there before and after.
    podman = Podman(bench.socket)

    def ours():
        name = kept.containers[next(turn) % TURNS]
        _, process = podman.up(name)
        service.kill()
        bench.run("podman", "kill", name, env=bench.local_env)
        time.sleep(chance.uniform(0, 2))
        begin = service.start()
        until_new_process(podman, name, process)
        took = time.perf_counter() - begin
        time.sleep(0.7)
        return took

    with service, kept:
        results = bench.turns(bench.rounds(ROUNDS), {"steadfast": ours})["steadfast"]
    bench.add("event stream cut by killing the service, `podman kill` in the gap → running, from the service's first answer", tail(results), "", "",
              "within 2 s", max(results) < 2)


@row("edit")
def edit(bench):
    """An edit by one rename, until Podman says that it has created the successor

    From before the rename to the time that Podman's `create` event carries.
    """
    bench.load_agent_image()
    podman, kept, turn = Podman(bench.socket), Kept(bench, "kept", TURNS), iter(range(1, 1 << 30))

    def ours():
        number = next(turn)
        agent = "a%03d" % (number % TURNS)
        name = "kept-" + agent
        identity, _ = podman.up(name)
        kept.values[agent] = str(number)
        prepared = kept.prepare()
        since = time.time()
        kept.save(prepared)
        until(lambda: (podman.up(name) or (identity,))[0] != identity and len(podman.list("steadfast.name=kept")) == TURNS, name + " is replaced", pause=0.05)
        created = [event for event in podman.events(since, event=["create"]) if event["name"].startswith(name)]
        assert len(created) == 1, "%d containers were created for one edit" % len(created)
        return created[0]["at"] - since

    with kept:
        results = bench.turns(bench.rounds(ROUNDS), {"steadfast": ours})["steadfast"]
    bench.add("edit by an atomic rename → first action (Podman has created the successor)", tail(results), "", "", "p95 < 200 ms", p95(results) < 0.2)


@row("idle")
def idle(bench):
    """Idle for 5 minutes with 50 agents: memory and processor; then 1,000 forced passes: memory"""
    window, passes = (60, 300) if bench.quick else (300, 1000)
    bench.load_agent_image()
    with Kept(bench, "kept", 50) as kept:
        time.sleep(10)
        before, begin = kept.cpu(), time.monotonic()
        time.sleep(window)
        share = (kept.cpu() - before) / (time.monotonic() - begin)
        resident, peak = kept.memory()
        sizes, begin = {}, time.perf_counter()
        for number in range(1, passes + 1):
            kept.reconcile()
            if number in (passes // 10, passes):
                sizes[number] = kept.memory()[0]
        each = (time.perf_counter() - begin) / passes
    what, first, last = "idle for %d min with 50 agents" % (window // 60), sizes[passes // 10], sizes[passes]
    bench.add(what + ": memory", "%s, at most %s" % (mib(resident), mib(peak)), "", "", "< 20 MiB", resident < 20 * 1024)
    bench.add(what + ": processor", "%.3f %% of a core" % (100 * share), "", "", "< 0.1 %", share < 0.001)
    bench.add("its memory after %s forced passes (%s each)" % (format(passes, ","), seconds(each)), mib(last),
              "after %d: %s" % (passes // 10, mib(first)), "%.2f×" % (last / first), "not grown (≤ 1.02×)", last <= 1.02 * first)


@row("chaos")
def chaos(bench):
    """1,000 random edits, kills and removals in a row: converged at the end, nothing leaked, nothing made anew in vain"""
    warm_up, deeds, seed = (20, 100, 1000) if bench.quick else (50, 1000, 1000)
    bench.load_agent_image()
    with Kept(bench, "kept", 10) as kept:
        chaos = Chaos(kept, Podman(bench.socket), random.Random(seed))
        chaos.go_on(warm_up)
        until(kept.is_converged, "converged after the warm-up", limit=120, pause=0.5)
        time.sleep(5)
        files, memory = kept.open_files(), kept.memory()[0]
        chaos.begin()
        took = chaos.go_on(deeds)
        begin = time.monotonic()
        until(kept.is_converged, "converged at the end", limit=120, pause=0.1)
        converged = time.monotonic() - begin
        time.sleep(5)
        assert kept.is_converged(), "converged, and not any more"
        files_after, memory_after = kept.open_files(), kept.memory()[0]
        created, needed, vain = chaos.made()
    what = "%s random deeds in %.0f s (%s; seed %d)" % (format(deeds, ","), took, chaos.told(), seed)
    bench.add(what + ": converged", "%s after the last" % seconds(converged), "", "", "converged", True)
    bench.add("the same: open files, of them sockets", "%d, %d" % files_after, "before: %d, %d" % files, "", "no more", files_after <= files)
    bench.add("the same: memory", mib(memory_after), "before: " + mib(memory), "%.2f×" % (memory_after / memory), "≤ 1.1×", memory_after <= 1.1 * memory)
    bench.add("the same: containers made anew that need not be", str(vain), "%d made, for %d edits and removals" % (created, needed), "", "0", vain == 0)


class Chaos:
    KINDS = ("edit", "kill -9", "podman kill", "stop", "rm -f")
    REQUESTS = {
        "podman kill": ("POST", "/containers/%s/kill?signal=KILL"), "stop": ("POST", "/containers/%s/stop?timeout=1"),
        "rm -f": ("DELETE", "/containers/%s?force=true&timeout=0")}

    def __init__(self, kept, podman, chance):
        self.kept, self.podman, self.chance = kept, podman, chance
        # These are only ever killed and stopped, so they must stay the very containers they are.
        self.only_killed = {name: podman.up(name)[0] for name in kept.containers[:2]}
        self.begin()

    def begin(self):
        """Counts from now on."""
        self.since = self.read = time.time()
        # Edits and removals, by container.
        self.causes = dict.fromkeys(self.kept.containers, 0)
        self.done = dict.fromkeys(self.KINDS, 0)
        self.creations = {}

    def go_on(self, deeds):
        begin = time.monotonic()
        for number in range(deeds):
            while not self.deed():
                time.sleep(0.01)
            time.sleep(self.chance.uniform(0, 0.5))
            if number % 20 == 19:
                self.read_events()
        return time.monotonic() - begin

    def deed(self):
        """Whether it took effect: a container that is just down cannot be killed, and something else is tried."""
        kind, name = self.chance.choice(self.KINDS), self.chance.choice(self.kept.containers)
        costs = kind in ("edit", "rm -f")
        if costs and name in self.only_killed:
            return False
        if kind == "edit":
            self.kept.values[name.removeprefix("kept-")] = str(self.chance.getrandbits(60))
            self.kept.save(self.kept.prepare())
        elif kind == "kill -9":
            up = self.podman.up(name)
            if not up or not kill(up[1]):
                return False
        else:
            method, target = self.REQUESTS[kind]
            if self.podman.ask(method, target % name)[0] not in (200, 204):
                return False
        self.causes[name] += costs
        self.done[kind] += 1
        return True

    def read_events(self):
        """Now and then, since Podman 4.3 cuts its log of events at 1 MB."""
        now = time.time()
        for event in self.podman.events(self.read - 2, event=["create"]):
            if event["at"] >= self.since:
                self.creations[event["id"]] = event["name"].removesuffix(".next")
        self.read = now

    def made(self):
        """How many containers were made, how many edits and removals there were, and how many were made in vain."""
        self.read_events()
        names = list(self.creations.values())
        vain = sum(max(0, names.count(name) - causes) for name, causes in self.causes.items())
        vain += sum(self.podman.up(name)[0] != identity for name, identity in self.only_killed.items())
        return len(names), sum(self.causes.values()), vain

    def told(self):
        return ", ".join("%d× %s" % (count, kind) for kind, count in self.done.items())


def kill(process):
    try:
        os.kill(process, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
