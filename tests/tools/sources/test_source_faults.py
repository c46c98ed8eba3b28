"""A disk that fails is told from an archive that is damaged, when a source is listed and when samples are read."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.shards.errors import MachineError, is_machine_fault
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData
from headrace.tools.sources.rar import RarArchive
from tests import rars
from tests.conftest import require_program
from tests.failing_disk import FailingDisk

pytestmark = [pytest.mark.peer("av"), pytest.mark.peer("rarfile")]


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3)).save(stream, "PNG")
    return stream.getvalue()


def tarred(files: dict[str, bytes], mode: Any = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def annotations() -> dict[str, bytes]:
    images = [{"id": 9, "file_name": "000000000009.jpg", "width": 4, "height": 3}]
    captions = [{"id": 1, "image_id": 9, "caption": "a cat"}]
    return {
        f"annotations/{kind}_train2017.json": json.dumps(
            {"images": images, "annotations": entries, "categories": []}
        ).encode()
        for kind, entries in (("captions", captions), ("instances", []))
    }


CSV = b"label,youtube_id,time_start,time_end,split\nsinging,abc,1,11,train\n"
VIDEO = {"abc_000001_000011.mp4": os.urandom(5000)}
IMAGENET = {"n00000001.tar": tarred({"n00000001_1.JPEG": png()})}

SETS: dict[str, tuple[str, dict[str, bytes], str]] = {
    "zip of pictures": (
        "coco",
        {"train2017.zip": zipped({"train2017/000000000009.jpg": png()}), **annotations()},
        "*.zip",
    ),
    "zip of lists": (
        "coco",
        {"annotations_trainval2017.zip": zipped(annotations()), "train2017/000000000009.jpg": png()},
        "*.zip",
    ),
    "list": ("coco", {"train2017/000000000009.jpg": png(), **annotations()}, "*.json"),
    "tar of tars": ("imagenet", {"ILSVRC2012_img_train.tar": tarred(IMAGENET)}, "*.tar"),
    "kit": (
        "imagenet",
        {"ILSVRC2012_img_train.tar": tarred(IMAGENET), "ILSVRC2012_devkit_t12.tar.gz": tarred({"x": b""}, "w:gz")},
        "*.gz",
    ),
    "batches": ("cifar10", {"cifar-10-binary.tar.gz": tarred({"data_batch_1.bin": b""}, "w:gz")}, "*.gz"),
    "batch": ("cifar10", {f"data_batch_{i}.bin": bytes(3073) for i in range(1, 6)}, "*_3.bin"),
    "csv": ("video", {"train.csv": CSV, **VIDEO}, "*.csv"),
    "tar": ("video", {"train.csv": CSV, "v.tar": tarred(VIDEO)}, "*.tar"),
    "tar.gz": ("video", {"train.csv": CSV, "v.tar.gz": tarred(VIDEO, "w:gz")}, "*.gz"),
    "zip": ("video", {"train.csv": CSV, "v.zip": zipped(VIDEO)}, "*.zip"),
    "rar": ("video", {"train.csv": CSV, "v.rar": rars.rar5(VIDEO)}, "*.rar"),
}
"""Source, files, and the pattern of those on the part of the disk that fails."""

OPEN_ALL = """
import json, sys
from pathlib import Path
from headrace.tools.sources import SOURCES
for name, source in json.loads(sys.argv[2]).items():
    try:
        SOURCES[source](Path(sys.argv[1]) / name, None)
        print(json.dumps([name, "opened", ""]))
    except Exception as error:
        print(json.dumps([name, type(error).__name__, str(error)]))
"""


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_disk_that_fails_while_archives_are_listed(failing_disk: FailingDisk, tmp_path: Path) -> None:
    for name, (_, files, pattern) in SETS.items():
        write(tmp_path / name, files)
        failing_disk.fail("read", f"{tmp_path}/{name}/{pattern}", errno.EIO)
    sources = json.dumps({name: source for name, (source, _, _) in SETS.items()})
    done = failing_disk.run([sys.executable, "-c", OPEN_ALL, tmp_path, sources])
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        name, kind, text = json.loads(line)
        assert (name, kind) == (name, "MachineError"), text
        assert f"{tmp_path}/{name}/" in text
        assert "Input/output error" in text
        assert "download it again" not in text
    assert len(done.stdout.splitlines()) == len(SETS)


def fail_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(*_: object) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "pread", pread)


@pytest.mark.parametrize("name", ["zip of pictures", "tar of tars", "tar", "tar.gz", "zip"])
def test_a_disk_that_fails_while_samples_are_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, files, _ = SETS[name]
    data: SourceData = SOURCES[source](write(tmp_path, files), None)
    fail_reads(monkeypatch)
    with pytest.raises(OSError, match="Stale file handle") as caught:
        data.load(0)
    assert is_machine_fault(caught.value)
    monkeypatch.undo()
    if source == "video":  # which is no video, but was read
        with pytest.raises(BadSample, match="no video file"):
            data.load(0)
    else:
        assert data.load(0)["image"] == png()


def compressed_rar(folder: Path) -> Path:
    path = folder / "a.rar"
    path.write_bytes(rars.rar5({"a": rars.RAR5}))
    return path


def no_room(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_program(*_: object, **__: object) -> Any:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "bsdtar")


@pytest.mark.parametrize(("what", "fails"), [("NamedTemporaryFile", no_room), ("Popen", no_program)])
def test_a_rar_that_cannot_be_unpacked_here(
    what: str, fails: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_program("bsdtar")
    archive = RarArchive(compressed_rar(tmp_path))
    monkeypatch.setattr(f"headrace.tools.sources.rar.{what}", fails)
    with pytest.raises(MachineError, match=r"a\.rar, offset \d+, a: cannot be unpacked here"):
        archive.read("a", 1 << 20)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [(signal.SIGKILL, MachineError), (signal.SIGSEGV, BadSample), (signal.SIGTERM, MachineError)],
)
def test_a_program_that_is_ended(
    ending: signal.Signals, expected: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of memory, which says nothing about the file; a crash of its own may well be the file's doing."""
    require_program("bsdtar")
    archive = RarArchive(compressed_rar(tmp_path))
    program = tmp_path / "unpack"
    program.write_text(f"#!/bin/sh\nkill -{ending.value} $$\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    archive._programs = [(str(program),)]
    with pytest.raises(expected):
        archive.read("a", 1 << 20)


def test_a_solid_rar_on_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What unpacks it only says that it failed."""
    first, second = rars.RAR5_SOLID
    (tmp_path / "a.rar").write_bytes(rars.rar5({"a": first, "b": second}, solid=True))
    program = tmp_path / "unpack"
    program.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("headrace.tools.sources.rar.PROGRAMS", ((str(program),),))
    with pytest.raises(UserError, match="cannot unpack it: it is damaged, or takes another program"):
        RarArchive(tmp_path / "a.rar")

    class Unreadable(io.FileIO):
        def read(self, size: int | None = -1) -> Any:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("headrace.tools.sources.rar.open", lambda path, *_, **__: Unreadable(path), raising=False)
    with pytest.raises(MachineError, match=r"a\.rar: cannot be unpacked \(Input/output error\)"):
        RarArchive(tmp_path / "a.rar")


@pytest.mark.parametrize("name", ["zip of pictures", "tar of tars", "tar", "tar.gz", "zip", "rar"])
def test_an_archive_that_is_fetched_again_is_another(name: str, tmp_path: Path) -> None:
    """Its samples cannot be compared one by one."""
    source, files, pattern = SETS[name]
    write(tmp_path, files)
    before = SOURCES[source](tmp_path, None).fingerprint
    assert SOURCES[source](tmp_path, None).fingerprint == before
    for path in tmp_path.glob(pattern):
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert SOURCES[source](tmp_path, None).fingerprint != before
