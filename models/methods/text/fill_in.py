"""What BERT and those after it have in common: texts some of whose tokens are hidden, and a head that names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import masked_token_loss
from headrace.models.method import Method, Piece
from headrace.models.parts.texts import chosen_places, mean_of_tokens, transformers_for
from headrace.pipeline import Batch, MaskedTokens, Texts, TextSpec
from headrace.pipeline.texts.tokenizer import TextTokenizer
from headrace.pipeline.texts.tokens import IGNORED


class TextMethod(Method):
    """A method with one network that reads texts. Letters: B texts, L places, D dimensions of a state."""

    inputs: TextSpec
    pooling: Literal["mean", "first"] = "mean"
    """Features are the mean of a text's last states, the special tokens' too, or that of its first token."""

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        """The last states (B, L, D) of `tokens`, int64 (B, L), which are those of `texts`, or of them masked."""
        raise NotImplementedError(f"{type(self).__name__} must write states()")

    def encode(self, batch: Batch) -> Tensor:
        """(B, D), see `pooling`."""
        texts: Texts = batch["text"]
        states = self.states(texts.tokens, texts)
        return states[:, 0] if self.pooling == "first" else mean_of_tokens(states, texts.attention)


class FillIn(TextMethod):
    """Texts come with one `TokenMask`; the head names what stood in the places that it chose."""

    head: nn.Module
    """States (..., D) of what reads the masked text to logits (..., T)."""
    mask_id: int
    most_masked: int
    """Tokens of a text to predict at most."""
    added: float
    """See `headrace.models.losses.masked_token_loss`."""

    def reader(self, tokens: Tensor, texts: Texts) -> Tensor:
        """States of what the head reads: by default `states`, and of ELECTRA its generator's."""
        return self.states(tokens, texts)

    def filled_in(self, texts: Texts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(states (B, L, D), places (B, K) of what is to be predicted and others behind it, logits (B, K, T) there,
        labels (B, K))."""
        masked = masked_tokens(texts)
        states = self.reader(masked.tokens, texts)
        places = chosen_places(masked.labels, self.most_masked)
        logits = self.head(states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2])))
        return states, places, logits, masked.labels.gather(1, places)

    def masked_terms(self, texts: Texts, places: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the share of right answers where the mask stands: what was kept is easily told."""
        loss = masked_token_loss(logits, labels, added=self.added)
        tokens = masked_tokens(texts).tokens.gather(1, places)
        hidden = (tokens == self.mask_id) & (labels != IGNORED)
        right = (logits.detach().argmax(dim=2) == labels) & hidden
        return loss, right.sum() / hidden.sum().clamp(min=1)

    def token_logits(self, tokens: Tensor, texts: Texts, places: Tensor) -> Tensor:
        states = self.reader(tokens, texts)
        logits: Tensor = self.head(states.gather(1, places[:, :, None].expand(-1, -1, states.shape[2])))
        return logits

    @torch.no_grad()
    def readings(self, batch: Batch) -> list[list[Piece]]:
        texts: Texts = batch["text"]
        masked = masked_tokens(texts)
        places = torch.arange(masked.tokens.shape[1], device=masked.tokens.device).expand_as(masked.tokens)
        said = self.token_logits(masked.tokens, texts, places).argmax(dim=2)
        name = TextTokenizer(self.inputs.tokenizer).name
        rows = (x.tolist() for x in (texts.tokens, masked.tokens, masked.labels, said, texts.lengths))
        return [_pieces(name, *row) for row in zip(*rows, strict=True)]


def masked_tokens(texts: Texts) -> MaskedTokens:
    """The one mask over the texts."""
    (masked,) = texts.masks
    assert isinstance(masked, MaskedTokens)
    return masked


def _pieces(
    name: Any, tokens: Sequence[int], shown: Sequence[int], labels: Sequence[int], said: Sequence[int], length: int
) -> list[Piece]:
    """Of one text."""
    found = []
    for place in range(length):
        asked = labels[place] != IGNORED
        answer = (name(shown[place]), name(said[place])) if asked else (None, None)
        found.append(Piece(name(tokens[place]), *answer))
    return found


def attention_mask(attention: Tensor) -> Tensor:
    """bool (B, 1, 1, L) of `attention`, bool (B, L): what every place may look at. Networks of transformers are given
    this form, as they read one of (B, L) back from the device."""
    return attention[:, None, None, :]


def bert_states(network: Any, tokens: Tensor, texts: Texts) -> Tensor:
    """The last states (B, L, D) that one of transformers' BertModel, ElectraModel and AlbertModel has of tokens (B, L),
    which are those of `texts`, or of them masked."""
    hidden = network.embeddings(input_ids=tokens, token_type_ids=texts.segments)
    if hasattr(network, "embeddings_project"):  # ELECTRA's
        hidden = network.embeddings_project(hidden)
    found: Tensor = network.encoder(hidden, attention_mask=attention_mask(texts.attention))[0]
    return found


def check_encoder(config: Any) -> None:
    """ValueError where sizes of a text encoder do not fit."""
    for name in ("width", "depth", "heads"):
        require(getattr(config, name) >= 1, config, name, "be at least 1")
    require(config.width % config.heads == 0, config, "width", "be a multiple of heads")
    require(config.positions >= config.length, config, "positions", "be at least length")
    require(0 <= config.dropout < 1, config, "dropout", "be in [0, 1)")


def bert_network(method: str, config: Any, vocabulary: int, *, pooler: bool) -> Any:
    """`transformers`' BertModel with the sizes of `config`, and with a pooler where one is asked for.

    Raises:
        ImportError: naming the method, if the library is missing.
    """
    library = transformers_for(method)
    network = library.BertConfig(
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
    return library.BertModel(network, add_pooling_layer=pooler)
