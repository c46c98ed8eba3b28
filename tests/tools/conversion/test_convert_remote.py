"""Conversion into and out of a real S3 server on loopback."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.shards import ShardError, ShardSet, open_shards
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.upkeep.compare import compare
from headrace.tools.upkeep.verify import verify

BUCKET = "headrace-convert"
SHARD_SIZE = 1 << 20

pytestmark = [pytest.mark.peer("moto"), pytest.mark.peer("s3fs")]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the server that the environment names."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
    server.stop()


@pytest.fixture(scope="module")
def pictures(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for i in range(60):
        (root / f"{i:03d}.jpg").write_bytes(photos.read(i % len(photos))["image"])
    (root / "bad.jpg").write_bytes(b"not a picture")
    return root


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "set"
    convert("folder", pictures, out, shard_size=SHARD_SIZE, workers=1)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def objects(s3: Any, prefix: str) -> dict[str, bytes]:
    """What lies under a prefix, by the rest of its name."""
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
    names = [entry["Key"] for entry in listed]
    return {name.removeprefix(f"{prefix}/"): s3.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


def test_the_same_bytes_as_on_disk(s3: Any, pictures: Path, whole: dict[str, bytes]) -> None:
    result = convert("folder", pictures, f"s3://{BUCKET}/plain", shard_size=SHARD_SIZE, workers=2)
    assert (result.samples, result.rejects) == (60, 1)
    assert objects(s3, "plain") == whole
    with pytest.raises(ShardError, match=f"s3://{BUCKET}/plain: holds a set already"):
        convert("folder", pictures, f"s3://{BUCKET}/plain", shard_size=SHARD_SIZE)
    assert objects(s3, "plain") == whole


def test_killed_nothing_is_visible_and_it_goes_on(s3: Any, pictures: Path, whole: dict[str, bytes]) -> None:
    code = (
        "import sys; from headrace.tools.conversion.convert import convert\n"
        f"convert('folder', sys.argv[1], 's3://{BUCKET}/killed', shard_size={SHARD_SIZE}, workers=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(pictures)], start_new_session=True)
    deadline = time.monotonic() + 60
    while not any(name.endswith("2.json") for name in objects(s3, "killed")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = objects(s3, "killed")
    assert left
    assert all(name.startswith(".headrace/") for name in left)
    with pytest.raises(ShardError):
        open_shards(f"s3://{BUCKET}/killed")
    result = convert("folder", pictures, f"s3://{BUCKET}/killed", shard_size=SHARD_SIZE, workers=2)
    assert result.resumed > 0
    assert objects(s3, "killed") == whole


def test_a_commit_that_was_interrupted_is_finished(
    s3: Any, pictures: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.shards.remote.remote import RemoteFolder

    moves: list[str] = []
    move = RemoteFolder.move

    def some_moves(self: RemoteFolder, name: str, new: str) -> None:
        if len(moves) == 3:
            raise KeyboardInterrupt
        moves.append(new)
        move(self, name, new)

    monkeypatch.setattr(RemoteFolder, "move", some_moves)
    with pytest.raises(KeyboardInterrupt):
        convert("folder", pictures, f"s3://{BUCKET}/halved", shard_size=SHARD_SIZE, workers=1)
    monkeypatch.undo()
    assert "manifest.json" not in objects(s3, "halved")
    result = convert("folder", pictures, f"s3://{BUCKET}/halved", shard_size=SHARD_SIZE, workers=1)
    assert result.resumed == 61
    assert objects(s3, "halved") == whole


def test_a_set_in_s3_is_a_source(s3: Any, pictures: Path, tmp_path: Path) -> None:
    convert("folder", pictures, f"s3://{BUCKET}/source", shard_size=SHARD_SIZE)
    convert("folder", pictures, tmp_path / "local", shard_size=SHARD_SIZE)
    convert("shards", f"s3://{BUCKET}/source", tmp_path / "beton", format="ffcv", workers=2)
    with open_shards(tmp_path / "local") as local, open_shards(tmp_path / "beton") as beton:
        assert compare(local, beton).ok
    with pytest.raises(UserError, match="only shard sets can be read"):
        convert("folder", f"s3://{BUCKET}/source", tmp_path / "set")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_set_in_s3_is_a_source_of_many_shards(
    s3: Any, pictures: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker processes open it themselves: connections and caches of the first process are no use to them."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    url = f"s3://{BUCKET}/source-of-many-{workers}"
    convert("folder", pictures, url, shard_size=SHARD_SIZE)
    result = convert("shards", url, tmp_path / "set", shard_size=SHARD_SIZE, workers=workers)
    assert (result.samples, result.rejects) == (60, 0)
    with open_shards(url) as remote, open_shards(tmp_path / "set") as local:
        assert len(local.manifest.shards) > 3
        assert compare(remote, local).ok


def test_too_many_bad_samples_are_told_of_beside(
    s3: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="1 of 61 samples cannot be used"):
        convert("folder", pictures, f"s3://{BUCKET}/strict", shard_size=SHARD_SIZE, max_rejects=0.0)
    assert os.listdir(tmp_path) == ["strict.rejects.jsonl"]
    assert all(name.startswith(".headrace/") for name in objects(s3, "strict"))


def test_a_remote_set_is_verified(s3: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://{BUCKET}/to-verify"
    convert("folder", pictures, url, shard_size=SHARD_SIZE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = verify(url)
    assert report.ok, report
    assert (report.path, report.samples) == (url, 60)
    names = [each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET, Prefix="to-verify/")["Contents"]]
    first, second, third, *_ = sorted(name for name in names if name.endswith(".tar"))
    content = bytearray(s3.get_object(Bucket=BUCKET, Key=first)["Body"].read())
    content[len(content) // 2] ^= 1
    s3.put_object(Bucket=BUCKET, Key=first, Body=bytes(content))
    s3.put_object(Bucket=BUCKET, Key=second, Body=b"short")
    s3.delete_object(Bucket=BUCKET, Key=third)
    report = verify(url)
    assert {finding.shard for finding in report.findings} == {Path(name).name for name in (first, second, third)}
    assert all(line.startswith((f"{url}/", "shard-")) for line in report.problems), report.problems
    assert not list(tmp_path.iterdir())  # no copy stays
    with pytest.raises(ShardError, match=r"holds no manifest\.json"):
        verify(f"s3://{BUCKET}/nothing")
