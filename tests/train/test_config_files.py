"""Configurations in files of one's own: what they extend, what they change, and how they are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from headrace.models import METHODS
from headrace.shards import ShardSet
from headrace.tools.catalogue import keys_of
from headrace.tools.cli import main
from headrace.train import RunConfig, read_metrics
from headrace.train.config import ConfigError
from headrace.train.recipes import RECIPES
from headrace.train.recipes.files import read_config


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_extends_a_recipe_a_method_or_a_file(tmp_path: Path) -> None:
    recipe = written(tmp_path / "recipe.yaml", "extends: simclr_cifar10\nepochs: 3\noptim: {lr: 0.25}\n")
    expected = RECIPES["simclr_cifar10"]()
    expected.epochs, expected.optim.lr = 3, 0.25
    assert read_config(recipe) == expected
    assert read_config(written(tmp_path / "method.yaml", "extends: mae\nseed: 4\n")) == RunConfig(method="mae", seed=4)
    below = written(tmp_path / "below" / "file.yaml", "extends: ../recipe.yaml\nmodel: {backbone: {name: resnet34}}\n")
    found = read_config(below)
    assert (found.epochs, found.optim.lr, found.model.backbone.name) == (3, 0.25, "resnet34")
    assert found.model.backbone.stem == expected.model.backbone.stem == "small"
    alone = written(tmp_path / "alone.yaml", "method: byol\nbatch_size: 32\n")
    assert read_config(alone) == RunConfig(method="byol", batch_size=32)


@pytest.mark.parametrize("name", [*METHODS, *list(RECIPES)[::7]])
def test_extending_and_changing_nothing_changes_nothing(name: str, tmp_path: Path) -> None:
    config = RECIPES[name]() if name in RECIPES else RunConfig(method=name)
    assert read_config(written(tmp_path / "same.yaml", f"extends: {name}\n")) == config
    whole = written(tmp_path / "whole.yaml", yaml.safe_dump({"extends": name, **config.to_dict()}, sort_keys=False))
    assert read_config(whole) == config


def test_another_method_begins_with_its_own_defaults(tmp_path: Path) -> None:
    path = written(tmp_path / "other.yaml", "extends: simclr_cifar10\nmethod: mae\nmodel: {mask_ratio: 0.6}\n")
    found = read_config(path)
    assert found.model == RunConfig(method="mae").with_overrides(["model.mask_ratio=0.6"]).model
    assert found.optim == RECIPES["simclr_cifar10"]().optim


def test_lists_and_free_mappings_are_replaced(tmp_path: Path) -> None:
    path = written(
        tmp_path / "base.yaml", "extends: simclr\nschedule: {drops: {2: 0.1, 4: 0.01}}\nmodel: {crop_scale: [0.1, 1]}\n"
    )
    over = written(tmp_path / "over.yaml", "extends: base.yaml\nschedule: {drops: {3: 0.5}}\n")
    assert read_config(path).schedule.drops == {2: 0.1, 4: 0.01}
    assert read_config(over).schedule.drops == {3: 0.5}
    assert read_config(over).model.crop_scale == (0.1, 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "extends: simclr_cifar\n",
            "extends: no recipe, method or .yaml file 'simclr_cifar'; did you mean simclr_cifar10",
        ),
        ("extends: gone.yaml\n", "gone.yaml: "),
        ("extends: [simclr]\n", "extends: must be the name"),
        ("extends: simclr\noptim: {lrr: 1}\n", "optim.lrr: unknown key; did you mean lr"),
        ("extends: simclr\nepochs: many\n", "epochs: must be an integer"),
        ("extends: simclr\noptim: 3\n", "optim: must be a mapping"),
        ("extends: file.yaml\n", "extends itself"),
        ("- 3\n", "must hold a mapping"),
        ("epochs: 3\nepochs: 4\n", "given twice"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(text: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "file.yaml", text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(path.parent))
    assert "\n" not in message
    assert len(message) < 400


def test_a_circle_of_files_is_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "one.yaml", "extends: two.yaml\n")
    written(tmp_path / "two.yaml", "extends: one.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        read_config(one)


def test_a_run_from_a_file_alone(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"name": "resnet10t"}
    values = {
        "extends": "simclr", "data": str(digits_webdataset.path), "out": str(tmp_path / "run"), "epochs": 1,
        "batch_size": 100, "device": "cpu", "precision": "float32", "log": {"every_steps": 1, "tensorboard": False},
        "model": {"size": 24, "flip": 0.0, "backbone": small},
    }  # fmt: skip
    path = written(tmp_path / "mine.yaml", yaml.safe_dump(values))
    assert main(["config", "check", str(path)]) == 0
    assert "simclr, 1 epochs" in capsys.readouterr().out
    assert main(["train", str(path)]) == 0
    assert len(read_metrics(tmp_path / "run")) == 2
    capsys.readouterr()
    # What a run leaves starts it again, and goes nowhere, as it is finished.
    assert main(["train", str(tmp_path / "run" / "config.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main(["train", str(path), "--seed", "1"]) == 2
    assert "seed: " in capsys.readouterr().err


def test_print_config_prints_what_would_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "dino", "--data", "somewhere", "--optim.lr", "0.5", "--print-config"]) == 0
    config = RunConfig.from_dict(yaml.safe_load(capsys.readouterr().out))
    expected = RunConfig(method="dino").with_overrides(["optim.lr=0.5", "data=somewhere"])
    assert config == expected
    assert main(["config", "show", "dino", "--optim.lr", "0.5"]) == 0
    shown = RunConfig.from_dict(yaml.safe_load(capsys.readouterr().out))
    assert shown == expected.with_overrides(["data="])


def test_what_is_missing_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "simclr", "--data", "somewhere"]) == 2
    assert "--out must be given" in capsys.readouterr().err
    assert main(["config", "show"]) == 2
    assert main(["config", "check", str(tmp_path / "none.yaml")]) == 2
    told = capsys.readouterr().err
    assert "none.yaml" in told


def test_keys_are_listed_with_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "keys", "--json"]) == 0
    found = {each["key"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["optim.lr"]["type"] == "float"
    assert found["optim.lr"]["doc"]
    assert found["epochs"]["default"] == "100"
    assert all(each["doc"] for each in found.values()), [key for key, each in found.items() if not each["doc"]]
    assert "optim" not in found
    assert main(["config", "keys", "model.backbone", "--method", "mae", "--json"]) == 0
    part = json.loads(capsys.readouterr().out)
    assert part
    assert all(each["key"].startswith("model.backbone.") for each in part)
    assert [each.key for each in keys_of(RunConfig(), "optim.lr")] == ["optim.lr"]
    assert main(["config", "keys", "optin"]) == 2
    assert "did you mean 'optim'" in capsys.readouterr().err
    assert main(["config", "keys", "guard"]) == 0
    assert "guard.on_bad_step" in capsys.readouterr().out


def test_an_unknown_key_names_a_few_and_not_all(capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("lrs", "zzzzzz", "optim.zzzzzzz", "weight_decya"):
        with pytest.raises(ConfigError) as caught:
            RunConfig().with_overrides([f"{key}=1"])
        assert len(str(caught.value)) < 200, str(caught.value)
