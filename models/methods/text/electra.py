"""ELECTRA: tell which words of a text a small network has put in the place of hidden ones (arXiv 2003.10555)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import replaced_token_loss
from headrace.models.methods.text.fill_in import FillIn, bert_states, check_encoder
from headrace.models.parts.texts import MaskedTokenHead, bert_initialization, transformers_for, vocabulary_and_mask
from headrace.pipeline import Batch, Texts, TextSpec, TokenMask
from headrace.pipeline.texts.tokens import IGNORED


@dataclass(frozen=True, kw_only=True)
class ELECTRAConfig:
    """ELECTRA small with the authors' values (google-research/electra at 8a46635, configure_pretraining.py)."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` with [MASK]; its vocabulary is the method's. Empty until there is one: the
    vocabulary is BERT's then, and nothing can be trained."""
    length: int = 128
    """Tokens of a text at most, the special ones counted."""
    mask_ratio: float = 0.15
    """Share of a text's tokens that the generator fills in; it sees the mask in 85 % of the places, and else what
    stands there. 0.25 in the large model."""
    positions: int = 512
    """Places that have an embedding, at least `length`."""
    embedding: int = 128
    """Width of the embeddings, which both networks share; 768 in the base model."""
    width: int = 256
    """Of the states; four times as wide inside."""
    depth: int = 12
    """Blocks."""
    heads: int = 4
    """Attention heads of a block."""
    generator_width: float = 0.25
    """Of the generator, as a share of `width`; 1/3 in the base model. A head has 64 numbers, as there."""
    detection_weight: float = 50.0
    """Of the second loss; the generator's has 1."""
    dropout: float = 0.1
    """Of states, and of attention; 0 for none."""

    def __post_init__(self) -> None:
        check_encoder(self)
        require(0 < self.generator_width <= 1, self, "generator_width", "be in (0, 1]")
        require(self.embedding >= 1, self, "embedding", "be at least 1")


class ELECTRA(FillIn):
    """What is kept is the network that tells replaced tokens from others; the generator is thrown away. Probes see the
    mean of a whole text's last states.

    Followed: google-research/electra at 8a46635, run_pretraining.py, pretrain/pretrain_helpers.py, model/modeling.py.
    Both networks are `transformers`' ElectraModel, which therefore loads what is trained here; they share the
    embeddings of tokens, positions and segments with their norm. In evaluation mode the generator's likeliest tokens
    stand in the place of drawn ones, so that a held-out loss does not depend on chance.
    """

    config: ELECTRAConfig
    added = 1e-6

    def __init__(self, config: ELECTRAConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, self.mask_id = vocabulary_and_mask(config.tokenizer)
        most = max(1, int((config.mask_ratio + 0.005) * config.length))
        mask = TokenMask(ratio=config.mask_ratio, most=most, hidden=0.85, random=0.0)
        self.inputs = TextSpec(tokenizer=config.tokenizer, length=config.length, masks=(mask,))
        self.most_masked = int(mask.wanted(np.array(config.length)))
        network = electra_network(config, vocabulary, config.width, config.heads)
        self.backbone, self.feature_dim = network, config.width
        width = max(1, round(config.width * config.generator_width))
        self.generator = electra_network(config, vocabulary, width, max(1, width // 64))
        self.generator.embeddings = network.embeddings
        self.head = MaskedTokenHead(network.embeddings.word_embeddings, width, gelu="none", epsilon=1e-12)
        self.detector = nn.Sequential(
            nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, 1), nn.Flatten(-2)
        )
        bert_initialization(self, cut_off=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is `"masked"`, the generator's, see `headrace.models.losses.masked_token_loss`, plus `"detection"`
        times its weight, see `headrace.models.losses.replaced_token_loss`. `"mask_accuracy"` is the generator's share
        of right answers where [MASK] stands, `"replaced"` the share of tokens that are not the text's, and
        `"detection_accuracy"` that of tokens that are told rightly, which `1 - replaced` is of one that always says
        no."""
        texts: Texts = batch["text"]
        _, *filled_in = self.filled_in(texts)
        masked, mask_accuracy = self.masked_terms(texts, *filled_in)
        tokens = self.replaced(texts, *filled_in)
        replaced = tokens != texts.tokens
        logits = self.detector(self.states(tokens, texts))
        detection = replaced_token_loss(logits, replaced, texts.attention, added=1e-6)
        number = texts.attention.sum()
        right = ((logits.detach() > 0) == replaced) & texts.attention
        return {
            "loss": masked + self.config.detection_weight * detection,
            "masked": masked.detach(),
            "detection": detection.detach(),
            "mask_accuracy": mask_accuracy,
            "replaced": replaced.sum() / number,
            "detection_accuracy": right.sum() / number,
        }

    @torch.no_grad()
    def replaced(self, texts: Texts, places: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """int64 (B, L): the text with what the generator draws in all places that it fills in."""
        scores = logits.float()
        if self.training:
            uniform = torch.rand_like(scores)
            scores = scores - (-(uniform + 1e-9).log() + 1e-9).log()
        drawn = torch.where(labels == IGNORED, texts.tokens.gather(1, places), scores.argmax(dim=2))
        return texts.tokens.scatter(1, places, drawn)

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        return bert_states(self.backbone, tokens, texts)

    def reader(self, tokens: Tensor, texts: Texts) -> Tensor:
        return bert_states(self.generator, tokens, texts)


def electra_network(config: ELECTRAConfig, vocabulary: int, width: int, heads: int) -> Any:
    """`transformers`' ElectraModel.

    Raises:
        ImportError: if the library is missing.
    """
    library = transformers_for("electra")
    network = library.ElectraConfig(
        vocab_size=vocabulary,
        embedding_size=config.embedding,
        hidden_size=width,
        num_hidden_layers=config.depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_act="gelu",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=config.positions,
        pad_token_id=None,  # else the embedding of token 0, whatever it is, would stay as it is
        attn_implementation="sdpa",
    )
    return library.ElectraModel(network)
