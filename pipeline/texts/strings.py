"""Texts that no shard set holds, such as prompts, in the form in which a loader delivers texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from headrace.pipeline.texts.texts import Texts, TextSpec
from headrace.pipeline.texts.tokenizer import TextTokenizer


def texts_in_tokens(spec: TextSpec, strings: Sequence[str]) -> Texts:
    """The beginning of each string, as `spec.plain()` shows it of a sample.

    Returns:
        `Texts` of B strings, padded to the specification's length.

    Raises:
        ImportError: without the library `tokenizers`.
        ValueError: if the tokenizer cannot be read, the length has no room for one token of a text, or the tokenizer
            finds no token in a string.
    """
    tokenizer = TextTokenizer(spec.tokenizer)
    before, behind = tokenizer.before, tokenizer.behind
    room = spec.length - len(before) - len(behind)
    if room < 1:
        raise ValueError(f"TextSpec.length must be at least {spec.length - room + 1}, got {spec.length}")
    tokens = np.full((len(strings), spec.length), tokenizer.padding_id, np.int64)
    lengths = np.zeros(len(strings), np.int64)
    for row, (found, _) in enumerate(tokenizer.encode(strings, words=False, first=room)):
        if not len(found):
            raise ValueError(f"the tokenizer {spec.tokenizer} finds no token in {strings[row]!r}")
        text = np.concatenate([before, found[:room], behind])
        lengths[row] = len(text)
        tokens[row, : len(text)] = text
    none = torch.zeros(len(strings), dtype=torch.int64)
    return Texts(
        tokens=torch.from_numpy(tokens),
        lengths=torch.from_numpy(lengths),
        attention=torch.from_numpy(np.arange(spec.length) < lengths[:, None]),
        chosen=none,
        first=none.clone(),
        segments=torch.zeros(tokens.shape, dtype=torch.int64),
        broken=none.clone(),
    )
