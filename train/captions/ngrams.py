"""BLEU and CIDEr-D: how many runs of one to four words a caption shares with its references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ORDERS = 4
"""Runs of up to so many words."""
SIGMA = 6.0
"""Of CIDEr-D's penalty of lengths, in words."""

Ngrams = Counter[tuple[str, ...]]


def ngrams(sentence: str) -> Ngrams:
    """Every run of one to four words, and how often it stands there."""
    words = sentence.split()
    return Counter(tuple(words[first : first + n]) for n in range(1, ORDERS + 1) for first in range(len(words) - n + 1))


def bleu_statistics(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> np.ndarray:
    """What BLEU adds up over images, int64 (n, 10): for one to four words how many runs of the caption stand in a
    reference too, counted at most as often as in the reference that has most of them; how many it has; its words; and
    those of the reference whose length is the nearest, the shorter of two.

    Source: tylin/coco-caption at 3a9afb2, pycocoevalcap/bleu/bleu_scorer.py, with the option "closest".
    """
    rows = np.zeros((len(hypotheses), 2 * ORDERS + 2), np.int64)
    for row, of_image, hypothesis in zip(rows, references, hypotheses, strict=True):
        most: Ngrams = Counter()
        for reference in of_image:
            most |= ngrams(reference)
        words = len(hypothesis.split())
        for ngram, count in ngrams(hypothesis).items():
            row[len(ngram) - 1] += min(most[ngram], count)
        row[ORDERS : 2 * ORDERS] = [max(0, words - n) for n in range(ORDERS)]
        row[-2] = words
        row[-1] = min((abs(len(reference.split()) - words), len(reference.split())) for reference in of_image)[1]
    return rows


def bleu(statistics: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4, float64 (..., 4), of statistics (..., 10) of an image or summed over images; 0 to 1.

    Without smoothing: where not one run is right, there is a tiny positive score and not 0.

    Source: as `bleu_statistics`; BLEU is Papineni et al., ACL 2002.
    """
    statistics = np.asarray(statistics, np.float64)
    right, guessed = statistics[..., :ORDERS], statistics[..., ORDERS : 2 * ORDERS]
    precision = np.cumprod((right + 1e-15) / (guessed + 1e-9), axis=-1)
    score = precision ** (1 / np.arange(1, ORDERS + 1))
    ratio = (statistics[..., -2] + 1e-15) / (statistics[..., -1] + 1e-9)
    return score * np.exp(np.minimum(1 - 1 / ratio, 0))[..., None]


def cider_d(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> np.ndarray:
    """CIDEr-D of each image, float64 (n,), from 0 to 10; the corpus has their mean.

    A run of words counts the less, the more images' references have it, so that scores depend on the whole set. A
    caption of fewer than four words cannot reach 10, and a single image has 0: compare with the score of the references
    themselves.

    Source: tylin/coco-caption at 3a9afb2, pycocoevalcap/cider/cider_scorer.py; CIDEr-D is arXiv 1411.5726.
    """
    cooked = [[ngrams(reference) for reference in of_image] for of_image in references]
    frequency = Counter(ngram for of_image in cooked for ngram in set().union(*of_image))
    images = np.log(float(len(hypotheses)))
    rarity = {ngram: images - np.log(count) for ngram, count in frequency.items()}
    found = np.zeros(len(hypotheses))
    for number, (of_image, hypothesis) in enumerate(zip(cooked, hypotheses, strict=True)):
        weighted = _weighted(ngrams(hypothesis), rarity, images)
        likeness = sum(_likeness(weighted, _weighted(reference, rarity, images)) for reference in of_image)
        found[number] = 10 * likeness / len(of_image)
    return found


class _Weighted(NamedTuple):
    weights: dict[tuple[str, ...], float]
    norms: list[float]
    """Of the runs of each number of words."""
    length: int
    """Runs of two words."""


def _weighted(counts: Ngrams, rarity: dict[tuple[str, ...], float], unseen: float) -> _Weighted:
    weights = {ngram: count * rarity.get(ngram, unseen) for ngram, count in counts.items()}
    squares = [0.0] * ORDERS
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight**2
    pairs = sum(count for ngram, count in counts.items() if len(ngram) == 2)
    return _Weighted(weights, [square**0.5 for square in squares], pairs)


def _likeness(hypothesis: _Weighted, reference: _Weighted) -> float:
    """Mean over numbers of words of the clipped cosine, less for other lengths."""
    products = [0.0] * ORDERS
    for ngram, weight in hypothesis.weights.items():
        theirs = reference.weights.get(ngram, 0.0)
        products[len(ngram) - 1] += min(weight, theirs) * theirs
    cosines = [
        product / (ours * theirs) if ours and theirs else product
        for product, ours, theirs in zip(products, hypothesis.norms, reference.norms, strict=True)
    ]
    apart = hypothesis.length - reference.length
    return float(sum(cosines) / ORDERS * np.exp(-(apart**2) / (2 * SIGMA**2)))
