"""Samples a second of whole SimCLR training steps, fed by each loader and by synthetic data.

    python -m headrace.benchmarks.step [--works resnet18-224 ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                       [--images FOLDER] [--json FILE] [--out DIR]

Synthetic data is the limit: the step alone, with nothing to load. What a row lacks of the limit is what its loader
costs: CPU taken from the step where both share the cores, waiting where the step runs on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from headrace.benchmarks import command
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.loader import Work, contestants
from headrace.benchmarks.machine import cpu_flags
from headrace.benchmarks.peers.training import synthetic, training
from headrace.benchmarks.runner import Comparison, Contestant, compare
from headrace.models import BackboneConfig
from headrace.models.methods.joint.simclr import SimCLRConfig, simclr_views
from headrace.models.parts.backbones import tiny_resnet

CONFIGS: Mapping[str, SimCLRConfig] = {
    "resnet18-224": SimCLRConfig(
        interpolation="bilinear", backbone=BackboneConfig(name="resnet18"), projection_hidden=512
    ),
    "resnet18-32": SimCLRConfig(
        size=32,
        interpolation="bilinear",
        backbone=BackboneConfig(name="resnet18", stem="small"),
        projection_hidden=512,
    ),
}
TITLES = {
    "resnet18-224": "SimCLR step, ResNet-18, 2 views of 224",
    "resnet18-32": "SimCLR step, ResNet-18 with the small stem, 2 views of 32",
}


def device() -> Literal["cuda", "cpu"]:
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision() -> Literal["float32", "bfloat16"]:
    """bfloat16 where the hardware multiplies it: most GPUs, and CPUs with AMX."""
    if device() == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if "amx_bf16" in cpu_flags() else "float32"


def gpu() -> str:
    """Model of the GPU that steps run on; empty on the CPU."""
    return torch.cuda.get_device_name() if device() == "cuda" else ""


def trained(loader: Contestant, config: SimCLRConfig, options: Options) -> Contestant:
    """The training step behind `loader`."""
    arguments: dict[str, Any] = {
        "config": config,
        "source": loader.batches,
        "arguments": loader.arguments,
        "device": device(),
        "precision": precision(),
    }
    return replace(loader, batches=training, arguments=arguments, compute_threads=options.threads)


def measure(options: Options) -> list[Comparison]:
    found = []
    for name in options.works:
        config = CONFIGS[name]
        if options.smoke:
            config = replace(config, backbone=tiny_resnet(width=8))
        options.progress(f"{name}: preparing files", 0, 1)
        views = simclr_views(config)
        work = Work(title=TITLES[name], views=views, lightly="SimCLRTransform" if config.size == 224 else "")

        rivals = [trained(loader, config, options) for loader in contestants(work, options) if not loader.limit]
        alone = Contestant(
            name="synthetic data",
            batches=synthetic,
            arguments={"spec": views, "batch_size": options.batch_size},
            limit=True,
            note=f"the step alone, in {precision()}",
        )
        read_through(options.forms.root)
        found.append(
            compare(
                name,
                TITLES[name],
                [*rivals, trained(alone, config, options)],
                reference="Headrace",
                rounds=options.rounds,
                seconds=options.seconds,
                cores=options.cores,
                group=1,
                warm_up_s=0.1,
                progress=options.progress,
                forked_from="headrace.benchmarks.step" if options.smoke else None,
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return command.run(
        "step",
        "Samples a second of whole SimCLR training steps, fed by each loader and by synthetic data.",
        list(CONFIGS),
        measure,
        arguments=arguments,
        default_works=list(CONFIGS) if device() == "cuda" else ["resnet18-32"],  # at 224 a CPU takes 10 s a step
        photographs=1024,
        batch_size=32,
        rounds=3,
        seconds=12.0,
        gpu=gpu,
    )


if __name__ == "__main__":
    sys.exit(main())
