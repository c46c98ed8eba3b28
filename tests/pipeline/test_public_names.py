"""The names of `headrace.pipeline`, which are imported when they are asked for."""

import subprocess
import sys

import pytest

import headrace.pipeline

FIRST = ("import headrace.pipeline.order.order", "from headrace.pipeline import Loader", "pass")


def test_every_public_name_is_there() -> None:
    assert sorted(headrace.pipeline._HOMES) == headrace.pipeline.__all__
    for name in headrace.pipeline.__all__:
        value = getattr(headrace.pipeline, name)
        assert getattr(value, "__name__", name) in (name, "Inputs", "Spec", "UnionType", "Union")
    with pytest.raises(AttributeError, match=r"module 'headrace.pipeline' has no attribute 'Lader'"):
        headrace.pipeline.Lader  # noqa: B018


@pytest.mark.parametrize("first", FIRST)
def test_order_is_the_function_whatever_was_imported_before(first: str) -> None:
    code = f"{first}\nfrom headrace.pipeline import order\nprint(len(order(0, 0, 5).share(0, 5, 0, 1)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout == "5\n", done.stderr


def test_functions_of_pictures_load_no_torch() -> None:
    code = "import sys, headrace.pipeline.images.decode\nprint([n for n in ('torch', 'numba') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout == "[]\n", done.stderr
