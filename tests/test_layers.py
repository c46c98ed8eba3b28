"""What the folders may do: imports run one way, randomness is an argument, no path of a machine is written down."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("shards", "pipeline", "models", "train", "tools")
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]

# Constructors that take a seed are fine; everything else under these names shares hidden state.
SEEDED = {"Generator", "Philox", "PCG64", "SeedSequence", "default_rng"}
TORCH_GLOBAL = re.compile(r"torch\.(random\.)?(manual_seed|seed|set_rng_state)")
SEEDING = Path("models/seeding.py")  # sets torch's default generator inside a block and puts it back


def each(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", files, ids=lambda path: path.relative_to(ROOT).as_posix())


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that `tree` imports anywhere, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(source: str, layer: str) -> list[str]:
    """Imports that a file of `layer` must not make."""
    allowed = {f"headrace.{name}" for name in LAYERS[: LAYERS.index(layer) + 1]}
    found = []
    for name in imported(ast.parse(source)):
        parts = name.split(".")
        rightward = parts[0] == "headrace" and len(parts) > 1 and ".".join(parts[:2]) not in allowed
        if rightward or parts[0] in {*LAYERS, "benchmarks", "tests"}:
            found.append(name)
    return found


def dotted(node: ast.expr) -> str:
    """`a.b.c` for an attribute chain, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def global_randomness(source: str) -> list[str]:
    """Uses of generators that nobody passed in: numpy's legacy functions, module `random`, torch's default one."""
    tree = ast.parse(source)
    found = [name for name in imported(tree) if name == "random" or name.startswith(("random.", "numpy.random."))]
    found = [name for name in found if name.split(".")[-1] not in SEEDED]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            legacy = re.match(r"(np|numpy)\.random\.(\w+)", name)
            if legacy and legacy[2] not in SEEDED:
                found.append(name)
            if TORCH_GLOBAL.fullmatch(name):
                found.append(name)
    return found


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(LAYERS)


@each(FILES)
def test_imports_run_leftward(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), path.relative_to(ROOT).parts[0]) == []


def test_a_rightward_import_is_seen() -> None:
    assert violations("from headrace.train import loop", "models") == [
        "headrace.train",
        "headrace.train.loop",
    ]
    assert violations("def f():\n    import headrace.benchmarks.loader", "tools") == ["headrace.benchmarks.loader"]
    assert violations("from headrace import tools", "shards") == ["headrace.tools"]
    assert violations("import tests.helpers", "tools") == ["tests.helpers"]
    assert violations("from headrace.shards import open_shards\nimport numpy", "pipeline") == []


@each([path for path in FILES if path.relative_to(ROOT) != SEEDING])
def test_no_global_randomness(path: Path) -> None:
    assert global_randomness(path.read_text(encoding="utf-8")) == []


def test_global_randomness_is_seen() -> None:
    assert global_randomness("import numpy as np\nnp.random.seed(0)") == ["np.random.seed"]
    assert global_randomness("import random") == ["random"]
    assert global_randomness("from numpy.random import rand") == ["numpy.random.rand"]
    assert global_randomness("torch.random.manual_seed(0)") == ["torch.random.manual_seed"]
    assert global_randomness("import numpy as np\nnp.random.default_rng(0).random()") == []


MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|tmp)/[\w.]")


@each(
    [
        *FILES,
        *sorted((ROOT / "benchmarks").rglob("*.py")),
        ROOT / "Makefile",
        ROOT / ".ci" / "run",
        ROOT / "README.md",
    ]
)
def test_no_machine_paths(path: Path) -> None:
    assert MACHINE_PATH.findall(path.read_text(encoding="utf-8")) == []


def test_the_command_line_starts_without_torch() -> None:
    """`headrace --help` answers at once because commands import what they need when they run."""
    heavy = ("torch", "numba", "numpy", "matplotlib", "rich")
    code = f"import sys, headrace.tools.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
