"""What the pipeline takes from a Hugging Face tokenizer: tokens of texts, their words, and ids of special tokens."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from headrace.shards.special import special

_PROBES = ("a", "the", "1", ".")
"""Texts of which at least one has a token in any vocabulary worth the name."""

_TOGETHER = 1 << 18
"""Characters that the library is given at a time, and up to one text more: it makes some 40 bytes of each."""
_A_TOKEN = 8
"""Characters that a text is cut to for each token that is asked for, at first: some more than most tokens have."""
_APART = 64
"""Characters between a token that counts and the place where its text was cut, at least."""
_BLANK = re.compile(r"(?<=\S)\s")
# In a pattern of a tokenizer: what may reach over any number of blanks, and the usual case that does not.
_FAR = re.compile(r"\(\?[=!]|\$|\\[zZ]|\)[*+{]|(?:\.|\\[WD]|\\P\{\w+\}|\[\^(?![^\]]*\\s)[^\]]*\])[*+{]")
_NEAR = r"(?!\S)"

Tokens = tuple[np.ndarray, np.ndarray]
"""int64 (n,) twice: the tokens of a text, and the number of each one's word."""


class TextTokenizer:
    """A `tokenizer.json`, read with the library `tokenizers`. Thread-safe.

    Its own truncation and padding are off: `TextSpec.length` says how much is kept. What looks like a special token in
    a text is text, so that no document can end itself or hide one of its words.

    Raises:
        ImportError: if the library is missing.
        ValueError: if the file cannot be read or puts special tokens elsewhere than before and behind a text.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(f"texts need the library tokenizers: pip install headrace[text] ({error})") from error
        self.path = str(path)
        if not self.path:
            raise ValueError(
                "TextSpec.tokenizer names no file; of a method it is the key model.tokenizer, "
                "and headrace tokenizer makes one from a shard set"
            )
        if what := special(self.path):
            raise ValueError(f"TextSpec.tokenizer {self.path}: {what}, expected a file")
        try:
            tokenizer = Tokenizer.from_file(self.path)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"TextSpec.tokenizer {self.path}: not a tokenizer.json ({error})") from error
        padding = tokenizer.padding
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocabulary = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        """Ids lie below it."""
        self.mask_id = self._id_of("[MASK]", "<mask>")
        """None where there is none."""
        self.padding_id: int = padding["pad_id"] if padding else self._id_of("[PAD]", "<pad>") or 0
        """What fills up shorter texts: as the file says, or [PAD] or <pad>, or 0."""
        self.has_padding = padding is not None or self._id_of("[PAD]", "<pad>") is not None
        """Whether that is a token of its own."""
        self.stops = np.array([token for token in map(self._id_of, (".", "!", "?")) if token is not None], np.int64)
        """int64: the tokens that end sentences, those of them that there are."""
        stop = self._id_of(".")
        self.full_stop = -1 if stop is None else stop
        """-1 where there is none."""
        self.sentinels = self._sentinels()
        """<extra_id_0>, <extra_id_1> and so on, as many as there are."""
        self.before, _, self.behind = self.frame()
        """int64: the special tokens before and behind a text."""
        self.splits = self._splits()
        """Whether it splits texts into words at blanks."""
        self._apart = self._distance() if self.splits else None

    def encode(self, texts: Sequence[str], *, words: bool, first: int | None = None) -> Iterator[Tokens]:
        """The tokens of each text, without special ones, and their words; zeros unless `words`.

        Args:
            texts: any number.
            words: whether their words are wanted.
            first: tokens of each text that are wanted; there may be more. None for all. Of a long text only its
                beginning is then tokenised, where that cannot make a difference.
        """
        ends = np.cumsum([len(text) for text in texts])
        for _, numbers in groupby(range(len(texts)), key=lambda i: int(ends[i]) // _TOGETHER):
            yield from self._encode([texts[i] for i in numbers], words, first)

    def _encode(self, texts: list[str], words: bool, first: int | None) -> list[Tokens]:
        """See `encode`; of few texts, since the library holds a hundred bytes and more a token."""
        found: dict[int, Tokens] = {}
        size = 0 if first is None or self._apart is None else _A_TOKEN * first + self._apart
        while waiting := [number for number in range(len(texts)) if number not in found]:
            beginnings = {number: _beginning(texts[number], size) for number in waiting}
            cut = [number for number, text in beginnings.items() if len(text) < len(texts[number])]
            whole = [number for number in waiting if number not in cut]
            for number, each in zip(whole, self._encodings([texts[i] for i in whole], words), strict=True):
                found[number] = _tokens(each, words)
            for number, each in zip(cut, self._encodings([beginnings[i] for i in cut], True), strict=True):
                known = self._known(each, len(beginnings[number]))
                if first is not None and known >= first:
                    tokens, of_words = _tokens(each, words)
                    found[number] = tokens[:known], of_words[:known]
            size *= 2
        return [found[number] for number in range(len(texts))]

    def _encodings(self, texts: list[str], words: bool) -> list[Any]:
        encode = self._tokenizer.encode_batch if words else self._tokenizer.encode_batch_fast
        return encode(texts, add_special_tokens=False) if texts else []

    def _known(self, encoding: Any, length: int) -> int:
        """How many tokens of the first `length` characters of a text are those of the whole text, too.

        The last word may go on behind them. What comes before it depends on what is left of it and, to the right, on
        characters up to the next blank, before which texts are cut. That holds for every part of the library but
        patterns that reach over blanks, see `_distance`; some distance is kept for the sake of tokens that were added
        to the vocabulary, which may have blanks in them.
        """
        assert self._apart is not None
        words = np.array(encoding.word_ids, np.int64)
        ends = np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 1]
        unknown = np.flatnonzero((ends > length - self._apart) | (words == words.max(initial=0)))
        return int(unknown[0]) if len(unknown) else 0

    def _splits(self) -> bool:
        twice = (self._tokenizer.encode(f"{text} {text}", add_special_tokens=False) for text in _PROBES)
        return all(len(set(found.word_ids)) > 1 for found in twice if found.ids)

    def _distance(self) -> int | None:
        """Characters behind a token without which it may be another; None where that may be any number."""
        parts = json.loads(self._tokenizer.to_str())
        patterns = [*_patterns(parts["normalizer"]), *_patterns(parts["pre_tokenizer"])]
        if any(kind == "Regex" and _FAR.search(pattern.replace(_NEAR, "")) for kind, pattern in patterns):
            return None
        fixed = [pattern for kind, pattern in patterns if kind == "String"]
        return _APART + max(map(len, [*fixed, *(added["content"] for added in parts["added_tokens"])]), default=0)

    def frame(self, *, pair: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The special tokens before a text, between the two of a pair (none for one text), and behind, int64."""
        for text in _PROBES:
            bare = self._tokenizer.encode(text, add_special_tokens=False).ids
            if not bare:
                continue
            whole = self._tokenizer.encode(text, text if pair else None)
            ordinary = [place for place, special in enumerate(whole.special_tokens_mask) if not special]
            first, last, n = ordinary[0], ordinary[-1] + 1, len(bare)
            before, behind = whole.ids[:first], whole.ids[last:]
            between = whole.ids[first + n : last - n] if pair else []
            if before + bare + (between + bare if pair else []) + behind != whole.ids:
                raise ValueError(f"TextSpec.tokenizer {self.path}: puts special tokens inside of texts")
            return np.array(before, np.int64), np.array(between, np.int64), np.array(behind, np.int64)
        raise ValueError(f"TextSpec.tokenizer {self.path}: has no token for any of {' '.join(_PROBES)}")

    @property
    def first_ordinary(self) -> int:
        """The least token that is not special."""
        added = self._tokenizer.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        return next(number for number in range(self.vocabulary + 1) if number not in special)

    def name(self, token: int) -> str:
        """A token as the vocabulary writes it."""
        return self._tokenizer.id_to_token(token) or f"<{token}>"

    def _id_of(self, *names: str) -> int | None:
        """Of the first of these tokens that there is."""
        found = (self._tokenizer.token_to_id(name) for name in names)
        return next((number for number in found if number is not None), None)

    def _sentinels(self) -> tuple[int, ...]:
        found: list[int] = []
        while (number := self._id_of(f"<extra_id_{len(found)}>")) is not None:
            found.append(number)
        return tuple(found)


def _beginning(text: str, size: int) -> str:
    """Some `size` characters, to the next blank; the whole text where that is not much more, or there is no blank."""
    if not size or len(text) <= 2 * size:
        return text
    blank = _BLANK.search(text, size)
    return text[: blank.start()] if blank else text


def _tokens(encoding: Any, words: bool) -> Tokens:
    tokens = np.array(encoding.ids, np.int64)
    return tokens, np.array(encoding.word_ids, np.int64) if words else np.zeros(len(tokens), np.int64)


def _patterns(part: Any) -> Iterator[tuple[str, str]]:
    """(Regex or String, pattern) of all that a part of a tokenizer.json looks for."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name in ("Regex", "String") and isinstance(value, str):
                yield name, value
            yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)
