"""A training that a signal ended is no trial."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.learning import training
from headrace.benchmarks.learning.training import run_ours
from headrace.shards import ShardSet
from headrace.train import RunResult, train
from tests.train.tiny_runs import tiny_run


def test_a_training_that_was_stopped_has_no_score(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: Any, **options: Any) -> RunResult:
        told = options.pop("on_step")

        def on_step(record: Any) -> None:
            told(record)
            if record["step"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        return train(config, on_step=on_step, **options)

    assert run_ours(tiny_run(digits_webdataset.path, tmp_path / "whole")) > 0
    monkeypatch.setattr(training, "train", stopped)
    with pytest.raises(BenchmarkError, match=r"simclr: SIGTERM: stopped at step \d of 12"):
        run_ours(tiny_run(digits_webdataset.path, tmp_path / "stopped"))
