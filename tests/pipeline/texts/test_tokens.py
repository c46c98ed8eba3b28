"""Token masks are what the authors' algorithms give with the same draws, and those draws are as random as theirs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from headrace.pipeline import SpanMask, TokenMask
from tests.pipeline.token_loops import Draw, bert, t5_noise, t5_sentinels

SEED, EPOCH, NUMBER = 11, 3, 2
CLS, SEP, PAD, MASK = 101, 102, 0, 103
BERT = TokenMask(vocabulary=30_522, mask_id=MASK)
ANY_ORDER = tuple(range(500, 600)) + tuple(range(400, 300, -1))


def texts(count: int, longest: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`count` texts of ids above 999 between [CLS] and [SEP], words of 1 to 4 tokens, padded to `longest`."""
    draw = np.random.Generator(np.random.Philox(seed))
    tokens = draw.integers(1000, 30_522, (count, longest))
    lengths = draw.integers(2, longest + 1, count)
    lengths[0] = longest
    words = np.cumsum(draw.random((count, longest)) < 0.5, axis=1)
    special = np.zeros(tokens.shape, bool)
    for row, length in enumerate(lengths):
        tokens[row, 0], tokens[row, length - 1], tokens[row, length:] = CLS, SEP, PAD
        special[row, [0, length - 1]] = True
    return {"tokens": tokens, "lengths": lengths, "special": special, "words": words}


@pytest.mark.parametrize("whole", [False, True], ids=["tokens", "words"])
@pytest.mark.parametrize(
    "spec", [BERT, TokenMask(vocabulary=30_522, mask_id=3, ratio=0.5, most=20, hidden=0.4, random=0.6)]
)
def test_masks_are_berts(spec: TokenMask, whole: bool) -> None:
    given_texts = texts(40, 90)
    words = given_texts.pop("words")
    ids = np.arange(500, 540)
    masks = spec.draw(SEED, EPOCH, ids, **given_texts, words=words if whole else None, number=NUMBER)
    for row, length in enumerate(given_texts["lengths"]):
        arguments = (given_texts[name][row, :length].tolist() for name in ("tokens", "special"))
        draw = Draw(SEED, EPOCH, int(ids[row]), NUMBER)
        output, labels = bert(draw, *arguments, words[row].tolist() if whole else None, spec)
        assert masks.tokens[row, :length].tolist() == output
        assert masks.labels[row, :length].tolist() == labels
        assert (masks.tokens[row, length:] == PAD).all()
        assert (masks.labels[row, length:] == -100).all()
        assert int(masks.masked_count[row]) == sum(label != -100 for label in labels)


def test_counts_are_exact() -> None:
    for length in range(2, 513):
        assert BERT.wanted(np.array(length)) == max(1, round(length * 0.15))
    texts_ = texts(300, 128)
    words = texts_.pop("words")
    masks = BERT.draw(SEED, EPOCH, np.arange(300), **texts_)
    enough = np.minimum(BERT.wanted(texts_["lengths"]), texts_["lengths"] - 2)  # all but [CLS] and [SEP]
    assert masks.masked_count.tolist() == enough.tolist()
    assert torch.equal((masks.labels != -100).sum(1), masks.masked_count)
    assert not (masks.labels.numpy() != -100)[texts_["special"]].any()
    whole = BERT.draw(SEED, EPOCH, np.arange(300), **texts_, words=words)
    assert (whole.masked_count.numpy() <= enough).all()
    for row, length in enumerate(texts_["lengths"]):
        chosen = whole.labels[row].numpy() != -100
        inner = slice(1, length - 1)
        assert chosen.any() == (length > 2)
        found, sizes = np.unique(words[row, inner], return_counts=True)
        if sizes.min(initial=length) > BERT.wanted(length):
            continue  # every word is too long
        for word in found:
            assert len(set(chosen[inner][words[row, inner] == word])) == 1, "a word is masked whole or not at all"


def test_places_and_replacements_are_as_frequent_as_asked() -> None:
    texts_ = {"tokens": np.full((6000, 40), 7), "lengths": np.full(6000, 40)}
    spec = TokenMask(vocabulary=50, mask_id=3)
    masks = spec.draw(SEED, EPOCH, np.arange(6000), **texts_)
    chosen = masks.labels.numpy() != -100
    assert chosen.sum() == 6000 * 6
    assert chisquare(chosen.sum(0)).pvalue > 1e-4
    became = masks.tokens.numpy()[chosen]
    hidden, kept = int((became == 3).sum()), int((became == 7).sum())
    assert binomtest(hidden, len(became), 0.8 + 0.1 / 50).pvalue > 1e-4
    assert binomtest(kept, len(became), 0.1 + 0.1 / 50).pvalue > 1e-4
    others = np.bincount(became[(became != 3) & (became != 7)], minlength=50)
    assert chisquare(np.delete(others, [3, 7])).pvalue > 1e-4
    # Neighbours are no more often masked together than others.
    together = [(chosen[:, :-gap] & chosen[:, gap:]).mean() for gap in (1, 2, 7)]
    assert np.allclose(together, 6 / 40 * 5 / 39, rtol=0.06)


@pytest.mark.parametrize(
    "spec",
    [SpanMask(), SpanMask(density=0.5, mean_length=1.0, sentinels=ANY_ORDER, end=-1, padding=9)],
    ids=["t5", "dense"],
)
def test_spans_are_t5s(spec: SpanMask) -> None:
    tokens = texts(60, 120)["tokens"]
    lengths = np.concatenate([[0, 1, 2, 3, 4, 120], np.arange(20, 74)])
    ids = np.arange(900, 960)
    found = spec.draw(SEED, EPOCH, ids, tokens, lengths, number=NUMBER)
    # What a specification does not say is T5's.
    end = [] if spec.end == -1 else [1]
    sentinels = spec.sentinels or tuple(range(32_099, 31_999, -1))
    for row, length in enumerate(lengths):
        noise = t5_noise(Draw(SEED, EPOCH, int(ids[row]), NUMBER), int(length), spec)
        assert found.noise[row, :length].tolist() == noise.tolist()
        assert not found.noise[row, length:].any()
        text = tokens[row, :length]
        for rows, counts, mask, filling in (
            (found.inputs, found.input_count, noise, spec.padding or 0),
            (found.labels, found.label_count, ~noise, -100),
        ):
            expected = t5_sentinels(text, mask, sentinels) + end
            assert int(counts[row]) == len(expected)
            assert rows[row, : len(expected)].tolist() == expected
            assert (rows[row, len(expected) :] == filling).all()
    assert int(found.input_count.max()) == found.inputs.shape[1], "no room is wasted on the longest text"
    assert int(found.label_count.max()) == found.labels.shape[1]


def test_span_counts_are_exact() -> None:
    """As T5's code: 512 tokens lose 77 in 26 spans; what it calls inputs of 512 need 568 tokens and give 114 labels."""
    lost, spans = SpanMask().sizes(np.array([512, 568]))
    assert (lost.tolist(), spans.tolist()) == ([77, 85], [26, 28])
    tokens = np.tile(np.arange(568), (50, 1))
    found = SpanMask().draw(SEED, EPOCH, np.arange(50), tokens, np.full(50, 568))
    assert found.inputs.shape == (50, 512)
    assert found.labels.shape == (50, 114)
    assert (found.noise.sum(1) == 85).all()
    starts = found.noise[:, 1:] & ~found.noise[:, :-1]
    assert (starts.sum(1) == 28).all()


def test_all_ways_to_cut_are_equally_likely() -> None:
    """10 tokens lose 4 in 2 spans: 3 ways to cut these, 5 to cut the others."""
    spec = SpanMask(density=0.4, mean_length=2.0)
    found = spec.draw(SEED, EPOCH, np.arange(9000), np.zeros((9000, 10), int), np.full(9000, 10))
    seen = Counter(map(tuple, found.noise.tolist()))
    assert len(seen) == 15
    assert chisquare(list(seen.values())).pvalue > 1e-4


@given(
    rows=st.lists(st.integers(0, 29), min_size=1, max_size=8),
    more=st.integers(0, 9),
    epoch=st.integers(0, 2**40),
    seed=st.integers(-(2**63), 2**63),
)
@settings(max_examples=25, deadline=None)
def test_a_text_is_masked_alike_in_any_batch(rows: list[int], more: int, epoch: int, seed: int) -> None:
    """Also beside longer ones."""
    whole = texts(30, 50)
    some = {name: array[rows] for name, array in whole.items()}
    for name in ("tokens", "special", "words"):
        some[name] = np.pad(some[name], ((0, 0), (0, more)))
    ids = np.arange(30)
    a, b = BERT.draw(seed, epoch, ids, **whole), BERT.draw(seed, epoch, ids[rows], **some)
    assert torch.equal(a.tokens[rows], b.tokens[:, :50])
    assert torch.equal(a.labels[rows], b.labels[:, :50])
    c = SpanMask().draw(seed, epoch, ids, whole["tokens"], whole["lengths"])
    d = SpanMask().draw(seed, epoch, ids[rows], some["tokens"], some["lengths"])
    assert torch.equal(c.noise[rows], d.noise[:, :50])
    for i, row in enumerate(rows):
        assert torch.equal(c.inputs[row, : c.input_count[row]], d.inputs[i, : d.input_count[i]])
        assert torch.equal(c.labels[row, : c.label_count[row]], d.labels[i, : d.label_count[i]])


@pytest.mark.parametrize("length", [9, 40, 400])
@pytest.mark.parametrize("words", ["one", "two"])
def test_something_of_words_that_are_all_too_long_is_to_be_predicted(length: int, words: str) -> None:
    """As many tokens as of short words, neighbours, from anywhere in a word."""
    spec = TokenMask(vocabulary=30_522, mask_id=MASK, most=20)
    tokens = np.random.Generator(np.random.Philox(3)).integers(1000, 30_522, (500, length))
    special = np.zeros(tokens.shape, bool)
    special[:, [0, length - 1]] = True
    numbers = np.broadcast_to(np.arange(length) >= (length // 2 if words == "two" else 0), tokens.shape)
    lengths = np.full(500, length)
    masks = spec.draw(SEED, EPOCH, np.arange(500), tokens, lengths, special=special, words=numbers, number=NUMBER)
    wanted = int(spec.wanted(np.array(length)))
    assert (masks.masked_count == wanted).all()
    chosen = masks.labels.numpy() != -100
    for row in range(500):
        places = np.flatnonzero(chosen[row])
        assert np.array_equal(places, np.arange(places[0], places[0] + wanted))
        assert len(set(numbers[row, places])) == 1
        output, labels = bert(
            Draw(SEED, EPOCH, row, NUMBER), tokens[row].tolist(), special[row].tolist(), numbers[row].tolist(), spec
        )
        assert (masks.tokens[row].tolist(), masks.labels[row].tolist()) == (output, labels)
    assert chosen[:, [5, length // 2, length - 5]].any(axis=0).all()


def test_each_epoch_seed_and_number_masks_anew() -> None:
    whole = {"tokens": texts(200, 60)["tokens"], "lengths": np.full(200, 60)}
    ids = np.arange(200)
    first = BERT.draw(SEED, EPOCH, ids, **whole).labels
    spans = SpanMask().draw(SEED, EPOCH, ids, whole["tokens"], whole["lengths"]).noise
    for seed, epoch, number in ((SEED, EPOCH + 1, 0), (SEED + 1, EPOCH, 0), (SEED, EPOCH, 1)):
        other = BERT.draw(seed, epoch, ids, **whole, number=number).labels
        assert (first != other).any(1).float().mean() > 0.9
        noise = SpanMask().draw(seed, epoch, ids, whole["tokens"], whole["lengths"], number=number).noise
        assert (spans != noise).any(1).float().mean() > 0.9
    assert torch.equal(first, BERT.draw(SEED, EPOCH, ids, **whole).labels)


def test_shapes_and_types() -> None:
    whole = texts(5, 30)
    before = whole["tokens"].copy()
    masks = BERT.draw(SEED, EPOCH, np.arange(5), **{**whole, "tokens": whole["tokens"].astype(np.int32)})
    assert [part.shape for part in masks] == [(5, 30), (5, 30), (5,)]
    spans = SpanMask().draw(SEED, EPOCH, np.arange(5), whole["tokens"], whole["lengths"])
    assert all(part.dtype == torch.int64 for part in (*masks, *spans[:4]))
    assert spans.noise.shape == (5, 30)
    assert np.array_equal(whole["tokens"], before), "what was given stays as it is"
    none = BERT.draw(SEED, EPOCH, np.arange(0), np.zeros((0, 30), int), np.zeros(0, int))
    assert none.tokens.shape == (0, 30)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenMask(vocabulary=10, mask_id=10), r"TokenMask.mask_id must be in \[0, 10\), got 10"),
        (lambda: TokenMask(vocabulary=10, mask_id=1, ratio=0.0), r"TokenMask.ratio must be in \(0, 1\], got 0.0"),
        (lambda: TokenMask(vocabulary=10, mask_id=1, random=0.3), r"TokenMask.random must be in \[0, 1 - hidden\]"),
        (lambda: TokenMask(vocabulary=10, mask_id=1, most=0), "TokenMask.most must be at least 1 or None, got 0"),
        (lambda: SpanMask(density=1.0), r"SpanMask.density must be in \(0, 1\), got 1.0"),
        (lambda: SpanMask(mean_length=0.5), "SpanMask.mean_length must be at least 1, got 0.5"),
        (lambda: SpanMask(sentinels=()), r"SpanMask.sentinels must be one or more tokens, or None, got \(\)"),
        (lambda: SpanMask(end=-2), "SpanMask.end must be a token, -1 or None, got -2"),
        (lambda: TokenMask(mask_id=-1), "TokenMask.mask_id must be at least 0, got -1"),
        (
            lambda: TokenMask(mask_id=3).draw(0, 0, [0], [[5, 6]], [2]),
            "TokenMask.vocabulary and mask_id must be named where no tokenizer says them",
        ),
        (
            lambda: SpanMask(sentinels=(9, 8)).draw(0, 0, np.arange(2), np.zeros((2, 60), int), np.array([10, 60])),
            "a text of 60 tokens has 3 spans, there are 2 sentinels",
        ),
        (lambda: BERT.draw(0, 0, [0], [[5, 6]], [3]), r"lengths must lie in \[0, 2\], got 3 to 3"),
        (lambda: BERT.draw(0, 0, [0], [[5, -1]], [2]), r"tokens must lie in \[0, 30522\), got -1 to 5"),
        (lambda: BERT.draw(0, 0, [0, 1], [[5, 6]], [2]), r"sample_ids must have shape \(1,\), got \(2,\)"),
        (lambda: BERT.draw(0, 0, [0], [5, 6], [2]), r"tokens must have shape \(B, L\), got \(2,\)"),
        (lambda: BERT.draw(0, 0, [0], [[5, 6]], [2], words=[[1]]), r"words must have the shape of tokens, \(1, 2\)"),
    ],
)
def test_contradictions_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
