"""Remote folders against real servers on loopback, with faults."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from headrace.shards import ShardError
from headrace.shards.errors import MachineError, RemoteError
from headrace.shards.remote.remote import RemoteFolder, Retry, Unchanging, is_remote
from headrace.shards.remote.stores import PART_BYTES, Changed, Version
from tests.shards.remote_servers import (
    DateHandler,
    EtagHandler,
    Faults,
    LoopHandler,
    PortalHandler,
    RangeHandler,
    WholeHandler,
    faulty,
    folder_server,
    serving,
)

SECRET = "wJalrXUtnFEMI"
QUICK = Retry(tries=5, pause_s=0.01, timeout_s=0.5)
BUCKET = "headrace-test"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The URL of moto's S3 server, with a bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def s3(credentials: None, s3_server: str) -> Iterator[tuple[str, Faults, dict[str, Any]]]:
    """A folder's URL of its own, the faults of the proxy before it, and the options to reach it."""
    import boto3

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=BUCKET)
    with faulty(s3_server) as (proxy, faults):
        yield f"s3://{BUCKET}/{random.getrandbits(64):x}", faults, {"endpoint_url": proxy, "retry": QUICK}


@pytest.mark.parametrize("path", ["s3://bucket/set", "http://host/set", "https://host:80/set", "memory://set"])
def test_urls_are_remote(path: str) -> None:
    assert is_remote(path)
    assert not is_remote(Path(path))


@pytest.mark.parametrize("path", ["set", "/data/set", "./s3:/bucket", "C:/set", "a/b://c", Path("/data")])
def test_paths_are_not_remote(path: str | Path) -> None:
    assert not is_remote(path)


def use(folder: RemoteFolder, local: Path) -> None:
    """Everything that a folder can do."""
    content = random.Random(0).randbytes(100_000)
    local.write_bytes(content)
    assert folder.names() == []
    assert not folder.exists("a/b.bin")
    folder.put(local, "a/b.bin")
    folder.write(".headrace/units/1.json", b"{}")
    folder.write(".headrace/units/1.json", b"[1]")
    folder.write("empty", b"")
    assert folder.names() == [".headrace/units/1.json", "a/b.bin", "empty"]
    assert folder.names(".headrace") == folder.names(".headrace/units/") == [".headrace/units/1.json"]
    assert folder.exists("a/b.bin")
    assert not folder.exists("a/b")
    assert folder.size("a/b.bin") == 100_000
    assert folder.size("empty") == 0
    assert folder.read("a/b.bin", 77, 90_001) == content[77:90_001]
    assert folder.read("a/b.bin", 5, 5) == b""
    assert folder.read(".headrace/units/1.json", 0, 3) == b"[1]"
    folder.delete("a/b.bin")
    folder.delete("a/b.bin")
    assert not folder.exists("a/b.bin")
    for miss in (lambda: folder.read("a/b.bin", 0, 1), lambda: folder.size("a/b.bin")):
        with pytest.raises(ShardError, match=r"a/b\.bin: there is no such object$"):
            miss()
    with pytest.raises(ShardError, match=r"bytes 2 to 9 were asked for, 1 bytes came, after 5 tries"):
        folder.read(".headrace/units/1.json", 2, 9)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_file_system(protocol: str, tmp_path: Path) -> None:
    use(RemoteFolder(f"{protocol}://{tmp_path}/set", retry=QUICK), tmp_path / "local")


@pytest.mark.peer("s3fs", "moto")
def test_s3(s3: tuple[str, Faults, dict[str, Any]], tmp_path: Path) -> None:
    url, _, options = s3
    use(RemoteFolder(url, **options), tmp_path / "local")


@pytest.mark.peer("s3fs", "moto")
@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "truncate", "short", "stall"])
def test_s3_reads_through_faults(fault: str, s3: tuple[str, Faults, dict[str, Any]]) -> None:
    url, faults, options = s3
    folder = RemoteFolder(url, **options)
    content = random.Random(1).randbytes(50_000)
    folder.write("x", content)
    faults.set(fault, every=2, match="GET .*/x")
    for start in range(0, 50_000, 10_000):
        assert folder.read("x", start, start + 10_000) == content[start : start + 10_000]
    assert faults.made >= 4


@pytest.mark.peer("s3fs", "moto")
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("500", "answers 500"),
        ("503", "answers 503"),
        ("drop", "Connection"),
        ("truncate", "Not enough data"),
        ("short", "bytes 0 to 100 were asked for, 50 bytes came"),
        ("stall", "no answer within 0.5 s"),
    ],
)
def test_s3_gives_up_with_one_line(fault: str, cause: str, s3: tuple[str, Faults, dict[str, Any]]) -> None:
    url, faults, options = s3
    folder = RemoteFolder(url, **{**options, "retry": Retry(tries=2, pause_s=0.01, timeout_s=0.5)})
    folder.write("x", bytes(200))
    faults.set(fault, match="GET .*/x")
    with pytest.raises(ShardError, match=rf"^{url}/x: .*({cause}).*, after 2 tries$") as raised:
        folder.read("x", 0, 100)
    assert raised.value.__cause__ is raised.value.__context__ is None
    if fault != "drop":  # aiohttp itself asks again, once, where a connection that it used before is closed
        assert len(faults.requests) == 2


@pytest.mark.peer("s3fs", "moto")
@pytest.mark.parametrize("size", [100, 2 * PART_BYTES + 7])
def test_s3_uploads_through_faults(size: int, s3: tuple[str, Faults, dict[str, Any]], tmp_path: Path) -> None:
    url, faults, options = s3
    folder = RemoteFolder(url, **options)
    content = random.Random(2).randbytes(size)
    (tmp_path / "local").write_bytes(content)
    faults.set("503", every=2, match="^(PUT|POST|HEAD)")
    folder.put(tmp_path / "local", "x")
    assert faults.made >= 1
    faults.set("")
    assert folder.size("x") == size
    assert folder.read("x", max(0, size - 1000), size) == content[-1000:]


@pytest.mark.peer("s3fs", "moto")
def test_s3_refuses_what_changed_on_the_way(s3: tuple[str, Faults, dict[str, Any]], tmp_path: Path) -> None:
    url, faults, options = s3
    folder = RemoteFolder(url, **options)
    faults.set("garble", every=2, match="^PUT")
    for number in range(4):
        folder.write("x", bytes([number] * 1000))
        assert folder.read("x", 0, 1000) == bytes([number] * 1000)
    assert faults.made >= 2
    (tmp_path / "local").write_bytes(bytes(PART_BYTES + 1))
    folder.put(tmp_path / "local", "z")
    assert faults.made >= 3
    faults.set("garble", match="^PUT")
    with pytest.raises(ShardError, match=rf"^{url}/y: .*, after 5 tries$"):
        folder.write("y", bytes(1000))
    with pytest.raises(ShardError, match=rf"^{url}/w: .*, after 5 tries$"):
        folder.put(tmp_path / "local", "w")
    assert folder.names() == ["x", "z"]


@pytest.mark.peer("s3fs", "moto")
def test_s3_upload_that_fails_leaves_nothing(s3: tuple[str, Faults, dict[str, Any]], tmp_path: Path) -> None:
    url, faults, options = s3
    folder = RemoteFolder(url, **{**options, "retry": Retry(tries=2, pause_s=0.01)})
    (tmp_path / "local").write_bytes(bytes(2 * PART_BYTES))
    faults.set("500", match="PUT .*partNumber=2")
    with pytest.raises(ShardError, match=rf"^{url}/x: the store answers 500 .*, after 2 tries$"):
        folder.put(tmp_path / "local", "x")
    assert any(request.startswith("DELETE") and "uploadId=" in request for request in faults.requests)  # aborted
    assert folder.names() == []
    with pytest.raises(ShardError, match=r"^.*/missing: No such file or directory$"):
        folder.put(tmp_path / "missing", "x")
    with pytest.raises(ShardError, match=r"'\.\./x' is not the name of an object"):
        folder.write("../x", b"")


PUT = """
import sys
from headrace.shards.remote.remote import RemoteFolder
RemoteFolder(sys.argv[1], endpoint_url=sys.argv[2]).put(*sys.argv[3:])
"""


@pytest.mark.peer("s3fs", "moto")
@pytest.mark.parametrize("size", [1000, 2 * PART_BYTES])
def test_s3_upload_that_is_killed_leaves_nothing(
    size: int, s3: tuple[str, Faults, dict[str, Any]], tmp_path: Path
) -> None:
    url, faults, options = s3
    (tmp_path / "local").write_bytes(bytes(size))
    stalled = "PUT .*partNumber=2" if size > PART_BYTES else "PUT"
    faults.set("half", match=stalled)
    child = subprocess.Popen([sys.executable, "-c", PUT, url, options["endpoint_url"], tmp_path / "local", "x"])
    deadline = time.monotonic() + 20
    while not faults.made and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert faults.made
    faults.set("")
    assert RemoteFolder(url, **options).names() == []
    assert not RemoteFolder(url, **options).exists("x")
    RemoteFolder(url, **options).put(tmp_path / "local", "x")
    assert RemoteFolder(url, **options).size("x") == size


@pytest.mark.peer("s3fs", "moto")
def test_s3_answers_that_no_try_mends(s3: tuple[str, Faults, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, faults, options = s3
    with pytest.raises(ShardError, match=r"^s3://no-such-bucket-here/x/a: there is no such bucket$"):
        RemoteFolder("s3://no-such-bucket-here/x", **options).read("a", 0, 1)
    faults.set("403")
    with pytest.raises(ShardError, match=rf"^{url}/a: .*403.*\)$"):
        RemoteFolder(url, **options).size("a")
    assert len(faults.requests) == 1


@pytest.mark.peer("aiohttp")
def test_nothing_shows_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    retry = Retry(tries=1)
    folder = RemoteFolder(f"http://user:{SECRET}@127.0.0.1:9/set", retry=retry)
    assert str(folder) == "http://***@127.0.0.1:9/set"
    texts = [repr(folder), folder / "x"]
    for use in (
        lambda: folder.read("x", 0, 1),
        lambda: folder.exists("x"),
        lambda: folder.write("x", b""),
        folder.names,
    ):
        with pytest.raises(ShardError) as raised:
            use()
        texts.append("".join(traceback.format_exception(raised.value)))
    for url in (f"zork://user:{SECRET}@host/set", f"http://host/set?X-Amz-Signature={SECRET}"):
        with pytest.raises(ShardError) as raised:
            RemoteFolder(url, retry=retry)
        texts.append(str(raised.value))
    assert all("***" in text for text in texts[:2] + texts[-2:])
    assert not [text for text in texts if SECRET in text or "user" in text]
    assert RemoteFolder("memory://set", key=SECRET)._clean(f"HTTP 400 {SECRET}") == "HTTP 400 ***"


@pytest.mark.peer("aiohttp")
def test_a_folder_pickles_and_works_in_a_forked_process(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    with folder_server(tmp_path) as url:
        folder = RemoteFolder(url, retry=QUICK)
        assert folder.read("x", 0, 4) == b"0123"
        assert pickle.loads(pickle.dumps(folder)).read("x", 4, 6) == b"45"
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as processes:
            assert processes.submit(folder.read, "x", 6, 10).result(20) == b"6789"


@pytest.mark.peer("aiohttp")
def test_http_that_cannot(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    with folder_server(tmp_path, WholeHandler) as url:
        folder = RemoteFolder(url, retry=QUICK)
        with pytest.raises(
            ShardError, match=rf"^{url}/x: the server does not answer ranges, .*: serve the set with one"
        ):
            folder.read("x", 10, 20)
        assert folder.read("x", 0, 100) == bytes(100)  # as right as a range
        with pytest.raises(ShardError, match="read-only"):
            folder.write("y", b"")
        with pytest.raises(ShardError, match="no list of names"):
            folder.names()


@pytest.mark.peer("aiohttp")
@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "truncate", "short", "stall"])
def test_http_reads_through_faults(fault: str, tmp_path: Path) -> None:
    content = random.Random(3).randbytes(30_000)
    (tmp_path / "x").write_bytes(content)
    with folder_server(tmp_path) as upstream, faulty(upstream) as (url, faults):
        folder = RemoteFolder(url, retry=QUICK)
        faults.set(fault, every=2)
        for start in range(0, 30_000, 10_000):
            assert folder.read("x", start, start + 10_000) == content[start : start + 10_000]
            assert folder.size("x") == 30_000
            assert folder.exists("x")
        assert faults.made >= 3


@pytest.mark.peer("aiohttp")
@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (PortalHandler, "the answer is a web page, not the object: a login page or a proxy's error?, after 2 tries"),
        (LoopHandler, "the server redirects without an end"),
    ],
)
def test_answers_that_are_no_objects(handler: type[BaseHTTPRequestHandler], message: str) -> None:
    with serving(handler) as url:
        folder = RemoteFolder(url, retry=Retry(tries=2, pause_s=0.01))
        for use in (
            lambda: folder.read("manifest.json", 0, 20),
            lambda: folder.read("manifest.json", 0, len(PortalHandler.page)),
            lambda: folder.size("x"),
            lambda: folder.exists("x"),
        ):
            with pytest.raises(RemoteError) as raised:
                use()
            assert str(raised.value).partition(": ")[2] == message


@pytest.mark.peer("s3fs", "moto")
def test_a_web_page_in_the_place_of_s3(credentials: None) -> None:
    with serving(PortalHandler) as url:
        folder = RemoteFolder("s3://bucket/set", endpoint_url=url, retry=Retry(tries=1))
        for read in (folder.read, Unchanging(folder, {"x": 1000}).read):
            with pytest.raises(RemoteError, match=r"/x: the answer is a web page, not the object"):
                read("x", 0, 20)


class Endless(BaseHTTPRequestHandler):
    """Sends a terabyte, whatever is asked for."""

    sent = 0
    head: ClassVar[dict[str, str]] = {"Content-Length": str(1 << 40)}
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in self.head.items():
            self.send_header(name, value)
        self.end_headers()
        while True:
            self.wfile.write(bytes(1 << 16))
            type(self).sent += 1 << 16

    def log_message(self, *_: object) -> None:
        pass


class EndlessRange(Endless):
    """Likewise, and calls it a range."""

    head: ClassVar[dict[str, str]] = {"Content-Range": "bytes 10-19/100"}
    status = 206


@pytest.mark.peer("aiohttp")
@pytest.mark.parametrize("handler", [Endless, EndlessRange])
def test_no_more_is_read_than_was_asked_for(handler: type[Endless]) -> None:
    with serving(handler) as url:
        folder = RemoteFolder(url, retry=QUICK)
        for _ in range(3):
            with pytest.raises(RemoteError, match="does not answer ranges"):
                folder.read("x", 10, 20)
    assert handler.sent < 64 << 20  # what the sockets took


@pytest.mark.parametrize(
    ("known", "found", "why"),
    [
        (Version(), Version(3, "a", "monday"), ""),
        (Version(3), Version(-1, "a", "monday"), ""),
        (Version(3), Version(4), "4 bytes instead of 3"),
        (Version(3, "a"), Version(3, "b"), "ETag b instead of a"),
        (Version(3, "a"), Version(3, "", "monday"), ""),
        (Version(3, "a", "monday"), Version(3, "b", "monday"), ""),
        (Version(3, "a", "monday"), Version(3, "a", "friday"), ""),
        (
            Version(3, "a", "monday"),
            Version(3, "b", "friday"),
            "ETag b instead of a, time of writing friday instead of mo",
        ),
        (Version(3, "", "monday"), Version(3, "b", "friday"), "time of writing friday instead of monday"),
        (Version(3, "", ""), Version(3, "", ""), ""),
    ],
)
def test_what_counts_as_a_change(known: Version, found: Version, why: str) -> None:
    with nullcontext() if not why else pytest.raises(Changed, match=why):
        known.check(found)


@pytest.mark.peer("aiohttp")
@pytest.mark.parametrize("handler", [RangeHandler, EtagHandler, DateHandler])
def test_http_objects_that_change(handler: type[RangeHandler], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    with folder_server(tmp_path, handler) as url:
        check_changes(RemoteFolder(url, retry=QUICK), tmp_path / "x", says=handler is not RangeHandler)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_files_that_change(protocol: str, tmp_path: Path) -> None:
    folder = RemoteFolder(f"{protocol}://{tmp_path}/set", retry=QUICK)
    folder.write("x", b"0123456789")
    check_changes(folder, None, says=True)


@pytest.mark.peer("s3fs", "moto")
def test_s3_objects_that_change(s3: tuple[str, Faults, dict[str, Any]]) -> None:
    url, faults, options = s3
    folder = RemoteFolder(url, **options)
    folder.write("x", b"0123456789")
    faults.set("")
    unchanging = Unchanging(folder, {"x": 10})
    unchanging.read("x", 0, 5)
    assert len(faults.requests) == 1  # none but for the bytes
    check_changes(folder, None, says=True)


def check_changes(folder: RemoteFolder, path: Path | None, *, says: bool) -> None:
    """Objects are what they were: with another size always, with the same one where the store `says` it."""

    def change(content: bytes) -> None:
        if path is None:
            folder.write("x", content)
        else:
            path.write_bytes(content)
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 10 * len(content)))

    unchanging = Unchanging(folder, {"x": 10})
    for start in (0, 5):
        assert unchanging.read("x", start, start + 5) == b"0123456789"[start : start + 5]
    change(b"abcdefghij")
    if says:
        with pytest.raises(MachineError, match=r"/x: .*: it was replaced while it was read, or the set was copied in"):
            unchanging.read("x", 5, 10)
    else:
        assert unchanging.read("x", 5, 10) == b"fghij"  # payloads have checksums
    assert Unchanging(folder, {"x": 10}).read("x", 0, 10) == b"abcdefghij"
    change(b"0123456789!")
    for reader in (unchanging, Unchanging(folder, {"x": 10})):
        with pytest.raises(
            MachineError, match=r"/x: (11 bytes instead of 10|its ETag is not .* any more): it was replaced"
        ):
            reader.read("x", 0, 5)


def test_a_protocol_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(
        ShardError, match=r"^http://host/set: http:// needs a package .*: pip install 'headrace\[http\]'$"
    ):
        RemoteFolder("http://host/set")
