"""Real texts, the descriptions that scikit-learn ships with its data sets, and tokenizers trained on them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import gettempdir
from typing import Any


@cache
def documents() -> list[str]:
    """A dozen texts of 1 to 10 kB."""
    found = sorted(files("sklearn.datasets.descr").iterdir(), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in found if file.name.endswith(".rst")]


@cache
def paragraphs() -> list[str]:
    """Some hundred, of 3 words and more."""
    blocks = (" ".join(block.split()) for text in documents() for block in re.split(r"\n\s*\n", text))
    return [block for block in blocks if len(block.split()) >= 3]


def wordpiece(path: Path) -> Path:
    """A tokenizer like BERT's of 700 tokens, [CLS] before and [SEP] behind."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        documents(), trainers.WordPieceTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(5)  # which Headrace does not heed
    tokenizer.save(str(path))
    return path


def sentinels(path: Path) -> Path:
    """A tokenizer like T5's: pieces, </s> behind, and a hundred sentinels that count down."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        documents(),
        trainers.BpeTrainer(vocab_size=500, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False),
    )
    tokenizer.add_special_tokens([f"<extra_id_{number}>" for number in reversed(range(100))])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))
    return path


def unsplit(path: Path) -> Path:
    """A tokenizer like Llama's: blanks come from the normaliser, nothing splits a text; with [MASK] and a template."""
    from tokenizers import Tokenizer, models, normalizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<pad>", "<s>", "<unk>", "[MASK]"]
    tokenizer.train_from_iterator(
        paragraphs(), trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(path))
    return path


@cache
def words() -> Path:
    """A tokenizer of the commonest 400 words and signs, and pairs as BERT's, made without the library: a file that is
    named after what it holds, for whoever needs one before a test has a folder."""
    special = {name: number for number, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    found = Counter(word for text in documents() for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    common = sorted(found, key=lambda word: (-found[word], word))[:400]
    piece = {name: {"Sequence": {"id": name[0], "type_id": int(name[1])}} for name in ("A0", "B1")}
    sign = {
        name: {"SpecialToken": {"id": name[:-1], "type_id": int(name[-1])}} for name in ("[CLS]0", "[SEP]0", "[SEP]1")
    }
    content = json.dumps(
        {
            "version": "1.0", "truncation": None, "padding": None, "decoder": None,
            "added_tokens": [
                {"id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True}
                for name, number in special.items()
            ],
            "normalizer": {
                "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [sign["[CLS]0"], piece["A0"], sign["[SEP]0"]],
                "pair": [sign["[CLS]0"], piece["A0"], sign["[SEP]0"], piece["B1"], sign["[SEP]1"]],
                "special_tokens": {
                    name: {"id": name, "ids": [special[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")
                },
            },
            "model": {
                "type": "WordLevel", "unk_token": "[UNK]",
                "vocab": special | {word: 5 + number for number, word in enumerate(common)},
            },
        }
    ).encode()  # fmt: skip
    path = Path(gettempdir()) / f"headrace-words-{hashlib.sha256(content).hexdigest()[:16]}.json"
    if not path.exists():
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        aside.write_bytes(content)
        os.replace(aside, path)
    return path
