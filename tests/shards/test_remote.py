"""Remote folders against real servers on loopback, with faults."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from remote_servers import Faults, faulty

from headrace.shards import ShardError
from headrace.shards.remote import RemoteFolder, Retry, is_remote

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
        ("500", r"answers  ?500"),
        ("503", r"answers  ?503"),
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
