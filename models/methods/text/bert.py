"""BERT: name the hidden words of a text, and say whether its second half follows its first (arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_token_loss
from headrace.models.losses.precision import widened
from headrace.models.method import Method
from headrace.models.parts.texts import MaskedTokenHead, chosen_places, mean_of_tokens, vocabulary_and_mask
from headrace.pipeline import Batch, MaskedTokens, Texts, TextSpec, TokenMask
from headrace.pipeline.texts.tokens import IGNORED


@dataclass(frozen=True, kw_only=True)
class BERTConfig:
    """BERT base with the authors' values (google-research/bert at eedf571, README.md and the scripts' defaults)."""

    tokenizer: str = ""
    """A Hugging Face `tokenizer.json` with [MASK], and with what stands before, between and behind two segments; its
    vocabulary is the method's. Empty until there is one: the vocabulary is BERT's then, and nothing can be trained."""
    length: int = 128
    """Tokens of a text at most, the special ones counted; 128 in the first nine tenths of the authors' steps, then
    512."""
    mask_ratio: float = 0.15
    """Share of a text's tokens to predict; of those 80 % are hidden, 10 % replaced at random and 10 % kept."""
    most_masked: int | None = 20
    """Tokens of a text to predict at most; null for no limit."""
    next_sentence: bool = True
    """Whether texts come in two segments, and half of the time the second is another text's, to be told. Off, each
    comes in one piece, and may be a single word."""
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
        for name in ("width", "depth", "heads"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.width % self.heads == 0, self, "width", "be a multiple of heads")
        require(self.positions >= self.length, self, "positions", "be at least length")
        require(0 <= self.dropout < 1, self, "dropout", "be in [0, 1)")


class BERT(Method):
    """Probes see the mean of a whole text's last states: of [CLS] alone nothing is asked but the next sentence.

    Followed: google-research/bert at eedf571, modeling.py and run_pretraining.py. The network is `transformers`'
    BertModel, which therefore loads what is trained here. Which tokens are hidden, and which pairs are broken, comes
    with the batch.
    """

    config: BERTConfig
    inputs: TextSpec

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, self.mask_id = vocabulary_and_mask(config.tokenizer)
        mask = TokenMask(ratio=config.mask_ratio, most=config.most_masked)
        self.inputs = TextSpec(
            tokenizer=config.tokenizer,
            length=config.length,
            masks=(mask,),
            pair="next" if config.next_sentence else None,
        )
        self.most_masked = int(mask.wanted(np.array(config.length)))
        bert = bert_network(config, vocabulary)
        self.backbone, self.feature_dim = bert, config.width
        self.head = MaskedTokenHead(bert.embeddings.word_embeddings)
        self.next_sentence = nn.Linear(config.width, 2) if config.next_sentence else None
        bert_initialization(self)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the sum of `"masked"`, see `headrace.models.losses.masked_token_loss`, and `"next"`, the cross
        entropy of whether the pair is broken. `"mask_accuracy"` and `"next_accuracy"` are shares of right answers, the
        former where [MASK] stands: what was kept is easily told."""
        texts: Texts = batch["text"]
        (masked,) = texts.masks
        assert isinstance(masked, MaskedTokens)
        states = self.states(masked.tokens, texts)
        places = chosen_places(masked.labels, self.most_masked)
        labels = masked.labels.gather(1, places)
        logits = self.head(states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2])))
        terms = {"masked": masked_token_loss(logits, labels)}
        hidden = (masked.tokens.gather(1, places) == self.mask_id) & (labels != IGNORED)
        right = (logits.detach().argmax(dim=2) == labels) & hidden
        accuracy = {"mask_accuracy": right.sum() / hidden.sum().clamp(min=1)}
        if self.next_sentence is not None:
            bert: Any = self.backbone
            answers = widened(self.next_sentence(bert.pooler(states)))
            terms["next"] = F.cross_entropy(answers, texts.broken)
            accuracy["next_accuracy"] = (answers.detach().argmax(dim=1) == texts.broken).float().mean()
        logged = {name: term.detach() for name, term in terms.items()} if len(terms) > 1 else {}
        return {"loss": torch.stack(list(terms.values())).sum(), **logged, **accuracy}

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        """The last states (B, L, D) of `tokens`, which are those of `texts`, or of them masked."""
        bert: Any = self.backbone
        hidden = bert.embeddings(input_ids=tokens, token_type_ids=texts.segments)
        # Not through its forward, which reads a mask of (B, L) back from the device.
        found: Tensor = bert.encoder(hidden, attention_mask=texts.attention[:, None, None, :])[0]
        return found

    def encode(self, batch: Batch) -> Tensor:
        """(B, D): the mean of the last states of a text, the special tokens' too."""
        texts: Texts = batch["text"]
        return mean_of_tokens(self.states(texts.tokens, texts), texts.attention)


def bert_network(config: BERTConfig, vocabulary: int) -> Any:
    """`transformers`' BertModel, with a pooler where the next sentence is asked for.

    Raises:
        ImportError: if the library is missing.
    """
    try:
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise ImportError(f"bert needs the library transformers: pip install headrace[text] ({error})") from error
    network = BertConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=config.positions,
        pad_token_id=None,  # else the embedding of token 0, whatever it is, would stay as it is
        attn_implementation="sdpa",
    )
    return BertModel(network, add_pooling_layer=config.next_sentence)


@torch.no_grad()
def bert_initialization(module: nn.Module) -> None:
    """Weights from a normal distribution of deviation 0.02, cut off at two deviations; biases 0, gains of norms 1.

    Source: google-research/bert at eedf571, modeling.py, create_initializer.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(part.weight, std=0.02, a=-0.04, b=0.04)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        if isinstance(part, (nn.Linear, nn.LayerNorm)) and part.bias is not None:
            nn.init.zeros_(part.bias)
