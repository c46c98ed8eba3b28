"""Training runs: config, loop, checkpoints, metrics; probes and recipes are packages of their own."""

from headrace.train.checkpoint import checkpoint_paths
from headrace.train.config import (
    CheckpointConfig,
    DistributedConfig,
    GuardConfig,
    LoaderConfig,
    LogConfig,
    OptimConfig,
    PlayerConfig,
    ProbeConfig,
    RunConfig,
    ScheduleConfig,
    StopConfig,
)
from headrace.train.errors import ConfigError, RunError
from headrace.train.guard.replay import Replay, replay
from headrace.train.metrics import Ending, read_ending, read_metrics
from headrace.train.run import RunResult, load_run, train

__all__ = [
    "CheckpointConfig",
    "ConfigError",
    "DistributedConfig",
    "Ending",
    "GuardConfig",
    "LoaderConfig",
    "LogConfig",
    "OptimConfig",
    "PlayerConfig",
    "ProbeConfig",
    "Replay",
    "RunConfig",
    "RunError",
    "RunResult",
    "ScheduleConfig",
    "StopConfig",
    "checkpoint_paths",
    "load_run",
    "read_ending",
    "read_metrics",
    "replay",
    "train",
]
