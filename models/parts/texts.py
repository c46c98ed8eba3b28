"""Parts of networks that read texts. Letters: B texts, L places, D dimensions of a state, T tokens of a vocabulary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.pipeline.texts.tokens import IGNORED

BERT_VOCABULARY, BERT_MASK = 30_522, 103


def vocabulary_of(tokenizer: str, otherwise: int) -> int:
    """How many tokens a `tokenizer.json` has, or what they are `otherwise`, without a file.

    Raises:
        ImportError: if the library `tokenizers` is missing.
        ValueError: if the file cannot be read.
    """
    return TextTokenizer(tokenizer).vocabulary if tokenizer else otherwise


def vocabulary_and_mask(tokenizer: str) -> tuple[int, int]:
    """How many tokens a `tokenizer.json` has, and its [MASK]; those of BERT uncased without a file.

    Raises:
        ImportError: if the library `tokenizers` is missing.
        ValueError: if the file cannot be read, or has no [MASK].
    """
    if not tokenizer:
        return BERT_VOCABULARY, BERT_MASK
    found = TextTokenizer(tokenizer)
    if found.mask_id is None:
        raise ValueError(f"{tokenizer} has no token [MASK] or <mask>, which hides others")
    return found.vocabulary, found.mask_id


class MaskedTokenHead(nn.Module):
    """States (..., D) to logits (..., T): a layer, GELU, layer norm, and the token embeddings themselves, transposed,
    with a bias.

    Source: google-research/bert at eedf571, run_pretraining.py, get_masked_lm_output.
    """

    def __init__(self, embeddings: nn.Embedding) -> None:
        super().__init__()
        width = embeddings.embedding_dim
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.weight = embeddings.weight
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(states), approximate="tanh")), self.weight, self.bias)


def chosen_places(labels: Tensor, most: int) -> Tensor:
    """int64 (B, K), K the smaller of `most` and L: the places of labels (B, L) that are to be predicted, in order, and
    others behind them. `most` is at least the number of any row's: nothing is read back from the device to find it."""
    order = (labels == IGNORED).to(torch.uint8).argsort(dim=1, stable=True)
    return order[:, :most]


def mean_of_tokens(states: Tensor, attention: Tensor) -> Tensor:
    """(B, D): the mean of the states (B, L, D) where `attention`, bool (B, L), is true."""
    weight = attention[:, :, None].to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1)
