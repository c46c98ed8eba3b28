"""T5: say what stood in the spans that a text has lost (arXiv 1910.10683)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headrace.models.checks import require
from headrace.models.method import Piece
from headrace.models.methods.text.text_to_text import TextToText, noisy_texts
from headrace.models.parts.texts import transformers_for
from headrace.pipeline import Batch, CorruptedSpans, InfilledTexts, SpanMask, Texts, TextSpec
from headrace.pipeline.texts.tokenizer import TextTokenizer

VOCABULARY, PADDING = 32_128, 0
"""Of T5: 32,000 tokens, 100 sentinels, and 28 that nothing stands for."""


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """T5 1.0 base with the authors' values (google-research/text-to-text-transfer-transformer at e081111)."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json`; its vocabulary, and sentinels where it has none, are the method's. Empty until
    there is one: the vocabulary is T5's then, and nothing can be trained."""
    length: int = 569
    """Tokens of a text at most, the special ones counted: 568 and the end, of which the encoder sees 512 and the
    decoder names 114."""
    density: float = 0.15
    """Share of a text's tokens that is lost."""
    span: float = 3.0
    """Mean length of a lost span, in tokens."""
    sentinels: int = 100
    """Tokens that stand for spans, where the tokenizer has no <extra_id_0>: so many behind its vocabulary, of which the
    last stands for the first span, as in the authors' code."""
    width: int = 768
    """Of the states."""
    inner: int = 3072
    """Of the layers inside."""
    depth: int = 12
    """Blocks of the encoder."""
    decoder_depth: int = 12
    """Blocks of the decoder."""
    heads: int = 12
    """Attention heads of a block."""
    head_width: int = 64
    """Of a head; all together need not be as wide as the states."""
    dropout: float = 0.1
    """Of states, and of attention; 0 for none."""
    normalizer_weight: float = 1e-4
    """Of the squared logarithm of the sum of the logits' exponentials, which is added to the loss (z-loss)."""

    def __post_init__(self) -> None:
        for name in ("width", "inner", "depth", "decoder_depth", "heads", "head_width", "sentinels"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(0 <= self.dropout < 1, self, "dropout", "be in [0, 1)")
        require(self.normalizer_weight >= 0, self, "normalizer_weight", "be at least 0")


class T5(TextToText):
    """Probes see the mean of the encoder's last states.

    Followed: google-research/text-to-text-transfer-transformer at e081111, t5/data/preprocessors.py and its gin files;
    tensorflow/mesh, mesh_tensorflow/transformer. The network is `transformers`' T5Model, which therefore loads what is
    trained here; weights begin as that draws them. What a tokenizer puts before a text stands before the encoder's
    input, too.
    """

    config: T5Config
    inputs: TextSpec

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        vocabulary, self.padding, sentinels = VOCABULARY, PADDING, None
        before: list[int] = []
        behind = 1
        if config.tokenizer:
            tokenizer = TextTokenizer(config.tokenizer)
            vocabulary, self.padding = tokenizer.vocabulary, tokenizer.padding_id
            before, behind = tokenizer.before.tolist(), len(tokenizer.behind)
            if not tokenizer.sentinels:
                sentinels = tuple(range(vocabulary + config.sentinels - 1, vocabulary - 1, -1))
                vocabulary += config.sentinels
        self.start = self.padding
        self.frame = (len(before), behind)
        self.before = torch.nn.Buffer(torch.tensor(before, dtype=torch.int64), persistent=False)
        mask = SpanMask(density=config.density, mean_length=config.span, sentinels=sentinels)
        self.inputs = TextSpec(tokenizer=config.tokenizer, length=config.length, window="drawn", masks=(mask,))
        self.backbone, self.feature_dim = t5_network(config, vocabulary, self.padding), config.width
        self.normalizer_weight = config.normalizer_weight
        self.logit_scale = config.width**-0.5

    def encoder_inputs(self, noisy: CorruptedSpans | InfilledTexts) -> tuple[Tensor, Tensor]:
        inputs, attention = super().encoder_inputs(noisy)
        before = self.before.expand(len(inputs), -1)
        return torch.cat([before, inputs], dim=1), torch.cat([torch.ones_like(before).bool(), attention], dim=1)

    @torch.no_grad()
    def readings(self, batch: Batch) -> list[list[Piece]]:
        texts: Texts = batch["text"]
        logits, labels = self.named(texts)
        noise = noisy_texts(texts).noise
        name, (first, behind) = TextTokenizer(self.inputs.tokenizer).name, self.frame
        found = []
        rows = (x.tolist() for x in (texts.tokens[:, first:], noise, labels, logits.argmax(dim=2), texts.lengths))
        for tokens, lost, wanted, said, length in zip(*rows, strict=True):
            pieces, place = [], 0
            for number, is_lost in enumerate(lost[: length - first - behind]):
                if not is_lost:
                    pieces.append(Piece(name(tokens[number])))
                    continue
                begins = not lost[number - 1]
                shown = name(wanted[place]) if begins else ""
                place += begins
                pieces.append(Piece(name(tokens[number]), shown, name(said[place])))
                place += 1
            found.append(pieces)
        return found


def t5_network(config: T5Config, vocabulary: int, padding: int) -> Any:
    """`transformers`' T5Model.

    Raises:
        ImportError: if the library is missing.
    """
    library = transformers_for("t5")
    network = library.T5Config(
        vocab_size=vocabulary,
        d_model=config.width,
        d_kv=config.head_width,
        d_ff=config.inner,
        num_layers=config.depth,
        num_decoder_layers=config.decoder_depth,
        num_heads=config.heads,
        dropout_rate=config.dropout,
        feed_forward_proj="relu",
        pad_token_id=padding,
        decoder_start_token_id=padding,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    return library.T5Model(network)
