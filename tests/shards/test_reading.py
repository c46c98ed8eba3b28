"""Files that are read: what a disk cannot read is an error with an offset, and so is a file that is cut short."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from headrace.shards import ShardError, reading
from headrace.shards.errors import MachineError
from headrace.shards.reading import PAGE, ReadFile, chunks, is_of_the_medium, is_unread, joined


@pytest.fixture
def bad_sectors(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, range], None]:
    """Lets reads of a range of a file fail from there on, as a disk's do."""
    real, bad = os.pread, {}

    def pread(descriptor: int, size: int, at: int) -> bytes:
        places = bad.get(os.fstat(descriptor).st_ino, range(0))
        if at in places:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if at < places.start:
            size = min(size, places.start - at)
        return real(descriptor, size, at)

    monkeypatch.setattr(os, "pread", pread)
    return lambda path, places: bad.update({path.stat().st_ino: places})


def write(path: Path, size: int) -> bytes:
    content = np.random.Generator(np.random.Philox(1)).bytes(size)
    path.write_bytes(content)
    return content


def test_slices_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write(tmp_path / "a", 10_000)
    monkeypatch.setattr(reading, "LONGEST", 700)
    file = ReadFile(tmp_path / "a")
    assert file.size == 10_000
    for part in (
        slice(0, 10_000),
        slice(5000, 6500),
        slice(9_990, 20_000),
        slice(7, 7),
        slice(8, 7),
        slice(9000, None),
    ):
        assert file.array[part].tobytes() == content[part]


def test_more_files_than_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that push each other's descriptors out."""
    monkeypatch.setattr(reading, "MOST_OPEN", 2)
    contents = [write(tmp_path / str(i), 100 + i) for i in range(30)]
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    files = [ReadFile(tmp_path / str(i)) for i in range(30)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert list(pool.map(lambda file: file.array[:].tobytes(), files)) == contents
    if before is not None:
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    for file in files:
        file.close()


def test_errors_have_a_place(tmp_path: Path, bad_sectors: Callable[[Path, range], None]) -> None:
    content = write(tmp_path / "a", 1 << 20)
    bad = range(300_000, 310_000)
    bad_sectors(tmp_path / "a", bad)
    file = ReadFile(tmp_path / "a")
    with pytest.raises(MachineError, match=r"a, offset 300000: Input/output error") as caught:
        file.array[:]
    assert is_unread(caught.value)
    assert is_of_the_medium(caught.value)
    found = list(chunks(file))
    assert [place.start for place, _ in found[1:]] == [place.stop for place, _ in found[:-1]]
    lost = joined(place for place, part in found if isinstance(part, MachineError))
    assert lost == [range(bad.start // PAGE * PAGE, -(-bad.stop // PAGE) * PAGE)]
    for place, part in found:
        assert isinstance(part, MachineError) or part.tobytes() == content[place.start : place.stop]


def test_pages_are_not_tried_for_ever(
    tmp_path: Path, bad_sectors: Callable[[Path, range], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 3 << 20)
    bad_sectors(tmp_path / "a", range(3 << 20))
    monkeypatch.setattr(reading, "MOST_PAGES", 64)
    found = list(chunks(ReadFile(tmp_path / "a")))
    assert len(found) == 64 + 11
    assert joined(place for place, _ in found) == [range(3 << 20)]


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "a", 10_000)
    file = ReadFile(tmp_path / "a")
    os.truncate(tmp_path / "a", 5_000)
    with pytest.raises(ShardError, match=r"a, offset 5000: the file was cut short") as caught:
        file.array[:]
    assert not is_unread(caught.value)


def test_missing_is_not_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShardError, match="b: No such file") as caught:
        ReadFile(tmp_path / "b")
    assert not is_unread(caught.value)
    (tmp_path / "b").touch()
    with pytest.raises(ShardError, match="b: the file is empty") as caught:
        ReadFile(tmp_path / "b")
    assert not is_unread(caught.value)

    def refuse(*_: object) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MachineError, match="b: Permission denied") as caught:
        ReadFile(tmp_path / "b")
    assert is_unread(caught.value)
    assert not is_of_the_medium(caught.value)
