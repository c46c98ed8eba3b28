"""ALBERT: name hidden runs of words, and say which of two neighbouring segments came first (arXiv 1909.11942)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_token_loss
from headrace.models.methods.text.fill_in import FillIn, bert_states, check_encoder
from headrace.models.parts.texts import MaskedTokenHead, bert_initialization, transformers_for, vocabulary_and_mask
from headrace.pipeline import Batch, Texts, TextSpec, TokenMask
from headrace.pipeline.texts.tokens import IGNORED

VOCABULARY, MASK = 30_000, 4
"""Of ALBERT's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class ALBERTConfig:
    """ALBERT base, version 2, with the authors' values (google-research/albert at b772393)."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` with [MASK], and with what stands before, between and behind two segments; its
    vocabulary is the method's. Empty until there is one: the vocabulary is ALBERT's then, and nothing can be
    trained."""
    length: int = 512
    """Tokens of a text at most, the special ones counted."""
    mask_ratio: float = 0.15
    """Share of a text's tokens to predict; of those 80 % are hidden, 10 % replaced at random and 10 % kept."""
    most_masked: int | None = 20
    """Tokens of a text to predict at most; null for no limit."""
    ngram: int = 3
    """Whole words that are taken at a time at most."""
    positions: int = 512
    """Places that have an embedding, at least `length`."""
    embedding: int = 128
    """Width of the embeddings."""
    width: int = 768
    """Of the states; four times as wide inside."""
    depth: int = 12
    """How often the one block is passed."""
    heads: int = 12
    """Attention heads of the block."""
    dropout: float = 0.0
    """Of states, and of attention; 0 for none. 0.1 in version 1."""

    def __post_init__(self) -> None:
        check_encoder(self)
        require(self.embedding >= 1, self, "embedding", "be at least 1")


class ALBERT(FillIn):
    """Probes see the mean of a whole text's last states.

    Followed: google-research/albert at b772393, create_pretraining_data.py, run_pretraining.py, modeling.py. The
    network is `transformers`' AlbertModel, which therefore loads what is trained here. All its blocks are one.
    """

    config: ALBERTConfig
    added = 1e-5

    def __init__(self, config: ALBERTConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, self.mask_id = vocabulary_and_mask(config.tokenizer, (VOCABULARY, MASK))
        mask = TokenMask(ratio=config.mask_ratio, most=config.most_masked, ngram=config.ngram)
        self.inputs = TextSpec(
            tokenizer=config.tokenizer,
            length=config.length,
            masks=(mask,),
            whole_words=True,
            pair="order",
            cut="sentence",
        )
        self.most_masked = int(mask.wanted(np.array(config.length)))
        albert = albert_network(config, vocabulary)
        self.backbone, self.feature_dim = albert, config.width
        self.head = MaskedTokenHead(albert.embeddings.word_embeddings, config.width, gelu="tanh", epsilon=1e-12)
        self.order = nn.Linear(config.width, 2)
        bert_initialization(self, cut_off=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the sum of `"masked"`, see `headrace.models.losses.masked_token_loss`, and `"order"`, the cross
        entropy of whether the segments are exchanged, of texts that have two. `"mask_accuracy"` and `"order_accuracy"`
        are shares of right answers, the former where [MASK] stands."""
        texts: Texts = batch["text"]
        albert: Any = self.backbone
        states, *filled_in = self.filled_in(texts)
        masked, mask_accuracy = self.masked_terms(texts, *filled_in)
        answers = self.order(albert.pooler_activation(albert.pooler(states[:, 0])))
        order = masked_token_loss(answers, texts.broken, added=0.0)
        asked = texts.broken != IGNORED
        right = (answers.detach().argmax(dim=1) == texts.broken) & asked
        return {
            "loss": masked + order,
            "masked": masked.detach(),
            "order": order.detach(),
            "mask_accuracy": mask_accuracy,
            "order_accuracy": right.sum() / asked.sum().clamp(min=1),
        }

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        return bert_states(self.backbone, tokens, texts)


def albert_network(config: ALBERTConfig, vocabulary: int) -> Any:
    """`transformers`' AlbertModel.

    Raises:
        ImportError: if the library is missing.
    """
    library = transformers_for("albert")
    network = library.AlbertConfig(
        vocab_size=vocabulary,
        embedding_size=config.embedding,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_hidden_groups=1,
        inner_group_num=1,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=config.positions,
        pad_token_id=None,  # else the embedding of token 0, whatever it is, would stay as it is
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    return library.AlbertModel(network)
