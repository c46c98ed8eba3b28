"""`headrace shard` raw data into a shard set."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from headrace.tools.commands.arguments import Command, byte_size, known, one_of, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    def option(name: str, kind: Callable[[str], Any], default: Any, metavar: str, help: str) -> None:
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=help + shown)

    parser.add_argument("source", metavar="SOURCE", help="imagenet, coco, cifar10, video, folder, mnist or shards")
    parser.add_argument("src", metavar="SRC", help="the raw data; `bundled` for the digits of mnist")
    parser.add_argument("out", metavar="OUT", help="folder of the shard set")
    option("--format", one_of("webdataset", "ffcv"), "webdataset", "FORMAT", "webdataset or ffcv")
    option("--split", str, None, "NAME", "part of the data, where it has parts (default: train)")
    ways = ("keep", "jpeg", "raw", "smart", "proportion", "frames")
    how = "images: keep the file's bytes, jpeg, raw pixels, or ffcv's smart or proportion; videos: keep or frames"
    option("--encode", one_of(*ways), "keep", "HOW", how)
    option("--max-side", int, None, "N", "shrink images whose longer side has more pixels")
    option("--short-side", int, None, "N", "shrink images whose shorter side has more pixels; the side of frames")
    option("--quality", int, 90, "Q", "JPEG quality, 1 to 100")
    option("--smart-threshold", byte_size, "256KB", "SIZE", "bytes of pixels above which smart makes a JPEG")
    option("--compress-probability", float, 0.5, "P", "share of the images that proportion makes JPEGs")
    option("--frames", int, 16, "N", "frames that are stored of a video")
    option("--frame-stride", int, 4, "N", "store every n-th frame")
    option("--shard-size", byte_size, "256MB", "SIZE", "bytes that a shard does not exceed")
    option("--seed", int, 0, "N", "seed of the order of storage")
    parser.add_argument("--no-shuffle", action="store_true", help="store in the source's order, class by class")
    option(
        "--engine", one_of("local", "ray"), "local", "ENGINE", "local processes, or ray: RAY_ADDRESS or this machine"
    )
    option("--workers", int, None, "N", "shards made at a time (default: one a core)")
    option("--max-rejects", float, 0.05, "SHARE", "bad samples to put up with")
    parser.add_argument(
        "--restart", action="store_true", help="throw away the finished shards of an interrupted conversion to OUT"
    )
    parser.add_argument("--strict", action="store_true", help="decode every kept image and video in full")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.shards.remote import redact
    from headrace.tools.convert import convert
    from headrace.tools.progress import sample_bar, say
    from headrace.tools.sources import SOURCES, counted

    known("source", args.source, SOURCES)
    with sample_bar(f"{args.source} to {args.format}") as progress:
        result = convert(
            args.source,
            args.src,
            args.out,
            format=args.format,
            split=args.split,
            encode=args.encode,
            max_side=args.max_side,
            short_side=args.short_side,
            quality=args.quality,
            smart_threshold=args.smart_threshold,
            compress_probability=args.compress_probability,
            frames=args.frames,
            frame_stride=args.frame_stride,
            strict=args.strict,
            shard_size=args.shard_size,
            seed=None if args.no_shuffle else args.seed,
            engine=args.engine,
            workers=args.workers,
            max_rejects=args.max_rejects,
            restart=args.restart,
            progress=progress,
            started=progress.of,
        )
    if result.resumed:
        say(f"went on after {result.resumed:,} samples of an interrupted conversion")
    if args.json:
        print_json(result._asdict())
        return
    print(f"{redact(args.out)}: {result.samples:,} samples, {result.bytes / 1e6:,.1f} MB in {result.seconds:.1f} s")
    if result.left_out:
        print(f"belong to no sample: {counted(result.left_out)}")
    if result.rejects:
        print(f"{result.rejects:,} samples were left out; {redact(args.out).rstrip('/')}/rejects.jsonl says why")


COMMAND = Command(
    "shard",
    "turn raw data into a shard set",
    """\
Turns raw data into a shard set: WebDataset tars or FFCV betons beside a manifest.json with an index and checksums.
Samples that cannot be read go to rejects.jsonl with the reason. A conversion that was interrupted goes on from its
last whole shard when the same command is given again.

  headrace shard folder photos/train shards/train --format webdataset
  headrace shard cifar10 cifar-10-python.tar.gz shards/cifar --format ffcv --encode raw""",
    declare,
    run,
)
