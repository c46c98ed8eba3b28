"""results.json in a run's folder, and its scores as a table."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from headrace.shards.remote.remote import from_anywhere
from headrace.tools.errors import UserError
from headrace.tools.evaluation.protocol import ENCODERS
from headrace.tools.evaluation.table import PROTOCOLS

RESULTS = "results.json"
PICTURES = "evaluation"
"""The folder of a run that holds what protocols drew."""
FORMER = {"pixels": "input", "random": "untrained"}
"""What encoders were called in files of before."""

Place = str | os.PathLike[str]
"""A folder, or for shard sets also a URL."""
Scores = dict[str, dict[str, float]]
"""Encoder (a key of ENCODERS) to protocol (a key of PROTOCOLS) to score."""


def short(protocols: Mapping[str, Any]) -> Scores:
    """The score of each protocol by encoder, of what `results.json` holds of protocols."""
    scores: Scores = {}
    for encoder in ENCODERS:
        found = {
            name: each["encoders"][encoder]["metrics"][each["metric"]]["value"]
            for name, each in protocols.items()
            if encoder in each["encoders"]
        }
        if found:
            scores[encoder] = found
    return scores


def keep(run: Path, data: Place, test: Place | None, protocols: Mapping[str, Any]) -> None:
    """Merge what protocols found into results.json; scores on other data are dropped, and those of a protocol that had
    another version or other settings."""
    place = {"data": from_anywhere(data), "test": None if test is None else from_anywhere(test)}
    with _alone_in(run):
        before = read_results(run)
        kept: dict[str, Any] = before.get("protocols", {}) if place.items() <= before.items() else {}
        for name, found in protocols.items():
            former = kept.get(name, {})
            same = all(former.get(part) == found[part] for part in ("version", "settings", "metric"))
            encoders = {**(former["encoders"] if former and same else {}), **found["encoders"]}
            kept[name] = {**found, "encoders": encoders}
        save_results(run, {"probes": short(kept), **place, "protocols": kept})


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time merges its scores; where the file system has no locks, all do at once."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def keep_pictures(run: Path, protocol: str, pictures: Sequence[np.ndarray]) -> None:
    """Write what was drawn of a run's encoder as RUN/evaluation/PROTOCOL/0.png and so on, in the place of what was
    there."""
    folder = run / PICTURES / protocol
    shutil.rmtree(folder, ignore_errors=True)
    for number, pixels in enumerate(pictures):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png", optimize=True)


def kept_pictures(run: Path, protocol: str) -> list[Path]:
    """The files of `keep_pictures`."""
    return sorted((run / PICTURES / protocol).glob("*.png"), key=lambda path: int(path.stem))


def read_results(folder: Path) -> dict[str, Any]:
    """What `save_results` wrote; empty where there is nothing.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / RESULTS
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and evaluate again") from None
    if not isinstance(results, dict):
        return {}
    probes = results.get("probes")
    if isinstance(probes, dict):
        results["probes"] = {FORMER.get(encoder, encoder): found for encoder, found in probes.items()}
    return results


def save_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json in one step."""
    write_aside(folder / RESULTS, json.dumps(results, indent=2) + "\n")


def write_aside(path: Path, text: str) -> None:
    """Write a file that is never seen half written, and whose writers do not meet."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def rows(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The lines of a table of results: name of the features to their scores; one trained line a format."""
    scores: Scores = results.get("probes", {})
    named = {ENCODERS[encoder]: scores[encoder] for encoder in ENCODERS if encoder in scores}
    formats: Mapping[str, Any] = results.get("formats", {})
    if formats:
        named.pop(ENCODERS["trained"], None)
        named |= {f"{ENCODERS['trained']}, {name}": each["probes"]["trained"] for name, each in formats.items()}
    return named


def table(results: Mapping[str, Any]) -> Table:
    """The scores for a terminal."""
    lines = rows(results)
    shown = [name for name in PROTOCOLS if any(name in found for found in lines.values())]
    made = Table("features", *(PROTOCOLS[name].title for name in shown), title="scores on held-out samples")
    for line, found in lines.items():
        cells = [PROTOCOLS[name].text(found[name]) if name in found else "" for name in shown]
        made.add_row(line, *cells, style="bold" if line.startswith(ENCODERS["trained"]) else None)
    return made


def in_full(protocols: Mapping[str, Any]) -> list[Table]:
    """Every metric of each protocol with its interval, for a terminal."""
    tables = []
    for name, found in protocols.items():
        protocol = PROTOCOLS[name]
        encoders = [encoder for encoder in ENCODERS if encoder in found["encoders"]]
        title = f"{name}, version {found['version']}: with intervals of 95 %"
        made = Table("metric", *(ENCODERS[encoder] for encoder in encoders), title=title)
        for metric in found["encoders"][encoders[0]]["metrics"]:
            cells = []
            for encoder in encoders:
                each = found["encoders"][encoder]["metrics"].get(metric)
                cells.append(in_interval(protocol.share, **each) if each else "")
            made.add_row(metric, *cells, style="bold" if metric == found["metric"] else None)
        tables.append(made)
    return tables


def of_file(name: str, found: Mapping[str, Any]) -> Table:
    """Every metric of a file of predictions with its interval, for a terminal."""
    made = Table("metric", "score", title=f"{name}, version {found['version']}: with intervals of 95 %")
    for metric, each in found["metrics"].items():
        cell = in_interval(PROTOCOLS[name].share, **each)
        made.add_row(metric, cell, style="bold" if metric == found["metric"] else None)
    return made


def in_interval(share: bool, value: float, low: float, high: float) -> str:
    """A metric and its interval as tables have them; `share` for one that is a share of 1."""
    if share:
        return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{value:.3g} ({low:.3g} to {high:.3g})"
