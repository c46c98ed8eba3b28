"""Methods that read texts, on thousands of short ones."""

from __future__ import annotations

from dataclasses import replace

from headrace.models.methods.text.bert import BERTConfig
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig
from headrace.train.recipes.small import small_run


def bert_small(*, data: str = "", out: str = "") -> RunConfig:
    """Four blocks of width 128 on 32 tokens; needs `--model.tokenizer`, as `headrace tokenizer --vocab 4096` makes one.

    Texts stay in one piece, as a single word cannot be cut, and there is no dropout: a thousand steps do not overfit.
    The learning rate is twenty times the authors', whose runs have a million steps.
    """
    model = BERTConfig(
        length=32, positions=32, most_masked=None, next_sentence=False, width=128, depth=4, heads=2, dropout=0.0
    )
    optim = OptimConfig(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, clip=1.0)
    run = small_run("bert", model, optim, data=data, out=out)
    return replace(run, schedule=ScheduleConfig(shape="linear", warmup_epochs=3.6))
