"""Strips of clips: the frames that the loader gives, with the numbers that were drawn for them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline import Clip, ClipSpec, Loader, RandomMask, TubeBlockMask, TubeMask, View
from headrace.pipeline.masks import MaskSpec
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.pictures.animation import MILLISECONDS, Playing, animated
from headrace.tools.pictures.delivered import delivered
from headrace.tools.pictures.show import show, shown
from headrace.tools.pictures.show_clips import clips_of, strip
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


def clips_in(shards: ShardSet, spec: ClipSpec, *, masks: bool = False, **options: int) -> list[Playing]:
    (one,) = delivered(shards, spec, **options).values()
    return clips_of(one, masks=masks)


def test_a_strip_is_what_the_loader_gives(shards: ShardSet) -> None:
    clip = Clip(frames=5, strides=(2, 3), view=View(size=40), reverse=1.0)
    spec = ClipSpec.repeat(clip, 2, odd=True)
    strips = clips_in(shards, spec, count=2, seed=4)
    assert len(strips) == 4
    with Loader(shards, spec, 2, seed=4) as loader:
        batch = next(iter(loader))
    drawn: Any = batch.drawn
    for number, each in enumerate(strips):
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


@pytest.mark.parametrize(
    "mask", [TubeMask(grid=(4, 4), frames=2, ratio=0.5), TubeBlockMask(grid=(4, 4), frames=2, blocks=2, scale=0.2)]
)
def test_what_a_tube_hides_is_dimmed_in_all_frames(mask: MaskSpec, shards: ShardSet) -> None:
    spec = ClipSpec([Clip(frames=4, strides=(2,), view=View(size=16))], [mask])
    whole, behind = clips_in(shards, spec, masks=True, count=1)
    with Loader(shards, spec, 1) as loader:
        (drawn,) = next(iter(loader)).masks
    seen = drawn.visible[0] if isinstance(mask, TubeMask) else drawn.context[0, : drawn.context_count[0]]
    patches = np.zeros((2, 4, 4), bool)
    patches.ravel()[seen.numpy()] = True
    kept = np.kron(patches, np.ones((2, 4, 4))).astype(bool)  # a step of the mask's time is two frames
    same = (whole.frames == behind.frames).all(axis=3)
    assert np.all(same[kept])
    assert same[~kept].mean() < 0.1  # a level may be the grey of the dimming already
    assert behind.title.startswith(f"mask 0: {type(mask).__name__}, ")
    assert behind.numbers == whole.numbers


def test_a_mask_of_one_step_hides_the_same_of_every_frame(shards: ShardSet) -> None:
    spec = ClipSpec([Clip(frames=3, strides=(2,), view=View(size=16))], [RandomMask(grid=(2, 2), ratio=0.5)])
    whole, behind = clips_in(shards, spec, masks=True, count=1)
    changed = (whole.frames != behind.frames).any(axis=3).reshape(3, 2, 8, 2, 8).any(axis=(2, 4))
    assert changed.sum(axis=(1, 2)).tolist() == [2, 2, 2]
    assert (changed == changed[0]).all()


SPEC = ClipSpec.repeat(Clip(frames=6, strides=(2,), view=View(size=32)), 2, [TubeMask(grid=(4, 4), frames=3)])


@pytest.mark.parametrize("what", ["clips", "masks"])
def test_they_make_a_picture(what: str, folder: Path, tmp_path: Path) -> None:
    assert list(shown(SPEC)) == ["clips", "masks"]
    out = tmp_path / "clips.png"
    playing = tmp_path / "clips.webp"
    assert show(what, folder, SPEC, out, count=2) == [out, playing]
    with Image.open(out) as image:
        assert image.width > 800
        assert image.height > 200
    with Image.open(playing) as image:
        assert image.n_frames == 6  # type: ignore[attr-defined]
        assert image.info["loop"] == 0, "without end"


@pytest.mark.parametrize("what", ["clips", "masks"])
def test_the_command_draws_those_of_a_recipe(
    what: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clips.png"
    assert main(["show", what, str(folder), "--method", "videomae_small", "--samples", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n{out.with_suffix('.webp')}\n"
    assert Image.open(out).width > 800


def test_clips_play_frame_after_frame_with_their_numbers() -> None:
    """A clip of 16 pixels is shown at 128; the shorter one waits at its last frame."""
    levels = np.linspace(30, 220, 5).astype(np.uint8)
    long, short = (np.broadcast_to(levels[:n, None, None, None], (n, 16, 16, 3)) for n in (5, 3))
    clips = [
        Playing(frames=long, numbers=[3, 5, 7, 9, 11], title="one · start 3 of 60 · stride 2"),
        Playing(frames=short, numbers=[0, 1, 2], title="two"),
    ]
    with Image.open(io.BytesIO(animated(clips))) as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]
        labels = []
        for t in range(5):
            image.seek(t)
            assert image.info.get("duration", MILLISECONDS) == MILLISECONDS
            pixels = np.asarray(image.convert("RGB")).astype(int)
            tiles = pixels[8 : 8 + 128, 8 : 8 + 128], pixels[8 : 8 + 128, 144 : 144 + 128]
            for tile, level in zip(tiles, (levels[t], levels[min(t, 2)]), strict=True):
                assert np.abs(tile - level).max() <= 3
            labels.append(pixels[8 + 128 : 8 + 142, 8:136])
            assert (labels[-1] < 128).any(), "the number of the frame"
        assert np.abs(labels[0] - labels[1]).max() > 100


def test_what_cannot_be_drawn(folder: Path, photos: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no video field"):
        show("clips", photos.path, SPEC, tmp_path / "clips.png")
    with pytest.raises(UserError, match="the name of a picture"):
        show("clips", folder, SPEC, tmp_path / "clips.txt")
    with pytest.raises(UserError, match="at least one sample"):
        show("clips", folder, SPEC, tmp_path / "clips.png", count=0)
    with pytest.raises(UserError, match="there are no tiles; there are clips and masks"):
        show("tiles", folder, SPEC, tmp_path / "clips.png")
