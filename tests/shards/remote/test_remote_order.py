"""What a store serves in an epoch: with the window order each byte about once, out of a cache much smaller."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Loader, center_view
from headrace.shards import ShardSet, open_shards, write_shards
from tests.conftest import DIGIT_FIELDS, digit_samples
from tests.shards.remote_servers import Faults, ProxyHandler, RangeHandler, serving

BLOCK = 16384
BATCH = 16
WINDOW: dict[str, Any] = {"order": "window", "window": 96, "lanes": 4}


class Served:
    """Requests for shards, and bytes of them."""

    def __init__(self) -> None:
        self.requests = self.bytes = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        with self._lock:
            self.requests += 1
            self.bytes += size

    def clear(self) -> None:
        self.requests = self.bytes = 0


class Counting(BaseHTTPRequestHandler):
    """Counts what of shards is sent."""

    def __init__(self, *args: Any, served: Served, **options: Any) -> None:
        self.served = served
        super().__init__(*args, **options)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword == "Content-Length" and self.path.endswith(".tar") and self.command == "GET":
            self.served.count(int(value))
        super().send_header(keyword, value)


class CountingHandler(Counting, RangeHandler):
    """A folder over HTTP."""


class CountingProxy(Counting, ProxyHandler):
    """What stands before another server."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """1,200 digits in 14 tars."""
    path = tmp_path_factory.mktemp("remote-order") / "digits"
    write_shards(path, digit_samples(120), DIGIT_FIELDS, format="webdataset", shard_size=400_000)
    with open_shards(path) as shards:
        assert len(shards.manifest.shards) >= 10
        yield shards


@pytest.fixture
def store(digits: ShardSet) -> Iterator[tuple[str, Served]]:
    served = Served()
    with serving(partial(CountingHandler, directory=str(digits.path), served=served)) as url:
        yield url, served


@pytest.fixture
def bucket(digits: ShardSet, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Served]]:
    """The digits in S3, behind a proxy that counts."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        upstream = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=upstream)
        client.create_bucket(Bucket="order")
        for path in digits.path.iterdir():
            client.upload_file(str(path), "order", f"digits/{path.name}")
        served = Served()
        with serving(partial(CountingProxy, upstream=upstream, faults=Faults(), served=served)) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
            yield "s3://order/digits", served
    finally:
        server.stop()


def opened(url: str, digits: ShardSet, cache: Path, **options: Any) -> ShardSet:
    """With a cache of an eighth of the set."""
    return open_shards(url, cache_dir=cache, block_bytes=BLOCK, cache_bytes=digits.manifest.bytes // 8, **options)


def epoch(shards: ShardSet, **options: Any) -> np.ndarray:
    with Loader(shards, center_view(8), BATCH, drop_last=False, threads=1, prefetch=1, **options) as loader:
        return np.concatenate([batch.index.numpy() for batch in loader])


@pytest.mark.peer("aiohttp")
def test_each_byte_is_fetched_about_once(store: tuple[str, Served], digits: ShardSet, tmp_path: Path) -> None:
    url, served = store
    with opened(url, digits, tmp_path) as shards:
        for epoch_seed in range(2):  # the second finds what the first left
            served.clear()
            seen = epoch(shards, seed=epoch_seed, **WINDOW)
            assert np.array_equal(np.sort(seen), np.arange(len(digits)))
            window = served.bytes, served.requests
            assert window[0] < 1.1 * digits.manifest.bytes
        served.clear()
        epoch(shards, order="global")
    assert served.bytes > 3 * digits.manifest.bytes, "with the global order, a block for nearly every sample"
    assert served.requests > 3 * window[1]


@pytest.mark.peer("s3fs", "moto")
def test_each_byte_is_fetched_about_once_from_s3(bucket: tuple[str, Served], digits: ShardSet, tmp_path: Path) -> None:
    url, served = bucket
    with opened(url, digits, tmp_path) as shards:
        served.clear()
        assert np.array_equal(np.sort(epoch(shards, **WINDOW)), np.arange(len(digits)))
    assert 0.9 * digits.manifest.bytes < served.bytes < 1.1 * digits.manifest.bytes


@pytest.mark.peer("aiohttp")
def test_a_cache_that_is_too_small_is_known_beforehand(
    store: tuple[str, Served], digits: ShardSet, tmp_path: Path
) -> None:
    url, served = store
    size = digits.manifest.bytes
    times = {}
    for name, cache_bytes in (("small", size // 20), ("enough", size // 8)):
        options: dict[str, Any] = {"cache_bytes": cache_bytes, "cache_dir": tmp_path / name, "block_bytes": BLOCK}
        with (
            open_shards(url, **options) as shards,
            Loader(shards, center_view(8), 4, prefetch=1, threads=1, drop_last=False, **WINDOW) as loader,
        ):
            assert (shards.cache_bytes < loader.cache_needed) is (name == "small")
            served.clear()
            for _ in loader:
                pass
            times[name] = served.bytes / size
            with Loader(shards, center_view(8), BATCH, order="global") as other:
                assert other.cache_needed == size
            with Loader(shards, center_view(8), BATCH, shuffle=False) as other:
                assert other.cache_needed == 0
            with Loader(shards, center_view(8), BATCH, rank=1, world_size=4, **WINDOW) as other:
                assert 4 * (other.cache_needed - 1) < loader.cache_needed <= 4 * other.cache_needed
    assert times["enough"] < 1.15
    assert times["small"] > 1.5
    with Loader(digits, center_view(8), BATCH, **WINDOW) as local:
        assert local.cache_needed == 0


@pytest.mark.peer("aiohttp")
def test_ranks_do_not_fetch_what_others_do(store: tuple[str, Served], digits: ShardSet, tmp_path: Path) -> None:
    """Four ranks, each with a cache of its own: together they fetch the set about once."""
    url, served = store
    seen = []
    for rank in range(4):
        served.clear()
        with opened(url, digits, tmp_path / str(rank)) as shards:
            seen.append(epoch(shards, rank=rank, world_size=4, **WINDOW))
        # A quarter, and the blocks at both ends of its lane.
        assert served.bytes < 1.2 * digits.manifest.bytes / 4
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(len(digits)))


@pytest.mark.peer("aiohttp")
def test_a_remote_set_takes_the_window_and_gives_the_local_batches(
    store: tuple[str, Served], digits: ShardSet, tmp_path: Path
) -> None:
    url, _ = store
    with ExitStack() as stack:
        remote = stack.enter_context(opened(url, digits, tmp_path))
        options: dict[str, Any] = {"threads": 1, "seed": 3}
        here = stack.enter_context(Loader(digits, center_view(8), BATCH, order="window", **options))
        there = stack.enter_context(Loader(remote, center_view(8), BATCH, prefetch=1, **options))
        assert there.state_dict() == here.state_dict()
        assert Loader(digits, center_view(8), BATCH).state_dict()["order"] == "global"
        for a, b in zip(here, there, strict=True):
            assert np.array_equal(a.index, b.index)
            assert np.array_equal(a.views[0], b.views[0])
