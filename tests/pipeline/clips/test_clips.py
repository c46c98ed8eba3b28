"""Clip plans: frames, labels and their frequencies, against the definitions in words."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from headrace.pipeline import Clip, ClipPlan, ClipSpec, TubeMask, View, clip_plan

VIEW = View(size=16)
MANY = 4000


def drawn(spec: ClipSpec, length: int | np.ndarray, count: int = MANY, seed: int = 3, epoch: int = 0) -> ClipPlan:
    """The plan of `count` videos of 48x64 pixels."""
    lengths = np.broadcast_to(np.asarray(length, np.int32), count)
    return clip_plan(spec, seed, epoch, np.arange(count), lengths, np.tile(np.int32([48, 64]), (count, 1)))


def share(found: np.ndarray, expected: float) -> None:
    """The mean of booleans is `expected` within four standard deviations."""
    deviation = np.sqrt(expected * (1 - expected) / found.size)
    assert abs(found.mean() - expected) <= 4 * deviation + 1e-12


def test_frames_follow_each_other_at_the_stride_inside_the_video() -> None:
    plan = drawn(ClipSpec([Clip(frames=5, strides=(3,), view=VIEW)]), 40)
    starts = plan.frames[:, 0, 0]
    assert np.array_equal(plan.frames[:, 0], starts[:, None] + 3 * np.arange(5))
    counts = np.bincount(starts, minlength=28)
    assert len(counts) == 40 - 12  # the last start is the one whose clip ends with the video
    assert np.abs(counts - MANY / 28).max() < 5 * np.sqrt(MANY / 28)
    assert np.array_equal(plan.permutation[:, 0], np.tile(np.arange(5), (MANY, 1)))
    assert plan.ordered.all()
    assert not plan.reversed.any()
    assert (plan.odd == -1).all()
    assert (plan.length == 40).all()


@pytest.mark.parametrize(("length", "start"), [(40, 13), (41, 14), (13, 0), (14, 0), (5, 0)])
def test_a_clip_in_the_middle(length: int, start: int) -> None:
    """As many frames before it as behind it, or one fewer; a short video from its beginning."""
    plan = drawn(ClipSpec([Clip(frames=5, strides=(3,), view=VIEW, place="center")]), length, 10)
    expected = np.minimum(start + 3 * np.arange(5), length - 1)
    assert np.array_equal(plan.frames[:, 0], np.tile(expected, (10, 1)))


def test_what_probes_are_shown_has_nothing_drawn() -> None:
    view = View(size=16, scale=(0.2, 0.5), interpolation="bicubic", flip=0.5, jitter=1.0, brightness=0.4)
    clip = Clip(frames=4, strides=(2, 4), view=view, short="loop", reverse=0.5, disorder=0.5)
    spec = ClipSpec([clip, Clip(view=VIEW)], [TubeMask(grid=(2, 2), frames=2, ratio=0.5)], apart=True, field="film")
    plain = View(size=16, scale=(1.0, 1.0), ratio=(1.0, 1.0), interpolation="bicubic", flip=0.0)
    middle = Clip(frames=4, strides=(2,), view=plain, place="center", short="loop")
    assert spec.plain() == ClipSpec([middle], field="film")
    assert spec.plain().plain() == spec.plain()
    plan = drawn(spec.plain(), 11, 10)
    assert (plan.frames[:, 0] == [2, 4, 6, 8]).all()
    assert (plan.pixels.crop[:, 0] == [0, 8, 48, 48]).all()


@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("short", ["clamp", "loop"])
def test_a_short_video(short: str, length: int) -> None:
    plan = drawn(ClipSpec([Clip(frames=5, strides=(3,), view=VIEW, short=short)]), length, 10)  # type: ignore[arg-type]
    wanted = 3 * np.arange(5)
    expected = wanted % length if short == "loop" else np.minimum(wanted, length - 1)
    assert np.array_equal(plan.frames[:, 0], np.tile(expected, (10, 1)))


def test_every_pace_is_equally_likely_and_its_label_is_the_place_of_the_stride() -> None:
    strides = (1, 2, 4, 8)
    plan = drawn(ClipSpec([Clip(frames=4, strides=strides, view=VIEW)]), 100)
    for label, stride in enumerate(strides):
        chosen = plan.pace[:, 0] == label
        share(chosen, 0.25)
        assert (np.diff(plan.frames[chosen, 0], axis=1) == stride).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_reversal(probability: float) -> None:
    plan = drawn(ClipSpec([Clip(frames=4, strides=(2,), view=VIEW, reverse=probability)]), 50)
    share(plan.reversed, probability)
    step = np.where(plan.reversed[:, 0], -2, 2)
    assert (np.diff(plan.frames[:, 0], axis=1) == step[:, None]).all()
    places = np.where(plan.reversed, np.arange(4)[::-1], np.arange(4))
    assert np.array_equal(plan.permutation[:, 0], places)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_disorder_draws_every_order_but_that_of_time_and_its_reverse(probability: float) -> None:
    plan = drawn(ClipSpec([Clip(frames=4, strides=(2,), view=VIEW, disorder=probability)]), 50)
    wrong = ~plan.ordered[:, 0]
    share(wrong, probability)
    assert np.array_equal(plan.permutation[~wrong, 0], np.tile(np.arange(4), (int((~wrong).sum()), 1)))
    found = [tuple(order) for order in plan.permutation[wrong, 0].tolist()]
    assert set(found) <= set(permutations(range(4))) - {(0, 1, 2, 3), (3, 2, 1, 0)}
    for order in set(found):
        share(np.array([each == order for each in found]), 1 / 22)
    assert len(set(found)) == (22 if probability else 0)
    first = plan.frames[:, 0].min(axis=1)
    assert np.array_equal(plan.frames[:, 0], first[:, None] + 2 * plan.permutation[:, 0])


def test_a_frame_in_the_middle_is_replaced_by_one_from_outside() -> None:
    clip = Clip(frames=3, strides=(4,), view=VIEW, disorder=0.5, disorder_by="replacing", reverse=0.5)
    plan = drawn(ClipSpec([clip]), 17)  # the five frames are 0, 4, 8, 12, 16
    shown = plan.frames[:, 0].copy()
    shown[plan.reversed[:, 0]] = shown[plan.reversed[:, 0], ::-1]
    share(plan.ordered, 0.5)
    assert (shown[plan.ordered[:, 0]] == [4, 8, 12]).all()
    wrong = shown[~plan.ordered[:, 0]]
    share(wrong[:, 1] == 0, 0.5)
    assert {tuple(row) for row in wrong.tolist()} == {(4, 0, 12), (4, 16, 12)}
    assert np.array_equal(plan.permutation[:, 0], plan.frames[:, 0].argsort(axis=1).argsort(axis=1))


def test_the_odd_one_is_in_disorder_and_the_others_are_not() -> None:
    spec = ClipSpec.repeat(Clip(frames=4, strides=(1,), view=VIEW), 3, odd=True)
    plan = drawn(spec, 50)
    for k in range(3):
        share(plan.odd == k, 1 / 3)
        assert np.array_equal(plan.ordered[:, k], plan.odd != k)
        assert np.array_equal((np.diff(plan.frames[:, k], axis=1) == 1).all(axis=1), plan.ordered[:, k])


def test_clips_start_independently_or_lie_apart() -> None:
    clips = [Clip(frames=4, strides=(1, 3), view=VIEW), Clip(frames=6, strides=(2,), view=VIEW)]
    together, apart = drawn(ClipSpec(clips), 40), drawn(ClipSpec(clips, apart=True), 40)

    def overlap(plan: ClipPlan) -> np.ndarray:
        first, last = plan.frames[:, 0, [0, 3]], plan.frames[:, 1, [0, 5]]
        return (first[:, 0] <= last[:, 1]) & (last[:, 0] <= first[:, 1])

    assert overlap(together).mean() > 0.3
    assert not overlap(apart).any()
    share(apart.frames[:, 0, 0] < apart.frames[:, 1, 0], 0.5)
    assert (apart.frames[:, 0, :4].max(), apart.frames[:, 1].max()) == (39, 39)
    assert apart.frames[:, 0, :4].min() == apart.frames[:, 1].min() == 0
    assert (apart.frames[:, 0, 4:] == -1).all()  # behind the shorter clip
    assert (apart.permutation[:, 0, 4:] == -1).all()
    # Too short for both: as if they were independent.
    assert np.array_equal(drawn(ClipSpec(clips, apart=True), 12).frames, drawn(ClipSpec(clips), 12).frames)


def test_a_row_depends_on_seed_epoch_sample_and_clip_alone() -> None:
    clip = Clip(frames=4, strides=(1, 2), view=View(size=16, jitter=0.5, brightness=0.4), reverse=0.5, disorder=0.5)
    spec = ClipSpec.repeat(clip, 3)
    lengths = np.arange(100, 150, dtype=np.int32)
    whole = drawn(spec, lengths, 50)
    ids = np.array([31, 4, 17])
    some = clip_plan(spec, 3, 0, ids, lengths[ids], np.tile(np.int32([48, 64]), (3, 1)))
    for name in ("frames", "pace", "reversed", "ordered", "permutation", "length", "odd"):
        assert np.array_equal(getattr(some, name), getattr(whole, name)[ids])
    assert np.array_equal(some.pixels.crop, whole.pixels.crop[ids])
    assert np.array_equal(whole[ids].frames, some.frames)
    first = drawn(ClipSpec([clip]), lengths, 50)
    assert np.array_equal(first.frames[:, 0], whole.frames[:, 0])  # other clips beside it change nothing
    for seed, epoch in ((4, 0), (3, 1)):
        assert not np.array_equal(drawn(spec, lengths, 50, seed, epoch).frames, whole.frames)
    assert not np.array_equal(whole.frames[:, 0], whole.frames[:, 1])


def test_labels_are_tensors_of_the_stated_shapes() -> None:
    spec = ClipSpec([Clip(frames=4, view=VIEW), Clip(frames=6, view=VIEW)])
    labels = drawn(spec, 99, 7).drawn()
    assert {name: (tuple(part.shape), str(part.dtype)) for name, part in labels._asdict().items()} == {
        "frames": ((7, 2, 6), "torch.int32"),
        "length": ((7,), "torch.int32"),
        "pace": ((7, 2), "torch.int64"),
        "reversed": ((7, 2), "torch.bool"),
        "ordered": ((7, 2), "torch.bool"),
        "permutation": ((7, 2, 6), "torch.int64"),
        "odd": ((7,), "torch.int64"),
        "crop": ((7, 2, 4), "torch.int32"),
        "flip": ((7, 2), "torch.bool"),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "Clip.frames"),
        ({"frames": 5000}, "Clip.frames"),
        ({"strides": ()}, "Clip.strides"),
        ({"strides": (1, 0)}, "Clip.strides"),
        ({"short": "stop"}, "Clip.short"),
        ({"reverse": 1.5}, "Clip.reverse"),
        ({"disorder": -0.1}, "Clip.disorder"),
        ({"disorder": 0.5, "frames": 2}, "at least 3 frames"),
        ({"disorder_by": "sorting"}, "Clip.disorder_by"),
        ({"disorder_by": "replacing", "frames": 4}, "needs 3 frames"),
    ],
)
def test_contradictory_clips_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clip(**options)


def test_contradictory_specifications_are_refused() -> None:
    for clips, options, message in (
        ([], {}, "at least one clip"),
        ([Clip()], {"odd": True}, "at least two"),
        ([Clip(), Clip(disorder=0.5)], {"odd": True}, "without a disorder"),
    ):
        with pytest.raises(ValueError, match=message):
            ClipSpec(clips, **options)
