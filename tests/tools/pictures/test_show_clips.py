"""Strips of clips: the frames that the loader gives, with the numbers that were drawn for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline import Clip, ClipSpec, Loader, View
from headrace.pipeline.clips.clip_presets import CLIP_PRESETS
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.pictures.show_clips import clips_of, show_clips, strip
from tests import clips

pytestmark = pytest.mark.peer("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "set"
    samples: Iterator[dict[str, Any]] = (
        {"__key__": f"video_{n}", "video": clips.video("mp4", first=10 * n, count=60)} for n in range(3)
    )
    write_shards(path, samples, {"video": Field(kind="video", encoding="mp4")})
    return path


@pytest.fixture(scope="module")
def shards(folder: Path) -> Iterator[ShardSet]:
    with open_shards(folder) as opened:
        yield opened


def test_a_strip_is_what_the_loader_gives(shards: ShardSet) -> None:
    clip = Clip(frames=5, strides=(2, 3), view=View(size=40), reverse=1.0)
    spec = ClipSpec.repeat(clip, 2, odd=True)
    shown = clips_of(shards, spec, count=2, seed=4)
    assert len(shown) == 4
    with Loader(shards, spec, 2, seed=4) as loader:
        batch = next(iter(loader))
    drawn: Any = batch.drawn
    for number, each in enumerate(shown):
        row, k = divmod(number, 2)
        assert np.array_equal(each.frames, batch.views[k][row].permute(1, 2, 3, 0).numpy())
        assert each.numbers == drawn.frames[row, k].tolist()
        stride = (2, 3)[drawn.pace[row, k]]
        assert each.title.startswith(
            f"{shards.key(int(batch.index[row]))} · clip {k} · start {min(each.numbers)} of 60"
        )
        assert f" · stride {stride} (pace {int(drawn.pace[row, k])}) · reversed · " in each.title
        assert ("the odd one" in each.title) == ("order" in each.title) == (drawn.odd[row] == k)
        picture, places, numbers = strip(each)
        assert picture.shape == (40, 5 * 40 + 4 * 2, 3)
        assert numbers == each.numbers
        for place, frame in zip(places, each.frames, strict=True):
            assert np.array_equal(picture[:, int(place) - 20 : int(place) + 20], frame)


@pytest.mark.parametrize("preset", CLIP_PRESETS)
def test_every_preset_makes_a_picture(preset: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips.png"
    assert main(["show", "clips", str(folder), "--preset", preset, "--out", str(out), "--samples", "2"]) in (0, None)
    with Image.open(out) as image:
        assert image.width > 800
        assert image.height > 200


def test_what_cannot_be_drawn(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the name of a picture"):
        show_clips(folder, CLIP_PRESETS["pace"](), tmp_path / "clips.txt")
    with pytest.raises(UserError, match="at least one sample"):
        show_clips(folder, CLIP_PRESETS["pace"](), tmp_path / "clips.png", count=0)
