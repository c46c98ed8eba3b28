"""Samples a second of feature extraction: what the loader takes from the frozen encoder.

    python -m headrace.benchmarks.features [--works resnet18 ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                           [--images FOLDER] [--json FILE] [--out DIR]

The encoder alone, on a batch that is there, is the limit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from headrace.benchmarks import command
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.peers.encoding import encoder_alone, folder_features, headrace_features
from headrace.benchmarks.runner import Comparison, Contestant, compare
from headrace.benchmarks.step import device, gpu

TITLES = {
    "test_vit": "Features of 160 pixels by timm's smallest ViT",
    "resnet18": "Features of 224 pixels by a ResNet-18",
    "resnet50": "Features of 224 pixels by a ResNet-50",
    "vit_small_patch16_224": "Features of 224 pixels by a ViT-S/16",
}
"""By timm's name of the network."""


def contestants(network: str, options: Options) -> list[Contestant]:
    common: dict[str, Any] = {"network": network, "batch_size": options.batch_size, "device": device()}
    return [
        Contestant(
            name="Headrace",
            batches=headrace_features,
            arguments={**common, "shards": options.forms.shards(), "threads": options.threads},
            compute_threads=options.threads,
            note="rows of a file, as `headrace embed` writes them, from webdataset tars",
        ),
        Contestant(
            name="timm, DataLoader",
            batches=folder_features,
            arguments={**common, "pictures": options.forms.folder(), "workers": options.threads},
            compute_threads=options.threads,
            note="timm's transform on torchvision's ImageFolder, rows in memory",
        ),
        Contestant(
            name="encoder alone",
            batches=encoder_alone,
            arguments=common,
            limit=True,
            compute_threads=options.threads,
            note="the same batch again and again",
        ),
    ]


def measure(options: Options) -> list[Comparison]:
    found = []
    for network in options.works:
        options.progress(f"{network}: preparing files", 0, 1)
        entered = contestants(network, options)
        read_through(options.forms.root)
        found.append(
            compare(
                network,
                TITLES[network],
                entered,
                reference="Headrace",
                rounds=options.rounds,
                seconds=options.seconds,
                cores=options.cores,
                warm_up_s=0.1 if options.smoke else 3.0,
                progress=options.progress,
                forked_from="headrace.benchmarks.features" if options.smoke else None,
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    large = device() == "cuda"
    return command.run(
        "features",
        "Samples a second of feature extraction, beside timm's in a DataLoader and the encoder alone.",
        list(TITLES),
        measure,
        arguments=arguments,
        default_works=["resnet50", "vit_small_patch16_224"] if large else ["test_vit", "resnet18"],
        photographs=1024,
        batch_size=64 if large else 32,
        rounds=5,
        seconds=8.0,
        gpu=gpu,
    )


if __name__ == "__main__":
    sys.exit(main())
