"""A small client of Podman's API, and a service of our own that can be killed and started again."""

import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import urllib.parse


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("podman", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Podman:
    """One kept connection. Not for several threads at once."""

    def __init__(self, address):
        self.path = address.removeprefix("unix://")
        self.connection = Unix(self.path)

    def ask(self, method, target, body=None):
        """Status and answer. A kept connection that the service has closed meanwhile is opened anew, once."""
        for again in (True, False):
            try:
                payload = None if body is None else json.dumps(body)
                self.connection.request(method, "/v4.0.0/libpod" + target, payload, {"Content-Type": "application/json"} if payload else {})
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, OSError):
                self.connection.close()
                if not again:
                    raise

    def call(self, method, target, body=None):
        status, answer = self.ask(method, target, body)
        if status >= 400:
            raise AssertionError("%s %s: %d %s" % (method, target, status, answer[:300].decode(errors="replace")))
        return json.loads(answer) if answer.strip() else None

    def pings(self):
        try:
            return self.ask("GET", "/_ping")[0] == 200
        except OSError:
            self.connection.close()
            return False

    def inspect(self, name):
        """`None` when there is no such container. While one is being removed, Podman 4.3 says 500."""
        status, answer = self.ask("GET", "/containers/%s/json" % name)
        return json.loads(answer) if status == 200 else None

    def up(self, name):
        """Id and process of a running container, else `None`."""
        seen = self.inspect(name)
        return (seen["Id"], seen["State"]["Pid"]) if seen and seen["State"]["Status"] == "running" and seen["State"]["Pid"] else None

    def list(self, label):
        filters = urllib.parse.quote(json.dumps({"label": [label]}))
        return self.call("GET", "/containers/json?all=true&filters=" + filters) or []

    def create_and_start(self, body):
        made = self.call("POST", "/containers/create", body)
        self.call("POST", "/containers/%s/start" % made["Id"])


class Events:
    """Podman's events of containers as they come, up to 250 ms late (4.3). Not all of them: where Podman cuts its log at
    1 MB, some are lost."""

    def __init__(self, address):
        self.heard = []
        self.connection = Unix(address.removeprefix("unix://"))
        self.connection.timeout = None
        filters = urllib.parse.quote(json.dumps({"type": ["container"]}))
        self.connection.request("GET", "/v4.0.0/libpod/events?stream=true&filters=" + filters)
        threading.Thread(target=self._read, args=(self.connection.getresponse(),), daemon=True).start()

    def _read(self, answer):
        try:
            for line in answer:
                if line.strip():
                    event = json.loads(line)
                    self.heard.append((event["Action"], event["Actor"]["Attributes"].get("name", ""), event["Actor"]["ID"]))
        except (http.client.HTTPException, OSError, ValueError):
            pass

    def of(self, action, since=0):
        """Name and id of each such event, leaving out the first `since` events."""
        return [(name, identity) for what, name, identity in self.heard[since:] if what == action]


def bare_requests(address, bodies, at_once):
    """One create and one start request per container and nothing else, so many at once: what Podman itself takes."""
    jobs, failures = queue.SimpleQueue(), []
    for body in bodies:
        jobs.put(body)

    def work():
        client = Podman(address)
        try:
            while True:
                client.create_and_start(jobs.get_nowait())
        except queue.Empty:
            pass
        except (AssertionError, OSError, http.client.HTTPException) as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(at_once)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - begin
    if failures:
        raise AssertionError(str(failures[0]))
    return took


class Service:
    """A second API service over the same containers. Killing it costs them nothing: conmon keeps them."""

    def __init__(self, bench):
        self.bench = bench
        self.path = os.path.join(bench.scratch, "second.sock")
        self.address = "unix://" + self.path
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        """Starts it and waits for its first answer. Its own directory, since conmon drops files where it stands."""
        with open(os.path.join(self.bench.scratch, "second.log"), "ab") as log:
            self.process = subprocess.Popen(
                ["podman", "system", "service", "--time=0", self.address], env=self.bench.local_env, cwd=self.bench.directory("second", fresh=False),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        client, end = Podman(self.address), time.monotonic() + 30
        while not client.pings():
            assert time.monotonic() < end, "the second service does not answer"
            time.sleep(0.002)
        return time.perf_counter()

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
