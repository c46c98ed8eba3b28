"""A bad step as a folder: everything to take it again, and what came of it.

RUN/capsules/step-XXXXXXXX/
    capsule.pt    the dictionary below, as torch.save writes it; reading it executes nothing
    capsule.json  the same without tensors, for people
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.models import Context
from headrace.pipeline import Batch
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards.writing.staging import sync_path
from headrace.train.checkpoint import read_tensors, write_synced
from headrace.train.errors import RunError
from headrace.train.guard.watch import Found
from headrace.train.state import Run

FORMAT = 1
"""Version of the dictionary below."""

# format      FORMAT
# step        number of the step, from 1
# kind        what was wrong with it: `watch.Kind`
# config      RunConfig.to_dict()
# device      "cpu" or "cuda"
# threads     of torch
# versions    of what computed it
# epoch, batch, seed, world_size    whence the samples: the numbers that order and views are functions of
# loader      state_dict of the loader in front of the batch
# model, optimizer, precision       state in front of the step; an epoch's first step stands behind `Method.on_epoch`
# ranks       of each rank: `samples`, int64 (B,), `seen`, its loss and the norm of the gradient at that step, and what
#             came of taking it again: `terms`, scalars, and `batch`, a digest
# norms       of each parameter's gradient when it was taken again
# gradients   a digest of each

Attempt = Callable[[Run, Batch, Context], tuple[dict[str, Tensor], Tensor]]
"""Takes a step up to its gradient; see `headrace.train.loop.attempt`."""


@dataclass(frozen=True)
class Outcome:
    """What came of a step that was taken to look at it, on this rank."""

    samples: Tensor
    batch: str
    """Digest of all that the batch holds."""
    terms: dict[str, Tensor]
    """Scalars on the CPU, `grad_norm` and the meters among them."""
    norms: dict[str, float]
    """By parameter."""
    gradients: dict[str, str]
    """Digests by parameter."""


def take_again(run: Run, batch: Batch, step: int, attempt: Attempt) -> Outcome:
    """Take step number `step`, from 1, up to its gradient. Weights, optimiser and buffers are left as they were."""
    context = run.context(step - 1)
    with run.guard.on_trial() as meters:
        terms, norm = attempt(run, batch, context)
        gradients = {name: p.grad.detach() for name, p in run.method.named_parameters() if p.grad is not None}
        run.precision.after_step(torch.ones((), device=run.world.device))
        with torch.no_grad():
            run.method.after_step(context)
    terms = {**terms, "grad_norm": norm, **meters}
    return Outcome(
        samples=batch.index.cpu(),
        batch=_digest(batch.tensors()),
        terms={name: term.detach().cpu() for name, term in terms.items()},
        norms={name: float(gradient.norm()) for name, gradient in gradients.items()},
        gradients={name: _digest([gradient]) for name, gradient in gradients.items()},
    )


def keep_capsule(run: Run, found: Found, batches: DeviceBatches, attempt: Attempt) -> str:
    """Keep a bad step in the run's folder, if it has room for one more, and say so in words, the same on all ranks.

    A disk that does not take it is no reason to end otherwise than without it.
    """
    out, most = Path(run.config.out), run.config.guard.capsules
    folder = capsule_folder(out, found.step)
    others = [path for path in folder.parent.glob("step-*") if path.suffix != ".tmp"]
    wanted = run.world.rank == 0 and most > 0 and folder not in others and len(others) < most
    if run.world.max(int(wanted)) == [0]:
        return run.world.each(f"`headrace replay {folder}` shows it" if folder in others and most else "")[0]
    place = run.loader_state(found.step - 1, batches.state_dict())
    batches.load_state_dict(place)
    iterator = iter(batches)
    again = take_again(run, next(iterator), found.step, attempt)
    del iterator
    seen = {"loss": found.loss, "grad_norm": found.norm}
    ranks = run.world.each({"samples": again.samples, "seen": seen, "terms": again.terms, "batch": again.batch})
    words = ""
    if run.world.rank == 0:
        capsule = {
            "format": FORMAT,
            "step": found.step,
            "kind": found.kind,
            "device": run.world.device.type,
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "epoch": place["epoch"],
            "batch": place["position"] // run.config.batch_size,
            "seed": run.config.seed,
            "world_size": run.world.size,
            "ranks": ranks,
            "norms": again.norms,
            "gradients": again.gradients,
            "config": run.config.to_dict(),
            "loader": place,
            "model": run.method.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "precision": run.precision.state_dict(),
        }
        try:
            _write(folder, capsule)
            words = f"`headrace replay {folder}` shows it"
        except OSError as error:
            words = f"its capsule cannot be written ({error.strerror or error})"
        if not all(repeats(rank) for rank in ranks):
            words += "; taken again here it comes out otherwise, so that something is not deterministic"
    return run.world.each(words)[0]


def repeats(rank: dict[str, Any]) -> bool:
    """Whether a step that was taken again on a rank had the loss and the gradient's norm that were seen first."""
    return all(same_bits(torch.tensor(rank["seen"][name]), rank["terms"][name]) for name in ("loss", "grad_norm"))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two scalars hold the same bits; of what is not a number, whether both are not."""
    neither = bool(one.isnan()) and bool(other.isnan())
    return one.dtype == other.dtype and (neither or one.numpy().tobytes() == other.numpy().tobytes())


def capsule_folder(out: Path, step: int) -> Path:
    """Of the bad step number `step` of the run in `out`."""
    return out / "capsules" / f"step-{step:08d}"


def read_capsule(folder: Path) -> dict[str, Any]:
    """The dictionary of a capsule, tensors on the CPU.

    Raises:
        RunError: if there is none, or it is damaged or of another format.
        OSError: if the disk cannot read it, which says nothing about the file.
    """
    path = folder / "capsule.pt"
    if not path.exists():
        raise RunError(f"{folder}: no capsule; they are folders in RUN/capsules")
    return read_tensors(path, "capsule", FORMAT)


def versions() -> dict[str, str]:
    """Of what computes a step."""
    found = {name: version(name) for name in ("headrace", "timm", "numpy")}
    return {
        **found,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def plain(value: Any) -> Any:
    """`value` as JSON has it: tensors as lists, and what is not finite as a text."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _write(folder: Path, capsule: dict[str, Any]) -> None:
    """The name appears only after the bytes are on the disk. OSError, and nothing is left, where it does not take
    them."""
    aside = folder.with_suffix(".tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed here
        aside.mkdir(parents=True)
        write_synced(aside / "capsule.pt", capsule)
        told = {name: value for name, value in capsule.items() if name not in ("model", "optimizer", "precision")}
        (aside / "capsule.json").write_text(json.dumps(plain(told), indent=1) + "\n", encoding="utf-8")
        os.replace(aside, folder)
        sync_path(folder.parent)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
        raise


def _digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of kinds, shapes and bits."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
