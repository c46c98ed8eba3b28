"""Pages: examples are Python and close what they open, links lead somewhere, extras are those that there are."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def examples(text: str) -> Iterator[ast.Module]:
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield ast.parse(block.replace("…", "..."))


def left_open(tree: ast.Module) -> list[int]:
    """Lines that make a loader outside of a `with`."""
    closed = {id(item.context_expr) for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.items}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Loader" and id(node) not in closed
    ]


def test_a_loader_that_nobody_closes_is_found() -> None:
    (tree,) = examples(
        "```python\nwith open_shards(a) as b, Loader(b) as c:\n    Loader(b)\nfor d in Loader(b): ...\n```\n"
    )
    assert sorted(left_open(tree)) == [2, 3]


@each_page
def test_examples_are_python_and_close_their_loaders(page: Path) -> None:
    assert [line for tree in examples(page.read_text(encoding="utf-8")) for line in left_open(tree)] == []


@each_page
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inner = [link.partition("#")[0] for link in links if "://" not in link]
    assert [link for link in inner if link and not (page.parent / link).exists()] == []


def test_the_readme_lists_all_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"is an extra: (.*?)\.\n\n", text, re.DOTALL)
    assert sorted(re.findall(r"\[(\w+)\]", listed)) == sorted(extras)
