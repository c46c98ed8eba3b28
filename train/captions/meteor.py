"""METEOR: how much of a caption can be laid over a reference, word by word, and in how few pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from headrace.train.captions.meteor_words import MeteorWords, meteor_line

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""What recall weighs against precision; the exponent and the weight of the penalty of pieces; and what a word weighs,
of which a function word has the rest. Those of METEOR 1.5's task "rank" in English."""
EXACT, STEM, SYNONYM = range(3)
WEIGHTS = np.array([1.0, 0.6, 0.8])
"""Of words that are the same, have one stem, share a meaning."""
BEAM = 40
COLUMNS = 18
"""Of statistics: words and function words of the caption and of the reference (4); for each of `WEIGHTS` what is
matched of the caption's other words, the reference's other words, the caption's function words and the reference's
(12); pieces; and 1 where all is matched in one piece, which then is none in a sum."""


def meteor_statistics(references: Sequence[Sequence[str]], hypotheses: Sequence[str], words: MeteorWords) -> np.ndarray:
    """What METEOR adds up over images, float64 (n, `COLUMNS`), each of the reference that scores best, the first of
    equals.

    Source: cmu-mtlab/meteor at 57a9ec5, src/edu/cmu/meteor/scorer and aligner, the modules exact, stem and synonym as
    "-m 'exact stem synonym' -w '1.0 0.6 0.8'" runs them; METEOR 1.5 is Denkowski and Lavie, WMT 2014.

    Raises:
        ImportError: without the package snowballstemmer.
    """
    align = _Aligner(words)
    rows = np.zeros((len(hypotheses), COLUMNS))
    for number, (of_image, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        ours = meteor_line(hypothesis)
        found = np.array([align.statistics(ours, meteor_line(reference)) for reference in of_image])
        rows[number] = found[np.argmax(meteor(found))]
    return rows


def meteor(statistics: np.ndarray) -> np.ndarray:
    """METEOR, float64 (...), 0 to 1, of statistics (..., `COLUMNS`) of an image or summed over images."""
    lengths, functions = statistics[..., :2], statistics[..., 2:4]  # of the caption, of the reference
    matched = statistics[..., 4:16].reshape(*statistics.shape[:-1], len(WEIGHTS), 2, 2)
    of_class = np.einsum("...kcs,k->...cs", matched, WEIGHTS)  # other words and function words, of both sides
    weighted = DELTA * of_class[..., 0, :] + (1 - DELTA) * of_class[..., 1, :]
    pairs = matched.sum(axis=(-3, -2, -1)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted / (DELTA * (lengths - functions) + (1 - DELTA) * functions), -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        pieces = statistics[..., 16] - statistics[..., 17]
        whole = (2 * pairs == lengths.sum(axis=-1)) & (pieces == 1)
        score = mean * (1 - GAMMA * np.where(whole, 0.0, pieces / pairs) ** BETA)
    return np.maximum(np.nan_to_num(score, nan=0.0), 0.0)


@dataclass
class _Path:
    """An alignment of the reference's words up to here."""

    matches: tuple[tuple[int, int], ...] = ()
    """(Place in the caption, kind) of each of the reference's words; (-1, -1) for none."""
    used: frozenset[int] = frozenset()
    """The caption's words that are taken."""
    exact: int = 0
    pieces: int = 0
    end: int = -1
    """Behind the last match in the caption while its piece goes on."""
    distance: int = 0

    @property
    def rank(self) -> tuple[int, int, int]:
        return -self.exact, self.pieces, self.distance

    def matched(self, place: int, kind: int) -> _Path:
        # The authors count matches as integers, so that 0.5 of a word that is not the same adds nothing here.
        return replace(
            self,
            matches=(*self.matches, (place, kind)),
            used=self.used | {place},
            exact=self.exact + (kind == EXACT),
            pieces=self.pieces + (self.end not in (-1, place)),
            end=place + 1,
        )

    def skipped(self, distance: int) -> _Path:
        return replace(
            self,
            matches=(*self.matches, (-1, -1)),
            pieces=self.pieces + (self.end != -1),
            end=-1,
            distance=distance,
        )


class _Aligner:
    def __init__(self, words: MeteorWords) -> None:
        self._words = words
        self._stem = cache(_stemmer())
        self._senses = cache(words.senses)

    def statistics(self, ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
        """(`COLUMNS`,) of a caption and one reference."""
        row = np.zeros(COLUMNS)
        function = self._words.function_words
        row[:4] = len(ours), len(theirs), sum(w in function for w in ours), sum(w in function for w in theirs)
        end = -1
        matches = self._align(ours, theirs)
        for number, (place, kind) in enumerate(matches):
            if kind >= 0:
                row[4 + 4 * kind + 2 * (ours[place] in function)] += 1
                row[4 + 4 * kind + 2 * (theirs[number] in function) + 1] += 1
            row[16] += end != -1 and place != end
            end = place + 1 if kind >= 0 else -1
        row[16] += end != -1
        row[17] = row[16] == 1 and all(kind >= 0 for _, kind in matches) and len(matches) == len(ours)
        return row

    def _align(self, ours: Sequence[str], theirs: Sequence[str]) -> Sequence[tuple[int, int]]:
        """The best path that a beam finds: most words that are the same, then fewest pieces, then least distance."""
        options = self._options(ours, theirs)
        covered = [0] * len(ours)
        for of_word in options:
            for place, _ in of_word:
                covered[place] += 1
        settled = [len(of_word) == 1 and covered[of_word[0][0]] == 1 for of_word in options]
        taken = frozenset(of_word[0][0] for of_word, alone in zip(options, settled, strict=True) if alone)
        paths = [_Path(used=taken)]
        for number, of_word in enumerate(options):
            paths.sort(key=lambda path: path.rank)
            longer = []
            for path in paths[:BEAM]:
                distance = path.distance
                if settled[number]:
                    place, kind = of_word[0]
                    longer.append(replace(path.matched(place, kind), distance=distance + abs(number - place)))
                    continue
                for place, kind in of_word:
                    if place not in path.used:
                        longer.append(replace(path.matched(place, kind), distance=distance))
                        # As the authors' code has it: the way counts for the paths behind this one, not for itself.
                        distance += abs(number - place)
                longer.append(path.skipped(distance))
            paths = longer
        paths.sort(key=lambda path: path.rank)
        closed = [path.skipped(path.distance) for path in paths[:BEAM]]
        return min(closed, key=lambda path: path.rank).matches[:-1]

    def _options(self, ours: Sequence[str], theirs: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each of the reference's words, (place, kind) of the caption's words that it may be laid over."""

        def all_of(same: Callable[[str, str], bool], kind: int, word: str) -> list[tuple[int, int]]:
            return [(place, kind) for place, other in enumerate(ours) if same(other, word)]

        if list(ours) == list(theirs):
            return [all_of(str.__eq__, EXACT, word) for word in theirs]
        return [
            all_of(str.__eq__, EXACT, word)
            + all_of(lambda other, word: other != word and self._stem(other) == self._stem(word), STEM, word)
            + all_of(
                lambda other, word: other != word and bool(self._senses(other) & self._senses(word)), SYNONYM, word
            )
            for word in theirs
        ]


def _stemmer() -> Callable[[str], str]:
    try:
        import snowballstemmer
    except ImportError as error:
        raise ImportError(
            f"METEOR needs the package snowballstemmer: pip install headrace[captions] ({error})"
        ) from error
    stem: Callable[[str], str] = snowballstemmer.stemmer("english").stemWord
    return stem
