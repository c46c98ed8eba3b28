"""inspect says what is in a set without decoding it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import Field, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.upkeep.inspect import by_side, image_field, inspect_shards


def written(path: Path, fields: dict[str, Field], values: dict[str, list[Any]]) -> Path:
    rows = zip(*values.values(), strict=True)
    samples = ({"__key__": f"{i}", **dict(zip(values, row, strict=True))} for i, row in enumerate(rows))
    write_shards(path, samples, fields)
    return path


def test_samples_without_a_class_are_none_of_the_classes(tmp_path: Path) -> None:
    fields = {"label": Field(kind="int", classes=("a", "b", "c"))}
    path = written(tmp_path / "set", fields, {"label": [0, 0, -1, 1, -1]})
    assert "3 classes, 1 of them without samples; 2 samples of none" in " ".join(str(inspect_shards(path)).split())


def test_many_classes_in_brief(tmp_path: Path) -> None:
    """A thousand classes: the most and the least frequent, and what lies between."""
    names = tuple(f"class{i:03d}" for i in range(300))
    labels = [label for label in range(299) for _ in range(1 + label % 7 + 50 * (label == 17))]
    path = written(tmp_path / "set", {"label": Field(kind="int", classes=names)}, {"label": labels})
    report = inspect_shards(path)
    assert report.fields["label"].classes["class017"] == 54
    assert report.fields["label"].classes["class299"] == 0
    assert len(report.to_dict()["fields"]["label"]["classes"]) == 300
    text = str(report)
    lines = text.splitlines()
    assert "300 classes, 1 of them without samples" in text
    assert sum("class" in line and "█" in line for line in lines) >= 10
    first = next(i for i, line in enumerate(lines) if "class017" in line)
    between = next(i for i, line in enumerate(lines) if "... 280 between" in line)
    last = next(i for i, line in enumerate(lines) if "class299" in line)
    assert first < between < last
    assert "1 to 7" in lines[between]
    assert last - first < 25


def test_pictures_of_many_sizes(tmp_path: Path) -> None:
    sides = [(10 + 3 * i, 90) for i in range(60)]
    pictures = [np.zeros((*side, 3), np.uint8) for side in sides]
    path = written(tmp_path / "set", {"photo": Field(kind="image", encoding="raw")}, {"photo": pictures})
    found = inspect_shards(path).fields["photo"]
    assert found.different_sizes == 60
    assert len(found.sizes) == 10
    assert found.longer_sides == {"64 to 95": 29, "96 to 127": 11, "128 to 191": 20}
    assert found.sample_bytes == {"min": 10 * 90 * 3, "median": found.sample_bytes["median"], "max": 187 * 90 * 3}
    assert "longer side of photo, pixels" in str(inspect_shards(path))
    with open_shards(path) as shards:
        assert image_field(shards, None) == "photo"
        with pytest.raises(UserError, match="no image field 'image'"):
            image_field(shards, "image")


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_fields_that_are_no_pictures(tmp_path: Path, format: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Videos and sounds count by their bytes, nothing is decoded: these could not be."""
    fields = {
        "video": Field(kind="video", encoding="mp4"),
        "audio": Field(kind="audio", encoding="flac"),
        "boxes": Field(kind="array"),
        "text": Field(kind="text"),
    }
    samples = [
        {
            "__key__": f"{i}",
            "video": b"\0\0\0\x18ftypmp42" + bytes(1000 * i),
            "audio": b"fLaC" + bytes(i),
            "boxes": np.zeros((2, 4), np.float32),
            "text": "é" * i,
        }
        for i in range(5)
    ]
    write_shards(tmp_path / "set", samples, fields, format=format)
    report = inspect_shards(tmp_path / "set")
    assert {name: (found.kind, found.declared) for name, found in report.fields.items()} == {
        "video": ("video", "mp4"),
        "audio": ("audio", "flac"),
        "boxes": ("array", "<f4 2x4"),
        "text": ("text", ""),
    }
    assert report.fields["video"].sample_bytes == {"min": 12, "median": 2012, "max": 4012}
    assert main(["inspect", str(tmp_path / "set")]) == 0
    assert "12 to 4,012" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "set"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"]["audio"]["declared"] == "flac"
    assert main(["inspect", str(tmp_path / "set"), "--sheet", str(tmp_path / "sheet.png")]) == 1
    assert capsys.readouterr().err.endswith("has no images\n")


def test_ranges_of_sides() -> None:
    assert by_side(np.array([1, 2, 3, 3, 4, 5, 6, 7, 8])) == {
        "1 to 1": 1, "2 to 2": 1, "3 to 3": 2, "4 to 5": 2, "6 to 7": 2, "8 to 11": 1,
    }  # fmt: skip
    assert by_side(np.array([100, 1000])) == {
        "96 to 127": 1, "128 to 191": 0, "192 to 255": 0, "256 to 383": 0, "384 to 511": 0, "512 to 767": 0,
        "768 to 1023": 1,
    }  # fmt: skip
