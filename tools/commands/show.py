"""`headrace show` draws or prints what a method will see."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from headrace.tools.commands.arguments import (
    PICTURES,
    Command,
    UsageError,
    configuration,
    known,
    named,
    one_of,
    positive,
)


def declare(parser: argparse.ArgumentParser) -> None:
    kinds = "views", "masks", "tiles", "clips", "texts"
    parser.add_argument("what", metavar="WHAT", type=one_of(*kinds), help=f"what to draw: {', '.join(kinds)}")
    parser.add_argument("dir", metavar="DIR", help="folder or URL of a shard set")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--method", metavar="METHOD|RECIPE", help="whose views to draw")
    whose.add_argument(
        "--preset",
        metavar="NAME",
        help="published views: mae, ijepa, dino, jigsaw, rotation and others; clips: videomae, vjepa, pace and others",
    )
    picture = named("picture", *PICTURES)
    parser.add_argument(
        "--out", type=picture, metavar="FILE", help="picture to write: .png, .svg or .pdf; texts need none"
    )
    masks = "none", "tokens", "words", "spans"
    of_masks = f"texts: {', '.join(masks)} (default: tokens)"
    parser.add_argument("--tokenizer", metavar="FILE", help="texts: a tokenizer.json")
    parser.add_argument("--mask", type=one_of(*masks), default="tokens", metavar="MASK", help=of_masks)
    parser.add_argument("--length", type=positive, default=128, metavar="N", help="texts: most tokens (default: 128)")
    parser.add_argument("--field", metavar="NAME", help="texts: field of the set (default: captions, text or so)")
    parser.add_argument("--samples", type=positive, default=6, metavar="N", help="samples to draw (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    parser.add_argument("--epoch", type=int, default=0, help="epoch of the run, from 0 (default: 0)")


def run(args: argparse.Namespace) -> None:
    from headrace.models import build_method
    from headrace.pipeline.images.presets import PRESETS
    from headrace.tools.pictures.show import show
    from headrace.tools.progress import tell
    from headrace.train.probes import image_views

    options = {"count": args.samples, "seed": args.seed, "epoch": args.epoch}
    if args.what == "texts":
        print_texts(args, options)
        return
    if args.out is None:
        raise UsageError(f"show {args.what} needs --out, the picture to write")
    if args.what == "clips":
        show_preset_clips(args, options)
        return
    if args.preset:
        known("preset", args.preset, PRESETS)
        views = PRESETS[args.preset].views()
    elif args.method is None:
        raise UsageError(f"show {args.what} needs --method or --preset")
    else:
        config = configuration(args.method)
        views = image_views(build_method(config.method, config.model))
    show(args.what, args.dir, views, args.out, **options)
    tell(args.out)


def print_texts(args: argparse.Namespace, options: Mapping[str, int]) -> None:
    from headrace.tools.pictures.show_texts import show_texts, text_spec
    from headrace.tools.progress import show

    if args.tokenizer is None:
        raise UsageError("texts need a --tokenizer, a tokenizer.json")
    spec = text_spec(args.tokenizer, args.mask, length=args.length, field=args.field)
    for text in show_texts(args.dir, spec, **options):
        show(text)


def show_preset_clips(args: argparse.Namespace, options: Mapping[str, int]) -> None:
    from headrace.pipeline.clips.clip_presets import CLIP_PRESETS
    from headrace.tools.pictures.show_clips import show_clips
    from headrace.tools.progress import tell

    if args.preset is None:
        raise UsageError(f"clips need a --preset (known: {', '.join(CLIP_PRESETS)})")
    known("preset", args.preset, CLIP_PRESETS)
    show_clips(args.dir, CLIP_PRESETS[args.preset](), args.out, **options)
    tell(args.out)


COMMAND = Command(
    "show",
    "draw what a method will see",
    """\
Draws stored samples beside what a method gets, each with its numbers: the augmented views, the masks over their views,
the tiles of a puzzle in their order, or clips. Texts are printed with their masked tokens. --preset draws the views of
published methods that cannot be trained yet, too.

  headrace show views shards/train --method simclr --out views.png
  headrace show masks shards/train --preset ijepa --out masks.png
  headrace show tiles shards/train --preset jigsaw --samples 3 --out tiles.png
  headrace show clips shards/videos --preset videomae --samples 3 --out clips.png
  headrace show texts shards/captions --tokenizer tokenizer.json --mask words""",
    declare,
    run,
)
