"""The protocol that asks for hidden tokens of texts one by one, beside a bigram model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.tools.evaluation.protocol import Outcome, Protocol, Task
from headrace.train.probes.intervals import bootstrap
from headrace.train.probes.perplexity import bigram_likelihood, pseudo_likelihood


@dataclass(frozen=True, kw_only=True)
class PerplexitySettings:
    """Of `perplexity`."""

    texts: int = 1000
    """Of the test set, at most."""
    seed: int = 0
    """Of which these are."""

    def __post_init__(self) -> None:
        if self.texts < 1:
            raise ValueError("texts must be at least 1")


def measure_perplexity(task: Task) -> Outcome:
    settings: PerplexitySettings = task.settings
    shards = task.required_test("perplexity is of held-out texts, so that it is measured")
    chosen: dict[str, Any] = {"texts": settings.texts, "seed": settings.seed, "max_bad": task.max_bad}
    details: dict[str, float] = {}
    if task.encoder == "input":
        named, model = bigram_likelihood(task.method, task.learn, shards, **chosen)
        details["prior"] = model.prior
    else:
        named = pseudo_likelihood(task.method, shards, rows=256, device=task.device, **chosen)

    def perplexity(counts: np.ndarray) -> float:
        return float(np.exp(counts @ named.nats / (counts @ named.tokens)))

    def accuracy(counts: np.ndarray) -> float:
        return float(counts @ named.right / (counts @ named.tokens))

    size = len(named.tokens)
    return Outcome(
        metrics={"pseudo_perplexity": bootstrap(perplexity, size), "accuracy": bootstrap(accuracy, size)},
        details={"texts": size, "tokens": int(named.tokens.sum()), **details},
    )


PERPLEXITY = Protocol(
    name="perplexity",
    version=1,
    title="pseudo-perplexity",
    metric="pseudo_perplexity",
    measure=measure_perplexity,
    settings=PerplexitySettings(),
    definition="Each token of a text of --test is hidden by itself and named given all others; special tokens are not. "
    "The score is exp of the mean over all tokens of minus the logarithm of the probability of the one that stood "
    "there: as if so many were equally likely, so that less is better. accuracy: the share of tokens that are the "
    "likeliest. Texts are the beginnings that probes see. The raw input is a bigram model of --data: the probability "
    "of a token between its neighbours l and r is P(w given l) P(r given w) over its sum for all w, P(w given l) = "
    "(c(l, w) + k P(w)) / (c(l) + k), with k chosen on a tenth of --data. Of ELECTRA it is the generator's.",
    source="arXiv 1910.14659, section 2",
    cost="A pass over each text for each of its tokens.",
    incomparable="Another tokenizer or vocabulary, whose tokens are others; another set of texts or length; a "
    "perplexity from left to right; several tokens hidden at a time, such as whole words.",
    share=False,
    labels=False,
)
