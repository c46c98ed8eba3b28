"""COCO's annotations on turned pictures: what a mask covers is what the turned mask covers."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.shards import open_shards
from headrace.shards.formats.orientation import turned
from headrace.tools.conversion.convert import convert
from headrace.tools.pictures.show_views import pixels
from headrace.tools.sources import BadSample
from headrace.tools.sources.coco_turning import runs_of, text_of, turned_box, turned_polygon, turned_segmentation
from tests.oriented import ORIENTATIONS, encoded, quarters, shown

HEIGHT, WIDTH = 6, 9


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths, column by column, one pixel after the other."""
    found, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            found.append(0)
            value = pixel
        found[-1] += 1
    return found


def mask_of(segmentation: dict[str, Any]) -> np.ndarray:
    """The pixels of a segmentation, one run after the other."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    flat: list[int] = []
    for number, run in enumerate(counts if isinstance(counts, list) else runs_of(counts)):
        flat += [number % 2] * run
    return np.array(flat, np.uint8).reshape(width, height).T


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("as_text", [False, True])
def test_run_lengths_cover_the_same_pixels(orientation: int, as_text: bool) -> None:
    draw = np.random.default_rng(orientation)
    for _ in range(20):
        mask = (draw.random((HEIGHT, WIDTH)) < 0.4).astype(np.uint8)
        counts: Any = text_of(runs(mask)) if as_text else runs(mask)
        found = turned_segmentation({"size": [HEIGHT, WIDTH], "counts": counts}, 0, 0, orientation)
        assert np.array_equal(mask_of(found), turned(mask[:, :, None], orientation)[:, :, 0])
        assert isinstance(found["counts"], str) == as_text


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_and_polygons_cover_the_same_pixels(orientation: int) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:3, 4:8] = 1
    expected = turned(mask[:, :, None], orientation)[:, :, 0]
    x, y, wide, high = map(int, turned_box([4, 1, 4, 2], *expected.shape, orientation))
    found = np.zeros_like(expected)
    found[y : y + high, x : x + wide] = 1
    assert np.array_equal(found, expected)
    corners = np.array(turned_polygon([4.0, 1.0, 8.0, 1.0, 8.0, 3.0, 4.0, 3.0], *expected.shape, orientation))
    xs, ys = corners.reshape(-1, 2).T
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (x, y, x + wide, y + high)


def test_texts_of_run_lengths() -> None:
    """Of maskApi.c's coding: one character up to 15, two from there; differences from the third run on."""
    assert text_of([0, 15, 16]) == "0?`0"
    assert text_of([1, 2, 3, 2, 3, 1000]) == "1230" + "0" + text_of([998])
    draw = np.random.default_rng(0)
    for _ in range(50):
        numbers = draw.integers(0, 1 << 20, 12).tolist()
        assert runs_of(text_of(numbers)) == numbers
    for damaged in ("`", "0\x7f", "0 "):
        with pytest.raises(BadSample):
            runs_of(damaged)


@pytest.mark.parametrize("counts", [[5], [-1, 55], "0"])
def test_runs_that_do_not_fill_the_picture(counts: Any) -> None:
    with pytest.raises(BadSample, match="do not fill its 9x6 pixels"):
        turned_segmentation({"size": [HEIGHT, WIDTH], "counts": counts}, 0, 0, 6)


def coco_folder(root: Path) -> dict[str, bytes]:
    """Val 2017 with a picture of each orientation, whose red quarter is boxed."""
    files = {f"{number:012d}.jpg": encoded(quarters(64, 96), "JPEG", number) for number in ORIENTATIONS}
    (root / "val2017").mkdir(parents=True)
    for name, data in files.items():
        (root / "val2017" / name).write_bytes(data)
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 96, "height": 64} for n in ORIENTATIONS]
    box = {"category_id": 1, "bbox": [0, 0, 48, 32], "area": 1536, "iscrowd": 0}
    corners = [0, 0, 48, 0, 48, 32, 0, 32]
    instances = [{"id": n, "image_id": n, "segmentation": [corners], **box} for n in ORIENTATIONS]
    captions = [{"id": n, "image_id": n, "caption": "quarters"} for n in ORIENTATIONS]
    with zipfile.ZipFile(root / "annotations_trainval2017.zip", "w") as archive:
        for name, annotations in (("instances", instances), ("captions", captions)):
            document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "red"}]}
            archive.writestr(f"annotations/{name}_val2017.json", json.dumps(document))
    return files


def test_boxes_fit_with_either_rule(tmp_path: Path) -> None:
    files = coco_folder(tmp_path / "raw")
    for rule in (None, "apply"):
        settings: Any = {"split": "val", "orientation": rule}
        convert("coco", tmp_path / "raw", tmp_path / str(rule), **settings)
        with open_shards(tmp_path / str(rule)) as shards:
            assert shards.fields["image"].oriented == (rule == "apply")
            for i in range(len(shards)):
                sample, found = shards.read(i), pixels(shards, i)
                assert sample["image"] == files[f"{shards.key(i)}.jpg"]
                assert found.shape == (sample["height"], sample["width"], 3)
                expected = shown(sample["image"]).shape if rule else (64, 96, 3)
                assert found.shape == expected
                x, y, wide, high = sample["instances"][0]["bbox"]
                assert np.abs(found[y : y + high, x : x + wide].reshape(-1, 3).mean(axis=0) - (205, 35, 45)).max() < 8
                xs, ys = np.array(sample["instances"][0]["segmentation"][0]).reshape(-1, 2).T
                assert (xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)) == (x, y, wide, high)
