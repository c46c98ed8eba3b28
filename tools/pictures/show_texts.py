"""The texts that a method will see, token by token, with what it has to predict."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.text import Text
from torch import Tensor

from headrace.pipeline import Loader, MaskedTokens, SpanMask, TextSpec, TokenMask
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.pipeline.texts.tokens import IGNORED
from headrace.shards import ShardSet, open_shards
from headrace.shards.printing import printable
from headrace.tools.errors import UserError

MASKS = ("none", "tokens", "words", "spans")
"""What can be masked."""


class Piece(NamedTuple):
    """One token, as the vocabulary writes it."""

    token: str
    """What the model sees."""
    label: str = ""
    """What it has to predict there; empty for nothing."""
    special: bool = False
    """The tokenizer put it there, or a mask did."""


@dataclass(frozen=True, kw_only=True)
class ShownText:
    """One sample's text."""

    title: str
    """Key of the sample, and the numbers that were drawn for it."""
    lines: dict[str, list[Piece]]
    """What each line shows, by name."""


def text_spec(tokenizer: str | os.PathLike[str], mask: str, *, length: int = 128, field: str | None = None) -> TextSpec:
    """The specification for one of `MASKS`."""
    masks: dict[str, tuple[TokenMask | SpanMask, ...]] = {"spans": (SpanMask(),), "none": ()}
    return TextSpec(
        tokenizer=tokenizer,
        field=field,
        length=length,
        masks=masks.get(mask, (TokenMask(),)),
        whole_words=mask == "words",
    )


def texts_of(shards: ShardSet, spec: TextSpec, *, count: int, seed: int = 0, epoch: int = 0) -> list[ShownText]:
    """The texts of the first `count` samples of the epoch's order (fewer where the set has fewer)."""
    tokenizer = TextTokenizer(spec.tokenizer)
    with Loader(shards, spec, min(count, len(shards)), seed=seed, prefetch=1) as loader:
        loader.epoch = epoch
        batch = next(iter(loader))
    texts = batch["text"]
    found = []
    for row, sample in enumerate(batch.index.tolist()):
        length = int(texts.lengths[row])
        words = [shards.key(sample), f"{length} tokens"]
        words += [f"text {int(texts.chosen[row])}"] if texts.chosen.any() else []
        lines = {}
        if not texts.masks:
            lines["tokens"] = pieces(tokenizer, texts.tokens[row, :length])
        for mask in texts.masks:
            if isinstance(mask, MaskedTokens):
                words.append(f"{int(mask.masked_count[row])} to predict")
                lines["tokens"] = pieces(tokenizer, mask.tokens[row, :length], mask.labels[row, :length])
            else:
                words.append(f"{int(mask.noise[row].sum())} in spans")
                lines["inputs"] = pieces(tokenizer, mask.inputs[row, : mask.input_count[row]])
                lines["labels"] = pieces(tokenizer, mask.labels[row, : mask.label_count[row]])
        found.append(ShownText(title=" · ".join(words), lines=lines))
    return found


def pieces(tokenizer: TextTokenizer, tokens: Tensor, labels: Tensor | None = None) -> list[Piece]:
    """Tokens (N,) and what to predict in their places, -100 for nothing."""
    added = {*tokenizer.before.tolist(), *tokenizer.behind.tolist(), *tokenizer.sentinels, tokenizer.mask_id}
    wanted: Sequence[int] = [IGNORED] * len(tokens) if labels is None else labels.tolist()
    return [
        Piece(tokenizer.name(token), "" if label == IGNORED else tokenizer.name(label), token in added)
        for token, label in zip(tokens.tolist(), wanted, strict=True)
    ]


def rendered(shown: ShownText) -> Text:
    """For a terminal, and for a file: what is to be predicted stands in braces, behind what the model sees there."""
    text = Text(printable(shown.title), style="bold")
    for name, line in shown.lines.items():
        text.append(f"\n  {name:8}", style="not bold dim")
        for piece in line:
            style = "not bold reverse" if piece.label else "not bold cyan" if piece.special else "not bold"
            words = f"{{{piece.token} {piece.label}}}" if piece.label else piece.token
            text.append(printable(words), style=style)
            text.append(" ")
    return text


def show_texts(
    path: str | os.PathLike[str], spec: TextSpec, *, count: int = 6, seed: int = 0, epoch: int = 0
) -> list[Text]:
    """The texts of `count` samples, to be printed.

    Raises:
        UserError: if `count` is not positive, or set, tokenizer and mask do not go together.
        ShardError: if the shard set at `path` or a text cannot be read.
    """
    if count < 1:
        raise UserError(f"at least one sample has to be shown, not {count}")
    with open_shards(path) as shards:
        try:
            found = texts_of(shards, spec, count=count, seed=seed, epoch=epoch)
        except (ImportError, ValueError) as error:
            raise UserError(str(error)) from error
    return [rendered(each) for each in found]
