"""A method that is none of the table: the page that adds one runs; such a run goes on, with the same method only."""

from __future__ import annotations

import os
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.models import METHODS, Method
from headrace.shards import ShardSet
from headrace.tools.cli import main
from headrace.train import CheckpointConfig, ConfigError, LogConfig, RunConfig, load_run, read_metrics, train
from headrace.train.config import OWN
from tests.train.tiny_runs import final_state, same_bits

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_method.md"
THE_CLASS, THE_RUN, THE_FEATURES, THE_SCORES = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


def ran(code: str, folder: Path) -> dict[str, Any]:
    """What is defined after running `code`."""
    file = folder / "page.py"
    file.write_text(code, encoding="utf-8")
    return runpy.run_path(str(file))


def test_the_page_runs_as_it_stands(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    os.symlink(digits_webdataset.path, tmp_path / "shards" / "train")
    assert THE_RUN.count("epochs=100,") == 1
    defined = ran(THE_CLASS + THE_RUN.replace("epochs=100,", "epochs=1,") + THE_FEATURES + THE_SCORES, tmp_path)
    assert defined["result"].step == 2
    assert defined["features"].shape == (200, 32)
    assert defined["features"].isfinite().all()
    assert list(defined["scores"]) == ["input", "untrained", "trained"]
    assert all(list(scores) == ["knn", "linear"] for scores in defined["scores"].values())
    (record,) = read_metrics(tmp_path / "runs" / "follow")
    assert record["step"] == 2
    assert 0 < record["loss"] < 2
    assert record["spread"] > 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's first block defines."""
    return ran(THE_CLASS, tmp_path_factory.mktemp("page"))


@pytest.fixture
def make(page: dict[str, Any]) -> Callable[..., Callable[[], Method]]:
    """From fields of its config to what makes the page's method."""
    return lambda **settings: lambda: page["Follow"](page["FollowConfig"](**settings))


@pytest.fixture
def config(digits_webdataset: ShardSet, tmp_path: Path) -> RunConfig:
    """Six steps, a checkpoint after every one."""
    return RunConfig(
        method=OWN, data=str(digits_webdataset.path), out=str(tmp_path / "run"), epochs=3, batch_size=100, device="cpu",
        precision="float32", checkpoint=CheckpointConfig(every_steps=1),
        log=LogConfig(every_steps=1, tensorboard=False),
    )  # fmt: skip


class Killed(Exception):
    pass


def cut_at(step: int) -> Callable[[dict[str, Any]], None]:
    def kill(record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise Killed

    return kill


def test_killed_and_called_again_it_ends_with_the_same_bits(config: RunConfig, tmp_path: Path, make: Any) -> None:
    train(config, method=make(), progress=False)
    again = replace(config, out=str(tmp_path / "cut"))
    for step in (1, 4):  # before the first checkpoint, and in mid-epoch
        with pytest.raises(Killed):
            train(again, method=make(), progress=False, on_step=cut_at(step))
    assert train(again, method=make(), progress=False).step == 6
    whole, cut = final_state(tmp_path / "run"), final_state(tmp_path / "cut")
    assert same_bits(whole["model"], cut["model"])
    assert same_bits(whole["optimizer"]["state"], cut["optimizer"]["state"])


def test_its_settings_are_kept_and_others_refused(config: RunConfig, tmp_path: Path, page: Any, make: Any) -> None:
    result = train(replace(config, epochs=1), method=make(momentum=0.9), progress=False)
    settings = {"size": 24, "width": 16, "momentum": 0.9, "predictor_lr": 10.0}
    assert result.config.model == {"class": "Follow", "config": settings}
    assert RunConfig.load(tmp_path / "run" / "config.yaml") == result.config
    once = replace(config, epochs=1)
    assert train(result.config, method=make(momentum=0.9), progress=False).step == 2, "the kept config starts it again"
    with pytest.raises(ConfigError, match=r"model.config.momentum: .* was started with 0.9, not 0.99"):
        train(once, method=make(), progress=False)

    class Other(page["Follow"]):  # type: ignore[misc]
        pass

    with pytest.raises(ConfigError, match=r"model.class: .* was started with 'Follow', not .*Other'"):
        train(once, method=lambda: Other(page["FollowConfig"](momentum=0.9)), progress=False)

    def larger() -> Method:
        method: Any = make(momentum=0.9)()
        method.backbone.more = torch.nn.Linear(1, 1)
        return method  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match=r"run: its weights are of another network: .*Missing key.*more.weight"):
        train(once, method=larger, progress=False)
    with pytest.raises(ConfigError, match="run: its weights are of another network"):
        load_run(tmp_path / "run", method=larger)
    with pytest.raises(ConfigError, match="run: model: was trained with "):
        load_run(tmp_path / "run", method=make())
    with pytest.raises(ConfigError, match="run: method: this is one of yours"):
        load_run(tmp_path / "run")
    loaded, method = load_run(tmp_path / "run", method=make(momentum=0.9))
    assert loaded == result.config
    assert same_bits(dict(method.state_dict()), dict(final_state(tmp_path / "run")["model"]))


def test_the_command_line_says_that_it_does_not_know_it(
    config: RunConfig, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(config, epochs=1), method=make(), progress=False)
    capsys.readouterr()
    assert main(["eval", "knn", config.out, "--data", config.data]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "this is one of yours" in line


def test_weights_are_a_function_of_the_configs_seed(config: RunConfig, tmp_path: Path, make: Any) -> None:
    first: dict[int, Any] = {}

    def keep(seed: int) -> Callable[[], Method]:
        def made() -> Method:
            method: Method = make()()
            first[seed] = {key: value.clone() for key, value in method.state_dict().items()}
            return method

        return made

    torch.rand(7)  # draws of others change nothing
    for seed, out in ((0, "a"), (1, "b")):
        train(replace(config, seed=seed, out=str(tmp_path / out), epochs=1), method=keep(seed), progress=False)
    zero = first[0]
    torch.rand(7)
    train(replace(config, out=str(tmp_path / "c"), epochs=1), method=keep(0), progress=False)
    assert same_bits(zero, first[0])
    assert not same_bits(zero, first[1])


def test_config_and_method_must_fit(config: RunConfig, make: Any) -> None:
    assert OWN not in METHODS
    with pytest.raises(ConfigError, match="method: this is one of yours; train and load_run must be given"):
        train(config, progress=False)
    with pytest.raises(ConfigError, match="method: must be 'own' where a method is given, got 'simclr'"):
        train(replace(config, method="simclr", model=None), method=make(), progress=False)
    with pytest.raises(ConfigError, match=r"must make a headrace\.models\.Method, made Linear"):
        train(config, method=lambda: torch.nn.Linear(1, 1), progress=False)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="model: is filled in by train"):
        RunConfig(method=OWN, model=7)


def test_a_setting_that_no_file_takes_is_refused(config: RunConfig, page: Any) -> None:
    @dataclass(frozen=True, kw_only=True)
    class WithNetwork:
        size: int = 24
        width: int = 16
        momentum: float = 0.99
        predictor_lr: float = 10.0
        networks: tuple[Any, ...] = (torch.nn.Identity(),)

    with pytest.raises(ConfigError, match=r"model.networks.0: a Identity cannot be written in a config"):
        train(config, method=lambda: page["Follow"](WithNetwork()), progress=False)
    assert not (Path(config.out) / "config.yaml").exists()
