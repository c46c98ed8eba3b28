"""Bad samples: an end with a name, a substitute, or a smaller batch; the same ones every time."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.pipeline import Batch, DrawnViews, Loader, View, ViewSpec, plan
from headrace.pipeline.engines import DEVICE_ENGINES, ENGINES
from headrace.pipeline.faults import POLICIES, substitutes
from headrace.shards import ShardError, ShardSet, open_shards, write_shards
from headrace.shards.errors import MachineError, RemoteError
from headrace.shards.manifest import read_manifest
from tests.conftest import needs_linux

SPEC = ViewSpec.repeat(View(size=24, jitter=0.8, brightness=0.4, hue=0.1, blur=0.5), 2)
BAD = {3, 4, 17}
COUNT = 30
AVAILABLE = [
    pytest.param(name, marks=pytest.mark.peer(*name.split("+"))) if name in DEVICE_ENGINES else name
    for name in ENGINES
    if name != "ffcv"  # which reads .beton only, and takes seconds to start: see test_ffcv_engine
]


@pytest.fixture(scope="module")
def damaged(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Photographs, three of them cut off."""
    samples = [photos.read(i) for i in range(COUNT)]
    for i in BAD:
        samples[i]["image"] = samples[i]["image"][:5000]
    path = tmp_path_factory.mktemp("damaged") / "set"
    write_shards(path, samples, photos.fields)
    with open_shards(path) as shards:
        yield shards


OVERWRITTEN: dict[int, Callable[[int], bytes]] = {
    2: lambda size: np.random.Generator(np.random.Philox(3)).bytes(size),
    5: bytes,
    11: lambda size: b"\xff" * size,
    12: lambda size: b"\xff\xd8\xff" + bytes(size - 3),
    23: lambda size: (b"<html>" * size)[:size],
}
"""Samples, and what stands in their place."""


@pytest.fixture(scope="module")
def overwritten(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Photographs in whose stored files something else was written."""
    path = tmp_path_factory.mktemp("overwritten") / "set"
    write_shards(path, [photos.read(i) for i in range(COUNT)], photos.fields)
    (shard,) = (path / shard.name for shard in read_manifest(path).shards)
    with open_shards(path) as shards, open(shard, "r+b") as file:
        for i, content in OVERWRITTEN.items():
            places = shards.places("image", [i])
            file.seek(int(places.address[0]))
            file.write(content(int(places.size[0])))
    with open_shards(path) as shards:
        yield shards


@pytest.mark.parametrize("engine", AVAILABLE)
def test_whatever_stands_in_a_files_place(engine: str, overwritten: ShardSet) -> None:
    for policy in POLICIES:
        with make(overwritten, engine=engine, on_error=policy) as loader:
            if policy == "error":
                with pytest.raises(ShardError, match=r"shard-000000\.tar, offset \d+, key photo_00\d\d: cannot decode"):
                    list(loader)
                continue
            samples = sum(len(batch) for batch in loader)
            assert set(loader.bad) == set(OVERWRITTEN)
            assert samples == COUNT - (len(OVERWRITTEN) if policy == "skip" else 0)
            for sample, reason in loader.bad.items():
                assert re.fullmatch(
                    rf"shard-\S+ offset \d+, key photo_{sample:04d}: cannot decode the image: [^<>]+", reason
                )


def make(shards: ShardSet, **options: object) -> Loader:
    return Loader(shards, SPEC, 10, **({"seed": 5, "threads": 2} | options))  # type: ignore[arg-type]


def views_by_index(batches: list[Batch]) -> list[tuple[int, bytes]]:
    return [
        (int(sample), b"".join(view[row].numpy().tobytes() for view in batch.views))
        for batch in batches
        for row, sample in enumerate(batch.index)
    ]


@pytest.mark.parametrize("engine", AVAILABLE)
def test_a_substitute_takes_the_place(engine: str, damaged: ShardSet) -> None:
    with make(damaged, engine=engine, on_error="substitute") as loader:
        batches = list(loader)
        assert set(loader.bad) == BAD
        assert all(f"photo_{sample:04d}" in reason for sample, reason in loader.bad.items())
    indices = [int(i) for batch in batches for i in batch.index]
    assert len(indices) == COUNT
    assert not BAD & set(indices)
    assert set(indices) == set(range(COUNT)) - BAD
    # A substitute is seen as it would be in its own place.
    seen: dict[int, bytes] = {}
    for index, views in views_by_index(batches):
        assert seen.setdefault(index, views) == views
    for batch in batches:
        assert batch.labels is not None
        assert batch.labels.tolist() == [damaged.read(int(i))["label"] for i in batch.index]


def test_the_same_batches_whatever_the_threads_and_after_a_resume(damaged: ShardSet) -> None:
    with make(damaged, on_error="substitute") as loader:
        whole = views_by_index(list(loader))
    with make(damaged, on_error="substitute", threads=5, prefetch=1) as loader:
        first = next(iter(loader))
        state = loader.state_dict()
    with make(damaged, on_error="substitute") as other:
        other.load_state_dict(state)
        assert views_by_index([first, *other]) == whole


def test_substitutes_depend_on_seed_epoch_and_sample() -> None:
    usual = substitutes(1, 2, 3, 1000)
    assert np.array_equal(usual, substitutes(1, 2, 3, 1000))
    assert all(0 <= i < 1000 for i in usual)
    for others in ((9, 2, 3), (1, 9, 3), (1, 2, 9)):
        assert not np.array_equal(usual, substitutes(*others, 1000))


@pytest.mark.parametrize("engine", ["native", pytest.param("kornia", marks=pytest.mark.peer("kornia"))])
def test_skipping_makes_batches_smaller(engine: str, damaged: ShardSet) -> None:
    with make(damaged, engine=engine, on_error="skip") as loader:
        skipping = list(loader)
        assert set(loader.bad) == BAD
    assert sum(len(batch) for batch in skipping) == COUNT - len(BAD)
    with make(damaged, engine=engine, on_error="substitute") as loader:
        whole = dict(views_by_index(list(loader)))
    for index, views in views_by_index(skipping):
        assert views == whole[index]
    assert all(view.shape[0] == len(batch) for batch in skipping for view in batch.views)


@pytest.mark.parametrize("policy", ["substitute", "skip"])
def test_the_draws_are_those_of_the_delivered_samples(policy: str, damaged: ShardSet) -> None:
    with make(damaged, on_error=policy) as loader:
        for batch in loader:
            ids = batch.index.numpy()
            spans = damaged.spans("image", ids)
            expected = plan(SPEC, 5, 0, ids, np.stack([spans.height, spans.width], axis=1))
            assert isinstance(batch.drawn, DrawnViews)
            assert np.array_equal(batch.drawn.crop.numpy(), expected.crop)
            assert np.array_equal(batch.drawn.flip.numpy(), expected.flip)


@pytest.mark.parametrize("policy", ["substitute", "skip"])
def test_too_many_bad_samples_end_it(policy: str, damaged: ShardSet) -> None:
    with make(damaged, on_error=policy, max_bad=2) as loader, pytest.raises(ShardError) as caught:
        list(loader)
    assert "3 bad samples, more than max_bad=2; the last: " in str(caught.value)
    assert "photo_00" in str(caught.value)


def test_where_everything_is_bad_it_says_so(photos: ShardSet, tmp_path: Path) -> None:
    samples = [{**photos.read(i), "image": photos.read(i)["image"][:5000]} for i in range(12)]
    write_shards(tmp_path / "bad", samples, photos.fields)
    with open_shards(tmp_path / "bad") as shards:
        with make(shards, on_error="substitute") as loader, pytest.raises(ShardError, match="can stand in for a bad"):
            list(loader)
        with make(shards, on_error="skip") as loader, pytest.raises(ShardError, match="a whole batch of 10 samples"):
            list(loader)


FAULTS = [
    RemoteError("s3://bucket/set/shard-000003.tar: no answer within 30 s, after 6 tries"),
    MachineError("shard-000003.tar: has changed since the set was opened"),
    OSError(errno.EIO, "Input/output error", "shard-000003.tar"),
    MemoryError("for shard-000003.tar"),
]


@pytest.mark.parametrize("stage", ["render", "request", "substitute"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_machine_that_fails_is_no_bad_sample(
    policy: str, fault: Exception, stage: str, damaged: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise fault

    with make(damaged, on_error=policy) as loader:
        if stage == "substitute":  # while a bad sample is mended
            mend = loader._mend
            monkeypatch.setattr(
                loader, "_mend", lambda *args: (monkeypatch.setattr(loader._feed, "render", lost), mend(*args))
            )
        else:
            monkeypatch.setattr(loader._feed, stage, lost)
        expected = ShardError if (stage, policy) == ("substitute", "error") else type(fault)
        with pytest.raises(expected) as caught:
            list(loader)
        assert expected is ShardError or "shard-000003" in str(caught.value)
        assert not loader.bad


def test_a_shard_that_is_gone_is_no_bad_sample(
    photos: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a set whose shards are mapped when they are read."""
    path = Path(shutil.copytree(str(photos.path), tmp_path / "set"))
    monkeypatch.setattr("headrace.shards.shard_set.FEW", 0)
    with open_shards(path) as shards:
        (path / "shard-000001.tar").unlink()
        with make(shards, on_error="substitute") as loader:
            with pytest.raises(MachineError, match=r"shard-000001\.tar: No such file or directory"):
                list(loader)
            assert not loader.bad


def test_ranks_do_not_skip(damaged: ShardSet) -> None:
    with pytest.raises(ValueError, match="use 'substitute'"):
        make(damaged, on_error="skip", world_size=2)
    with pytest.raises(ValueError, match="on_error 'ignore' is not one of error, substitute, skip"):
        make(damaged, on_error="ignore")


def test_bad_samples_count_over_a_resume(damaged: ShardSet) -> None:
    with make(damaged, on_error="substitute") as loader:
        list(loader)
        assert len(loader.bad) == 3
        state = loader.state_dict()
        list(loader)
        assert state["bad"] == loader.bad  # not changed by what came later
    with make(damaged, on_error="substitute", max_bad=2) as other:
        other.load_state_dict({**state, "bad": dict(list(state["bad"].items())[:2])})
        assert len(other.bad) == 2
        with pytest.raises(ShardError, match="3 bad samples, more than max_bad=2"):
            list(other)
    with make(damaged) as old:
        old.load_state_dict({name: value for name, value in state.items() if name != "bad"})
        assert not old.bad


@pytest.mark.parametrize("policy", ["substitute", "skip"])
def test_bad_batches_leave_no_memory_behind(policy: str, damaged: ShardSet) -> None:
    with make(damaged, on_error=policy) as loader:
        for _ in range(6):
            list(loader)
        held = list(loader)
        del held  # all of its memory comes back at once
        assert {shape: len(buffers) for shape, buffers in loader._pool.free.items()} == {
            ((10, 24, 24, 3), torch.uint8): 5
        }


def open_files() -> int:
    needs_linux("/proc/self/fd")
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("engine", AVAILABLE)
def test_nothing_is_left_after_close(engine: str, photos: ShardSet) -> None:
    def run() -> None:
        with open_shards(photos.path) as shards, make(shards, engine=engine) as loader:
            next(iter(loader))

    run()  # what an engine keeps once for all, it has now
    before = threading.active_count(), open_files()
    for _ in range(5):
        run()
    assert (threading.active_count(), open_files()) == before


def test_memory_is_flat_over_epochs(photos: ShardSet) -> None:
    def resident() -> int:
        needs_linux("/proc/self/statm")
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGESIZE")

    with make(photos) as loader:
        for _ in range(3):
            list(loader)
        before = resident()
        for _ in range(10):
            list(loader)
        assert resident() - before < 8 << 20


INTERRUPTED = """
import sys
from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import open_shards

with open_shards(sys.argv[1]) as shards, Loader(shards, ViewSpec([View(size=224)]), 8, threads=2) as loader:
    while True:
        for batch in loader:
            print("batch", flush=True)
"""


@pytest.mark.timeout(120)
def test_an_interrupt_ends_the_process(photos: ShardSet) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(photos.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    assert process.stdout.readline() == "batch\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT, errors
    assert errors.strip().endswith("KeyboardInterrupt")


def test_a_thread_that_dies_ends_the_epoch(photos: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an engine raises comes out of the iteration; nothing waits for it for ever."""
    with make(photos) as loader:
        monkeypatch.setattr(loader._feed.engines[0], "render", lambda *_: sys.exit("the thread is gone"))
        with pytest.raises(SystemExit):
            list(loader)
