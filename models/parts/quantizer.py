"""A product quantiser whose codes are chosen with Gumbel noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.parts.collectives import summed, world_size


class Quantized(NamedTuple):
    """What a quantiser makes of frames."""

    vectors: Tensor
    """(B, T, D): the chosen codes of all groups, side by side."""
    codes: Tensor
    """int64 (B, T, G): which they are."""
    perplexity: Tensor
    """Scalar with gradient, from G to G * V: of the mean soft-max over all ranks' frames, added up over groups."""
    code_perplexity: Tensor
    """Scalar without: of the codes that are likeliest in each frame of this rank."""


class GumbelQuantizer(nn.Module):
    """Each of G groups takes one of V codes for a frame: in training by logits with Gumbel noise, whose soft-max at a
    temperature has the gradient, in evaluation the likeliest.

    The noise is drawn from torch's default generator.

    Args:
        in_dim: C of a frame.
        groups, codes: G and V.
        out_dim: D, a multiple of G.
        temperature: of the first step.

    Source: arXiv 2006.11477, section 2; facebookresearch/fairseq at 3d262bb,
    fairseq/modules/gumbel_vector_quantizer.py.
    """

    temperature: Tensor
    """float32 scalar."""

    def __init__(self, in_dim: int, *, groups: int, codes: int, out_dim: int, temperature: float) -> None:
        super().__init__()
        self.groups, self.codes = groups, codes
        self.logits = nn.Linear(in_dim, groups * codes)
        nn.init.normal_(self.logits.weight, std=1.0)
        nn.init.zeros_(self.logits.bias)
        self.vectors = nn.Parameter(torch.empty(groups, codes, out_dim // groups).uniform_())
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, frames: Tensor) -> Quantized:
        logits = self.logits(frames).unflatten(2, (self.groups, self.codes))  # (B, T, G, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.training:
            noise = -torch.empty_like(logits).exponential_().log()
            soft = ((logits + noise) / self.temperature).softmax(dim=3)
            codes = soft.detach().argmax(dim=3)
            chosen = F.one_hot(codes, self.codes).to(soft.dtype) + (soft - soft.detach())  # exactly 0 and 1
        else:
            codes = logits.detach().argmax(dim=3)
            chosen = F.one_hot(codes, self.codes).to(logits.dtype)
        vectors = torch.einsum("btgv,gvd->btgd", chosen, self.vectors.to(chosen.dtype)).flatten(2)
        with torch.no_grad():
            likeliest = F.one_hot(logits.argmax(dim=3), self.codes).to(logits.dtype).mean(dim=(0, 1))
        usage = summed(logits.softmax(dim=3).mean(dim=(0, 1))) / world_size()
        return Quantized(vectors, codes, _perplexity(usage), _perplexity(likeliest))


def _perplexity(shares: Tensor) -> Tensor:
    """Of shares (G, V), added up over groups."""
    return (-(shares * (shares + 1e-7).log()).sum(dim=1)).exp().sum()
