"""Loading clips: against a slow plain loop, resumed at every step, on any threads and ranks, from every kind of set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from headrace.pipeline import Batch, Clip, ClipPlan, ClipSpec, Loader, TubeMask, View, ViewSpec, clip_plan, order
from headrace.pipeline.batch import normalize_images
from headrace.pipeline.clips.clips import DrawnClips
from headrace.pipeline.engines import DEVICE_ENGINES
from headrace.pipeline.engines.torchvision import apply_view
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from tests import clips

pytestmark = pytest.mark.peer("av")

VIEW = View(size=32, scale=(0.3, 1.0), jitter=0.5, brightness=0.4, saturation=0.4, blur=0.3)
PLAIN = View(size=24)
SPEC = ClipSpec(
    [
        Clip(frames=6, strides=(1, 2, 4), view=VIEW, reverse=0.5, short="loop"),
        Clip(frames=4, strides=(3,), view=PLAIN, disorder=0.5),
    ],
    masks=[TubeMask(grid=(4, 4), frames=3)],
)
FILES = [
    ("mp4", 0, 40),
    ("mp4", 40, 33),
    ("webm", 10, 25),
    ("mkv", 5, 50),
    ("avi", 60, 30),
    ("mp4", 80, 7),
    ("mpg", 0, 24),
]
COUNT = 14


def videos() -> Iterator[dict[str, Any]]:
    for number in range(COUNT):
        encoding, first, count = FILES[number % len(FILES)]
        data = clips.video(encoding, first=first + number // len(FILES), count=count, sound=number == 3)
        yield {"__key__": f"video_{number:02d}", "video": data, "label": number % 3}


FIELDS = {"video": Field(kind="video", encoding="mixed"), "label": Field(kind="int")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """14 videos of 7 to 50 frames, 176x144, in five containers."""
    path = tmp_path_factory.mktemp("videos") / "set"
    write_shards(path, videos(), FIELDS, shard_size=1 << 18)
    with open_shards(path) as opened:
        yield opened


def marks(engine: str) -> Any:
    """What running an engine needs."""
    return [pytest.mark.peer(*engine.split("+"))] if engine in DEVICE_ENGINES else []


def make(shards: ShardSet, spec: ClipSpec = SPEC, batch_size: int = 4, **options: Any) -> Loader:
    return Loader(shards, spec, batch_size, **({"seed": 5, "threads": 2} | options))


def copied(batches: Iterator[Batch]) -> list[dict[str, np.ndarray]]:
    found = []
    for batch in batches:
        assert isinstance(batch.drawn, DrawnClips)
        parts = {"index": batch.index, **batch.drawn._asdict(), **batch.masks[0]._asdict()}
        parts |= {f"view{number}": view for number, view in enumerate(batch.views)}
        found.append({name: part.numpy().copy() for name, part in parts.items()})
    return found


def assert_same(ours: list[dict[str, np.ndarray]], theirs: list[dict[str, np.ndarray]]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)


def joined(shares: list[list[dict[str, np.ndarray]]]) -> list[dict[str, np.ndarray]]:
    """The global batches of several ranks."""
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]


def every_frame(data: bytes) -> list[torch.Tensor]:
    """uint8 (3, H, W) each, PyAV's own conversion."""
    import av

    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [torch.from_numpy(frame).permute(2, 0, 1).contiguous() for frame in frames]


def draws_of(plan: ClipPlan, k: int, i: int, clip: Clip) -> np.ndarray:
    """What is done to picture i of clip k of the first row."""
    draws = plan.pixels.draws[0, k].copy()
    if clip.colours == "frame":
        for name in set(draws.dtype.names) - {"crop", "flip", "turns"}:
            draws[name] = plan.frame_pixels[0, k, i][name]
    return draws


def plain_loop(shards: ShardSet, spec: ClipSpec, seed: int, epoch: int, ids: np.ndarray) -> list[list[torch.Tensor]]:
    """Everything decoded, frames taken, each cut and changed by torchvision: K tensors (T, 3, S, S) a sample."""
    found = []
    for sample in ids.tolist():
        frames = every_frame(shards.read(sample)["video"])
        sizes = np.array([frames[0].shape[1:]], np.int32)
        plan = clip_plan(spec, seed, epoch, np.array([sample]), np.array([len(frames)]), sizes)
        found.append(
            [
                torch.stack(
                    [
                        apply_view(frames[t], draws_of(plan, k, i, clip), clip.view)
                        for i, t in enumerate(plan.frames[0, k, : clip.frames])
                    ]
                )
                for k, clip in enumerate(spec.clips)
            ]
        )
    return found


LARGEST_AND_MEAN = {
    "torchvision": (0, 0.0),
    "native": (3, 0.05),
    "kornia": (2, 0.001),
    "dali": (30, 0.4),  # which repeats the outermost pixels of a crop; see test_parity
    "dali+kornia": (30, 0.4),
}
"""Bounds of differences from torchvision, in grey levels."""
ENGINES = [pytest.param(name, marks=marks(name)) for name in LARGEST_AND_MEAN]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_slow_plain_loop_gives_the_same(engine: str, shards: ShardSet) -> None:
    with make(shards, engine=engine, drop_last=False) as loader:
        batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 4, 2]
    assert np.array_equal(np.concatenate([batch.index.numpy() for batch in batches]), order(5, 0, COUNT)[:])
    for batch in batches:
        expected = plain_loop(shards, SPEC, 5, 0, batch.index.numpy())
        for k in range(2):
            wanted = torch.stack([sample[k] for sample in expected]).permute(0, 2, 1, 3, 4)
            assert batch.views[k].is_contiguous(memory_format=torch.channels_last_3d)
            difference = (batch.views[k].int() - wanted.int()).abs()
            largest, mean = LARGEST_AND_MEAN[engine]
            assert difference.max() <= largest, (difference.max(), difference.float().mean())
            assert difference.float().mean() <= mean, (difference.max(), difference.float().mean())


@pytest.mark.parametrize("engine", ENGINES)
def test_each_frame_has_the_colours_that_were_drawn_for_it(engine: str, shards: ShardSet) -> None:
    spec = ClipSpec(
        [
            Clip(frames=5, strides=(2,), view=replace(VIEW, jitter=1.0), colours="frame"),
            Clip(frames=4, strides=(3,), view=VIEW),
        ]
    )
    with make(shards, spec, engine=engine, drop_last=False) as loader:
        batch = next(iter(loader))
    expected = plain_loop(shards, spec, 5, 0, batch.index.numpy())
    for k in range(2):
        wanted = torch.stack([sample[k] for sample in expected]).permute(0, 2, 1, 3, 4)
        difference = (batch.views[k].int() - wanted.int()).abs()
        largest, mean = LARGEST_AND_MEAN[engine]
        assert difference.max() <= largest, (difference.max(), difference.float().mean())
        assert difference.float().mean() <= mean, (difference.max(), difference.float().mean())


def test_batches_have_the_stated_shapes(shards: ShardSet) -> None:
    with make(shards) as loader:
        batch = next(iter(loader))
    assert [tuple(view.shape) for view in batch.views] == [(4, 3, 6, 32, 32), (4, 3, 4, 24, 24)]
    assert all(view.is_contiguous(memory_format=torch.channels_last_3d) for view in batch.views)
    assert isinstance(batch.drawn, DrawnClips)
    assert tuple(batch.drawn.frames.shape) == (4, 2, 6)
    assert tuple(batch.drawn.crop.shape) == (4, 2, 4)
    assert tuple(batch.masks[0].masked.shape) == (4, 3 * 14)  # type: ignore[union-attr]
    assert batch.labels is not None
    assert batch.labels.tolist() == [shards.read(i)["label"] for i in batch.index.tolist()]
    moved = batch.to("cpu")
    assert isinstance(moved.drawn, DrawnClips)
    assert torch.equal(moved.drawn.frames, batch.drawn.frames)


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_are_what_is_in_the_clip(engine: str, shards: ShardSet) -> None:
    """With whole frames at their own size, every frame of a clip is the one that the labels name."""
    view = View(size=144, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    spec = ClipSpec([Clip(frames=4, strides=(1, 2), view=view, reverse=0.5, disorder=0.5)])
    with make(shards, spec, engine=engine) as loader:
        for batch in loader:
            assert isinstance(batch.drawn, DrawnClips)
            for row, sample in enumerate(batch.index.tolist()):
                frames = every_frame(shards.read(sample)["video"])
                assert batch.drawn.length[row] == len(frames)
                for t, number in enumerate(batch.drawn.frames[row, 0].tolist()):
                    assert torch.equal(batch.views[0][row, :, t], frames[number][:, :, 16:160])


@pytest.mark.parametrize("engine", [each for each in ENGINES if each.values[0] != "torchvision"])
def test_floats_are_normalised_levels(engine: str, shards: ShardSet) -> None:
    with make(shards, engine=engine) as levels, make(shards, engine=engine, dtype="float32") as floats:
        for a, b in zip(levels, floats, strict=True):
            for x, y in zip(a.normalized(), b.views, strict=True):
                torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
                assert x.is_contiguous(memory_format=torch.channels_last_3d)
            assert torch.equal(normalize_images(a.views[0][:, :, 0], a.normalize[0]), a.normalized()[0][:, :, 0])


def test_resumes_at_every_step_on_other_ranks_and_threads(shards: ShardSet) -> None:
    with make(shards) as loader:
        states, expected = [loader.state_dict()], []
        for _ in range(2):
            for batch in loader:
                expected += copied(iter([batch]))
                states.append(loader.state_dict())
    for step, state in enumerate(states[:-1]):
        world = 1 + step % 3
        shares = []
        for rank in range(world):
            options = {"rank": rank, "world_size": world, "threads": 1 + step % 4, "prefetch": 1 + step % 2, "seed": 99}
            with make(shards, **options) as resumed:
                resumed.load_state_dict(state)
                rest = copied(iter(resumed))
                if len(rest) < len(expected) - step:
                    rest += copied(iter(resumed))
                shares.append(rest)
        assert_same(joined(shares), expected[step:])


def stored_frames(count: int = 10) -> np.ndarray:
    """uint8 (count, 40, 56, 3), pictures that tell their number."""
    random = np.random.Generator(np.random.Philox(3))
    return random.integers(0, 256, (count, 40, 56, 3), np.uint8)


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_stored_frames_in_both_formats(format: Literal["webdataset", "ffcv"], tmp_path: Any) -> None:
    pixels = [stored_frames(10) for _ in range(5)]
    samples = [{"__key__": f"{n:03d}", "frames": p, "label": n} for n, p in enumerate(pixels)]
    fields = {"frames": Field(kind="array", dtype="|u1", shape=pixels[0].shape), "label": Field(kind="int")}
    write_shards(tmp_path / "set", samples, fields, format=format)
    spec = ClipSpec.repeat(Clip(frames=3, strides=(2,), view=View(size=16), reverse=0.5), 2)
    with open_shards(tmp_path / "set") as opened, make(opened, spec, 5, engine="torchvision") as loader:
        (batch,) = loader
    assert isinstance(batch.drawn, DrawnClips)
    assert (batch.drawn.length == 10).all()
    for row, sample in enumerate(batch.index.tolist()):
        plan = clip_plan(spec, 5, 0, np.array([sample]), np.array([10]), np.array([[40, 56]], np.int32))
        for k in range(2):
            for t, number in enumerate(plan.frames[0, k]):
                frame = torch.from_numpy(pixels[sample][number]).permute(2, 0, 1)
                expected = apply_view(frame, plan.pixels.draws[0, k], spec.clips[k].view)
                assert torch.equal(batch.views[k][row, :, t], expected)


def test_stored_frames_native_equals_the_reference(tmp_path: Any) -> None:
    samples = [{"__key__": f"{n:03d}", "frames": stored_frames(4 + n)} for n in range(4)]  # of several lengths
    write_shards(tmp_path / "set", samples, {"frames": Field(kind="array")})
    spec = ClipSpec([Clip(frames=3, strides=(2,), view=View(size=16))])
    with (
        open_shards(tmp_path / "set") as opened,
        make(opened, spec, 4) as native,
        make(opened, spec, 4, engine="torchvision") as reference,
    ):
        (a,), (b,) = native, reference
    assert sorted(a.drawn.length.tolist()) == [4, 5, 6, 7]  # type: ignore[union-attr]
    assert torch.equal(a.views[0], b.views[0])


BAD = {2, 9}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """The videos, one cut off and one with rubbish in its middle."""
    samples = list(videos())
    samples[2]["video"] = samples[2]["video"][: len(samples[2]["video"]) // 2]
    data = samples[9]["video"]
    samples[9]["video"] = data[:64] + bytes(len(data) - 64)
    path = tmp_path_factory.mktemp("damaged") / "set"
    write_shards(path, samples, FIELDS)
    with open_shards(path) as opened:
        yield opened


def test_a_damaged_video_ends_the_epoch_with_its_name(damaged: ShardSet) -> None:
    with (
        make(damaged, shuffle=False) as loader,
        pytest.raises(ShardError, match=r"key video_02: cannot decode the vid"),
    ):
        list(loader)


@pytest.mark.parametrize("engine", ["native", pytest.param("dali+kornia", marks=marks("dali+kornia"))])
def test_substitutes_and_skips(engine: str, damaged: ShardSet) -> None:
    with make(damaged, engine=engine, on_error="substitute", drop_last=False) as loader:
        whole = list(loader)
        assert set(loader.bad) == BAD
    indices = np.concatenate([batch.index.numpy() for batch in whole])
    assert len(indices) == COUNT
    assert set(indices.tolist()) == set(range(COUNT)) - BAD
    for batch in whole:  # labels and pixels are the substitute's own
        assert isinstance(batch.drawn, DrawnClips)
        lengths = [FILES[i % len(FILES)][2] for i in batch.index.tolist()]
        assert batch.drawn.length.tolist() == lengths
    with make(damaged, engine=engine, on_error="substitute", drop_last=False, threads=5, prefetch=1) as loader:
        assert_same(copied(iter(loader)), copied(iter(whole)))
    with make(damaged, engine=engine, on_error="skip", drop_last=False) as loader:
        left = list(loader)
    indices = np.concatenate([batch.index.numpy() for batch in left])
    assert sorted(indices.tolist()) == sorted(set(range(COUNT)) - BAD)
    assert all(len(batch.drawn.frames) == len(batch) == len(batch.views[0]) for batch in left)  # type: ignore[union-attr]


def test_a_picture_that_claims_too_much_is_refused(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.pipeline.engines import clips as engine
    from headrace.shards.formats import video

    for module, name, limit, message in (
        (video, "MAX_PIXELS", 1000, "176x144 pixels, expected 1 to 1,000"),
        (video, "MAX_FRAMES", 5, "more than the limit of 5 frames"),
        (engine, "MAX_CLIP", 1000, "more than the limit of 1,000"),
    ):
        with monkeypatch.context() as patch, make(shards) as loader:
            patch.setattr(module, name, limit)
            with pytest.raises(ShardError, match=message):
                next(iter(loader))


def test_memory_is_used_again(shards: ShardSet) -> None:
    with make(shards, prefetch=1) as loader:
        addresses = set()
        for _ in range(4):
            for batch in loader:
                addresses.update(view.data_ptr() for view in batch.views)
        assert len(addresses) <= 2 * 4


def test_contradictory_arguments_are_refused(shards: ShardSet, photos: ShardSet) -> None:
    with pytest.raises(ValueError, match="no video field 'video'"):
        Loader(photos, SPEC, 4)
    with pytest.raises(ValueError, match="no video field 'film'"):
        Loader(shards, ClipSpec(SPEC.clips, field="film"), 4)
    with pytest.raises(ValueError, match="has no images; its fields are video, label"):
        Loader(shards, ViewSpec([PLAIN]), 4)
    with pytest.raises(
        ValueError, match=r"^engine 'ffcv' has no clips: its package has no video; use native or [^\n]*$"
    ):
        Loader(shards, SPEC, 4, engine="ffcv")


def test_an_array_that_is_no_video_is_refused_by_name(tmp_path: Any) -> None:
    samples = [{"__key__": f"{n:03d}", "frames": np.zeros((3, 8, 8), np.uint8)} for n in range(2)]
    write_shards(tmp_path / "set", samples, {"frames": Field(kind="array")})
    said = r"frames must be uint8 \(T, H, W, 3\), these are uint8 \(3, 8, 8\)"
    with (
        open_shards(tmp_path / "set") as opened,
        make(opened, SPEC, 2) as loader,
        pytest.raises(ShardError, match=said),
    ):
        next(iter(loader))
