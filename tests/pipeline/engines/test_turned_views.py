"""Every engine shows a picture that says how it is to be shown as it shows the same picture stored upright."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import Field, open_shards, write_shards
from tests.oriented import ORIENTATIONS, encoded, quarters, shown, stored
from tests.pipeline.engines.test_engines import AVAILABLE

SPEC = ViewSpec([View(size=32, scale=(0.2, 1.0)), View(size=48, scale=(1.0, 1.0)), View(size=24, jitter=0.0, flip=1.0)])
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "420": ("JPEG", {"quality": 95, "subsampling": 2}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
}


def pictures(kinds: list[str]) -> list[bytes]:
    """Of each orientation and kind a file, of odd and of even sizes, and some that say nothing."""
    sizes = [(61, 94), (64, 96), (33, 31)]
    files = [
        encoded(quarters(*size), KINDS[kind][0], orientation, **KINDS[kind][1])
        for kind in kinds
        for size in sizes
        for orientation in (*ORIENTATIONS, None)
    ]
    return files


def written(path: Path, files: list[bytes], format: str, upright: bool) -> Path:
    """A set of these files, or of the pixels that Pillow would show."""
    kind: Any = "raw" if upright else "mixed"
    field = Field(kind="image", encoding=kind, oriented=not upright)
    samples = [{"__key__": str(i), "image": shown(file) if upright else file} for i, file in enumerate(files)]
    write_shards(path, samples, {"image": field}, format=format)  # type: ignore[arg-type]
    return path


def views_of(path: Path, engine: str, orientation: Any = "apply") -> list[np.ndarray]:
    with open_shards(path, orientation=orientation) as shards:
        loader = Loader(shards, SPEC, batch_size=len(shards), engine=engine, shuffle=False, dtype="uint8", threads=2)
        (batch,) = list(loader)
        order = np.argsort(batch.index.numpy())
        return [view.cpu().numpy()[order] for view in batch.views]


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
@pytest.mark.parametrize("engine", AVAILABLE)
def test_turned_pictures_give_the_views_of_upright_ones(engine: str, format: str, tmp_path: Path) -> None:
    files = pictures(["jpg", "420", "progressive", *(["png"] if format == "webdataset" else [])])
    found = views_of(written(tmp_path / "turned", files, format, upright=False), engine)
    expected = views_of(written(tmp_path / "upright", files, format, upright=True), engine)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("engine", AVAILABLE)
def test_orientation_ignore_shows_pictures_as_they_are_stored(engine: str, tmp_path: Path) -> None:
    files = pictures(["jpg"])
    path = written(tmp_path / "set", files, "ffcv", upright=False)
    found = views_of(path, engine, "ignore")
    samples = [{"__key__": str(i), "image": file} for i, file in enumerate(files)]
    write_shards(tmp_path / "plain", samples, {"image": Field(kind="image", encoding="jpg")}, format="ffcv")
    with open_shards(tmp_path / "plain") as shards:
        assert (shards.manifest.version, shards.fields["image"].oriented) == (2, False)
    for one, other in zip(found, views_of(tmp_path / "plain", engine), strict=True):
        assert np.array_equal(one, other)


def test_plans_see_the_shown_size(tmp_path: Path) -> None:
    files = [encoded(quarters(40, 90), "JPEG", orientation) for orientation in ORIENTATIONS]
    with open_shards(written(tmp_path / "set", files, "webdataset", upright=False)) as shards:
        spans = shards.spans("image", range(8))
        assert spans.orientation.tolist() == list(ORIENTATIONS)
        assert spans.height.tolist() == [40] * 8
        assert spans.width.tolist() == [90] * 8
        assert spans.shown_sizes().tolist() == [[40, 90]] * 4 + [[90, 40]] * 4
        assert spans.shown_sizes().tolist() == [list(shown(file).shape[:2]) for file in files]
        whole = ViewSpec([View(size=16, scale=(1.0, 1.0), ratio=(0.1, 10.0))])
        (batch,) = list(Loader(shards, whole, batch_size=8, shuffle=False))
        crops = batch.drawn.crop[:, 0].numpy()
        sizes = np.array(spans.shown_sizes())
        assert np.all(crops[:, :2] + crops[:, 2:] <= sizes[batch.index.numpy()])
        assert stored(files[5]).shape == (40, 90, 3)
