"""Hugging Face: blocks by `group_texts`, masks by `DataCollatorForLanguageModeling`, in torch's DataLoader.

As examples/pytorch/language-modeling/run_mlm.py of huggingface/transformers has it without `--line_by_line`: documents
tokenised with special tokens and their mask, joined and cut (there by 1,000 documents at a time, here all of them, so
that less is dropped), blocks shuffled by the DataLoader. Blocks are lists in memory, which cost less to look up than
rows of an Arrow file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from headrace.shards import open_shards


@dataclass(frozen=True)
class Blocks:
    """A batch as the collator delivers it."""

    tokens: Tensor
    """int64 (B, L)."""
    labels: Tensor
    """int64 (B, L), -100 where nothing is to be predicted."""
    attention: Tensor
    """int64 (B, L), all 1."""

    def __len__(self) -> int:
        return len(self.tokens)


def grouped(texts: Sequence[str], tokenizer: Any, length: int) -> list[dict[str, list[int]]]:
    """`tokenize_function` and `group_texts` of run_mlm.py."""
    examples = tokenizer(list(texts), return_special_tokens_mask=True)
    joined = {name: list(chain(*examples[name])) for name in examples}
    total = len(joined["input_ids"]) // length * length
    return [{name: found[at : at + length] for name, found in joined.items()} for at in range(0, total, length)]


def fast_tokenizer(path: Path) -> Any:
    """A tokenizer.json of BERT's kind as transformers wants it."""
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_file=str(path), cls_token="[CLS]", sep_token="[SEP]", **special)


def huggingface(
    shards: Path, tokenizer: Path, length: int, ratio: float, batch_size: int, workers: int
) -> Iterator[Blocks]:
    """Batches of masked blocks, epoch after epoch."""
    from transformers import DataCollatorForLanguageModeling

    fast = fast_tokenizer(tokenizer)
    with open_shards(shards) as opened:
        texts = [opened.read(i, ["text"])["text"] for i in range(len(opened))]
    blocks: Any = grouped(texts, fast, length)
    collator: Any = DataCollatorForLanguageModeling(tokenizer=fast, mlm=True, mlm_probability=ratio)
    loader = DataLoader(
        blocks, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        collate_fn=collator,
    )  # fmt: skip
    while True:
        for batch in loader:
            yield Blocks(batch["input_ids"], batch["labels"], batch["attention_mask"])
