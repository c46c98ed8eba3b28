"""NVIDIA DALI's CPU backend: one graph that decodes a photograph once and cuts all its views.

https://docs.nvidia.com/deeplearning/dali; conditionals apply an operator to the drawn samples only, colour changes are
DALI's one fused operator (always in one order, where torchvision draws the order), and cropping is fused with resizing,
flipping with normalising, as its examples do.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headrace.benchmarks.peers import Views
from headrace.pipeline import View, ViewSpec

SHUFFLE = 256  # samples that the reader holds back to mix neighbours


def dali(tars: Sequence[Path], spec: ViewSpec, batch_size: int, threads: int) -> Iterator[Views]:
    """Batches from tar shards on the CPU."""
    package: Any = importlib.import_module("nvidia.dali")  # its type stubs leave out half of what it exports
    fn, types = package.fn, package.types
    plugin = importlib.import_module("nvidia.dali.plugin.pytorch")

    def coin(probability: float) -> Any:
        return fn.random.coin_flip(probability=probability, dtype=types.BOOL)

    def between(low: float, high: float) -> Any:
        return fn.random.uniform(range=[low, high])

    def drawn_from(view: View) -> dict[str, Any]:
        return {"random_area": list(view.scale), "random_aspect_ratio": list(view.ratio)}

    def resized_to(view: View) -> dict[str, Any]:
        return {"size": [view.size, view.size], "interp_type": types.INTERP_LINEAR, "antialias": True}

    def augment(out: Any, view: View) -> Any:
        if view.jitter:
            changed = coin(view.jitter)
            if changed:
                out = fn.color_twist(
                    out,
                    brightness=between(max(0.0, 1 - view.brightness), 1 + view.brightness),
                    contrast=between(max(0.0, 1 - view.contrast), 1 + view.contrast),
                    saturation=between(max(0.0, 1 - view.saturation), 1 + view.saturation),
                    hue=between(-360 * view.hue, 360 * view.hue),
                )
        if view.grayscale:
            grey = coin(view.grayscale)
            if grey:
                out = fn.saturation(out, saturation=0.0)
        if view.blur:
            blurred = coin(view.blur)
            if blurred:
                out = fn.gaussian_blur(out, window_size=view.blur_taps, sigma=between(*view.blur_sigma))
        if view.solarize:
            inverted = coin(view.solarize)
            if inverted:
                above = out >= types.Constant(view.solarize_threshold, types.UINT8)
                out = fn.cast_like(above * (255 - out) + (above ^ True) * out, out)
        return fn.crop_mirror_normalize(
            out,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * mean for mean in view.normalize.mean],
            std=[255 * deviation for deviation in view.normalize.std],
            mirror=fn.random.coin_flip(probability=view.flip),
        )

    @package.pipeline_def(enable_conditionals=True)
    def graph() -> Any:
        jpeg = fn.readers.webdataset(
            paths=[str(tar) for tar in tars],
            ext=["jpg"],
            random_shuffle=True,
            initial_fill=SHUFFLE,
            missing_component_behavior="error",
            name="reader",
        )
        if len(spec) == 1:  # the decoder itself can leave out what is outside of one crop
            (view,) = spec.views
            crop = fn.decoders.image_random_crop(jpeg, device="cpu", output_type=types.RGB, **drawn_from(view))
            return augment(fn.resize(crop, **resized_to(view)), view)
        image = fn.decoders.image(jpeg, device="cpu", output_type=types.RGB)
        return tuple(
            augment(fn.random_resized_crop(image, **drawn_from(view), **resized_to(view)), view) for view in spec.views
        )

    pipeline = graph(batch_size=batch_size, num_threads=threads, device_id=None, prefetch_queue_depth=2, seed=0)
    names = [f"view{number}" for number in range(len(spec))]
    for (output,) in plugin.DALIGenericIterator([pipeline], names, size=-1, auto_reset=False):
        yield Views([output[name] for name in names])
