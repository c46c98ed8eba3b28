"""A sample is left out for what is wrong with its bytes; what is wrong with the machine ends a conversion, which then
goes on where it stopped and ends with the bytes of one that nothing happened to."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.shards import Field, ShardError, ShardSet, open_shards
from headrace.shards.errors import MachineError
from headrace.tools.conversion import faults, units, workers
from headrace.tools.conversion.convert import ConvertResult, convert
from headrace.tools.conversion.encode import EncodeSettings
from headrace.tools.conversion.units import Job, Reject, SourceFault
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData, shards
from tests.failing_disk import FailingDisk

COUNT = 60
SHARD_SIZE = 1 << 14


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PAUSES_S", (0.01, 0.01))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures, each another one."""
    folder = tmp_path_factory.mktemp("disk") / "mount"
    folder.mkdir()
    for i in range(COUNT):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (4 * i, 255 - 4 * i, 99)).save(stream, "JPEG")
        (folder / f"{i:03d}.jpg").write_bytes(stream.getvalue())
    return folder


@pytest.fixture
def links(target: Path, tmp_path: Path) -> Path:
    """A tree of links to them."""
    tree = tmp_path / "photos"
    for i in range(COUNT):
        link = tree / f"class-{i % 2}" / f"{i:03d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target / link.name)
    return tree


@pytest.fixture(scope="module")
def whole(target: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a conversion that nothing happens to gives."""
    folder = tmp_path_factory.mktemp("whole")
    tree = folder / "photos"
    for i in range(COUNT):
        link = tree / f"class-{i % 2}" / f"{i:03d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target / link.name)
    small(tree, folder / "set")
    return content(folder / "set")


def small(tree: Path, out: Path, workers: int = 1, **settings: Any) -> ConvertResult:
    return convert("folder", tree, out, shard_size=SHARD_SIZE, workers=workers, **settings)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def before_unit(unit: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Something happens when a unit is begun."""

    def acting(job: Job, depot: Any, number: int, *rest: Any, work: Any = workers.work) -> object:
        if number == unit:
            act()
        return work(job, depot, number, *rest)

    monkeypatch.setattr(workers, "work", acting)


def test_a_target_that_is_away_from_the_start(
    target: Path, links: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    away = target.with_name("away")
    target.rename(away)
    try:
        with pytest.raises(MachineError, match=r"class-.*\.jpg: No such file or directory"):
            small(links, tmp_path / "set")
    finally:
        away.rename(target)
    assert small(links, tmp_path / "set").rejects == 0
    assert content(tmp_path / "set") == whole


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("empty", [False, True], ids=["gone", "empty"])
def test_a_target_that_goes_away_and_comes_back(
    target: Path,
    links: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    empty: bool,
) -> None:
    """As a mount does, of which an empty folder stays."""
    out = tmp_path / "set"
    away = target.with_name("away")

    def unmount() -> None:
        target.rename(away)
        if empty:
            target.mkdir()

    with monkeypatch.context() as patch:
        before_unit(2, unmount, patch)
        with pytest.raises(MachineError) as caught:
            small(links, out, number)
    assert "No such file or directory; " in str(caught.value)
    assert f"kept in {tmp_path / '.set.partial'}, and the same command goes on from there" in str(caught.value)
    if empty:
        target.rmdir()
    away.rename(target)
    assert not out.exists()
    result = small(links, out, number)
    assert result.rejects == 0
    assert 0 < result.resumed < COUNT
    assert content(out) == whole


FAILING = """
import sys
from headrace.shards import ShardError
from headrace.tools.conversion import faults
from headrace.tools.conversion.convert import convert
faults.PAUSES_S = (0.01, 0.01)
src, out, number = sys.argv[1:]
for _ in range(50):
    try:
        result = convert("folder", src, out, shard_size=1 << 14, workers=int(number))
    except ShardError as error:
        print(error)
    else:
        print(result.samples, result.rejects)
        break
"""


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_server_that_is_started_anew(
    failing_disk: FailingDisk, target: Path, links: Path, whole: dict[str, bytes], tmp_path: Path, number: int
) -> None:
    """40 reads in a row are answered with ESTALE, which ends the conversion again and again, until they are not."""
    failing_disk.fail("open", f"{links}/*.jpg", errno.ESTALE, times=40, after=70)
    command = [sys.executable, "-c", FAILING, links, tmp_path / "set", str(number)]
    *refused, done = failing_disk.run(command, check=True).stdout.splitlines()
    assert done == f"{COUNT} 0"
    assert len(refused) > 5
    assert all("Stale file handle" in line for line in refused), refused
    assert content(tmp_path / "set") == whole


def test_a_short_fault_is_waited_for(
    links: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit is done again, and its samples are not counted twice."""
    left = multiprocessing.Value("i", 2)  # for all processes
    load = units.load
    sample = int(units.stored_order(0, COUNT)[30])

    def failing(data: SourceData, i: int, settings: EncodeSettings) -> units.Sample:
        if i == sample and left.value:
            left.value -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return load(data, i, settings)

    monkeypatch.setattr(units, "load", failing)
    monkeypatch.setattr(units, "ESTIMATED", 1)  # the plan looks at another one
    done: list[int] = []
    assert small(links, tmp_path / "set", progress=done.append).rejects == 0
    assert done[-1] == COUNT
    assert left.value == 0
    assert content(tmp_path / "set") == whole


def test_what_could_not_be_opened_is_read_anew(
    target: Path, links: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one file is away, so that it is left out; but nobody knows whether it stays away."""
    out = tmp_path / "set"
    file, away = target / "007.jpg", target / "elsewhere"
    with monkeypatch.context() as patch:
        before_unit(0, lambda: file.rename(away), patch)
        with pytest.raises(UserError) as caught:
            small(links, out, max_rejects=0.0)
    assert "1 of 60 samples cannot be used" in str(caught.value)
    assert "; 1 of them may be readable later, and the same command tries them again; --max-rejects" in str(
        caught.value
    )
    (line,) = (tmp_path / "set.rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["passing"] is True
    away.rename(file)
    result = small(links, out, max_rejects=0.0)
    assert result.rejects == 0
    assert content(out) == whole
    assert sorted(os.listdir(tmp_path)) == ["photos", "set"], "the reasons of the run before are not true any more"


def test_below_the_limit_the_set_is_made_and_says_so(
    target: Path, links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, away = target / "007.jpg", target / "elsewhere"
    before_unit(0, lambda: file.rename(away), monkeypatch)
    try:
        assert small(links, tmp_path / "set", 2).rejects == 1
    finally:
        away.rename(file)
    reject = json.loads((tmp_path / "set" / "rejects.jsonl").read_text(encoding="utf-8"))
    assert (reject["key"], reject["passing"]) == ("class-1/007", True)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def source(load: Callable[[int], Any]) -> SourceData:
    return SourceData(
        fields={"image": Field(kind="image", encoding="mixed")},
        total=1,
        key=str,
        origin=lambda i: f"place {i}",
        fingerprint="",
        load=load,
    )


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        *map(system, (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM, errno.ETIMEDOUT)),
        MemoryError(),
        MachineError("the store does not answer"),
        caused(BadSample("cannot be read"), system(errno.EIO)),
        caused(ShardError("the cache cannot be written"), system(errno.ENOSPC)),
        FileNotFoundError(errno.ENOENT, "No such file", "/not/there/1.jpg"),
        PermissionError(errno.EACCES, "Permission denied", "/not/there/1.jpg"),
    ],
    ids=repr,
)
def test_faults_of_the_machine(error: BaseException, tmp_path: Path) -> None:
    def load(i: int) -> Any:
        raise error

    with pytest.raises(SourceFault, match=r"^place 0: \S"):
        units.attempt(source(load), EncodeSettings(), str(tmp_path), 0)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (BadSample("damaged"), False),
        (ValueError("does not decode"), False),
        (ShardError("differs from its checksum"), False),
        (OSError("image file is truncated"), False),
        (FileNotFoundError(errno.ENOENT, "No such file", "{}/1.jpg"), True),
        (PermissionError(errno.EACCES, "Permission denied", "{}/1.jpg"), True),
    ],
    ids=repr,
)
def test_faults_of_samples(error: Exception, passing: bool, tmp_path: Path) -> None:
    (tmp_path / "another.jpg").touch()
    if isinstance(error, OSError) and error.filename:
        error.filename = str(tmp_path / "1.jpg")

    def load(i: int) -> Any:
        raise error

    found = units.attempt(source(load), EncodeSettings(), str(tmp_path), 0)
    assert isinstance(found, Reject)
    assert found.passing is passing


@pytest.mark.peer("av")
def test_ffmpeg_numbers_say_nothing_of_the_machine(tmp_path: Path) -> None:
    import av

    def load(i: int) -> Any:
        raise ValueError("does not decode") from av.error.OSError(errno.EIO, "Input/output error")

    assert isinstance(units.attempt(source(load), EncodeSettings(), str(tmp_path), 0), Reject)


def test_a_key_that_appears_twice_is_said_before_the_work(
    links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    read = SOURCES["folder"]

    def repeating(src: Path, split: str) -> SourceData:
        data = read(src, split)
        return replace(data, key=lambda i: data.key(min(i, COUNT - 2)))

    monkeypatch.setitem(SOURCES, "folder", repeating)
    monkeypatch.setattr(units, "KEYS_AT_ONCE", 7)
    with pytest.raises(UserError, match=r"key class-1/057: appears twice, for .*057\.jpg and for .*059\.jpg"):
        small(links, tmp_path / "set")
    assert os.listdir(tmp_path) == ["photos"]


def test_a_closed_set_is_no_reason_to_leave_samples_out(
    photos: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SOURCES["shards"]

    def closing(src: Path, split: str | None) -> SourceData:
        with monkeypatch.context() as patch:
            opened: list[ShardSet] = []
            patch.setattr(shards, "open_shards", lambda path: opened.append(open_shards(path)) or opened[0])
            data = read(src, split)
        opened[0].close()
        return data

    monkeypatch.setitem(SOURCES, "shards", closing)
    with pytest.raises(MachineError, match="the set is closed"):
        convert("shards", photos.path, tmp_path / "set")
    assert not (tmp_path / "set").exists()
