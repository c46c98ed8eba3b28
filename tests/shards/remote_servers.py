"""Servers on loopback: a folder over HTTP with ranges, and a proxy that goes wrong as told."""

from __future__ import annotations

import http.client
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

STALL_S = 1.5
"""Longer than the timeout of the clients under test."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the usual 5 makes bursts of connections wait for seconds

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL of a server that answers with `handler`."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class RangeHandler(SimpleHTTPRequestHandler):
    """Files of a folder, whole or one range of them."""

    protocol_version = "HTTP/1.1"
    ranges = True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        if asked and self.ranges:
            start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
            if start >= stop:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.describe(path)
        self.end_headers()
        self.wfile.write(content)

    def describe(self, path: Path) -> None:
        """Headers about the state of a file: here there are none."""

    def log_message(self, *_: object) -> None:
        pass


class WholeHandler(RangeHandler):
    """Ignores ranges."""

    ranges = False


class EtagHandler(RangeHandler):
    """Says which state of a file it answers with."""

    def describe(self, path: Path) -> None:
        status = path.stat()
        self.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')


class DateHandler(RangeHandler):
    """Says when a file was written, and has ETags of its own at every answer, as servers behind one name may."""

    def describe(self, path: Path) -> None:
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.send_header("ETag", f'"{secrets.token_hex(4)}"')


class PortalHandler(BaseHTTPRequestHandler):
    """A login page in the place of everything."""

    protocol_version = "HTTP/1.1"
    page = b"<!DOCTYPE html><html><body>Welcome to our network</body></html>"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(PortalHandler.page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(PortalHandler.page)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class LoopHandler(BaseHTTPRequestHandler):
    """Redirects to itself."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"{self.path}x")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def folder_server(folder: Path, handler: type[RangeHandler] = RangeHandler) -> AbstractContextManager[str]:
    """Serves a folder."""
    return serving(partial(handler, directory=str(folder)))


class Faults:
    """What the proxy does to the requests that match: `kind` for every `every`-th of them, or for all after none."""

    def __init__(self) -> None:
        self.kind = ""
        self.every = 1
        self.match = ""
        self.at_most = 1 << 30
        self.requests: list[str] = []
        self.made = 0
        self._count = 0
        self._lock = threading.Lock()

    def set(self, kind: str, every: int = 1, match: str = "", at_most: int = 1 << 30) -> None:
        """Begin: `match` is a regular expression searched in "METHOD path", with " fresh" behind it where no cache may
        answer."""
        with self._lock:
            self.kind, self.every, self.match, self.at_most = kind, every, match, at_most
            self._count = self.made = 0
            self.requests.clear()

    def next(self, request: str) -> str:
        """The fault for a request, empty for none."""
        with self._lock:
            self.requests.append(request)
            if not self.kind or not re.search(self.match, request):
                return ""
            self._count += 1
            if self._count % self.every or self.made >= self.at_most:
                return ""
            self.made += 1
            return self.kind


class ProxyHandler(BaseHTTPRequestHandler):
    """Passes requests on to `upstream` and answers back, but for the faults."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, upstream: str, faults: Faults) -> None:
        self.upstream = urlsplit(upstream)
        self.faults = faults
        super().__init__(*args)  # type: ignore[arg-type]

    def forward(self) -> None:
        fresh = " fresh" if self.headers.get("Cache-Control") == "no-cache" else ""
        fault = self.faults.next(f"{self.command} {self.path}{fresh}")
        if fault == "half":
            self.forward_half()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault == "garble":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "page":
            PortalHandler.do_GET(self)  # type: ignore[arg-type]
            return
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if fault == "stall":
            time.sleep(STALL_S)
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port or 80)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if fault == "corrupt" and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault == "scramble":
            content = bytes(byte ^ 1 for byte in content)
        if fault == "short":  # a whole answer with less in it than was asked for
            content = content[: len(content) // 2]
        self.send_response(answer.status)
        length = len(content) if content or self.command != "HEAD" else answer.getheader("Content-Length", "0")
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "truncate":  # less than the header promises
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(content)

    def forward_half(self) -> None:
        """Half of the request's body reaches the server, which then loses the connection as the client goes away."""
        with socket.create_connection((self.upstream.hostname, self.upstream.port)) as upstream:
            upstream.sendall(f"{self.requestline}\r\n{self.headers}".encode())
            upstream.sendall(self.rfile.read(int(self.headers["Content-Length"]) // 2))
            while self.connection.recv(1 << 16):
                pass
        self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def faulty(upstream: str) -> Iterator[tuple[str, Faults]]:
    """A proxy before a server, and what sets its faults."""
    faults = Faults()
    with serving(partial(ProxyHandler, upstream=upstream, faults=faults)) as url:
        yield url, faults
