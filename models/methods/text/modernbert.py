"""ModernBERT: name hidden words with a network that is built for speed (arXiv 2412.13663)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.methods.text.fill_in import FillIn, attention_mask
from headrace.models.parts.texts import transformers_for, vocabulary_and_mask
from headrace.pipeline import Batch, Texts, TextSpec, TokenMask

VOCABULARY, MASK = 50_368, 50_284
"""Of ModernBERT's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class ModernBERTConfig:
    """ModernBERT base with the authors' values (AnswerDotAI/ModernBERT at 8c57a0f, modernbert-base-pretrain.yaml)."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` with [MASK]; its vocabulary is the method's. Empty until there is one: the
    vocabulary is ModernBERT's then, and nothing can be trained."""
    length: int = 1024
    """Tokens of a text at most, the special ones counted."""
    mask_ratio: float = 0.3
    """Share of a text's tokens to predict; of those 80 % are hidden, 10 % replaced at random and 10 % kept."""
    width: int = 768
    """Of the states."""
    inner: int = 1152
    """Of the gated layers inside."""
    depth: int = 22
    """Blocks."""
    heads: int = 12
    """Attention heads of a block."""
    local: int = 128
    """Tokens around its own that a token looks at in two of three blocks; in the first of three at all."""

    def __post_init__(self) -> None:
        for name in ("width", "inner", "depth", "heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.width % (2 * self.heads) == 0, self, "width", "be a multiple of twice the heads")
        require(self.local >= 2, self, "local", "be at least 2")


class ModernBERT(FillIn):
    """Rotary positions, norms before the layers, no biases, gated layers, local attention. Probes see the mean of a
    whole text's last states.

    Followed: AnswerDotAI/ModernBERT at 8c57a0f, yamls/modernbert/modernbert-base-pretrain.yaml. The network is
    `transformers`' ModernBertModel, which therefore loads what is trained here; weights begin as that draws them.
    """

    config: ModernBERTConfig
    added = 0.0

    def __init__(self, config: ModernBERTConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, self.mask_id = vocabulary_and_mask(config.tokenizer, (VOCABULARY, MASK))
        mask = TokenMask(ratio=config.mask_ratio)
        self.inputs = TextSpec(tokenizer=config.tokenizer, length=config.length, masks=(mask,))
        self.most_masked = int(mask.wanted(np.array(config.length)))
        network = modernbert_network(config, vocabulary)
        self.backbone, self.feature_dim = network, config.width
        self.head = UnbiasedHead(network.embeddings.tok_embeddings, depth=config.depth)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.masked_token_loss`, and `"mask_accuracy"`, the share of right answers
        where the mask stands."""
        texts: Texts = batch["text"]
        _, *filled_in = self.filled_in(texts)
        loss, accuracy = self.masked_terms(texts, *filled_in)
        return {"loss": loss, "mask_accuracy": accuracy}

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        network: Any = self.backbone
        whole = attention_mask(texts.attention)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        near = (place[:, None] - place).abs() <= self.config.local // 2
        padding = ~texts.attention[:, None, :, None]  # looks at all, lest it look at nothing, whose mean is no number
        masks = {"full_attention": whole, "sliding_attention": whole & (near | padding)}
        found: Tensor = network(input_ids=tokens, attention_mask=masks).last_hidden_state
        return found


class UnbiasedHead(nn.Module):
    """States (..., D) to logits (..., T): a layer, GELU and a norm without biases, and the token embeddings themselves,
    transposed, with a bias.

    Args:
        embeddings: of the tokens.
        depth: blocks of the network, by whose number the first weights are scaled, as those that lead out of blocks.

    Source: `transformers`' ModernBertPredictionHead and ModernBertForMaskedLM.
    """

    def __init__(self, embeddings: nn.Embedding, *, depth: int) -> None:
        super().__init__()
        width = embeddings.embedding_dim
        self.dense = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=1e-5, bias=False)
        self.weight = embeddings.weight
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        std = 0.02 / (2 * depth) ** 0.5
        nn.init.trunc_normal_(self.dense.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(states))), self.weight, self.bias)


def modernbert_network(config: ModernBERTConfig, vocabulary: int) -> Any:
    """`transformers`' ModernBertModel.

    Raises:
        ImportError: if the library is missing.
    """
    library = transformers_for("modernbert")
    rotary = {"rope_type": "default", "rope_theta": 10_000.0}
    network = library.ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        intermediate_size=config.inner,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        max_position_embeddings=max(8192, config.length),
        local_attention=config.local,
        rope_parameters={"full_attention": dict(rotary), "sliding_attention": dict(rotary)},
        pad_token_id=None,  # else the embedding of one token, whatever it is, would stay as it is
        bos_token_id=None,
        eos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        attn_implementation="sdpa",
    )
    return library.ModernBertModel(network)
