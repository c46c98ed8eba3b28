"""Parts of networks that read texts. Letters: B texts, L places, D dimensions of a state, T tokens of a vocabulary."""

from __future__ import annotations

from typing import Any, Literal

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


def vocabulary_and_mask(tokenizer: str, otherwise: tuple[int, int] = (BERT_VOCABULARY, BERT_MASK)) -> tuple[int, int]:
    """How many tokens a `tokenizer.json` has, and its [MASK]; those of BERT uncased, or `otherwise`, without a file.

    Raises:
        ImportError: if the library `tokenizers` is missing.
        ValueError: if the file cannot be read, or has no [MASK].
    """
    if not tokenizer:
        return otherwise
    found = TextTokenizer(tokenizer)
    if found.mask_id is None:
        raise ValueError(f"{tokenizer} has no token [MASK] or <mask>, which hides others")
    return found.vocabulary, found.mask_id


def transformers_for(method: str) -> Any:
    """The library `transformers`.

    Raises:
        ImportError: naming the method, if it is missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{method} needs the library transformers: pip install headrace[text] ({error})") from error
    return transformers


class MaskedTokenHead(nn.Module):
    """States (..., D) to logits (..., T): a layer to the width of the token embeddings, GELU, layer norm, and the
    embeddings themselves, transposed, with a bias.

    Args:
        embeddings: of the tokens.
        width: D.
        gelu: by the hyperbolic tangent as in BERT's and ALBERT's code, or exact as in RoBERTa's and ELECTRA's.
        epsilon: of the norm: 1e-12 in Google's code, 1e-5 in RoBERTa's.

    Source: google-research/bert at eedf571, run_pretraining.py, get_masked_lm_output.
    """

    def __init__(self, embeddings: nn.Embedding, width: int, *, gelu: Literal["tanh", "none"], epsilon: float) -> None:
        super().__init__()
        self.gelu = gelu
        self.dense = nn.Linear(width, embeddings.embedding_dim)
        self.norm = nn.LayerNorm(embeddings.embedding_dim, eps=epsilon)
        self.weight = embeddings.weight
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(states), approximate=self.gelu)), self.weight, self.bias)


def chosen_places(labels: Tensor, most: int) -> Tensor:
    """int64 (B, K), K the smaller of `most` and L: the places of labels (B, L) that are to be predicted, in order, and
    others behind them. `most` is at least the number of any row's: nothing is read back from the device to find it."""
    order = (labels == IGNORED).to(torch.uint8).argsort(dim=1, stable=True)
    return order[:, :most]


def mean_of_tokens(states: Tensor, attention: Tensor) -> Tensor:
    """(B, D): the mean of the states (B, L, D) where `attention`, bool (B, L), is true."""
    weight = attention[:, :, None].to(states.dtype)
    return (states * weight).sum(dim=1) / weight.sum(dim=1)


@torch.no_grad()
def bert_initialization(module: nn.Module, *, cut_off: bool) -> None:
    """Weights from a normal distribution of deviation 0.02; biases 0, gains of norms 1, and what stands for padding 0.

    Args:
        cut_off: whether weights stay within two deviations, as in Google's code, or not, as in fairseq's.

    Source: google-research/bert at eedf571, modeling.py, create_initializer; facebookresearch/fairseq at 3d262bb,
    fairseq/modules/transformer_sentence_encoder.py, init_bert_params.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            if cut_off:
                nn.init.trunc_normal_(part.weight, std=0.02, a=-0.04, b=0.04)
            else:
                nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            part.weight[part.padding_idx] = 0
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        if isinstance(part, (nn.Linear, nn.LayerNorm)) and part.bias is not None:
            nn.init.zeros_(part.bias)
