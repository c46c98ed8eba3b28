"""The reference engine: torchvision's functional operators, one view at a time, with the plan's own numbers.

Slow and plain on purpose. It decodes with Pillow, shares no pixel code with the native engine, and is what every
other engine is held against.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.batch import normalize_images
from headrace.pipeline.engines.base import StageTimes, of_sample
from headrace.pipeline.images.decode import decode_image
from headrace.pipeline.images.noise import noise_planes
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import BRIGHTNESS, CONTRAST, HUE, SATURATION, View
from headrace.pipeline.images.views import ViewSpec
from headrace.shards import RAW, ShardSet, Spans
from headrace.shards.formats.orientation import turned


def apply_view(image: Tensor, drawn: np.void, view: View) -> Tensor:
    """One view of a decoded image, by a record of DRAWS: uint8 (3, H, W) to uint8 (3, size, size)."""
    box = drawn["crop"].tolist()
    result = F.resized_crop(image, *box, [view.size] * 2, InterpolationMode(view.interpolation))
    if drawn["flip"]:
        result = F.horizontal_flip(result)
    if drawn["turns"]:
        result = F.rotate(result, 90.0 * int(drawn["turns"]))
    for name in view.operations:
        result = OPERATORS[name](result, drawn, view)
    return result


def _jitter(image: Tensor, drawn: np.void, view: View) -> Tensor:
    changes = {
        BRIGHTNESS: F.adjust_brightness,
        CONTRAST: F.adjust_contrast,
        SATURATION: F.adjust_saturation,
        HUE: F.adjust_hue,
    }
    for code in drawn["jitter_order"].tolist():
        if code >= 0:
            image = changes[code](image, float(drawn["jitter_factor"][code]))
    return image


def _project(image: Tensor, drawn: np.void, view: View) -> Tensor:
    return project(image) if drawn["project"] else image


def _drop_channels(image: Tensor, drawn: np.void, view: View) -> Tensor:
    if drawn["kept"] < 0:
        return image
    noise = torch.from_numpy(noise_planes(drawn["noise"][None], view.size)[0])
    return drop_channels(image, int(drawn["kept"]), noise)


def _grayscale(image: Tensor, drawn: np.void, view: View) -> Tensor:
    return F.rgb_to_grayscale(image, num_output_channels=3) if drawn["grayscale"] else image


def _blur(image: Tensor, drawn: np.void, view: View) -> Tensor:
    sigma = float(drawn["blur_sigma"])
    return F.gaussian_blur(image, [view.blur_taps] * 2, [sigma] * 2) if sigma > 0 else image


def _solarize(image: Tensor, drawn: np.void, view: View) -> Tensor:
    return F.solarize(image, view.solarize_threshold) if drawn["solarize"] else image


def _erase(image: Tensor, drawn: np.void, view: View) -> Tensor:
    top, left, height, width = drawn["erase"].tolist()
    value = torch.tensor(view.erase_value, dtype=torch.uint8)[:, None, None]
    return F.erase(image, top, left, height, width, value) if height else image


def project(image: Tensor) -> Tensor:
    """Each pixel without its part along (-1, 2, -1): context prediction's projection (1505.05192, section 3.1), for
    which torchvision has no operator. uint8 (3, H, W) to the same, halves of a level rounded upwards."""
    axis = torch.tensor([-1, 2, -1])
    matrix = 6 * torch.eye(3, dtype=torch.int64) - axis[:, None] * axis  # six times the paper's B
    sixfold = torch.einsum("ij,jhw->ihw", matrix, image.long())
    return (sixfold + 3).div(6, rounding_mode="floor").clamp(0, 255).to(torch.uint8)


def drop_channels(image: Tensor, kept: int, noise: Tensor) -> Tensor:
    """All channels but one as noise around its mean with a hundredth of its deviation: context prediction's colour
    dropping (1505.05192, section 3.1). uint8 (3, H, W) and float32 (2, H, W) to uint8 (3, H, W)."""
    deviation, mean = torch.std_mean(image[kept].double(), correction=0)
    result = image.clone()
    result[[c for c in range(3) if c != kept]] = (mean + deviation / 100 * noise).add(0.5).floor().clamp(0, 255).byte()
    return result


OPERATORS: dict[str, Callable[[Tensor, np.void, View], Tensor]] = {
    "jitter": _jitter,
    "project": _project,
    "drop_channels": _drop_channels,
    "grayscale": _grayscale,
    "blur": _blur,
    "solarize": _solarize,
    "erase": _erase,
}
"""Operation of a view to what does it to an image, uint8 (3, S, S), if its draws say so."""


class TorchvisionEngine:
    """See `headrace.pipeline.engines.base.Engine`."""

    operations = frozenset(OPERATORS)

    def __init__(self, shards: ShardSet, field: str, spec: ViewSpec) -> None:
        self._shards = shards
        self._field = field
        self._spec = spec

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """As the protocol says. Raises ShardError naming the sample whose bytes cannot be decoded."""
        decode_s = augment_s = 0.0
        for i in range(len(ids)):
            started = perf_counter()
            pixels = turned(self._decode(int(ids[i]), spans, i), int(spans.orientation[i]))
            # Copied before torch sees it: no tensor has the negative strides of a mirrored array.
            image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
            decoded = perf_counter()
            for v, view in enumerate(self._spec.views):
                result = apply_view(image, plan.draws[i, v], view)
                if views[v].dtype == np.float32:
                    result = normalize_images(result, view.normalize)
                views[v][i] = result.permute(1, 2, 0).numpy()
            decode_s += decoded - started
            augment_s += perf_counter() - decoded
        return StageTimes(decode_s=decode_s, augment_s=augment_s)

    def _decode(self, sample: int, spans: Spans, i: int) -> np.ndarray:
        """The stored pixels, uint8 (H, W, 3)."""
        height, width = int(spans.height[i]), int(spans.width[i])
        data = memory_at(int(spans.address[i]), int(spans.size[i]))
        if spans.encoding[i] == RAW:
            return np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()
        with of_sample(self._shards, sample, self._field, "image"):
            pixels = decode_image(data).copy()
            if pixels.shape != (height, width, 3):
                raise ValueError(f"it is {pixels.shape[1]} x {pixels.shape[0]}, the index says {width} x {height}")
            return pixels
