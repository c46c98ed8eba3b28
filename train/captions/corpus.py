"""All metrics of captions over a set of images, and what a bootstrap over the images needs of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.train.captions.meteor import meteor, meteor_statistics
from headrace.train.captions.meteor_words import MeteorWords, meteor_words
from headrace.train.captions.ngrams import bleu, bleu_statistics, cider_d
from headrace.train.captions.rouge import rouge_l
from headrace.train.captions.tokens import caption_words

Weighed = Callable[[np.ndarray], float]
"""A score where image i counts as often as int64 (n,) says."""


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """Scores of captions of n images, by the names BLEU-1 to BLEU-4, ROUGE-L, CIDEr-D and that of METEOR, which says
    what it compares; all from 0 to 1 but CIDEr-D, which reaches 10."""

    images: int
    """n."""
    corpus: Mapping[str, float]
    """Of the whole set."""
    each: Mapping[str, np.ndarray]
    """float64 (n,): of every image by itself. The mean of BLEU and of METEOR over images is not that of the set."""
    weighed: Mapping[str, Weighed]
    """The score of the set where images count more than once or not at all, for `intervals.bootstrap`. CIDEr-D keeps
    the rarity of words in the whole set."""


def score_captions(
    references: Sequence[Sequence[str]],
    hypotheses: Sequence[str],
    *,
    words: MeteorWords | None = None,
    tokenized: bool = False,
) -> CaptionScores:
    """Scores of one caption an image against the image's references, as coco-caption calculates them.

    Args:
        references: of each image one or more.
        hypotheses: of each image one, in the same order.
        words: METEOR's word lists; None takes those of `meteor_words`.
        tokenized: whether all are words with single spaces between them already; else they are cut by `caption_words`.

    Raises:
        ValueError: if there is no image, there are not as many hypotheses as images, or an image has no reference.
        ImportError: without the package snowballstemmer, which METEOR needs.
        RunError: for a damaged file of METEOR's words.

    Source: tylin/coco-caption at 3a9afb2, pycocoevalcap/eval.py, but for METEOR's paraphrases and SPICE.
    """
    if not hypotheses or len(references) != len(hypotheses):
        raise ValueError(
            f"{len(hypotheses):,} captions for {len(references):,} images, which must be as many, and some"
        )
    if without := [number for number, of_image in enumerate(references) if not of_image]:
        raise ValueError(f"{len(without):,} images have no reference, such as number {without[0]}")
    if not tokenized:
        references = [[caption_words(reference) for reference in of_image] for of_image in references]
        hypotheses = [caption_words(hypothesis) for hypothesis in hypotheses]
    words = words or meteor_words()
    weighed: dict[str, Weighed] = {}
    each: dict[str, np.ndarray] = {}
    ngrams = bleu_statistics(references, hypotheses)
    for order, of_images in enumerate(bleu(ngrams).T):
        each[f"BLEU-{order + 1}"] = of_images
        weighed[f"BLEU-{order + 1}"] = _of_sums(ngrams, _bleu_of_order(order))
    for name, found in (("ROUGE-L", rouge_l(references, hypotheses)), ("CIDEr-D", cider_d(references, hypotheses))):
        each[name], weighed[name] = found, _of_mean(found)
    alignments = meteor_statistics(references, hypotheses, words)
    each[words.name], weighed[words.name] = meteor(alignments), _of_sums(alignments, meteor)
    once = np.ones(len(hypotheses), np.int64)
    return CaptionScores(
        images=len(hypotheses), corpus={name: of(once) for name, of in weighed.items()}, each=each, weighed=weighed
    )


def _of_sums(statistics: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> Weighed:
    return lambda counts: float(score(counts @ statistics))


def _bleu_of_order(order: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: bleu(sums)[order]


def _of_mean(values: np.ndarray) -> Weighed:
    return lambda counts: float(counts @ values / counts.sum())
