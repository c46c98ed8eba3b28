"""Training of a unigram tokenizer as SentencePiece's (1804.10959), the same from the same words each time.

The library `tokenizers` has a trainer, too, whose sums follow the order of a hash table, so that it finds another
vocabulary in each run. Here words are sorted and sums have one order. As in google/sentencepiece at 0fe7add,
src/unigram_model_trainer.cc: seeds are the substrings of words by frequency times length; two steps of EM, in which
pieces that are expected less than half a time go; the pieces whose loss would cost least go, a quarter at a time, until
a tenth more are left than wanted; the best are kept beside all letters. Other than there, seeds are all substrings and
not those that a suffix array calls maximal, a piece never reaches over a word, and a loss counts how often a piece
stands in words, not how many words it stands in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import digamma

from headrace.pipeline.compiled import kernel

LONGEST = 16
"""Letters of a piece."""
SEEDS = 12
"""Times the vocabulary, at most, that EM begins with."""
LEAST = 0.5
"""A piece that is expected less often goes."""
STEPS = 2
"""Of EM between two prunings."""
KEPT = 0.75
"""Share of the pieces that a pruning keeps."""
SPARE = 1.1
"""Times the vocabulary at which pruning ends."""

Floats = npt.NDArray[np.float64]


def train_unigram(words: Mapping[str, int], letters: Sequence[str], size: int) -> list[tuple[str, float]]:
    """At most `size` pieces with their natural logarithms, the likeliest first; the letters are among them.

    Args:
        words: with their counts.
        letters: that are to be in the vocabulary, fewer than `size`. A word with another one counts without it.
        size: of the vocabulary.
    """
    kept = set(letters)
    counts: Counter[str] = Counter()
    for word in sorted(words):
        for part in _runs(word, kept):
            counts[part] += words[word]
    parts = sorted(counts)
    pieces = _seeds(parts, counts, sorted(kept), max(size, SEEDS * size))
    required = np.array([len(piece) == 1 for piece in pieces])
    numbers = {piece: number for number, piece in enumerate(pieces)}
    lattice = _Lattice(parts, numbers, np.array([counts[part] for part in parts], np.float64))
    inner = _Lattice(pieces, numbers, np.ones(len(pieces)), proper=True)
    seen = np.zeros(len(pieces))
    for part in parts:  # of the seeds, by how often they stand in words
        for edge in range(len(part)):
            for length in range(1, min(LONGEST, len(part) - edge) + 1):
                number = numbers.get(part[edge : edge + length])
                if number is not None:
                    seen[number] += counts[part]
    logs: Floats = np.log(seen / seen.sum())
    wanted = int(SPARE * size)
    while True:
        for _ in range(STEPS):
            expected = lattice.expected(logs)
            alive = (expected >= LEAST) | required
            expected = np.where(required, np.maximum(expected, LEAST), expected)
            logs = np.full(len(pieces), -np.inf)
            logs[alive] = digamma(expected[alive]) - digamma(expected[alive].sum())
        left = int(np.isfinite(logs).sum())
        if left <= max(wanted, len(kept)):
            break
        logs = _pruned(logs, required, lattice.best(logs), inner, max(wanted, int(KEPT * left)))
    order = sorted(np.flatnonzero(np.isfinite(logs)).tolist(), key=lambda number: (-logs[number], pieces[number]))
    others = [number for number in order if not required[number]][: size - len(kept)]
    chosen = sorted([*others, *np.flatnonzero(required).tolist()], key=lambda number: (-logs[number], pieces[number]))
    return [(pieces[number], float(logs[number])) for number in chosen]


def _runs(word: str, letters: set[str]) -> list[str]:
    """The parts of a word that have known letters only."""
    return "".join(letter if letter in letters else "\n" for letter in word).split("\n") if word else []


def _seeds(parts: Sequence[str], counts: Mapping[str, int], letters: Sequence[str], most: int) -> list[str]:
    """All letters, and the substrings of words that stand there twice or more, best first."""
    found: Counter[str] = Counter()
    for part in parts:
        count = counts[part]
        for begin in range(len(part)):
            for end in range(begin + 2, min(len(part), begin + LONGEST) + 1):
                found[part[begin:end]] += count
    good = [piece for piece, count in found.items() if count > 1]
    good.sort(key=lambda piece: (-found[piece] * len(piece), piece))
    return [*letters, *good[: most - len(letters)]]


class _Lattice:
    """The pieces that each of some strings can be made of: edges by string, by their end, then by their begin.

    Args:
        proper: without the string itself as an edge.
    """

    def __init__(
        self, strings: Sequence[str], numbers: Mapping[str, int], weights: Floats, proper: bool = False
    ) -> None:
        begins, ends, pieces = [], [], []
        starts = [0]
        for string in strings:
            for end in range(1, len(string) + 1):
                for begin in range(max(0, end - LONGEST), end):
                    number = numbers.get(string[begin:end])
                    if number is not None and not (proper and end - begin == len(string)):
                        begins.append(begin)
                        ends.append(end)
                        pieces.append(number)
            starts.append(len(begins))
        edges = (np.array(column, np.int64) for column in (begins, ends, pieces, starts))
        self._arrays = (*edges, np.array([len(string) for string in strings], np.int64), weights)

    def expected(self, logs: Floats) -> Floats:
        """How often each piece is expected in all strings."""
        counts = np.zeros(len(logs))
        _expect(*self._arrays, logs, counts)
        return counts

    def best(self, logs: Floats) -> Floats:
        """How often each piece is in the likeliest cuts of all strings."""
        counts = np.zeros(len(logs))
        _count_best(*self._arrays, logs, counts)
        return counts

    def cuts(self, logs: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The likeliest cut of each string: pieces, one string behind the other, and where each begins; none of one
        that cannot be cut."""
        lengths = self._arrays[4]
        pieces = np.empty(int(lengths.sum()), np.int64)
        starts = np.empty(len(lengths) + 1, np.int64)
        _cuts(*self._arrays, logs, pieces, starts)
        return pieces[: starts[-1]], starts


def _pruned(logs: Floats, required: npt.NDArray[np.bool_], frequency: Floats, inner: _Lattice, most: int) -> Floats:
    """The logarithms with the pieces out whose loss costs the likelihood least; `most` are left."""
    cuts, starts = inner.cuts(logs)
    total = frequency.sum()
    cost = np.full(len(logs), -np.inf)
    for number in np.flatnonzero(np.isfinite(logs)).tolist():
        others = cuts[starts[number] : starts[number + 1]]
        if required[number] or not len(others):  # nothing else makes it
            cost[number] = np.inf
        elif frequency[number] > 0 and logs[others].sum() <= logs[number]:  # else it is made of others already
            own = frequency[number]
            without = np.log(total + own * (len(others) - 1))
            cost[number] = own / total * (np.log(own / total) - (np.log(frequency[others] + own) - without).sum())
    order = np.lexsort((np.arange(len(logs)), -cost))[:most]
    kept = np.full(len(logs), -np.inf)
    kept[order] = np.where(cost[order] > -np.inf, logs[order], -np.inf)
    return np.where(required, logs, kept)


@kernel
def _expect(begins, ends, pieces, starts, lengths, weights, logs, counts):
    forward = np.empty(lengths.max() + 1)
    backward = np.empty(lengths.max() + 1)
    for string in range(len(lengths)):
        size = lengths[string]
        forward[: size + 1] = -np.inf
        backward[: size + 1] = -np.inf
        forward[0] = backward[size] = 0.0
        for edge in range(starts[string], starts[string + 1]):
            value = forward[begins[edge]] + logs[pieces[edge]]
            if value > -np.inf:
                forward[ends[edge]] = np.logaddexp(forward[ends[edge]], value)
        for edge in range(starts[string + 1] - 1, starts[string] - 1, -1):
            value = backward[ends[edge]] + logs[pieces[edge]]
            if value > -np.inf:
                backward[begins[edge]] = np.logaddexp(backward[begins[edge]], value)
        if forward[size] == -np.inf:
            continue
        for edge in range(starts[string], starts[string + 1]):
            value = forward[begins[edge]] + logs[pieces[edge]] + backward[ends[edge]]
            if value > -np.inf:
                counts[pieces[edge]] += weights[string] * np.exp(value - forward[size])


@kernel
def _best_cut(begins, ends, pieces, first, last, size, logs, score, through):
    """Fill `through` with the edge by which the likeliest way reaches each place; whether the end is reached."""
    score[: size + 1] = -np.inf
    score[0] = 0.0
    for edge in range(first, last):
        value = score[begins[edge]] + logs[pieces[edge]]
        if value > score[ends[edge]]:
            score[ends[edge]] = value
            through[ends[edge]] = edge
    return score[size] > -np.inf


@kernel
def _count_best(begins, ends, pieces, starts, lengths, weights, logs, counts):
    score = np.empty(lengths.max() + 1)
    through = np.empty(lengths.max() + 1, np.int64)
    for string in range(len(lengths)):
        size = lengths[string]
        if _best_cut(begins, ends, pieces, starts[string], starts[string + 1], size, logs, score, through):
            at = size
            while at > 0:
                counts[pieces[through[at]]] += weights[string]
                at = begins[through[at]]


@kernel
def _cuts(begins, ends, pieces, starts, lengths, weights, logs, found, places):
    score = np.empty(lengths.max() + 1)
    through = np.empty(lengths.max() + 1, np.int64)
    count = 0
    for string in range(len(lengths)):
        places[string] = count
        size = lengths[string]
        if _best_cut(begins, ends, pieces, starts[string], starts[string + 1], size, logs, score, through):
            at = size
            while at > 0:
                found[count] = pieces[through[at]]
                count += 1
                at = begins[through[at]]
    places[len(lengths)] = count
