"""`headrace shard` raw data into a shard set."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from headrace.tools.commands.arguments import (
    Command,
    UsageError,
    at_least,
    byte_size,
    known,
    one_of,
    positive,
    print_json,
    share,
)
from headrace.tools.errors import Terminated


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="imagenet, coco, cifar10, video, sound, text, folder, mnist or shards"
    )
    parser.add_argument("src", metavar="SRC", help="the raw data; `bundled` for the digits of mnist")
    parser.add_argument("out", metavar="OUT", help="folder of the shard set")

    def option(
        group: argparse._ArgumentGroup, name: str, kind: Callable[[str], Any], default: Any, metavar: str, help: str
    ) -> None:
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(name, type=kind, default=default, metavar=metavar, help=help + shown)

    data = parser.add_argument_group("what is read")
    option(data, "--split", str, None, "NAME", "part of the data, where it has parts (default: train)")
    option(data, "--max-rejects", share, 0.05, "SHARE", "bad samples to put up with, from 0 to 1")
    data.add_argument("--strict", action="store_true", help="decode every kept video in full, not its ends only")
    data.add_argument("--quick", action="store_true", help="look at the ends of kept images only (docs/odd-files.md)")

    images = parser.add_argument_group("images and videos")
    ways = ("keep", "jpeg", "raw", "smart", "proportion", "frames")
    how = "images: keep the file's bytes, jpeg, raw pixels, or ffcv's smart or proportion; videos: keep or frames"
    option(images, "--encode", one_of(*ways), "keep", "HOW", how)
    option(images, "--max-side", positive, None, "N", "shrink images whose longer side has more pixels")
    short = "shrink images whose shorter side has more pixels; the side of frames"
    option(images, "--short-side", positive, None, "N", short)
    large = "leave out images with more pixels than this, which are not shrunk while they are decoded"
    option(images, "--max-pixels", positive, None, "N", f"{large} (default: HEADRACE_MAX_PIXELS, else 67108864)")
    option(images, "--quality", at_least(1, 100), 90, "Q", "JPEG quality, 1 to 100")
    option(images, "--smart-threshold", byte_size, "256KB", "SIZE", "bytes of pixels above which smart makes a JPEG")
    option(images, "--compress-probability", share, 0.5, "P", "share of the images that proportion makes JPEGs")
    shown = (
        "show pictures and videos as their files say, or as they are stored (default: apply; ignore for imagenet, coco)"
    )
    option(images, "--orientation", one_of("apply", "ignore"), None, "HOW", shown)
    option(images, "--frames", positive, 16, "N", "frames that are stored of a video")
    option(images, "--frame-stride", positive, 4, "N", "store every n-th frame")

    shards = parser.add_argument_group("shards")
    option(shards, "--format", one_of("webdataset", "ffcv"), "webdataset", "FORMAT", "webdataset or ffcv")
    option(shards, "--shard-size", byte_size, "256MB", "SIZE", "bytes that a shard does not exceed")
    option(shards, "--seed", at_least(0, (1 << 64) - 1), 0, "N", "seed of the order of storage")
    shards.add_argument("--no-shuffle", action="store_true", help="store in the source's order, class by class")

    running = parser.add_argument_group("running")
    engine = "local processes, or ray: RAY_ADDRESS or this machine"
    option(running, "--engine", one_of("local", "ray"), "local", "ENGINE", engine)
    option(running, "--workers", positive, None, "N", "shards made at a time (default: one a core)")
    running.add_argument(
        "--restart", action="store_true", help="throw away the finished shards of an interrupted conversion to OUT"
    )
    running.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.shards.remote.remote import redact
    from headrace.tools.conversion.convert import Status, convert
    from headrace.tools.progress import sample_bar, say, tell
    from headrace.tools.sources import SOURCES, counted

    known("source", args.source, SOURCES)
    check(args)

    def note(status: Status) -> None:
        size = f"{status.bytes / 1e9:,.1f} GB" if status.bytes > 1e9 else f"{status.bytes / 1e6:,.1f} MB"
        done = f"{status.rejects:,} left out, {size}"
        progress.note(done if status.phase == "converting" else status.phase)

    with terminating(), sample_bar(f"{args.source} to {args.format}") as progress:
        result = convert(
            args.source,
            args.src,
            args.out,
            format=args.format,
            split=args.split,
            encode=args.encode,
            max_side=args.max_side,
            short_side=args.short_side,
            max_pixels=args.max_pixels,
            quality=args.quality,
            smart_threshold=args.smart_threshold,
            compress_probability=args.compress_probability,
            frames=args.frames,
            frame_stride=args.frame_stride,
            strict=args.strict,
            quick=args.quick,
            orientation=args.orientation,
            shard_size=args.shard_size,
            seed=None if args.no_shuffle else args.seed,
            engine=args.engine,
            workers=args.workers,
            max_rejects=args.max_rejects,
            restart=args.restart,
            progress=progress,
            started=progress.of,
            status=note,
        )
    if result.resumed:
        say(f"went on after {result.resumed:,} samples of an interrupted conversion")
    if args.json:
        print_json(result._asdict())
        return
    tell(f"{redact(args.out)}: {result.samples:,} samples, {result.bytes / 1e6:,.1f} MB in {result.seconds:.1f} s")
    why = f"{redact(args.out).rstrip('/')}/rejects.jsonl"
    if result.left_out:
        tell(f"belong to no sample: {counted(result.left_out)}; {why} lists them")
    if result.rejects:
        tell(f"{result.rejects:,} samples were left out; {why} says why")
    for line in result.notes:
        tell(line)


def check(args: argparse.Namespace) -> None:
    """UsageError for options that do not go together."""
    from headrace.shards.formats.ffcv import MIN_SHARD_SIZE

    if args.encode == "frames" and args.short_side is None:
        raise UsageError("--encode frames needs --short-side, the side of the stored squares in pixels")
    if args.format == "ffcv" and args.shard_size < MIN_SHARD_SIZE:
        raise UsageError(f"--shard-size: a .beton has whole pages, so give at least {MIN_SHARD_SIZE >> 20}MB")


@contextmanager
def terminating() -> Iterator[None]:
    """Let SIGTERM end the conversion as Ctrl-C does, so that it says what is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


COMMAND = Command(
    "shard",
    "turn raw data into a shard set",
    """\
Turns raw data into a shard set: WebDataset tars or FFCV betons beside a manifest.json with an index and checksums.
Samples that cannot be read go to rejects.jsonl with the reason. A conversion that was interrupted goes on from its
last whole shard when the same command is given again: after Ctrl-C, SIGTERM, a kill, a full disk, a fault of the disk
or the store that did not pass, or too many bad samples.

  headrace shard folder photos/train shards/train --format webdataset
  headrace shard cifar10 cifar-10-python.tar.gz shards/cifar --format ffcv --encode raw""",
    declare,
    run,
)
