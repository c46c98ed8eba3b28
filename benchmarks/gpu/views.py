"""Views a second on the device, from decoded photographs of 375 x 500 that lie there.

Contestants are the fused kernel of engine `cuda`, Kornia's modules on the batch, torchvision v2 sample by sample, and
triton-augment's fused kernel, which neither resizes nor blurs: against it ours is cut to what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.benchmarks.gpu.clock import in_turn, ratio
from headrace.benchmarks.gpu.rows import Row, Rows
from headrace.pipeline import View, ViewSpec
from headrace.pipeline.images.plan import plan

HEIGHT, WIDTH = 375, 500
COLOUR: dict[str, Any] = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8}


def simclr(size: int) -> View:
    """SimCLR's view (arXiv 2002.05709), bilinear as all contestants resize."""
    return View(size=size, jitter=0.8, **COLOUR, hue=0.2, grayscale=0.2, blur=0.5)


def subset(size: int, height: int, width: int) -> View:
    """What triton-augment has of it: a crop as large as the view, flip, colours without hue, greyscale."""
    area = size * size / (height * width)
    return View(size=size, scale=(area, area), ratio=(1.0, 1.0), jitter=1.0, **COLOUR, grayscale=0.2)


def measure(
    rows: Rows, device: torch.device, *, batch: int, size: int, seconds: float, rounds: int, shrink: int = 1
) -> None:
    """Rows of both works, and the device's copying as the limit. `shrink`: take every so many-th row and column."""
    pictures = torch.from_numpy(np.stack(photographs(batch, shrink))).to(device)
    speed = copying(device, seconds)
    rows.add(
        Row(part="views", work="device to device copy", contestant="torch", value=speed / 1e9, unit="GB/s", trials=1)
    )
    for work, view in (
        ("SimCLR, one view", simclr(size)),
        ("triton-augment's subset, one view", subset(size, *pictures.shape[1:3])),
    ):
        contestants: dict[str, Callable[[], int]] = {"Headrace, cuda": ours(pictures, view, device)}
        contestants |= rivals(pictures, view, resizes=view.blur > 0)
        found = in_turn(contestants, device, seconds, rounds)
        moved = view.size**2 * 3 * 2 + _crop_bytes(view, *pictures.shape[:3])
        for name, rates in found.items():
            own = name == "Headrace, cuda"
            rows.add(
                Row(
                    part="views",
                    work=work,
                    contestant=name,
                    value=median(rates),
                    unit="views/s",
                    trials=rounds,
                    ratio=None if own else ratio(found["Headrace, cuda"], rates),
                    compared="" if own else "ours over theirs",
                    note=f"{median(rates) * moved / speed:.1%} of the copy's bandwidth" if own else "",
                )
            )


def copying(device: torch.device, seconds: float) -> float:
    """Bytes a second of a copy within the device's memory, read and written."""
    size = 1 << (28 if device.type == "cuda" else 20)
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> int:
        target.copy_(source)
        return 2 * size

    return median(in_turn({"copy": copy}, device, seconds, 3)["copy"])


def ours(pictures: Tensor, view: View, device: torch.device) -> Callable[[], int]:
    """The engine's kernel in bfloat16, normalised and channels last, with new draws each time."""
    from headrace.pipeline.engines.device import CudaEngine
    from headrace.pipeline.engines.regions import FRAME

    spec = ViewSpec([view])
    batch, height, width = pictures.shape[:3]
    slot = height * width * 3
    engine = CudaEngine(None, "image", spec, spec, str(device), room=slot)  # type: ignore[arg-type] # decodes nothing
    slots = torch.zeros((batch, engine.buffers(1)[0][0][1]), dtype=torch.uint8, device=device)
    slots[:, :slot] = pictures.reshape(batch, -1)
    sizes = np.tile(np.array([[height, width]], np.int32), (batch, 1))
    frames = np.zeros((batch, 1), FRAME)
    frames["row"] = 3 * width
    epoch = 0

    def draw() -> int:
        nonlocal epoch
        epoch += 1
        drawn = plan(spec, 0, epoch, np.arange(batch), sizes)
        frames["crop"] = drawn.crop
        words = torch.from_numpy(frames.view(np.int32).reshape(batch, 1, -1))
        engine.draw(drawn, [slots, words], torch.bfloat16)
        return batch

    return draw


def rivals(pictures: Tensor, view: View, *, resizes: bool) -> dict[str, Callable[[], int]]:
    """What is installed, at equal work, each on floats in its own layout."""
    planes = pictures.permute(0, 3, 1, 2).contiguous()
    found: dict[str, Callable[[], int]] = {}
    if resizes:
        found["torchvision v2, sample by sample"] = _torchvision(planes, view)
        if find_spec("kornia"):
            found["Kornia"] = _kornia(planes, view)
    elif find_spec("triton_augment") and planes.is_cuda:
        found["triton-augment"] = _triton_augment(planes, view)
    return found


def _kornia(planes: Tensor, view: View) -> Callable[[], int]:
    import kornia.augmentation as K

    made = K.AugmentationSequential(
        K.RandomResizedCrop((view.size, view.size), scale=view.scale, ratio=view.ratio),
        K.RandomHorizontalFlip(p=view.flip),
        K.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue, p=view.jitter),
        K.RandomGrayscale(p=view.grayscale),
        K.RandomGaussianBlur((view.blur_taps, view.blur_taps), view.blur_sigma, p=view.blur),
        K.Normalize(torch.tensor(view.normalize.mean), torch.tensor(view.normalize.std)),
    ).to(planes.device)

    def draw() -> int:
        with torch.no_grad():
            made(planes.float() / 255)
        return len(planes)

    return draw


def _torchvision(planes: Tensor, view: View) -> Callable[[], int]:
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
    made = v2.Compose(
        [
            v2.RandomResizedCrop(view.size, view.scale, view.ratio, antialias=True),
            v2.RandomHorizontalFlip(view.flip),
            v2.RandomApply([jitter], view.jitter),
            v2.RandomGrayscale(view.grayscale),
            v2.RandomApply([v2.GaussianBlur(view.blur_taps, view.blur_sigma)], view.blur),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(view.normalize.mean, view.normalize.std),
        ]
    )
    some = planes[: max(1, len(planes) // 8)]  # it is slow

    def draw() -> int:
        torch.stack([made(plane) for plane in some])
        return len(some)

    return draw


def _triton_augment(planes: Tensor, view: View) -> Callable[[], int]:
    import triton_augment

    made = triton_augment.TritonFusedAugment(
        crop_size=view.size,
        horizontal_flip_p=view.flip,
        brightness=view.brightness,
        contrast=view.contrast,
        saturation=view.saturation,
        grayscale_p=view.grayscale,
        mean=view.normalize.mean,
        std=view.normalize.std,
    )

    def draw() -> int:
        made(planes.half() / 255)
        return len(planes)

    return draw


def photographs(count: int, shrink: int = 1) -> list[np.ndarray]:
    """uint8 (375, 500, 3), or every so many-th row and column: pieces of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        picture = pictures[number % 2]
        top = random.integers(0, picture.shape[0] - HEIGHT + 1)
        left = random.integers(0, picture.shape[1] - WIDTH + 1)
        found.append(picture[top : top + HEIGHT : shrink, left : left + WIDTH : shrink])
    return found


def _crop_bytes(view: View, batch: int, height: int, width: int) -> float:
    """Bytes of pixels that a view reads, in the mean."""
    sizes = np.tile(np.array([[height, width]], np.int32), (batch, 1))
    crop = plan(ViewSpec([view]), 0, 1, np.arange(batch), sizes).crop[:, 0].astype(np.int64)
    return 3.0 * float((crop[:, 2] * crop[:, 3]).mean())
