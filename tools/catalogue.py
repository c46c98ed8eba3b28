"""What there is to train, in words: `headrace methods`, and the page docs/methods.md."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import groupby
from typing import Any

import torch
from rich.table import Column, Table

from headrace.models import METHODS, MethodEntry, build_method
from headrace.pipeline import (
    Clip,
    ClipSpec,
    Inputs,
    Mixed,
    Other,
    PackedTextSpec,
    Sound,
    SoundSpec,
    TextSpec,
    View,
    ViewSpec,
)
from headrace.pipeline.sounds.sounds import EFFECTS
from headrace.train.recipes import RECIPES

WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class ConfigField:
    """A key of a method's configuration, behind `--model.`."""

    key: str
    """Dotted where a field is a dataclass itself."""
    type: str
    default: str
    doc: str


def inputs_of(name: str, config: Any = None) -> Inputs:
    """What the method `name` asks for, with its defaults or with `config`. Its networks are laid out, not made."""
    with torch.device("meta"):
        return build_method(name, config).inputs


def recipes_of(name: str) -> list[str]:
    """Names of the recipes that train the method `name`."""
    return [recipe for recipe, config in RECIPES.items() if config().method == name]


def summary(name: str) -> dict[str, Any]:
    """A line of the table, as `--json` prints it."""
    return {
        "name": name,
        "family": METHODS[name].family,
        "inputs": _inputs(name),
        "paper": METHODS[name].paper,
        "recipes": recipes_of(name),
    }


def _inputs(name: str) -> str:
    """`in_words`, or which library the method is missing."""
    try:
        return in_words(inputs_of(name))
    except ImportError as error:
        return f"not known: {error}"


def in_full(name: str) -> dict[str, Any]:
    """All that is known of a method: `summary` and more."""
    entry = METHODS[name]
    return summary(name) | {
        "title": entry.title,
        "followed": entry.followed,
        "deviates": entry.deviates,
        "config": [vars(field) for field in config_fields(entry.config())],
    }


def table() -> Table:
    """Every method, for a terminal."""
    made = Table(Column("method", no_wrap=True), "family", "inputs", "paper", "recipes")
    for name in METHODS:
        found = summary(name)
        made.add_row(name, found["family"], found["inputs"], found["paper"], ", ".join(found["recipes"]))
    return made


def text(name: str) -> str:
    """A method in full, for a terminal."""
    entry, inputs = METHODS[name], inputs_of(name)
    told = {
        "family": entry.family,
        "paper": entry.link or entry.paper,
        "followed": entry.followed,
        "deviates": entry.deviates or "in nothing that is known",
        "recipes": ", ".join(recipes_of(name)) or "none",
        "inputs": in_words(inputs),
    }
    lines = [f"{name}: {entry.title}", "", *_columns(told.items(), indent=0), "", *drawn(inputs)]
    lines += ["", f"configuration: headrace train {name} --model.KEY VALUE", ""]
    for field in config_fields(entry.config()):
        lines += wrapped(f"{field.key}: {field.type} = {field.default}", "  ", "    ")
        lines += wrapped(field.doc, "      ")
    return "\n".join(lines)


def markdown() -> str:
    """docs/methods.md."""
    lines = [
        "# Methods",
        "",
        "Generated from `headrace.models.METHODS` by `headrace methods --markdown > docs/methods.md`.",
        "`headrace methods NAME` says more of one: its views, and every key of its configuration with its default.",
        "[How to add one](adding_a_method.md).",
        "",
        *wrapped(attribute_docs(MethodEntry)["family"][1], ""),
        "",
        "| method | family | inputs | paper | numbers and algorithm from | what deviates, and why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, entry in METHODS.items():
        title = re.sub(r" \((arXiv|ICML) [^)]*\)", "", entry.title).removesuffix(".")
        paper = f"[{entry.paper}]({entry.link})" if entry.link else entry.paper
        cells = f"`{name}`<br>{title}", entry.family, in_words(inputs_of(name)), paper, entry.followed, entry.deviates
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


# Inputs


def in_words(inputs: Inputs) -> str:
    """Such as "2 views of 224", "2 of 224 + 8 of 96" or "1 view of 224, random mask"."""
    if isinstance(inputs, Mapping):
        return " + ".join(in_words(stream) for stream in inputs.values())
    if isinstance(inputs, Other | Mixed):
        return f"{in_words(inputs.spec)}, {'mixed with' if isinstance(inputs, Mixed) else 'of'} another sample"
    if isinstance(inputs, PackedTextSpec):
        return ", ".join([f"texts packed into blocks of {inputs.length} tokens", *_mask_words(inputs.masks)])
    if isinstance(inputs, TextSpec):
        return ", ".join([f"text of {inputs.length} tokens", *_mask_words(inputs.masks)])
    if isinstance(inputs, ClipSpec):
        what, kinds = "clip", [f"{clip.frames} frames of {clip.view.size}" for clip in inputs.clips]
    elif isinstance(inputs, SoundSpec):
        what, kinds = "sound", [_length(sound) for sound in inputs.sounds]
    else:
        what, kinds = "view", [str(view.size) for view in inputs.views]
    groups = [(len(list(same)), kind) for kind, same in groupby(kinds)]
    if len(groups) == 1:
        ((number, kind),) = groups
        words = f"{number} {what}{'s' * (number > 1)} of {kind}"
    else:
        words = " + ".join(f"{number} of {kind}" for number, kind in groups)
    parts = [words, *_mask_words(inputs.masks)]
    if isinstance(inputs, ViewSpec) and len(kinds) > 1 and len(set(inputs.draws)) == 1:
        parts.append("of one draw")
    return ", ".join(parts)


def drawn(inputs: Inputs) -> list[str]:
    """The views, clips, masks and texts of a method, an operation a line."""
    lines: list[str] = []
    if isinstance(inputs, Mapping):
        for name, stream in inputs.items():
            lines += [name, *(f"  {line}" for line in drawn(stream))]
    elif isinstance(inputs, Other | Mixed):
        lines += [in_words(inputs), *(f"  {line}" for line in drawn(inputs.spec))]
    elif isinstance(inputs, TextSpec | PackedTextSpec):
        lines += ["text", *_columns(_settings(inputs), indent=2)]
    else:
        what, each = _parts(inputs)
        first = 1
        for part, same in groupby(each):
            last = first + len(list(same)) - 1
            lines.append(f"{what} {first}" if first == last else f"{what}s {first} to {last}")
            lines += _columns(operations(part), indent=2)
            first = last + 1
        if isinstance(inputs, ViewSpec):
            shared = [(view, draw) for view, draw in enumerate(inputs.draws) if view != draw]
            lines += [f"view {view + 1} takes the draws of view {draw + 1}" for view, draw in shared]
        if isinstance(inputs, ClipSpec) and len(inputs) > 1:
            between = f", {inputs.interval} frames between them" if inputs.starts == "row" else ""
            lines.append(f"starts {inputs.starts}{between}" + ", one in disorder" * inputs.odd)
        for mask in inputs.masks:
            lines += [_words(mask), *_columns(_settings(mask), indent=2)]
    return lines


def _parts(inputs: ViewSpec | ClipSpec | SoundSpec) -> tuple[str, Sequence[View | Clip | Sound]]:
    """What the parts are called, and they."""
    if isinstance(inputs, SoundSpec):
        return "sound", inputs.sounds
    return ("clip", inputs.clips) if isinstance(inputs, ClipSpec) else ("view", inputs.views)


def _length(sound: Sound) -> str:
    """Such as "10.24 s in 1024 frames of 128 bands" or "2 s at 16000 Hz"."""
    seconds = f"{sound.samples / sound.rate:.4g} s"
    if sound.mel is None:
        return f"{seconds} at {sound.rate} Hz"
    return f"{seconds} in {sound.mel.frames(sound.samples)} frames of {sound.mel.bins} bands"


def operations(part: View | Clip | Sound) -> Iterator[tuple[str, str]]:
    """Each operation of a view, clip or sound that is on, and how, in the order in which they apply."""
    if isinstance(part, Sound):
        plain = ("mel", *EFFECTS, *(["normalize"] if not part.normalize else []))
        yield from ((key, value) for key, value in _settings(part) if key not in plain)
        if part.mel is not None:
            yield "spectrogram", ", ".join(f"{key} {value}" for key, value in _settings(part.mel))
        for name in EFFECTS:
            if (effect := getattr(part, name)) is not None:
                yield name, ", ".join(f"{key} {value}" for key, value in _settings(effect))
        return
    if isinstance(part, Clip):
        yield from ((key, value) for key, value in _settings(part) if key != "view")
        yield from operations(part.view)
        return
    view = part
    if view.scale == view.ratio == (1.0, 1.0):
        crop = "the largest centred square"
    else:
        crop = f"{_range(view.scale)} of the area, width to height {_range(view.ratio)}"
    yield "crop", f"{crop}, resized to {view.size} pixels, {view.interpolation}"
    strengths = (f"{name} {getattr(view, name):.3g}" for name in ("brightness", "contrast", "saturation", "hue"))
    how = {
        "jitter": ", ".join(strengths),
        "blur": f"deviation {_range(view.blur_sigma)} pixels, {view.blur_taps} taps",
        "solarize": f"from level {view.solarize_threshold}",
        "erase": f"{_range(view.erase_scale)} of the area, height to width {_range(view.erase_ratio)}",
    }
    if view.flip:
        yield "flip", f"probability {view.flip:.3g}"
    if view.turns != (0,):
        yield "turn", f"{' or '.join(map(str, view.turns))} quarters, counter-clockwise"
    for name in view.operations:
        yield name, f"probability {getattr(view, name):.3g}" + (f": {how[name]}" if name in how else "")
    yield "normalize", ", ".join(f"{key} {value}" for key, value in _settings(view.normalize))


def _range(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _mask_words(masks: tuple[Any, ...]) -> list[str]:
    """Such as ["tube block masks"] for two of a kind."""
    groups = ((words, len(list(same))) for words, same in groupby(map(_words, masks)))
    return [f"{words}s" if number > 1 else words for words, number in groups]


def _words(value: object) -> str:
    """ "random mask" for a RandomMask."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(value).__name__).lower()


def _settings(value: Any) -> Iterator[tuple[str, str]]:
    """Names and values of a dataclass's fields."""
    for field in fields(value):
        yield field.name, _short(getattr(value, field.name))


# Configurations


def config_fields(config: Any, prefix: str = "") -> Iterator[ConfigField]:
    """Each field of a dataclass, inherited ones and those of dataclasses in it included; defaults are `config`'s."""
    docs = attribute_docs(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        kind, doc = docs[field.name]
        yield ConfigField(key=prefix + field.name, type=kind, default=_short(value), doc=doc)
        if is_dataclass(value):
            yield from config_fields(value, f"{prefix}{field.name}.")


def attribute_docs(cls: type[Any]) -> dict[str, tuple[str, str]]:
    """For each annotated attribute of a class or its bases: its type, and the text below it in the source."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ in ("builtins", "typing") or not hasattr(base, "__annotations__"):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                doc = ""
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    doc = " ".join(str(below.value.value).split())
                found[node.target.id] = ast.unparse(node.annotation), doc
    return found


def _short(value: Any) -> str:
    """As Python writes it; of a dataclass only what is not its default, of a float six digits."""
    if is_dataclass(value) and not isinstance(value, type):
        changed = [field.name for field in fields(value) if getattr(value, field.name) != _default(field)]
        return f"{type(value).__name__}({', '.join(f'{name}={_short(getattr(value, name))}' for name in changed)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))}{',' * (len(value) == 1)})"
    return f"{value:.6g}" if isinstance(value, float) and not value.is_integer() else repr(value)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def keys_of(config: Any, part: str = "") -> list[ConfigField]:
    """The fields of a run's configuration that are no groups themselves; with `part` those of one group, or one key.

    Raises:
        KeyError: if there is no such part; its argument is all that there are.
    """
    found = list(config_fields(config))
    groups = {each.key.rpartition(".")[0] for each in found}
    kept = [each for each in found if not part or each.key == part or each.key.startswith(f"{part}.")]
    if not kept:
        raise KeyError([*dict.fromkeys([*groups - {""}, *(each.key for each in found)])])
    return [each for each in kept if each.key not in groups]


# Lines


def _columns(rows: Iterable[tuple[str, str]], indent: int) -> list[str]:
    """A word and what it is, a line each."""
    lines = []
    for key, value in rows:
        start = f"{' ' * indent}{key:<13} "
        lines += wrapped(value, start, " " * len(start))
    return lines


def wrapped(words: str, first: str, rest: str | None = None) -> list[str]:
    """Lines of `WIDTH`, the first behind `first`, the others behind `rest`, by default the same."""
    return textwrap.wrap(
        words,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
