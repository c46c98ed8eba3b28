"""One real run from end to end: digits into both shard formats, SimCLR from each, probes, a report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from headrace.models import build_method
from headrace.pipeline import Loader
from headrace.shards import open_shards
from headrace.shards.manifest import MANIFEST_NAME, Format
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.evaluation.evaluate import evaluate
from headrace.tools.evaluation.results import RESULTS, save_results
from headrace.tools.pictures.report import throughput, write_report
from headrace.tools.progress import sample_bar, say
from headrace.tools.sources.mnist import BUNDLED
from headrace.tools.upkeep.verify import verify
from headrace.train import ConfigError, RunConfig, read_metrics, train
from headrace.train.recipes import simclr_digits

SPLITS = {"train": 4000, "test": 1000}
SHARDS = "shards"


FORMATS: tuple[Format, ...] = ("webdataset", "ffcv")


def demo(
    out: Path, *, formats: Sequence[Format] = FORMATS[:1], epochs: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Run the demo in the folder `out` and return the content of its results.json.

    Shards that are there and verify are used again. A demo that was interrupted goes on where it stopped; one that
    ended, and so has a results.json, trains anew.

    Args:
        out: gets shards/FORMAT/SPLIT in both formats, a run folder for each of `formats`, results.json, report.html.
        formats: of the shards to train from, in turn.
        epochs: of each run; None takes the recipe's.
        seed: of weights, order and augmentation.

    Returns:
        `probes`: encoder to probe to accuracy, 0 to 1. `seconds`: of the whole demo. `samples_per_s` and `data_wait`
        (share, 0 to 1): of the training. With several formats these figures, but for `seconds`, are the first one's,
        and `formats` has them for each.

    Raises:
        UserError: if the digits are not installed, or `out` is the folder of something else.
        ConfigError: for a bad number of epochs or a bad seed.
        KeyboardInterrupt: if a signal stopped the training, after a checkpoint.
    """
    began = perf_counter()
    if out.exists() and any(out.iterdir()) and not (out / SHARDS).exists():
        raise UserError(f"{out} holds something else; name another folder with --out")
    if (out / RESULTS).exists():
        (out / RESULTS).unlink()
        for format in formats:
            shutil.rmtree(out / format, ignore_errors=True)
    for format in FORMATS:
        for split in SPLITS:
            _shard_digits(out / SHARDS / format / split, format, split)
    by_format = {format: _one_format(out, format, epochs, seed) for format in formats}
    results = {**by_format[formats[0]], "seconds": round(perf_counter() - began, 1)}
    if len(formats) > 1:
        results["formats"] = by_format
    save_results(out, results)
    say("drawing the report")
    write_report(out, {format: out / format for format in formats})
    return results


def _one_format(out: Path, format: Format, epochs: int | None, seed: int) -> dict[str, Any]:
    """Training from the shards of one format, and probes; its part of the results."""
    began = perf_counter()
    data = {split: out / SHARDS / format / split for split in SPLITS}
    run = out / format
    config = simclr_digits(data=str(data["train"]), out=str(run))
    config = config.with_overrides([f"seed={seed}", f"epochs={config.epochs if epochs is None else epochs}"])
    _compile(data["train"], config)
    say(f"{format}: training {config.method} for {config.epochs} epochs")
    _train(config)
    say(f"{format}: probing raw pixels, the untrained and the trained encoder")
    probes = evaluate(run, data["train"], data["test"])
    return {"probes": probes, "seconds": round(perf_counter() - began, 1), **throughput(read_metrics(run))}


def _shard_digits(path: Path, format: Format, split: str) -> None:
    """Write the shard set of a split of the digits, unless a whole one is there."""
    if (path / MANIFEST_NAME).exists():
        found = verify(path)
        if found.ok and found.samples == SPLITS[split]:
            say(f"{format}: {found.samples:,} {split} digits are there, and every byte of them is right")
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"{format}: sharding {SPLITS[split]:,} {split} digits")
    with sample_bar(split, SPLITS[split]) as progress:
        convert("mnist", BUNDLED, path, format=format, split=split, encode="raw", progress=progress)


def _compile(data: Path, config: RunConfig) -> None:
    """Load one batch: what the loader compiles on a machine's first run must not count as waiting for data."""
    views = build_method(config.method, config.model).inputs
    with open_shards(data) as shards, Loader(shards, views, config.batch_size, engine=config.loader.engine) as loader:
        next(iter(loader))


def _train(config: RunConfig) -> None:
    """Train, or go on with the run that was interrupted; a run with other settings makes room."""
    run = Path(config.out)
    try:
        result = train(config)
    except ConfigError:
        if not run.exists():
            raise
        shutil.rmtree(run)
        result = train(config)
    if result.ending.why != "finished":
        raise KeyboardInterrupt
