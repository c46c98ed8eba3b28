"""How far each engine's views lie from torchvision's, in grey levels, with the plan's own numbers.

    python -m headrace.benchmarks.parity [--photos N] [--smoke] [--json FILE] [--out DIR]

Operators alone run on pictures that are already as large as the view, so that resizing changes nothing; cropping and
whole pipelines run on JPEG photographs, clips on films of stored frames that move over these. The tests hold each
engine to bounds on the same figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from headrace.benchmarks.command import check_publishable, default_results
from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.machine import commit, machine, versions
from headrace.benchmarks.photographs import with_bar
from headrace.benchmarks.report import now
from headrace.pipeline import Clip, ClipSpec, Loader, Normalize, PatchPair, Tiles, View, ViewSpec, plan
from headrace.pipeline.engines import CLIP_ENGINES, CPU_ENGINES, ENGINES, Engine, whole_batch_part
from headrace.pipeline.images.decode import decode_image
from headrace.pipeline.images.views import Arranged
from headrace.shards import Field, ShardSet, open_shards, write_shards

REFERENCE = "torchvision"
SIDE = 96
PHOTOGRAPHS, SMOKE_PHOTOGRAPHS = 128, 8
FILMS, SMOKE_FILMS = 16, 2
FILM_SHAPE = (12, 150, 200, 3)
"""Frames, height, width and colours."""
BATCH = 32

WHOLE: dict[str, Any] = {"size": SIDE, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
COLOUR: dict[str, Any] = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
OPERATORS: dict[str, dict[str, Any]] = {
    "flip": {"flip": 1.0},
    "turn": {"flip": 0.5, "turns": (0, 1, 2, 3)},
    "brightness": {"jitter": 1.0, "brightness": 0.8},
    "contrast": {"jitter": 1.0, "contrast": 0.8},
    "saturation": {"jitter": 1.0, "saturation": 0.8},
    "hue": {"jitter": 1.0, "hue": 0.5},
    "jitter": {"jitter": 1.0, **COLOUR},
    "projection": {"project": 1.0},
    "dropping": {"drop_channels": 1.0},
    "grayscale": {"grayscale": 1.0},
    "blur": {"blur": 1.0},
    "solarize": {"solarize": 1.0},
    "erase": {"erase": 1.0, "erase_value": (124, 116, 104)},
}
"""Fields of a view that does one thing, always."""
SIMCLR = View(size=SIDE, jitter=0.8, **COLOUR, grayscale=0.2, blur=0.5)
"""Bilinear, what all engines resize with by default; bicubic has rows of its own."""
BYOL = View(
    size=SIDE, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, grayscale=0.2, blur=0.1, solarize=0.2
)
JIGSAW = View(size=64, flip=0.0, jitter=0.5, brightness=0.4, hue=0.1, grayscale=0.3)
PIPELINES = {
    "crop": ViewSpec([View(size=SIDE, flip=0.0)]),
    "enlarge": ViewSpec([View(size=SIDE, scale=(0.01, 0.05))]),
    "bicubic": ViewSpec([View(size=SIDE, interpolation="bicubic")]),
    "bicubic enlarge": ViewSpec([View(size=SIDE, scale=(0.01, 0.05), interpolation="bicubic")]),
    "simclr": ViewSpec.repeat(SIMCLR, 2),
    "byol": ViewSpec([SIMCLR, BYOL]),
    "tiles": ViewSpec([Tiles(view=JIGSAW)]),
    "patch pair": ViewSpec([PatchPair(view=View(size=SIDE, flip=0.0, project=1.0))]),
}
CLIPS = {
    "clip: crop": ClipSpec([Clip(frames=6, strides=(1, 2), view=View(size=SIDE), short="loop")]),
    "clips: simclr, byol": ClipSpec(
        [
            Clip(frames=4, strides=(1, 3), view=SIMCLR, reverse=0.5),
            Clip(frames=5, strides=(2,), view=BYOL, disorder=0.5),
            Clip(frames=3, strides=(4,), view=SIMCLR),
        ]
    ),
}
"""Of different lengths, and two of them with the same view."""

FLOATS = {"lab": Normalize.lab(), "per view": Normalize(per_view=True)}
"""Ways from levels to floats that are compared in units of their own: of Lab, and of a view's deviation."""


def alone(operator: str) -> ViewSpec:
    """One view that does nothing but one of `OPERATORS`."""
    return ViewSpec([View(**{**WHOLE, **OPERATORS[operator]})])


@contextmanager
def opened(engine: str, shards: ShardSet, spec: ViewSpec) -> Iterator[Engine]:
    """An engine that is closed in the end, if there is something to close."""
    made = ENGINES[engine](shards, "image", spec)
    try:
        yield made
    finally:
        whole = whole_batch_part(made)
        if whole is not None:
            whole.close()


def draw(engine: Engine, shards: ShardSet, spec: ViewSpec, ids: np.ndarray, dtype: str = "uint8") -> list[np.ndarray]:
    """V arrays (n, S, S, 3): the views of some samples, with a plan that is always the same."""
    spans = shards.spans("image", ids)
    drawn = plan(spec, 11, 0, ids, spans.shown_sizes())
    views = [np.empty((len(ids), view.size, view.size, 3), dtype) for view in spec.views]
    engine.render(ids, spans, drawn, views)
    return views


def render(engine: str, shards: ShardSet, spec: ViewSpec, ids: np.ndarray, dtype: str = "uint8") -> list[np.ndarray]:
    """`draw` by the engine of that name."""
    with opened(engine, shards, spec) as made:
        return draw(made, shards, spec, ids, dtype)


def together(works: Mapping[str, ViewSpec]) -> ViewSpec:
    """All views of all works, so that an engine that takes long to start does so once."""
    parts: list[View | Arranged] = []
    draws: list[int] = []
    for work in works.values():
        draws += [len(draws) + taken for taken in work.draws]
        arranged = dict(work.arranged)
        v = 0
        while v < len(work):
            parts.append(arranged.get(v, work.views[v]))
            v += len(arranged[v]) if v in arranged else 1
    return ViewSpec(parts, draws=draws)


def compare(
    engine: Engine,
    reference: Engine,
    shards: ShardSet,
    works: Mapping[str, ViewSpec],
    samples: int,
    dtype: str = "uint8",
) -> dict[str, tuple[float, float]]:
    """Work to largest and mean difference over the first `samples` of a set, in grey levels or as floats.

    Both engines are of `together(works)`.
    """
    owner = [name for name, work in works.items() for _ in work.views]
    largest, total, count = dict.fromkeys(works, 0.0), dict.fromkeys(works, 0.0), dict.fromkeys(works, 0)
    for first in range(0, samples, BATCH):
        ids = np.arange(first, min(first + BATCH, samples))
        both = (draw(each, shards, together(works), ids, dtype) for each in (engine, reference))
        for name, ours, theirs in zip(owner, *both, strict=True):
            difference = np.abs(ours.astype(np.float32) - theirs.astype(np.float32))
            largest[name] = max(largest[name], float(difference.max()))
            total[name], count[name] = total[name] + float(difference.sum()), count[name] + difference.size
    return {name: (largest[name], total[name] / count[name]) for name in works}


def differences(
    engine: str, shards: ShardSet, works: Mapping[str, ViewSpec], samples: int, dtype: str = "uint8"
) -> dict[str, tuple[float, float]]:
    """`compare` of the engine of that name with the reference."""
    spec = together(works)
    with opened(engine, shards, spec) as made, opened(REFERENCE, shards, spec) as reference:
        return compare(made, reference, shards, works, samples, dtype)


def errors(engine: str, shards: ShardSet, spec: ViewSpec, samples: int, dtype: str = "uint8") -> tuple[float, float]:
    """`differences` of one work."""
    return differences(engine, shards, {"": spec}, samples, dtype)[""]


def clip_differences(engine: str, shards: ShardSet, spec: ClipSpec) -> tuple[float, float]:
    """Largest and mean difference of an engine's clips from the reference's over a whole set, in grey levels."""
    largest, total, count = 0.0, 0.0, 0
    options: dict[str, Any] = {"seed": 11, "shuffle": False, "drop_last": False, "threads": 2}
    with (
        Loader(shards, spec, 4, engine=engine, **options) as made,
        Loader(shards, spec, 4, engine=REFERENCE, **options) as reference,
    ):
        for ours, theirs in zip(made, reference, strict=True):
            for clip, expected in zip(ours.views, theirs.views, strict=True):
                difference = (clip.int() - expected.int()).abs()
                largest = max(largest, float(difference.max()))
                total, count = total + float(difference.sum()), count + difference.numel()
    return largest, total / count


def write_films(photos: ShardSet, path: Path, count: int) -> None:
    """A set of films, stored frames: windows that wander over photographs from corner to corner."""
    frames, height, width, _ = FILM_SHAPE
    samples = []
    for i in range(count):
        pixels = decode_image(photos.read(i)["image"])
        steps = np.linspace(0.0, 1.0, frames)
        places = [(int(t * (pixels.shape[0] - height)), int(t * (pixels.shape[1] - width))) for t in steps]
        film = np.stack([pixels[top : top + height, left : left + width] for top, left in places])
        samples.append({"__key__": str(i), "frames": film})
    write_shards(path, samples, {"frames": Field(kind="array", dtype="|u1", shape=FILM_SHAPE)}, format="ffcv")


def write_squares(photos: ShardSet, path: Path, count: int) -> None:
    """A set of the centres of photographs, as pixels, as large as the views."""
    samples = []
    for i in range(count):
        pixels = decode_image(photos.read(i)["image"])
        top, left = (pixels.shape[0] - SIDE) // 2, (pixels.shape[1] - SIDE) // 2
        samples.append({"__key__": str(i), "image": pixels[top : top + SIDE, left : left + SIDE].copy()})
    write_shards(path, samples, {"image": Field(kind="image", encoding="raw")}, format="ffcv")


def installed() -> list[str]:
    """Engines whose packages are there, without the reference."""
    found = []
    with TemporaryDirectory() as folder:
        pixel = [{"__key__": "0", "image": np.zeros((1, 1, 3), np.uint8)}]
        write_shards(Path(folder) / "set", pixel, {"image": Field(kind="image", encoding="raw")}, format="ffcv")
        with open_shards(Path(folder) / "set") as shards:
            for name, engine in ENGINES.items():
                if name not in CPU_ENGINES and not torch.cuda.is_available():
                    continue
                try:
                    engine(shards, "image", PIPELINES["crop"])
                except ImportError:
                    continue
                found.append(name)
    return [name for name in found if name != REFERENCE]


def measure(photographs: Sequence[Path]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """ "differences" in grey levels and "floats" in their own units: work to engine to `largest` and `mean`."""
    levels: dict[str, dict[str, dict[str, float]]] = {}
    floats: dict[str, dict[str, dict[str, float]]] = {}
    with TemporaryDirectory(prefix="headrace-parity-") as folder:
        samples = ({"__key__": f"{i:06d}", "image": path.read_bytes()} for i, path in enumerate(photographs))
        fields = {"image": Field(kind="image", encoding="jpg")}
        write_shards(Path(folder) / "photos", samples, fields, format="ffcv")
        with open_shards(Path(folder) / "photos") as photos:
            write_squares(photos, Path(folder) / "squares", len(photos))
            write_films(photos, Path(folder) / "films", FILMS if len(photos) >= FILMS else SMOKE_FILMS)
            with open_shards(Path(folder) / "squares") as squares, open_shards(Path(folder) / "films") as films:
                operators = {name: alone(name) for name in OPERATORS}
                to_floats = {
                    name: ViewSpec([View(**{**WHOLE, "normalize": normalize})]) for name, normalize in FLOATS.items()
                }
                for engine in installed():
                    for found, shards, works, dtype in (
                        (levels, squares, operators, "uint8"),
                        (levels, photos, PIPELINES, "uint8"),
                        (floats, squares, to_floats, "float32"),
                    ):
                        for name, (largest, mean) in differences(engine, shards, works, len(shards), dtype).items():
                            found.setdefault(name, {})[engine] = {"largest": largest, "mean": round(mean, 9)}
                    for name, spec in CLIPS.items() if engine in CLIP_ENGINES else ():
                        largest, mean = clip_differences(engine, films, spec)
                        levels.setdefault(name, {})[engine] = {"largest": largest, "mean": round(mean, 9)}
    return {"differences": levels, "floats": floats}


def as_markdown(report: dict[str, Any]) -> str:
    """The table."""
    engines = list(next(iter(report["differences"].values())))
    lines = [
        "# parity: engines and torchvision",
        "",
        f"- {report['photographs']} photographs, views of {SIDE}; {report['date']}",
        f"- Source: {report['commit'] or 'unknown'}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in report['versions'].items())}",
        "- Largest and mean difference from torchvision's functional operators with the same plan, in grey levels.",
        "  Why an engine differs is written beside its bounds in `tests/pipeline/test_parity.py`.",
        "",
        f"| work | {' | '.join(engines)} |",
        f"| --- |{' ---: |' * len(engines)}",
    ]
    for work, by_engine in report["differences"].items():
        found = (by_engine.get(engine) for engine in engines)
        cells = [f"{int(each['largest'])}, {each['mean']:.3f}" if each else "" for each in found]
        lines.append(f"| {work} | {' | '.join(cells)} |")
    lines += ["", "Floats: the largest difference, in units of Lab and of a view's deviation.", ""]
    lines += [f"| work | {' | '.join(engines)} |", f"| --- |{' ---: |' * len(engines)}"]
    for work, by_engine in report["floats"].items():
        cells = [f"{each['largest']:.1e}" for each in by_engine.values()]
        lines.append(f"| {work} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headrace.benchmarks.parity", description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, help=f"photographs (default {PHOTOGRAPHS})")
    parser.add_argument("--smoke", action="store_true", help="few photographs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default benchmarks/results)")
    options = parser.parse_args(arguments)
    source = commit()
    try:
        check_publishable(source, options.smoke, options.out)
        photographs = with_bar(options.photos or (SMOKE_PHOTOGRAPHS if options.smoke else PHOTOGRAPHS))
    except BenchmarkError as error:
        print(f"headrace.benchmarks.parity: {error}", file=sys.stderr)
        return 1
    report = {
        "benchmark": "parity",
        "date": now(),
        "commit": source,
        "machine": machine([0]).cpu,
        "versions": versions(),
        "photographs": len(photographs),
        **measure(photographs),
    }
    print(as_markdown(report))
    out = options.out or default_results(options.smoke)
    out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(report, indent=2) + "\n"
    (out / "parity.json").write_text(content, encoding="utf-8")
    (out / "parity.md").write_text(as_markdown(report), encoding="utf-8")
    if options.json:
        options.json.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
