"""Cepstra of log-mel spectrograms: the cosine transform of each frame, and how it changes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LIFTER = 22
"""Kaldi's: by it high cepstra are scaled up to the size of low ones."""


def cepstral_basis(bins: int, cepstra: int) -> Tensor:
    """float32 (bins, cepstra): what log-mel frames are multiplied by to become Kaldi's cepstra, the orthonormal cosine
    transform of the second kind, liftered.

    Source: torchaudio.compliance.kaldi.mfcc, which is `compute-mfcc-feats` of kaldi-asr/kaldi with use_energy off.
    """
    band, order = torch.arange(bins).double()[:, None], torch.arange(cepstra).double()
    basis = torch.cos(math.pi / bins * (band + 0.5) * order) * math.sqrt(2 / bins)
    basis[:, 0] = math.sqrt(1 / bins)
    return (basis * (1 + LIFTER / 2 * torch.sin(math.pi * order / LIFTER))).float()


def differences(frames: Tensor, reach: int = 2) -> Tensor:
    """(B, T, D): the slope of a line through each number's `reach` neighbours on either side; ends are repeated.

    Source: torchaudio.functional.compute_deltas with its default window of five.
    """
    steps = torch.arange(-reach, reach + 1, dtype=frames.dtype, device=frames.device)
    padded = F.pad(frames.transpose(1, 2), (reach, reach), mode="replicate")  # (B, D, T + 2 reach)
    slopes = (padded.unfold(2, 2 * reach + 1, 1) * steps).sum(dim=3) / steps.square().sum()
    return slopes.transpose(1, 2)


def with_differences(frames: Tensor) -> Tensor:
    """(B, T, 3D): frames, their differences, and the differences of these."""
    first = differences(frames)
    return torch.cat([frames, first, differences(first)], dim=2)
