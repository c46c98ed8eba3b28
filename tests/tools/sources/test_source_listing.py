"""Nothing vanishes while a source lists its files: a folder is read, refused or counted, and so is a file."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.shards import open_shards
from headrace.shards.errors import MachineError
from headrace.tools.cli import main
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData


def png(level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    return root


def keys(data: SourceData) -> list[str]:
    return [data.key(i) for i in range(data.total)]


def classes(data: SourceData) -> tuple[str, ...]:
    return data.fields["label"].classes


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (("train/cat/a.png", "val/cat/b.png"), None, ["cat/a"]),
        (("train/cat/a.png", "val/cat/b.png"), "val", ["cat/b"]),
        (("train/a.png",), None, ["a"]),
        (("Train/a.png", "Test/b.png"), "Train", ["a"]),
        (("bus/a.png", "train/b.png"), "train", ["b"]),
        (("bus/a.png", "train/b.png"), ".", ["bus/a", "train/b"]),
        (("bus/a.png", "train/b.png", ".cache/c.png"), ".", ["bus/a", "train/b"]),
        (("bus/a.png", "tram/b.png"), None, ["bus/a", "tram/b"]),
        (("a.png",), None, ["a"]),
        (("a.png",), "train", ["a"]),
    ],
)
def test_which_folder_is_read(tmp_path: Path, names: tuple[str, ...], split: str | None, expected: list[str]) -> None:
    assert keys(SOURCES["folder"](tree(tmp_path, *names), split)) == expected


@pytest.mark.parametrize(
    ("names", "split", "match"),
    [
        (
            ("bus/a.png", "car/b.png", "train/c.png"),
            None,
            r"holds train, which may be a split or classes, beside bus, car",
        ),
        (
            ("bus/a.png", "test/b.png", "VAL/c.png"),
            None,
            r"holds VAL, test, which may be splits or classes",
        ),
        (("bus/a.png", "train/c.png"), None, r"say --split train for that split alone, or --split \. where all"),
        (("bus/a.png", "test/c.png"), "train", r"has no folder 'train' for --split train \(found test\)"),
        (("Train/a.png", "Test/b.png"), None, r"has no folder 'train' for --split train \(found Test, Train\)"),
        (("training/a.png", "testing/b.png"), None, r"found testing, training"),
        (("val/a.png",), None, r"found val"),
        (("bus/a.png",), "val", r"has no folder 'val' for --split val \(found no splits\)"),
    ],
)
def test_a_split_that_may_be_a_class_is_no_guess(
    tmp_path: Path, names: tuple[str, ...], split: str | None, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        SOURCES["folder"](tree(tmp_path, *names), split)


def test_a_class_called_train_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = tree(tmp_path / "photos", *(f"{name}/{i}.png" for name in ("bus", "car", "train") for i in range(3)))
    assert main(["shard", "folder", str(src), str(tmp_path / "set")]) == 1
    assert "may be a split or classes" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    assert main(["shard", "folder", str(src), str(tmp_path / "set"), "--split", "."]) == 0
    with open_shards(tmp_path / "set") as shards:
        assert (len(shards), shards.fields["label"].classes) == (9, ("bus", "car", "train"))


class Failing:
    """Stands in for `os.scandir`, and fails once at some folders."""

    def __init__(self, name: str, number: int) -> None:
        self.real, self.name, self.number = os.scandir, name, number

    def __call__(self, path: Any = ".") -> Any:
        if os.path.basename(path) == self.name:
            raise OSError(self.number, os.strerror(self.number), os.fspath(path))
        return self.real(path)


@pytest.mark.parametrize("source", ["folder", "video", "imagenet"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EACCES, UserError), (errno.EIO, MachineError), (errno.ESTALE, MachineError)]
)
def test_a_folder_that_cannot_be_read_ends_it(
    source: str, number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"train/n0000000{i}/{i}.{'mp4' if source == 'video' else 'png'}" for i in range(3)]
    tree(tmp_path, *names)
    monkeypatch.setattr(os, "scandir", Failing("n00000001", number))
    with pytest.raises(kind, match=f"n00000001: {os.strerror(number)}"):
        SOURCES[source](tmp_path, "train")


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user's eyes")
def test_a_class_of_another_user(tmp_path: Path) -> None:
    """As root reads everything, the listing is asked of a process that is somebody else."""
    tree(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o055 != 0o055:
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "b").chmod(0o700)
    code = (
        "import os, sys; from pathlib import Path; from headrace.tools.sources import SOURCES; os.setuid(65534)\n"
        "try: print(SOURCES['folder'](Path(sys.argv[1]), None).total)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == f"UserError {tmp_path}/b: Permission denied\n"


def test_a_link_whose_kind_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that does not answer makes no file of a folder, as `os.walk` would."""
    tree(tmp_path / "src", "a/1.png")
    tree(tmp_path / "elsewhere", "2.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "src" / "b")
    real = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path, self.entry = entry.name, entry.path, entry

        def is_dir(self) -> bool:
            if self.name == "b":
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.path)
            return self.entry.is_dir()

    class Entries:
        def __init__(self, path: Any) -> None:
            self.entries = real(path)

        def __enter__(self) -> Any:
            return map(Entry, self.entries)

        def __exit__(self, *_: object) -> None:
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Entries)
    with pytest.raises(MachineError, match=r"src/b: Stale file handle"):
        SOURCES["folder"](tmp_path / "src", None)


def test_a_class_that_leads_to_nothing(tmp_path: Path) -> None:
    tree(tmp_path / "folder", "cat/a.png")
    os.symlink(tmp_path / "away", tmp_path / "folder" / "dog")
    with pytest.raises(UserError, match=r"folder/dog: a link that leads to nothing; if it is a class, it is missing"):
        SOURCES["folder"](tmp_path / "folder", None)
    tree(tmp_path / "imagenet", "train/n00000001/a.png")
    os.symlink(tmp_path / "away", tmp_path / "imagenet" / "train" / "n00000002")
    with pytest.raises(UserError, match="n00000002 is no folder, or a link that leads to nothing"):
        SOURCES["imagenet"](tmp_path / "imagenet", None)


def notes(root: Path, *names: str) -> None:
    """Files that are no media, whatever their names say."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"none")


def test_what_is_left_out_is_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = tree(tmp_path / "src", "cat/a.png", "beside.png", "dog/x.png", "dog/x.txt", "cat/a.txt", "cat/nobodys.txt")
    notes(src, "cat/b.GIF", "cat/deep/c.gif", "cat/d.heic", "cat/README", "cat/.hidden.gif", "cat/Thumbs.db")
    (src / "cat" / "a.txt").write_bytes(b"a cat")
    (src / "dog" / "x.txt").write_bytes(b"a dog")
    (src / "bird").mkdir()
    os.symlink(tmp_path / "away", src / "cat" / "album")
    left_out = {
        ".gif": 2,
        ".heic": 1,
        ".txt": 1,
        "links to nothing": 1,
        "without an ending": 1,
        ".png beside the folders of classes": 1,
        "folders of classes without samples, which keep their numbers (bird)": 1,
    }
    assert dict(SOURCES["folder"](src, None).left_out) == left_out
    assert classes(SOURCES["folder"](src, None)) == ("bird", "cat", "dog")
    assert main(["shard", "folder", str(src), str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "\nbelong to no sample: .gif 2, .heic 1, .png beside the folders of classes 1, .txt 1, folders of " in said
    assert said.endswith(f"; {tmp_path}/set/rejects.jsonl lists them\n")
    with open_shards(tmp_path / "set") as shards:
        assert shards.manifest.provenance["left_out"] == left_out
    lines = map(json.loads, (tmp_path / "set" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    listed = {line["source"].removeprefix(f"{src}/"): line["reason"] for line in lines if line["key"] is None}
    assert listed == {
        name: f"belongs to no sample: {what}"
        for name, what in {
            "cat/b.GIF": ".gif",
            "cat/deep/c.gif": ".gif",
            "cat/d.heic": ".heic",
            "cat/nobodys.txt": ".txt",
            "cat/album": "links to nothing",
            "cat/README": "without an ending",
            "beside.png": ".png beside the folders of classes",
            "bird": "folders of classes without samples, which keep their numbers (bird)",
        }.items()
    }


def test_nothing_left_out_is_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = tree(tmp_path / "src", "cat/a.png", "cat/a.JPG")
    assert main(["shard", "folder", str(src), str(tmp_path / "set")]) == 0
    assert "belong to no sample" not in capsys.readouterr().out
    assert "left_out" not in json.loads((tmp_path / "set" / "manifest.json").read_text(encoding="utf-8"))["provenance"]


def test_pictures_of_imagenet_that_are_none(tmp_path: Path) -> None:
    tree(tmp_path, "train/n00000001/a.JPEG", "train/n00000001/b.xml", "train/n00000001/c.xml")  # not looked into
    assert SOURCES["imagenet"](tmp_path, None).left_out == {".xml": 2}


def test_files_that_end_in_numbers_are_counted_together(tmp_path: Path) -> None:
    tree(tmp_path, "a.png")
    notes(tmp_path, "b.gif", "c.gif", *(f"frame.{i:04d}" for i in range(50)))
    left_out = SOURCES["folder"](tmp_path, None).left_out
    assert (left_out[".gif"], left_out["with other endings"], sum(left_out.values())) == (2, 31, 52)


@pytest.mark.parametrize(
    ("source", "names", "out"),
    [
        ("folder", ("cat/a.png", "dog/b.png"), "."),
        ("folder", ("cat/a.png", "dog/b.png"), "shards"),
        ("folder", ("cat/a.png", "dog/b.png"), "deep/er/shards"),
        ("video", ("cat/a.mp4",), "shards"),
        ("imagenet", ("train/n00000001/a.png",), "train/shards"),
    ],
)
def test_shards_among_the_data_are_refused(source: str, names: tuple[str, ...], out: str, tmp_path: Path) -> None:
    """The second time they would be a class."""
    src = tree(tmp_path / "src", *names)
    os.symlink(src, tmp_path / "link")
    for place in (src / out, tmp_path / "link" / out, src / "x" / ".." / out):
        with pytest.raises(UserError, match="which is read as a whole; put the shards beside it"):
            convert(source, src, place)
    assert sorted(os.listdir(src)) == sorted({name.partition("/")[0] for name in names})


def test_shards_beside_the_data_are_fine(tmp_path: Path) -> None:
    tree(tmp_path / "train" / "n00000001", "a.png")
    assert convert("imagenet", tmp_path, tmp_path / "shards").samples == 1
    assert convert("folder", tmp_path / "train", tmp_path / "train-shards").samples == 1


@pytest.mark.parametrize("source", ["folder", "imagenet"])
def test_a_named_pipe_is_no_file_to_wait_for(source: str, tmp_path: Path) -> None:
    tree(tmp_path, "train/n00000001/a.png")
    os.mkfifo(tmp_path / "train" / "n00000001" / "b.png")
    data = SOURCES[source](tmp_path, "train")
    assert data.load(0)["image"] == png()
    with pytest.raises(BadSample, match="not a regular file"):
        data.load(1)
