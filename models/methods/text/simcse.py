"""SimCSE: find a text among others by itself, read with another dropout (arXiv 2104.08821)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import in_batch_info_nce
from headrace.models.methods.text.fill_in import TextMethod, bert_network, bert_states, check_encoder
from headrace.models.parts.texts import bert_initialization, vocabulary_and_mask
from headrace.pipeline import Batch, Texts, TextSpec
from headrace.pipeline.part import map_tensors


@dataclass(frozen=True, kw_only=True)
class SimCSEConfig:
    """Unsupervised SimCSE behind BERT base with the authors' values (princeton-nlp/SimCSE at 49fa580, README.md)."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` with [MASK], that of the BERT that the run begins from (`--init`). Empty until
    there is one: the vocabulary is BERT's then, and nothing can be trained."""
    length: int = 32
    """Tokens of a text at most, the special ones counted."""
    temperature: float = 0.05
    """That cosines are divided by."""
    positions: int = 512
    """Places that have an embedding, at least `length`."""
    width: int = 768
    """Of the states; four times as wide inside."""
    depth: int = 12
    """Blocks."""
    heads: int = 12
    """Attention heads of a block."""
    dropout: float = 0.1
    """Of states, and of attention: all that tells the two readings of a text apart."""

    def __post_init__(self) -> None:
        check_encoder(self)
        require(self.temperature > 0, self, "temperature", "be above 0")


class SimCSE(TextMethod):
    """Begin it from a BERT, with `--init` and the run's folder; from random weights it learns little. Probes see the
    state of the first token, as at the authors' test time: not the layer behind it, which is for training alone.

    Followed: princeton-nlp/SimCSE at 49fa580, simcse/models.py, README.md. The network is `transformers`' BertModel.
    """

    config: SimCSEConfig
    pooling = "first"

    def __init__(self, config: SimCSEConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, _ = vocabulary_and_mask(config.tokenizer)
        self.inputs = TextSpec(tokenizer=config.tokenizer, length=config.length)
        self.backbone, self.feature_dim = bert_network("simcse", config, vocabulary, pooler=False), config.width
        self.projector = nn.Sequential(nn.Linear(config.width, config.width), nn.Tanh())
        bert_initialization(self, cut_off=False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.in_batch_info_nce`: the first reading is found among the second ones,
        not the other way round."""
        twice: Texts = map_tensors(batch["text"], lambda x: x.repeat_interleave(2, dim=0))
        first = self.states(twice.tokens, twice)[:, 0]  # (2B, D), a text's two readings one after the other
        one, two = self.projector(first).unflatten(0, (-1, 2)).unbind(dim=1)
        return {"loss": in_batch_info_nce(one, two, self.config.temperature, key_gradient=True)}

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        return bert_states(self.backbone, tokens, texts)
