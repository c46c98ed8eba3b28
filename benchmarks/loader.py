"""Samples a second from shards to augmented batches: Headrace beside lightly, webdataset, DALI, ffcv, TorchCodec, PyAV,
torch.stft and librosa.

    python -m headrace.benchmarks.loader [--works simclr crop ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                         [--images FOLDER] [--json FILE] [--out DIR]

Every contestant makes the same views (`WORKS`; the augmented ones are the defaults of lightly's transforms) of the
same pictures, as normalised float32 batches, with as many worker threads or processes as there are cores.

The limit is every core making whole pictures and doing nothing else: decoding photographs, or, where pixels are stored,
copying them out of the page cache and writing as many bytes as the views have. It can be passed only by making less
than whole pictures. A work's targets are how many times the rate of a contestant Headrace is to have.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from headrace.benchmarks import command
from headrace.benchmarks.clips import PYAV, TORCHCODEC, ClipWork, clip_contestants
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.packed import HUGGINGFACE, PackedWork, packed_contestants
from headrace.benchmarks.peers.copying import copy_only
from headrace.benchmarks.peers.dali import dali
from headrace.benchmarks.peers.ffcv import ffcv
from headrace.benchmarks.peers.headrace import headrace
from headrace.benchmarks.peers.lightly import lightly
from headrace.benchmarks.peers.simplejpeg import decode_only
from headrace.benchmarks.peers.webdataset import webdataset
from headrace.benchmarks.runner import Comparison, Contestant, compare
from headrace.benchmarks.sounds import LIBROSA, TORCH_STFT, SoundWork, sound_contestants
from headrace.pipeline import Clip, ClipSpec, Mel, RandomMask, Sound, SoundSpec, TubeMask, View, ViewSpec


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every contestant has to deliver for one sample."""

    title: str
    views: ViewSpec
    lightly: str = ""
    """Name of lightly's transform that has these views as its default; empty where it has none."""
    pictures: Literal["photographs", "pixels", "small"] = "photographs"
    """Photographs as JPEGs; as pixels, which are about eight times the bytes with nothing to decode; or pictures of
    32x32, as pixels."""
    engines: bool = False
    """Headrace's other engines take part."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """Contestant to the ratio that Headrace is to reach."""


CROP = View(size=224)
GLOBAL = View(size=224, scale=(0.25, 1.0))
LOCAL = View(size=96, scale=(0.05, 0.25))

SIMCLR = View(size=224, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2, blur=0.5)
"""Bilinear, as lightly and the others that it is compared with resize; the authors of SimCLR take bicubic."""

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

CIFAR = replace(SIMCLR, size=32, blur_kernel=13)
"""Pillow's Gaussian, which lightly takes, knows no kernel: three box filters that reach 6 pixels at the widest blur."""

MAE = ViewSpec([View(size=224, scale=(0.2, 1.0))], [RandomMask(grid=(14, 14), ratio=0.75)])

VIDEOMAE = ClipSpec(
    [Clip(frames=16, strides=(4,), view=View(size=224, scale=(0.33, 0.75), ratio=(6 / 7, 7 / 6), flip=0.0))],
    [TubeMask(grid=(14, 14), frames=8, ratio=0.9)],
)
"""The authors' crops have sides of 0.66 to 1 times the height at thirteen places; these cover as much of frames of 4
to 3. MCG-NJU/VideoMAE, datasets.py, transforms.py, masking_generator.py and scripts/kinetics."""

MEL = Mel(definition="librosa", bins=64, window=256, hop=80, fft=256, low=50.0, mean=-9.0, std=5.0)
SECOND = SoundSpec([Sound(samples=MEL.samples(96), rate=8000, short="loop", mel=MEL)])

LIGHTLY, WEBDATASET, DALI, FFCV = "lightly", "webdataset + torchvision", "DALI, CPU", "ffcv"

WORKS: dict[str, Work | ClipWork | SoundWork | PackedWork] = {
    "simclr": Work(
        title="SimCLR: 2 views of 224, all augmentations",
        views=ViewSpec.repeat(SIMCLR, 2),
        lightly="SimCLRTransform",
        engines=True,
        targets={LIGHTLY: 6.0},
    ),
    "dino": Work(
        title="DINO: 2 views of 224 and 6 of 96, all augmentations",
        views=ViewSpec([DINO_FIRST, DINO_SECOND, *[DINO_LOCAL] * 6]),
        lightly="DINOTransform",
        targets={LIGHTLY: 8.0},
    ),
    "cifar": Work(
        title="SimCLR on pictures of 32x32: 2 views of 32, all augmentations",
        views=ViewSpec.repeat(CIFAR, 2),
        lightly="SimCLRTransform",
        pictures="small",
        targets={LIGHTLY: 8.0},
    ),
    "mae": Work(
        title="MAE: 1 view of 224, crop and flip, and a mask of 75 % of its patches",
        views=MAE,
        targets={WEBDATASET: 1.4},
    ),
    "crop": Work(title="1 view of 224, crop and flip", views=ViewSpec([CROP]), targets={FFCV: 1.5}),
    "raw": Work(
        title="1 view of 224, crop and flip, from raw pixels",
        views=ViewSpec([CROP]),
        pictures="pixels",
        targets={FFCV: 3.0},
    ),
    "crops": Work(
        title="2 views of 224, crop and flip",
        views=ViewSpec.repeat(GLOBAL, 2),
        targets={DALI: 3.0, WEBDATASET: 1.6},
    ),
    "multicrop": Work(title="2 views of 224 and 6 of 96, crop and flip", views=ViewSpec([*[GLOBAL] * 2, *[LOCAL] * 6])),
    "video": ClipWork(
        title="VideoMAE: clips of 16 frames of 224, every 4th frame, crop and flip, tube masks; from H.264 at 340x256",
        clips=VIDEOMAE,
        targets={TORCHCODEC: 1.5, PYAV: 1.5},
    ),
    "sounds": SoundWork(
        title="Spectrograms of 96 frames and 64 bands, of a random second at 8 kHz",
        sounds=SECOND,
        targets={TORCH_STFT: 3.0, LIBROSA: 3.0},
    ),
    "packed": PackedWork(
        title="masked blocks of 512 tokens, packed without padding from documents of 10 to 1,000",
        targets={HUGGINGFACE: 2.0},
    ),
}


def contestants(work: Work | ClipWork | SoundWork | PackedWork, options: Options) -> list[Contestant]:
    """Everybody who can do `work`, Headrace first and the limit last; makes the files that they read."""
    if isinstance(work, ClipWork):
        return clip_contestants(work, options)
    if isinstance(work, SoundWork):
        return sound_contestants(work, options)
    if isinstance(work, PackedWork):
        return packed_contestants(work, options)
    found = [_headrace(work, options), *(_engines(work, options) if work.engines else [])]
    if len(work.views) == 1 and not work.views.masks:  # ffcv decodes a sample anew for every view
        found.append(_ffcv(work, options))
    if work.lightly:
        found.append(_lightly(work, options))
    if work.pictures != "photographs":
        return [*found, _copying(work, options)]
    found.append(_webdataset(work, options))
    if not work.views.masks:
        found.append(_dali(work, options))
    return [*found, _decoding(options)]


def _headrace(work: Work, options: Options) -> Contestant:
    forms = options.forms
    shards, holding = {
        "photographs": (forms.shards, "webdataset tars"),
        "pixels": (forms.raw_shards, "a .beton of pixels"),
        "small": (forms.small_shards, "a .beton of pixels"),
    }[work.pictures]
    arguments = {
        "shards": shards(),
        "spec": work.views,
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    return Contestant(name="Headrace", batches=headrace, arguments=arguments, note=f"native engine on {holding}")


def _engines(work: Work, options: Options) -> list[Contestant]:
    """Headrace with its other engines, which are meant for a GPU or for comparison."""
    forms, both = options.forms, ("nvidia.dali", "kornia")
    return [
        Contestant(
            name=f"Headrace, {engine}",
            batches=headrace,
            arguments={
                "shards": shards,
                "spec": work.views,
                "batch_size": options.batch_size,
                "threads": options.threads,
                "engine": engine,
            },
            requires=requires,
            compute_threads=options.threads,
            note=f"engine {engine}, on the CPU as well",
        )
        for engine, shards, requires in (
            ("kornia", forms.shards(), {"kornia": "pip install headrace[kornia]"}),
            ("dali", forms.shards(), {"nvidia.dali": "pip install headrace[dali]"}),
            ("dali+kornia", forms.shards(), dict.fromkeys(both, "pip install headrace[dali,kornia]")),
            ("ffcv", forms.beton_shards(), {"ffcv": "pip install headrace[ffcv]"}),
        )
    ]


def _ffcv(work: Work, options: Options) -> Contestant:
    raw = work.pictures == "pixels"
    contestant = Contestant(
        name=FFCV,
        batches=ffcv,
        requires={"ffcv": "pip install ffcv"},
        note=f"a .beton of {'pixels' if raw else 'JPEGs'} by its own writer",
    )
    if contestant.lacks():
        return contestant
    arguments = {
        "beton": options.forms.beton(raw=raw),
        "view": work.views.views[0],
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    return replace(contestant, arguments=arguments)


def _lightly(work: Work, options: Options) -> Contestant:
    small = work.pictures == "small"
    arguments: dict[str, Any] = {
        "pictures": options.forms.small_pixels() if small else options.forms.folder(),
        "transform": work.lightly,
        "settings": {"input_size": work.views.views[0].size} if small else {},
        "batch_size": options.batch_size,
        "workers": options.threads,
    }
    source = "pictures in memory, as torchvision's CIFAR10 holds them," if small else "torchvision's ImageFolder"
    size = f"input_size={work.views.views[0].size}" if small else ""
    return Contestant(
        name=LIGHTLY,
        batches=lightly,
        arguments=arguments,
        requires={"lightly": "pip install lightly"},
        note=f"lightly.transforms.{work.lightly}({size}) on {source} and torch's DataLoader",
    )


def _webdataset(work: Work, options: Options) -> Contestant:
    arguments = {"tars": options.forms.tars(), "spec": work.views, "batch_size": options.batch_size}
    masks = ", masks by torch.rand().argsort() as in MAE's code" if work.views.masks else ""
    return Contestant(
        name=WEBDATASET,
        batches=webdataset,
        arguments={**arguments, "workers": options.threads},
        requires={"webdataset": "pip install webdataset"},
        note=f"v2 transforms, decoded once for all views, blur as two one-dimensional passes{masks}",
    )


def _dali(work: Work, options: Options) -> Contestant:
    arguments = {"tars": options.forms.tars(), "spec": work.views, "batch_size": options.batch_size}
    return Contestant(
        name=DALI,
        batches=dali,
        arguments={**arguments, "threads": options.threads},
        requires={"nvidia.dali": "pip install nvidia-dali-cuda120"},
        note="decoded once for all views",
    )


def _decoding(options: Options) -> Contestant:
    return Contestant(
        name="decoding only",
        batches=decode_only,
        arguments={"photographs": options.forms.photographs, "threads": options.threads},
        limit=True,
        note="simplejpeg (libjpeg-turbo) on every core, whole photographs, pixels dropped",
    )


def _copying(work: Work, options: Options) -> Contestant:
    shards = options.forms.small_shards() if work.pictures == "small" else options.forms.raw_shards()
    arguments = {
        "shards": shards,
        "view_bytes": sum(3 * 4 * view.size**2 for view in work.views.views),
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    return Contestant(
        name="copying only",
        batches=copy_only,
        arguments=arguments,
        limit=True,
        note="every core copies whole pictures out of the page cache, one after the other, and writes as many bytes as "
        "the float32 views have; nothing is computed",
    )


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
                targets=work.targets,
                progress=options.progress,
                forked_from="headrace.benchmarks.loader" if options.smoke else None,
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return command.run(
        "loader",
        "Samples a second from shards to augmented batches, beside lightly, webdataset, DALI and ffcv.",
        list(WORKS),
        measure,
        arguments=arguments,
        default_works=[name for name, work in WORKS.items() if work.targets],
        photographs=1024,
        batch_size=64,
    )


if __name__ == "__main__":
    sys.exit(main())
