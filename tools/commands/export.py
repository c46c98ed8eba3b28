"""`headrace export` writes an encoder for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from headrace.tools.commands.arguments import Command, one_of, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RUN|FILE", help="run folder, checkpoint, or file of a timm network")
    parser.add_argument(
        "--to", required=True, type=one_of("timm", "safetensors", "transformers", "onnx", "torch"), metavar="FORMAT",
        help="timm, safetensors, transformers, onnx or torch",
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", type=Path, help="folder, or file ending in .safetensors, .onnx or .pt2")
    parser.add_argument("--timm", metavar="NAME", help="timm model of FILE, where the file does not say")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.exporting.export import export
    from headrace.tools.placing import check_free
    from headrace.tools.progress import tell
    from headrace.train.encoders import open_encoder

    check_free(args.out, args.overwrite)
    encoder = open_encoder(args.source, timm=args.timm)
    done = export(encoder, args.to, args.out, overwrite=args.overwrite)
    if args.json:
        print_json(done._asdict() | {"out": str(done.out), "format": args.to, "network": encoder.name})
        return
    tell(f"{done.out}: {encoder.name} as {args.to}, {done.features} features of each sample")
    tell(
        f"loaded again and compared on {done.samples} samples: features differ by {done.difference:.2g} at most, "
        f"the largest is {done.largest:.2g}"
    )


COMMAND = Command(
    "export",
    "write an encoder for timm, transformers, ONNX or torch",
    """\
Writes the encoder of RUN (its newest checkpoint) or FILE so that other programs make the same features of it, loads
what was written and compares before it is put in place. What the network is to be shown stands beside it as
preprocessing.json (of a file X.onnx as X.onnx.preprocessing.json).

  headrace export runs/first --to timm exported          timm.create_model("local-dir:exported", pretrained=True)
  headrace export runs/first --to onnx encoder.onnx      pip install headrace[onnx]

timm, safetensors    networks that timm builds by name
transformers         the same as TimmWrapperModel, and networks of transformers' own, such as BERT
onnx, torch          any network, as a graph for batches of any size""",
    declare,
    run,
)
