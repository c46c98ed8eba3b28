"""What the pipeline takes from a Hugging Face tokenizer: tokens of texts, their words, and ids of special tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

_PROBES = ("a", "the", "1", ".")
"""Texts of which at least one has a token in any vocabulary worth the name."""


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
        self.sentinels = self._sentinels()
        """<extra_id_0>, <extra_id_1> and so on, as many as there are."""
        self.before, _, self.behind = self.frame()
        """int64: the special tokens before and behind a text."""

    def encode(self, texts: Sequence[str], *, words: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        """(tokens, number of each token's word) of each text, int64, without special tokens; zeros unless asked for."""
        if words:
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            return [(np.array(each.ids, np.int64), np.array(each.word_ids, np.int64)) for each in encodings]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        found = [np.array(each.ids, np.int64) for each in encodings]
        return [(ids, np.zeros(len(ids), np.int64)) for ids in found]

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

    def name(self, token: int) -> str:
        """A token as the vocabulary writes it."""
        return self._tokenizer.id_to_token(token) or f"<{token}>"

    def _id_of(self, *names: str) -> int | None:
        found = (self._tokenizer.token_to_id(name) for name in names)
        return next((number for number in found if number is not None), None)

    def _sentinels(self) -> tuple[int, ...]:
        found: list[int] = []
        while (number := self._id_of(f"<extra_id_{len(found)}>")) is not None:
            found.append(number)
        return tuple(found)
