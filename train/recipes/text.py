"""Methods that read texts, on thousands of short ones, and a published run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypedDict

from headrace.models.methods.text.albert import ALBERTConfig
from headrace.models.methods.text.bart import BARTConfig
from headrace.models.methods.text.bert import BERTConfig
from headrace.models.methods.text.electra import ELECTRAConfig
from headrace.models.methods.text.modernbert import ModernBERTConfig
from headrace.models.methods.text.roberta import RoBERTaConfig
from headrace.models.methods.text.simcse import SimCSEConfig
from headrace.models.methods.text.t5 import T5Config
from headrace.train.config import OptimConfig, RunConfig, ScheduleConfig
from headrace.train.recipes.small import small_run


class SmallEncoder(TypedDict):
    """Fields that the configs of several methods have in common."""

    length: int
    positions: int
    width: int
    depth: int
    heads: int
    dropout: float


SMALL: SmallEncoder = {"length": 32, "positions": 32, "width": 128, "depth": 4, "heads": 2, "dropout": 0.0}
"""Four blocks of width 128 on 32 tokens, without dropout: a thousand steps do not overfit."""


def small_text_run(method: str, model: Any, *, data: str, out: str, lr: float) -> RunConfig:
    """AdamW with a straight way up and down. Learning rates are twenty times the authors' and more, whose runs have a
    million steps."""
    optim = OptimConfig(lr=lr, betas=(0.9, 0.98), weight_decay=0.01, clip=1.0)
    run = small_run(method, model, optim, data=data, out=out)
    return replace(run, schedule=ScheduleConfig(shape="linear", warmup_epochs=3.6))


def bert_small(*, data: str = "", out: str = "") -> RunConfig:
    """Four blocks of width 128 on 32 tokens; needs `--model.tokenizer`, as `headrace tokenizer --vocab 4096` makes one.

    Texts stay in one piece, as a single word cannot be cut, and there is no dropout: a thousand steps do not overfit.
    The learning rate is twenty times the authors', whose runs have a million steps.
    """
    model = BERTConfig(**SMALL, most_masked=None, next_sentence=False)
    return small_text_run("bert", model, data=data, out=out, lr=2e-3)


def roberta_small(*, data: str = "", out: str = "") -> RunConfig:
    """`bert_small` with RoBERTa's masks and network, and whole words; needs `--model.tokenizer`."""
    return small_text_run("roberta", RoBERTaConfig(**SMALL, whole_words=True), data=data, out=out, lr=2e-3)


def t5_small(*, data: str = "", out: str = "") -> RunConfig:
    """Three blocks of width 128 on 32 tokens and two that name what was lost; needs `--model.tokenizer`."""
    model = T5Config(
        length=32, sentinels=16, width=128, inner=512, depth=3, decoder_depth=2, heads=2, head_width=64, dropout=0.0
    )
    return small_text_run("t5", model, data=data, out=out, lr=2e-3)


def albert_small(*, data: str = "", out: str = "") -> RunConfig:
    """One block of width 128, passed four times, behind embeddings of 64; needs `--model.tokenizer`."""
    model = ALBERTConfig(**SMALL, embedding=64, most_masked=None)
    return small_text_run("albert", model, data=data, out=out, lr=2e-3)


def bart_small(*, data: str = "", out: str = "") -> RunConfig:
    """Two blocks of width 128 that read 32 tokens and two that write them; needs `--model.tokenizer`."""
    model = replace(BARTConfig(**SMALL), depth=2)
    return small_text_run("bart", model, data=data, out=out, lr=2e-3)


def electra_small(*, data: str = "", out: str = "") -> RunConfig:
    """Four blocks of width 128 and a generator half as wide; needs `--model.tokenizer`."""
    model = ELECTRAConfig(**SMALL, embedding=128, generator_width=0.5)
    return small_text_run("electra", model, data=data, out=out, lr=1e-3)


def simcse_small(*, data: str = "", out: str = "") -> RunConfig:
    """Four blocks of width 128 from random weights; with `--init`, from those of `bert_small`. Needs
    `--model.tokenizer`."""
    model = replace(SimCSEConfig(**SMALL), dropout=0.1)
    return small_text_run("simcse", model, data=data, out=out, lr=3e-4)


def modernbert_small(*, data: str = "", out: str = "") -> RunConfig:
    """Four blocks of width 128 on 32 tokens, two of which look 8 tokens far; needs `--model.tokenizer`."""
    model = ModernBERTConfig(length=32, width=128, inner=192, depth=4, heads=2, local=16)
    return small_text_run("modernbert", model, data=data, out=out, lr=2e-3)


def modernbert_base(*, data: str = "", out: str = "") -> RunConfig:
    """ModernBERT base on 1,024 tokens, batch 4608, at a constant learning rate of 8e-4 behind a warm-up.

    AdamW with betas 0.9 and 0.98, weight decay 1e-5 (AnswerDotAI/ModernBERT at 8c57a0f,
    yamls/modernbert/modernbert-base-pretrain.yaml: 1.7 trillion tokens, of which the warm-up has 3 billion, and the
    first 50 billion batches that grow, which these do not). An epoch stands for all of them: `epochs` and the warm-up
    are to be set by the number of texts.
    """
    return RunConfig(
        method="modernbert",
        model=ModernBERTConfig(),
        data=data,
        out=out,
        epochs=1,
        batch_size=4608,
        optim=OptimConfig(lr=8e-4, betas=(0.9, 0.98), weight_decay=1e-5),
        schedule=ScheduleConfig(shape="linear", warmup_epochs=3 / 1719, final=1.0),
    )
