"""Samples a second from JPEG files in shards to augmented batches: Headrace beside lightly, webdataset, DALI, ffcv.

    python -m headrace.benchmarks.loader [--works simclr crop ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                         [--images FOLDER] [--json FILE] [--out DIR]

Every contestant makes the same views (`WORKS`; the augmented ones are the defaults of lightly's transforms) of the
same photographs, as normalised float32 batches, with as many worker threads or processes as there are cores. The
limit is every core decoding whole photographs and doing nothing else; it can be passed only by decoding less.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.benchmarks import command
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.peers.dali import dali
from headrace.benchmarks.peers.ffcv import ffcv
from headrace.benchmarks.peers.headrace import headrace
from headrace.benchmarks.peers.lightly import lightly
from headrace.benchmarks.peers.simplejpeg import decode_only
from headrace.benchmarks.peers.webdataset import webdataset
from headrace.benchmarks.runner import Comparison, Contestant, compare
from headrace.pipeline import View, ViewSpec


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every contestant has to deliver for one sample."""

    title: str
    views: ViewSpec
    lightly: str = ""
    """Name of lightly's transform that has these views as its default; empty where it has none."""
    raw: bool = False
    """Read stored pixels: about eight times the bytes, and nothing to decode."""


CROP = View(size=224)
GLOBAL = View(size=224, scale=(0.25, 1.0))
LOCAL = View(size=96, scale=(0.05, 0.25))

SIMCLR = View(
    size=224,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grayscale=0.2,
    blur=0.5,
)

DINO_FIRST = View(
    size=224,
    scale=(0.4, 1.0),
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grayscale=0.2,
    blur=1.0,
)
DINO_SECOND = replace(DINO_FIRST, blur=0.1, solarize=0.2)
DINO_LOCAL = replace(DINO_FIRST, size=96, scale=(0.05, 0.4), blur=0.5)

WORKS = {
    "simclr": Work(
        title="SimCLR: 2 views of 224, all augmentations",
        views=ViewSpec.repeat(SIMCLR, 2),
        lightly="SimCLRTransform",
    ),
    "dino": Work(
        title="DINO: 2 views of 224 and 6 of 96, all augmentations",
        views=ViewSpec([DINO_FIRST, DINO_SECOND, *[DINO_LOCAL] * 6]),
        lightly="DINOTransform",
    ),
    "crop": Work(title="1 view of 224, crop and flip", views=ViewSpec([CROP])),
    "raw": Work(title="1 view of 224, crop and flip, from raw pixels", views=ViewSpec([CROP]), raw=True),
    "crops": Work(title="2 views of 224, crop and flip", views=ViewSpec.repeat(GLOBAL, 2)),
    "multicrop": Work(title="2 views of 224 and 6 of 96, crop and flip", views=ViewSpec([*[GLOBAL] * 2, *[LOCAL] * 6])),
}


def contestants(work: Work, options: Options) -> list[Contestant]:
    """Everybody who can do `work`, Headrace first and the limit last; makes the files that they read."""
    forms, batch_size, threads = options.forms, options.batch_size, options.threads
    found = [
        Contestant(
            name="Headrace",
            batches=headrace,
            arguments={
                "shards": forms.raw_shards() if work.raw else forms.shards(),
                "spec": work.views,
                "batch_size": batch_size,
                "threads": threads,
            },
            note="native engine on a .beton of pixels" if work.raw else "native engine on webdataset tars",
        ),
    ]
    if len(work.views) == 1:  # ffcv decodes a sample anew for every view
        (view,) = work.views.views
        contestant = Contestant(
            name="ffcv",
            batches=ffcv,
            requires={"ffcv": "pip install ffcv"},
            note=f"a .beton of {'pixels' if work.raw else 'JPEGs'} by its own writer",
        )
        if not contestant.lacks():
            beton = forms.beton(raw=work.raw)
            arguments = {"beton": beton, "view": view, "batch_size": batch_size, "threads": threads}
            contestant = replace(contestant, arguments=arguments)
        found.append(contestant)
    if work.raw:
        return found
    if work.lightly:
        found.append(
            Contestant(
                name="lightly",
                batches=lightly,
                arguments={
                    "folder": forms.folder(),
                    "transform": work.lightly,
                    "batch_size": batch_size,
                    "workers": threads,
                },
                requires={"lightly": "pip install lightly"},
                note=f"lightly.transforms.{work.lightly}() on torchvision's ImageFolder and torch's DataLoader",
            )
        )
    arguments = {"tars": forms.tars(), "spec": work.views, "batch_size": batch_size}
    found.append(
        Contestant(
            name="webdataset + torchvision",
            batches=webdataset,
            arguments={**arguments, "workers": threads},
            requires={"webdataset": "pip install webdataset"},
            note="v2 transforms, decoded once for all views, blur as two one-dimensional passes",
        )
    )
    found.append(
        Contestant(
            name="DALI, CPU",
            batches=dali,
            arguments={**arguments, "threads": threads},
            requires={"nvidia.dali": "pip install nvidia-dali-cuda120"},
            note="decoded once for all views",
        )
    )
    found.append(
        Contestant(
            name="decoding only",
            batches=decode_only,
            arguments={"photographs": forms.photographs, "threads": threads},
            limit=True,
            note="simplejpeg (libjpeg-turbo) on every core, whole photographs, pixels dropped",
        )
    )
    return found


def measure(options: Options) -> list[Comparison]:
    found = []
    for name in options.works:
        work = WORKS[name]
        options.progress(f"{name}: preparing files", 0, 1)
        entered = contestants(work, options)
        read_through(options.forms.root)
        found.append(
            compare(
                name,
                work.title,
                entered,
                reference="Headrace",
                rounds=options.rounds,
                seconds=options.seconds,
                cores=options.cores,
                warm_up_s=0.1 if options.smoke else 3.0,
                progress=options.progress,
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return command.run(
        "loader",
        "Samples a second from JPEG shards to augmented batches, beside lightly, webdataset, DALI and ffcv.",
        list(WORKS),
        measure,
        arguments=arguments,
        default_works=("simclr", "crop", "raw"),
        photographs=1024,
        batch_size=64,
    )


if __name__ == "__main__":
    sys.exit(main())
