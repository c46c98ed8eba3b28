"""`headrace tokenizer` trains one on a shard set's texts."""

from __future__ import annotations

import argparse

from headrace.tools.commands.arguments import Command, named, one_of, positive, print_json


def declare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", metavar="DIR", help="shard set with texts or captions")
    parser.add_argument("--vocab", required=True, type=positive, metavar="N", help="tokens, the special ones counted")
    parser.add_argument(
        "--kind", type=one_of("bpe", "wordpiece", "unigram"), default="wordpiece", metavar="KIND",
        help="bpe: byte-level, as RoBERTa's; wordpiece: lower-cased, as BERT's (default); unigram: as T5's",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=named("tokenizer", ".json"), metavar="FILE.json", help="to write")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(args: argparse.Namespace) -> None:
    from headrace.shards import open_shards
    from headrace.tools.evaluation.results import write_aside
    from headrace.tools.progress import sample_bar, tell
    from headrace.tools.tokenizer import train_tokenizer

    with open_shards(args.dir) as shards, sample_bar(f"reading {args.dir}", len(shards)) as progress:
        tokenizer = train_tokenizer(shards, args.kind, args.vocab, on_text=progress)
    write_aside(args.out, tokenizer.to_str(pretty=True) + "\n")
    made = {"tokenizer": str(args.out), "kind": args.kind, "vocabulary": tokenizer.get_vocab_size()}
    if args.json:
        print_json(made)
    else:
        tell(f"{args.out}: a {args.kind} tokenizer of {made['vocabulary']:,} tokens")


COMMAND = Command(
    "tokenizer",
    "train a tokenizer on a set's texts",
    """\
Trains a tokenizer on the texts of a shard set with the library tokenizers (pip install headrace[text]), and writes it
as a Hugging Face tokenizer.json, which methods that read texts take. The same texts give the same file.

  headrace tokenizer shards/texts --vocab 4096 --out tokenizer.json
  headrace train bert_small --data shards/texts --out runs/bert --model.tokenizer tokenizer.json""",
    declare,
    run,
)
