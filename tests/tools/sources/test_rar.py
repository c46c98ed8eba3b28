"""RAR archives as a source of videos: UCF101's official one, and what may be wrong with a .rar."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from test_video_source import listed, refused, ucf_tree, write_tree, write_zip

from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample
from headrace.tools.sources.rar import RarArchive
from headrace.tools.sources.trees import Tree
from tests import rars
from tests.conftest import require_program

pytestmark = pytest.mark.peer("rarfile")

WRITERS = {"rar4": rars.rar4, "rar5": rars.rar5}
STORED = {"a/one.bin": b"stored" * 200, "two.txt": "ü".encode()}
ALONE = {"rar4": rars.RAR4, "rar5": rars.RAR5}
SOLID = {"rar4": rars.RAR4_SOLID, "rar5": rars.RAR5_SOLID}
PROGRAM = {"rar4": "unar", "rar5": "bsdtar"}
"""Free programs of Debian that read it."""


def ucf_download(folder: Path, archive: bytes) -> Path:
    """The two official files."""
    folder.mkdir()
    lists = {name: data for name, data in ucf_tree().items() if name.endswith(".txt")}
    write_zip(folder / "UCF101TrainTestSplits-RecognitionTask.zip", lists)
    (folder / "UCF101.rar").write_bytes(archive)
    return folder


def ucf_videos() -> dict[str, bytes]:
    return {name: data for name, data in ucf_tree().items() if name.endswith(".avi")}


def read_all(path: Path) -> dict[str, bytes | str]:
    """Content of each file, or why there is none."""
    archive = RarArchive(path)
    found: dict[str, bytes | str] = {}
    for name in archive.names():
        try:
            found[name] = archive.read(name, 1 << 20)
        except BadSample as error:
            found[name] = str(error)
    return found


@pytest.mark.peer("av")
@pytest.mark.parametrize("format", WRITERS)
def test_ucf101_from_its_official_files(tmp_path: Path, format: str) -> None:
    src = ucf_download(tmp_path / "download", WRITERS[format](ucf_videos()))
    write_tree(tmp_path / "tree", ucf_tree())
    for split in ("train", "test", "train02"):
        assert listed(SOURCES["video"](src, split)) == listed(SOURCES["video"](tmp_path / "tree", split))
    origin = SOURCES["video"](src, "train").origin(0)
    assert origin == f"{src}/UCF101.rar, UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
    for name in ("download", "tree"):
        convert("video", tmp_path / name, tmp_path / "sets" / name, workers=2, shard_size=1 << 14)
    ours, theirs = (
        {p.name: p.read_bytes() for p in (tmp_path / "sets" / n).glob("*.tar")} for n in ("download", "tree")
    )
    assert len(ours) > 1
    assert ours == theirs


@pytest.mark.peer("av")
def test_a_rar_beside_what_was_unpacked_from_it_is_left_alone(tmp_path: Path) -> None:
    src = ucf_download(tmp_path / "download", b"cut off")
    write_tree(src, ucf_videos())
    assert len(listed(SOURCES["video"](src, "train"))) == 4


@pytest.mark.peer("av")
def test_lists_and_videos_in_one_rar(tmp_path: Path) -> None:
    (tmp_path / "ucf.rar").write_bytes(rars.rar5(ucf_tree()))
    assert len(listed(SOURCES["video"](tmp_path / "ucf.rar", "train"))) == 4


@pytest.mark.parametrize("format", WRITERS)
def test_compressed_files(tmp_path: Path, format: str) -> None:
    require_program(PROGRAM[format])
    path = tmp_path / "a.rar"
    path.write_bytes(WRITERS[format]({**STORED, "b/three": ALONE[format], "four": b"", "five": ALONE[format]}))
    assert read_all(path) == {**STORED, "b/three": rars.TEXT, "four": b"", "five": rars.TEXT}


@pytest.mark.parametrize("format", WRITERS)
def test_solid_archives(tmp_path: Path, format: str) -> None:
    require_program(PROGRAM[format])
    path = tmp_path / "a.rar"
    first, second = SOLID[format]
    path.write_bytes(WRITERS[format]({"a/one.bin": first, "b": second}, solid=True))
    assert read_all(path) == {"a/one.bin": rars.TEXT, "b": rars.TEXT}
    path.write_bytes(WRITERS[format]({"b": second, "a": first}, solid=True))
    with pytest.raises(
        UserError, match=r"a\.rar, offset \d+, [ab]: \w+ cannot unpack it: it is damaged, or takes another"
    ):
        RarArchive(path)


def test_a_file_in_volumes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    for number, volume in enumerate(rars.rar5_volumes("v/x.bin", content, 3), 1):
        (tmp_path / f"a.part{number}.rar").write_bytes(volume)
    tree = Tree(tmp_path)
    assert tree.look_into_packed()
    assert tree.read("v/x.bin", 1 << 20) == content
    (tmp_path / "a.part3.rar").unlink()
    with pytest.raises(UserError, match=r"a\.part1\.rar: the rar is damaged or cut off \(Cannot open next volume"):
        RarArchive(tmp_path / "a.part1.rar")


def read_or_refused(path: Path) -> dict[str, bytes | str]:
    """The same; nothing where the archive is refused in one line."""
    try:
        return read_all(path)
    except UserError as error:
        text = str(error)
    assert "\n" not in text
    assert text.startswith(str(path))
    return {}


@pytest.mark.parametrize("format", WRITERS)
def test_cut_off_anywhere(tmp_path: Path, format: str) -> None:
    whole = WRITERS[format](STORED)
    path = tmp_path / "a.rar"
    path.write_bytes(whole)
    assert read_all(path) == STORED
    wholes = set()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        found = read_or_refused(path)
        assert set(found.items()) <= set(STORED.items())
        wholes.add(len(found))
    assert wholes <= ({0, 1, 2} if format == "rar4" else {0})  # RAR 4 may end behind any file


@pytest.mark.parametrize(("format", "flips"), [("rar4", 150), ("rar5", 150), ("rar4 packed", 8), ("rar5 packed", 8)])
def test_changed_anywhere(tmp_path: Path, format: str, flips: int) -> None:
    format, _, packed = format.partition(" ")
    files: dict[str, bytes | rars.Packed] = {**STORED}
    if packed:
        require_program(PROGRAM[format])
        files["packed"] = ALONE[format]
    whole = WRITERS[format](files)
    path = tmp_path / "a.rar"
    random = np.random.Generator(np.random.Philox(7))
    for place in random.integers(len(whole) * 4 // 5 if packed else 0, len(whole), flips):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        for name, content in read_or_refused(path).items():
            right = content == {**STORED, "packed": rars.TEXT}.get(name)
            assert right or (isinstance(content, str) and f"{path}, offset " in content)


@pytest.mark.peer("av")
def test_a_damaged_and_an_encrypted_video_are_left_out(tmp_path: Path) -> None:
    whole = bytearray(rars.rar4(ucf_videos()))
    whole[whole.index(b"v_ApplyEyeMakeup_g08_c01.avi") + 5000] ^= 1
    result = convert("video", ucf_download(tmp_path / "d", bytes(whole)), tmp_path / "out", max_rejects=0.5)
    assert (result.samples, result.rejects) == (3, 1)
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert reject["key"] == "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01"
    assert "v_ApplyEyeMakeup_g08_c01.avi: damaged (Corrupt file - CRC check failed" in reject["reason"]
    path = tmp_path / "a.rar"
    path.write_bytes(rars.rar4(STORED, encrypted=True))
    assert read_all(path)["two.txt"] == f"{path}, offset 1261, two.txt: encrypted"
    path.write_bytes(rars.rar4({}, encrypted=True))
    with pytest.raises(UserError, match=r"a\.rar: the rar is encrypted; unpack it"):
        RarArchive(path)


@pytest.mark.parametrize("format", WRITERS)
def test_what_unpacks_to_more_than_it_says_or_may(tmp_path: Path, format: str) -> None:
    require_program(PROGRAM[format])
    path = tmp_path / "a.rar"
    huge, small = (ALONE[format]._replace(size=size) for size in (3 << 30, 100))
    path.write_bytes(WRITERS[format]({"fits": ALONE[format], "huge": huge, "small": small}))
    found = read_all(path)
    assert found["fits"] == rars.TEXT
    assert found["huge"] == "3,221,225,472 bytes, more than the limit of 1,048,576"
    assert "small: " in str(found["small"])
    path.write_bytes(WRITERS[format]({"huge": SOLID[format][0]._replace(size=3 << 30)}, solid=True))
    with pytest.raises(UserError, match=r"unpacks to 3,221,225,472 bytes, far more than"):
        RarArchive(path)


def test_without_rarfile_or_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.rar"
    monkeypatch.setenv("PATH", str(tmp_path))
    path.write_bytes(rars.rar5(STORED))
    assert read_all(path) == STORED
    path.write_bytes(rars.rar5({"a": rars.RAR5}))
    with pytest.raises(UserError, match=r"a\.rar: its files are compressed, which takes a program: unrar, or unar and"):
        RarArchive(path)
    monkeypatch.setitem(sys.modules, "rarfile", None)
    refused(path, "train", r"a\.rar: unpack it, or pip install headrace\[video\]")


@pytest.mark.parametrize("solid", [False, True])
def test_a_program_that_cannot_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solid: bool) -> None:
    """unrar, which comes first, is one that warns and writes without end."""
    require_program("bsdtar")
    program = tmp_path / "unrar"
    program.write_text("#!/bin/sh\necho warning >&2\nexec yes\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    packed = rars.RAR5_SOLID if solid else (rars.RAR5,)
    path = tmp_path / "a.rar"
    path.write_bytes(rars.rar5({f"{number}": content for number, content in enumerate(packed)}, solid=solid))
    assert list(read_all(path).values()) == [rars.TEXT] * len(packed)
