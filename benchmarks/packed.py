"""Who competes in the loader benchmark's work on texts: documents packed into blocks, with masks drawn anew."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrace.benchmarks.command import Options
from headrace.benchmarks.glosses import glosses
from headrace.benchmarks.peers.headrace import headrace_packed
from headrace.benchmarks.peers.huggingface import huggingface
from headrace.benchmarks.photographs import cache_folder
from headrace.benchmarks.runner import Contestant
from headrace.shards import Field, open_shards, write_shards
from headrace.tools.tokenizer import train_tokenizer

HUGGINGFACE = "Hugging Face's collator"
LENGTH = 512
SMOKE_LENGTH = 64
RATIO = 0.15
VOCABULARY = 8192
SMOKE_GLOSSES = 600
MOST_TOGETHER = 40
"""Glosses that make one document, at most: documents of some ten to a thousand tokens."""


@dataclass(frozen=True, kw_only=True)
class PackedWork:
    """What every contestant has to deliver: blocks of `LENGTH` tokens without padding, 15 % of them to predict, as BERT
    hides them, drawn anew each epoch; the tokens and the labels, int64."""

    title: str
    targets: Mapping[str, float] = field(default_factory=dict)
    """Contestant to the ratio that Headrace is to reach."""


def packed_contestants(work: PackedWork, options: Options) -> list[Contestant]:
    """Headrace first; makes the files that they read."""
    shards, tokenizer = documents(smoke=options.smoke)
    asked: dict[str, Any] = {
        "shards": shards,
        "tokenizer": tokenizer,
        "length": SMOKE_LENGTH if options.smoke else LENGTH,
        "ratio": RATIO,
        "batch_size": options.batch_size,
    }
    text = {"tokenizers": "pip install headrace[text]"}
    return [
        Contestant(
            name="Headrace",
            batches=headrace_packed,
            arguments={**asked, "threads": options.threads},
            requires=text,
            note="PackedTextSpec on webdataset tars: documents in a new order and packed anew each epoch, positions "
            "and documents of each block beside its tokens; tokenised once, before the clock starts",
        ),
        Contestant(
            name=HUGGINGFACE,
            batches=huggingface,
            arguments={**asked, "workers": options.threads},
            requires={**text, "transformers": "pip install transformers"},
            note="DataCollatorForLanguageModeling in torch's DataLoader, on blocks that run_mlm.py's group_texts made "
            "of the documents once and for all, in memory; tokenised and packed before the clock starts",
        ),
    ]


def documents(*, smoke: bool) -> tuple[Path, Path]:
    """A shard set of documents, and a tokenizer trained on them; made once and kept in the cache folder."""
    root = cache_folder() / "forms" / f"documents{'-smoke' * smoke}"
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".documents.", dir=root.parent) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            write_shards(made / "set", samples(smoke=smoke), {"text": Field(kind="text")})
            with open_shards(made / "set") as shards:
                tokenizer = train_tokenizer(shards, "wordpiece", 1024 if smoke else VOCABULARY)
            (made / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
            try:
                os.rename(made, root)
            except OSError:
                if not root.exists():  # else another process was first: its files are as good
                    raise
    return root / "set", root / "tokenizer.json"


def samples(*, smoke: bool) -> Iterator[dict[str, Any]]:
    """Glosses of WordNet that follow each other, 1 to `MOST_TOGETHER` in a document."""
    found = glosses()[: SMOKE_GLOSSES if smoke else None]
    random = np.random.Generator(np.random.Philox(0))
    begin = 0
    while begin < len(found):
        end = begin + int(random.integers(1, MOST_TOGETHER + 1))
        yield {"__key__": f"{begin:06d}", "text": ". ".join(gloss.text for gloss in found[begin:end])}
        begin = end
