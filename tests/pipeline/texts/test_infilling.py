"""BART's noise and ALBERT's runs of words are what the authors' algorithms give with the same draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from headrace.pipeline import Infilling, TokenMask
from headrace.pipeline.texts.infilling import poisson
from tests.pipeline.noise_loops import Draw, albert_places, bart
from tests.pipeline.texts.test_tokens import texts

SEED, EPOCH, NUMBER = 11, 3, 2
STOP, MASK, PAD, BOS, EOS = 13, 4, 1, 0, 2
BART = Infilling(stop=STOP, mask_id=MASK, vocabulary=500, padding=PAD)


def documents(count: int, longest: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Between <s> and </s>, words of 1 to 4 tokens of 20 to 499, and full stops, also several in a row."""
    draw = np.random.Generator(np.random.Philox(seed))
    tokens = draw.integers(20, 500, (count, longest))
    tokens[draw.random((count, longest)) < 0.15] = STOP
    lengths = draw.integers(2, longest + 1, count)
    lengths[:4] = longest, 2, 3, 4
    words = np.cumsum(draw.random((count, longest)) < 0.6, axis=1)
    for row, length in enumerate(lengths):
        tokens[row, 0], tokens[row, length - 1], tokens[row, length:] = BOS, EOS, PAD
        words[row, [0, length - 1]] = 0
    return {"tokens": tokens, "lengths": lengths, "words": words}


@pytest.mark.parametrize(
    "spec",
    [
        BART,
        Infilling(stop=STOP, mask_id=MASK, vocabulary=500, padding=PAD, permuted=0.5, mean_length=0.7, random=0.5),
        Infilling(stop=STOP, mask_id=MASK, vocabulary=500, padding=PAD, ratio=0.0),
        Infilling(stop=-1, mask_id=MASK, vocabulary=500, padding=PAD, permuted=0.0, ratio=1.0, mean_length=2.0),
    ],
    ids=["bart", "inserts", "sentences", "all"],
)
def test_noise_is_barts(spec: Infilling) -> None:
    given = documents(120, 70)
    ids = np.arange(500, 620)
    found = spec.draw(SEED, EPOCH, ids, **given, before=1, behind=1, number=NUMBER)
    inserted = 0
    for row, length in enumerate(given["lengths"]):
        tokens, words = (given[name][row, :length].tolist() for name in ("tokens", "words"))
        expected, count = bart(Draw(SEED, EPOCH, int(ids[row]), NUMBER), tokens, words, spec, longest=70)
        inserted += count
        assert found.inputs[row, : len(expected)].tolist() == expected
        assert (found.inputs[row, len(expected) :] == PAD).all()
        assert int(found.input_count[row]) == len(expected)
        assert found.labels[row, :length].tolist() == tokens
        assert (found.labels[row, length:] == -100).all()
    if spec.mean_length == 0.7:
        assert inserted > 50


def test_permutation_alone_keeps_every_sentence() -> None:
    given = documents(200, 60)
    spec = Infilling(stop=STOP, mask_id=MASK, vocabulary=500, padding=PAD, ratio=0.0)
    found = spec.draw(SEED, EPOCH, np.arange(200), **given, before=1, behind=1)
    moved = 0
    for row, length in enumerate(given["lengths"]):
        before, after = given["tokens"][row, :length].tolist(), found.inputs[row, :length].tolist()
        assert int(found.input_count[row]) == length
        assert (after[0], after[-1]) == (BOS, EOS)
        assert sorted(before) == sorted(after)
        moved += before != after
    assert moved > 120


def test_all_orders_of_sentences_are_equally_likely() -> None:
    tokens = np.tile([BOS, 21, STOP, 22, STOP, 23, 33, EOS], (6000, 1))
    spec = Infilling(stop=STOP, mask_id=MASK, vocabulary=500, padding=PAD, ratio=0.0)
    found = spec.draw(SEED, EPOCH, np.arange(6000), tokens, np.full(6000, 8), before=1, behind=1)
    orders, counts = np.unique(found.inputs.numpy(), axis=0, return_counts=True)
    assert len(orders) == 6
    assert chisquare(counts).pvalue > 1e-4


def test_three_of_ten_words_are_lost_and_a_mask_is_left_of_each_span() -> None:
    """Spans may reach into others, so that a little less than asked for is lost, as in the authors' code."""
    n = 302
    tokens = np.tile(np.arange(1000, 1000 + n), (2000, 1))
    spec = Infilling(stop=-1, mask_id=MASK, vocabulary=5000, padding=PAD, permuted=0.0, random=0.0)
    found = spec.draw(SEED, EPOCH, np.arange(2000), tokens, np.full(2000, n), before=1, behind=1)
    inputs = found.inputs.numpy()
    masks = (inputs == MASK).sum(1)
    kept = (inputs >= 1000).sum(1)
    assert (masks + kept == found.input_count.numpy()).all()
    # Of 300 words 90 are asked for, in 90 / 3.5 spans, of which a sixth begin in others.
    lost = (n - kept).mean() / (n - 2)
    assert 0.25 < lost <= 0.3
    assert masks.mean() == pytest.approx(90 / 3.5 * 5 / 6, rel=0.05)
    assert (inputs[:, 0] == 1000).all()
    for row in range(50):
        text = inputs[row, : found.input_count[row]]
        assert (np.diff(text[text != MASK]) > 0).all(), "what is left stays in its order"


def test_lengths_of_spans_are_poissons() -> None:
    found = poisson(3.5)
    assert found.sum() == pytest.approx(1.0)
    expected = [math.exp(-3.5) * 3.5**k / math.factorial(k) for k in range(len(found))]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[-1] < 1e-7 <= expected[-2]


def test_a_text_is_noisy_alike_in_any_batch_and_never_longer_than_there_is_room() -> None:
    spec = Infilling(stop=STOP, mask_id=MASK, vocabulary=500, padding=PAD, mean_length=0.3, ratio=0.9)
    given = documents(60, 40)
    whole = spec.draw(SEED, EPOCH, np.arange(60), **given, before=1, behind=1)
    assert (whole.input_count <= 40).all()
    rows = [3, 50, 7]
    some = spec.draw(SEED, EPOCH, np.array(rows), **{name: x[rows] for name, x in given.items()}, before=1, behind=1)
    assert torch.equal(some.inputs, whole.inputs[rows])
    other = spec.draw(SEED, EPOCH + 1, np.arange(60), **given, before=1, behind=1)
    assert not torch.equal(other.inputs, whole.inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Infilling(permuted=1.5), r"Infilling.permuted must be in \[0, 1\], got 1.5"),
        (lambda: Infilling(ratio=-0.1), r"Infilling.ratio must be in \[0, 1\], got -0.1"),
        (lambda: Infilling(mean_length=0), r"Infilling.mean_length must be in \(0, 64\], got 0"),
        (lambda: TokenMask(ngram=0), "TokenMask.ngram must be at least 1, got 0"),
        (lambda: TokenMask(rounding="up"), "TokenMask.rounding must be nearest or drawn, got up"),  # type: ignore[arg-type]
        (lambda: TokenMask(vocabulary=5, first_random=5), "TokenMask.first_random must be a token of the vocabulary"),
        (
            lambda: Infilling().draw(0, 0, np.arange(1), np.zeros((1, 4)), np.ones(1), before=1, behind=1),
            r"Infilling.stop must be named where no tokenizer says it",
        ),
    ],
)
def test_contradictions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("whole", [False, True], ids=["tokens", "words"])
@pytest.mark.parametrize("longest", [2, 3])
def test_runs_of_words_are_alberts(longest: int, whole: bool) -> None:
    spec = TokenMask(vocabulary=30_522, mask_id=103, ngram=longest, most=12)
    given = texts(80, 90)
    words = given.pop("words")
    ids = np.arange(700, 780)
    found = spec.draw(SEED, EPOCH, ids, **given, words=words if whole else None, number=NUMBER)
    for row, length in enumerate(given["lengths"]):
        special = given["special"][row, :length].tolist()
        of_row = words[row, :length].tolist() if whole else list(range(length))
        places = albert_places(Draw(SEED, EPOCH, int(ids[row]), NUMBER), special, of_row, spec)
        assert (found.labels[row] != -100).nonzero()[:, 0].tolist() == sorted(places)
        assert int(found.masked_count[row]) == len(places)
    tokens, labels = given["tokens"], found.labels.numpy()
    assert (labels[labels != -100] == tokens[labels != -100]).all()


def test_shorter_runs_are_commoner() -> None:
    """Of 60 words 9 are wanted; the first run is of n words with a probability of 1 / n, over their sum."""
    spec = TokenMask(vocabulary=50, mask_id=3, ngram=3, hidden=1.0, random=0.0, most=3)
    found = spec.draw(SEED, EPOCH, np.arange(12_000), np.full((12_000, 60), 7), np.full(12_000, 60))
    chosen = found.labels.numpy() != -100
    three = chosen[:, :-2] & chosen[:, 1:-1] & chosen[:, 2:]
    # Three in a row are one run of three, or by chance shorter ones side by side.
    assert (found.masked_count == 3).all()
    share = three.any(1).mean()
    assert (1 / 3) / (11 / 6) < share < (1 / 3) / (11 / 6) + 0.12
    assert chisquare(chosen[:, 5:55].sum(0)).pvalue > 1e-4


def test_masks_of_before_are_as_they_were() -> None:
    """Kept from the code before runs of words, drawn counts and noise came."""
    found = TokenMask(vocabulary=500, mask_id=3).draw(
        7, 1, np.arange(3), np.arange(60).reshape(3, 20) + 100, np.full(3, 20)
    )
    hidden = [(found.tokens[row] == 3).nonzero()[:, 0].tolist() for row in range(3)]
    assert hidden == [[6, 7], [15, 17, 19], [4, 14, 18]]
    assert found.labels[0, [6, 7]].tolist() == [106, 107]
    assert int(found.masked_count.sum()) == 9
