"""Batch norms over parts of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics are, in training, of each of `splits` parts of the batch by itself, as if each part
    lay on a device of its own. The batch must be a multiple of `splits`.

    Source: the demonstration on CIFAR-10 of facebookresearch/moco, branch colab-notebook, SplitBatchNorm.
    """

    def __init__(self, features: int, splits: int, **options: object) -> None:
        super().__init__(features, **options)  # type: ignore[arg-type]
        self.splits = splits

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same. Running statistics become the mean of the parts'."""
        if not self.training:
            return super().forward(x)
        n, c, h, w = x.shape
        if n % self.splits:
            raise ValueError(f"a batch of {n} cannot be split into {self.splits} parts of equal size")
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean.repeat(self.splits), self.running_var.repeat(self.splits)
        parts = x.reshape(self.splits, n // self.splits, c, h, w).transpose(0, 1).reshape(-1, self.splits * c, h, w)
        weight = None if self.weight is None else self.weight.repeat(self.splits)
        bias = None if self.bias is None else self.bias.repeat(self.splits)
        out = F.batch_norm(parts, mean, var, weight, bias, True, self.momentum or 0.0, self.eps)
        with torch.no_grad():
            self.running_mean.copy_(mean.view(self.splits, c).mean(dim=0))
            self.running_var.copy_(var.view(self.splits, c).mean(dim=0))
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return out.reshape(-1, self.splits, c, h, w).transpose(0, 1).reshape(n, c, h, w)


def split_batch_norms(module: nn.Module, splits: int) -> nn.Module:
    """`module` with every `BatchNorm2d`, or subclass of it, taking statistics of `splits` parts; as it is for 1.

    timm's norms that hold an activation keep it.
    """
    if splits == 1:
        return module
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            split = SplitBatchNorm2d(
                child.num_features, splits, eps=child.eps, momentum=child.momentum, affine=child.affine
            )
            split.load_state_dict(child.state_dict())
            setattr(module, name, split)
        else:
            split_batch_norms(child, splits)
    return module
