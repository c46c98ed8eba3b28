"""Spans of frames beside those of fairseq's code, written anew here, and negatives."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from headrace.pipeline import FrameSpanMask, NegativeFrameDraw
from headrace.pipeline.masks import draw_masks
from headrace.pipeline.masks.spans import covered

SPECS = [FrameSpanMask(frames=100), NegativeFrameDraw(frames=7, among=11, count=9)]


def drawn(spec: Any, samples: int, seed: int = 7, epoch: int = 0) -> Any:
    (masks,) = draw_masks((spec,), seed, epoch, np.arange(samples))
    return masks


def fairseqs(frames: int, ratio: float, span: int, smallest: int, random: np.random.Generator) -> np.ndarray:
    """bool (frames,): one row of `compute_mask_indices` before rows are made alike, as its docstring tells it."""
    count = max(smallest, int(ratio * frames / span + random.random()))
    hidden = np.zeros(frames, np.bool_)
    for start in random.choice(frames - span, count, replace=False):
        hidden[start : start + span] = True
    return hidden


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_a_row_depends_on_seed_epoch_sample_and_number_alone(spec: Any) -> None:
    (whole,) = drawn(spec, 40)
    ((some,),) = draw_masks((spec,), 7, 0, np.array([31, 4, 4]))
    assert torch.equal(some, whole[[31, 4, 4]])
    second = draw_masks((spec, spec), 7, 0, np.arange(40))[1]
    for (other,) in (drawn(spec, 40, epoch=1), drawn(spec, 40, seed=8), second):
        assert not torch.equal(other, whole)


@pytest.mark.parametrize(("frames", "ratio", "smallest"), [(781, 0.65, 2), (781, 0.8, 2), (100, 0.65, 2), (30, 0.1, 2)])
def test_as_many_frames_are_hidden_as_by_fairseq_on_average(frames: int, ratio: float, smallest: int) -> None:
    random = np.random.default_rng(0)
    theirs = np.array([fairseqs(frames, ratio, 10, smallest, random).sum() for _ in range(3000)])
    ours = FrameSpanMask(frames=frames, ratio=ratio, smallest=smallest).masked
    assert abs(ours - theirs.mean()) < 0.5 + 4 * theirs.std() / 3000**0.5


def test_shares_are_the_published_ones() -> None:
    """49 % in wav2vec 2.0's code (paper, section 4.2: about half of the frames), 57 % in HuBERT's."""
    assert FrameSpanMask(frames=781).masked / 781 == pytest.approx(0.49, abs=0.01)
    assert FrameSpanMask(frames=781, ratio=0.8).masked / 781 == pytest.approx(0.56, abs=0.01)


def test_the_average_is_that_over_all_choices() -> None:
    sizes = [len({*range(a, a + 3), *range(b, b + 3)}) for a, b in combinations(range(9 - 3), 2)]
    assert covered(9, 3, 2) == pytest.approx(np.mean(sizes))


def test_counts_are_exact_and_frames_lie_in_spans() -> None:
    spec = FrameSpanMask(frames=100)
    (masked,) = drawn(spec, 500)
    assert masked.shape == (500, spec.masked)
    assert (masked.diff(dim=1) > 0).all()
    hidden = torch.zeros(500, 100, dtype=torch.bool).scatter(1, masked, True)
    assert not hidden[:, -1].any()
    edges = torch.cat([torch.zeros(500, 1), hidden.float(), torch.zeros(500, 1)], dim=1).diff(dim=1)
    for row in range(500):
        begins, ends = (edges[row] == 1).nonzero()[:, 0], (edges[row] == -1).nonzero()[:, 0]
        assert ((ends - begins) < 10).sum() <= 1  # the span that was cut


def test_frames_are_hidden_as_often_as_by_fairseq() -> None:
    """At the beginning and the end less often than in the middle."""
    random = np.random.default_rng(1)
    theirs = np.mean([fairseqs(60, 0.65, 10, 2, random) for _ in range(20_000)], axis=0)
    (masked,) = drawn(FrameSpanMask(frames=60), 20_000)
    ours = torch.zeros(20_000, 60).scatter(1, masked, 1.0).mean(dim=0).numpy()
    assert ours[-1] == theirs[-1] == 0
    np.testing.assert_allclose(ours, theirs, atol=0.03)
    assert np.abs(ours - theirs).mean() < 0.012


def test_negatives_are_all_other_frames_alike() -> None:
    (negatives,) = drawn(NegativeFrameDraw(frames=5, among=6, count=10), 2000)
    assert negatives.shape == (2000, 5, 10)
    assert negatives.dtype == torch.int64
    for frame in range(5):
        counts = negatives[:, frame].flatten().bincount(minlength=6).numpy()
        assert counts[frame] == 0
        assert chisquare(np.delete(counts, frame)).pvalue > 1e-4
    together = torch.stack([negatives[:, 0, 0], negatives[:, 0, 1]]).unique(dim=1)
    assert together.shape[1] == 25  # with replacement, and independent


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FrameSpanMask(frames=11), "FrameSpanMask.frames must be at least 12, got 11"),
        (lambda: FrameSpanMask(frames=100, ratio=1.0), r"ratio must be in \(0, 1\), got 1.0"),
        (lambda: FrameSpanMask(frames=100, span=0), "span must be at least 1, got 0"),
        (lambda: NegativeFrameDraw(frames=1, among=1), "among must be at least 2, got 1"),
        (lambda: NegativeFrameDraw(frames=9, among=8), "frames must be 1 to 8, got 9"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
