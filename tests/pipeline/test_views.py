from dataclasses import fields

import pytest
import torch

from headrace.pipeline import Normalize, View, ViewSpec, center_view
from headrace.pipeline.batch import Batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size"),
        ({"flip": 1.5}, "flip"),
        ({"scale": (0.5, 0.1)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"hue": 0.6}, "hue"),
        ({"contrast": -0.1}, "contrast"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"blur_kernel": 4}, "blur_kernel"),
        ({"size": 8, "blur": 0.5, "blur_kernel": 23}, "blur_kernel"),
        ({"jitter": 0.8}, "jitter"),
        ({"solarize_threshold": 300}, "solarize_threshold"),
    ],
)
def test_contradictions_fail_while_describing(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View(**({"size": 32} | change))


def test_blur_kernel_defaults_to_a_tenth() -> None:
    assert View(size=224).blur_taps == 23
    assert View(size=32).blur_taps == 3


def test_a_spec_needs_views() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ViewSpec([])


def test_center_view_draws_nothing() -> None:
    view = center_view(8).views[0]
    assert all(getattr(view, f.name) == 0.0 for f in fields(view) if f.name in ("flip", "jitter", "grayscale", "blur"))


def test_normalized_batches_match_the_formula() -> None:
    normalize = Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    levels = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    batch = Batch(views=[levels], index=torch.arange(2), labels=None, epoch=0, normalize=(normalize,))
    (images,) = batch.normalized()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (normalize.mean, normalize.std))
    torch.testing.assert_close(images, (levels / 255 - mean) / std)
