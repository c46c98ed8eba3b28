"""Runs that learn: small recipes trained on the device from shards, with probes beside raw pixels and the untrained
encoder."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import torch

from headrace.benchmarks.gpu.rows import Row, Rows
from headrace.benchmarks.learning.sets import SETS
from headrace.benchmarks.learning.training import PROBES, probe, probe_input, probe_untrained, small_config
from headrace.train import load_run, train

METHODS = ("simclr", "dino", "mae")


def measure(rows: Rows, device: torch.device, folder: Path, *, sets: Path | None, smoke: bool, hours: float) -> None:
    """Rows of every set and method; each trains for its set's epochs, or until its time is over.

    Args:
        sets: a folder of sets that are written already, NAME/train and NAME/test by names of `SETS`; None writes the
            digits.
        hours: of each training.
    """
    names = sorted(path.name for path in sets.iterdir() if path.name in SETS) if sets else ["digits"]
    for name in names:
        data = sets / name if sets else folder / name
        if not data.exists():
            SETS[name].write(data, smoke)
        raw = probe_input(data, SETS[name])
        for method in METHODS[:1] if smoke else METHODS:
            epochs = 1 if smoke else SETS[name].epochs
            config = small_config(method, data, folder / f"{name}-{method}", seed=0, epochs=epochs, smoke=smoke)
            untrained = probe_untrained(config, data)
            engine = "cuda" if device.type == "cuda" else "native"
            config = config.with_overrides(
                [f"device={device.type}", "precision=auto", f"loader.engine={engine}", f"stop.hours={hours}"]
            )
            began = perf_counter()
            result = train(config, progress=False)
            seconds = perf_counter() - began
            _, trained = load_run(config.out)
            scores = probe(trained.encode, trained.probe_inputs, data)
            for judge in PROBES:
                note = f"{100 * untrained[judge]:.1f} untrained, {100 * raw[judge]:.1f} raw input; {seconds:.0f} s"
                rows.add(
                    Row(
                        part="learning",
                        work=f"{name}, {judge}",
                        contestant=f"{method}, step {result.step} of {result.total_steps}",
                        value=100 * scores[judge],
                        unit="%",
                        trials=1,
                        note=note,
                    )
                )
