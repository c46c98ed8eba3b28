"""Sets on servers: the same samples and batches as from the folder, out of a small cache, whatever goes wrong."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import ShardError, ShardSet, Spans, mapping, open_shards
from headrace.shards.errors import MachineError
from headrace.shards.remote.block_cache import BlockCache
from headrace.shards.remote.remote import RemoteFolder, Retry
from headrace.shards.remote.remote_set import RemoteShardSet
from tests.shards.remote_servers import Faults, RangeHandler, WholeHandler, faulty, folder_server

pytestmark = pytest.mark.peer("aiohttp")

QUICK = Retry(tries=6, pause_s=0.01, timeout_s=1.0)
BLOCK = 4096
SPEC = ViewSpec.repeat(View(size=24, grayscale=0.2, blur=0.5), 2)


@pytest.fixture(params=["webdataset", "ffcv"])
def local(request: pytest.FixtureRequest) -> ShardSet:
    return request.getfixturevalue(f"digits_{request.param}")


@pytest.fixture
def served(tmp_path: Path, digits_webdataset: ShardSet) -> Iterator[tuple[str, Faults, Path]]:
    """URL of a copy of the digits behind a proxy, the proxy's faults, the copy."""
    folder = Path(shutil.copytree(digits_webdataset.path, tmp_path / "served" / "digits"))
    with folder_server(folder.parent) as upstream, faulty(upstream) as (url, faults):
        yield f"{url}/digits", faults, folder


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, Any]:
    """Options of a small cache."""
    return {
        "cache_dir": tmp_path / "cache",
        "cache_bytes": 50 * BLOCK,
        "block_bytes": BLOCK,
        "storage_options": {"retry": QUICK},
    }


def contents(spans: Spans) -> list[bytes]:
    return [ctypes.string_at(a, n) for a, n in zip(spans.address.tolist(), spans.size.tolist(), strict=True)]


def assert_same_sample(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


def disk_bytes(cache_dir: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in cache_dir.rglob("shard-*") if path.suffix != ".npy")


def block_cache(shards: ShardSet) -> BlockCache:
    assert isinstance(shards, RemoteShardSet)
    return shards._cache


def batches(shards: ShardSet, batch_size: int, epochs: int = 2) -> list[tuple[np.ndarray, ...]]:
    with Loader(shards, SPEC, batch_size, seed=3, order="global", threads=2, prefetch=1) as loader:
        return [
            (batch.index.numpy().copy(), *(view.numpy().copy() for view in batch.views))
            for _ in range(epochs)
            for batch in loader
        ]


def assert_same_batches(ours: list[tuple[np.ndarray, ...]], theirs: list[tuple[np.ndarray, ...]]) -> None:
    assert len(ours) == len(theirs) > 0
    assert all(np.array_equal(x, y) for a, b in zip(ours, theirs, strict=True) for x, y in zip(a, b, strict=True))


# --- the same set ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def upload(shards: ShardSet, url: str, endpoint: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=url.split("/")[2])
    folder = RemoteFolder(url, endpoint_url=endpoint)
    assert isinstance(shards.path, Path)
    for file in sorted(shards.path.iterdir(), key=lambda path: path.name == "manifest.json"):
        folder.put(file, file.name)


@pytest.mark.peer("s3fs", "moto")
@pytest.mark.parametrize("fault", ["", "503", "truncate"])
def test_batches_from_s3_are_the_local_ones(
    fault: str, local: ShardSet, s3_endpoint: str, cache: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a cache of a quarter of the set, in random order."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    url = f"s3://headrace-test/{local.manifest.format}"
    upload(local, url, s3_endpoint)
    quarter = local.manifest.bytes // 4
    with faulty(s3_endpoint) as (proxy, faults):
        options = {**cache, "cache_bytes": quarter, "storage_options": {"retry": QUICK, "endpoint_url": proxy}}
        with open_shards(url, **options) as shards:
            faults.set(fault, every=5, match="GET .*/shard-")
            assert str(shards.path) == url
            assert shards.manifest == local.manifest
            assert shards.ints().tolist() == local.ints().tolist()
            epochs = 1 if fault else 2
            assert_same_batches(batches(shards, 8, epochs), batches(local, 8, epochs))
            assert bool(faults.made) == bool(fault)
            assert 0 < disk_bytes(cache["cache_dir"]) <= quarter


@pytest.mark.peer("s3fs", "moto")
def test_s3_that_is_wrong_once_and_a_set_that_is_replaced_there(
    local: ShardSet, s3_endpoint: str, cache: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    url = f"s3://headrace-test/replaced-{local.manifest.format}"
    upload(local, url, s3_endpoint)
    with faulty(s3_endpoint) as (proxy, faults):
        cache["storage_options"] = {"retry": QUICK, "endpoint_url": proxy}
        with open_shards(url, **cache) as shards:
            for start in range(20, 80, 20):
                ids = range(start, start + 20)
                faults.set("scramble", match="GET .*/shard-", at_most=1)
                assert contents(shards.spans("image", ids)) == contents(local.spans("image", ids))
                assert faults.made == 1
            faults.set("")
            assert isinstance(local.path, Path)
            changed = tmp_path / local.manifest.shards[0].name
            changed.write_bytes((local.path / changed.name).read_bytes()[::-1])
            RemoteFolder(url, endpoint_url=s3_endpoint).put(changed, changed.name)
            with pytest.raises(MachineError, match=rf"^{url}/{changed.name}: its ETag is not .* it was replaced while"):
                shards.spans("image", range(10))  # not in the cache yet


def test_samples_over_http_are_the_local_ones(local: ShardSet, tmp_path: Path, cache: dict[str, Any]) -> None:
    assert isinstance(local.path, Path)
    with folder_server(local.path) as url, open_shards(url, check=True, **cache) as shards:
        for i in np.random.Generator(np.random.Philox(0)).permutation(len(local))[:80].tolist():
            assert_same_sample(shards.read(i), local.read(i))
            assert shards.where(i, "image") == local.where(i, "image")
        for field in ("image", "label"):
            assert contents(shards.spans(field, range(40))) == contents(local.spans(field, range(40)))
        assert [len(column) for column in shards.spans("image", [])] == [0] * 6
        sizes = shards.places("image", range(len(local)))  # more than fits into the cache
        assert sizes.size.tolist() == local.spans("image", range(len(local))).size.tolist()
        for ids in ([-1], [len(local)]):
            with pytest.raises(IndexError):
                shards.spans("image", ids)
        with pytest.raises(IndexError):
            shards.read(len(local))
        assert disk_bytes(cache["cache_dir"]) <= cache["cache_bytes"]


def test_a_system_without_holes_says_so(
    served: tuple[str, Faults, Path], cache: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS, where no other file system would help."""
    monkeypatch.setattr(mapping, "MAKES_HOLES", False)
    monkeypatch.setattr("headrace.shards.remote.block_cache.MAKES_HOLES", False)
    with pytest.raises(MachineError, match="this system has no call to make holes in files as Linux has; copy the set"):
        open_shards(served[0], **cache)


def test_another_process_gets_it_pickled(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, _, folder = served
    with open_shards(url, **cache) as shards, open_shards(folder) as local:
        with pickle.loads(pickle.dumps(shards)) as again:
            assert_same_sample(again.read(5), local.read(5))
        shards.read(5)
        with (
            ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as processes,
            pytest.raises(MachineError, match="a forked process must open the set again"),
        ):
            processes.submit(inherited, id(shards)).result(20)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as processes:
            processes.submit(closed, id(shards)).result(20)
        with open_shards(url, **cache) as other:  # the slot is still the parent's
            assert block_cache(other).folder != block_cache(shards).folder
        assert_same_sample(shards.read(5), local.read(5))


def inherited(address: int) -> None:
    """What a forked process does with the set of its parent."""
    shards: ShardSet = ctypes.cast(address, ctypes.py_object).value
    shards.read(5)


def closed(address: int) -> None:
    """Likewise, at its end."""
    shards: ShardSet = ctypes.cast(address, ctypes.py_object).value
    shards.close()


# --- leases and eviction --------------------------------------------------------------------------------------------


def test_leased_bytes_stay_while_others_come_and_go(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, _, folder = served
    with open_shards(url, **cache) as shards, open_shards(folder) as local:
        held = shards.spans("image", range(8))
        part = Spans._make(column[2:5] for column in held)
        copied = held.address[[6, 7]].copy()
        sizes = held.size[[6, 7]]
        expected = contents(local.spans("image", range(8)))
        for start in range(0, len(local), 5):
            shards.spans("image", range(start, min(start + 5, len(local))))
        assert contents(held) == expected
        del held
        for start in range(0, len(local), 5):
            shards.spans("image", range(start, min(start + 5, len(local))))
        assert contents(part) == expected[2:5]
        del part
        for start in range(0, len(local), 5):
            shards.spans("image", range(start, min(start + 5, len(local))))
        assert [ctypes.string_at(a, n) for a, n in zip(copied.tolist(), sizes.tolist(), strict=True)] == expected[6:]
        del copied
        for start in range(100, len(local), 5):
            shards.spans("image", range(start, min(start + 5, len(local))))
        block_cache(shards)._take_back()
        assert not any(block.leases for block in block_cache(shards)._blocks.values())


def test_threads_never_see_wrong_bytes(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, faults, folder = served
    with open_shards(url, **cache) as shards, open_shards(folder) as local:
        expected = contents(local.spans("image", range(len(local))))
        faults.set("500", every=7, match="shard-")
        failures: list[BaseException] = []

        def work(seed: int) -> None:
            draw = np.random.Generator(np.random.Philox(seed))
            try:
                for _ in range(25):
                    ids = draw.integers(0, len(local), 4)
                    shards.request("image", draw.integers(0, len(local), 2))  # and not wait, as after a break
                    spans, wait = shards.request("image", ids)
                    wait()
                    time.sleep(draw.uniform(0, 0.01))
                    assert contents(spans) == [expected[i] for i in ids]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert disk_bytes(cache["cache_dir"]) <= cache["cache_bytes"]


def test_more_than_the_cache_holds(
    served: tuple[str, Faults, Path], cache: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockCache, "patience_s", 0.1)
    url, _, folder = served
    with open_shards(url, **cache) as shards, open_shards(folder) as local:
        shards.spans("image", range(40))
        with pytest.raises(ShardError, match="are needed at once"):
            shards.spans("image", range(60))
        with pytest.raises(ShardError, match=rf"^{url}: 8\d\d,\d+ bytes are needed at once; the cache has 204,800, "):
            shards.spans("image", range(len(local)))
        held = [shards.spans("image", range(start, start + 20)) for start in (0, 20)]
        with pytest.raises(ShardError, match=r"of which readers hold [0-9,]+: give it more, or load smaller batches"):
            shards.spans("image", range(40, 60))
        held.pop()
        assert contents(shards.spans("image", range(40, 60))) == contents(local.spans("image", range(40, 60)))
        assert contents(held[0]) == contents(local.spans("image", range(20)))


def test_what_nobody_waits_for_makes_room_when_it_is_there(
    served: tuple[str, Faults, Path], cache: dict[str, Any]
) -> None:
    url, _, folder = served
    with open_shards(folder) as local:
        with open_shards(url, **cache) as shards:
            shards.request("image", range(45))
            shards.request("image", range(100, 145))
            assert contents(shards.spans("image", range(50, 90))) == contents(local.spans("image", range(50, 90)))
        assert disk_bytes(cache["cache_dir"]) <= cache["cache_bytes"]


def test_a_request_does_not_wait(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, faults, folder = served
    with open_shards(url, **cache) as shards, open_shards(folder) as local:
        faults.set("stall", match="shard-000000")  # for longer than the timeout, each time
        before = time.monotonic()
        spans, wait = shards.request("image", range(4))
        assert time.monotonic() - before < 0.5
        faults.set("")
        wait()
        assert contents(spans) == contents(local.spans("image", range(4)))


# --- damage ---------------------------------------------------------------------------------------------------------


def test_a_later_run_uses_the_cache_again(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, faults, folder = served
    cache["cache_bytes"] = 1 << 22
    with open_shards(url, **cache) as shards, open_shards(folder) as local:
        expected = contents(local.spans("image", range(len(local))))
        assert contents(shards.spans("image", range(len(local)))) == expected
    faults.set("404", match="shard-")
    with open_shards(url, **cache) as shards:
        assert contents(shards.spans("image", range(len(expected)))) == expected
    with open_shards(url, **{**cache, "cache_bytes": 20 * BLOCK}) as shards:
        assert disk_bytes(cache["cache_dir"]) <= 20 * BLOCK
    assert not faults.made
    with open_shards(url, **cache) as shards, pytest.raises(ShardError, match=r"tar: .*(404|no such object)"):
        shards.spans("image", range(len(expected)))


def test_each_process_has_its_cache(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, _, folder = served
    with open_shards(url, **cache) as one, open_shards(url, **cache) as two, open_shards(folder) as local:
        assert block_cache(one).folder != block_cache(two).folder
        assert_same_sample(one.read(0), local.read(0))
        assert_same_sample(two.read(0), local.read(0))
        first = block_cache(one).folder
    with open_shards(url, **cache) as again:
        assert block_cache(again).folder == first


def test_blocks_damaged_on_the_disk_are_fetched_again(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, _, folder = served
    cache["cache_bytes"] = 1 << 22
    with open_shards(url, **cache) as shards, open_shards(folder) as local:
        expected = contents(local.spans("image", range(len(local))))
        shards.spans("image", range(len(local)))
        shard = block_cache(shards).path(1)
    content = bytearray(shard.read_bytes())
    for at in range(0, len(content), 5000):
        content[at] ^= 1
    shard.write_bytes(content)
    with open_shards(url, **cache) as shards:
        assert contents(shards.spans("image", range(len(expected)))) == expected
    index = shard.with_name("shard-000000.index.npy")
    index.write_bytes(index.read_bytes()[:-1] + b"!")
    os.truncate(shard, 1000)
    with open_shards(url, **cache) as shards:
        assert contents(shards.spans("image", range(len(expected)))) == expected
        assert index.read_bytes() == (folder / index.name).read_bytes()


READ_FOREVER = """
import json, os, sys, time
import numpy as np
from headrace.shards import open_shards

def slow(descriptor, content, at, pwrite=os.pwrite):
    if len(content) % 4096:
        return pwrite(descriptor, content, at)
    pwrite(descriptor, content[:1], at)
    time.sleep(0.05)
    return 1

os.pwrite = slow
shards = open_shards(sys.argv[1], **json.loads(sys.argv[2]))
draw = np.random.Generator(np.random.Philox(int(sys.argv[3])))
print("ready", flush=True)
while True:
    shards.spans("image", draw.integers(0, len(shards), 6))
"""


def test_killed_at_any_moment(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    """What the table of a killed process calls whole is whole, and the next process reads right bytes."""
    url, _, folder = served
    options = {**cache, "cache_dir": str(cache["cache_dir"])}
    del options["storage_options"]
    found = 0
    with open_shards(folder) as local:
        for round in range(3):
            arguments = [url, json.dumps(options), str(round)]
            child = subprocess.Popen([sys.executable, "-c", READ_FOREVER, *arguments], stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(random.Random(round).uniform(0.02, 0.4))
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
            assert len(list(cache["cache_dir"].glob("*/*"))) == 1  # the lock went with the process
            (table,) = cache["cache_dir"].glob("*/0/checked-*")
            whole = np.fromfile(table, "<u8")
            first = 0
            for shard in local.manifest.shards:
                stored, cached = ((place / shard.name).read_bytes() for place in (folder, table.parent))
                for block, start in enumerate(range(0, len(stored), BLOCK)):
                    if whole[first + block]:
                        assert stored[start : start + BLOCK] == cached[start : start + BLOCK]
                        found += 1
                first += -(-len(stored) // BLOCK)
            assert first == len(whole)
            with open_shards(url, **options) as shards:
                for start in range(0, len(local), 10):
                    ids = range(start, start + 10)
                    assert contents(shards.spans("image", ids)) == contents(local.spans("image", ids))
            assert disk_bytes(cache["cache_dir"]) <= cache["cache_bytes"]
    assert found > 30


def test_a_full_disk(served: tuple[str, Faults, Path], cache: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    url, _, folder = served
    with open_shards(url, **cache) as shards, open_shards(folder) as local:

        def full(*_: object) -> int:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(ShardError, match=r"tar: the cache cannot be written: No space left on device$"):
                shards.spans("image", range(5))
        assert contents(shards.spans("image", range(5))) == contents(local.spans("image", range(5)))


def test_bytes_that_change_on_the_way(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, faults, folder = served
    cache["block_bytes"] = 1 << 20
    cache["cache_bytes"] = 4 << 20
    with open_shards(folder) as local, open_shards(url, check=True, **cache) as shards:
        damage = folder / "shard-000001.tar"
        right = damage.read_bytes()
        where = local.where(100, "image")
        damage.write_bytes(bytes(byte ^ 1 for byte in right))
        assert where.startswith("shard-000001.tar")
        with pytest.raises(ShardError, match=rf"^{where}: image differs from its checksum"):
            shards.read(100)
        damage.write_bytes(right)
        assert_same_sample(shards.read(100), local.read(100))  # what was fetched wrong is not kept
        faults.set("corrupt", every=1, match="GET .*shard-000000.index")
    shutil.rmtree(cache["cache_dir"])
    with pytest.raises(ShardError, match=r"shard-000000\.index\.npy: its XXH3-128 is not the manifest's"):
        open_shards(url, **cache)


def test_a_set_that_was_replaced(served: tuple[str, Faults, Path], photos: ShardSet, cache: dict[str, Any]) -> None:
    url, _, folder = served
    cache["cache_bytes"] = 1 << 23
    with open_shards(url, **cache) as shards:
        shards.read(0)
    shutil.rmtree(folder)
    assert isinstance(photos.path, Path)
    shutil.copytree(photos.path, folder)
    with open_shards(url, **cache) as shards:
        assert len(shards) == len(photos)
        assert_same_sample(shards.read(3), photos.read(3))
        assert_same_batches(batches(shards, 6, 1), batches(photos, 6, 1))
    assert len(list(cache["cache_dir"].glob("*/*"))) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"digits: there is no manifest\.json"),
        (
            lambda folder: (folder / "manifest.json").write_text("{", encoding="utf-8"),
            r"digits/manifest\.json: .* not valid JSON",
        ),
        (lambda folder: (folder / "shard-000001.index.npy").unlink(), r"001\.index\.npy: there is no such object$"),
        (lambda folder: os.truncate(folder / "shard-000001.index.npy", 99), r"001\.index\.npy: 99 bytes instead of \d"),
    ],
)
def test_damaged_sets(damage: Any, message: str, served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, _, folder = served
    damage(folder)
    with pytest.raises(ShardError, match=f"^{url.removesuffix('digits')}.*{message}"):
        open_shards(url, **cache)


def test_shards_that_are_cut_off(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, _, folder = served
    os.truncate(folder / "shard-000002.tar", 5000)
    with open_shards(url, **cache) as shards:
        with pytest.raises(ShardError, match=r"shard-000002\.tar: 5,000 bytes instead of \d"):
            shards.read(len(shards) - 1)
        shards.read(0)


def test_servers_and_caches_that_cannot(digits_webdataset: ShardSet, tmp_path: Path, cache: dict[str, Any]) -> None:
    assert isinstance(digits_webdataset.path, Path)
    with (
        folder_server(digits_webdataset.path, WholeHandler) as url,
        pytest.raises(ShardError, match=rf"^{url}/manifest\.json: the server does not answer ranges"),
    ):
        open_shards(url, **cache)
    with folder_server(digits_webdataset.path, RangeHandler) as url:
        (tmp_path / "file").touch()
        for change, message in (
            ({"cache_dir": tmp_path / "file"}, "file/.*: cannot be used as a cache: Not a directory"),
            ({"cache_bytes": 100}, "a cache of 100 bytes does not hold a block of 4,096"),
            ({"block_bytes": 1000}, "a block must be a multiple of 4096 bytes, got 1000"),
        ):
            with pytest.raises(ShardError, match=message):
                open_shards(url, **{**cache, **change})
    with pytest.raises(ShardError, match="pass a URL as text, because pathlib takes one of its slashes away"):
        open_shards(Path("s3://bucket/set"))


def test_a_closed_set(served: tuple[str, Faults, Path], cache: dict[str, Any]) -> None:
    url, _, _ = served
    shards = open_shards(url, **cache)
    shards.read(0)
    shards.close()
    for use in (lambda: shards.read(0), lambda: shards.spans("image", [0]), shards.ints):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_the_cache_is_where_the_environment_says(
    served: tuple[str, Faults, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _, _ = served
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("HEADRACE_CACHE_BYTES", str(3 << 20))
    with open_shards(url) as shards:
        name = f"digits-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        assert block_cache(shards).folder == tmp_path / "here" / name / "0"
        assert block_cache(shards).capacity == 3
    monkeypatch.setenv("HEADRACE_CACHE_BYTES", "many")
    with pytest.raises(ShardError, match="HEADRACE_CACHE_BYTES: 'many' is not a number of bytes"):
        open_shards(url)
