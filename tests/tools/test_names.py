"""Names that somebody else made up, on their way to a terminal: markup, escape sequences, bytes that are no text."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from headrace.shards import Field, write_shards
from headrace.tools import progress
from headrace.tools.cli import main
from headrace.tools.upkeep.inspect import inspect_shards

ESCAPES = "a\x1b]0;owned\x07\x1b[31m"
CAFE = os.fsdecode(b"caf\xe9")


def jpeg(value: int) -> bytes:
    random = np.random.Generator(np.random.Philox(value))
    stream = io.BytesIO()
    pixels = np.kron(random.integers(0, 255, (4, 4, 3)), np.ones((12, 12, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """As an old program did, with names in whatever encoding."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def headrace(*arguments: object) -> str:
    """What it prints where the terminal knows UTF-8 and nothing else."""
    program = "import sys; from headrace.tools.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, env=environment)
    assert done.returncode in (0, 1), done.stderr.decode()
    assert b"\x1b" not in done.stdout + done.stderr
    return (done.stdout + done.stderr).decode()


def test_brackets_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = ("[red] panda", "panda [bold]", "[/INST] reply", ESCAPES)
    samples = [{"__key__": str(i), "label": i % 4} for i in range(8)]
    path = tmp_path / "out[v2]"
    write_shards(
        path, samples, {"label": Field(kind="int", classes=classes)}, provenance={"src": "[blink]", "source": "[/x]"}
    )
    for text in (str(inspect_shards(path)), headrace("inspect", path)):
        assert "out[v2]: 8 samples" in text
        assert all(name in text for name in classes[:3])
        assert r"a\x1b]0;owned\x07\x1b[31m" in text
        assert "made from src [blink], source [/x]" in text


def test_the_title_of_a_bar_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, width=160)
    monkeypatch.setattr(progress, "progress_console", console)
    with progress.sample_bar(f"[/INST] {ESCAPES}", total=3) as bar:
        bar(3)
    progress.say(f"[red] {ESCAPES}")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert r"[/INST] a\x1b]0;owned\x07" in text
    assert r"[red] a\x1b]0;owned\x07" in text
    assert "\x1b]0" not in text


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "one" / "a.tar", {f"{CAFE}.jpg": jpeg(1), "b.jpg": jpeg(1), f"{ESCAPES}.jpg": jpeg(2)})
    two = write_tar(tmp_path / "two" / "a.tar", {f"{CAFE}.jpg": jpeg(1), f"{CAFE}2.jpg": jpeg(3)})
    assert "ok, 3 samples" in headrace("verify", one)
    text = headrace("verify", one, two)
    assert rf"key caf\xe92: only in {two}" in text
    assert r"key a\x1b]0;owned\x07\x1b[31m: only in" in text
    pairs = tmp_path / "pairs.jsonl"
    text = headrace("inspect", one, "--duplicates", "--pairs", pairs, "--sheet", tmp_path / "pairs.png")
    assert rf"{one} caf\xe9  =  {one} b" in text
    assert '"key_a": "caf\\udce9"' in pairs.read_text(encoding="utf-8")
    headrace("inspect", one, "--duplicates", "--pairs", tmp_path / "pairs.csv")
    assert b",caf\xe9," in (tmp_path / "pairs.csv").read_bytes(), "the name as it is"


def test_pictures_with_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor what matplotlib takes for mathematics."""
    one = write_tar(tmp_path / "$x$ {" / "a.tar", {f"{CAFE} 猫 $a$b$.jpg": jpeg(1), f"{ESCAPES} $\\frac$.jpg": jpeg(2)})
    out = tmp_path / "views.png"
    command = ["show", "views", str(one), "--method", "simclr_digits", "--samples", "2", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"{out}\n", "")
    assert out.stat().st_size > 1000


def test_errors_and_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["inspect", f"nowhere{ESCAPES}"], ["show", f"views{ESCAPES}"], ["inspect", "x", f"--{ESCAPES}"]):
        assert main(arguments) != 0
        printed = capsys.readouterr().err
        assert "\x1b" not in printed
        assert len(printed.splitlines()) == 1
    text = headrace("verify", tmp_path / os.fsdecode(b"caf\xe9"))
    assert r"caf\xe9: there is no such file" in text


def test_damaged_samples_with_odd_names(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{ESCAPES}.jpg": jpeg(1)[:300], f"{CAFE}.jpg": jpeg(2)[:300]})
    text = headrace("verify", path)
    assert r"key a\x1b]0;owned\x07\x1b[31m" in text
    assert "2 problems" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "views", "--method", "simclr", "--out", "x.png"],
        ["show", "masks", "--method", "mae", "--out", "x.png"],
        ["inspect", "--sheet", "x.png"],
        ["inspect", "--duplicates"],
        ["doctor", "--method", "simclr"],
    ],
)
def test_a_set_that_has_not_what_is_asked_for(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "set", [{"__key__": "a", "label": 1}], {"label": Field(kind="int")})
    command = arguments[:2] if arguments[0] == "show" else arguments[:1]
    assert main([*command, str(tmp_path / "set"), *arguments[len(command) :]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Error" not in line
    assert f"{tmp_path / 'set'}" in line
    assert "has no images" in line


def test_warnings_are_sentences(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.jpg": jpeg(1), "a.txt": b"one", "b.jpg": jpeg(2)})
    lines = headrace("inspect", path).splitlines()
    (said,) = (line for line in lines if line.startswith("headrace inspect: warning: "))
    assert "txt" in said
    assert not any("UserWarning" in line or ".py" in line for line in lines)
