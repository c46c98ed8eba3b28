"""Trees of images, videos and sounds with files beside them: every field, every defect, every mixture."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.benchmarks.photographs import debian_package
from headrace.shards import Field, formats, open_shards
from headrace.tools import media
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData
from tests import clips


def png(level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def folder(root: Path, files: dict[str, bytes]) -> SourceData:
    return SOURCES["folder"](write_tree(root, files), "train")


def listed(data: SourceData) -> dict[str, dict[str, Any]]:
    return {data.key(i): dict(data.load(i)) for i in range(data.total)}


def reason(data: SourceData, i: int) -> str:
    with pytest.raises(BadSample) as caught:
        data.load(i)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_everything_beside_an_image(tmp_path: Path) -> None:
    data = folder(
        tmp_path,
        {
            "cat/a.png": png(1),
            "cat/a.txt": "ein Kätzchen\n".encode(),
            "cat/a.json": b'{"score": 0.5, "tags": ["soft", null]}',
            "dog/deep/b.JPG": png(2),
            "dog/deep/b.TXT": b"\xef\xbb\xbfa dog",
            "dog/deep/b.json": b"[]",
            "dog/deep/b.cls": b"cat\n",
            "dog/deep/note.txt": b"belongs to nothing",
        },
    )
    assert dict(data.fields) == {
        "image": Field(kind="image", encoding="mixed", oriented=True),
        "label": Field(kind="int", classes=("cat", "dog")),
        "text": Field(kind="text"),
        "json": Field(kind="json"),
    }
    assert listed(data) == {
        "cat/a": {
            "image": png(1),
            "label": 0,
            "text": "ein Kätzchen\n",
            "json": {"score": 0.5, "tags": ["soft", None]},
        },
        "dog/deep/b": {"image": png(2), "label": 0, "text": "a dog", "json": []},
    }


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("b.txt", None, r"missing caption"),
        ("b.txt", b"", r"b.txt: empty"),
        ("b.txt", b" \n\t", r"b.txt: empty"),
        ("b.txt", b"caf\xe9", r"b.txt, offset 3: not UTF-8"),
        ("b.json", None, r"missing JSON file"),
        ("b.json", b"{", r"b.json: bad JSON"),
        ("b.json", b"", r"b.json: empty"),
        ("b.json", b"[NaN]", r"b.json: bad JSON \(NaN is no JSON\)"),
        ("b.json", b"[1e999]", r"b.json: bad JSON"),
        ("b.json", b'["\\ud800"]', r"b.json: bad JSON"),
        ("b.json", b"[" * 100_000, r"b.json: bad JSON"),
        ("b.json", b"\xff\xfe{}", r"b.json, offset 0: not UTF-8"),
        ("b.cls", None, r"missing class"),
        ("b.cls", b"cat", r"b.cls: 'cat' is no class"),
        ("b.cls", b"-2", r"b.cls: '-2' is no class"),
        ("b.cls", b"9" * 30, r"is no class"),
    ],
)
def test_a_missing_or_damaged_sidecar(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    files = {f"{stem}.{ending}": good for stem in "abc" for ending, good in SIDECARS.items()}
    files |= {f"{stem}.png": png() for stem in "abc"}
    del files[name]
    data = folder(tmp_path / "tree", files if content is None else files | {name: content})
    assert data.load(0)["label"] == data.load(2)["label"] == 7
    assert_matches(expected, reason(data, 1))
    result = convert("folder", tmp_path / "tree", tmp_path / "out", max_rejects=0.5)
    assert (result.samples, result.rejects) == (2, 1)
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert reject["source"] == f"{tmp_path}/tree/b.png"
    assert_matches(expected, reject["reason"])


SIDECARS = {"txt": b"caption", "json": b"{}", "cls": b"7"}


def assert_matches(expected: str, text: str) -> None:
    with pytest.raises(BadSample, match=expected):
        raise BadSample(text)


@pytest.mark.parametrize(
    ("text", "label"), [("0", 0), ("1", 1), ("-1", -1), ("2", "class 2 of 2"), ("dog", 1), ("cow", "no class")]
)
def test_a_class_beside_the_file_goes_before_the_folder(tmp_path: Path, text: str, label: int | str) -> None:
    files = {"cat/a.png": png(), "cat/a.cls": text.encode(), "dog/b.png": png()}
    data = folder(tmp_path, files)
    assert data.load(1)["label"] == 1
    if isinstance(label, int):
        assert data.load(0)["label"] == label
    else:
        assert_matches(label, reason(data, 0))


def test_a_field_needs_one_file_that_has_it(tmp_path: Path) -> None:
    data = folder(tmp_path, {"a.png": png(), "readme.txt": b"x", "sub.json": b"{}"})
    assert set(data.fields) == set(data.load(0)) == {"image"}


def test_two_images_of_a_stem_share_what_lies_beside(tmp_path: Path) -> None:
    data = folder(tmp_path, {"a.jpg": png(1), "a.png": png(2), "a.txt": b"both"})
    assert listed(data) == {"a": {"image": png(1), "text": "both"}, "a-2": {"image": png(2), "text": "both"}}


def test_a_sidecar_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.tools.sources.folder.MAX_SIDECAR", 10)
    data = folder(tmp_path, {"a.png": png(), "a.txt": b"x" * 11})
    assert_matches("11 bytes, more than the limit of 10", reason(data, 0))


@pytest.mark.peer("av")
def test_an_image_with_its_sound(tmp_path: Path) -> None:
    files = {"cat.png": png(1), "cat.ogg": clips.audio("ogg"), "cat.txt": b"a cat", "cat_spoken_fr.ogg": b"not read"}
    files |= {"cow.png": png(2), "cow.flac": clips.audio("flac"), "cow.txt": b"a cow", "cow.wav": b"second"}
    files |= {"owl.png": png(3), "owl.txt": b"an owl", "emu.png": png(4), "emu.txt": b"an emu", "emu.mp3": b"noise"}
    data = folder(tmp_path, files)
    assert list(data.fields) == ["image", "text", "audio"]
    assert data.fields["audio"] == Field(kind="audio", encoding="mixed")
    place = {data.key(i): i for i in range(data.total)}
    assert data.load(place["cat"]) == {"image": png(1), "text": "a cat", "audio": clips.audio("ogg")}
    assert_matches("missing sound", reason(data, place["owl"]))
    assert_matches(r"several files for audio: \.flac, \.wav", reason(data, place["cow"]))
    assert_matches(r"emu\.mp3: no audio file of a known type", reason(data, place["emu"]))


@pytest.mark.peer("av")
def test_videos_and_what_belongs_to_them(tmp_path: Path) -> None:
    files = {"run/a.mp4": clips.video("mp4", sound=True), "run/a.jpg": png(1), "run/a.wav": clips.audio("wav")}
    files |= {"sit/b.webm": clips.video("webm"), "sit/b.png": png(2), "sit/b.mp3": clips.audio("mp3")}
    files |= {"sit/c.avi": clips.video("avi")[:-1], "sit/c.png": png(3), "sit/c.mp3": clips.audio("mp3")}
    data = folder(tmp_path, files)
    assert list(data.fields) == ["video", "label", "audio", "image"]
    assert data.load(1) == {
        "video": files["sit/b.webm"],
        "label": 1,
        "audio": files["sit/b.mp3"],
        "image": files["sit/b.png"],
    }
    assert_matches("cut off: .* lacks 1 bytes", reason(data, 2))


@pytest.mark.peer("av")
def test_a_tree_of_sounds_becomes_shards(tmp_path: Path) -> None:
    files = {f"{'ab'[n % 2]}/{n}.{name}": clips.audio(name) for n, name in enumerate(("flac", "wav", "opus", "mp3"))}
    files["a/bad.flac"] = clips.audio("flac")[:4000]
    write_tree(tmp_path / "tree", files)
    result = convert("folder", tmp_path / "tree", tmp_path / "out", max_rejects=0.5)
    assert (result.samples, result.rejects) == (4, 1)
    with open_shards(tmp_path / "out", check=True) as shards:
        assert {f"{sample['__key__']}": sample["audio"] for sample in map(shards.read, range(4))} == {
            name.partition(".")[0]: data for name, data in files.items() if "bad" not in name
        }


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (("a.png", "b.mp4"), r"tree/b\.mp4 \(video\) and .*tree/a\.png \(image\); name the folder of one kind"),
        (("a.png", "a.mp4", "b.png", "c.mp4"), r"tree/c\.mp4 \(video\) and .*tree/b\.png \(image\)"),
        (("x/a.png", "y/b.ogg"), r"tree/x/a\.png \(image\) and .*tree/y/b\.ogg \(audio\)"),
        (("a.png", "a.txt", "b.ogg", "b.txt"), r"a\.png \(image\) and .*b\.ogg \(audio\)"),
        (("a.mp4", "b.png", "c.ogg"), r"a\.mp4 \(video\) and .*b\.png \(image\)"),
        (("x/a.png", "y/a.ogg"), r"a\.png \(image\) and .*a\.ogg \(audio\)"),
    ],
)
def test_a_mixture_is_refused_with_a_file_of_each(tmp_path: Path, files: tuple[str, ...], match: str) -> None:
    write_tree(tmp_path / "tree", dict.fromkeys(files, b"x"))
    with pytest.raises(
        UserError, match=f"holds several kinds of media that do not belong together: .*{match}"
    ) as caught:
        SOURCES["folder"](tmp_path / "tree", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.peer("av")
@pytest.mark.parametrize(
    ("files", "leader", "total"),
    [
        (("a.png", "a.ogg", "b.png"), "image", 2),
        (("a.png", "a.ogg", "b.ogg"), "audio", 2),
        (("a.png", "a.ogg"), "image", 1),
        (("a.png", "a.mp4"), "video", 1),
        (("a.png", "a.mp4", "b.png"), "image", 2),
        (("a.png", "a.ogg", "drawing.svg", "drawing_fr.ogg"), "image", 1),
        (("a.mp4", "a.png", "a.ogg"), "video", 1),
    ],
)
def test_which_kind_leads(tmp_path: Path, files: tuple[str, ...], leader: str, total: int) -> None:
    data = folder(tmp_path, dict.fromkeys(files, b"x"))
    assert (next(iter(data.fields)), data.total) == (leader, total)


def test_links_that_lead_in_circles(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"cat/a.png": png(1), "dog/deep/b.png": png(2)})
    os.symlink(tmp_path / "tree", tmp_path / "tree" / "dog" / "up")
    os.symlink(tmp_path / "tree" / "cat", tmp_path / "tree" / "kitten")
    data = SOURCES["folder"](tmp_path / "tree", "train")
    assert [data.key(i) for i in range(data.total)] == ["cat/a", "dog/deep/b", "dog/up/cat/a", "kitten/a"]


@pytest.mark.peer("av")
def test_images_of_which_some_have_a_video(tmp_path: Path) -> None:
    data = folder(tmp_path, {"a.png": png(1), "a.mp4": clips.video(), "b.png": png(2)})
    assert data.load(0) == {"image": png(1), "video": clips.video()}
    assert_matches("missing video", reason(data, 1))


@pytest.mark.peer("av")
def test_real_stamps_with_captions_and_sounds(tmp_path: Path) -> None:
    """Tux Paint's stamps: image, caption in many languages, the sound of the thing, its spoken names beside."""
    stamps = clips.fetched(lambda: debian_package("tuxpaint-stamps-default")) / "usr" / "share" / "tuxpaint" / "stamps"
    found = []
    for sound in sorted(stamps.rglob("*.ogg")):
        if sound.with_suffix(".png").exists() and sound.with_suffix(".txt").exists():
            found.append(sound)
            target = tmp_path / "tree" / sound.relative_to(stamps).parts[0]
            target.mkdir(parents=True, exist_ok=True)
            for path in sound.parent.glob(f"{sound.stem}[._]*"):
                shutil.copy(path, target)
    assert len(found) > 50
    result = convert("folder", tmp_path / "tree", tmp_path / "out", max_rejects=0.5)
    assert result.samples + result.rejects >= len(found)
    with open_shards(tmp_path / "out", check=True) as shards:
        assert {name: field.kind for name, field in shards.fields.items()} == {
            "image": "image",
            "label": "int",
            "text": "text",
            "audio": "audio",
        }
        sounds = {path.read_bytes() for path in found}
        for i in range(len(shards)):
            sample = shards.read(i)
            assert sample["audio"] in sounds
            assert sample["text"].splitlines()[0].strip()
            assert isinstance(sample["image"], bytes | np.ndarray)
        assert len(shards) > 50


def test_without_pyav_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for package, name in ((media, "videos"), (formats, "video")):
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
        monkeypatch.delattr(package, name, raising=False)
    write_tree(tmp_path, {"a.mp4": b"", "b.txt": b""})
    for source in ("folder", "video"):
        with pytest.raises(UserError, match=r"videos and sounds need PyAV: pip install 'headrace\[video\]'"):
            SOURCES[source](tmp_path, "train")
