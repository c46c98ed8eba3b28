"""Video and audio fields: the file's own bytes in both formats, of a type that their first bytes tell."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import Field, ShardError, open_shards, write_shards
from headrace.shards.fields import AUDIO_ENCODINGS, VIDEO_ENCODINGS
from headrace.shards.formats.media import HEAD, media_type
from headrace.shards.formats.tar import scan_tar
from headrace.shards.formats.values import settled
from headrace.shards.formats.webdataset import extension, stored_encoding
from headrace.shards.manifest import Format
from headrace.shards.mapping import MappedFile
from tests import clips

pytestmark = pytest.mark.peer("av")

FIELDS = {
    "video": Field(kind="video", encoding="mixed"),
    "audio": Field(kind="audio", encoding="mixed"),
    "second": Field(kind="video", encoding="mp4"),
    "label": Field(kind="int"),
}
VIDEOS, AUDIOS = list(clips.VIDEO_MUXERS), list(clips.AUDIO_MUXERS)


def media_samples() -> list[dict[str, Any]]:
    return [
        {
            "__key__": f"clips/{number:04d}",
            "video": clips.video(VIDEOS[number % len(VIDEOS)], first=number),
            "audio": clips.audio(AUDIOS[number]),
            "second": clips.video("mp4", first=20 + number),
            "label": number,
        }
        for number in range(len(AUDIOS))
    ]


@pytest.fixture(scope="module", params=["webdataset", "ffcv"])
def media_set(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / request.param
    write_shards(path, media_samples(), FIELDS, format=request.param, shard_size=600_000)
    return path


@pytest.mark.parametrize("encoding", VIDEOS)
def test_the_first_bytes_tell_the_type_of_a_video(encoding: str) -> None:
    for sound in (False, True):
        data = clips.video(encoding, sound=sound)
        assert media_type("video", data) == media_type("video", data[:HEAD]) == encoding


@pytest.mark.parametrize("encoding", AUDIOS)
def test_the_first_bytes_tell_the_type_of_a_sound(encoding: str) -> None:
    data = clips.audio(encoding)
    assert media_type("audio", data) == media_type("audio", data[:HEAD]) == encoding


def test_every_type_of_the_format_has_been_seen() -> None:
    assert {*VIDEOS, "ogv"} == set(VIDEO_ENCODINGS)  # PyAV has no encoder for Theora
    assert set(AUDIOS) == set(AUDIO_ENCODINGS)
    assert media_type("video", b"OggS\0\2" + bytes(22) + b"\x80theora" + bytes(9)) == "ogv"


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 300, b"RIFF\0\0\0\0", b"\xff\xd8\xff\xe0" * 90, b"\x1a\x45\xdf\xa3", b"#EXTM3U\nfile.ts"]
)
def test_what_is_no_media_file_is_refused(data: bytes) -> None:
    for kind in ("video", "audio"):
        with pytest.raises(ValueError, match="empty" if not data else f"no {kind} file of a known type"):
            media_type(kind, data)


def test_reads_back_what_it_wrote(media_set: Path) -> None:
    with open_shards(media_set, check=True) as shards:
        assert [shards.read(i) for i in range(len(shards))] == media_samples()
        assert (shards.fields["second"].kind, shards.fields["second"].encoding) == ("video", "mp4")
        spans = shards.spans("video", np.arange(len(shards)))
        assert spans.size.tolist() == [len(sample["video"]) for sample in media_samples()]
        assert not spans.height.any()


def test_the_manifest_says_what_they_are(media_set: Path) -> None:
    fields = json.loads((media_set / "manifest.json").read_text(encoding="utf-8"))["fields"]
    assert fields == {
        "video": {"kind": "video", "encoding": "mixed"},
        "audio": {"kind": "audio", "encoding": "mixed"},
        "second": {"kind": "video", "encoding": "mp4"},
        "label": {"kind": "int"},
    }


def test_names_in_the_tar_are_the_usual_ones(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", media_samples(), FIELDS)
    mapped = MappedFile(tmp_path / "set" / "shard-000000.tar")
    names = [member.name for member in scan_tar(mapped)]
    assert names[:4] == ["clips/0000.mp4", "clips/0000.flac", "clips/0000.second.mp4", "clips/0000.cls"]
    assert {name.partition(".")[2] for name in names} == {*VIDEOS, *AUDIOS, "second.mp4", "cls"}
    for member in scan_tar(mapped):
        payload = mapped.array[member.offset : member.offset + member.size]
        for name, field in FIELDS.items():
            if member.name.endswith(f".{extension(name, field.kind, field.encoding)}"):
                assert stored_encoding(field, payload, 0) in ("mp4", "")


@pytest.mark.peer("webdataset")
def test_the_real_webdataset_reads_the_same_bytes(tmp_path: Path) -> None:
    import webdataset

    write_shards(tmp_path / "set", media_samples(), FIELDS)
    found = list(webdataset.WebDataset(str(tmp_path / "set" / "shard-000000.tar"), shardshuffle=False))
    for number, (sample, wanted) in enumerate(zip(found, media_samples(), strict=True)):
        assert sample["__key__"] == wanted["__key__"]
        assert sample["second.mp4"] == wanted["second"]
        assert sample[VIDEOS[number % len(VIDEOS)]] == wanted["video"]
        assert sample[AUDIOS[number]] == wanted["audio"]


@pytest.mark.peer("ffcv")
def test_the_real_ffcv_reads_the_same_bytes(tmp_path: Path) -> None:
    from ffcv.fields.decoders import BytesDecoder, IntDecoder
    from ffcv.loader import Loader, OrderOption

    write_shards(tmp_path / "set", media_samples(), FIELDS, format="ffcv")
    bytes_pipelines = {name: [BytesDecoder()] for name in ("video", "audio", "second")}
    loader = Loader(
        str(tmp_path / "set" / "shard-000000.beton"),
        batch_size=4,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={**bytes_pipelines, "label": [IntDecoder()]},
    )
    expected = iter(media_samples())
    for *columns, labels in loader:
        for row in range(len(labels)):
            wanted = next(expected)
            assert int(labels[row, 0]) == wanted["label"]
            for name, column in zip(("video", "audio", "second"), columns, strict=True):
                assert bytes(column[row])[: len(wanted[name])] == wanted[name]
    assert next(expected, None) is None


def test_a_beton_alone_holds_bytes(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", media_samples(), FIELDS, format="ffcv")
    with open_shards(tmp_path / "set" / "shard-000000.beton") as shards:
        assert {name: field.kind for name, field in shards.fields.items()} == {
            "video": "bytes",
            "audio": "bytes",
            "second": "bytes",
            "label": "int",
        }
        assert [shards.read(i)["audio"] for i in range(len(shards))] == [s["audio"] for s in media_samples()]


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (Field(kind="video", encoding="mixed"), b"no film", r"no video file of a known type"),
        (Field(kind="video", encoding="mixed"), b"", r"key a: clip: empty"),
        (Field(kind="audio", encoding="mixed"), b"\xff\xd8\xff\xe0" * 90, r"no audio file of a known type"),
        (Field(kind="video", encoding="mp4"), None, r"the field says mp4, the file is avi"),
        (Field(kind="video", encoding="mixed"), "film.mp4", r"expected bytes, got str"),
    ],
)
def test_what_is_not_what_the_field_says(
    tmp_path: Path, format: Format, field: Field, value: bytes | None, message: str
) -> None:
    samples = [{"__key__": "a", "clip": clips.video("avi") if value is None else value}]
    with pytest.raises(ShardError, match=message):
        write_shards(tmp_path / "set", samples, {"clip": field}, format=format)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("kind", "encoding"), [("video", "flac"), ("audio", "mp4"), ("image", "mp4"), ("video", "")])
def test_encodings_belong_to_their_kind(kind: Any, encoding: str) -> None:
    with pytest.raises(ValueError, match=rf"Field\.encoding of kind {kind} must be '.*' or 'mixed', got '{encoding}'"):
        Field(kind=kind, encoding=encoding)


def test_a_field_settles_on_the_one_type_that_it_has() -> None:
    mixed = Field(kind="video", encoding="mixed")
    assert settled(mixed, {VIDEO_ENCODINGS.index("avi")}, set()) == Field(kind="video", encoding="avi")
    assert settled(mixed, {0, 1}, set()) == mixed


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_tars_of_other_programs(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(4):
        files[f"{number}.mp4"] = clips.video("mp4", first=number)
        files[f"{number}.flac" if number % 2 else f"{number}.WAV"] = clips.audio("flac" if number % 2 else "wav")
        files[f"{number}.thumb.avi"] = clips.video("avi", first=number)
        files[f"{number}.txt"] = b"caption"
    write_tar(tmp_path / "a.tar", files)
    with open_shards(tmp_path) as shards:
        assert dict(shards.fields) == {
            "audio": Field(kind="audio", encoding="mixed"),
            "text": Field(kind="text"),
            "thumb": Field(kind="video", encoding="avi"),
            "video": Field(kind="video", encoding="mp4"),
        }
        assert shards.read(3)["video"] == files["3.mp4"]
        assert shards.read(2)["audio"] == files["2.WAV"]
        write_shards(tmp_path / "copy", map(shards.read, range(4)), shards.fields)
    with open_shards(tmp_path / "copy", check=True) as copy:
        assert copy.read(3)["thumb"] == files["3.thumb.avi"]


def test_an_extension_that_lies(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.mp4": clips.video("webm"), "b.mp4": clips.video("webm", first=5)})
    write_tar(tmp_path / "b.tar", {"a.mp4": clips.video("mp4"), "b.mp4": b"not a film"})
    with open_shards(tmp_path / "a.tar") as shards:
        assert shards.fields["video"].encoding == "webm"
    with open_shards(tmp_path / "b.tar") as shards:
        assert shards.fields["video"].encoding == "mixed"
        assert shards.read(1)["video"] == b"not a film"


def test_two_videos_in_a_sample_keep_their_extensions(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.mp4": clips.video("mp4"), "a.webm": clips.video("webm")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_shards(tmp_path / "a.tar") as shards:
            assert {name: field.encoding for name, field in shards.fields.items()} == {"mp4": "mp4", "webm": "webm"}
