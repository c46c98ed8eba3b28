"""BERT: name the hidden words of a text, and say whether its second half follows its first (arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.methods.text.fill_in import FillIn, bert_network, bert_states, check_encoder
from headrace.models.parts.precision import widened
from headrace.models.parts.texts import MaskedTokenHead, bert_initialization, vocabulary_and_mask
from headrace.pipeline import Batch, Texts, TextSpec, TokenMask


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
    whole_words: bool = False
    """Whether all tokens of a word are to be predicted or none, as in the authors' later models."""
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
        check_encoder(self)


class BERT(FillIn):
    """Probes see the mean of a whole text's last states: of [CLS] alone nothing is asked but the next sentence.

    Followed: google-research/bert at eedf571, modeling.py and run_pretraining.py. The network is `transformers`'
    BertModel, which therefore loads what is trained here. Which tokens are hidden, and which pairs are broken, comes
    with the batch.
    """

    config: BERTConfig
    added = 1e-5

    def __init__(self, config: BERTConfig) -> None:
        super().__init__()
        self.config = config
        vocabulary, self.mask_id = vocabulary_and_mask(config.tokenizer)
        mask = TokenMask(ratio=config.mask_ratio, most=config.most_masked)
        self.inputs = TextSpec(
            tokenizer=config.tokenizer,
            length=config.length,
            masks=(mask,),
            whole_words=config.whole_words,
            pair="next" if config.next_sentence else None,
        )
        self.most_masked = int(mask.wanted(np.array(config.length)))
        bert = bert_network("bert", config, vocabulary, pooler=config.next_sentence)
        self.backbone, self.feature_dim = bert, config.width
        self.head = MaskedTokenHead(bert.embeddings.word_embeddings, config.width, gelu="tanh", epsilon=1e-12)
        self.next_sentence = nn.Linear(config.width, 2) if config.next_sentence else None
        bert_initialization(self, cut_off=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` is the sum of `"masked"`, see `headrace.models.losses.masked_token_loss`, and `"next"`, the cross
        entropy of whether the pair is broken. `"mask_accuracy"` and `"next_accuracy"` are shares of right answers, the
        former where [MASK] stands."""
        texts: Texts = batch["text"]
        states, *filled_in = self.filled_in(texts)
        masked, mask_accuracy = self.masked_terms(texts, *filled_in)
        terms, accuracy = {"masked": masked}, {"mask_accuracy": mask_accuracy}
        if self.next_sentence is not None:
            bert: Any = self.backbone
            answers = widened(self.next_sentence(bert.pooler(states)))
            terms["next"] = F.cross_entropy(answers, texts.broken)
            accuracy["next_accuracy"] = (answers.detach().argmax(dim=1) == texts.broken).float().mean()
        logged = {name: term.detach() for name, term in terms.items()} if len(terms) > 1 else {}
        return {"loss": torch.stack(list(terms.values())).sum(), **logged, **accuracy}

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        return bert_states(self.backbone, tokens, texts)
