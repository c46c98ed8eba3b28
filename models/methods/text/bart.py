"""BART: write a text down whose sentences are mixed up and whose words are partly lost (arXiv 1910.13461)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from headrace.models.checks import require
from headrace.models.method import Piece
from headrace.models.methods.text.fill_in import check_encoder
from headrace.models.methods.text.text_to_text import TextToText
from headrace.models.parts.texts import bert_initialization, transformers_for, vocabulary_and_mask
from headrace.pipeline import Batch, Infilling, Texts, TextSpec
from headrace.pipeline.texts.tokenizer import TextTokenizer

VOCABULARY, MASK, PADDING, END = 50_265, 50_264, 1, 2
"""Of BART's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class BARTConfig:
    """BART large with the values that an author gives in facebookresearch/fairseq#1899."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` with <mask> and <pad>, or [MASK] and [PAD], and an end behind each text; its
    vocabulary is the method's. Empty until there is one: the vocabulary is BART's then, and nothing can be trained."""
    length: int = 512
    """Tokens of a text at most, the special ones counted."""
    permuted: float = 1.0
    """Share of a text's sentences that change places; 0 for none."""
    mask_ratio: float = 0.3
    """Share of a text's words that are lost, in spans of which a mask each is left; 0 for none."""
    span: float = 3.5
    """Mean length of a lost span, in words."""
    random: float = 0.1
    """Share of the masks in whose place a random token stands."""
    positions: int = 1024
    """Places that have an embedding, at least `length`."""
    width: int = 1024
    """Of the states; four times as wide inside."""
    depth: int = 12
    """Blocks of the encoder, and as many of the decoder."""
    heads: int = 16
    """Attention heads of a block."""
    dropout: float = 0.1
    """Of states, and of attention; 0 for none."""

    def __post_init__(self) -> None:
        check_encoder(self)
        require(self.permuted > 0 or self.mask_ratio > 0, self, "permuted", "be above 0 where mask_ratio is 0")


class BART(TextToText):
    """Probes see the mean of the encoder's last states.

    Followed: facebookresearch/fairseq at 3d262bb, fairseq/data/denoising_dataset.py, fairseq/models/bart; the flags of
    its issue 1899. The network is `transformers`' BartModel, which therefore loads what is trained here.
    """

    config: BARTConfig
    inputs: TextSpec
    normalizer_weight = 0.0

    def __init__(self, config: BARTConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, _ = vocabulary_and_mask(config.tokenizer, (VOCABULARY, MASK))
        self.padding, self.start = PADDING, END
        if config.tokenizer:
            tokenizer = TextTokenizer(config.tokenizer)
            if not tokenizer.has_padding or not len(tokenizer.behind):
                raise ValueError(f"{config.tokenizer} has no token <pad> or [PAD], or puts none behind a text")
            self.padding, self.start = tokenizer.padding_id, int(tokenizer.behind[-1])
        noise = Infilling(
            permuted=config.permuted, ratio=config.mask_ratio, mean_length=config.span, random=config.random
        )
        self.inputs = TextSpec(tokenizer=config.tokenizer, length=config.length, whole_words=True, masks=(noise,))
        self.backbone, self.feature_dim = bart_network(config, vocabulary, self.padding, self.start), config.width
        bert_initialization(self.backbone, cut_off=False)

    @torch.no_grad()
    def readings(self, batch: Batch) -> list[list[Piece]]:
        texts: Texts = batch["text"]
        logits, labels = self.named(texts)
        name = TextTokenizer(self.inputs.tokenizer).name
        rows = zip(labels.tolist(), logits.argmax(dim=2).tolist(), texts.lengths.tolist(), strict=True)
        return [
            [Piece(name(token), "", name(answer)) for token, answer in zip(wanted[:n], said[:n], strict=True)]
            for wanted, said, n in rows
        ]


def bart_network(config: BARTConfig, vocabulary: int, padding: int, end: int) -> Any:
    """`transformers`' BartModel.

    Raises:
        ImportError: if the library is missing.
    """
    library = transformers_for("bart")
    network = library.BartConfig(
        vocab_size=vocabulary,
        d_model=config.width,
        encoder_layers=config.depth,
        decoder_layers=config.depth,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        encoder_ffn_dim=4 * config.width,
        decoder_ffn_dim=4 * config.width,
        max_position_embeddings=config.positions,
        activation_function="gelu",
        dropout=config.dropout,
        attention_dropout=config.dropout,
        activation_dropout=0.0,
        pad_token_id=padding,
        bos_token_id=None,
        eos_token_id=end,
        decoder_start_token_id=end,
        forced_eos_token_id=None,
        attn_implementation="sdpa",
    )
    return library.BartModel(network)
