"""Where a run's figures and pictures go beside its own folder's files: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from headrace.train.config import RunConfig
from headrace.train.errors import ConfigError, replacing

IDS = "trackers.json"
"""In a run's folder: what the services call the run, so that it goes on there when it is resumed."""


class Tracker(Protocol):
    """One of them."""

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Scalars after `step` steps."""

    def draw(self, name: str, pixels: np.ndarray, step: int) -> None:
        """A picture, uint8 (H, W, 3)."""

    def end(self, why: str) -> None:
        """Why the run ended; see `headrace.train.metrics.Ending`."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Events in RUN/tensorboard; those of steps that are taken again are purged."""

    def __init__(self, out: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._events = SummaryWriter(out / "tensorboard", purge_step=first_step + 1)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._events.add_scalar(name, value, step)

    def draw(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._events.add_image(name, pixels, step, dataformats="HWC")

    def end(self, why: str) -> None:
        pass

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of the project `log.wandb`. WANDB_MODE=offline keeps it in RUN/wandb, for `wandb sync`."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("log.wandb: needs wandb: pip install headrace[wandb]") from None
        self._images = wandb.Image
        self._run = wandb.init(
            project=config.log.wandb,
            name=out.name,
            dir=str(out),
            id=_identities(out).get("wandb"),
            resume="allow",
            config=config.to_dict(),
            settings=wandb.Settings(console="off", silent=True),
        )
        _keep_identity(out, "wandb", self._run.id)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def draw(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._run.log({name: self._images(pixels)}, step=step)

    def end(self, why: str) -> None:
        self._run.summary["ending"] = why

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment `log.mlflow`, at MLFLOW_TRACKING_URI."""

    def __init__(self, out: Path, config: RunConfig) -> None:
        try:
            from mlflow.entities import Metric
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise ConfigError("log.mlflow: needs mlflow: pip install headrace[mlflow]") from None
        self._client, self._metric = MlflowClient(), Metric
        self._why = "killed"
        experiment = self._client.get_experiment_by_name(config.log.mlflow)
        number = experiment.experiment_id if experiment else self._client.create_experiment(config.log.mlflow)
        self._id = _identities(out).get("mlflow") or self._client.create_run(number, run_name=out.name).info.run_id
        _keep_identity(out, "mlflow", self._id)
        self._client.update_run(self._id, status="RUNNING")
        self._client.log_dict(self._id, config.to_dict(), "config.yaml")
        for name in ("method", "data", "epochs", "batch_size", "seed"):
            self._client.log_param(self._id, name, str(getattr(config, name))[:500])

    def write(self, figures: Mapping[str, float], step: int) -> None:
        now = round(1000 * time.time())
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in figures.items()])

    def draw(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._client.log_image(self._id, pixels, artifact_file=f"pictures/step-{step:08d}/{name}.png")

    def end(self, why: str) -> None:
        self._client.set_tag(self._id, "ending", why)
        self._why = why

    def close(self) -> None:
        status = {"finished": "FINISHED", "early stop": "FINISHED", "error": "FAILED"}.get(self._why, "KILLED")
        self._client.set_terminated(self._id, status)


def open_trackers(out: Path, config: RunConfig, first_step: int) -> list[Tracker]:
    """Those that `config.log` asks for.

    Raises:
        ConfigError: if a package is missing.
    """
    trackers: list[Tracker] = []
    if config.log.tensorboard:
        trackers.append(TensorBoard(out, first_step))
    if config.log.wandb:
        trackers.append(WeightsAndBiases(out, config))
    if config.log.mlflow:
        trackers.append(MLflow(out, config))
    return trackers


def read_pixels(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) of a picture that the run has drawn."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _identities(out: Path) -> dict[str, str]:
    """What services call the run in `out`."""
    path = out / IDS
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def _keep_identity(out: Path, service: str, identity: str) -> None:
    known = _identities(out)
    if known.get(service) != identity:
        with replacing(out / IDS) as aside:
            aside.write_text(json.dumps({**known, service: identity}, indent=2) + "\n", encoding="utf-8")
