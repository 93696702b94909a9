"""Loopback servers for the benchmarks: files over HTTP, a connection that is cut halfway, a proxy that counts API requests."""

import os
import re
import socket
import threading


class FileServer:
    """Serves a directory over HTTP/1.1 with sendfile, ETag and Range. `cut_after` closes every connection once so many body
    bytes have been sent in all, and refuses further ones, until it is set to None again."""

    def __init__(self, directory):
        self.directory = directory
        self.sent = 0
        self.cut_after = None
        self.requests = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            pending = b""
            try:
                while True:
                    while b"\r\n\r\n" not in pending:
                        more = connection.recv(65536)
                        if not more:
                            return
                        pending += more
                    head, pending = pending.split(b"\r\n\r\n", 1)
                    if not self._answer(connection, head.decode("latin-1")):
                        return
            except OSError:
                return

    def _answer(self, connection, head):
        lines = head.split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        path = os.path.normpath(self.directory + "/" + target.split("?")[0])
        if not path.startswith(self.directory) or not os.path.isfile(path):
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            etag = '"%x-%x"' % (stat.st_mtime_ns, stat.st_size)
            start, end, status = 0, stat.st_size, "200 OK"
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
            if wanted and headers.get("if-range", etag) == etag:
                start = int(wanted[1])
                end = min(end, int(wanted[2]) + 1 if wanted[2] else end)
                status = "206 Partial Content"
                if start >= stat.st_size:
                    connection.sendall(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nContent-Range: bytes */%d\r\n\r\n" % stat.st_size)
                    return True
            self.requests.append((method, target, start, end))
            answer = "HTTP/1.1 %s\r\nContent-Length: %d\r\nETag: %s\r\nAccept-Ranges: bytes\r\n" % (status, end - start, etag)
            if status.startswith("206"):
                answer += "Content-Range: bytes %d-%d/%d\r\n" % (start, end - 1, stat.st_size)
            connection.sendall((answer + "\r\n").encode())
            if method == "HEAD":
                return True
            # Only the artifacts are cut; the manifest always comes.
            limited = self.cut_after is not None and path.endswith(".tar.gz")
            while start < end:
                size = min(end - start, 1 << 16 if limited else 1 << 30)
                if limited:
                    with self.lock:
                        size = min(size, self.cut_after - self.sent)
                        if size <= 0:
                            return False
                        self.sent += size
                    # Never less than what was counted, so that the sums are exact.
                    connection.sendall(os.pread(file.fileno(), size, start))
                    start += size
                else:
                    done = os.sendfile(connection.fileno(), file.fileno(), start, size)
                    if done == 0:
                        return False
                    start += done
                    with self.lock:
                        self.sent += done
        return True


class CountingProxy:
    """A unix socket in front of another one, which notes the request line of everything that goes through."""

    REQUEST = re.compile(rb"(?:^|\n)((?:GET|HEAD|POST|PUT|DELETE) \S+) HTTP/1\.[01]\r\n")

    def __init__(self, path, upstream):
        self.path, self.upstream, self.requests = path, upstream, []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()
        os.unlink(self.path)

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.upstream)
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source, sink, count):
        tail = b""
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                if count:
                    # What was counted is cut off, so that a request line is found once, wherever a read ends.
                    tail += data
                    last = 0
                    for found in self.REQUEST.finditer(tail):
                        self.requests.append(found[1].decode())
                        last = found.end()
                    tail = tail[max(last, len(tail) - 4096):]
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
