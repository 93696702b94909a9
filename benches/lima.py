"""What is measured of a Lima virtual machine: one function per row. The first line of each docstring is its title in --list.
Started by lima.sh, which prepares the machine, as a user whom limactl accepts. All rows share one VM."""

import glob
import json
import os
import shutil
import socket
import statistics
import sys
import threading
import time

from harness import Bench, command_line, first_line, host, registry, seconds, spread
from kept import Kept, until
from podman import Podman
from rows import publish

ROWS = []
row = registry("lima", ROWS)

INSTANCE = "bench"
# Where the guest sees what is published.
MOUNTED = "/mnt/bench"
# Podman's service in the guest stops after 5 s without a request.
ASLEEP = 7
# A boot takes minutes where it is emulated.
BOOT = 900

NOTES = """\
Doing nothing: Podman is pinged right before each round, on both sides. In the guest its service ends after 5 s of silence, and what waking it takes stands in
the next row. From nothing: the first row compares two boots, whose times differ from each other as well; the second looks at one and the same `apply`. The bare
container is another one of the image, made and started by two requests to the same Podman right after. Loading: until Podman has the image, caches of the guest
dropped before; nothing that decompresses for itself is counted without its decompression. Lost master: before each round the connection and its forward are made
again as Lima makes them (`limactl shell`, `ssh -O forward`) where `run` has not done so already, and `run` is started anew; `status` finds Podman's service
asleep. Reboot: by hand, `ssh … true` is tried again and again from the first line of the guest's sshd on, then one more starts the container,
which the guest is starting by itself already; when it was first let in is subtracted from both. That what the connection carried is gone, `run` has noticed long before."""


def main():
    # --out and --docs are lima.sh's: it takes them, and they are only explained here.
    options, chosen = command_line(
        ROWS, "benches/lima.sh", "Measures steadfast with a Lima virtual machine.", full="makes the VM from nothing twice",
        rounds="rounds per row, except for making the VM")
    if chosen is None:
        return 0
    bench = LimaBench(options)
    started = time.monotonic()
    for row in chosen:
        bench.measure(row)
    print("%s\n\n%s\n%s" % (bench.table("lima"), about(bench, time.monotonic() - started), NOTES))
    return 0 if bench.good() else 1


def about(bench, seconds):
    versions = [first_line(bench.steadfast, "--version"), first_line("limactl", "--version")]
    if sys.platform != "darwin":
        versions.append(first_line("qemu-system-" + os.uname().machine, "--version"))
    versions += [first_line("podman", "--version") + " here", "%s in the guest" % bench.machine.look()["podman"]["version"]]
    kind = "Quick run, not to be quoted. " if bench.quick else ""
    return "%sMedians of interleaved rounds, in brackets the least and the greatest. The VM by %s. %s; %s. The run took %d min." % (
        kind, os.environ["BENCH_ACCELERATOR"], host(), ", ".join(versions), (seconds + 30) // 60)


class LimaBench(Bench):
    def __init__(self, options):
        super().__init__(options)
        self.published = publish(self, "published", {
            name: os.path.join(self.scratch, name + ".tar.gz") for name in ("bench-agent", "big")})
        self.machine = Machine(self)

    def clear(self):
        self.machine.stop()


def write_state(bench, directory, runtime, agents):
    """Writes a state file beside its place, and yields where it is now."""
    path = os.path.join(directory, "steadfast.yaml.new")
    with open(path, "w", encoding="utf-8") as file:
        file.write("apiVersion: steadfast/v1\nname: bench\nroot: %s/root\nmanifest: {url: %s/vm/manifest.json}\nruntime: {%s}\nagents:\n" % (
            directory, bench.published, runtime))
        for agent in agents:
            file.write('  %s: {version: "1"}\n' % agent)
    return path


class Machine(Kept):
    """A state file with a VM, which `run` can keep; and the VM."""

    def __init__(self, bench):
        self.agents = ["bench-agent"]
        self.template = os.path.join(bench.scratch, "vm.yaml")
        self.home = os.path.join(os.environ["LIMA_HOME"], INSTANCE)
        self.socket = os.path.join(self.home, "sock", "podman.sock")
        with open(os.environ["BENCH_TEMPLATE"], encoding="utf-8") as file:
            before, after = file.read().split("\nmounts: []\n")
        with open(self.template, "w", encoding="utf-8") as file:
            file.write("%s\nmounts: [{location: %s, mountPoint: %s, writable: false}]\n%s" % (before, bench.published, MOUNTED, after))
        super().__init__(bench, "bench", 0)

    def prepare(self):
        return write_state(self.bench, self.directory, "lima: {instance: %s, template: %s}" % (INSTANCE, self.template), self.agents)

    def apply(self, **more):
        """Brings everything about, and yields what was done and in which time."""
        run = self.bench.apply(self.file, "--timeout", "30m", "-o", "json", **more)
        return json.loads(run.stdout), run.seconds

    def limactl(self, *words, **more):
        return self.bench.run("limactl", "--tty=false", *words, **more)

    def shell(self, *words, **more):
        """Runs a command in the guest, as the Lima user."""
        return self.limactl("shell", "--workdir", "/", INSTANCE, *words, **more)

    def ssh(self, *words, **more):
        return self.bench.run("ssh", "-F", os.path.join(self.home, "ssh.config"), *words, "lima-" + INSTANCE, **more)

    def listed(self):
        return json.loads(self.limactl("list", "--json", INSTANCE).stdout)

    def delete(self):
        """Nothing is left of it, nor of what steadfast knew."""
        if os.path.exists(self.home):
            self.limactl("delete", "--force", INSTANCE)
        shutil.rmtree(os.path.join(self.directory, "root"), ignore_errors=True)

    def look(self):
        return json.loads(self.bench.run(self.bench.steadfast, "status", "-f", self.file, "-o", "json").stdout)

    def starts(self):
        """How often steadfast has started it."""
        history = json.loads(self.bench.run(self.bench.steadfast, "history", "-f", self.file, "-n", "100000", "-o", "json").stdout)
        return sum(entry.get("kind") == "startVm" for entry in history)

    def pings(self):
        return pings("unix://" + self.socket)

    def forward_again(self):
        """Has the socket forwarded as Lima has it after a boot: by the master connection that all share. Lima itself never does
        it again."""
        if self.pings():
            return
        self.ssh("-O", "exit", ok=(0, 255))
        self.shell("true")
        if os.path.lexists(self.socket):
            os.unlink(self.socket)
        self.ssh("-O", "forward", "-L", self.socket + ":/run/podman/podman.sock")
        until(self.pings, "Podman answers through the forwarded socket", pause=0.1)

    # -- `run` --------------------------------------------------------------------------------------------------------

    def status(self):
        """What `run` says."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(self.control)
            connection.sendall(b'{"op":"status"}\n')
            return json.loads(connection.makefile("rb").readline())

    def settles(self):
        """Waits until everything is as the state file says, Podman is reached by the best way, and nothing moves any more. Yields
        how often it has looked."""
        def passes():
            before = self.status()["run"]["passes"]
            time.sleep(3)
            now = self.status()
            assert now["vm"]["rung"] == "forward", "not reached by Lima's forward: %s" % now["vm"]
            return now["converged"] and now["run"]["passes"] == before and before

        return until(passes, "`run` settles", limit=120)


def pings(address):
    client = Podman(address)
    client.connection.timeout = 20
    try:
        return client.pings()
    finally:
        client.connection.close()


# -- rows ----------------------------------------------------------------------------------------------------------------


# Stands before limactl in PATH, and notes how long each call took.
SHIM = """\
#!%s -IS
import os, subprocess, sys, time
verb = next(word for word in sys.argv[1:] if not word.startswith("--tty"))
if verb == "start" and os.path.exists(sys.argv[0] + ".refuses"):
    sys.exit(1)
begin = time.time()
code = subprocess.call(["%s", *sys.argv[1:]])
with open(sys.argv[0] + ".log", "a") as log:
    print(verb, time.time() - begin, file=log)
sys.exit(code)
"""


class Shim:
    def __init__(self, bench):
        directory = bench.directory("shim")
        self.path = os.path.join(directory, "limactl")
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(SHIM % (sys.executable, shutil.which("limactl")))
        os.chmod(self.path, 0o755)
        self.env = dict(bench.env, PATH=directory + ":" + os.environ["PATH"])

    def took(self):
        """The seconds of each verb since this was asked last."""
        with open(self.path + ".log", encoding="utf-8") as file:
            calls = [line.split() for line in file]
        os.unlink(self.path + ".log")
        return {verb: sum(float(took) for called, took in calls if called == verb) for verb, _ in calls}


@row("fresh")
def fresh(bench):
    """From nothing to a ready agent: `apply` beside a bare `limactl create` and `limactl start` of the same template"""
    machine, shim = bench.machine, Shim(bench)
    template = rendered(machine, shim)
    ours, outside, bare, steps = [], [], [], {}

    def bare_boot():
        machine.delete()
        with open(template, "rb") as file:
            took = bench.run("limactl", "--tty=false", "create", "--name=" + INSTANCE, "-", stdin=file).seconds
        return took + machine.limactl("start", "--timeout=30m", INSTANCE).seconds

    def apply():
        machine.delete()
        report, took = machine.apply(env=shim.env)
        assert report["converged"], "not converged: %s" % report
        calls = shim.took()
        for action in report["actions"]:
            steps.setdefault(action["kind"], []).append(action["durationMs"] / 1000)
        ours.append(took)
        outside.append(took - calls["create"] - calls["start"] - steps["loadImage"][-1])
        bare.append(bare_container())
        return took

    def bare_container():
        """Another container of the same image, by two requests to the same Podman."""
        client = Podman("unix://" + machine.socket)
        assert client.pings(), "Podman in the guest does not answer"
        begin = time.perf_counter()
        client.create_and_start({"name": "bare", "image": "localhost/bench-agent:1"})
        took = time.perf_counter() - begin
        client.call("DELETE", "/containers/bare?force=true&timeout=0")
        client.connection.close()
        return took

    boots = bench.turns(2 if bench.full else 1, {"limactl create + start": bare_boot, "steadfast": apply})["limactl create + start"]
    over = [mine - boot - load - container for mine, boot, load, container in zip(ours, boots, steps["loadImage"], bare)]
    against = "`apply` %s<br>limactl create + start %s<br>its load step %s<br>bare create and start of the container %s" % (
        spread(ours), spread(boots), spread(steps["loadImage"]), spread(bare))
    bench.add("from nothing to a ready agent, over the same by hand", spread(over), against, "", "at most 5 s", statistics.median(over) <= 5)
    own = [rest - container for rest, container in zip(outside, bare)]
    bench.add("the same `apply` over what its own `limactl create` and `start` and load step took, and the bare container", spread(own),
              "with the container %s, of that its step %s" % (spread(outside), spread(steps["createContainer"])), "", "at most 5 s",
              statistics.median(own) <= 5)


def rendered(machine, shim):
    """The template as steadfast gives it to Lima, which keeps it. Making the VM once also warms up what all have to read."""
    machine.delete()
    with open(shim.path + ".refuses", "w", encoding="utf-8"):
        pass
    machine.bench.run(machine.bench.steadfast, "vm", "start", "-f", machine.file, env=shim.env, ok=(1,))
    os.unlink(shim.path + ".refuses")
    os.unlink(shim.path + ".log")
    copy = os.path.join(machine.bench.scratch, "rendered.yaml")
    shutil.copyfile(os.path.join(machine.home, "lima.yaml"), copy)
    return copy


@row("noop")
def noop(bench):
    """Nothing to do, the VM up: against the same state file on a Podman of this host"""
    machine = bench.machine
    machine.apply()
    machine.forward_again()
    directory = bench.directory("host")
    here = os.path.join(directory, "steadfast.yaml")
    os.replace(write_state(bench, directory, "podman: {socket: '%s'}" % bench.socket.removeprefix("unix://"), machine.agents), here)
    bench.apply(here)

    def nothing_to_do(file):
        run = bench.apply(file, "-o", "json")
        assert json.loads(run.stdout)["actions"] == [], "there was something to do: %s" % run.stdout
        return run.seconds

    def awake(address, file):
        assert pings(address), "Podman does not answer on " + address
        return nothing_to_do(file)

    def bare():
        """What is asked of Podman in the guest, and nothing else."""
        begin = time.perf_counter()
        client, other = Podman("unix://" + machine.socket), Podman("unix://" + machine.socket)
        assert client.pings(), "Podman in the guest does not answer"
        asking = threading.Thread(target=other.call, args=("GET", "/images/json"))
        asking.start()
        client.list("steadfast.name=bench")
        asking.join()
        took = time.perf_counter() - begin
        for each in (client, other):
            each.connection.close()
        return took

    on_host, listing, floor = "the same file on this host's Podman", "`limactl list --json` alone", "the bare requests to the guest alone"
    results = bench.turns(bench.rounds(20), {
        "steadfast": lambda: awake("unix://" + machine.socket, machine.file),
        on_host: lambda: awake(bench.socket, here),
        listing: lambda: machine.limactl("list", "--json", INSTANCE).seconds,
        floor: bare})
    more = statistics.median(results["steadfast"]) - statistics.median(results[on_host])
    against = "<br>".join("%s %s" % (name, spread(results[name])) for name in (on_host, listing, floor))
    bench.add("nothing to do, 1 running container, VM up", spread(results["steadfast"]), against, "+ " + seconds(more), "under 100 ms more", more < 0.1)

    def asleep():
        time.sleep(ASLEEP)
        return nothing_to_do(machine.file)

    results = bench.turns(bench.rounds(5), {"steadfast": asleep})["steadfast"]
    bench.add("the same, Podman's service in the guest asleep", spread(results), "", "", "", None)


@row("load")
def load(bench):
    """The load step of a 200 MB gzip tarball: streamed to Podman, or read by the guest from a mount"""
    machine = bench.machine
    machine.apply()
    machine.forward_again()
    tarball, = glob.glob(bench.published + "/vm/images/big-1-*.tar.gz")
    machine.agents.append("big")
    machine.save(machine.prepare())
    bench.run(bench.steadfast, "cache", "sync", "-f", machine.file)
    kind = machine.listed()["config"]["mountType"]

    def forget():
        clean = "podman rm --force --time 0 bench-big; podman rmi --force localhost/big:1; sync; echo 3 >/proc/sys/vm/drop_caches"
        machine.shell("sudo", "sh", "-c", "{ %s; } >/dev/null 2>&1" % clean)

    def ours():
        forget()
        report, _ = machine.apply()
        took = [action["durationMs"] / 1000 for action in report["actions"] if action["kind"] == "loadImage"]
        assert report["converged"] and len(took) == 1, "not one load step: %s" % report
        return took[0]

    def loaded(run):
        assert b"localhost/big:1" in run.stdout, "Podman did not load it: %s" % run.stdout
        return run.seconds

    def mounted():
        forget()
        return loaded(machine.shell("sh", "-c", "gzip -dc %s/vm/images/%s | sudo podman load" % (MOUNTED, os.path.basename(tarball))))

    def piped():
        forget()
        words = 'gzip -dc "$0" | limactl --tty=false shell --workdir / %s sudo podman load' % INSTANCE
        return loaded(bench.run("sh", "-c", words, tarball))

    by_mount, by_shell = "gzip -dc of the %s mount, podman load in the guest" % kind, "gzip -dc here, limactl shell podman load"
    try:
        results = bench.turns(bench.rounds(3), {"steadfast": ours, by_mount: mounted, by_shell: piped})
    finally:
        forget()
        machine.agents.remove("big")
        machine.save(machine.prepare())
    # What it does not choose is what it is held against.
    chosen, other = ("reads the mount", by_shell) if kind == "virtiofs" else ("streams", by_mount)
    beside = [name for name in (by_mount, by_shell) if name != other]
    bench.compare("load step of a %.0f MB gzip tarball, %s (%s)" % (os.path.getsize(tarball) / 1e6, chosen, kind), results, "steadfast",
                  "the faster of the two is what it chooses", lambda mine, best: best / mine, lambda ratio: ratio >= 1, beside=beside)


@row("lost")
def lost(bench):
    """Loss of the master connection, and Lima's forward with it, until Podman answers again: with `run` and without"""
    machine = bench.machine
    machine.apply()
    starts = machine.starts()

    def with_run():
        machine.forward_again()
        with machine:
            passes, tries = machine.settles(), machine.status()["vm"]["tries"]["reconnect"]
            begin = time.perf_counter()
            machine.ssh("-O", "exit")
            until(lambda: is_reached(machine.status(), passes, tries), "`run` has lost Podman and reaches it again", pause=0.02)
            took = time.perf_counter() - begin
        return took

    def is_reached(now, passes, tries):
        vm = now["vm"]
        return vm["rung"] and vm["tries"]["reconnect"] > tries and now["podman"]["reachable"] and now["run"]["passes"] > passes

    def status(rung):
        machine.forward_again()
        time.sleep(ASLEEP)
        if rung == "ssh":
            machine.ssh("-O", "exit")
        begin = time.perf_counter()
        now = machine.look()
        took = time.perf_counter() - begin
        assert now["podman"]["reachable"] and now["vm"]["rung"] == rung, "not reached by %s: %s" % (rung, now["vm"])
        return took

    with_forward = "`status` with the forward in place"
    results = bench.turns(bench.rounds(5), {
        "steadfast": with_run, "`status`": lambda: status("ssh"), with_forward: lambda: status("forward")})
    machine.forward_again()
    bench.add("loss of Lima's ssh master → Podman answers again (with `run`)", spread(results["steadfast"]), "", "", "under 5 s", max(results["steadfast"]) < 5)
    bench.add("the same without `run`: one `status` right after the loss", spread(results["`status`"]),
              "%s %s" % (with_forward, spread(results[with_forward])), "", "under 5 s", max(results["`status`"]) < 5)
    again = machine.starts() - starts
    bench.add("the same: starts of the VM", str(again), "", "", "0", again == 0)


@row("reboot")
def reboot(bench):
    """A reboot of the guest, from when its ssh lets somebody in until everything is as the state file says"""
    machine = bench.machine
    machine.apply()
    starts, totals, logins = machine.starts(), [], []

    def rebooted():
        """When the first line of its sshd came."""
        port = machine.listed()["sshLocalPort"]
        machine.shell("sudo", "systemctl", "reboot", ok=(0, 1, 255))
        until(lambda: not banner(port, 5), "the guest's sshd is gone", pause=0.1)
        return first_banner(port)

    def by_hand():
        """Logs in as soon as that is allowed, and starts the container."""
        machine.forward_again()
        first = rebooted()
        own = ("-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ConnectTimeout=5", "-o", "BatchMode=yes", "lima-" + INSTANCE)
        ssh = ("ssh", "-F", os.path.join(machine.home, "ssh.config")) + own
        until(lambda: bench.run(*ssh, "true", ok=(0, 255)).code == 0, "the guest lets us in", limit=BOOT, pause=0.1)
        logins.append(time.monotonic() - first)
        bench.run(*ssh, "sudo podman start bench-bench-agent")
        return time.monotonic() - first

    def again():
        machine.forward_again()
        with machine:
            machine.settles()
            identity = container(machine.status())["id"]
            asked = time.monotonic()
            first = rebooted()
            assert not machine.status()["converged"], "`run` did not notice: " + machine.said()
            until(lambda: machine.status()["converged"], "`run` has converged", limit=BOOT, pause=0.02)
            took = time.monotonic() - first
            totals.append(took + first - asked)
            up = float(machine.shell("cat", "/proc/uptime").stdout.split()[0])
            assert first > time.monotonic() - up, "sshd of before the reboot answered"
            now = container(machine.status())
            assert now["id"] == identity and now["state"] == "running", "not the same container, or not running: %s" % now
        return took

    hand = "by hand, container started"
    results = bench.turns(bench.rounds(3), {"steadfast": again, hand: by_hand})
    login = statistics.median(logins)
    after = [took - login for took in results["steadfast"]]
    against = "%s %s<br>from the first line of its sshd %s; by hand %s, login allowed %s<br>from the command %s" % (
        hand, spread([took - login for took in results[hand]]), spread(results["steadfast"]), spread(results[hand]), spread(logins), spread(totals))
    bench.add("reboot of the guest → converged, from when ssh lets in (with `run`)", spread(after), against, "", "within 10 s", max(after) <= 10)
    more = machine.starts() - starts
    bench.add("the same: starts of the VM", str(more), "", "", "0", more == 0)


def container(status):
    return status["agents"]["bench-agent"]["container"]


def banner(port, patience):
    """Whether an sshd says its first line. That it takes a connection means nothing: QEMU's user network does so by itself."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
            return connection.recv(4).startswith(b"SSH")
    except OSError:
        return False


def first_banner(port):
    """When it did. Asked by one connection after another: made before the guest has a network they hang, and all that were made
    then come to its sshd at once when it begins, which is busy with them for many seconds."""
    return until(lambda: banner(port, 2) and time.monotonic(), "the guest's sshd is back", limit=BOOT, pause=0.25)


if __name__ == "__main__":
    sys.exit(main())
