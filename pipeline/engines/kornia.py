"""Kornia: crops from another engine, everything after them on whole batches on any device.

The device half reads nothing back and branches on nothing that lies on the device: each operation runs on the whole
batch, with parameters that change nothing for the samples that go without. `torch.compile` takes it in one graph.

Shape letters: B samples, V views, S side of a view in pixels, T taps of the blur.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import adjust_hue
from kornia.enhance import solarize as solarize_unit
from torch import Tensor, nn
from torch.nn import functional as F

from headrace.pipeline.batch import rgb_to_lab, standardize
from headrace.pipeline.engines.base import Engine, TwoStageEngine
from headrace.pipeline.images.colour import LUMA
from headrace.pipeline.images.noise import noise_planes
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import BRIGHTNESS, CONTRAST, HUE, SATURATION, View
from headrace.pipeline.images.views import ViewSpec

# One row of parameters a sample. Up to three blends before the hue turns and three after it.
_BLENDS = 6
_HUE, _PROJECT, _KEPT, _GRAY, _SIGMA, _SOLARIZE, _ERASE = range(3 * _BLENDS, 3 * _BLENDS + 7)
_PARAMETERS = _ERASE + 4
_NEVER = 2.0  # a solarise threshold above every level of [0, 1]


def pack(plan: Plan) -> np.ndarray:
    """The photometric draws as one array (V, B, P) float32, so that one copy takes them to the device.

    A blend is `level * keep + gray * own + mean * common`: brightness scales (own = common = 0), saturation blends with
    the pixel's own grey level and contrast with the image's mean grey level; (1, 0, 0) changes nothing.
    """
    order = plan.jitter_order  # (B, V, 4)
    packed = np.zeros((*order.shape[:2], _PARAMETERS), np.float32)
    blends = packed[..., : 3 * _BLENDS].reshape(*order.shape[:2], _BLENDS, 3)
    blends[..., 0] = 1.0
    is_hue = order == HUE
    turn = np.where(is_hue.any(axis=2), is_hue.argmax(axis=2), order.shape[2])  # (B, V)
    for position in range(order.shape[2]):
        slot = np.where(position < turn, position, position + 2)  # the slots after the hue are 3, 4, 5
        for code in (BRIGHTNESS, CONTRAST, SATURATION):
            sample, view = np.nonzero(order[..., position] == code)
            keep = plan.jitter_factor[sample, view, code]
            row = np.stack([keep, (1 - keep) * (code == SATURATION), (1 - keep) * (code == CONTRAST)], axis=1)
            blends[sample, view, slot[sample, view]] = row
    packed[..., _HUE] = np.where(is_hue.any(axis=2), plan.jitter_factor[..., HUE], 0.0)
    packed[..., _PROJECT] = plan.project
    packed[..., _KEPT] = plan.kept
    packed[..., _GRAY] = plan.grayscale
    packed[..., _SIGMA] = plan.blur_sigma
    packed[..., _SOLARIZE] = plan.solarize
    packed[..., _ERASE : _ERASE + 4] = plan.erase
    return np.ascontiguousarray(packed.swapaxes(0, 1))


class Photometric(nn.Module):
    """The photometric half of one view, on a batch. Levels round as torchvision's do on uint8 images."""

    luma: Tensor
    offsets: Tensor
    pixels: Tensor
    erase_value: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view
        self._operations = view.operations
        radius = view.blur_taps // 2
        mean, std = np.array(view.normalize.mean), np.array(view.normalize.std)
        scale = 1 / (std if view.normalize.space == "lab" else 255 * std)
        constants = {
            "luma": np.array(LUMA),
            "offsets": np.arange(-radius, radius + 1),
            "pixels": np.arange(view.size),
            "erase_value": np.array(view.erase_value)[:, None, None],
            "scale": scale[:, None, None],
            "shift": (-mean / std)[:, None, None],
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, crops: Tensor, parameters: Tensor, as_float: bool, noise: Tensor | None = None) -> Tensor:
        """uint8 (B, 3, S, S) and float32 (B, P) of `pack` to uint8 levels, or to normalised float32; with the float32
        (B, 2, S, S) of `noise_planes` where channels may be dropped."""
        images = crops.float()
        for name in self._operations:
            images = OPERATORS[name](self, images, parameters, noise)
        images = images.contiguous(memory_format=torch.channels_last)
        return self._floats(images) if as_float else images.to(torch.uint8)

    def jitter(self, images: Tensor, parameters: Tensor, noise: Tensor | None) -> Tensor:
        blends = parameters[:, : 3 * _BLENDS].view(-1, _BLENDS, 3, 1, 1, 1)
        for slot in range(_BLENDS // 2):
            images = self._blend(images, blends[:, slot])
        if self.view.hue:
            turn = parameters[:, _HUE]
            # Rounding may turn a level by one even where the hue stays.
            images = torch.where(turn.view(-1, 1, 1, 1) == 0, images, _turn_hue(images, turn))
            for slot in range(_BLENDS // 2, _BLENDS):
                images = self._blend(images, blends[:, slot])
        return images

    def project(self, images: Tensor, parameters: Tensor, noise: Tensor | None) -> Tensor:
        return torch.where(parameters[:, _PROJECT].view(-1, 1, 1, 1) > 0, _project(images), images)

    def drop_channels(self, images: Tensor, parameters: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        return _drop_channels(images, parameters[:, _KEPT].view(-1, 1, 1, 1), noise)

    def grayscale(self, images: Tensor, parameters: Tensor, noise: Tensor | None) -> Tensor:
        return torch.where(parameters[:, _GRAY].view(-1, 1, 1, 1) > 0, self._gray(images), images)

    def blur(self, images: Tensor, parameters: Tensor, noise: Tensor | None) -> Tensor:
        return self._blurred(images, parameters[:, _SIGMA])

    def solarize(self, images: Tensor, parameters: Tensor, noise: Tensor | None) -> Tensor:
        threshold = torch.where(parameters[:, _SOLARIZE] > 0, self.view.solarize_threshold / 255, _NEVER)
        return (solarize_unit(images / 255, threshold) * 255).round()

    def erase(self, images: Tensor, parameters: Tensor, noise: Tensor | None) -> Tensor:
        return torch.where(self._inside(parameters[:, _ERASE : _ERASE + 4]), self.erase_value, images)

    def _floats(self, images: Tensor) -> Tensor:
        normalize = self.view.normalize
        if normalize.per_view:
            return standardize(images)
        if normalize.space == "lab":
            images = rgb_to_lab(images).contiguous(memory_format=torch.channels_last)
        return torch.addcmul(self.shift, images, self.scale)

    def _inside(self, boxes: Tensor) -> Tensor:
        """Rectangles (B, 4) as top, left, height, width to a mask, bool (B, 1, S, S)."""
        top, left, height, width = boxes[:, :, None].unbind(1)  # (B, 1) each
        rows = (self.pixels >= top) & (self.pixels < top + height)  # (B, S)
        columns = (self.pixels >= left) & (self.pixels < left + width)
        return rows[:, None, :, None] & columns[:, None, None, :]

    def _gray(self, images: Tensor) -> Tensor:
        return rgb_to_grayscale(images, self.luma).floor()  # (B, 1, S, S)

    def _blend(self, images: Tensor, blend: Tensor) -> Tensor:
        """`blend`: (B, 3, 1, 1, 1), see `pack`."""
        keep, own, common = blend.unbind(1)
        blended = images * keep
        if self.view.contrast or self.view.saturation:
            gray = self._gray(images)
            blended = blended + gray * own + gray.mean(dim=(1, 2, 3), keepdim=True) * common
        return blended.clamp(0, 255).floor()

    def _blurred(self, images: Tensor, sigma: Tensor) -> Tensor:
        """Separable Gaussian with reflected borders; a deviation of 0 gives the kernel that changes nothing."""
        b, c, s, _ = images.shape
        exponent = -0.5 * (self.offsets / sigma.clamp(min=1e-3)[:, None]) ** 2  # (B, T)
        weights = exponent.exp()
        weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0)  # (B * C, T)
        radius = self.view.blur_taps // 2
        planes = F.pad(images.contiguous(), [radius] * 4, mode="reflect").view(1, b * c, s + 2 * radius, -1)
        planes = F.conv2d(planes, weights[:, None, :, None], groups=b * c)
        planes = F.conv2d(planes, weights[:, None, None, :], groups=b * c)
        return planes.view(b, c, s, s).round()


def _project(images: Tensor) -> Tensor:
    """Levels without green against magenta, halves of a level rounded upwards."""
    red, green, blue = images.unbind(1)
    sixfold = torch.stack([5 * red + 2 * green - blue, 2 * (red + green + blue), 5 * blue + 2 * green - red], dim=1)
    # Half a unit more than rounding needs: whole numbers stay clear of the borders of a division that is not exact.
    return ((sixfold + 3.5) / 6).floor().clamp(0, 255)


def _drop_channels(images: Tensor, kept: Tensor, noise: Tensor) -> Tensor:
    """Levels with noise in the place of all channels but `kept`, (B, 1, 1, 1), where that is not negative."""
    channels = torch.arange(3, device=images.device).view(1, 3, 1, 1)
    remaining = (images * (channels == kept)).sum(1, keepdim=True)
    deviation, mean = torch.std_mean(remaining, dim=(2, 3), correction=0, keepdim=True)
    first, second = noise[:, :1], noise[:, 1:]
    # The first plane belongs to the lower of the two channels that go.
    of_channel = torch.cat([first, torch.where(kept == 0, first, second), second], dim=1)
    levels = (mean + deviation / 100 * of_channel + 0.5).floor().clamp(0, 255)
    return torch.where((kept < 0) | (channels == kept), images, levels)


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    return (adjust_hue(images / 255, turns * (2 * math.pi)).clamp(0, 1) * 255.999).floor()


OPERATORS: dict[str, Callable[[Photometric, Tensor, Tensor, Tensor | None], Tensor]] = {
    "jitter": Photometric.jitter,
    "project": Photometric.project,
    "drop_channels": Photometric.drop_channels,
    "grayscale": Photometric.grayscale,
    "blur": Photometric.blur,
    "solarize": Photometric.solarize,
    "erase": Photometric.erase,
}
"""Operation of a view to what does it to float32 levels (B, 3, S, S), given the parameters and noise of `forward`."""


class KorniaEngine(TwoStageEngine):
    """See `headrace.pipeline.engines.base.TwoStageEngine`. `crop` may be called by several threads, `finish` by one.

    Args:
        cropper: what crops, for views that are `View.crop_only`.
        spec: the views.
        device: where the photometric half runs and leaves the views.
    """

    operations = frozenset(OPERATORS)

    def __init__(self, cropper: Engine, spec: ViewSpec, device: str = "cpu") -> None:
        self.cropper = cropper
        self._device = torch.device(device)
        self._views = spec.views
        self._photometric = nn.ModuleList(Photometric(view) for view in spec.views).to(self._device)

    @torch.no_grad()
    def finish(self, plan: Plan, crops: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Every operation of the views and, for float32, normalise. See `TwoStageEngine.finish`."""
        if not len(plan):  # a rank's share of an epoch's last batch
            return [crop.to(self._device, dtype) for crop in crops]
        parameters = torch.from_numpy(pack(plan))
        if self._device.type == "cuda":
            parameters = parameters.pin_memory()
        here = parameters.to(self._device, non_blocking=True)
        moved = [crop.to(self._device, non_blocking=True) for crop in crops]
        as_float = dtype == torch.float32
        noises = [self._noise(plan.noise[:, v], view) for v, view in enumerate(self._views)]
        return [
            photometric(crop, row, as_float, noise)
            for photometric, crop, row, noise in zip(self._photometric, moved, here, noises, strict=True)
        ]

    def _noise(self, words: np.ndarray, view: View) -> Tensor | None:
        """float32 (B, 2, S, S) on the device for a view that may drop channels."""
        return torch.from_numpy(noise_planes(words, view.size)).to(self._device) if view.drop_channels else None
