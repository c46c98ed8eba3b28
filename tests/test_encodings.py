"""Text is written and read as UTF-8 whatever the locale: whoever opens it says so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "models", "pipeline", "shards", "tests", "tools", "train")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

TEXT = re.compile(r"[rwax]\+?t?\+?")
# Functions whose mode says whether they take text: where it stands, and what it is where it is left out.
OPENING = {"open": (1, "r"), "io.open": (1, "r"), "fdopen": (1, "r"), "TemporaryFile": (0, "w+b")}
OPENING |= {"NamedTemporaryFile": (0, "w+b"), "SpooledTemporaryFile": (1, "w+b")}
READING = {"read_text": 0, "write_text": 1}  # methods, and where they take an encoding by place


def is_text(mode: ast.expr | None, otherwise: str) -> bool:
    """Whether a mode is certainly one of text."""
    value = otherwise if mode is None else mode.value if isinstance(mode, ast.Constant) else ""
    return isinstance(value, str) and TEXT.fullmatch(value) is not None


def without_encoding(source: str) -> Iterator[int]:
    """Lines that read or write text in the locale's encoding."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if "encoding" in given or None in given:
            continue
        whole = ast.unparse(call.func)
        name = whole.rpartition(".")[2]
        if name in READING:
            bare = len(call.args) <= READING[name] and "." in whole
        elif whole in OPENING or (name in OPENING and name != "open"):
            place, otherwise = OPENING.get(whole) or OPENING[name]
            bare = is_text(given.get("mode", call.args[place] if len(call.args) > place else None), otherwise)
        elif name == "open":  # a method: of a path, or of an archive, a URL, a video
            mode = given.get("mode", call.args[0] if call.args else None)
            bare = is_text(mode, "" if given else "r")
        else:
            bare = name in ("run", "Popen", "check_output") and "text" in given
        if bare:
            yield call.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_has_an_encoding(path: Path) -> None:
    assert list(without_encoding(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "call",
    [
        "open(path)",
        "open(path, 'w')",
        "open(path, mode='a+')",
        "path.open()",
        "path.open('x')",
        "(folder / 'a').read_text()",
        "path.read_text(errors='replace')",
        "path.write_text(text)",
        "os.fdopen(number, 'w')",
        "tempfile.NamedTemporaryFile('w', delete=False)",
        "subprocess.run(command, text=True)",
    ],
)
def test_calls_that_follow_the_locale_are_seen(call: str) -> None:
    assert list(without_encoding(call)) == [1]


@pytest.mark.parametrize(
    "call",
    [
        "open(path, 'rb')",
        "open(path, encoding='utf-8')",
        "path.open('wb')",
        "path.open('w', encoding='utf-8')",
        "Image.open(path)",
        "archive.open(name)",
        "os.open(path, os.O_RDONLY)",
        "path.read_text('utf-8')",
        "path.write_text(text, 'utf-8')",
        "tempfile.TemporaryFile()",
        "open(path, mode)",
        "subprocess.run(command, capture_output=True)",
        "subprocess.run(command, encoding='utf-8')",
        "run(**options)",
    ],
)
def test_others_are_not(call: str) -> None:
    assert list(without_encoding(call)) == []
