"""What Triton's interpreter draws on the CPU, for the tests of engine `cuda`: run with TRITON_INTERPRET=1, which has to
be set before Triton is imported, so in a process of its own.

    python interpreted.py SHARDS OUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from headrace.pipeline import Loader, PatchPair, View, ViewSpec
from headrace.pipeline.engines import ENGINES
from headrace.pipeline.images.plan import Plan, plan
from headrace.pipeline.images.view import Normalize
from headrace.shards import ShardSet, Spans, open_shards

COLOUR = {"jitter": 0.9, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
ALL = View(
    size=24,
    **COLOUR,
    turns=(0, 1, 2, 3),
    project=0.3,
    drop_channels=0.3,
    grayscale=0.3,
    blur=0.6,
    solarize=0.3,
    erase=0.5,
)
SPECS = {
    "crop": ViewSpec([View(size=24)]),
    "enlarge": ViewSpec([View(size=24, scale=(0.02, 0.05))]),
    "bicubic": ViewSpec([View(size=24, interpolation="bicubic")]),
    "turned": ViewSpec([View(size=24, turns=(0, 1, 2, 3))]),
    "odd side": ViewSpec([View(size=23, **COLOUR)]),
    "colours": ViewSpec([View(size=24, **COLOUR)]),
    "grey before colours": ViewSpec(
        [View(size=24, **COLOUR, grayscale=0.5, order=("grayscale", "jitter"))],
    ),
    "dropped": ViewSpec(
        [View(size=24, drop_channels=1.0), View(size=16, drop_channels=0.5), View(size=24, drop_channels=0.7)]
    ),
    "erased": ViewSpec([View(size=24, erase=1.0, erase_value=(10, 200, 99))]),
    "projected": ViewSpec([View(size=24, project=1.0)]),
    "solarised": ViewSpec([View(size=24, solarize=1.0, solarize_threshold=100)]),
    "blur": ViewSpec([View(size=24, blur=1.0, blur_kernel=9)]),
    "all": ViewSpec([ALL, ALL]),
    "two sizes": ViewSpec([ALL, View(size=16, **COLOUR, blur=0.5), ALL]),
    "patch pair": ViewSpec([PatchPair(view=View(size=16, flip=0.0))]),
}
"""What is compared as levels."""
FLOATS = {
    "scaled": ViewSpec([View(size=24, normalize=Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))]),
    "lab": ViewSpec([View(size=24, normalize=Normalize.lab(mean=(50.0, 1.0, 2.0), std=(10.0, 20.0, 30.0)))]),
    "own": ViewSpec([View(size=24, normalize=Normalize(per_view=True))]),
}
"""And as float32."""
SAMPLES = np.arange(6)
LOADED = SPECS["two sizes"]
BATCH = 2


def planned(shards: ShardSet, spec: ViewSpec) -> tuple[Spans, Plan]:
    """Of SAMPLES, always the same."""
    spans = shards.spans("image", SAMPLES)
    return spans, plan(spec, 3, 0, SAMPLES, np.stack([spans.height, spans.width], axis=1))


def drawn(
    engine: str,
    shards: ShardSet,
    spec: ViewSpec,
    dtype: str = "uint8",
    *,
    device: str = "cpu",
    room: int | None = None,
) -> list[np.ndarray]:
    """V arrays (n, S, S, 3)."""
    spans, drawn = planned(shards, spec)
    views = [np.empty((len(SAMPLES), view.size, view.size, 3), dtype) for view in spec.views]
    made = ENGINES[engine](shards, "image", spec, **({"device": device} if engine == "cuda" else {}))
    if room is not None:
        from headrace.pipeline.engines.device import CudaEngine

        crops = ViewSpec([view.crop_only() for view in spec.views])
        made = CudaEngine(shards, "image", spec, crops, device, room=room)
    made.render(SAMPLES, spans, drawn, views)
    return views


def main(path: str, out: str) -> None:
    found: dict[str, np.ndarray] = {}

    def note(name: str, views: list[np.ndarray]) -> None:
        found.update({f"{name}/{number}": view for number, view in enumerate(views)})

    with open_shards(path) as shards:
        for name, spec in SPECS.items():
            note(name, drawn("cuda", shards, spec))
        note("cropped here", drawn("cuda", shards, SPECS["all"], room=0))
        for name, spec in FLOATS.items():
            note(name, drawn("cuda", shards, spec, "float32"))
        options = {"engine": "cuda", "device": "cpu", "seed": 5, "threads": 2}
        for dtype in ("uint8", "bfloat16"):
            with Loader(shards, LOADED, BATCH, dtype=dtype, **options) as loader:
                batch = next(iter(loader))
                assert all(view.dtype == getattr(torch, dtype) for view in batch.views)
                assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
                note(f"loaded {dtype}", [view.permute(0, 2, 3, 1).float().numpy() for view in batch.views])
                found[f"index {dtype}"] = batch.index.numpy()
    np.savez(Path(out), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
