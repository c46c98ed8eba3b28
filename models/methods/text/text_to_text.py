"""What T5 and BART have in common: noisy texts, an encoder that reads them, and a decoder that mends them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.losses import next_token_loss
from headrace.models.methods.text.fill_in import TextMethod, attention_mask
from headrace.pipeline import Batch, CorruptedSpans, InfilledTexts, Texts
from headrace.pipeline.texts.tokens import IGNORED


class TextToText(TextMethod):
    """Texts come with one draw of noise: inputs for the encoder, and labels that the decoder names one by one, each
    given those before it. The backbone is transformers' network of both, whose features are the encoder's."""

    padding: int
    """The token that fills up the decoder's inputs; no label is told from it."""
    start: int
    """The token that the decoder's inputs begin with."""
    normalizer_weight: float
    """See `headrace.models.losses.next_token_loss`."""
    logit_scale: float = 1.0
    """Of the decoder's states before the embeddings name tokens."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, see `headrace.models.losses.next_token_loss`, and `"accuracy"`, the share of labels that are named
        rightly, given those before them."""
        texts: Texts = batch["text"]
        logits, labels = self.named(texts)
        asked = labels != IGNORED
        right = (logits.detach().argmax(dim=2) == labels) & asked
        loss = next_token_loss(logits, labels, normalizer_weight=self.normalizer_weight)
        return {"loss": loss, "accuracy": right.sum() / asked.sum().clamp(min=1)}

    def named(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """(logits (B, N, T) of the decoder, labels (B, N))."""
        noisy = noisy_texts(texts)
        inputs, attention = self.encoder_inputs(noisy)
        states = self._encoded(inputs, attention)
        network: Any = self.backbone
        shown = F.pad(noisy.labels[:, :-1], (1, 0), value=self.start).clone()
        shown = shown.where(shown != IGNORED, self.padding)
        size = shown.shape[1]
        earlier = torch.ones(size, size, dtype=torch.bool, device=shown.device).tril()[None, None]
        decoded = network.decoder(
            input_ids=shown,
            attention_mask=earlier,
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask(attention),
            use_cache=False,
        )[0]
        return F.linear(decoded * self.logit_scale, network.shared.weight), noisy.labels

    def encoder_inputs(self, noisy: CorruptedSpans | InfilledTexts) -> tuple[Tensor, Tensor]:
        """(tokens (B, I), attention, bool (B, I))."""
        place = torch.arange(noisy.inputs.shape[1], device=noisy.inputs.device)
        return noisy.inputs, place < noisy.input_count[:, None]

    def states(self, tokens: Tensor, texts: Texts) -> Tensor:
        return self._encoded(tokens, texts.attention)

    def _encoded(self, tokens: Tensor, attention: Tensor) -> Tensor:
        network: Any = self.backbone
        found: Tensor = network.encoder(input_ids=tokens, attention_mask=attention_mask(attention))[0]
        return found


def noisy_texts(texts: Texts) -> Any:
    """The one draw of noise: `CorruptedSpans` or `InfilledTexts`."""
    (noisy,) = texts.masks
    assert isinstance(noisy, CorruptedSpans | InfilledTexts)
    return noisy
