"""RoBERTa: name the hidden words of a text, others each time that it comes (arXiv 1907.11692)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.models.methods.text.fill_in import FillIn, attention_mask, check_encoder
from headrace.models.parts.texts import MaskedTokenHead, bert_initialization, transformers_for, vocabulary_and_mask
from headrace.pipeline import Batch, Texts, TextSpec, TokenMask
from headrace.pipeline.texts.tokenizer import TextTokenizer

VOCABULARY, MASK, PADDING, FIRST_ORDINARY = 50_265, 50_264, 1, 4
"""Of RoBERTa's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class RoBERTaConfig:
    """RoBERTa base with the authors' values (facebookresearch/fairseq at 3d262bb, examples/roberta)."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` with <mask> and <pad>, or [MASK] and [PAD]; its vocabulary is the method's. Empty
    until there is one: the vocabulary is RoBERTa's then, and nothing can be trained."""
    length: int = 512
    """Tokens of a text at most, the special ones counted."""
    mask_ratio: float = 0.15
    """Share of a text's tokens to predict, on average; of those 80 % are hidden, 10 % replaced at random and 10 %
    kept."""
    whole_words: bool = False
    """Whether all tokens of a word are to be predicted or none."""
    positions: int = 512
    """Places that have an embedding, at least `length`."""
    width: int = 768
    """Of the states; four times as wide inside."""
    depth: int = 12
    """Blocks."""
    heads: int = 12
    """Attention heads of a block."""
    dropout: float = 0.1
    """Of states, and of attention; 0 for none."""

    def __post_init__(self) -> None:
        check_encoder(self)


class RoBERTa(FillIn):
    """Probes see the mean of a whole text's last states.

    Followed: facebookresearch/fairseq at 3d262bb, fairseq/data/mask_tokens_dataset.py, criterions/masked_lm.py,
    models/roberta. The network is `transformers`' RobertaModel, which therefore loads what is trained here. The special
    tokens before and behind a text may be hidden, too.
    """

    config: RoBERTaConfig
    added = 0.0

    def __init__(self, config: RoBERTaConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, self.mask_id = vocabulary_and_mask(config.tokenizer, (VOCABULARY, MASK))
        self.padding, ordinary = PADDING, FIRST_ORDINARY
        if config.tokenizer:
            tokenizer = TextTokenizer(config.tokenizer)
            if not tokenizer.has_padding:
                raise ValueError(f"{config.tokenizer} has no token <pad> or [PAD], from which positions are counted")
            self.padding, ordinary = tokenizer.padding_id, tokenizer.first_ordinary
        mask = TokenMask(ratio=config.mask_ratio, rounding="drawn", special=True, first_random=ordinary)
        self.inputs = TextSpec(
            tokenizer=config.tokenizer, length=config.length, masks=(mask,), whole_words=config.whole_words
        )
        self.most_masked = int(mask.wanted(np.array(config.length)))
        roberta = roberta_network(config, vocabulary, self.padding)
        self.backbone, self.feature_dim = roberta, config.width
        self.head = MaskedTokenHead(roberta.embeddings.word_embeddings, config.width, gelu="none", epsilon=1e-5)
        bert_initialization(self, cut_off=False)
        # There are no segments: transformers' embedding of the one that it has adds nothing.
        roberta.embeddings.token_type_embeddings.weight.requires_grad_(False).zero_()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.masked_token_loss`, and `"mask_accuracy"`, the share of right answers
        where the mask stands."""
        texts: Texts = batch["text"]
        _, *filled_in = self.filled_in(texts)
        loss, accuracy = self.masked_terms(texts, *filled_in)
        return {"loss": loss, "mask_accuracy": accuracy}

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        roberta: Any = self.backbone
        positions = texts.attention.cumsum(dim=1) * texts.attention + self.padding
        hidden = roberta.embeddings(input_ids=tokens, token_type_ids=torch.zeros_like(tokens), position_ids=positions)
        found: Tensor = roberta.encoder(hidden, attention_mask=attention_mask(texts.attention))[0]
        return found


def roberta_network(config: RoBERTaConfig, vocabulary: int, padding: int) -> Any:
    """`transformers`' RobertaModel without a pooler. Positions are counted from behind the token for padding.

    Raises:
        ImportError: if the library is missing.
    """
    library = transformers_for("roberta")
    network = library.RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        hidden_act="gelu",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=padding + 1 + config.positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=padding,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    return library.RobertaModel(network, add_pooling_layer=False)
