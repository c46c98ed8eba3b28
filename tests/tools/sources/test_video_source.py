"""Kinetics, UCF101, Something-Something V2 and folders of videos, in their official byte layouts, become shards."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import Field, open_shards
from headrace.shards.fields import check_key
from headrace.shards.manifest import Format
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData
from headrace.tools.upkeep.verify import verify
from tests import clips

pytestmark = pytest.mark.peer("av")

IDS = ["0347ZoDXyP0", "-1IlTIWPNs4", "__NrybzYzUg", "2vQLH_3n-6w"]
LABELS = ["abseiling", "tai chi", "abseiling", "massaging person's head"]
PROBED = {"width", "height", "frames", "fps", "seconds", "codec", "sound"}


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def kinetics_lists(header: str = "label,youtube_id,time_start,time_end,split") -> dict[str, bytes]:
    rows = [f"{LABELS[n]},{IDS[n]},{10 * n},{10 * n + 10},train" for n in range(len(IDS))]
    return {
        "annotations/train.csv": "\r\n".join([header, *rows, ""]).encode(),
        "annotations/val.csv": f"{header}\nzumba,{IDS[0]},30,40,validate\n".encode(),
        "annotations/test.csv": f"youtube_id,time_start,time_end,split\n{IDS[1]},7,17,test\n".encode(),
    }


def kinetics_videos() -> dict[str, bytes]:
    stems = [f"{video}_{10 * number:06d}_{10 * number + 10:06d}" for number, video in enumerate(IDS)]
    return {f"{stem}.mp4": clips.video("mp4", first=7 * n, sound=n % 2 == 0) for n, stem in enumerate(stems)}


def ucf_files() -> dict[str, bytes]:
    """Two clips of each of two classes to train with, one to test; the one's folder and files differ in a letter."""
    files: dict[str, bytes] = {"classInd.txt": b"1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n"}
    train, test = [], []
    for number, (folder, name) in enumerate((("ApplyEyeMakeup",) * 2, ("HandstandPushups", "HandStandPushups")), 1):
        for group in (1, 8, 9):
            path = f"{folder}/v_{name}_g{group:02d}_c0{number}.avi"
            files[path] = clips.video("avi", first=10 * number + group)
            train += [f"{path} {number}"] if group > 1 else []
            test += [path] if group == 1 else []
    files["trainlist01.txt"] = "\r\n".join([*train, ""]).encode()
    files["testlist01.txt"] = "\r\n".join([*test, ""]).encode()
    files["trainlist02.txt"] = "\r\n".join([f"{path} {1 + path.startswith('Hand')}" for path in test]).encode()
    return files


def ucf_tree() -> dict[str, bytes]:
    folder = {True: "ucfTrainTestlist", False: "UCF-101"}
    return {f"{folder[name.endswith('.txt')]}/{name}": content for name, content in ucf_files().items()}


SSV2_TRAIN = [
    {
        "id": "78687",
        "label": "holding potato next to vicks vaporub bottle",
        "template": "Holding [something] next to [something]",
        "placeholders": ["potato", "vicks vaporub bottle"],
    },
    {"id": "42326", "label": "pushing café", "template": "Pushing [something]", "placeholders": ["café"]},
]


def ssv2_files() -> dict[str, bytes]:
    lists = {
        "labels": {"Pushing something": "1", "Holding something next to something": "0"},
        "train": SSV2_TRAIN,
        "validation": [{**SSV2_TRAIN[0], "id": "74225"}],
        "test": [{"id": "1420"}, {"id": "78687"}],
    }
    files = {f"labels/{name}.json": json.dumps(content).encode() for name, content in lists.items()}
    files["labels/test-answers.csv"] = b"1420;Pushing something\n78687;Holding something next to something\n"
    for number, name in enumerate(("78687", "42326", "74225", "1420")):
        files[f"20bn-something-something-v2/{name}.webm"] = clips.video("webm", first=9 * number)
    return files


def listed(data: SourceData) -> dict[str, dict[str, Any]]:
    return {data.key(i): dict(data.load(i)) for i in range(data.total)}


def content(sample: dict[str, Any]) -> tuple[int | None, str]:
    return sample.get("label"), hashlib.sha256(sample["video"]).hexdigest()


@pytest.mark.parametrize("layout", ["beside each other", "folders of classes", "tar", "zips", "one tar"])
def test_kinetics(tmp_path: Path, layout: str) -> None:
    videos, lists, src = kinetics_videos(), kinetics_lists(), tmp_path
    if layout == "beside each other":
        write_tree(tmp_path, lists | {f"train/{name}": data for name, data in videos.items()})
    elif layout == "folders of classes":
        labelled = zip(LABELS, videos.items(), strict=True)
        write_tree(tmp_path, lists | {f"train/{label}/{name}": data for label, (name, data) in labelled})
    elif layout == "tar":
        write_tree(tmp_path, lists)
        write_tar(tmp_path / "train.tar", {f"./train/{name}": data for name, data in videos.items()})
    elif layout == "zips":
        write_zip(tmp_path / "annotations.zip", lists)
        write_zip(tmp_path / "train.zip", videos)
    else:
        src = write_tar(tmp_path / "kinetics.tar", lists | videos)
    data = SOURCES["video"](src, "train")
    assert data.fields["label"].classes == ("abseiling", "massaging person's head", "tai chi", "zumba")
    assert data.fields["video"].kind == "video"
    samples = listed(data)
    assert list(samples) == [
        "abseiling/0347ZoDXyP0_000000_000010",
        "tai chi/-1IlTIWPNs4_000010_000020",
        "abseiling/x__NrybzYzUg_000020_000030",
        "massaging person's head/2vQLH_3n-6w_000030_000040",
    ]
    assert [sample["label"] for sample in samples.values()] == [0, 2, 0, 1]
    assert [sample["video"] for sample in samples.values()] == list(videos.values())
    assert samples["tai chi/-1IlTIWPNs4_000010_000020"]["meta"] == {
        "youtube_id": "-1IlTIWPNs4",
        "time_start": 10,
        "time_end": 20,
        "split": "train",
        "width": 176,
        "height": 144,
        "frames": 12,
        "fps": 25.0,
        "seconds": 0.48,
        "codec": "h264",
        "sound": False,
    }
    assert samples["abseiling/0347ZoDXyP0_000000_000010"]["meta"]["sound"]
    for key in samples:
        check_key(key)


def test_kinetics_lacks_clips_as_always(tmp_path: Path) -> None:
    videos = kinetics_videos()
    del videos[f"{IDS[2]}_000020_000030.mp4"]
    videos[f"{IDS[3]}_000030_000040.mp4"] = b""
    write_tree(tmp_path / "k", kinetics_lists() | videos)
    data = SOURCES["video"](tmp_path / "k", "train")
    assert data.total == 4
    with pytest.raises(BadSample, match=r"there is no file __NrybzYzUg_000020_000030\.\*"):
        data.load(2)
    assert data.origin(2) == f"{tmp_path}/k/annotations/train.csv, line 4"
    result = convert("video", tmp_path / "k", tmp_path / "out", max_rejects=0.5)
    assert (result.samples, result.rejects) == (2, 2)
    rejects = [
        json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert {(reject["key"][-13:], reject["reason"]) for reject in rejects} == {
        ("000020_000030", "there is no file __NrybzYzUg_000020_000030.*"),
        ("000030_000040", "empty"),
    }
    with pytest.raises(UserError, match=r"holds none of the 1 videos that are listed: .*val\.csv, line 1"):
        SOURCES["video"](tmp_path / "k", "val")


def test_kinetics_splits_and_replacements(tmp_path: Path) -> None:
    write_tree(tmp_path, kinetics_lists())
    write_tree(tmp_path / "val", {f"{IDS[0]}_000030_000040.mp4": clips.video("mp4")})
    write_tree(tmp_path / "replacement_for_corrupted", {f"{IDS[0]}_000030_000040.mp4": clips.video("mp4", first=50)})
    write_tree(tmp_path / "test", {f"{IDS[1]}_000007_000017.mkv": clips.video("mkv")})
    for split in ("val", "validate", "validation"):
        data = SOURCES["video"](tmp_path, split)
        assert content(dict(data.load(0))) == content({"label": 3, "video": clips.video("mp4", first=50)})
    test = SOURCES["video"](tmp_path, "test")
    assert set(test.fields) == {"video", "meta"}
    assert (test.key(0), set(test.load(0))) == (f"{IDS[1]}_000007_000017", {"video", "meta"})
    refused(tmp_path, "holdout", r"Kinetics has the splits test, train, val here, not 'holdout'")
    write_tree(tmp_path / "copy", {f"{IDS[1]}_000007_000017.mp4": b""})
    refused(tmp_path, "test", r"copy/.*mp4 and .*test/.*mkv are the same clip")
    (tmp_path / "annotations" / "more.csv").write_bytes((tmp_path / "annotations" / "val.csv").read_bytes())
    refused(tmp_path, "val", r"more\.csv and .*val\.csv both list the split val")


def refused(src: Path, split: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        SOURCES["video"](src, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ["run,ab/c,1,2,train", "run,abc,1.5,2,train", "run,abc,1", "run,,1,2,train", '"' * 3])
def test_a_damaged_line_of_kinetics(tmp_path: Path, row: str) -> None:
    text = f"label,youtube_id,time_start,time_end,split\nrun,abc,1,2,train\n{row}\n"
    write_tree(tmp_path, {"train.csv": text.encode()})
    refused(tmp_path, "train", r"train\.csv, line [34]: expected an id and whole seconds")


@pytest.mark.parametrize("layout", ["official", "zip of the lists", "beside each other"])
def test_ucf101(tmp_path: Path, layout: str) -> None:
    files = ucf_tree()
    if layout == "zip of the lists":
        lists = {name: files.pop(name) for name in list(files) if name.endswith(".txt")}
        write_zip(tmp_path / "UCF101TrainTestSplits-RecognitionTask.zip", lists)
    elif layout == "beside each other":
        files = {name.rpartition("/")[2]: data for name, data in files.items()}
    write_tree(tmp_path, files)
    samples = listed(data := SOURCES["video"](tmp_path, "train"))
    assert data.fields["label"].classes == ("ApplyEyeMakeup", "HandstandPushups")
    assert {key: content(sample) for key, sample in samples.items()} == {
        f"{name[:-4]}": content({"label": int(name.startswith("Hand")), "video": data})
        for name, data in ucf_files().items()
        if name.endswith(".avi") and "_g01_" not in name
    }
    meta = samples["HandstandPushups/v_HandStandPushups_g08_c02"]["meta"]
    assert (meta["group"], meta["clip"], meta["frames"], meta["codec"]) == (8, 2, 12, "mpeg4")
    assert set(meta) == {"group", "clip"} | PROBED
    tested = listed(SOURCES["video"](tmp_path, "test"))
    assert [(key, sample["label"]) for key, sample in tested.items()] == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01", 0),
        ("HandstandPushups/v_HandStandPushups_g01_c02", 1),
    ]
    assert list(listed(SOURCES["video"](tmp_path, "train02"))) == list(tested)
    refused(tmp_path, "test03", r"UCF101 has the splits test01, train01, train02 here, not 'test03'")
    refused(tmp_path, "val", r"not 'val'")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 2", r"trainlist01\.txt, line 1: .* number 2"),
        ("trainlist01.txt", "Apply/v_ApplyEyeMakeup_g08_c01.avi 1", r"trainlist01\.txt, line 1: .* known class"),
        ("trainlist01.txt", "\n../../etc/passwd 1", r"trainlist01\.txt, line 2: expected Class/v_Class"),
        ("classInd.txt", "1 ApplyEyeMakeup\n3 HandstandPushups", r"classInd\.txt, line 2: expected 2 and a name"),
        ("classInd.txt", "1 Apply Eye Makeup", r"classInd\.txt, line 1: expected 1 and a name"),
    ],
)
def test_damaged_lists_of_ucf101(tmp_path: Path, name: str, text: str, match: str) -> None:
    write_tree(tmp_path, ucf_tree() | {f"ucfTrainTestlist/{name}": text.encode()})
    refused(tmp_path, "train", match)


def test_ucf101_without_its_classes(tmp_path: Path) -> None:
    files = ucf_tree()
    del files["ucfTrainTestlist/classInd.txt"]
    refused(write_tree(tmp_path, files), "train", r"trainlist01\.txt: there is no classInd\.txt beside it")


@pytest.mark.parametrize("layout", ["official", "zip of the labels", "older names", "tar of the videos"])
def test_something_something(tmp_path: Path, layout: str) -> None:
    files = ssv2_files()
    if layout == "zip of the labels":
        lists = {name: files.pop(name) for name in list(files) if name.startswith("labels")}
        write_zip(tmp_path / "20bn-something-something-download-package-labels.zip", lists)
    elif layout == "older names":
        names = {"labels/test-answers.csv": "test-answers.csv"}
        for name in ("labels", "train", "validation", "test"):
            names[f"labels/{name}.json"] = f"something-something-v2-{name}.json"
        files = {names.get(name, name): data for name, data in files.items()}
    elif layout == "tar of the videos":
        videos = {name: files.pop(name) for name in list(files) if name.endswith(".webm")}
        write_tar(tmp_path / "videos.tar", videos)
    write_tree(tmp_path, files)
    data = SOURCES["video"](tmp_path, "train")
    assert data.fields["label"].classes == ("Holding something next to something", "Pushing something")
    samples = listed(data)
    assert [(key, sample["label"]) for key, sample in samples.items()] == [("78687", 0), ("42326", 1)]
    assert samples["78687"]["video"] == ssv2_files()["20bn-something-something-v2/78687.webm"]
    meta = samples["42326"]["meta"]
    assert {name: meta[name] for name in ("id", "caption", "template", "placeholders", "codec")} == {
        "id": "42326",
        "caption": "pushing café",
        "template": "Pushing [something]",
        "placeholders": ["café"],
        "codec": "vp8",
    }
    assert set(meta) == {"id", "caption", "template", "placeholders"} | PROBED
    assert list(listed(SOURCES["video"](tmp_path, "val"))) == ["74225"]
    tested = listed(SOURCES["video"](tmp_path, "test"))
    assert [(key, sample["label"], "caption" in sample["meta"]) for key, sample in tested.items()] == [
        ("1420", 1, False),
        ("78687", 0, False),
    ]


def test_something_something_without_answers(tmp_path: Path) -> None:
    files = ssv2_files()
    del files["labels/test-answers.csv"]
    data = SOURCES["video"](write_tree(tmp_path, files), "test")
    assert set(data.fields) == set(data.load(0)) == {"video", "meta"}
    refused(tmp_path, "labels", r"has the splits test, train, validation here, not 'labels'")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("train.json", '[{"id": "1"', r"train\.json, line 1: bad JSON"),
        ("train.json", '{"id": 5}', r"train\.json, entry 1: expected an object with an id"),
        ("train.json", '[{"id": "../1"}]', r"train\.json, entry 1: expected an object with an id"),
        (
            "train.json",
            '[{"id": "1", "template": "Eating [something]"}]',
            r"entry 1: the template .*Eating.* is not in",
        ),
        ("train.json", '[{"id": "1", "template": 7}]', r"entry 1: the template 7 is not in labels\.json"),
        ("train.json", "[" * 100_000, r"train\.json: bad JSON"),
        ("labels.json", '["a"]', r"labels\.json: expected an object of templates"),
        ("labels.json", '{"a": "1"}', r"labels\.json: the numbers of the templates are not 0, 1, 2"),
        ("train.json", "\xff", r"train\.json, offset 0: not UTF-8"),
    ],
)
def test_damaged_lists_of_something_something(tmp_path: Path, name: str, text: str, match: str) -> None:
    write_tree(tmp_path, ssv2_files() | {f"labels/{name}": text.encode("latin1")})
    refused(tmp_path, "train", match)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    files = {"run/a.mp4": clips.video("mp4"), "run/b.webm": clips.video("webm", sound=True), "sit/c.avi": b"RIFF"}
    data = SOURCES["video"](write_tree(tmp_path / "train", files).parent, "train")
    assert data.fields["label"].classes == ("run", "sit")
    assert [data.key(i) for i in range(3)] == ["run/a", "run/b", "sit/c"]
    sample = data.load(1)
    assert (sample["video"], sample["label"], sample["meta"]["codec"], sample["meta"]["sound"]) == (
        files["run/b.webm"],
        0,
        "vp8",
        True,
    )
    assert set(sample["meta"]) == PROBED
    with pytest.raises(BadSample, match="no video file of a known type"):
        data.load(2)


def test_what_is_no_video_data_set(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "train", r"missing: there is no such file or folder")
    (tmp_path / "pictures").mkdir()
    refused(tmp_path / "pictures", "train", r"holds no images, videos or sounds")
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    refused(tmp_path / "pictures", "train", r"holds no videos but files of kind image; use the source folder")
    write_tree(tmp_path / "both", ssv2_files() | kinetics_lists())
    refused(tmp_path / "both", "train", r"holds Kinetics and Something-Something V2; name the folder of one")
    refused(write_tar(tmp_path / "a.tar", {"a.mp4": clips.video()}), "train", r"a\.tar: holds the lists of none of")
    packed = write_tar(tmp_path / "k" / "train_part_0.tar.xz", kinetics_videos(), "w:xz")
    refused(packed, "train", r"train_part_0\.tar\.xz can only be read from its beginning: unpack it")
    write_tree(tmp_path / "k", kinetics_lists())
    refused(tmp_path / "k", "train", r"holds none of the 4 videos .*train_part_0\.tar\.xz can only be read")
    (tmp_path / "k" / "cut.tar").write_bytes(write_tar(tmp_path / "b.tar", kinetics_videos()).read_bytes()[:5000])
    refused(tmp_path / "k", "train", r"cut\.tar, offset \d+: .* cut off; download it again")
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress(b"x"))
    refused(tmp_path / "list.csv.gz", "train", r"unpack it")
    refused(
        write_tree(tmp_path / "c", {"x.mp4": b""}) / "x.mp4", "train", r"expected a folder, a \.tar, \.zip or \.rar"
    )


def test_gzipped_tars_as_they_are_downloaded(tmp_path: Path) -> None:
    """Kinetics comes as many .tar.gz."""
    videos = kinetics_videos()
    write_tree(tmp_path / "tree", kinetics_lists() | videos)
    for number, name in enumerate(videos):
        write_tar(tmp_path / "gz" / f"train_part_{number}.tar.gz", {name: videos[name]}, "w:gz")
    write_tree(tmp_path / "gz", kinetics_lists())
    assert listed(SOURCES["video"](tmp_path / "gz", "train")) == listed(SOURCES["video"](tmp_path / "tree", "train"))
    for name in ("tree", "gz"):
        convert("video", tmp_path / name, tmp_path / "sets" / name, workers=2, shard_size=1 << 14)
    ours, theirs = ({p.name: p.read_bytes() for p in (tmp_path / "sets" / n).glob("*.tar")} for n in ("gz", "tree"))
    assert len(ours) > 1
    assert ours == theirs


def test_a_gzipped_tar_in_parts(tmp_path: Path) -> None:
    """Something-Something V2 comes as one .tar.gz cut into pieces of a gigabyte."""
    files = ssv2_files()
    videos = {name: files.pop(name) for name in list(files) if name.endswith(".webm")}
    whole = write_tar(tmp_path / "whole.tar.gz", videos, "w:gz").read_bytes()
    root = write_tree(tmp_path / "parts", files)
    size = len(whole) // 5
    for number in range(6):
        part = whole[number * size : (number + 1) * size if number < 5 else len(whole)]
        (root / f"20bn-something-something-v2-{number:02d}").write_bytes(part)
    write_tree(tmp_path / "tree", ssv2_files())
    assert listed(SOURCES["video"](root, "train")) == listed(SOURCES["video"](tmp_path / "tree", "train"))
    (root / "20bn-something-something-v2-03").unlink()
    refused(root, "train", r"20bn-something-something-v2-00: cannot be unpacked|damaged tar header|cut off")


@pytest.mark.parametrize("damage", ["cut", "changed", "endless", "empty"])
def test_damaged_gzipped_tars(tmp_path: Path, damage: str) -> None:
    path = write_tar(tmp_path / "train.tar.gz", kinetics_videos(), "w:gz")
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "changed":
        data[len(data) // 2] ^= 0xFF
    elif damage == "endless":
        data = bytearray(gzip.compress(bytes(100 << 20)))
    else:
        data = bytearray()
    path.write_bytes(bytes(data))
    write_tree(tmp_path, kinetics_lists())
    refused(tmp_path, "train", r"train\.tar\.gz(: cannot be unpacked|, offset \d+: )")


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_archives_and_tree_become_the_same_shards(tmp_path: Path, format: Format) -> None:
    write_tree(tmp_path / "a", ucf_tree())
    tree = ucf_tree()
    write_tar(tmp_path / "b" / "UCF-101.tar", {name: data for name, data in tree.items() if name.endswith(".avi")})
    write_tree(tmp_path / "b", {name: data for name, data in tree.items() if name.endswith(".txt")})
    for name in "ab":
        result = convert(
            "video",
            tmp_path / name,
            tmp_path / f"out-{name}",
            format=format,
            shard_size=1 << 16 if format == "webdataset" else 5 << 20,
        )
        assert (result.samples, result.rejects) == (4, 0)
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).glob("shard-*")}
        for name in ("out-a", "out-b")
    ]
    assert digests[0] == digests[1]
    assert verify(tmp_path / "out-a").ok
    with open_shards(tmp_path / "out-a", check=True) as shards:
        assert shards.fields["video"] == Field(kind="video", encoding="avi")
        samples = [shards.read(i) for i in range(len(shards))]
    assert {sample["__key__"]: sample["video"] for sample in samples} == {
        name[8:-4]: data for name, data in tree.items() if name.endswith(".avi") and "_g01_" not in name
    }
    # and once more through the tar or beton itself
    assert convert("shards", tmp_path / "out-a", tmp_path / "again", format="webdataset").samples == 4
    with open_shards(tmp_path / "again", check=True) as shards:
        assert {shards.read(i)["video"] for i in range(4)} == {sample["video"] for sample in samples}


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_frames_instead_of_files(tmp_path: Path, format: Format) -> None:
    from headrace.tools.media.videos import decode_clip

    write_tree(tmp_path / "k", kinetics_lists() | kinetics_videos())
    convert(
        "video",
        tmp_path / "k",
        tmp_path / "out",
        format=format,
        encode="frames",
        frames=4,
        frame_stride=2,
        short_side=32,
    )
    clip_of = {name[:-4]: decode_clip(data, 4, 2, 32) for name, data in kinetics_videos().items()}
    with open_shards(tmp_path / "out", check=True) as shards:
        assert shards.fields["video"] == Field(kind="array", dtype="|u1", shape=(4, 32, 32, 3))
        for sample in map(shards.read, range(4)):
            expected = clip_of[sample["__key__"].rpartition("/")[2].removeprefix("x")]
            left = (expected.shape[2] - 32) // 2
            np.testing.assert_array_equal(sample["video"], expected[:, :, left : left + 32])


def test_links_into_other_folders_are_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "far", kinetics_videos())
    write_tree(tmp_path / "k", kinetics_lists())
    os.symlink(tmp_path / "far", tmp_path / "k" / "videos")
    assert len(listed(SOURCES["video"](tmp_path / "k", "train"))) == 4
