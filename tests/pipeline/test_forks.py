"""What a process made before it forked, in its child: it works, or says at once why not. Nothing waits for threads that
only the parent has."""

import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import numba
import numpy as np
import pytest
import torch
from numba.core.compiler_lock import global_compiler_lock

from headrace.pipeline import Loader
from headrace.shards import ShardSet
from tests.pipeline.test_loader import assert_same, copied, make

PATIENCE_S = 60
ENGINES = [
    "native",
    "torchvision",
    *(pytest.param(name, marks=pytest.mark.peer(*name.split("+"))) for name in ("dali", "kornia", "dali+kornia")),
]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Of torch, both at work: whoever waits for the second in a child waits for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.rand(64, 256, 256).sigmoid()
    yield
    torch.set_num_threads(before)


def in_fork(work: Callable[[], object]) -> int:
    """Exit status of a forked process that does `work`: 1 where that raises, -9 where it hangs."""
    child = os.fork()
    if child == 0:
        _work(work)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def in_process(work: Callable[[], object]) -> int | None:
    """Likewise, of multiprocessing's."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=(work,))
    process.start()
    process.join(PATIENCE_S)
    process.kill()
    process.join()
    return process.exitcode


def _work(work: Callable[[], object]) -> None:
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


@pytest.mark.parametrize("forked", [in_fork, in_process])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_process_goes_on(
    engine: str, forked: Callable[[Callable[[], object]], int | None], photos: ShardSet
) -> None:
    """With the loader of its parent, with one that was never used, and with one of its own; the parent goes on, too."""
    with (
        make(photos, 6, engine=engine) as loader,
        make(photos, 6, engine=engine) as other,
        make(photos, 6, engine=engine) as unused,
    ):
        rest = copied(iter(other))[1:]
        iterator = iter(loader)
        next(iterator)

        def go_on() -> None:
            with pytest.raises(RuntimeError, match="of the process that was forked"):
                next(iterator)
            assert_same(copied(iter(loader)), rest)
            assert_same(copied(iter(unused))[1:], rest)
            with make(photos, 6, engine=engine) as fresh:
                assert_same(copied(iter(fresh))[1:], rest)
            loader.close()

        assert forked(go_on) == 0
        assert_same(copied(iterator), rest)


def test_torch_computes_in_a_forked_process_with_all_its_threads(photos: ShardSet) -> None:
    """As in `Batch.normalized`."""
    with make(photos, 32) as loader:
        expected = [view.clone() for view in next(iter(loader)).normalized()]
        loader.epoch = 0

        def compute() -> None:
            with make(photos, 32) as own:
                views = next(iter(own)).normalized()
            assert all(torch.equal(view, other) for view, other in zip(views, expected, strict=True))
            assert torch.get_num_threads() == 2
            torch.rand(64, 256, 256).sigmoid()
            assert in_fork(lambda: torch.rand(64, 256, 256).sigmoid()) == 0  # and in its own children

        assert in_fork(compute) == 0
        assert torch.get_num_threads() == 2


def test_a_fork_waits_for_a_kernel_that_is_being_compiled() -> None:
    """Else nobody would give back numba's lock in the child."""
    held = threading.Event()

    def compile_long() -> None:
        with global_compiler_lock:
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=compile_long)
    thread.start()
    held.wait()
    started = time.monotonic()
    assert in_fork(lambda: numba.njit(lambda x: x + 1)(1)) == 0
    assert time.monotonic() - started > 0.3
    thread.join()
    numba.njit(lambda x: x + 2)(1)  # nor is it kept in the parent


@pytest.mark.parametrize("forked", [in_fork, in_process])
def test_a_set_of_the_parent_is_read_while_its_threads_hold_locks(
    forked: Callable[[Callable[[], object]], int | None], digits_webdataset: ShardSet
) -> None:
    expected = digits_webdataset.ints("label").copy()
    shards: ShardSet = pickle.loads(pickle.dumps(digits_webdataset))  # with nothing looked up yet

    def read() -> None:
        assert np.array_equal(shards.ints("label"), expected)
        assert shards.read(3)["label"] == expected[3]
        assert len(shards.spans("image", [1, 2]).address) == 2

    with shards, shards._lock:
        assert forked(read) == 0


class Labels(torch.utils.data.Dataset):
    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, item: int) -> int:
        return int(self.shards.read(item)["label"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_set_in_workers_of_a_dataloader(method: str, digits_webdataset: ShardSet) -> None:
    expected = digits_webdataset.ints("label").tolist()
    workers = torch.utils.data.DataLoader(
        Labels(digits_webdataset), batch_size=50, num_workers=2, multiprocessing_context=method, timeout=PATIENCE_S
    )
    assert torch.cat(list(workers)).tolist() == expected


class InWorkers(torch.utils.data.Dataset):
    """Whose items are whole epochs: how many batches they have, or what is said instead."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> int | str:
        try:
            return len(list(self.loader))
        except RuntimeError as error:
            return str(error)


@pytest.mark.parametrize("used", [False, True])
def test_workers_of_a_dataloader_are_refused(used: bool, digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset) as loader:
        if used:
            list(loader)
        in_workers = torch.utils.data.DataLoader(
            InWorkers(loader), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=PATIENCE_S
        )
        for said in in_workers:
            assert re.fullmatch(r"a Loader has threads of its own.*iterate the Loader itself", said)
        assert list(torch.utils.data.DataLoader(InWorkers(loader), batch_size=None)) == [6, 6]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loader_is_not_handed_to_spawned_workers(engine: str, photos: ShardSet) -> None:
    with make(photos, 6, engine=engine) as loader:
        spawned = torch.utils.data.DataLoader(
            InWorkers(loader), batch_size=None, num_workers=2, multiprocessing_context="spawn"
        )
        with pytest.raises(TypeError, match=r"a Loader does not pickle.*iterate the Loader itself"):
            iter(spawned)
