"""What methods learn: scores of each method's small recipe beside its input, the untrained encoder, and lightly.

    python -m headrace.benchmarks.methods [--only NAME,...] [--data SET,...] [--part scores|speed] [--seeds N]
                                          [--epochs N] [--keep-older] [--smoke] [--json FILE] [--out DIR]
    python -m headrace.benchmarks.methods --part table
    python -m headrace.benchmarks.methods --choose [KEY=VALUE ...] [--only NAME,...] [--data SET,...] [--seeds N]

Every method trains on the same real set for the same number of samples, with its recipe `NAME_small`: images on
digits, and, where `--data` asks for them, on emoji and stamps, which are fetched. Probes learn from the training
samples and are scored on others. Where lightly has the method, its parts train in a plain loop, fed by Headrace's
loader: the same views, batches, steps, optimiser and schedule, the same backbone with the same first weights.

Scores may be computed on a busy machine. Samples a second want a quiet one: they are measured after them, in short
trainings of ours and lightly's in turn. Each training that has ended is kept in the cache folder, as `trials.jsonl` and
`speeds.jsonl` below `learning/`, with digests of its settings and data, and of its sources; the same command goes on
where it was stopped, and the table is written anew with every row. It shows what was measured with other sources, too,
with their commit, until that is measured anew, which is done by the same command, unless it says `--keep-older`.

Settings of a small recipe are to be chosen with `--choose`, whose scores are of training samples that the probes do not
learn from; it prints them, and keeps nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import Progress

from headrace.benchmarks.command import check_publishable, default_results
from headrace.benchmarks.errors import BenchmarkError, SourceMissing
from headrace.benchmarks.learning.choosing import try_settings
from headrace.benchmarks.learning.records import INPUT, OURS, PEER, SPEED, Records, Trial, digest_of, sources_digest
from headrace.benchmarks.learning.sets import SETS, content
from headrace.benchmarks.learning.speed import EPOCHS as SPEED_EPOCHS
from headrace.benchmarks.learning.speed import ROUNDS, Speed, measure_speed
from headrace.benchmarks.learning.table import TITLES, MethodsReport, Row, as_markdown, row, save
from headrace.benchmarks.learning.training import (
    PROBES,
    probe_input,
    probe_untrained,
    small_config,
    train_ours,
    train_peer,
)
from headrace.benchmarks.machine import commit, machine, versions
from headrace.benchmarks.peers.lightly_methods import PEERS
from headrace.benchmarks.photographs import cache_folder
from headrace.benchmarks.report import now
from headrace.models import METHODS, build_method
from headrace.shards import open_shards
from headrace.shards.machine import core_numbers
from headrace.tools.errors import UserError
from headrace.train import ConfigError, RunConfig, RunError
from headrace.train.recipes import RECIPES

SEEDS = 3
PARTS = ("scores", "speed")
TABLE = "table"
"""Stands for neither."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks for."""

    methods: tuple[str, ...]
    sets: tuple[str, ...] | None
    """Every method is trained on those that suit it; None takes the first one that does."""
    parts: tuple[str, ...]
    """Of PARTS, which are to be measured; what was measured before is shown of both."""
    seeds: range
    epochs: int | None
    """None takes each set's."""
    keep_older: bool
    """Whether what was measured with other sources is not to be measured anew."""
    smoke: bool


@dataclass(kw_only=True)
class Bench:
    """Everything between the question and its rows.

    Args:
        folder: for shard sets and runs; gone afterwards.
        records: where what was measured is kept.
        source: the commit.
        progress: shows what comes next.
    """

    asked: Asked
    folder: Path
    records: Path
    source: str
    progress: Callable[[str], None]
    missing: dict[str, str] = field(default_factory=dict)
    """Why a set, or a method, is not in the rows."""

    def __post_init__(self) -> None:
        self.sources = sources_digest()
        self.current = None if self.asked.keep_older else self.sources
        self.trials = Records(self.records / "trials.jsonl", Trial)
        self.speeds = Records(self.records / "speeds.jsonl", Speed)
        self.contents: dict[str, str] = {}
        self.suited: dict[str, tuple[str, ...]] = {}
        for name in self.asked.methods:
            recipe = RECIPES[f"{name}_small"]()
            method = build_method(name, recipe.model)
            suited = tuple(data for data, learning in SETS.items() if learning.suits(method))
            if not suited:
                self.missing[name] = "no set suits it"
            sets = self.asked.sets
            self.suited[name] = suited[:1] if sets is None else tuple(data for data in suited if data in sets)

    def write_sets(self) -> None:
        """Those that some method is trained on and that can be had."""
        for data in SETS:
            if not any(data in suited for suited in self.suited.values()):
                continue
            self.progress(f"{data}: sharding")
            try:
                SETS[data].write(self.folder / data, self.asked.smoke)
            except SourceMissing as error:
                self.missing[data] = str(error)
            else:
                self.contents[data] = content(self.folder / data)

    def pairs(self) -> list[tuple[str, str]]:
        """Sets and methods, of each a row by every probe."""
        return [(data, name) for data in self.contents for name in self.asked.methods if data in self.suited[name]]

    def config(self, data: str, name: str, seed: int, epochs: int | None) -> RunConfig:
        out = self.folder / f"{data}-{name}-{seed}"
        epochs = epochs or SETS[data].epochs
        return small_config(name, self.folder / data, out, seed=seed, epochs=epochs, smoke=self.asked.smoke)

    def trial(self, data: str, name: str, seed: int, side: str, *, measure: bool) -> Trial | None:
        """That of OURS or PEER with one seed, with whatever sources; None where there is none, and none is to be
        measured."""
        config = self.config(data, name, seed, self.asked.epochs)
        digest = digest_of(config, data=data, content=self.contents[data], side=side)
        if measure and self.trials.find(digest, self.current) is None:
            self.progress(f"{data}, {name}, seed {seed}, {side}")
            ours = side == OURS
            trial = Trial(
                digest=digest,
                sources=self.sources,
                commit=self.source,
                data=data,
                method=name,
                side=side,
                seed=seed,
                untrained=probe_untrained(config, self.folder / data) if ours else None,
                scores=(train_ours if ours else train_peer)(config, self.folder / data),
            )
            self.trials.add(trial)
        return self.trials.find(digest, None)

    def input_trial(self, data: str) -> Trial:
        """The input of a set itself, which is measured where it is not kept: it takes seconds."""
        digest = digest_of(None, data=data, content=self.contents[data], side=INPUT)
        known = self.trials.find(digest, self.current if self.asked.parts else None)
        if known is None:
            known = Trial(
                digest=digest,
                sources=self.sources,
                commit=self.source,
                data=data,
                method="",
                side=INPUT,
                seed=0,
                scores=probe_input(self.folder / data, SETS[data]),
            )
            self.trials.add(known)
        return known

    def choices(self, settings: Sequence[str]) -> Iterator[str]:
        """A line for each set, method and seed, trained with these settings (`key=value`) beside those of its small
        recipe: scores on held-out training samples, which are not kept."""
        for data, name in self.pairs():
            for seed in self.asked.seeds:
                self.progress(f"{data}, {name}, seed {seed}")
                config = self.config(data, name, seed, self.asked.epochs).with_overrides(list(settings))
                before, after = try_settings(config, self.folder / data)
                found = [f"{TITLES[p]} {100 * after[p]:.1f} (untrained {100 * before[p]:.1f})" for p in PROBES]
                yield f"{data}, {name}, seed {seed}: {', '.join(found)}"

    def speed(self, name: str, *, measure: bool) -> Speed | None:
        """That of a method on its first set that can be had; None as in `trial`."""
        data = next((data for data in self.contents if data in self.suited[name]), None)
        if data is None:
            return None
        config = self.config(data, name, 0, SPEED_EPOCHS)
        digest = digest_of(config, data=data, content=self.contents[data], side=SPEED)
        if measure and self.speeds.find(digest, self.current) is None:
            self.progress(f"{name}: samples a second")
            with open_shards(config.data) as shards:
                samples = len(shards)
            found = measure_speed(
                config,
                samples,
                self.folder / f"speed-{name}",
                peer=has_peer(name),
                rounds=1 if self.asked.smoke else ROUNDS,
                digest=digest,
                sources=self.sources,
                commit=self.source,
                data=data,
            )
            self.speeds.add(found)
        return self.speeds.find(digest, None)

    def rows_of(self, data: str, name: str, *, scores: bool, speed: bool) -> list[Row]:
        """The rows of a method on a set by every probe, over the seeds with which all was trained; none where there is
        no such seed. Measures what it is told to."""
        ours, theirs = [], []
        for seed in self.asked.seeds:
            own = self.trial(data, name, seed, OURS, measure=scores)
            peer = self.trial(data, name, seed, PEER, measure=scores) if has_peer(name) else None
            if own and (peer or not has_peer(name)):
                ours.append(own)
                theirs += [peer] if peer else []
        rate = self.speed(name, measure=speed)
        shown = rate if rate and rate.data == data else None
        return [row(probe, self.input_trial(data), ours, theirs, shown) for probe in PROBES] if ours else []

    def rows(self) -> list[Row]:
        """What is known."""
        return [each for pair in self.pairs() for each in self.rows_of(*pair, scores=False, speed=False)]


def has_peer(name: str) -> bool:
    return name in PEERS and importlib.util.find_spec("lightly") is not None


def measure(bench: Bench, write: Callable[[list[Row]], None]) -> None:
    """Scores and then speeds, one method after the other; `write` gets all rows whenever there is a new one."""
    bench.write_sets()
    write(bench.rows())
    for part in bench.asked.parts:
        for data, name in bench.pairs():
            bench.rows_of(data, name, scores=part == "scores", speed=part == "speed")
            write(bench.rows())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="headrace.benchmarks.methods",
        description="What each method's small recipe learns, beside its input, the untrained encoder and lightly.",
    )
    parser.add_argument("--only", metavar="NAME,...", help="methods to train (default: all)")
    parser.add_argument(
        "--data", metavar="SET,...", help=f"of {', '.join(SETS)} (default: for each method the first that suits it)"
    )
    parser.add_argument(
        "--part",
        choices=(*PARTS, TABLE),
        help="scores, or samples a second; the default is both, in this order; table only writes what was measured",
    )
    parser.add_argument("--seeds", type=int, help=f"trainings of each method (default {SEEDS})")
    parser.add_argument("--epochs", type=int, help="of each training (default: by the set)")
    parser.add_argument(
        "--keep-older", action="store_true", help="do not measure anew what was measured with other sources"
    )
    parser.add_argument(
        "--choose",
        nargs="*",
        metavar="KEY=VALUE",
        help="train with these settings and print scores on training samples that probes do not see; nothing is kept",
    )
    parser.add_argument("--smoke", action="store_true", help="few digits, one epoch, one seed: sees that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default benchmarks/results)")
    options = parser.parse_args(arguments)

    def named(flag: str, known: Sequence[str]) -> tuple[str, ...] | None:
        given = getattr(options, flag)
        if given is None:
            return None
        names = tuple(given.split(","))
        for name in names:
            if name not in known:
                parser.error(f"--{flag}: {name!r} is not known; known: {', '.join(known)}")
        return names

    for flag in ("seeds", "epochs"):
        if getattr(options, flag) is not None and getattr(options, flag) <= 0:
            parser.error(f"--{flag} must be positive, got {getattr(options, flag)}")
    asked = Asked(
        methods=named("only", list(METHODS)) or tuple(METHODS),
        sets=named("data", list(SETS)),
        parts={None: PARTS, TABLE: ()}.get(options.part, (options.part,)),
        seeds=range(options.seeds or (1 if options.smoke else SEEDS)),
        epochs=options.epochs or (1 if options.smoke else None),
        keep_older=options.keep_older,
        smoke=options.smoke,
    )
    source = commit()  # now: what is edited meanwhile is not what is measured
    began = now()
    cores = core_numbers()
    console = Console(stderr=True)
    out = options.out or default_results(options.smoke)
    try:
        if options.choose is None:
            check_publishable(source, options.smoke, options.out)
        with (
            TemporaryDirectory(prefix="headrace-methods-") as folder,
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            line = bar.add_task("preparing", total=None)
            bench = Bench(
                asked=asked,
                folder=Path(folder),
                records=Path(folder) if asked.smoke else cache_folder() / "learning",
                source=source,
                progress=lambda what: bar.update(line, description=what),
            )

            if options.choose is not None:
                bench.write_sets()
                for found in bench.choices(options.choose):
                    print(found, flush=True)
                return 0

            def report(rows: list[Row]) -> MethodsReport:
                return MethodsReport(
                    date=began,
                    commit=source,
                    machine=machine(cores),
                    versions=versions(),
                    settings={"epochs": asked.epochs or "by the set", "smoke": asked.smoke},
                    rows=rows,
                    missing=bench.missing,
                )

            def write(rows: list[Row]) -> None:
                if rows:
                    save(report(rows), out, options.json)

            measure(bench, write)
            done = report(bench.rows())
    except (BenchmarkError, ConfigError, RunError, UserError) as error:
        print(f"headrace.benchmarks.methods: {error}", file=sys.stderr)
        return 1
    print(as_markdown(done))
    for path in save(done, out, options.json) if done.rows else ():
        print(path, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
