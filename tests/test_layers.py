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


WINGS = {
    "shards.formats": set(),
    "shards.writing": {"shards.formats"},
    "shards.remote": {"shards.writing"},
    "pipeline.order": set(),
    "pipeline.texts": {"pipeline.order"},
    "pipeline.jpeg": set(),
    "pipeline.masks": set(),
    "pipeline.images": {"pipeline.jpeg", "pipeline.masks", "pipeline.order"},
    "pipeline.corruptions": set(),
    "pipeline.clips": {"pipeline.images", "pipeline.masks"},
    "pipeline.sounds": {"pipeline.images", "pipeline.masks"},
    "pipeline.engines": {"pipeline.clips", "pipeline.images", "pipeline.jpeg"},
    "pipeline.feeds": {
        "pipeline.clips",
        "pipeline.engines",
        "pipeline.images",
        "pipeline.masks",
        "pipeline.order",
        "pipeline.sounds",
        "pipeline.texts",
    },
    "models.parts": set(),
    "models.losses": {"models.parts"},
    "models.methods": {"models.parts", "models.losses"},
    "train.captions": set(),
    "train.dense": {"train.probes"},
    "train.settings": set(),
    "train.encoders": {"train.weights"},
    "train.guard": set(),
    "train.optimizers": set(),
    "train.probes": {"train.optimizers"},
    "train.recipes": {"train.settings"},
    "train.weights": set(),
    "tools.media": set(),
    "tools.sources": {"tools.media"},
    "tools.conversion": {"tools.media", "tools.sources"},
    "tools.upkeep": {"tools.media"},
    "tools.evaluation": set(),
    "tools.exporting": set(),
    "tools.pictures": {"tools.evaluation"},
    "tools.commands": {
        "tools.sources",
        "tools.conversion",
        "tools.evaluation",
        "tools.exporting",
        "tools.upkeep",
        "tools.pictures",
    },
}
"""Which wing of a folder may import which other wing of it. All may import modules that lie in the folder itself."""


def module_name(path: Path) -> str:
    """shards/formats/npy.py is headrace.shards.formats.npy."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("headrace", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def imports_between(sources: dict[str, str]) -> dict[str, set[str]]:
    """For each module, by its name, the others of `sources` that it imports anywhere in it."""
    return {
        module: {name for name in imported(ast.parse(source)) if name in sources and name != module}
        for module, source in sources.items()
    }


def circles(graph: dict[str, set[str]]) -> list[str]:
    """A module of each circle of imports, with the next one on it."""
    found, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph[module]):
                visit(other, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def wing(module: str) -> str:
    """shards.formats of headrace.shards.formats.npy, "" of headrace.shards.index."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in WINGS else ""


def strangers(graph: dict[str, set[str]]) -> list[str]:
    """Imports between wings of one folder that `WINGS` does not allow."""
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if wing(module)
        and wing(other) not in {"", wing(module), *WINGS[wing(module)]}
        and module.split(".")[1] == other.split(".")[1]
    ]


GRAPH = imports_between({module_name(path): path.read_text(encoding="utf-8") for path in FILES})


def test_there_is_no_circle_of_imports() -> None:
    """Not even one that a function's own import leaves open until it is called."""
    assert circles(GRAPH) == []


def test_a_circle_is_seen() -> None:
    sources = {"a": "import b", "b": "def f():\n    from c import g", "c": "import a", "d": "import a"}
    assert circles(imports_between(sources)) == ["a -> b -> c -> a"]


def test_wings_import_those_that_they_may() -> None:
    assert strangers(GRAPH) == []
    on_disk = {wing(module) for module in GRAPH} - {""}
    assert on_disk == set(WINGS)


def test_a_wing_that_imports_a_stranger_is_seen() -> None:
    graph = {"headrace.shards.formats.npy": {"headrace.shards.writing.writer", "headrace.shards.index"}}
    assert strangers(graph) == ["headrace.shards.formats.npy imports headrace.shards.writing.writer"]


@pytest.mark.parametrize("layer", LAYERS)
def test_no_room_is_crowded(layer: str) -> None:
    assert len(list((ROOT / layer).glob("*.py"))) <= 20


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
