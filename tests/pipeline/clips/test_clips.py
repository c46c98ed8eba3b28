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
    spec = ClipSpec([clip, Clip(view=VIEW)], [TubeMask(grid=(2, 2), frames=2, ratio=0.5)], starts="apart", field="film")
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
    together, apart = drawn(ClipSpec(clips), 40), drawn(ClipSpec(clips, starts="apart"), 40)

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
    assert np.array_equal(drawn(ClipSpec(clips, starts="apart"), 12).frames, drawn(ClipSpec(clips), 12).frames)


def test_the_order_of_clips_that_lie_apart_is_a_label() -> None:
    spec = ClipSpec.repeat(Clip(frames=4, strides=(2,), view=VIEW), 3, starts="apart")
    plan = drawn(spec, 40)
    assert np.array_equal(plan.sequence, plan.frames[:, :, 0].argsort(axis=1).argsort(axis=1))
    for order in permutations(range(3)):
        share((plan.sequence == order).all(axis=1), 1 / 6)
    assert (drawn(spec, 20).sequence == -1).all(), "too short for three clips"
    assert (drawn(ClipSpec(spec.clips), 40).sequence == -1).all()


def test_clips_in_a_row_lie_at_the_interval_in_any_order() -> None:
    """As the authors of clip order have it: 3 clips of 16 frames with 8 between them take 64."""
    plan = drawn(ClipSpec.repeat(Clip(strides=(1,), view=VIEW), 3, starts="row", interval=8), 67)
    in_time = np.take_along_axis(plan.frames[:, :, 0], plan.sequence.argsort(axis=1), axis=1)
    assert (np.diff(in_time, axis=1) == 24).all()
    for start in range(4):
        share(in_time[:, 0] == start, 1 / 4)
    for order in permutations(range(3)):
        share((plan.sequence == order).all(axis=1), 1 / 6)
    short = drawn(ClipSpec.repeat(Clip(strides=(1,), view=VIEW), 3, starts="row", interval=8), 50, 10)
    rows = short.sequence.argsort(axis=1)
    assert (np.take_along_axis(short.frames[:, :, 0], rows, axis=1) == [0, 24, 48]).all()
    assert (np.take_along_axis(short.frames[:, :, -1], rows, axis=1) == [15, 39, 49]).all()


def test_near_clips_have_a_distance_whose_density_falls_on_a_line() -> None:
    """CVRL's: P(distance < t) is 2 t / M - t^2 / M^2 with M starts, and the earlier one lies anywhere that is left."""
    stats = pytest.importorskip("scipy.stats")
    count, starts = 10_000, 200
    plan = drawn(ClipSpec.repeat(Clip(frames=16, strides=(2,), view=VIEW), 2, starts="near"), 30 + starts, count)
    first, second = plan.frames[:, 0, 0].astype(int), plan.frames[:, 1, 0].astype(int)
    distance = np.abs(first - second)
    assert (distance.min(), distance.max() < starts) == (0, True)
    t = np.arange(1, starts + 1) / starts
    expected = np.diff(2 * t - t**2, prepend=0.0)
    bins = np.arange(0, starts + 1, 10)
    found, _ = np.histogram(distance, bins)
    assert stats.chisquare(found, count * expected.reshape(-1, 10).sum(axis=1)).pvalue > 0.01
    spread = np.random.Generator(np.random.Philox(1)).random(count)  # within a frame
    assert stats.kstest((distance + spread) / starts, lambda x: 2 * x - x**2).pvalue > 0.01
    share(first < second, np.mean(first != second) / 2)
    assert np.array_equal(plan.sequence[:, 0], 1 - plan.sequence[:, 1])
    assert (np.where(plan.sequence[:, 1] == 1, second - first, first - second) >= 0).all()
    place = np.minimum(first, second) / (starts - distance)
    assert abs(place.mean() - 0.5) < 0.02
    one_place = drawn(ClipSpec.repeat(Clip(frames=16, strides=(2,), view=VIEW), 2, starts="near"), 31, 10)
    assert (one_place.frames[:, :, 0] == 0).all()


def test_clips_that_start_together_lie_where_the_longest_fits() -> None:
    spec = ClipSpec([Clip(frames=4, strides=(s,), view=VIEW) for s in (1, 2)], starts="together")
    plan = drawn(spec, 10)
    assert np.array_equal(plan.frames[:, 0, 0], plan.frames[:, 1, 0])
    assert (plan.frames[:, 1, 3] - plan.frames[:, 0, 3] == 3).all()
    for start in range(4):
        share(plan.frames[:, 0, 0] == start, 1 / 4)


def test_a_rate_stretches_the_stride_and_frames_are_rounded_down() -> None:
    clip = Clip(frames=16, strides=(1,), view=VIEW, rate=(1.7, 2.2))
    plan = drawn(ClipSpec([clip]), 60)
    steps = np.diff(plan.frames[:, 0], axis=1)
    assert set(np.unique(steps)) == {1, 2, 3}
    span = plan.frames[:, 0, 15] - plan.frames[:, 0, 0]
    assert (span.min(), span.max()) == (25, 32)  # 15 times 1.7 and 2.2, rounded down
    assert abs((span / 15).mean() - (1.95 - 0.5 / 15)) < 0.01
    assert plan.frames.max() == 59
    assert clip.span(1) == 34
    assert np.array_equal(
        drawn(ClipSpec([Clip(frames=16, strides=(2,), view=VIEW, rate=(1.0, 1.0))]), 60).frames,
        drawn(ClipSpec([Clip(frames=16, strides=(2,), view=VIEW)]), 60).frames,
    )


def test_colours_of_each_frame_are_drawn_by_themselves() -> None:
    view = View(size=16, flip=0.5, turns=(0, 1), jitter=0.8, brightness=0.4, hue=0.1, grayscale=0.2, blur=0.5)
    clips = [Clip(frames=5, view=view, colours="frame"), Clip(frames=4, view=view)]
    plan = drawn(ClipSpec(clips), 80, 500)
    own = plan.frame_pixels[:, 0].copy()
    assert own.shape == (500, 5)
    assert (plan.frame_pixels[:, 1]["jitter_factor"] == 0).all(), "the other clip has its view's"
    share(own["jitter_order"][..., 0] >= 0, 0.8)
    share(own["grayscale"], 0.2)
    share(own["blur_sigma"] > 0, 0.5)
    factors = own["jitter_factor"][..., 0]
    assert len(np.unique(factors)) == factors.size
    assert abs(np.corrcoef(factors[:, 0], factors[:, 1])[0, 1]) < 0.15
    once = drawn(ClipSpec([Clip(frames=5, view=view), Clip(frames=4, view=view)]), 80, 500)
    assert np.array_equal(plan.pixels.draws, once.pixels.draws), "crop and flip do not move"
    assert once.frame_pixels.size == 0
    assert np.array_equal(drawn(ClipSpec(clips[:1]), 80, 500).frame_pixels[:, 0], own)


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
        "sequence": ((7, 2), "torch.int64"),
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
        ({"rate": (1.2, 1.0)}, "Clip.rate"),
        ({"rate": (0.0, 1.0)}, "Clip.rate"),
        ({"colours": "pixel"}, "Clip.colours"),
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
        ([Clip()], {"starts": "behind"}, "ClipSpec.starts must be one of"),
        ([Clip()] * 2, {"interval": 4}, "for starts in a row"),
        ([Clip()] * 2, {"starts": "row", "interval": -1}, "from 0 on"),
        ([Clip()] * 3, {"starts": "near"}, "two clips of one length"),
        ([Clip(), Clip(frames=8)], {"starts": "near"}, "two clips of one length"),
        ([Clip(strides=(1, 2))] * 2, {"starts": "near"}, "two clips of one length"),
        ([Clip(rate=(1.0, 1.2))] * 2, {"starts": "near"}, "two clips of one length"),
    ):
        with pytest.raises(ValueError, match=message):
            ClipSpec(clips, **options)
