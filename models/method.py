"""What every method is: inputs it asks for, a loss on a batch, features for probes, and hooks around a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from headrace.pipeline import Batch, Inputs, Texts, ViewSpec
from headrace.pipeline.streams import spec_of, streams_of


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a run stands, for a method's hooks."""

    step: int
    """Optimiser steps before this one."""
    epoch: int
    """Epochs before this one."""
    steps_per_epoch: int
    epochs: int
    """Epochs of the whole run."""
    batch_size: int
    """Samples of a step, over all ranks."""
    seed: int = 0
    """Of the run. What a hook draws from it is the same on all ranks."""
    samples: int = 0
    """Of the whole training set."""
    batches: Callable[[ViewSpec], Iterator[Batch]] | None = None
    """Every sample of the training set once, on this rank's device, in the order of the set; each rank gets all of
    them. For methods that look at the whole set between epochs."""
    forget: Callable[[Sequence[nn.Parameter]], None] | None = None
    """Drops what the optimiser remembers of parameters that a hook has drawn anew."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the run's steps before this one, from 0 to below 1."""
        return self.step / self.total_steps


class Tower(NamedTuple):
    """One of several encoders whose features lie in one space."""

    inputs: Inputs
    """What it is shown of each sample."""
    embed: Callable[[Batch], Tensor]
    """To rows (B, D) of length 1, of which those that belong together have a large product. Call it in evaluation mode;
    a sample's row does not depend on the rest of the batch then."""


@dataclass(kw_only=True)
class ParameterGroup:
    """Parameters that are trained alike, in terms of what the run's configuration says of all."""

    params: list[nn.Parameter]
    lr_scale: float = 1.0
    """Factor of the learning rate."""
    decay_scale: float = 1.0
    """Factor of the weight decay; 0 for none."""
    adapt: bool = True
    """Whether LARS scales the step to the size of the weights."""
    constant_lr: bool = False
    """Keep the peak learning rate for the whole run, as SimSiam's predictor does."""
    momentum_scale: float = 1.0
    """Factor of the momentum, which is AdamW's first beta; 0 for none."""
    frozen_epochs: int = 0
    """Epochs at the beginning in which the gradient is dropped, after it was clipped."""
    player: str = ""
    """Whose they are. "" for the network that is trained; another name, such as "discriminator", for one with a goal of
    its own, which has an optimiser of its own (`optim.players` in the run's configuration) and is clipped by itself.
    There is one loss, so `loss` adds up the players' and detaches in each what is not the player's."""


class Piece(NamedTuple):
    """A token of a text that a method filled in, as the vocabulary writes it."""

    token: str
    """What stands there."""
    shown: str | None = None
    """What the method saw in its place; None where that is the token and nothing was asked."""
    said: str | None = None
    """What the method says that stands there; None where nothing was asked."""


class Method(nn.Module):
    """Base of all methods. A subclass sets the attributes in its constructor and writes `loss`.

    Everything that it remembers from step to step (a slow network, a queue, a centre, assignments) is a parameter or a
    buffer, so that a run that was killed goes on as if it had not been, and that a bad step can be undone; buffers keep
    their shapes but in `on_epoch`. Nothing in it draws from a generator of its
    own: what is random comes with the batch, or from torch's default generator, which the loop seeds for each step.

    Letters in shapes: B samples of this rank, V views, D feature dimensions.
    """

    config: Any
    """The keyword-only dataclass that configures the method."""
    inputs: Inputs
    """What `loss` expects of each sample in its batch."""
    backbone: nn.Module
    """The network that is kept after training."""
    feature_dim: int
    """D."""
    continued: ClassVar[Mapping[str, Sequence[str]]] = {}
    """What `init` takes from another run beside the backbone, for a stage behind another method: modules or tensors
    there, and those here that begin with the same weights."""
    keeps_samples: bool = False
    """Whether `loss` looks up what the method keeps of each training sample, so that it has none for other samples."""
    mask_id: int | None = None
    """The token that hides others from a method that names hidden tokens of texts (`token_logits`)."""
    metered: bool = False
    """Whether `loss` is to return meters of collapse of its own as well, scalars that cost something, such as the
    entropy of targets (`headrace.models.parts.meters`). The loop sets it for the steps of some lines of metrics."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The training loss of one batch.

        Returns:
            `"loss"`: the scalar to differentiate. Any other entry: a detached scalar to log. The loss is the same with
            and without `metered`.
        """
        raise NotImplementedError(f"{type(self).__name__} must write loss()")

    @property
    def probe_inputs(self) -> Inputs:
        """What a probe shows `encode`: by default the plain form of what `loss` sees, the first stream where there are
        several, without augmentation and masks: `ViewSpec.plain`, `ClipSpec.plain`, `TextSpec.plain`."""
        first = next(iter(streams_of(self.inputs).values()))
        return spec_of(first).plain()

    def encode(self, batch: Batch) -> Tensor:
        """Features (B, D) of what `probe_inputs` asks for. Call it in evaluation mode; a sample's features do not
        depend on the rest of the batch then."""
        (view,) = batch.normalized()
        features: Tensor = self.backbone(view)
        return features

    def cluster_scores(self, batch: Batch) -> Tensor | None:
        """How near each sample of what `probe_inputs` asks for is to each of K clusters or prototypes, (B, K): it falls
        to the one with its largest score. None, the default, where there are none. Call it in evaluation mode; a
        sample's scores do not depend on the rest of the batch then."""
        return None

    @property
    def layered(self) -> nn.Module:
        """The network in training whose layers `optim.layer_decay` counts: by default the backbone. A method whose
        backbone only follows another network gives that one."""
        return self.backbone

    @property
    def towers(self) -> dict[str, Tower]:
        """By the names of their streams, for retrieval and zero-shot classification; by default none."""
        return {}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trainable parameters; by default kernels, and vectors (biases, norms), which are neither decayed nor
        adapted (arXiv 2002.05709, section 2.1; common practice for AdamW too)."""
        return kernels_and_vectors(self)

    def on_epoch(self, context: Context) -> None:
        """Before the first step of each epoch, without gradients: assignments of clusters."""

    def before_step(self, context: Context) -> None:
        """Before the loss, without gradients: schedules of temperatures."""

    def after_backward(self, context: Context) -> None:
        """Between the backward pass and clipping."""

    def after_step(self, context: Context) -> None:
        """After the optimiser's step, without gradients: slow networks, queues, centres."""

    def token_logits(self, tokens: Tensor, texts: Texts, places: Tensor) -> Tensor:
        """What the method says of some places, int64 (B, K), of `texts`, of which `tokens`, int64 (B, L), has some
        hidden: logits (B, K, T) over its vocabulary. Of a method with a `mask_id`. Call it in evaluation mode; a text's
        logits do not depend on the rest of the batch then."""
        raise NotImplementedError(f"{type(self).__name__} names no hidden tokens")

    def readings(self, batch: Batch) -> list[list[Piece]]:
        """For the report: the tokens of each text of a training batch, with what the method says of those that it was
        to name; by default none."""
        return []

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures for the report, float32 (B, 3, H, W) in [0, 1] by name, such as reconstructions; by default none."""
        return {}


def kernels_and_vectors(*modules: nn.Module, **settings: Any) -> list[ParameterGroup]:
    """The trainable parameters of some modules in two groups: those of several dimensions, and those of one, which are
    neither decayed nor adapted. `settings` are of both groups."""
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        ParameterGroup(params=[p for p in trained if p.ndim > 1], **settings),
        ParameterGroup(params=[p for p in trained if p.ndim <= 1], **{**settings, "decay_scale": 0.0, "adapt": False}),
    ]
    return [group for group in groups if group.params]
