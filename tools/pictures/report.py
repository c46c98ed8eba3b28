"""A run as one page: scores, curves, views, what its features say, and what made it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headrace.models import Method, Piece
from headrace.pipeline import ClipSpec, SoundSpec, ViewSpec
from headrace.shards import ShardError, open_shards
from headrace.shards.remote.remote import redact
from headrace.tools.errors import UserError
from headrace.tools.evaluation.protocol import ENCODERS, Protocol
from headrace.tools.evaluation.results import read_results, rows, write_aside
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.tools.hardware import cores, processor
from headrace.tools.pictures.animation import animated, webp_uri
from headrace.tools.pictures.charts import legend, line_chart
from headrace.tools.pictures.delivered import delivered
from headrace.tools.pictures.features import feature_sections, missing
from headrace.tools.pictures.page import Section, definitions, page, png_uri, tiles
from headrace.tools.pictures.scores import evaluation_sections
from headrace.tools.pictures.show_clips import clips_of
from headrace.tools.pictures.show_views import augmented
from headrace.train import RunConfig, load_run, read_ending, read_metrics
from headrace.train.metrics import Record
from headrace.train.pictures import drawn_pictures, saved_readings

GALLERY_SAMPLES = 9
HEARD_SAMPLES = 3

# metric, name and unit, holds a share of 1, axis starts at 0
CURVES = (
    ("loss", "loss", False, False),
    ("samples_per_s", "samples a second", False, True),
    ("data_wait", "share of the time spent waiting for data", True, True),
    ("lr", "learning rate", False, True),
)
# The same of meters and of evaluations while a run goes on, which not every run has.
OPTIONAL = (
    ("feature_rank", "effective rank of the features", False, True),
    ("feature_std", "deviation of normalised features", False, True),
    ("held_out_loss", "held-out loss", False, False),
    ("knn", "k-NN on held-out samples", True, False),
    ("linear", "linear probe on held-out samples", True, False),
)


def write_report(folder: Path, runs: Mapping[str, Path] | None = None, *, seed: int = 0) -> Path:
    """Write `folder`/report.html and return its path.

    Args:
        folder: holds results.json, where there are results.
        runs: run folders by name, their curves drawn over one another; None takes `folder` as the only run.
        seed: of the feature map's layout.

    Raises:
        UserError: if a run folder holds no metrics.
        ConfigError: if a run's configuration cannot be read.
    """
    runs = runs or {folder.name: folder}
    metrics = {name: read_metrics(run) for name, run in runs.items()}
    for name, logged in metrics.items():
        if not logged:
            raise UserError(f"{runs[name]}: no logged step in it, so there is nothing to report; train first")
    results = read_results(folder)
    first = next(iter(runs.values()))
    config, method = load_run(first)
    sections = [
        Section("At a glance", "", tiles(headline(results, metrics))),
        probes(results),
        *evaluation_sections(folder, results),
        Section("Training", endings(runs), training_charts(metrics)),
        gallery(config, method),
        pictures(first),
        readings(first),
        *feature_sections(method, read_results(first).get("test") or config.data, seed),
        Section("Configuration", "Saved with the run; it starts the run again.", resolved_config(runs)),
        Section("Environment", "Where this page was made.", definitions(environment())),
    ]
    path = folder / "report.html"
    subtitle = f"{config.method}, {config.epochs} epochs, batches of {config.batch_size}: {' and '.join(runs)}"
    shown = [section for section in sections if section.html or section.note]
    write_aside(path, page(folder.name, subtitle, shown))
    return path


def throughput(records: Sequence[Record]) -> dict[str, float]:
    """`samples_per_s` and `data_wait` of a run: each log line weighs as much as the time it covers."""
    samples = np.diff([0, *(record["step"] for record in records)])  # in batches
    seconds = samples / [record["samples_per_s"] for record in records]
    waited = seconds * [record["data_wait"] for record in records]
    return {
        "samples_per_s": round(float(samples.sum() / seconds.sum()), 1),
        "data_wait": round(float(waited.sum() / seconds.sum()), 4),
    }


def headline(results: Mapping[str, Any], metrics: Mapping[str, Sequence[Record]]) -> list[tuple[str, str]]:
    """The few figures that a reader looks for first: (figure, what it is)."""
    scores = results.get("probes", {}).get("trained", {})
    figures = [
        (PROTOCOLS[name].text(score).replace(" ", ""), f"{PROTOCOLS[name].title}, trained encoder")
        for name, score in scores.items()
        if name in PROTOCOLS
    ]
    speed = throughput(next(iter(metrics.values())))
    figures += [
        (f"{speed['samples_per_s']:,.0f}", "samples a second in training"),
        (f"{100 * speed['data_wait']:.1f}%", "of that time spent waiting for data"),
    ]
    if "seconds" in results:
        figures.append((f"{results['seconds']:.0f} s", "from raw data to scores"))
    return figures


PROBES_NOTE = "Accuracy on held-out samples. Raw pixels and the untrained encoder say what training added."


def probes(results: Mapping[str, Any]) -> Section:
    """The scores, where there are some."""
    table = probe_table(results)
    return Section("Probes", PROBES_NOTE if table else "", table)


def probe_table(results: Mapping[str, Any]) -> str:
    """One line a kind of features, one bar a probe."""
    lines = rows(results)
    probes = [name for name in PROTOCOLS if any(name in found for found in lines.values())]
    if not probes:
        return ""
    head = "".join(f"<th>{escape(PROTOCOLS[name].title)}</th>" for name in probes)
    body = ""
    for name, found in lines.items():
        cells = ""
        for probe in probes:
            cells += f'<td class="figure">{_score(PROTOCOLS[probe], found[probe]) if probe in found else ""}</td>'
        best = ' class="best"' if name.startswith(ENCODERS["trained"]) else ""
        body += f"<tr{best}><th>{escape(name)}</th>{cells}</tr>"
    table = f'<table id="probes"><thead><tr><th>features</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _score(protocol: Protocol, score: float) -> str:
    """A score with a bar, where it is a share."""
    text = protocol.text(score).replace(" ", "")
    bar = f'<i style="width:{100 * max(0.0, score):.1f}%"></i>' if protocol.share else ""
    return f'<div class="bar"><b>{text}</b>{bar}</div>'


def training_charts(metrics: Mapping[str, Sequence[Record]]) -> str:
    """The curves of all runs, one chart a metric."""
    charts = ""
    logged = {name for records in metrics.values() for record in records for name in record}
    for metric, label, percent, from_zero in (*CURVES, *(curve for curve in OPTIONAL if curve[0] in logged)):
        series = {
            name: (
                [row["step"] for row in rows if metric in row],
                [row[metric] for row in rows if metric in row],
            )
            for name, rows in metrics.items()
        }
        chart = line_chart(series, label=label, percent=percent, from_zero=from_zero)
        charts += f"<div><h3>{escape(label)}</h3>{chart}</div>"
    return f'{legend(list(metrics))}<div class="charts">{charts}</div>'


def endings(runs: Mapping[str, Path]) -> str:
    """Why each run ended; its name before it where there are several."""
    found = {name: ending.line for name, run in runs.items() if (ending := read_ending(run))}
    return "; ".join(f"{name} {line}" if len(runs) > 1 else line for name, line in found.items())


def pictures(run: Path) -> Section:
    """What the method drew last of its work, and before its first step."""
    drawn = {step: files for step, files in drawn_pictures(run).items() if files}
    rows = ""
    for step in sorted({min(drawn), max(drawn)}) if drawn else ():
        rows += f"<h3>{f'after step {step:,}' if step else 'before the first step'}</h3>"
        for name, path in drawn[step].items():
            picture = png_uri(np.asarray(Image.open(path)))
            rows += f'<figure class="row"><img src="{picture}" alt=""><figcaption>{escape(name)}</figcaption></figure>'
    note = "The same samples each time, a column each." if rows else ""
    return Section("What the method makes of them", note, rows)


READINGS_NOTE = (
    "Of each token that the method was to name: what it saw there, what it says, and, where that is wrong, what stood "
    "there. Pieces of words are written as the vocabulary writes them."
)


def readings(run: Path) -> Section:
    """Texts with what the method said last of the tokens that it was to name, and before its first step."""
    saved = {step: texts for step, texts in saved_readings(run).items() if texts}
    html = ""
    for step in sorted({min(saved), max(saved)}) if saved else ():
        asked = [piece for text in saved[step] for piece in text if piece.said is not None]
        right = sum(piece.said == piece.token for piece in asked)
        when = f"after step {step:,}" if step else "before the first step"
        html += f"<h3>{when}: {right} of {len(asked)} right</h3>"
        html += "".join(f'<p class="reading">{"".join(map(_piece, text))}</p>' for text in saved[step])
    return Section("What the method reads", READINGS_NOTE if html else "", html)


def _piece(piece: Piece) -> str:
    """A token; of one that was to be named, what was shown, what was said, and what stood there."""
    if piece.said is None:
        return f"<span>{escape(piece.token)}</span>"
    shown = f"<small>{escape(piece.shown)}</small> " if piece.shown else ""
    right = piece.said == piece.token
    said = f"<b>{escape(piece.said)}</b>" if right else f"<s>{escape(piece.said)}</s> <b>{escape(piece.token)}</b>"
    return f'<span class="{"right" if right else "wrong"}">{shown}{said}</span>'


def gallery(config: RunConfig, method: Method) -> Section:
    """Stored samples beside the views of the run's first epoch, or its clips, which play, or its sounds, which can be
    heard; empty for a method of texts."""
    heading = "What the method sees"
    if isinstance(method.inputs, ClipSpec):
        return playing(config, method.inputs)
    if isinstance(method.inputs, SoundSpec):
        return heard(config, method.inputs)
    if not isinstance(method.inputs, ViewSpec):
        return Section(heading, "", "")
    try:
        with open_shards(config.data) as shards:
            rows = augmented(shards, method.inputs, count=GALLERY_SAMPLES, seed=config.seed)
    except (ShardError, UserError, OSError) as error:
        return Section(heading, missing(config.data, error), "")
    samples = ""
    for shown in rows:
        pictures = [(shown.original, f"stored, {shown.key}"), *zip(shown.views, shown.captions, strict=True)]
        figures = "".join(
            f'<figure><img src="{png_uri(picture)}" alt=""><figcaption>{escape(text)}</figcaption></figure>'
            for picture, text in pictures
        )
        samples += f'<div class="sample">{figures}</div>'
    note = "Each sample as stored, then its views of epoch 0. The numbers draw the same view again, on any engine."
    return Section(heading, note, f'<div class="gallery">{samples}</div>')


def playing(config: RunConfig, inputs: ClipSpec) -> Section:
    """Clips of the run's first epoch, in motion."""
    heading = "What the method sees"
    try:
        with open_shards(config.data) as shards:
            (one,) = delivered(shards, inputs, count=GALLERY_SAMPLES, seed=config.seed).values()
            shown = animated(clips_of(one))
    except (ShardError, UserError, OSError) as error:
        return Section(heading, missing(config.data, error), "")
    figure = f'<figure class="row"><img src="{webp_uri(shown)}" alt=""><figcaption>clips</figcaption></figure>'
    return Section(heading, "Clips of epoch 0, with the numbers that drew them.", figure)


def heard(config: RunConfig, inputs: SoundSpec) -> Section:
    """Some sounds of the run's first epoch, to be heard, with their spectrograms."""
    heading = "What the method hears"
    try:
        from headrace.tools.pictures.pages import SOUNDS_NOTE, sound_sections  # needs an extra

        with open_shards(config.data) as shards:
            found = delivered(shards, inputs, count=HEARD_SAMPLES, seed=config.seed)
            sounds = sound_sections(shards, list(found.values()))
    except (ShardError, UserError, OSError, ImportError) as error:
        return Section(heading, missing(config.data, error), "")
    html = "".join(f"<h3>{escape(each.heading)}</h3>{each.html}" for each in sounds)
    return Section(heading, SOUNDS_NOTE, html)


def resolved_config(runs: Mapping[str, Path]) -> str:
    """config.yaml of every run."""
    texts = {name: redact((run / "config.yaml").read_text(encoding="utf-8")) for name, run in runs.items()}
    return "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in texts.items()
    )


def environment() -> list[tuple[str, str]]:
    """Machine and versions."""
    import torch

    packages = ("headrace", "torch", "torchvision", "timm", "numpy", "numba", "simplejpeg", "scikit-learn")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return [
        ("processor", f"{processor()}, {cores()} cores for this process"),
        ("threads of torch", str(torch.get_num_threads())),
        ("GPU", gpu),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        ("packages", ", ".join(f"{name} {version(name)}" for name in packages)),
    ]
