"""`headrace eval` scores a run's encoder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from headrace.tools.commands.arguments import Command, UsageError, known, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", metavar="PROTOCOL", nargs="?", help="one of those that --list tells of")
    parser.add_argument(
        "source",
        metavar="RUN|FILE",
        nargs="?",
        help="run folder, checkpoint, file of a timm network, or its name; for captions, the file that is scored",
    )
    parser.add_argument("--data", metavar="DIR", help="labelled shard set to learn from")
    parser.add_argument(
        "--test",
        metavar="DIR",
        help="shard set to score on (default: a fifth of --data, held out)",
    )
    parser.add_argument("--timm", metavar="NAME", help="timm model of FILE, where it does not say")
    parser.add_argument("--no-cache", action="store_true", help="compute features anew and keep none")
    parser.add_argument("--list", action="store_true", help="tell what each protocol is, with its keys, and stop")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/protocols.md, and stop")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.tools.evaluation.table import PROTOCOLS

    if args.protocol is not None:
        known("protocol", args.protocol, PROTOCOLS)
    if args.list or args.markdown:
        _list(args)
        return
    if args.protocol is None or args.source is None or args.data is None:
        raise UsageError("eval takes PROTOCOL RUN|FILE --data DIR; `headrace eval --list` tells of the protocols")
    from headrace.tools.evaluation.evaluate import measure
    from headrace.tools.evaluation.results import in_full, short, table
    from headrace.tools.evaluation.settings import with_keys
    from headrace.tools.progress import show

    settings = {args.protocol: with_keys(PROTOCOLS[args.protocol].settings, args.keys)}
    if PROTOCOLS[args.protocol].of_file:
        _score_file(args, settings[args.protocol])
        return
    found = measure(
        args.source,
        args.data,
        args.test,
        protocols=[args.protocol],
        settings=settings,
        timm=args.timm,
        cache=not args.no_cache,
    )
    if int(os.environ.get("RANK", 0)):
        return
    if args.json:
        print_json({"probes": short(found), "protocols": found})
        return
    show(table({"probes": short(found)}))
    for each in in_full(found):
        show(each)


def _score_file(args: argparse.Namespace, settings: Any) -> None:
    from headrace.tools.evaluation.evaluate import measure_file
    from headrace.tools.evaluation.results import of_file
    from headrace.tools.evaluation.table import PROTOCOLS
    from headrace.tools.progress import show

    if args.test is not None:
        raise UsageError(f"{args.protocol} scores a file against one set: name it with --data alone")
    found = measure_file(Path(args.source), args.data, PROTOCOLS[args.protocol], settings)
    if args.json:
        print_json({"protocols": {args.protocol: found}})
    else:
        show(of_file(args.protocol, found))


def _list(args: argparse.Namespace) -> None:
    from headrace.tools.evaluation.catalogue import as_json, in_words, markdown
    from headrace.tools.progress import tell

    names = [args.protocol] if args.protocol else None
    if args.markdown:
        print(markdown(), end="")
    elif args.json:
        print_json(as_json(names))
    else:
        tell(in_words(names))


COMMAND = Command(
    "eval",
    "score a run's encoder",
    """\
Scores the newest checkpoint of RUN, or the timm network of FILE, by PROTOCOL beside the untrained encoder and the raw
input, with intervals of 95 %, and keeps what it finds of a run in RUN/results.json. A protocol's settings are set as
--key value.

These leave the encoder as it is: knn, linear, fewshot, and the papers' heads trained by SGD, linear_simclr,
linear_mae, linear_dino, linear_dinov2. These train it too, and take their time: finetune, finetune_mae,
finetune_beit, detection. These read feature maps: segmentation, depth. robustness corrupts the test pictures. These
learn nothing: retrieval, retrieval_text, zeroshot, perplexity, meters. captions scores a file of predictions in the
place of RUN.

  headrace eval --list
  headrace eval linear runs/first --data shards/train --test shards/val
  headrace eval knn runs/first --data shards/train --test shards/val --k 200 --temperature 0.1
  headrace eval zeroshot runs/clip --data shards/val --classes names.txt --templates templates.txt
  headrace eval knn vit.safetensors --timm vit_small_patch16_224 --data shards/train --test shards/val
  torchrun --nproc-per-node 4 -m headrace.tools.cli eval knn runs/first --data shards/train --test shards/val
  headrace eval captions predictions.json --data shards/val""",
    declare,
    run,
    takes_keys=True,
)
