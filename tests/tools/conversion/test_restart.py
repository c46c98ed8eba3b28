"""A conversion that is killed, or runs out of disk, goes on from its whole shards and ends with the same bytes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import ShardError, ShardSet
from headrace.tools.conversion import units as units_module
from headrace.tools.conversion import workers as workers_module
from headrace.tools.conversion.convert import convert
from headrace.tools.conversion.depot import Depot
from headrace.tools.conversion.encode import EncodeSettings
from headrace.tools.conversion.units import Job
from headrace.tools.errors import UserError
from headrace.tools.upkeep.verify import verify

KILLS = 20
SHARD_SIZE = 1 << 17
CONVERT = """
import sys
from headrace.tools.conversion.convert import convert
src, out, workers = sys.argv[1:]
def started(total):
    print("started", flush=True)
convert(
    "folder", src, out, encode="jpeg", max_side=160, shard_size=1 << 17, workers=int(workers), started=started
)
"""


@pytest.fixture(scope="module")
def pictures(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of 180 photographs, so that a conversion takes long enough to be killed in."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(180):
        folder = root / f"class-{i % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{i:03d}.jpg").write_bytes(photos.read(i % len(photos))["image"])
    return root


def small(pictures: Path, out: Path, workers: int = 1) -> None:
    convert("folder", pictures, out, encode="jpeg", max_side=160, shard_size=SHARD_SIZE, workers=workers)


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a conversion that nothing interrupts gives."""
    out = tmp_path_factory.mktemp("whole") / "set"
    small(pictures, out)
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_at_random_moments(pictures: Path, whole: Path, tmp_path: Path) -> None:
    """Each kill comes some time after the conversion has begun to write; the destination is empty until it is whole."""
    out = tmp_path / "set"
    random = np.random.Generator(np.random.Philox(7))
    began = time.monotonic()
    small(pictures, tmp_path / "timed", 2)
    takes_s = time.monotonic() - began
    shutil.rmtree(tmp_path / "timed")
    kept, killed = 0, 0
    command = [sys.executable, "-c", CONVERT, str(pictures), str(out), "2"]
    while killed < KILLS:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        # Some kills come at once, and each some later than the one before, so that all of it is reached.
        time.sleep(random.uniform(0, takes_s * killed / KILLS))
        # In turn the whole group, as when the machine goes down, and the first process alone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if killed % 2 else process.kill()
        process.communicate()
        if process.returncode == 0:
            assert content(out) == content(whole)
            for path in out.iterdir():
                path.unlink()
            out.rmdir()
            killed += 1
            continue
        assert process.returncode == -signal.SIGKILL
        killed += 1
        assert not out.exists() or content(out) == content(whole)
        kept = max(kept, len(list(tmp_path.glob(".set.partial/units/0*"))))
    assert kept > 0, "no kill came after a whole shard"
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert content(out) == content(whole)
    assert os.listdir(tmp_path) == ["set"]
    assert verify(out).ok


def test_what_is_finished_is_not_done_again(
    pictures: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    done: list[int] = []
    work = workers_module.work

    def three_units(*arguments: object) -> object:
        if len(done) == 3:
            raise UserError("enough")
        done.append(1)
        return work(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(workers_module, "work", three_units)
    with pytest.raises(UserError, match="enough"):
        small(pictures, out)
    monkeypatch.undo()
    units = sorted((tmp_path / ".set.partial" / "units").iterdir())
    before = {unit.name: unit.stat().st_mtime_ns for unit in units}
    assert len(before) == 3
    progress: list[int] = []
    result = convert(
        "folder", pictures, out, encode="jpeg", max_side=160, shard_size=SHARD_SIZE, workers=2, progress=progress.append
    )
    assert 0 < result.resumed < progress[0]
    assert progress[-1] == 180
    assert content(out) == content(whole)


def test_another_job_does_not_throw_away_what_is_finished(
    pictures: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept = tmp_path / "set", tmp_path / ".set.partial"

    def other(restart: bool = False) -> None:
        settings = {"encode": "jpeg", "max_side": 100, "quality": 80, "shard_size": SHARD_SIZE, "workers": 1}
        convert("folder", pictures, out, **settings, restart=restart)  # type: ignore[arg-type]

    for finished in (0, 2):
        monkeypatch.setattr(workers_module, "work", partial(fail_at, finished, work=workers_module.work))
        with pytest.raises(UserError, match=f"unit {finished}"):
            other()
        monkeypatch.undo()
        assert len(list((kept / "units").iterdir())) == finished
        if finished == 0:
            small(pictures, out)  # nothing is lost
            assert content(out) == content(whole)
            shutil.rmtree(out)
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        small(pictures, out)
    assert str(caught.value) == (
        f"{kept}: 2 finished shards are there, made with max side 100 instead of 160, quality 80 instead of 90; go on "
        "as it began, name another OUT, or give --restart, which throws them away"
    )
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
    convert("folder", pictures, out, encode="jpeg", max_side=160, shard_size=SHARD_SIZE, workers=1, restart=True)
    assert content(out) == content(whole)
    assert os.listdir(tmp_path) == ["set"]


def test_other_versions_do_not_go_on(
    pictures: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another version of an encoder makes of a picture may not be put beside what the first one made."""
    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(workers_module, "work", partial(fail_at, 2, work=workers_module.work))
        with pytest.raises(UserError, match="unit 2"):
            small(pictures, out)
    kept = tmp_path / ".set.partial"
    real = units_module.version
    with monkeypatch.context() as patch:
        patch.setattr(units_module, "version", lambda name: "9.9" if name == "simplejpeg" else real(name))
        with pytest.raises(UserError) as caught:
            small(pictures, out)
    assert str(caught.value) == (
        f"{kept}: 2 finished shards are there, made with simplejpeg {real('simplejpeg')} instead of 9.9; go on as it "
        "began, name another OUT, or give --restart, which throws them away"
    )
    job = kept / "job.json"
    now = job.read_text(encoding="utf-8")
    begun = json.loads(now)
    del begun["versions"]["manifest"]  # as one that was begun when manifests had version 1
    job.write_text(json.dumps(begun), encoding="utf-8")
    with pytest.raises(UserError, match=r"made with manifest \(unknown\) instead of 2; go on .* or give --restart"):
        small(pictures, out)
    job.write_text(now, encoding="utf-8")
    assert len(list((kept / "units").iterdir())) == 2
    small(pictures, out)
    assert content(out) == content(whole)


def test_a_worker_of_another_version_makes_nothing(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a node of a cluster may have it."""
    job = units_module.plan_job("folder", str(pictures), "train", EncodeSettings(), 0, SHARD_SIZE, 1)
    heic = {"pillow-heif"} if find_spec("pillow_heif") else set()
    assert set(job.versions) == {"manifest", "headrace", "pillow", "simplejpeg"} | heic
    monkeypatch.setattr(units_module, "version", lambda name: "9.9")
    with pytest.raises(UserError, match=r"has headrace 9\.9 instead of .*: install the same on all nodes"):
        units_module.convert_unit(job, 0, pictures, 1, lambda samples: None)


def fail_at(last: int, job: Job, depot: Depot, unit: int, *rest: Any, work: Callable[..., object]) -> object:
    if unit == last:
        raise UserError(f"unit {unit}")
    return work(job, depot, unit, *rest)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_keeps_what_is_whole(
    pictures: Path, whole: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of more than 100 kB cannot be written; the smaller ones before them can."""
    out = tmp_path / "set"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in whole.glob("*.tar"))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, before[1]))
    try:
        with pytest.raises(ShardError) as caught:
            small(pictures, out, workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(
        r"cannot write the set: File too large; \d+ whole shards are kept in .*the same command goes on", message
    )
    assert not out.exists()
    small(pictures, out, workers)
    assert content(out) == content(whole)


def test_a_shard_too_large_for_the_estimate_is_split(photos: ShardSet, tmp_path: Path) -> None:
    """Where the samples of one place are much larger than those that were looked at, the bound still holds."""
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(600):
        content = photos.read(i % len(photos))["image"] if 500 < i < 530 else TINY
        (root / f"{i:04d}.jpg").write_bytes(content)
    convert("folder", root, tmp_path / "set", seed=None, shard_size=1 << 20, workers=2)
    assert max(path.stat().st_size for path in (tmp_path / "set").glob("*.tar")) <= 1 << 20
    from headrace.shards import open_shards

    with open_shards(tmp_path / "set") as shards:
        assert [shards.key(i) for i in range(len(shards))] == [f"{i:04d}" for i in range(600)]
    assert verify(tmp_path / "set").ok


def _tiny() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    return stream.getvalue()


TINY = _tiny()
