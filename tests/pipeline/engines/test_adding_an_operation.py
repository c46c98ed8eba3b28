"""The page that adds an operation: its three edits, applied to a copy of Headrace, give the same pixels by the native
kernels and by the reference."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.pipeline.engines import ENGINES, operations_of

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
FILES = ["pipeline/images/view.py", "pipeline/engines/kernels.py", "pipeline/engines/torchvision.py"]

USE = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
import numpy as np
import torch
import headrace.pipeline
assert headrace.pipeline.__file__.startswith(sys.argv[1]), headrace.pipeline.__file__
from headrace.pipeline import View, ViewSpec, plan
from headrace.pipeline.engines import ENGINES, kernels, torchvision
from headrace.pipeline.images.view import settings

ids, sizes = np.arange(12), np.full((12, 2), 24)
view = View(size=24, posterize=0.6, solarize=0.5, grayscale=0.3, order=("posterize", "solarize", "grayscale"))
spec = ViewSpec([view, replace(view, order=("solarize", "grayscale", "posterize"))])
drawn = plan(spec, 3, 0, ids, sizes)
kept = drawn.posterize.ravel().tolist()
assert set(kept) <= {0, 2, 3, 4, 5, 6} and 0 < kept.count(0) < 24, kept
without = plan(ViewSpec([replace(view, posterize=0.0)] * 2), 3, 0, ids, sizes)
for name in without.draws.dtype.names:
    assert name == "posterize" or np.array_equal(getattr(without, name), getattr(drawn, name)), name

numbers = settings(spec.views)
for v, view in enumerate(spec.views):
    for i in ids:
        image = np.random.default_rng(i).integers(0, 256, (3, 24, 24)).astype(np.uint8)
        theirs = torch.from_numpy(image.copy())
        for name in view.operations:
            kernels.operate(kernels.CODES[name], image, numbers[v], drawn.draws[i, v], np.empty(24 * 32, np.int16))
            theirs = torchvision.OPERATORS[name](theirs, drawn.draws[i, v], view)
        assert np.array_equal(image, theirs.numpy())

ENGINES["native"](None, "image", spec)
for engine in sys.argv[2:]:
    try:
        ENGINES[engine](None, "image", spec)
    except ValueError as error:
        assert str(error).startswith(f"engine {engine!r} has no operation 'posterize' (View.posterize); use native or ")
    else:
        raise AssertionError(engine)
print("the same pixels")
"""


def edited(source: str, hunks: str) -> str:
    for hunk in hunks.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    return source


def test_the_pages_three_edits_add_an_operation(tmp_path: Path) -> None:
    for package in ("pipeline", "shards"):
        shutil.copytree(ROOT / package, tmp_path / "headrace" / package)
    edits = re.findall(r"^```diff\n--- (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert [file for file, _ in edits] == FILES
    for file, hunks in edits:
        path = tmp_path / "headrace" / file
        path.write_text(edited(path.read_text(encoding="utf-8"), hunks), encoding="utf-8")
    lacking = [name for name in ("dali", "kornia") if installed(name)]
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path), *lacking],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stdout == "the same pixels\n", done.stderr


def installed(engine: str) -> bool:
    try:
        return bool(operations_of(engine))
    except ImportError:
        return False


def test_the_page_says_which_operations_engines_have() -> None:
    rows = re.findall(r"^\| (`native`.*) \| (`jitter`.*) \|$", PAGE, re.MULTILINE)
    said = {name: set(re.findall(r"`(\w+)`", has)) for names, has in rows for name in re.findall(r"`([\w+]+)`", names)}
    assert set(said) == set(ENGINES)
    for engine in filter(installed, ENGINES):
        assert said[engine] == operations_of(engine)


@pytest.mark.parametrize("hunk", [" nowhere\n+new\n", " import re\n+new\n"])
def test_an_edit_that_does_not_fit_is_found(hunk: str) -> None:
    with pytest.raises(AssertionError):
        edited("import re\nimport re\n", hunk)
