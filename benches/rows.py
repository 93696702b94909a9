"""What is measured of `apply`, `plan` and `cache`: one function per row. The first line of each docstring is its title in --list."""

import json
import os
import shutil
import statistics
import time

from harness import MIB, mib, registry, seconds
from podman import Podman, bare_requests
from servers import CountingProxy, FileServer

ROWS = []
row = registry("apply", ROWS)


# -- containers ----------------------------------------------------------------------------------------------------------


COMPOSE_V5 = "Docker Compose v5"


def write_states(bench, count, image="bench-agent", value="", fresh=True):
    """The same `count` containers as a state file and as a compose file. Returns their paths.

    Compose v5 names no grace where its file has none, which Podman 4.3 takes for none at all.
    """
    directory = bench.directory("states-%d" % count, fresh)
    ours, compose = os.path.join(directory, "steadfast.yaml"), os.path.join(directory, "docker-compose.yml")
    with open(ours, "w", encoding="utf-8") as file:
        file.write("apiVersion: steadfast/v1\nname: bench\nroot: %s/root\nruntime: {podman: {socket: '${env:CONTAINER_HOST}'}}\n" % directory)
        # Compose does not wait for what it started to stay up.
        file.write("defaults: {rollout: {settle: 0s}}\nagents:\n")
        for number in range(count):
            file.write('  a%03d: {version: "1", source: local, image: localhost/%s, container: {env: {NUMBER: "%d%s"}}}\n' % (number, image, number, value))
    with open(compose, "w", encoding="utf-8") as file:
        file.write('version: "3"\nservices:\n')
        for number in range(count):
            file.write('  a%03d: {image: "localhost/%s:1", restart: unless-stopped, network_mode: bridge, stop_grace_period: 10s, environment: {NUMBER: "%d%s"}}\n' % (number, image, number, value))
    return ours, compose


def contestants(bench, count):
    """name -> function that makes `count` containers run and returns the seconds it took."""
    ours, compose = write_states(bench, count)
    where = os.path.dirname(compose)
    found = {"steadfast": lambda: bench.apply(ours).seconds}
    if bench.compose:
        found["docker-compose"] = lambda: bench.run(bench.compose, "-p", "bench", "-f", compose, "up", "-d", cwd=where).seconds
    if bench.compose_v5:
        found[COMPOSE_V5] = lambda: bench.run(bench.compose_v5, "-p", "bench", "-f", compose, "up", "-d", cwd=where).seconds
    if bench.podman_compose:
        # It starts podman itself, so it gets the private configuration and not the socket.
        found["podman-compose"] = lambda: bench.run(
            bench.podman_compose, "-p", "bench", "-f", compose, "up", "-d", cwd=where, env=bench.local_env).seconds
    return ours, found


def ids(bench):
    return sorted(bench.podman("ps", "--all", "--no-trunc", "--format", "{{.ID}}").split())


@row("noop")
def noop(bench):
    """Nothing to do, 100 running containers: against docker-compose and podman-compose

    One contestant's containers at a time, since each would pay for looking past the others'; so a round is: bring up, run
    three times with nothing to do, remove.
    """
    count = 20 if bench.quick else 100
    bench.load_agent_image()
    ours, up = contestants(bench, count)
    changed, requests, inner = 0, None, {}

    def nothing_to_do(name):
        nonlocal changed, requests
        bench.clear()
        up[name]()
        before = ids(bench)
        assert len(before) == count, "%s started %d of %d containers" % (name, len(before), count)
        took = [up[name]() for _ in range(3)]
        inner.setdefault(name, []).extend(took)
        if name == "steadfast":
            requests = count_requests(bench, ours)
            changed += len(set(before) ^ set(ids(bench)))
        return statistics.median(took)

    def bare_list():
        """What Podman itself takes to list the containers, of ours and while they run."""
        bench.clear()
        up["steadfast"]()
        client = Podman(bench.socket)
        client.list("steadfast.name=bench")
        for _ in range(3):
            begin = time.perf_counter()
            client.list("steadfast.name=bench")
            inner.setdefault(BARE_LIST, []).append(time.perf_counter() - begin)
        return statistics.median(inner[BARE_LIST][-3:])

    bench.turns(bench.rounds(usual=3), {**{name: (lambda name=name: nothing_to_do(name)) for name in up}, BARE_LIST: bare_list})
    what = "nothing to do, %d running containers" % count
    floor = {name: inner.pop(name) for name in [BARE_LIST]}
    old = {name: values for name, values in inner.items() if name != COMPOSE_V5}
    bench.compare(what, old, "steadfast", "≥ 60× faster than the faster", lambda mine, best: best / mine, lambda ratio: ratio >= 60)
    new = {name: values for name, values in inner.items() if name in ("steadfast", COMPOSE_V5)}
    bench.compare(what, new, "steadfast", "≥ 4× faster", lambda mine, best: best / mine, lambda ratio: ratio >= 4)
    bench.compare(what, {"steadfast": inner["steadfast"], **floor}, "steadfast", "≤ 1.3× its time", lambda mine, best: mine / best, lambda ratio: ratio <= 1.3)
    bench.add(what + ": API requests", str(len(requests)), "", "", "≤ 4", len(requests) <= 4)
    bench.add(what + ": containers changed", str(changed), "", "", "0", changed == 0)


def count_requests(bench, file):
    """The requests of one apply, seen by a proxy in front of the socket."""
    proxy = CountingProxy(os.path.join(bench.scratch, "count.sock"), bench.socket.removeprefix("unix://"))
    try:
        bench.apply(file, env=dict(bench.env, CONTAINER_HOST="unix://" + proxy.path, DOCKER_HOST="unix://" + proxy.path))
    finally:
        proxy.close()
    assert proxy.requests, "apply sent no request through the proxy, so counting them failed"
    return proxy.requests


@row("noop1")
def noop_one(bench):
    """Nothing to do, 1 running container: against one `podman ps`"""
    bench.load_agent_image()
    ours, up = contestants(bench, 1)
    bench.clear()
    up["steadfast"]()
    results = bench.turns(2 * bench.rounds() + 1, {
        "steadfast": up["steadfast"],
        "podman ps": lambda: bench.run("podman", "ps", env=bench.local_env).seconds,
        "podman --url ps": lambda: bench.run("podman", "--url", bench.socket, "ps").seconds,
    })
    bench.compare("nothing to do, 1 container", results, "steadfast", "faster", lambda mine, best: best / mine, lambda ratio: ratio > 1)


BARE_LIST = "the bare list request"
DEAF = "bench-deaf"


def deaf(bench, count, value=""):
    """Containers whose first process ignores SIGTERM."""
    return write_states(bench, count, DEAF, value, fresh=value != "1")


def load_deaf_image(bench):
    """The agent's image with `sleep` as its first process, which the kernel keeps every signal but KILL from."""
    bench.load_agent_image()
    made = bench.podman("create", "localhost/bench-agent:1").strip()
    bench.podman("commit", "--quiet", "--change", 'ENTRYPOINT ["sleep", "1000000"]', made, "localhost/%s:1" % DEAF)
    bench.podman("rm", made)


def patient(bench):
    """docker-compose gives up after a minute, while most of its stops wait for their turn at Podman's service."""
    return dict(bench.env, COMPOSE_HTTP_TIMEOUT="600")


def judge_deaf(bench, what, found, compose):
    """Measures once, Compose's old and new program beside what was `found`: each takes minutes."""
    if bench.compose:
        found["docker-compose"] = lambda: compose(bench.compose)
    if bench.compose_v5:
        found[COMPOSE_V5] = lambda: compose(bench.compose_v5)
    results = bench.turns(1, found)
    bench.compare(what, results, "steadfast", "≤ 0.4× the faster", lambda mine, best: mine / best, lambda ratio: ratio <= 0.4)
    bench.add(what + ": seconds", "%.1f s" % results["steadfast"][0], "", "", "< 30 s", results["steadfast"][0] < 30)


@row("down")
def down(bench):
    """Take down 100 containers that ignore SIGTERM: against docker-compose and `podman rm -f -t 10`"""
    count = 10 if bench.quick else 100
    load_deaf_image(bench)

    def ours():
        bench.clear()
        file, _ = deaf(bench, count)
        bench.apply(file)
        return bench.run(bench.steadfast, "down", "--quiet", "-f", file).seconds

    def compose(program):
        bench.clear()
        _, file = deaf(bench, count)
        bench.run(program, "-p", "bench", "-f", file, "up", "-d", cwd=os.path.dirname(file))
        return bench.run(program, "-p", "bench", "-f", file, "down", cwd=os.path.dirname(file), env=patient(bench)).seconds

    def podman():
        bench.clear()
        bench.apply(deaf(bench, count)[0])
        return bench.run("podman", "rm", "-f", "-t", "10", "-a", env=bench.local_env).seconds

    found = {"steadfast": ours, "podman rm -f -t 10 -a": podman}
    judge_deaf(bench, "take down %d containers that ignore SIGTERM" % count, found, compose)


@row("replace")
def replace(bench):
    """One edit replaces 100 containers that ignore SIGTERM: against docker-compose"""
    count = 10 if bench.quick else 100
    load_deaf_image(bench)

    def ours():
        bench.clear()
        bench.apply(deaf(bench, count, "0")[0])
        return bench.apply(deaf(bench, count, "1")[0]).seconds

    def compose(program):
        bench.clear()
        took = None
        for value in ("0", "1"):
            _, file = deaf(bench, count, value)
            took = bench.run(program, "-p", "bench", "-f", file, "up", "-d", cwd=os.path.dirname(file), env=patient(bench)).seconds
        return took

    found = {"steadfast": ours}
    judge_deaf(bench, "one edit replaces %d containers that ignore SIGTERM" % count, found, compose)


FLOOR, QUICK_OURS = "the bare requests (floor)", "steadfast, --no-wait"


@row("create")
def create(bench):
    """Create and start 20 containers: against docker-compose and podman-compose, and what Podman itself takes

    The floor is one create and one start request per container and nothing else, four at once, with the body that `apply`
    sends. `up -d` does not look again at what it started, and neither does `--no-wait`.
    """
    bench.load_agent_image()
    ours, up = contestants(bench, 20)
    bodies = [bare_body(number) for number in range(20)]
    up[QUICK_OURS] = lambda: bench.apply(ours, "--no-wait").seconds
    up[FLOOR] = lambda: bare_requests(bench.socket, bodies, 4)

    def from_nothing(name):
        bench.clear()
        took = up[name]()
        running = bench.podman("ps", "--quiet").split()
        assert len(running) == 20, "%s left %d of 20 running" % (name, len(running))
        return took

    results = bench.turns(bench.rounds(), {name: (lambda name=name: from_nothing(name)) for name in up})
    peers = {name: values for name, values in results.items() if name != QUICK_OURS}
    bench.compare("create and start 20 containers", peers, "steadfast", "≥ 2× faster than the faster",
                  lambda mine, best: best / mine, lambda ratio: ratio >= 2, beside=(FLOOR,))
    floor = {name: results[name] for name in (QUICK_OURS, FLOOR)}
    bench.compare("the same without looking again (`--no-wait`)", floor, QUICK_OURS, "", lambda mine, best: mine / best, lambda ratio: None)


def bare_body(number):
    name = "a%03d" % number
    labels = {"steadfast.name": "bench", "steadfast.agent": name, "steadfast.spec": "{}", "steadfast.spec-version": "1"}
    return {"name": "bench-" + name, "image": "localhost/bench-agent:1", "labels": labels, "env": {"NUMBER": str(number)}, "mounts": [],
            "portmappings": [], "restart_policy": "unless-stopped", "hostadd": [], "stop_timeout": 10}


# -- artifacts -----------------------------------------------------------------------------------------------------------


def random_file(path, size):
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())


def publish(bench, name, files):
    """A directory with a manifest that offers `files` (agent -> path) as they are. Each is linked, not copied."""
    directory = bench.directory(name)
    arch = bench.library("host_arch")
    os.makedirs(directory + "/vm/images")
    agents = {}
    for agent, path in files.items():
        key = "vm/images/%s-1-%s.tar.gz" % (agent, arch)
        os.link(path, os.path.join(directory, key))
        agents[agent] = {"image": "localhost/" + agent, "version": "1", "tarballs": {
            arch: {"key": key, "sha256": digest(bench, path), "sizeBytes": os.path.getsize(path)}}}
    with open(directory + "/vm/manifest.json", "w", encoding="utf-8") as file:
        json.dump({"schemaVersion": 2, "updatedAt": "2026-01-01T00:00:00Z", "agents": agents}, file)
    return directory


def digest(bench, path, known={}):
    stat = os.stat(path)
    key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in known:
        known[key] = bench.library('sha256_of "$1"', path)
    return known[key]


def sync(bench, url, root, *flags, **more):
    return bench.run(bench.steadfast, "cache", "sync", "--manifest-url", url, "--root", root, "--arch", "host", "-o", "json", *flags, **more)


def measure_fetch(bench, size, rounds):
    """Rounds of steadfast, curl + sha256sum and curl + sync over one file of `size` bytes; and steadfast's peaks in KiB."""
    source = os.path.join(bench.scratch, "random")
    random_file(source, size)
    published = publish(bench, "published", {"big": source})
    server, peaks = FileServer(published), []
    artifact = next(name for name in os.listdir(published + "/vm/images"))
    url, target = "%s/vm/images/%s" % (server.url, artifact), os.path.join(bench.directory("curl"), "F")

    def ours():
        run = sync(bench, server.url + "/vm/manifest.json", bench.directory("root"), memory=True)
        peaks.append(run.rss)
        shutil.rmtree(os.path.join(bench.scratch, "root"))
        return run.seconds

    def curl(then):
        took = bench.run("sh", "-c", 'curl -sf -o "$1" "$2" && %s "$1"' % then, "sh", target, url).seconds
        os.unlink(target)
        return took

    try:
        results = bench.turns(rounds, {
            "steadfast": ours, "curl -o F && sha256sum F": lambda: curl("sha256sum"), "curl -o F && sync F": lambda: curl("sync")})
    finally:
        server.close()
        shutil.rmtree(published)
        os.unlink(source)
    return results, peaks


@row("fetch")
def fetch(bench):
    """Fetch, verify and fsync 1 GiB over loopback HTTP: against curl && sha256sum, and curl && sync; its peak memory"""
    size, name = (128 * MIB, "128 MiB") if bench.quick else (1024 * MIB, "1 GiB")
    results, peaks = measure_fetch(bench, size, bench.rounds())
    what = "fetch + verify + fsync %s" % name
    checked = {key: results[key] for key in ("steadfast", "curl -o F && sha256sum F")}
    bench.compare(what, checked, "steadfast", "≥ 3× faster", lambda mine, best: best / mine, lambda ratio: ratio >= 3)
    synced = {key: results[key] for key in ("steadfast", "curl -o F && sync F")}
    bench.compare(what, synced, "steadfast", "not slower", lambda mine, best: best / mine, lambda ratio: ratio >= 1)
    bench.add("its peak memory, %s" % name, mib(max(peaks)), "", "", "≤ 32 MiB", max(peaks) <= 32 * 1024)
    if bench.full:
        _, four = measure_fetch(bench, 4096 * MIB, 1)
        bench.add("its peak memory, 4 GiB", mib(max(four)), "", "", "≤ 32 MiB", max(four) <= 32 * 1024)


@row("load")
def load(bench):
    """Load a 400 MB gzip tarball into Podman: against `podman --url … load` of the plain tar; client memory"""
    size = 40 if bench.quick else 400
    work = bench.directory("load")
    bench.library('''
        big_rootfs "$1/rootfs" "$(($2 * 3 / 4))" "$(($2 / 4))"
        make_archive "$1/rootfs" localhost/big:1 "$1/big.tar"
        gzip -nc "$1/big.tar" >"$1/big.tar.gz"
        rm -r "$1/rootfs"''', work, size)
    plain, zipped = work + "/big.tar", work + "/big.tar.gz"
    published = publish(bench, "published", {"big": zipped})
    file, peaks = work + "/steadfast.yaml", []
    with open(file, "w", encoding="utf-8") as out:
        out.write('apiVersion: steadfast/v1\nname: bench\nroot: %s/root\nmanifest: {url: %s/vm/manifest.json}\n'
                  "runtime: {podman: {socket: '${env:CONTAINER_HOST}'}}\nagents:\n  big: {version: \"1\"}\n" % (work, published))
    bench.run(bench.steadfast, "cache", "sync", "-f", file)

    def forget():
        bench.clear()
        bench.run("podman", "--url", bench.socket, "rmi", "--force", "localhost/big:1", ok=(0, 1))

    def ours():
        forget()
        run = bench.apply(file, "-o", "json", memory=True)
        peaks.append(run.rss)
        loads = [action for action in json.loads(run.stdout)["actions"] if action["kind"] == "loadImage"]
        assert len(loads) == 1, "apply took %d load steps, expected 1" % len(loads)
        return loads[0]["durationMs"] / 1000

    def theirs():
        forget()
        return bench.run("podman", "--url", bench.socket, "load", "-q", "-i", plain).seconds

    results = bench.turns(bench.rounds(usual=7), {"steadfast": ours, "podman --url load, plain tar": theirs})
    forget()
    bench.compare("load step of a %d MB gzip tarball" % size, results, "steadfast", "≤ 1.1× its time", lambda mine, best: mine / best,
                  lambda ratio: ratio <= 1.1)
    bench.add("its peak memory while loading", mib(max(peaks)), "", "", "< 24 MiB", max(peaks) < 24 * 1024)
    shutil.rmtree(published)
    shutil.rmtree(work)


@row("warm")
def warm(bench):
    """Warm check of 10 × 1 GiB in the cache, with the proof that none of it is read"""
    size, name = (32 * MIB, "32 MiB") if bench.quick else (1024 * MIB, "1 GiB")
    source, root = os.path.join(bench.scratch, "random"), bench.directory("root")
    random_file(source, size)
    published = publish(bench, "published", {"agent%d" % number: source for number in range(10)})
    manifest = published + "/vm/manifest.json"
    try:
        sync(bench, manifest, root)

        def check():
            run = sync(bench, manifest, root)
            assert json.loads(run.stdout)["skipped"] is True, "the second sync fetched something"
            return run.seconds

        results = bench.turns(2 * bench.rounds() + 1, {"steadfast": check})["steadfast"]
        middle = statistics.median(results)
        bench.add("warm check of 10 × %s" % name, "%s [%s..%s]" % (seconds(middle), seconds(min(results)), seconds(max(results))), "", "",
                  "< 20 ms", middle < 0.020)
        if shutil.which("strace"):
            trace = os.path.join(bench.scratch, "trace")
            bench.run("strace", "-f", "-y", "-qq", "-e", "trace=read,readv,pread64,preadv,preadv2,mmap,sendfile,copy_file_range", "-o", trace,
                      bench.steadfast, "cache", "sync", "--manifest-url", manifest, "--root", root, "--arch", "host", "-o", "json")
            with open(trace, encoding="utf-8", errors="replace") as file:
                reads = [line for line in file if ".tar.gz>" in line]
            bench.add("reads of their bytes (strace)", str(len(reads)), "", "", "0", not reads)
    finally:
        for path in (published, root):
            shutil.rmtree(path, ignore_errors=True)
        os.unlink(source)


@row("cut")
def cut(bench):
    """Cut at 50 %, then run again: bytes that are sent twice"""
    size, name = (64 * MIB, "64 MiB") if bench.quick else (1024 * MIB, "1 GiB")
    source, root = os.path.join(bench.scratch, "random"), bench.directory("root")
    random_file(source, size)
    published = publish(bench, "published", {"big": source})
    server = FileServer(published)
    try:
        twice = []
        for _ in range(bench.rounds(usual=3)):
            root = bench.directory("root")
            server.sent, server.cut_after, server.requests = 0, size // 2, []
            sync(bench, server.url + "/vm/manifest.json", root, "--retries", "0", ok=(1,))
            server.cut_after = None
            sync(bench, server.url + "/vm/manifest.json", root)
            manifests = sum(end - start for _, target, start, end in server.requests if target.endswith("manifest.json"))
            twice.append(server.sent - manifests - size)
        worst = max(twice)
        bench.add("%s cut at 50 %%, then run again: sent twice" % name, "%.2f MiB" % (worst / MIB), "", "", "≤ 1 MiB", 0 <= worst <= MIB)
    finally:
        server.close()
        for path in (published, root):
            shutil.rmtree(path, ignore_errors=True)
        os.unlink(source)


# -- state file ----------------------------------------------------------------------------------------------------------


@row("plan")
def plan(bench):
    """Parse, validate and plan 10,000 agents; peak memory"""
    count = 1000 if bench.quick else 10000
    directory = bench.directory("states")
    file = directory + "/steadfast.yaml"
    with open(file, "w", encoding="utf-8") as out:
        out.write("apiVersion: steadfast/v1\nname: bench\nroot: %s/root\nruntime: {podman: {socket: '${env:CONTAINER_HOST}'}}\nagents:\n" % directory)
        for number in range(count):
            out.write('''  agent-%05d:
    version: "2026.4.12"
    source: local
    image: localhost/bench-agent
    container:
      command: [node, dist/index.js, gateway]
      env: {HOME: /home/node, NUMBER: "%d", TOKEN: "${env:BENCH_TOKEN}"}
      ports: ["127.0.0.1:%d:8080/%s"]
      mounts: [{source: /tmp, target: /home/node, readOnly: true}]
      restart: unless-stopped
      healthcheck: {test: [CMD, wget, -q, "http://127.0.0.1:8080/"], interval: 30s, timeout: 10s, retries: 3}
''' % (number, number, 10000 + number, "tcp"))
    env, peaks = dict(bench.env, BENCH_TOKEN="not-a-secret"), []
    bench.load_agent_image()
    bench.podman("tag", "localhost/bench-agent:1", "localhost/bench-agent:2026.4.12")

    def ours():
        run = bench.run(bench.steadfast, "plan", "-f", file, "-o", "json", env=env, memory=True)
        peaks.append(run.rss)
        answer = json.loads(run.stdout)
        steps = len(answer["actions"]) + len(answer["waiting"])
        assert steps >= count, "the plan has %d steps for %d agents" % (steps, count)
        return run.seconds

    results = bench.turns(bench.rounds(), {"steadfast": ours})["steadfast"]
    middle = statistics.median(results)
    what = "parse, validate and plan %s agents" % format(count, ",")
    bench.add(what, "%s [%s..%s]" % (seconds(middle), seconds(min(results)), seconds(max(results))), "", "", "< 1 s", middle < 1)
    bench.add(what + ": peak memory", mib(max(peaks)), "", "", "< 128 MiB", max(peaks) < 128 * 1024)
