"""Configs: strict, exact in what they complain about, and the same after a trip through YAML."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

import headrace.train.config as config_module
from headrace.models import METHODS
from headrace.train import ConfigError, RunConfig

CONFIGS = [c for _, c in inspect.getmembers(config_module, inspect.isclass) if c.__module__ == config_module.__name__]
CONFIGS = [c for c in CONFIGS if c.__name__.endswith("Config")]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.__name__)
def test_every_field_is_documented_and_keyword_only(config: type) -> None:
    source = "".join(inspect.getsource(each) for each in config.__mro__ if each in CONFIGS)
    for each in fields(config):
        assert each.kw_only, each.name
        declaration = source.index(f"    {each.name}:")
        assert source[declaration:].split("\n", 1)[1].lstrip().startswith('"""'), each.name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optm.lr=1", "optm.lr: unknown key; did you mean optim.lr?"),
        ("lr=1", "lr: unknown key; did you mean optim.lr?"),
        ("model.temprature=1", "model.temprature: unknown key; did you mean model.temperature?"),
        ("model.backbone.nme=x", "model.backbone.nme: unknown key; did you mean model.backbone.name?"),
        ("seed.x=1", "seed.x: seed has no keys of its own"),
        ("optim=3", "optim: must be a mapping, got 3"),
        ("optim.lr=fast", "optim.lr: must be a number, got 'fast'"),
        ("optim.lr=-1", "optim.lr: must be above 0, got -1.0"),
        ("optim.lr=true", "optim.lr: must be a number, got True"),
        ("optim.name=adam", "optim.name: must be one of adamw, sgd, lars, muon, got 'adam'"),
        ("optim.betas=[0.9]", "optim.betas: must be a list of 2, got [0.9]"),
        ("optim.betas=[0.9, x]", "optim.betas[1]: must be a number, got 'x'"),
        ("optim.betas=[0.9, 1]", "optim.betas: must be in [0, 1), got (0.9, 1.0)"),
        ("optim.players.critic.lr=0", "optim.players.critic.lr: must be above 0, got 0.0"),
        ("optim.players.critic.rl=0", "optim.players.critic.rl: unknown key; did you mean optim.players.critic.lr?"),
        ("schedule.drops={1: 0}", "schedule.drops: must be factors above 0, got {1: 0.0}"),
        ("schedule.drops={-1: 0.1}", "schedule.drops: must be by epochs of at least 0, got {-1: 0.1}"),
        ("schedule.drops={1.5: 0.1}", "schedule.drops.1.5: must be an integer, got 1.5"),
        ("epochs=1.5", "epochs: must be an integer, got 1.5"),
        ("epochs=true", "epochs: must be an integer, got True"),
        ("epochs=[", "epochs: not a YAML value: '['"),
        ("log.tensorboard=1", "log.tensorboard: must be true or false, got 1"),
        ("loader.threads=0", "loader.threads: must be above 0 or null, got 0"),
        ("loader.order=random", "loader.order: must be one of global, window, got 'random'"),
        ("loader.window=8", "loader.window: must be at least lanes, 64, got 8"),
        ("checkpoint.keep=1", "checkpoint.keep: must be at least 2, got 1"),
        ("method=moko", "method: unknown method 'moko'; did you mean moco_v3 or moco_v2 or moco_v1?"),
        ("model.temperature=0", "model: SimCLRConfig.temperature must be above 0, got 0.0"),
        (
            "model.backbone.name=resnt18",
            "model.backbone: BackboneConfig.name 'resnt18' is no timm model; did you mean 'resnet18'?",
        ),
        ("model.backbone.options=3", "model.backbone.options: must be a mapping, got 3"),
        ("epochs", "epochs: an override reads key=value or --key value"),
        ("--epochs", "--epochs: needs a value"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig().with_overrides([override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "arguments",
    [
        ["optim.lr=1e-4", "batch_size=64"],
        ["--optim.lr", "1e-4", "--batch-size", "64"],
        ["--optim.lr=0.0001", "--batch_size=64"],
    ],
)
def test_overrides_are_read_in_every_spelling(arguments: list[str]) -> None:
    before = RunConfig()
    after = before.with_overrides(arguments)
    assert (after.optim.lr, after.batch_size) == (1e-4, 64)
    assert (before.optim.lr, before.batch_size) == (1e-3, 256)


def test_overrides_keep_the_type_of_their_field() -> None:
    config = RunConfig().with_overrides(
        [
            "data=123",
            "loader.threads=3",
            "model.crop_scale=[0.5, 1]",
            "model.backbone.options.img_size=96",
            "optim.lr=1",
            "schedule.drops={120: 0.1}",
        ]
    )
    assert config.data == "123"
    assert config.loader.threads == 3
    assert config.model.crop_scale == (0.5, 1.0)
    assert config.model.backbone.options == {"img_size": 96}
    assert isinstance(config.optim.lr, float)
    assert config.schedule.drops == {120: 0.1}
    assert config.with_overrides(["loader.threads=null"]).loader.threads is None


def test_yaml_and_dict_give_the_same_config_back(tmp_path: Path) -> None:
    config = RunConfig(data="a", out="b").with_overrides(["model.crop_scale=[0.5, 1]", "optim.lr=3e-5"])
    assert RunConfig.from_dict(config.to_dict()) == config
    config.save(tmp_path / "run.yaml")
    assert RunConfig.load(tmp_path / "run.yaml") == config
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_yaml_file_may_be_short(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("epochs: 7\noptim: {name: lars, lr: 1e-1}\nmodel:\n  temperature: 0.5\n", encoding="utf-8")
    config = RunConfig.load(path)
    assert (config.epochs, config.optim.name, config.optim.lr, config.model.temperature) == (7, "lars", 0.1, 0.5)
    assert config.model.size == 224


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: [", "run.yaml: while parsing a flow node"),
        ("- 1\n", "run.yaml: must hold a mapping of settings, holds list"),
        ("epochs: 3\nepochs: 4\n", "run.yaml: the key epochs is given twice"),
        ("epoch: 3\n", "run.yaml: epoch: unknown key; did you mean epochs?"),
        ("optim: {lr: 0}\n", "run.yaml: optim.lr: must be above 0, got 0.0"),
        ("method: 3\n", "run.yaml: method: unknown method 3"),
        ("model: !!python/object/apply:os.getcwd []\n", "run.yaml: could not determine a constructor"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: .*No such file"):
        RunConfig.load(tmp_path / "none.yaml")


def test_the_constructor_checks_too() -> None:
    with pytest.raises(ConfigError, match="batch_size: must be above 1, got 1"):
        RunConfig(batch_size=1)
    with pytest.raises(ConfigError, match="model: simclr is configured by SimCLRConfig, got dict"):
        RunConfig(model={})


@dataclass(frozen=True, kw_only=True)
class Worded:
    text: str | None = None
    layers: list[int] = field(default_factory=list)


@pytest.mark.parametrize(("override", "value"), [("text=12", "12"), ("text=null", None), ("text=true", "true")])
def test_a_text_is_taken_as_it_stands(monkeypatch: pytest.MonkeyPatch, override: str, value: str | None) -> None:
    """Also where it may be left out."""
    monkeypatch.setitem(METHODS, "worded", METHODS["simclr"]._replace(config=Worded))
    config = RunConfig(method="worded").with_overrides([f"model.{override}", "model.layers=[1, 2]"])
    assert (config.model.text, config.model.layers) == (value, [1, 2])
