"""The protocol that asks whether features have collapsed, without labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from headrace.tools.evaluation.protocol import Outcome, Protocol, Task
from headrace.train.probes.intervals import Measured
from headrace.train.probes.meters import RANKED, collapse_meters


@dataclass(frozen=True, kw_only=True)
class MetersSettings:
    """Of `meters`."""

    samples: int = RANKED
    """Whose plain views RankMe and the deviation are of, at most."""
    images: int = 1000
    """Whose augmented views LiDAR, alignment and uniformity are of, at most."""
    views: int = 10
    """Of each of these images."""
    seed: int = 0
    """Of which images, and of their views."""

    def __post_init__(self) -> None:
        if self.views < 2 or min(self.samples, self.images) < 4:
            raise ValueError("views must be at least 2, samples and images at least 4")


def measure_meters(task: Task) -> Outcome:
    settings: MetersSettings = task.settings
    found = collapse_meters(
        task.method, task.test or task.learn, **asdict(settings), device=task.device, max_bad=task.max_bad
    )
    parts = vars(found)
    return Outcome(
        metrics={name: value for name, value in parts.items() if isinstance(value, Measured)},
        details={name: value for name, value in parts.items() if isinstance(value, int)},
    )


METERS = Protocol(
    name="meters",
    version=1,
    title="RankMe",
    metric="rank_me",
    measure=measure_meters,
    settings=MetersSettings(),
    definition="rank_me and deviation are of the features of plain views, as probes see them; lidar, alignment and "
    "uniformity of those of views by the method's own augmentation (its first view's, without masks), on --test where "
    "there is one, else --data. rank_me: exp of the entropy of the singular values of features that are not centred, "
    "their sum 1, plus 1e-7. lidar: of the eigenvalues of the scatter between images, whitened by that within (plus "
    "1e-4), their sum 1, plus 1e-8. alignment: mean squared distance of two views of an image at length 1; uniformity: "
    "ln of the mean over pairs of images of exp(-2 squared distance), one view each; deviation: mean over dimensions "
    "at length 1, times the root of their number. Intervals are 1.96 standard errors of a jackknife by ten groups.",
    source="RankMe, arXiv 2210.02885; LiDAR, arXiv 2312.04000; arXiv 2005.10242 and SsnL/align_uniform at e256d47; "
    "SimSiam, arXiv 2011.10566, section 4.1",
    cost="One pass over plain views and one over images times views, then eigenvalues of matrices of as many rows as "
    "there are features, some twenty times.",
    incomparable="Another family of methods (masked ones use fewer directions), another number of samples, images, "
    "views or features, features of a projector, centred features or eigenvalues of the covariance. None says that "
    "features are good: noise has the largest rank and LiDAR.",
    encoders=("untrained", "trained"),
    share=False,
    labels=False,
)
