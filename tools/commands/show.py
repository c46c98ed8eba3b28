"""`headrace show` draws or prints what a method will see."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from headrace.tools.commands.arguments import (
    PICTURES,
    Command,
    UsageError,
    configuration,
    named,
    nearest,
    one_of,
    positive,
)

if TYPE_CHECKING:
    from headrace.pipeline import Inputs
    from headrace.train import RunConfig

OF_TOKENIZER = "--mask", "--length", "--field", "--packed"
"""What is asked of texts without a method."""


def declare(parser: argparse.ArgumentParser) -> None:
    kinds = "views", "masks", "tiles", "clips", "sounds", "texts"
    parser.add_argument("what", metavar="WHAT", type=one_of(*kinds), help=f"what to show: {', '.join(kinds)}")
    parser.add_argument("dir", metavar="DIR", help="folder or URL of a shard set")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument(
        "--method", metavar="METHOD|RECIPE|RUN", help="whose inputs: also of a run's folder or of its config.yaml"
    )
    whose.add_argument("--tokenizer", metavar="FILE", help="texts, of no method: a tokenizer.json")
    whose.add_argument("--preset", help=argparse.SUPPRESS)
    picture = named("picture", *PICTURES, ".html")
    files = "picture to write: .png, .svg or .pdf; of sounds and texts also a page, .html; texts need none"
    parser.add_argument("--out", type=picture, metavar="FILE", help=files)
    masks = "none", "tokens", "words", "spans"
    of_masks = f"with --tokenizer: {', '.join(masks)} (default: tokens)"
    parser.add_argument("--mask", type=one_of(*masks), metavar="MASK", help=of_masks)
    parser.add_argument("--length", type=positive, metavar="N", help="with --tokenizer: most tokens (default: 128)")
    of_field = "with --tokenizer: field of the set (default: captions, text or so)"
    parser.add_argument("--field", metavar="NAME", help=of_field)
    of_packed = "with --tokenizer: documents packed into blocks of --length"
    parser.add_argument("--packed", action="store_const", const=True, help=of_packed)
    parser.add_argument("--samples", type=positive, default=6, metavar="N", help="samples to show (default: 6)")
    parser.add_argument("--seed", type=int, help="seed of the run (default: the configuration's)")
    parser.add_argument("--epoch", type=int, default=0, help="epoch of the run, from 0 (default: 0)")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.pictures.show import show, shown
    from headrace.tools.pictures.show_texts import rendered, show_texts
    from headrace.tools.progress import show as print_text
    from headrace.tools.progress import tell

    inputs, seed = asked(args)
    found = shown(inputs)
    if args.what not in found:
        raise UsageError(f"{args.method or 'a tokenizer'} has no {args.what}; it has {' and '.join(found)}")
    options = {"count": args.samples, "seed": seed if args.seed is None else args.seed, "epoch": args.epoch}
    if args.what == "texts" and args.out is None:
        for text in show_texts(args.dir, inputs, **options):
            print_text(rendered(text))
        return
    if args.out is None:
        raise UsageError(f"show {args.what} needs --out, the picture to write")
    for file in show(args.what, args.dir, inputs, args.out, **options):
        tell(file)


def asked(args: argparse.Namespace) -> tuple[Inputs, int]:
    """Whose inputs to show, and the seed of the run."""
    if args.preset:
        raise UsageError(f"--preset is --method now: show {args.what} DIR --method NAME")
    if args.method:
        given = [flag for flag in OF_TOKENIZER if getattr(args, flag[2:]) is not None]
        if given:
            raise UsageError(f"{given[0]} goes with --tokenizer; a method's own are --model.KEY VALUE")
        config = configuration(args.method)
        for key in args.keys:
            flag = key.partition("=")[0]
            if flag.startswith("--") and "." not in flag and flag[2:].replace("-", "_") not in vars(config):
                raise UsageError(f"unknown argument {flag!r}{nearest(flag, args.flags)}")
        config = config.with_overrides(args.keys)
        return inputs_of(config, args.method), config.seed
    if args.tokenizer is None:
        raise UsageError(f"show {args.what} needs --method{', or --tokenizer FILE' * (args.what == 'texts')}")
    if args.keys:
        raise UsageError(f"{args.keys[0]} is a key of a configuration, which --method names")
    from headrace.tools.pictures.show_texts import text_spec

    options = {"length": args.length or 128, "field": args.field, "packed": bool(args.packed)}
    return text_spec(args.tokenizer, args.mask or "tokens", **options), 0


def inputs_of(config: RunConfig, name: str) -> Inputs:
    """What the method of a configuration asks for."""
    from headrace.tools import catalogue
    from headrace.train.config import OWN

    if config.method == OWN:
        raise UsageError(f"{name}: is of a method of one's own: headrace.tools.pictures.show draws its inputs")
    try:
        return catalogue.inputs_of(config.method, config.model)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{name}: {error}") from error


COMMAND = Command(
    "show",
    "draw what a method will see",
    """\
Draws stored samples beside what a method gets, each with its numbers: the augmented views, the masks over views,
clips or spectrograms, the tiles of a puzzle in their order, clips, or sounds, which a page (.html) also plays. Texts
are printed with their masked tokens, or drawn. Any configuration key can be set as --key value, as for train; with a
run's folder as --method it is what that run sees.

  headrace show views shards/train --method simclr --out views.png
  headrace show views shards/train --method simclr --model.size 96 --model.strength 0.5 --out views.png
  headrace show views shards/train --method runs/first --epoch 7 --out views.png
  headrace show masks shards/train --method mae --out masks.png
  headrace show sounds shards/speech --method audio_mae --out sounds.html
  headrace show texts shards/captions --tokenizer tokenizer.json --mask words""",
    declare,
    run,
    takes_keys=True,
)
