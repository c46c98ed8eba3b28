"""verify and repair on a disk that fails: nothing is called right that was not read, and nothing is lost that was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.shards.errors import MachineError
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.upkeep.compare import compare
from headrace.tools.upkeep.repair import repair
from headrace.tools.upkeep.repair_plan import plan_repair
from headrace.tools.upkeep.verify import verify
from tests.failing_disk import FailingDisk
from tests.shards.test_reading import bad_sectors  # noqa: F401  a fixture

BadSectors = Callable[[Path, range], None]
FORMATS = ("webdataset", "ffcv")


@pytest.fixture(scope="module", params=FORMATS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, photos: ShardSet) -> Path:
    path = tmp_path_factory.mktemp("whole") / request.param
    some = [{"__key__": f"{i:02d}", "image": photos.read(i)["image"], "label": i} for i in range(24)]
    fields = {"image": Field(kind="image", encoding="jpg"), "label": Field(kind="int")}
    write_shards(path, some, fields, format=request.param, shard_size=1 << 20 if request.param != "ffcv" else 1)
    return path


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def shard(path: Path, number: int) -> Path:
    return next(path.glob(f"shard-{number:06d}.[tb]*"))


def index(path: Path, number: int) -> Path:
    return path / f"shard-{number:06d}.index.npy"


def place(path: Path, number: int, row: int) -> tuple[str, range]:
    """Key and place of a picture."""
    record = np.load(index(path, number))[row]
    start = int(record["image.offset"])
    return record["key"].decode(), range(start, start + int(record["image.size"]))


def spoil(path: Path, number: int, row: int) -> None:
    _, of_picture = place(path, number, row)
    with open(shard(path, number), "r+b") as file:
        file.seek(of_picture.start + 1000)
        file.write(b"damaged!")


def headrace(disk: FailingDisk, *arguments: object) -> CompletedProcess[str]:
    program = "import sys; from headrace.tools.cli import main; sys.exit(main())"
    return disk.run([sys.executable, "-c", program, *map(str, arguments)])


def test_no_shard_is_mapped(copied: Path, failing_disk: FailingDisk, tmp_path: Path) -> None:
    """A map of a disk that fails ends the process."""
    failing_disk.fail("map", f"{tmp_path}/*", errno.EIO)
    done = headrace(failing_disk, "verify", copied)
    assert (done.returncode, done.stderr) == (0, "")
    assert headrace(failing_disk, "verify", copied, copied).stdout == "the same 24 samples\n"
    spoil(copied, 0, 1)
    index(copied, 1).unlink()
    done = headrace(failing_disk, "verify", copied, "--repair")
    assert done.returncode == 0, done.stderr
    assert "1 removed" in done.stdout
    for file in copied.glob("*.npy"):
        file.unlink()
    (copied / "manifest.json").unlink()
    assert headrace(failing_disk, "verify", copied).returncode == 0, "without a manifest"


@pytest.mark.parametrize("whole", ["webdataset"], indirect=True)
@pytest.mark.parametrize(
    ("operation", "code", "of"),
    [
        ("read", errno.EIO, "shard-000001.tar"),
        ("read", errno.ESTALE, "shard-000001.index.npy"),
        ("open", errno.EACCES, "shard-000001.tar"),
        ("open", errno.ESTALE, "manifest.json"),
    ],
)
def test_what_cannot_be_read_is_neither_right_nor_damaged(
    operation: Any, code: int, of: str, copied: Path, failing_disk: FailingDisk
) -> None:
    failing_disk.fail(operation, f"*/set/{of}", code)
    done = headrace(failing_disk, "verify", copied, "--fast")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "nothing else is wrong" in done.stdout
    assert os.strerror(code) in done.stdout
    spoil(copied, 0, 1)
    done = headrace(failing_disk, "verify", copied)
    assert done.returncode == (3 if of == "manifest.json" else 1)
    assert os.strerror(code) in done.stdout


@pytest.mark.parametrize("whole", ["webdataset"], indirect=True)
def test_a_set_that_may_not_be_looked_at(copied: Path, failing_disk: FailingDisk) -> None:
    failing_disk.fail("stat", "*/set/manifest.json", errno.ESTALE)
    done = headrace(failing_disk, "verify", copied)
    assert done.returncode == 3
    assert os.strerror(errno.ESTALE) in done.stdout


def test_sectors_that_cannot_be_read_are_named_with_their_samples(
    copied: Path,
    bad_sectors: BadSectors,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    key, of_picture = place(copied, 1, 2)
    middle = (of_picture.start + of_picture.stop) // 2
    bad_sectors(shard(copied, 1), range(middle, middle + 1))
    report = verify(copied)
    assert (report.ok, report.unread) == (False, True)
    assert [(finding.shard, finding.row) for finding in report.findings] == [
        (shard(copied, 1).name, None),
        (shard(copied, 1).name, 2),
    ]
    page = middle // 4096 * 4096
    assert report.problems[0] == (
        f"{shard(copied, 1)}: bytes {page} to {page + 4095} cannot be read (Input/output error)"
    )
    assert f"key {key}: cannot be read" in report.problems[1]
    assert f"offset {middle}: Input/output error" in report.problems[1]
    assert main(["verify", str(copied)]) == 3
    assert "cannot be read everywhere, 2 failures; nothing else is wrong" in capsys.readouterr().out


def test_repair_saves_what_can_be_read(
    copied: Path,
    whole: Path,
    bad_sectors: BadSectors,  # noqa: F811
) -> None:
    key, of_picture = place(copied, 1, 2)
    middle = (of_picture.start + of_picture.stop) // 2
    bad_sectors(shard(copied, 1), range(middle, middle + 1))
    damaged = shard(copied, 1).read_bytes()
    report = verify(copied)
    plan = plan_repair(copied, report)
    with pytest.raises(
        UserError, match=r"shard-000001\.\w+ cannot be read, with 1 samples; copy them again, or repair"
    ):
        repair(plan)
    plan = plan_repair(copied, report)
    done = repair(plan, drop_missing=True)
    assert (done.samples, done.removed, done.dropped) == (23, 1, 0)
    assert verify(copied).ok
    with open_shards(whole) as old, open_shards(copied) as new:
        assert compare(old, new).differences == [f"key {key}: only in {whole}"]
    kept = Path(done.quarantine)
    lines = [json.loads(line) for line in (kept / "removed.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["files"] == [shard(whole, 1).name, index(whole, 1).name]
    assert (kept / lines[0]["files"][0]).read_bytes() == damaged, "for another try"
    (name,) = (name for name in lines[1]["files"] if name.endswith("jpg"))
    (lost,) = lines[1]["unread"][name]
    content = (kept / name).read_bytes()
    whole_picture = damaged[of_picture.start : of_picture.stop]
    assert lost[0] <= middle - of_picture.start < lost[1]
    assert content[: lost[0]] + content[lost[1] :] == whole_picture[: lost[0]] + whole_picture[lost[1] :]
    assert not any(content[lost[0] : lost[1]])


@pytest.mark.parametrize("whole", ["webdataset"], indirect=True)
def test_repair_saves_what_can_be_read_without_an_index(
    copied: Path,
    whole: Path,
    bad_sectors: BadSectors,  # noqa: F811
) -> None:
    key, of_picture = place(copied, 1, 2)
    bad_sectors(shard(copied, 1), range(of_picture.start + 700, of_picture.stop - 700))
    index(copied, 1).unlink()
    done = repair(plan_repair(copied, verify(copied)), drop_missing=True)
    assert (done.samples, done.removed) == (23, 1)
    with open_shards(whole) as old, open_shards(copied) as new:
        assert compare(old, new).differences == [f"key {key}: only in {whole}"]


def test_a_machine_that_fails_removes_nothing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is away is no damage, however long it is."""
    spoil(copied, 0, 1)
    report = verify(copied)
    number = shard(copied, 0).stat().st_ino
    real = os.pread

    def pread(descriptor: int, size: int, at: int) -> bytes:
        if os.fstat(descriptor).st_ino == number and at > 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(descriptor, size, at)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(MachineError, match="Stale file handle"):
        plan_repair(copied, report)


def test_an_index_that_could_not_be_checked_is_not_taken_for_damaged(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nothing would prove the other samples of the damaged shard."""
    spoil(copied, 0, 1)
    report = verify(copied)
    number = index(copied, 0).stat().st_ino
    real, failures = os.pread, [errno.ETIMEDOUT]

    def pread(descriptor: int, size: int, at: int) -> bytes:
        if os.fstat(descriptor).st_ino == number and failures:
            raise OSError(failures.pop(), "a moment")
        return real(descriptor, size, at)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(MachineError, match="a moment"):
        plan_repair(copied, report)
    assert plan_repair(copied, report).removed == 1


def test_what_fails_once_is_read_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(copied, 0, 1)
    report = verify(copied)
    number, (_, of_picture) = shard(copied, 0).stat().st_ino, place(copied, 0, 3)
    real, failures = os.pread, [errno.ESTALE]

    def pread(descriptor: int, size: int, at: int) -> bytes:
        if os.fstat(descriptor).st_ino == number and at == of_picture.start and failures:
            raise OSError(failures.pop(), "a moment")
        return real(descriptor, size, at)

    monkeypatch.setattr(os, "pread", pread)
    assert plan_repair(copied, report).removed == 1
    assert not failures


def test_a_shard_that_is_cut_short_meanwhile(copied: Path) -> None:
    """By somebody who copies the set again, say."""

    def cut(done: int) -> None:
        if done:
            os.truncate(shard(copied, 1), 4096)

    report = verify(copied, workers=1, progress=cut)
    assert not report.unread
    assert any("the file was cut short while it was read" in line for line in report.problems), report.problems
    assert verify(copied).findings[0].shard == shard(copied, 1).name


def test_a_repair_that_reads_something_else_than_before(copied: Path) -> None:
    spoil(copied, 0, 1)
    plan = plan_repair(copied, verify(copied))
    spoil(copied, 0, 2)
    with pytest.raises(Exception, match=r"key \d+: reads as something else than a moment ago; nothing was changed"):
        repair(plan)


@pytest.mark.parametrize("whole", ["webdataset"], indirect=True)
def test_compare_knows_what_it_could_not_read(copied: Path, whole: Path, failing_disk: FailingDisk) -> None:
    failing_disk.fail("read", f"{copied}/shard-000001.[tb]*", errno.EIO)
    done = headrace(failing_disk, "verify", whole, copied)
    assert done.returncode == 3, done.stdout
    assert "samples cannot be read" in done.stdout
    assert "0 differences" in done.stdout
