"""No credential in anything that is shown or written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.shards import open_shards, write_shards
from headrace.shards.remote.remote import RemoteFolder, Retry, has_secrets, redact
from headrace.shards.remote.remote_set import cache_name
from headrace.tools.cli import FAILED, USAGE, main
from tests.conftest import DIGIT_FIELDS, digit_samples
from tests.shards.remote_servers import folder_server

USER, PASSWORD, TOKEN = "alice-of-the-lab", "hunter2secret", "sv2022tokentoken"
SECRETS = (USER, PASSWORD, TOKEN)


def is_clean(text: str) -> bool:
    return not any(secret in text for secret in SECRETS)


pytestmark = pytest.mark.peer("aiohttp")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://{user}:{password}@host:80/set", "http://***@host:80/set"),
        ("http://{user}@host", "http://***@host"),
        ("http:/{user}:{password}@host/set", "http:/***@host/set"),  # out of a pathlib.Path
        ("s3://{user}:{password}/with/slashes@bucket/set", "s3://***@bucket/set"),
        ("s3://{user}:{password}@{token}@bucket/set", "s3://***@bucket/set"),
        ("http://{user}:{password}?{token}#x@host/set", "http://***@host/set"),
        ("http://host/set?sig={token}", "http://host/set?***"),
        ("a (http://{user}:{password}@a/b?{token}) and 's3://{user}@c'", "a (http://***@a/b?*** and 's3://***@c'"),
        ("http://host:80/a@b", "http://host:80/a@b"),
        ("s3://bucket/user@home/set", "s3://bucket/user@home/set"),
        ("/data/a@b:/c", "/data/a@b:/c"),
        ("C:/a@b", "C:/a@b"),
    ],
)
def test_what_is_shown_of_a_url(text: str, shown: str) -> None:
    text = text.format(user=USER, password=PASSWORD, token=TOKEN)
    assert redact(text) == shown
    assert has_secrets(text) == (text != shown)
    assert redact(shown) == shown


def test_options_are_not_shown() -> None:
    folder = RemoteFolder("memory://set", retry=Retry(tries=1), key=USER, client_kwargs={"secret_token": TOKEN})
    assert is_clean(repr(folder) + str(folder) + folder._clean(f"the server says: {USER} {TOKEN}"))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The URL, credentials and all, of a set of several shards, and its folder, in which a sample is bad."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HEADRACE_CACHE", str(work / "cache"))
    folder = tmp_path / "served" / "digits"
    write_shards(folder, digit_samples(30), DIGIT_FIELDS, format="webdataset", shard_size=300_000)
    with open_shards(folder) as shards:
        offset = int(shards.where(100, "image").split("offset ")[1].split(",")[0])
        name = shards.where(100, "image").split(",")[0]
    with open(folder / name, "r+b") as file:
        file.seek(offset + 10)
        file.write(b"damage")
    with folder_server(folder.parent) as url:
        yield url.replace("://", f"://{USER}:{PASSWORD}@") + "/digits", folder


def everything(folder: Path) -> str:
    """Names and contents of all files."""
    return "".join(
        f"{path}\n{path.read_bytes().decode('latin1') if path.is_file() else ''}" for path in folder.rglob("*")
    )


def test_nothing_that_is_shown_or_written_has_credentials(
    served: tuple[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, _ = served
    work = tmp_path / "work"
    runs: list[tuple[int, list[Any]]] = [
        (FAILED, ["shard", "shards", url, "out", "--workers", 1, "--shard-size", "200KB", "--max-rejects", 0]),
        (0, ["shard", "shards", url, "out", "--workers", 1, "--shard-size", "200KB"]),
        (FAILED, ["shard", "folder", url, "other"]),
        (FAILED, ["shard", "shards", url, url]),
        (FAILED, ["shard", "shards", f"{url}x", "other"]),
        (0, ["inspect", url]),
        (0, ["inspect", url, "--json"]),
        (0, ["inspect", "out"]),
        (FAILED, ["verify", url]),
        (FAILED, ["verify", url, "--json"]),
        (FAILED, ["verify", url, "out"]),
        (USAGE, ["verify", url, "--repair"]),
        (FAILED, ["verify", f"{url}x"]),
        (0, ["show", "views", url, "--method", "simclr", "--out", "views.png"]),
        (FAILED, ["inspect", url.replace("://", ":/")]),
        (FAILED, ["inspect", f"{url}?{TOKEN}"]),
        (USAGE, ["train", "simclr", "--data", url, "--out", "run"]),
        (FAILED, ["eval", "knn", "run", "--data", url]),
        (FAILED, ["eval", "knn", "run", "--data", "out", "--test", url]),
    ]
    for code, command in runs:
        assert main([str(word) for word in command]) == code, command
        shown = "".join(capfd.readouterr())
        assert is_clean(shown), (command, shown)
        assert is_clean(everything(work)), command
        if code == FAILED and command[1] == "shards" and command[3] == "out":
            (job,) = work.glob(".out*/job.json")
            assert json.loads(job.read_text(encoding="utf-8"))["src"] == redact(url)
    with open_shards(work / "out") as shards:
        assert shards.manifest.provenance["src"] == "digits"
        assert len(shards.manifest.shards) > 1
    assert not (work / "run").exists()


def test_another_password_goes_on_with_the_same_job(
    served: tuple[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url, _ = served
    command = ["shard", "shards", url, "out", "--workers", "1", "--shard-size", "200KB"]
    assert main([*command, "--max-rejects", "0"]) == FAILED
    command[2] = url.replace(PASSWORD, "another")
    assert main(command) == 0
    assert "went on after" in capfd.readouterr().err


def test_the_name_of_a_bucket_alone() -> None:
    """Where nothing but the host is left to name a set by."""
    assert is_clean(cache_name(RemoteFolder(f"memory://{USER}:{PASSWORD}@set")))
