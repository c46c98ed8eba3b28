"""COCO's zips and what they unpack to give the same samples; damage is one line or one rejected sample."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from headrace.shards import open_shards
from headrace.shards.manifest import Format
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.sources import SOURCES, BadSample, SourceData, coco

Document = dict[str, Any]
IDS = [391895, 9, 25, 522418, 184613]
"""Not sorted, as in the official files; 25 has no instances."""
CATEGORIES = [(1, "person"), (18, "dog"), (90, "toothbrush"), (17, "cat")]


def pictures() -> dict[str, bytes]:
    """File name to content: pieces of two photographs, 96 x 64 pixels."""
    random = np.random.Generator(np.random.Philox(4))
    photographs = load_sample_images().images
    files = {}
    for number in IDS:
        top, left = int(random.integers(427 - 64)), int(random.integers(640 - 96))
        stream = io.BytesIO()
        Image.fromarray(photographs[number % 2][top : top + 64, left : left + 96]).save(stream, "JPEG", quality=95)
        files[f"{number:012d}.jpg"] = stream.getvalue()
    return files


def head(split: str) -> Document:
    return {
        "info": {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org", "year": 2017},
        "licenses": [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "BY-NC-SA"}],
        "images": [
            {
                "license": 1,
                "file_name": f"{number:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/{split}2017/{number:012d}.jpg",
                "height": 64,
                "width": 96,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": "http://farm9.staticflickr.com/8186/x.jpg",
                "id": number,
            }
            for number in IDS
        ],
    }


def caption(number: int, count: int) -> str:
    return f"Caption {count} of “{number}”, naïve 🙂 \n"


def captions(split: str) -> Document:
    """Five captions a picture, those of a picture not beside each other."""
    listed = [
        {"image_id": number, "id": 10 * place + count, "caption": caption(number, count)}
        for count in range(5)
        for place, number in enumerate(IDS)
    ]
    return {**head(split), "annotations": listed}


POLYGON = [[10.5, 20.25, 30.0, 20.25, 30.0, 60.129999999999995], [1, 2, 3, 4, 5, 6]]
RUNS = {"counts": [272, 2, 4, 4, 5864], "size": [64, 96]}


def instances(split: str) -> Document:
    listed = []
    for count, number in enumerate([9, 391895, 522418, 9, 184613, 9]):
        crowd = int(count == 3)
        listed.append(
            {
                "segmentation": RUNS if crowd else POLYGON,
                "area": 702.1057499999998 + count,
                "iscrowd": crowd,
                "image_id": number,
                "bbox": [1.08, 20.0 + count, 28.92, 40],
                "category_id": [1, 18, 90, 17][count % 4],
                "id": 900100000000 + count,
            }
        )
    listed_categories = [{"supercategory": "thing", "id": number, "name": name} for number, name in CATEGORIES]
    return {**head(split), "annotations": listed, "categories": listed_categories}


def zip_of(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2017, 9, 1, 0, 0, 0)), content, method)


Change = Callable[[Document], object]


def annotation_files(split: str, changes: dict[str, Change]) -> dict[str, bytes]:
    documents = {"captions": captions(split), "instances": instances(split), "person_keypoints": head(split)}
    for name, change in changes.items():
        documents[name] = copy.deepcopy(documents[name])
        change(documents[name])
    return {f"annotations/{name}_{split}2017.json": json.dumps(d).encode() for name, d in documents.items()}


def write_zips(root: Path, split: str = "train", **changes: Change) -> Path:
    folder = f"{split}2017"
    zip_of(root / f"{folder}.zip", {f"{folder}/": b"", **{f"{folder}/{n}": data for n, data in pictures().items()}})
    zip_of(root / "annotations_trainval2017.zip", annotation_files(split, changes), zipfile.ZIP_DEFLATED)
    return root


def write_tree(root: Path, split: str) -> Path:
    files = {f"{split}2017/{name}": content for name, content in pictures().items()}
    for name, content in {**files, **annotation_files(split, {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def listed(data: SourceData) -> dict[str, Any]:
    return {data.key(i): data.load(i) for i in range(data.total)}


def expected() -> dict[str, Any]:
    """By hand, one picture after the other."""
    files = pictures()
    samples = {}
    for number in sorted(IDS):
        found = []
        for annotation in instances("train")["annotations"]:
            if annotation["image_id"] == number:
                row, name = {1: (0, "person"), 17: (1, "cat"), 18: (2, "dog"), 90: (3, "toothbrush")}[
                    annotation["category_id"]
                ]
                same = {part: annotation[part] for part in ("bbox", "area", "iscrowd", "segmentation", "id")}
                found.append({**same, "category": row, "category_id": annotation["category_id"], "name": name})
        samples[f"{number:012d}"] = {
            "image": files[f"{number:012d}.jpg"],
            "captions": [caption(number, count) for count in range(5)],
            "instances": found,
            "image_id": number,
            "width": 96,
            "height": 64,
        }
    return samples


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("layout", ["zips", "deflated", "tree", "pictures zipped", "annotations zipped"])
def test_every_layout_gives_the_same_samples(tmp_path: Path, split: str, layout: str) -> None:
    if layout in ("zips", "deflated", "pictures zipped", "annotations zipped"):
        write_zips(tmp_path, split)
    if layout == "deflated":
        files = {f"{split}2017/{name}": content for name, content in pictures().items()}
        zip_of(tmp_path / f"{split}2017.zip", files, zipfile.ZIP_DEFLATED)
    if layout in ("tree", "pictures zipped", "annotations zipped"):
        write_tree(tmp_path, split)
    if layout == "pictures zipped":
        (tmp_path / "annotations_trainval2017.zip").unlink()
    if layout == "annotations zipped":
        (tmp_path / f"{split}2017.zip").unlink()
    data = SOURCES["coco"](tmp_path, split)
    assert listed(data) == expected()
    assert [data.key(i) for i in range(data.total)] == list(expected())
    assert listed(data)["000000000025"]["instances"] == []
    place = f"{split}2017" + (".zip" if layout not in ("tree", "annotations zipped") else "")
    assert data.origin(0) == f"{tmp_path / place}, 000000000009.jpg"


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_zips_and_tree_become_the_same_shards(tmp_path: Path, format: Format) -> None:
    for name, write in (("zips", write_zips), ("tree", write_tree)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "train")
        before = sorted((tmp_path / name).iterdir())
        result = convert("coco", tmp_path / name, tmp_path / f"{name}-out", format=format)
        assert (result.samples, result.rejects) == (5, 0)
        assert sorted((tmp_path / name).iterdir()) == before  # nothing was unpacked
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).glob("shard-*")}
        for name in ("zips-out", "tree-out")
    ]
    assert digests[0] == digests[1]
    with open_shards(tmp_path / "zips-out", check=True) as shards:
        samples = {sample.pop("__key__"): sample for sample in map(shards.read, range(len(shards)))}
    assert samples == expected()  # the JPEGs byte for byte, the numbers to the last digit


def test_threads_share_a_zip(tmp_path: Path) -> None:
    data, originals = SOURCES["coco"](write_zips(tmp_path), "train"), expected()
    order = np.random.Generator(np.random.Philox(1)).integers(data.total, size=1000).tolist()
    with ThreadPoolExecutor(8) as pool:
        for i, sample in zip(order, pool.map(data.load, order), strict=True):
            assert sample == originals[data.key(i)]


def rejected(data: SourceData, number: int, match: str) -> None:
    """One picture is refused, the others are as ever."""
    originals = expected()
    for i in range(data.total):
        if data.key(i) == f"{number:012d}":
            with pytest.raises(BadSample, match=match):
                data.load(i)
        else:
            assert data.load(i) == originals[data.key(i)]


def drop_captions(number: int) -> Change:
    def change(document: Document) -> None:
        document["annotations"] = [a for a in document["annotations"] if a["image_id"] != number]

    return change


def in_annotation(place: int, name: str, value: object) -> Change:
    return lambda document: document["annotations"][place].update({name: value})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop_captions(9), "no caption"),
        (in_annotation(1, "caption", None), "annotation 10: has no caption"),
        (in_annotation(1, "caption", "half \ud83d"), "captions: .*surrogates not allowed"),
        (lambda d: d["annotations"].__setitem__(slice(None), [
            {**a, "caption": " \n"} if a["image_id"] == 9 else a for a in d["annotations"]
        ]), "no caption"),
    ],
)  # fmt: skip
def test_a_picture_without_a_caption_is_a_bad_sample(tmp_path: Path, change: Change, match: str) -> None:
    rejected(SOURCES["coco"](write_zips(tmp_path, captions=change), "train"), 9, match)


def test_a_picture_that_only_one_file_lists_is_a_bad_sample(tmp_path: Path) -> None:
    def forget(document: Document) -> None:
        drop_captions(9)(document)
        document["images"] = [image for image in document["images"] if image["id"] != 9]

    rejected(SOURCES["coco"](write_zips(tmp_path, captions=forget), "train"), 9, "no caption")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bbox", [1, 2, 3]),
        ("bbox", [1, 2, 3, "4"]),
        ("category_id", 2),
        ("category_id", [1]),
        ("area", None),
        ("iscrowd", 2),
        ("segmentation", "[]"),
        ("segmentation", [1, 2, 3]),
        ("segmentation", [[[1]]]),
        ("segmentation", {"size": [1, 2]}),
        ("segmentation", {"size": [1, 2], "counts": [1.5]}),
        ("id", "x"),
    ],
)
def test_an_instance_that_is_none_is_a_bad_sample(tmp_path: Path, name: str, value: object) -> None:
    data = SOURCES["coco"](write_zips(tmp_path, instances=in_annotation(0, name, value)), "train")
    rejected(data, 9, r"annotation .*: lacks one of a known category_id")


def test_compressed_runs_are_kept(tmp_path: Path) -> None:
    runs = {"size": [64, 96], "counts": "PPQ3;0O1"}
    data = SOURCES["coco"](write_zips(tmp_path, instances=in_annotation(0, "segmentation", runs)), "train")
    assert data.load(0)["instances"][0]["segmentation"] == runs


def test_a_number_beyond_all_bounds_is_a_bad_sample(tmp_path: Path) -> None:
    write_tree(tmp_path, "train")
    path = tmp_path / "annotations" / "instances_train2017.json"
    text = path.read_text(encoding="utf-8").replace("702.1057499999998", "1e999")
    path.write_text(text, encoding="utf-8")
    rejected(SOURCES["coco"](tmp_path, "train"), 9, "instances: Out of range float values")


def test_a_missing_or_damaged_picture_is_a_bad_sample(tmp_path: Path) -> None:
    write_zips(tmp_path)
    archive = tmp_path / "train2017.zip"
    whole = archive.read_bytes()
    name = b"train2017/000000000009.jpg"
    local = whole.index(name) - 30
    content = whole.index(b"\xff\xd8", local)
    central = whole.rindex(name) - 46
    for place, value, match in (
        (content + 700, b"\0\1\2\3", rf"train2017\.zip, offset {local}, .*: differs from its checksum"),
        (local, b"PK\0\0", "damaged header"),
        (central + 10, struct.pack("<H", 12), "packed by method 12"),
        (central + 10, struct.pack("<H", 8), r"cannot be unpacked|differs from its checksum"),
        (central + 24, struct.pack("<I", 0xFFFFFFF0), "more than the limit of 67,108,864"),
        (central + 20, struct.pack("<I", len(whole)), "lies outside of the zip"),
        (central + 20, struct.pack("<I", 0xFFFFFFF0), "more than the limit of 67,108,864"),
    ):
        archive.write_bytes(whole[:place] + value + whole[place + len(value) :])
        rejected(SOURCES["coco"](tmp_path, "train"), 9, match)
    zip_of(archive, {f"train2017/{n}": data for n, data in pictures().items() if n != "000000000009.jpg"})
    rejected(SOURCES["coco"](tmp_path, "train"), 9, r"the zip holds no train2017/000000000009\.jpg")
    result = convert("coco", tmp_path, tmp_path / "out", max_rejects=0.3)
    assert (result.samples, result.rejects) == (4, 1)
    assert "holds no train2017/000000000009.jpg" in (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8")
    write_tree(tmp_path, "train")
    archive.unlink()
    (tmp_path / "train2017" / "000000000009.jpg").unlink()
    result = convert("coco", tmp_path, tmp_path / "out", max_rejects=0.3)
    assert (result.samples, result.rejects) == (4, 1)


def test_a_bomb_takes_no_more_memory_than_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zips(tmp_path)
    archive = tmp_path / "train2017.zip"
    name = "train2017/000000000009.jpg"
    files = {f"train2017/{n}": data for n, data in pictures().items()}
    zip_of(archive, {**files, name: bytes(65 << 20)}, zipfile.ZIP_DEFLATED)
    rejected(SOURCES["coco"](tmp_path, "train"), 9, "68,157,440 bytes, more than the limit")
    forged = bytearray(archive.read_bytes())  # the directory says 1,000 bytes
    central = forged.rindex(name.encode()) - 46
    forged[central + 24 : central + 28] = struct.pack("<I", 1000)
    archive.write_bytes(forged)
    data = SOURCES["coco"](tmp_path, "train")
    tracemalloc.start()
    with pytest.raises(BadSample, match="differs from its checksum"):
        data.load(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20  # 65 MB in 65 kB
    monkeypatch.setattr(coco, "MAX_ANNOTATIONS", 1000)
    refused(tmp_path, r"captions_train2017\.json: .* bytes, more than the limit of 1,000")


def refused(src: Path, match: str, split: str = "train") -> None:
    with pytest.raises(UserError, match=match) as caught:
        SOURCES["coco"](src, split)
    assert "\n" not in str(caught.value)


def at(document: str, part: str, extra: int = 0) -> int:
    """Bytes before a part of a document."""
    return len(document[: document.index(part) + extra].encode())


def test_bad_json_is_one_line_with_its_offset(tmp_path: Path) -> None:
    write_tree(tmp_path, "train")
    path = tmp_path / "annotations" / "captions_train2017.json"
    good = json.dumps(captions("train"), ensure_ascii=False)  # characters of one to four bytes
    path.write_text(good, encoding="utf-8")
    assert listed(SOURCES["coco"](tmp_path, "train")) == expected()
    lost = good.replace('"id": 11, ', '"id" 11, ')
    orphan = good.replace('{"image_id": 9, "id": 11', '{"image_id": 8, "id": 11')
    nameless = good.replace('"image_id": 9, "id": 11', '"id": 11')
    for text, offset, problem in (
        (lost, at(lost, '"id" 11', 5), "bad JSON: Expecting ':' delimiter"),
        (orphan, at(orphan, '{"image_id": 8'), "the file lists no image 8"),
        (nameless, at(nameless, '{"id": 11'), "an annotation without an image_id"),
        (good[:-50], at(good, good[-100:]), "bad JSON"),
        (good + "x", len(good.encode()), "bad JSON: something follows"),
        (good.replace('"year": 2017', '"year": NaN'), at(good, '{"description'), "bad JSON: NaN is no JSON"),
        ("", 0, "bad JSON: expected '{', found ''"),
        ("[]", 0, "bad JSON: expected '{', found '\\['"),
        ('{"images": {}}', 11, "bad JSON: expected '\\[', found '{'"),
        ('{"images": []', 13, "bad JSON: expected ',', found ''"),
        ('{"images": [],}', 14, "bad JSON: expected a name"),
        ('{"x": ' + "[" * 100_000, 6, "bad JSON: .*recursion"),
        ('{"x": ' + "1" * 5000 + "}", 6, "bad JSON: .*limit"),
    ):
        path.write_text(text, encoding="utf-8")
        near = rf"({offset}|\d+)" if text == good[:-50] else str(offset)
        refused(tmp_path, rf"captions_train2017\.json, offset {near}: {problem}")
    path.write_bytes(good.encode().replace(b"Caption 1", b"Capt\xffon 1", 1))
    refused(tmp_path, r"captions_train2017\.json, offset \d+: not UTF-8")
    path.write_text('{"images": []}', encoding="utf-8")
    refused(tmp_path, "has no annotations; is it an official annotation file")
    path.write_text('{"images": [], "annotations": []}', encoding="utf-8")
    instance_path = tmp_path / "annotations" / "instances_train2017.json"
    instance_path.write_text('{"images": [], "annotations": []}', encoding="utf-8")
    refused(tmp_path, "lists no images")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("file_name", "../../../etc/passwd"),
        ("file_name", "/etc/000000000009.jpg"),
        ("file_name", "000000000009.png"),
        ("file_name", 9),
        ("id", "9"),
        ("id", -1),
        ("id", 1 << 64),
        ("id", True),
        ("width", None),
        ("height", 1.5),
    ],
)
def test_images_with_hostile_entries_are_refused(tmp_path: Path, name: str, value: object) -> None:
    write_zips(tmp_path, instances=lambda document: document["images"][1].update({name: value}))
    refused(tmp_path, r"instances_train2017\.json, offset \d+: an image without an id, a file name such as")


def test_lists_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    write_zips(tmp_path, captions=lambda document: document["images"].append(document["images"][0]))
    refused(tmp_path, "image 391895: listed twice")
    write_zips(tmp_path, captions=lambda document: document["images"][0].update(id=3))
    refused(tmp_path, "image 3: listed twice, or called 000000391895.jpg")
    write_zips(tmp_path, instances=lambda document: document["categories"].append({"id": 1, "name": "x"}))
    refused(tmp_path, "a category without a name, or without an id of its own")


def test_zips_that_are_damaged_or_not_there(tmp_path: Path) -> None:
    refused(tmp_path, r"holds neither train2017\.zip nor a folder train2017")
    refused(tmp_path, "has the splits train and val, not 'test'", "test")
    write_zips(tmp_path)
    annotations, archive = tmp_path / "annotations_trainval2017.zip", tmp_path / "train2017.zip"
    good = annotations.read_bytes()
    for damaged, match in (
        (good[: len(good) // 2], r"annotations_trainval2017\.zip: the zip is damaged or cut off"),
        (good[:200] + bytes([good[200] ^ 8]) + good[201:], r"captions_train2017\.json: .*download .* again"),
    ):
        annotations.write_bytes(damaged)
        refused(tmp_path, match)
    zip_of(annotations, {"annotations/captions_val2017.json": b"{}"})
    refused(tmp_path, r"holds no annotations/captions_train2017\.json; is it the official")
    annotations.unlink()
    refused(tmp_path, r"holds neither annotations_trainval2017\.zip nor annotations/captions_train2017\.json")
    for content in (archive.read_bytes()[:-30], b"", b"PK\5\6" + b"\xff" * 18):
        archive.write_bytes(content)
        refused(tmp_path, r"train2017\.zip: the zip is damaged or cut off")


def test_no_flipped_bit_gives_a_wrong_sample(tmp_path: Path) -> None:
    """Flips anywhere in the pictures' zip: an error that names it, a bad sample, or the sample as it was."""
    write_zips(tmp_path)
    archive = tmp_path / "train2017.zip"
    whole = archive.read_bytes()
    random = np.random.Generator(np.random.Philox(9))
    directory = whole.index(b"PK\1\2")
    places = [*random.integers(0, directory, 60).tolist(), *random.integers(directory, len(whole), 240).tolist()]
    originals = expected()
    bad = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        archive.write_bytes(damaged)
        try:
            data = SOURCES["coco"](tmp_path, "train")
        except UserError:
            bad += 1
            continue
        for i in range(data.total):
            try:
                sample = data.load(i)
            except BadSample:
                bad += 1
            else:
                assert sample == originals[data.key(i)]
    assert bad > 100
