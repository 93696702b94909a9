"""`steadfast run` in the background, its state file, and what the kernel says of it."""

import json
import os
import signal
import socket
import subprocess
import time

from podman import Podman


class Kept:
    """A state file that `steadfast run` keeps: agents a000, a001, …, whose containers are called NAME-a000, NAME-a001, …"""

    def __init__(self, bench, name, count, restart="unless-stopped", address=None):
        self.bench, self.name, self.restart, self.address = bench, name, restart, address or bench.socket
        self.directory = bench.directory("kept-" + name)
        self.file = os.path.join(self.directory, "steadfast.yaml")
        # What each agent's one variable says.
        self.values = {"a%03d" % number: "0" for number in range(count)}
        self.containers = ["%s-%s" % (name, agent) for agent in self.values]
        self.process = self.log = None
        self.save(self.prepare())

    def prepare(self):
        """Writes the file beside its place. To move it there is one rename."""
        with open(self.file + ".new", "w", encoding="utf-8") as file:
            file.write("apiVersion: steadfast/v1\nname: %s\nroot: %s/root\nruntime: {podman: {socket: '${env:CONTAINER_HOST}'}}\nagents:\n" % (
                self.name, self.directory))
            for agent, value in self.values.items():
                file.write('  %s: {version: "1", source: local, image: localhost/bench-agent, container: {restart: %s, env: {VALUE: "%s"}}}\n' % (
                    agent, self.restart, value))
        return file.name

    def save(self, prepared):
        os.replace(prepared, self.file)

    def env(self):
        return dict(self.bench.env, CONTAINER_HOST=self.address, DOCKER_HOST=self.address)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts `run` and waits until everything is as the file says."""
        self.log = open(os.path.join(self.directory, "log"), "ab")
        self.process = subprocess.Popen(
            [self.bench.steadfast, "run", "-f", self.file], env=self.env(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + 20
        while not os.path.exists(self.control):
            assert self.process.poll() is None and time.monotonic() < end, "`run` does not start: " + self.said()
            time.sleep(0.02)
        self.reconcile()
        return self

    @property
    def control(self):
        return "%s/root/state/%s/control.sock" % (self.directory, self.name)

    def reconcile(self):
        """Has it look at everything now, and waits for the outcome."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(300)
            connection.connect(self.control)
            connection.sendall(b'{"op":"reconcile","timeoutMs":120000}\n')
            for line in connection.makefile("rb"):
                answer = json.loads(line)
                if "outcome" in answer:
                    assert answer["outcome"]["converged"], "not converged: %s" % answer["outcome"]
                    return
                assert "error" not in answer, "`run` answers %s" % answer["error"]
        raise AssertionError("`run` hung up: " + self.said())

    def is_converged(self):
        """Whether a look from outside finds nothing to do."""
        return self.bench.run(self.bench.steadfast, "plan", "-f", self.file, "--detailed-exitcode", env=self.env(), ok=(0, 1, 2)).code == 0

    def converges(self, limit, pause):
        """Waits until a look from outside finds nothing to do."""
        try:
            until(self.is_converged, "everything is as the file says", limit, pause)
        except AssertionError as error:
            plan = self.bench.run(self.bench.steadfast, "plan", "-f", self.file, env=self.env()).stdout.decode()
            raise AssertionError("%s; plan: %s; `run` said: %s" % (error, plan, self.said())) from None

    def failed_steps(self, kinds, since):
        """The agents of steps that failed, from the journal; `since` in seconds of the wall's clock."""
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
        with open("%s/root/state/%s/journal.jsonl" % (self.directory, self.name), encoding="utf-8") as file:
            steps = [entry for entry in map(json.loads, file) if entry["event"] == "step" and entry["time"] >= since]
        return [step["agent"] for step in steps if step["result"] == "failed" and step["kind"] in kinds]

    def said(self):
        with open(os.path.join(self.directory, "log"), encoding="utf-8", errors="replace") as file:
            return file.read()[-1500:]

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.log.close()
            self.process = None

    # -- what it takes ------------------------------------------------------------------------------------------------

    def memory(self):
        """Resident now, and at most so far, in KiB."""
        with open("/proc/%d/status" % self.process.pid, encoding="ascii", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmRSS"].split()[0]), int(lines["VmHWM"].split()[0])

    def cpu(self):
        """Seconds of a core, so far."""
        with open("/proc/%d/stat" % self.process.pid, encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self):
        """How many descriptors, and how many of them are sockets."""
        directory = "/proc/%d/fd" % self.process.pid
        targets = []
        for number in os.listdir(directory):
            try:
                targets.append(os.readlink(os.path.join(directory, number)))
            except FileNotFoundError:
                pass
        return len(targets), sum(target.startswith("socket:") for target in targets)


def until(condition, what, limit=60, pause=0.008):
    """The first true value of `condition`, asked every few milliseconds."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, "waited %d s in vain: %s" % (limit, what)
        time.sleep(pause)


def until_new_process(podman: Podman, name, old, limit=60):
    """Waits until Podman says that the container runs with a process other than `old`. Yields its id and process."""
    return until(lambda: (lambda now: now if now and now[1] != old else None)(podman.up(name)), "%s runs again" % name, limit)
