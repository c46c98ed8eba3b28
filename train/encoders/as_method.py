"""A network that somebody else trained, in the place of a method."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from headrace.models import Method
from headrace.pipeline import Batch, Inputs, ViewSpec
from headrace.train.encoders.encoder import Encoder


def as_method(encoder: Encoder) -> Method:
    """The encoder's own method, or one that encodes as it does and has no loss, for protocols that ask for a method."""
    return encoder.method or EncodingMethod(encoder)


class EncodingMethod(Method):
    """Has what probes and fine-tuning want of a method: `inputs` is a view of the size that the backbone takes."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._shown = encoder.inputs
        self.module = encoder.module
        self.backbone = encoder.backbone
        self.feature_dim = encoder.feature_dim
        self.inputs = encoder.inputs
        if isinstance(encoder.inputs, ViewSpec) and encoder.side:
            (view,) = encoder.inputs.views
            self.inputs = ViewSpec([replace(view, size=encoder.side)], field=encoder.inputs.field)

    @property
    def probe_inputs(self) -> Inputs:
        """As the network's own evaluation shows them, perhaps larger than what it takes the middle of."""
        return self._shown

    def encode(self, batch: Batch) -> Tensor:
        features: Tensor = self.module.encode(batch)  # type: ignore[operator]
        return features
