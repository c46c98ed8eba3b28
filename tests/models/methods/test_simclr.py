"""SimCLR's views and head."""

from __future__ import annotations

from headrace.models.methods.joint.simclr import SimCLRConfig, simclr_views
from tests.models.authors_views import IMAGENET, STRONG, in_torchvisions_words
from tests.models.tiny_methods import tiny


def test_simclr_asks_for_the_papers_views() -> None:
    views = simclr_views(SimCLRConfig()).views
    assert (
        in_torchvisions_words(views) == [((224, 0.08, 1.0), 0.5, STRONG, 0.2, (0.5, 0.1, 2.0, 23), 0.0, IMAGENET)] * 2
    )
    assert {view.interpolation for view in views} == {"bicubic"}
    halved = simclr_views(SimCLRConfig(strength=0.5)).views[0]
    assert (halved.brightness, halved.contrast, halved.saturation, halved.hue) == (0.4, 0.4, 0.4, 0.1)
    assert simclr_views(SimCLRConfig(strength=0)).views[0].jitter == 0


def test_simclrs_last_norm_scales_but_does_not_shift() -> None:
    method = tiny("simclr")
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    assert "projector.4.weight" in trainable
    assert "projector.4.bias" not in trainable
