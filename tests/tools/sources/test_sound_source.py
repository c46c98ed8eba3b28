"""LibriSpeech and Speech Commands in their official layouts, and folders of sounds, become shards."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import Field, open_shards
from headrace.shards.manifest import Format
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData
from headrace.tools.upkeep.verify import verify
from tests.sounds import encoded, note

pytestmark = pytest.mark.peer("av", "soundfile")

FORMS = ["folder", "tar.gz", "folder of tar.gz", "tar", "zip"]


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def formed(root: Path, form: str, files: dict[str, bytes], archive: str, prefix: str = "") -> Path:
    """The files in a folder, or in an archive of that name."""
    root.mkdir(parents=True, exist_ok=True)
    if form == "folder":
        return write_tree(root, files)
    if form == "zip":
        with zipfile.ZipFile(root / f"{archive}.zip", "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return root / f"{archive}.zip"
    path = root / f"{archive}.{'tar' if form == 'tar' else 'tar.gz'}"
    with tarfile.open(path, "w" if form == "tar" else "w:gz") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return root if form == "folder of tar.gz" else path


def sound(number: int, kind: str = "flac") -> bytes:
    rate = 48_000 if kind == "opus" else 16_000
    wave = note(number, rate)[: rate // 5]
    return encoded(wave, rate, "ogg", "OPUS") if kind == "opus" else encoded(wave, rate, kind)


SPEAKERS = b"""\
;ID  |SEX| SUBSET           |MINUTES| NAME
84   | F | dev-clean        |  8.02 | Christie Nowak
1272 | M | dev-clean        |  8.02 | John Rose
103  | F | train-clean-100  | 25.10 | Karen Savage
"""
UTTERANCES = {
    "dev-clean/1272/128104/1272-128104-0000": "MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES",
    "dev-clean/1272/128104/1272-128104-0001": "NOR IS MISTER QUILTER'S MANNER LESS INTERESTING",
    "dev-clean/84/121123/84-121123-0000": "GO DO YOU HEAR",
    "dev-clean/84/121550/84-121550-0000": "BUT WITH FULL RAVISHMENT",
    "train-clean-100/103/1240/103-1240-0000": "CHAPTER ONE MISSUS RACHEL LYNDE IS SURPRISED",
}


def librispeech(subset: str = "") -> dict[str, bytes]:
    """LibriSpeech/..., as the archive of a subset has it, or all."""
    files = {f"LibriSpeech/{name}.TXT": b"text" for name in ("LICENSE", "README", "CHAPTERS", "BOOKS")}
    files["LibriSpeech/SPEAKERS.TXT"] = SPEAKERS
    said: dict[str, str] = {}
    for number, (name, text) in enumerate(UTTERANCES.items()):
        if name.startswith(subset):
            folder, _, utterance = name.rpartition("/")
            files[f"LibriSpeech/{name}.flac"] = sound(number)
            trans = f"LibriSpeech/{folder}/{utterance.rpartition('-')[0]}.trans.txt"
            said[trans] = f"{said.get(trans, '')}{utterance} {text}\n"
    return files | {name: text.encode() for name, text in said.items()}


def commands() -> dict[str, bytes]:
    """Three words of two speakers and more, as speech_commands_v0.02.tar.gz has them."""
    words = ("backward", "bed", "yes")
    files = {
        f"{word}/{speaker}_nohash_{turn}.wav": sound(3 * number + turn, "wav")
        for number, word in enumerate(words)
        for speaker, turn in (("0165e0e8", 0), ("0165e0e8", 1), ("ffd2ba2f", 0), ("017c4098", 0))
    }
    files["_background_noise_/running_tap.wav"] = sound(99, "wav")
    files["_background_noise_/README.md"] = b"noise"
    files["validation_list.txt"] = b"".join(f"{word}/ffd2ba2f_nohash_0.wav\n".encode() for word in words)
    files["testing_list.txt"] = b"bed/017c4098_nohash_0.wav\n"
    return files | {"LICENSE": b"x", "README.md": b"x", ".DS_Store": b"x"}


def read(src: Path, split: str | None = None) -> SourceData:
    return SOURCES["sound"](src, split)


def listed(data: SourceData) -> dict[str, dict[str, Any]]:
    return {data.key(i): dict(data.load(i)) for i in range(data.total)}


def reason(data: SourceData, i: int) -> str:
    with pytest.raises(BadSample) as caught:
        data.load(i)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_librispeech(tmp_path: Path, form: str) -> None:
    src = formed(tmp_path, form, librispeech("dev-clean"), "dev-clean")
    if form == "folder of tar.gz":
        formed(tmp_path, "tar.gz", librispeech("train-clean-100"), "train-clean-100")
    data = read(src, "dev-clean")
    assert dict(data.fields) == {
        "audio": Field(kind="audio", encoding="mixed"),
        "meta": Field(kind="json"),
        "label": Field(kind="int", classes=("84", "1272")),
        "text": Field(kind="text"),
    }
    found = listed(data)
    dev = {name: text for name, text in UTTERANCES.items() if name.startswith("dev")}
    assert {key: sample["text"] for key, sample in found.items()} == dev
    for number, name in enumerate(dev):
        assert found[name]["audio"] == sound(number)
        assert found[name]["label"] == (number < 2)
    first = found["dev-clean/1272/128104/1272-128104-0001"]["meta"]
    assert first == {
        "speaker": 1272, "chapter": 128104, "utterance": 1, "sex": "M",
        "seconds": pytest.approx(0.2), "rate": 16_000, "channels": 1, "codec": "flac",
    }  # fmt: skip
    assert list(listed(read(src, "val"))) == list(found)


def test_librispeechs_subsets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src = write_tree(tmp_path / "tree", librispeech())
    assert read(src).total == 1
    assert read(src / "LibriSpeech", "dev").total == 4
    with pytest.raises(UserError, match=r"has the subsets dev-clean, train-clean-100 here, not 'test'"):
        read(src, "test")
    archives = tmp_path / "archives"
    for subset in ("dev-clean", "train-clean-100"):
        formed(archives, "tar.gz", librispeech(subset), subset)
    capsys.readouterr()
    assert read(archives).total == 1
    said = capsys.readouterr().err
    assert "train-clean-100.tar.gz: going through it once" in said
    assert "dev-clean.tar.gz" not in said


def test_what_librispeech_lacks_is_named(tmp_path: Path) -> None:
    files = librispeech("dev-clean")
    del files["LibriSpeech/dev-clean/84/121123/84-121123-0000.flac"]
    trans = "LibriSpeech/dev-clean/1272/128104/1272-128104.trans.txt"
    files[trans] = files[trans].splitlines(keepends=True)[0]
    data = read(write_tree(tmp_path, files), "dev-clean")
    assert data.total == 4
    assert reason(data, 0) == "there is no file 84-121123-0000.*"
    assert data.origin(0) == f"{tmp_path}/LibriSpeech/dev-clean/84/121123/84-121123.trans.txt, line 1"
    assert reason(data, 3) == "has no transcript"
    assert data.origin(3).endswith("1272-128104-0001.flac")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"84-121123-0000 GO\n84-121124-0000 WHERE\n", "line 2: expected 84-121123-0000 and what is said, found"),
        (b"84-121123-0000\n", "line 1: expected"),
        (b"84-121123-0000 A\n\n84-121123-0000 B\n", "line 3: 84-121123-0000 stands there twice"),
        (b"84-121123-0000 \xff\n", "offset 15: not UTF-8"),
    ],
)
def test_a_damaged_transcript_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    name = "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt"
    with pytest.raises(UserError, match=rf"84-121123.trans.txt.* {expected}"):
        read(write_tree(tmp_path, librispeech("dev-clean") | {name: content}), "dev-clean")


@pytest.mark.parametrize("form", FORMS)
def test_speech_commands(tmp_path: Path, form: str) -> None:
    src = formed(tmp_path, form, commands(), "speech_commands_v0.02", prefix="./")
    found = {split: read(src, split) for split in ("train", "val", "test")}
    assert {split: data.total for split, data in found.items()} == {"train": 8, "val": 3, "test": 1}
    classes = ("backward", "bed", "yes")
    assert all(data.fields["label"].classes == classes for data in found.values())
    keys = [set(listed(data)) for data in found.values()]
    assert len(set.union(*keys)) == 12
    assert keys[2] == {"bed/017c4098_nohash_0"}
    for data in found.values():
        for key, sample in listed(data).items():
            word, _, name = key.partition("/")
            assert sample["audio"] == commands()[f"{key}.wav"]
            assert classes[sample["label"]] == word
            assert sample["meta"]["speaker"] == name.partition("_")[0]
            assert sample["meta"]["utterance"] == int(name[-1])
    assert found["train"].left_out == {"sounds of _background_noise_, which is no class": 1}


def test_what_speech_commands_lacks_is_named(tmp_path: Path) -> None:
    files = commands()
    del files["bed/017c4098_nohash_0.wav"], files["yes/ffd2ba2f_nohash_0.wav"]
    src = write_tree(tmp_path, files)
    data = read(src, "val")
    assert reason(data, 2) == "there is no file ffd2ba2f_nohash_0.*"
    assert data.origin(2) == f"{tmp_path}/validation_list.txt, line 3"
    with pytest.raises(UserError, match="holds none of the 1 sounds that are listed"):
        read(src, "test")
    with pytest.raises(UserError, match="has the splits train, val and test, not 'dev'"):
        read(src, "dev")
    (tmp_path / "testing_list.txt").write_bytes(b"bed/x.wav\n../x.wav\n")
    with pytest.raises(UserError, match=r"testing_list.txt, line 2: expected word/file.wav, found '../x.wav'"):
        read(src, "test")


def test_two_data_sets_are_one_too_many(tmp_path: Path) -> None:
    src = write_tree(tmp_path, librispeech() | commands())
    with pytest.raises(UserError, match="holds LibriSpeech and Speech Commands; name one's folder"):
        read(src)


def test_a_folder_of_every_kind(tmp_path: Path) -> None:
    kinds = ("wav", "flac", "ogg", "mp3", "opus")
    files = {f"{'ab'[n % 2]}/{kind}.{kind}": sound(n, kind) for n, kind in enumerate(kinds)}
    files |= {f"{'ab'[n % 2]}/{kind}.txt": f"says {kind}".encode() for n, kind in enumerate(kinds)}
    data = read(write_tree(tmp_path, files))
    assert set(data.fields) == {"audio", "label", "text", "meta"}
    found = listed(data)
    for number, kind in enumerate(kinds):
        sample = found[f"{'ab'[number % 2]}/{kind}"]
        assert sample["audio"] == files[f"{'ab'[number % 2]}/{kind}.{kind}"]
        assert sample["text"] == f"says {kind}"
        assert sample["label"] == number % 2
        assert sample["meta"]["seconds"] == pytest.approx(0.2, abs=0.08)
        assert sample["meta"]["rate"] == (48_000 if kind == "opus" else 16_000)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "opus"])
def test_a_sound_that_is_cut_or_damaged_is_left_out(tmp_path: Path, kind: str) -> None:
    """A cut at any place; of the types that have checksums or headers, any changed byte that a decoder must see."""
    good = encoded(note(5, 16_000), 16_000, kind) if kind not in ("opus",) else sound(5, kind)
    random = np.random.Generator(np.random.Philox(9))
    cuts = random.integers(0, len(good) - 1, 12)
    bad = [good[:cut] for cut in cuts] if kind != "mp3" else [good[:20], b""]
    if kind == "flac":
        for place in random.integers(200, len(good) - 1, 12):
            bad.append(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
    if kind in ("ogg", "opus"):
        for place in random.integers(0, len(good) - 1, 40):
            bad.append(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
    files = {f"{n:02d}.{kind}": content for n, content in enumerate(bad)} | {f"good.{kind}": good}
    data = read(write_tree(tmp_path, files))
    assert data.load(len(bad))["audio"] == good
    for i in range(len(bad)):
        assert reason(data, i)


def test_what_loaders_do_not_read_is_left_out(tmp_path: Path) -> None:
    from tests import clips

    data = read(write_tree(tmp_path, {"a.wav": sound(1, "wav"), "b.m4a": clips.audio("m4a")}))
    assert reason(data, 1).startswith("files of the type m4a are not read by loaders; make it one of flac, ogg")


def test_pictures_are_no_sounds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no sounds but files of kind image; use the source folder"):
        read(write_tree(tmp_path, {"a.png": b"\x89PNG\r\n\x1a\n"}))
    with pytest.raises(UserError, match="there is no such file or folder"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_every_sound_comes_back(tmp_path: Path, format: Format) -> None:
    files = commands() | {"bed/0a7c2a8d_nohash_0.wav": sound(3, "wav")[:-50]}
    src = formed(tmp_path, "tar.gz", files, "speech_commands_v0.02", prefix="./")
    for workers in (1, 2):
        out = tmp_path / f"{workers}"
        options: dict[str, Any] = {"format": format, "workers": workers, "max_rejects": 0.5}
        result = convert("sound", src, out, shard_size=20_000 if format == "webdataset" else 6 << 20, **options)
        assert (result.samples, result.rejects) == (8, 1)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "12")
    assert one == two
    rejects = [json.loads(line) for line in one["rejects.jsonl"].decode().splitlines()]
    assert [each["key"] for each in rejects] == ["bed/0a7c2a8d_nohash_0", None]
    assert "cut off" in rejects[0]["reason"]
    assert not verify(tmp_path / "1").problems
    with open_shards(tmp_path / "1", check=True) as shards:
        for i in range(len(shards)):
            assert shards.read(i)["audio"] == files[f"{shards.key(i)}.wav"]
