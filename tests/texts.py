"""Real texts, the descriptions that scikit-learn ships with its data sets, and tokenizers trained on them."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
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
