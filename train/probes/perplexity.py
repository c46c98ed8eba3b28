"""How well hidden tokens of texts are named one by one: pseudo-perplexity, and that of a bigram model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse

from headrace.models import Method
from headrace.pipeline import Loader, Texts, TextSpec
from headrace.pipeline.part import map_tensors
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.shards import ShardSet
from headrace.train.errors import RunError

PRIORS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Of `BigramModel`, of which a tenth of the texts that it is made of chooses."""


class Named(NamedTuple):
    """Outcomes of n texts."""

    nats: np.ndarray
    """float64 (n,): the sum over a text's tokens of minus the logarithm of the probability that each was given."""
    right: np.ndarray
    """int64 (n,): tokens that were given the largest probability."""
    tokens: np.ndarray
    """int64 (n,): tokens of each text, the special ones at its ends left out."""

    @property
    def perplexity(self) -> float:
        """exp of the mean over all tokens."""
        return float(np.exp(self.nats.sum() / self.tokens.sum()))


def pseudo_likelihood(
    method: Method, shards: ShardSet, *, texts: int, seed: int, rows: int, device: str, max_bad: int | None
) -> Named:
    """Hide each token of a text by itself, and ask a method for it, given all others.

    Args:
        method: in evaluation mode, on `device`.
        shards: of whose texts the plain form is taken, see `headrace.pipeline.TextSpec.plain`.
        texts: so many at most.
        seed: of which these are.
        rows: texts with a hidden token that are read at a time; for speed alone.
        max_bad: bad samples to put up with, which are left out; None ends with the first.

    Raises:
        RunError: if the method names no hidden tokens.
        ShardError: for a sample that cannot be decoded, as `max_bad` says.

    Source: arXiv 1910.14659, section 2.
    """
    spec, mask_id = asked_of(method)
    found: list[tuple[float, int, int]] = []
    for row, length, part in _rows(spec, shards, texts, seed, max_bad):
        places = inner_places(spec, length)
        nats, right = 0.0, 0
        for begin in range(0, len(places), rows):
            hidden = torch.from_numpy(places[begin : begin + rows])[:, None].to(device)  # (K, 1)
            one: Texts = map_tensors(part, partial(_repeated, row=row, count=len(hidden), device=device))
            wanted = one.tokens.gather(1, hidden)
            with torch.no_grad():
                logits = method.token_logits(one.tokens.scatter(1, hidden, mask_id), one, hidden)[:, 0].float()
            nats += float(F.cross_entropy(logits, wanted[:, 0], reduction="sum"))
            right += int((logits.argmax(dim=1) == wanted[:, 0]).sum())
        found.append((nats, right, len(places)))
    return _named(found)


def _repeated(x: torch.Tensor, row: int, count: int, device: str) -> torch.Tensor:
    return x[row : row + 1].expand(count, *x.shape[1:]).to(device)


class BigramModel:
    """The probability of a token between two others, by how often tokens of some texts follow each other.

    P(w | l) = (c(l, w) + k P(w)) / (c(l) + k) with P(w) = (c(w) + 1) / (N + T), and of the token between l and r
    P(w | l, r) = P(w | l) P(r | w) over the sum for all w: it sees both neighbours, as a network sees both sides. k is
    the one of PRIORS under which a tenth of the texts is likeliest by the others.

    Args:
        rows: texts, their special tokens included.
        vocabulary: T.
    """

    def __init__(self, rows: Sequence[np.ndarray], vocabulary: int) -> None:
        held = rows[::10]
        first = [row for number, row in enumerate(rows) if number % 10]
        self._count(first or rows, vocabulary)
        likelihood = {prior: sum(self._chain(row, prior) for row in held) for prior in PRIORS}
        self.prior = max(likelihood, key=lambda prior: likelihood[prior])
        self._count(rows, vocabulary)

    def _count(self, rows: Sequence[np.ndarray], vocabulary: int) -> None:
        left = np.concatenate([row[:-1] for row in rows])
        right = np.concatenate([row[1:] for row in rows])
        pairs = sparse.coo_matrix((np.ones(len(left)), (left, right)), shape=(vocabulary, vocabulary))
        self._after, self._before = pairs.tocsr(), pairs.tocsc()
        self._times = np.bincount(left, minlength=vocabulary).astype(np.float64)
        all_tokens = np.bincount(np.concatenate(rows), minlength=vocabulary)
        self.unigram = (all_tokens + 1) / (all_tokens.sum() + vocabulary)

    def _chain(self, row: np.ndarray, prior: float) -> float:
        """Logarithm of the probability of a text, each token given the one before."""
        counts = np.asarray(self._after[row[:-1], row[1:]]).ravel()
        return float(np.log((counts + prior * self.unigram[row[1:]]) / (self._times[row[:-1]] + prior)).sum())

    def between(self, left: int | None, right: int | None) -> np.ndarray:
        """float64 (T,): the probability of each token between two; None where a text begins or ends."""
        share = self.unigram
        if left is not None:
            follows = self._after[[left]].toarray()[0]
            share = (follows + self.prior * self.unigram) / (self._times[left] + self.prior)
        if right is not None:
            leads = self._before[:, [right]].toarray()[:, 0] + self.prior * self.unigram[right]
            share = share * leads / (self._times + self.prior)
        return np.asarray(share / share.sum())


def bigram_likelihood(
    method: Method, learn: ShardSet, shards: ShardSet, *, texts: int, seed: int, max_bad: int | None
) -> tuple[Named, BigramModel]:
    """`pseudo_likelihood` of a `BigramModel` of all texts of `learn`, on the same texts of `shards`."""
    spec, _ = asked_of(method)
    rows = [part.tokens[row, :length].numpy() for row, length, part in _rows(spec, learn, len(learn), seed, max_bad)]
    model = BigramModel(rows, TextTokenizer(spec.tokenizer).vocabulary)
    found = []
    for row, length, part in _rows(spec, shards, texts, seed, max_bad):
        tokens, places = part.tokens[row].numpy(), inner_places(spec, length)
        nats, right = 0.0, 0
        for place in places.tolist():
            before = int(tokens[place - 1]) if place else None
            share = model.between(before, int(tokens[place + 1]) if place + 1 < length else None)
            nats -= float(np.log(share[tokens[place]]))
            right += int(share.argmax() == tokens[place])
        found.append((nats, right, len(places)))
    return _named(found), model


def asked_of(method: Method) -> tuple[TextSpec, int]:
    """What the method is shown, and the token that hides others.

    Raises:
        RunError: if it names no hidden tokens.
    """
    if method.mask_id is None or not isinstance(method.probe_inputs, TextSpec):
        raise RunError(f"{type(method).__name__} names no hidden tokens of texts, so that it has no perplexity")
    return method.probe_inputs, method.mask_id


def inner_places(spec: TextSpec, length: int) -> np.ndarray:
    """int64 (n,): the places of a text of so many tokens between its special ones."""
    tokenizer = TextTokenizer(spec.tokenizer)
    return np.arange(len(tokenizer.before), length - len(tokenizer.behind))


def _rows(
    spec: TextSpec, shards: ShardSet, texts: int, seed: int, max_bad: int | None
) -> Iterator[tuple[int, int, Texts]]:
    """(its row, its length, the batch that it is in) of so many texts, in an order of chance, always the same."""
    policy: dict[str, Any] = {} if max_bad is None else {"on_error": "skip", "max_bad": max_bad}
    size = min(256, len(shards))
    with Loader(shards, spec, size, seed=seed, drop_last=False, threads=1, **policy) as loader:
        for batch in loader:
            part: Texts = batch["text"]
            for row, length in enumerate(part.lengths.tolist()):
                if not texts:
                    return
                texts -= 1
                yield row, length, part


def _named(found: Sequence[tuple[float, int, int]]) -> Named:
    nats, right, tokens = (np.array(column) for column in zip(*found, strict=True))
    return Named(nats.astype(np.float64), right, tokens)
