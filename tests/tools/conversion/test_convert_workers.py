"""Workers that die: the unit is done again, and what kills them twice is left out, with the reason."""

from __future__ import annotations

import faulthandler
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.shards import open_shards
from headrace.tools.conversion import pool, units, workers
from headrace.tools.conversion.convert import ConvertResult, convert
from headrace.tools.conversion.encode import EncodeSettings
from headrace.tools.errors import UserError
from headrace.tools.sources import SourceData

COUNT = 60
SHARD_SIZE = 1 << 14

pytestmark = pytest.mark.skipif(
    not pool.FORKS, reason="what is patched here is not patched in a process that is spawned"
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(COUNT):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (4 * i, 255 - 4 * i, 99)).save(stream, "JPEG")
        (folder / f"{i:03d}.jpg").write_bytes(stream.getvalue())
    return folder


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "set"
    small(pictures, out)
    return content(out)


def small(pictures: Path, out: Path, workers: int = 2, **settings: Any) -> ConvertResult:
    return convert("folder", pictures, out, **{"shard_size": SHARD_SIZE, "workers": workers, **settings})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def keys(path: Path) -> list[str]:
    with open_shards(path) as shards:
        return [shards.key(i) for i in range(len(shards))]


def dying(monkeypatch: pytest.MonkeyPatch, sample: int, how: signal.Signals, times: int) -> None:
    """The first processes that read a sample die of it."""
    here, load = os.getpid(), units.load
    left = multiprocessing.get_context("fork").Value("i", times)

    def deadly(data: SourceData, i: int, settings: EncodeSettings) -> units.Sample:
        if i == sample and os.getpid() != here and left.value > 0:
            left.value -= 1
            faulthandler.disable()
            os.kill(os.getpid(), how)
        return load(data, i, settings)

    monkeypatch.setattr(units, "load", deadly)


@pytest.mark.parametrize(("number", "shard_size"), [(1, SHARD_SIZE), (2, SHARD_SIZE), (2, 1 << 20)])
def test_a_sample_of_which_processes_die_is_left_out(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, shard_size: int
) -> None:
    """Also where one shard is made by a process with several threads."""
    dying(monkeypatch, 33, signal.SIGSEGV, 1 << 20)
    done: list[int] = []
    result = small(pictures, tmp_path / "set", number, shard_size=shard_size, progress=done.append)
    assert (result.samples, result.rejects) == (COUNT - 1, 1)
    assert done[-1] == COUNT
    reject = json.loads((tmp_path / "set" / "rejects.jsonl").read_text(encoding="utf-8"))
    assert reject["key"] == "033"
    assert reject["reason"] == "the process that read it died (SIGSEGV), twice"
    assert sorted(keys(tmp_path / "set")) == [f"{i:03d}" for i in range(COUNT) if i != 33]


@pytest.mark.parametrize("number", [1, 4])
def test_the_samples_that_the_plan_looks_at_may_kill(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """All of a small set are looked at."""
    assert COUNT < units.ESTIMATED
    dying(monkeypatch, 0, signal.SIGABRT, 1 << 20)
    assert small(pictures, tmp_path / "set", number).rejects == 1


def test_a_process_that_dies_once_changes_nothing(
    pictures: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, 33, signal.SIGKILL, 1)
    assert small(pictures, tmp_path / "set").rejects == 0
    assert content(tmp_path / "set") == whole


def test_what_memory_did_not_suffice_for_is_tried_anew(
    pictures: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dying(patch, 33, signal.SIGKILL, 1 << 20)
        with pytest.raises(UserError, match=r"died \(SIGKILL, .* memory: try fewer --workers\), twice"):
            small(pictures, tmp_path / "set", max_rejects=0.0)
    assert small(pictures, tmp_path / "set", max_rejects=0.0).rejects == 0
    assert content(tmp_path / "set") == whole


def ending(monkeypatch: pytest.MonkeyPatch, how: Callable[[], object]) -> None:
    """Processes die between the samples of a unit and its record."""
    convert_unit = workers.convert_unit

    def deadly(job: Any, unit: int, *rest: Any) -> units.UnitRecord:
        record = convert_unit(job, unit, *rest)
        if unit == 1:
            how()
        return record

    monkeypatch.setattr(workers, "convert_unit", deadly)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"SIGKILL, perhaps for want of memory"),
        (lambda: os._exit(7), "exit code 7"),
    ],
)
def test_deaths_that_no_sample_explains_end_it(
    pictures: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Callable[[], object],
    message: str,
) -> None:
    with monkeypatch.context() as patch:
        ending(patch, how)
        with pytest.raises(UserError) as caught:
            small(pictures, tmp_path / "set")
    text = str(caught.value)
    assert "3 worker processes died, one after the other, at unit 1 of " in text
    assert f"(samples {pictures}/0" in text
    assert message in text
    assert not (tmp_path / "set").exists()
    small(pictures, tmp_path / "set")
    assert content(tmp_path / "set") == whole


def test_a_bus_error_is_the_disk_s(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is how a map tells that the file under it cannot be read."""
    monkeypatch.setattr(units, "ESTIMATED", 4)
    dying(monkeypatch, 33, signal.SIGBUS, 1 << 20)
    with pytest.raises(UserError, match=r"at last at .*033\.jpg; SIGBUS: .* look at the disk"):
        small(pictures, tmp_path / "set")


@pytest.mark.parametrize(
    ("spared", "message"),
    [
        ([], r"\d{3}\.jpg: processes that read samples die, the last of SIGILL"),
        (
            [0],
            r"\d{3}\.jpg: the process that read it died \(SIGILL\), twice, as at 2 others before: this machine cannot",
        ),
    ],
    ids=["plan", "units"],
)
def test_a_machine_that_can_read_nothing_is_not_tried_for_ever(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spared: list[int], message: str
) -> None:
    here, load = os.getpid(), units.load
    spared = units.stored_order(0, COUNT)[spared].tolist()  # of those that the plan looks at

    def deadly(data: SourceData, i: int, settings: EncodeSettings) -> units.Sample:
        if os.getpid() != here and i not in spared:
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGILL)
        return load(data, i, settings)

    monkeypatch.setattr(units, "load", deadly)
    monkeypatch.setattr(units, "ESTIMATED", 1)
    monkeypatch.setattr(workers, "MAX_LOST", 2)
    if not spared:
        monkeypatch.setattr(units, "ESTIMATED", 10)
    with pytest.raises(UserError, match=message):
        small(pictures, tmp_path / "set", max_rejects=1.0)


def test_errors_of_workers_arrive_with_their_trace() -> None:
    class Odd(Exception):
        def __init__(self, one: int, other: int) -> None:
            super().__init__("odd")

    try:
        raise UserError("cannot")
    except UserError as error:
        sent = pool.sendable(error)
    assert type(sent) is UserError
    assert "test_errors_of_workers" in sent.__notes__[0]
    assert str(pool.sendable(Odd(1, 2))) == "Odd: odd"
