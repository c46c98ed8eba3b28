"""`headrace embed` writes the features of a set."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from headrace.tools.commands.arguments import Command, named, one_of, positive, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="RUN|FILE", help="run folder, checkpoint, file of a timm network, or its name"
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="shard set")
    parser.add_argument(
        "--out", required=True, type=named("file of features", ".npy", ".parquet"), metavar="FILE",
        help="FILE.npy, with FILE.keys.npy and FILE.labels.npy beside it, or FILE.parquet",
    )  # fmt: skip
    parser.add_argument("--timm", metavar="NAME", help="timm model of RUN|FILE, where a file does not say")
    parser.add_argument(
        "--batch-size", type=positive, default=256, metavar="N", help="samples at a time (default: 256)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="that decode (default: all cores)")
    parser.add_argument(
        "--device", type=one_of("auto", "cpu", "cuda"), default="auto", metavar="DEVICE",
        help="cpu, cuda, or auto (default: cuda where there is one)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is at FILE")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.embed import embed, tell_left_out
    from headrace.tools.placing import check_free
    from headrace.tools.progress import tell
    from headrace.train.encoders import open_encoder

    out: Path = args.out
    check_free(out, args.overwrite)
    encoder = open_encoder(args.source, timm=args.timm)
    done = embed(
        encoder, args.data, out, batch_size=args.batch_size, threads=args.threads, device=args.device,
        overwrite=args.overwrite,
    )  # fmt: skip
    if int(os.environ.get("RANK", 0)):
        return
    tell_left_out(done)
    if args.json:
        print_json(done._asdict() | {"out": str(out), "network": encoder.name})
    else:
        left = f", {len(done.left_out)} bad ones left out" if done.left_out else ""
        tell(f"{out}: {done.features} features of {done.samples:,} samples{left}")


COMMAND = Command(
    "embed",
    "write the features of every sample of a set",
    """\
Writes what the encoder of RUN (its newest checkpoint) or FILE makes of every sample of --data, with or without a label,
in stored order, as float32. Bad samples end it, or are named and left out, as the run's loader.on_error says. Under
torchrun each process computes its share, and one file is written.

  headrace embed runs/first --data shards/train --out features.npy
  headrace embed runs/first --data shards/train --out features.parquet      pip install headrace[parquet]
  torchrun --nproc-per-node 4 -m headrace.tools.cli embed runs/first --data shards/train --out features.npy""",
    declare,
    run,
)
