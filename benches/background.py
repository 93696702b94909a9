"""What is measured of `steadfast run`: one function per row. The first line of each docstring is its title in --list.

Times end when Podman's own inspection says that the container runs with another process; it is asked every 8 ms over a
kept connection. Containers take turns, so that each has been up for a while before it is killed again.
"""

import datetime
import os
import random
import re
import signal
import statistics
import time

from harness import mib, p95, registry, seconds, tail
from kept import Kept, until, until_new_process
from podman import Events, Podman, Service

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
    podman, events = Podman(bench.socket), Events(bench.socket)
    kept, alone = Kept(bench, "kept", TURNS), Kept(bench, "alone", TURNS)
    bench.apply(alone.file)
    starts = {}

    def revive(who, contestant):
        turn = len(starts.setdefault(contestant, []))
        name = who.containers[turn % TURNS]
        identity, process = podman.up(name)
        since, begin = len(events.heard), time.perf_counter()
        os.kill(process, signal.SIGKILL)
        after = until_new_process(podman, name, process)
        took = time.perf_counter() - begin
        time.sleep(QUIET)
        assert podman.up(name) == after and after[0] == identity, "%s was started again, or made anew" % name
        # The new process itself shows one start, should Podman have lost its event.
        starts[contestant].append(max(1, events.of("start", since).count((name, identity))))
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
    """An edit by one rename, until Podman makes the successor

    From before the rename to the time of creation that Podman's inspection tells of the successor.
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
        return created_at(podman.inspect(name)) - since

    with kept:
        results = bench.turns(bench.rounds(ROUNDS), {"steadfast": ours})["steadfast"]
    bench.add("edit by an atomic rename → first action (Podman makes the successor)", tail(results), "", "", "p95 < 200 ms", p95(results) < 0.2)


def created_at(seen):
    """Podman tells nanoseconds and the zone, which `datetime` of old Pythons does not read."""
    whole, fraction, zone = re.fullmatch(r"([^.]+)(\.\d+)?(Z|[+-]\d\d:\d\d)", seen["Created"]).groups()
    return datetime.datetime.fromisoformat(whole + zone.replace("Z", "+00:00")).timestamp() + float(fraction or 0)


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
        chaos = Chaos(kept, Podman(bench.socket), Events(bench.socket), random.Random(seed))
        chaos.go_on(warm_up)
        kept.converges(limit=420, pause=0.5)
        time.sleep(5)
        files, memory = kept.open_files(), kept.memory()[0]
        chaos.begin()
        took = chaos.go_on(deeds)
        begin = time.monotonic()
        kept.converges(limit=420, pause=0.1)
        converged = time.monotonic() - begin
        time.sleep(5)
        assert kept.is_converged(), "converged, and not any more"
        files_after, memory_after = kept.open_files(), kept.memory()[0]
        vain, why = chaos.made()
    what = "%s random deeds in %.0f s (%s; seed %d)" % (format(deeds, ","), took, chaos.told(), seed)
    bench.add(what + ": converged", "%s after the last" % seconds(converged), "", "", "converged", True)
    bench.add("the same: open files, of them sockets", "%d, %d" % files_after, "before: %d, %d" % files, "", "no more, but for 4 kept connections",
              files_after[0] <= files[0] + 4 and files_after[1] <= files[1] + 4)
    bench.add("the same: memory", mib(memory_after), "before: " + mib(memory), "%.2f×" % (memory_after / memory), "≤ 1.1×", memory_after <= 1.1 * memory)
    bench.add("the same: containers made anew that need not be", str(vain), why, "", "0", vain == 0)


class Chaos:
    KINDS = ("edit", "kill -9", "podman kill", "stop", "rm -f")
    REQUESTS = {
        "podman kill": ("POST", "/containers/%s/kill?signal=KILL"), "stop": ("POST", "/containers/%s/stop?timeout=1"),
        "rm -f": ("DELETE", "/containers/%s?force=true&timeout=0")}

    def __init__(self, kept, podman, events, chance):
        self.kept, self.podman, self.events, self.chance = kept, podman, events, chance
        # These are only ever killed and stopped, so they must stay the very containers they are.
        self.only_killed = {name: podman.up(name)[0] for name in kept.containers[:2]}
        self.begin()

    def begin(self):
        """Counts from now on."""
        self.began, self.since = time.time(), len(self.events.heard)
        self.there = self.look()
        # Edits and removals, by container.
        self.causes = dict.fromkeys(self.kept.containers, 0)
        self.done = dict.fromkeys(self.KINDS, 0)
        self.seen = {}

    def go_on(self, deeds):
        begin = time.monotonic()
        for _ in range(deeds):
            while not self.deed():
                time.sleep(0.01)
            time.sleep(self.chance.uniform(0, 0.4))
            self.seen.update(self.look())
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

    def look(self):
        """Id and name of every container there is, also of one that is just taking another's place."""
        listed = self.podman.list("steadfast.name=" + self.kept.name)
        return {entry["Id"]: re.sub(r"\.(next|prev)$", "", entry["Names"][0]) for entry in listed}

    def made(self):
        """How many containers were made in vain, and what they were made for. What was made is known by its event, and by
        being seen after a deed, since Podman 4.3 loses events now and then."""
        created = {identity: name.removesuffix(".next") for name, identity in self.events.of("create", self.since)}
        created = {identity: name for identity, name in {**self.seen, **self.look(), **created}.items() if identity not in self.there}
        names, allowed = list(created.values()), dict(self.causes)
        # A successor that was hit before it had proved itself goes, and another one is made later.
        hit = self.kept.failed_steps(("createContainer", "replaceContainer"), self.began)
        for agent in hit:
            allowed["kept-" + agent] += 1
        vain = sum(max(0, names.count(name) - most) for name, most in allowed.items())
        vain += sum(self.podman.up(name)[0] != identity for name, identity in self.only_killed.items())
        return vain, "%d made, for %d edits and removals, and %d that were hit before they had proved themselves" % (
            len(names), sum(self.causes.values()), len(hit))

    def told(self):
        return ", ".join("%d× %s" % (count, kind) for kind, count in self.done.items())


def kill(process):
    try:
        os.kill(process, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
