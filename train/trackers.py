"""Where a run's figures and pictures go beside its own folder's files: TensorBoard, Weights & Biases, MLflow.

None of them may cost a run anything but its figures there: one that fails is left, with a line
(`headrace.train.metrics.RunLog`), and what is sent to a service is sent in a thread of its own.
"""

from __future__ import annotations

import importlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from PIL import Image

from headrace.train.config import RunConfig
from headrace.train.errors import ConfigError, replacing

END_S = 60.0
"""How long the end of a run waits for a service that gets its last figures."""
WAITING = 10_000
"""Calls that may wait for a service; one that is further behind is left."""
IDS = "trackers.json"
"""In a run's folder: what the services call the run, so that it goes on there when it is resumed."""
_KEEPING = Lock()  # services are opened in threads of their own


class Tracker(Protocol):
    """One of them."""

    name: str
    """For people."""

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

    name = "TensorBoard"

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

    name = "Weights & Biases"

    def __init__(self, out: Path, config: RunConfig) -> None:
        import wandb

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

    name = "MLflow"

    def __init__(self, out: Path, config: RunConfig) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

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


class Behind:
    """A tracker that is opened and called in a thread of its own, one call after the other. A later call raises what
    one before it met. The steps of a run wait for none of them, and its end for `END_S` seconds at most."""

    def __init__(self, name: str, opened: Callable[[], Tracker]) -> None:
        self.name = name
        self._executor = ThreadPoolExecutor(1)
        self._opening = self._executor.submit(opened)
        self._calls: deque[Future[Any]] = deque([self._opening])

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self._call(lambda tracker: tracker.write(figures, step))

    def draw(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._call(lambda tracker: tracker.draw(name, pixels, step))

    def end(self, why: str) -> None:
        self._call(lambda tracker: tracker.end(why))

    def close(self) -> None:
        self._executor.submit(lambda: self._opening.result().close()).result(END_S)
        self._raise_failed()
        self._executor.shutdown(wait=False)

    def _call(self, call: Callable[[Tracker], None]) -> None:
        self._raise_failed()
        if len(self._calls) > WAITING:
            raise TimeoutError(f"{len(self._calls)} calls wait for it")
        self._calls.append(self._executor.submit(lambda: call(self._opening.result())))

    def _raise_failed(self) -> None:
        while self._calls and self._calls[0].done():
            try:
                self._calls.popleft().result()
            except Exception:
                self._executor.shutdown(wait=False, cancel_futures=True)
                raise


def open_trackers(out: Path, config: RunConfig, first_step: int) -> list[Tracker]:
    """Those that `config.log` asks for.

    Raises:
        ConfigError: if a package is missing.
    """
    trackers: list[Tracker] = []
    if config.log.tensorboard:
        trackers.append(TensorBoard(out, first_step))
    for key, service in (("wandb", WeightsAndBiases), ("mlflow", MLflow)):
        if getattr(config.log, key):
            try:
                importlib.import_module(key)
            except ImportError:
                raise ConfigError(f"log.{key}: needs {key}: pip install headrace[{key}]") from None
            trackers.append(Behind(service.name, partial(service, out, config)))
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
    with _KEEPING:
        known = _identities(out)
        if known.get(service) != identity:
            with replacing(out / IDS) as aside:
                aside.write_text(json.dumps({**known, service: identity}, indent=2) + "\n", encoding="utf-8")
