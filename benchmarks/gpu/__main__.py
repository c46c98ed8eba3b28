"""What a GPU does with Headrace.

    python -m headrace.benchmarks.gpu [--part views,training,learning] [--device cuda] [--seconds S] [--rounds N]
                                      [--sets FOLDER] [--hours H] [--smoke] [--out DIR]

Every figure is in DIR/gpu.json and DIR/gpu.md as soon as it is measured. With `--device cpu` and TRITON_INTERPRET=1, at
smoke size, it shows that everything runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from headrace.benchmarks.gpu import learning, training, views
from headrace.benchmarks.gpu.rows import begin

PARTS = ("views", "training", "learning")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headrace.benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a dry run (default: cuda)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a trial (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="trials of each contestant, in turn (default: 3)")
    parser.add_argument("--sets", type=Path, help="folder of written sets to learn from (default: digits)")
    parser.add_argument("--hours", type=float, default=1 / 60, help="that each run may learn (default: a minute)")
    parser.add_argument("--smoke", action="store_true", help="a few pictures, one short trial: sees that it runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    asked = parser.parse_args(arguments)
    parts = asked.part.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--part: {', '.join(sorted(unknown))}: not of {', '.join(PARTS)}")
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("headrace.benchmarks.gpu: there is no CUDA device", file=sys.stderr)
        return 1
    seconds, rounds = (0.01, 1) if asked.smoke else (asked.seconds, asked.rounds)
    rows = begin(asked.out, torch.cuda.get_device_name() if device.type == "cuda" else "", seconds)
    with TemporaryDirectory(prefix="headrace-gpu-") as folder:
        if "views" in parts:
            small = {"batch": 2, "size": 16, "shrink": 8}
            large = {"batch": 256, "size": 224}
            views.measure(rows, device, **(small if asked.smoke else large), seconds=seconds, rounds=rounds)
        if "training" in parts:
            training.measure(rows, device, Path(folder), smoke=asked.smoke, seconds=seconds, rounds=rounds)
        if "learning" in parts:
            learning.measure(rows, device, Path(folder), sets=asked.sets, smoke=asked.smoke, hours=asked.hours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
