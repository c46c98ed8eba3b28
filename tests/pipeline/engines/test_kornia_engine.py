"""Kornia's photometric half: no host reads, one graph, and the loader's two stages. Pixels: see test_parity."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.pipeline import Loader, Normalize, View, ViewSpec, plan
from headrace.pipeline.engines import ENGINES
from headrace.pipeline.images.noise import noise_planes
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.view import OPERATIONS
from headrace.shards import ShardSet

EVERYTHING = View(
    size=32,
    turns=(0, 1, 2, 3),
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    project=0.3,
    drop_channels=0.3,
    grayscale=0.2,
    blur=0.5,
    solarize=0.2,
    erase=0.5,
)
SPEC = ViewSpec([EVERYTHING, View(size=24, jitter=1.0, brightness=0.4, blur=0.5)])
FLOATS = {"rgb": Normalize(), "lab": Normalize.lab(), "per view": Normalize(per_view=True)}


def drawn(samples: int) -> Plan:
    return plan(SPEC, 3, 0, np.arange(samples), np.full((samples, 2), 64))


def engine_module() -> Any:
    from headrace.pipeline.engines import kornia

    return kornia


def noise(draws: Plan, v: int) -> Tensor | None:
    view = SPEC.views[v]
    return torch.from_numpy(noise_planes(draws.noise[:, v], view.size)) if view.drop_channels else None


def crops(samples: int, side: int) -> Tensor:
    levels = torch.randint(0, 256, (samples, 3, side, side), generator=torch.Generator().manual_seed(0))
    return levels.to(torch.uint8).contiguous(memory_format=torch.channels_last)


@pytest.mark.peer("kornia")
@pytest.mark.parametrize("floats", [None, *FLOATS])
def test_nothing_reads_the_host(floats: str | None) -> None:
    """Fake CUDA tensors hold no values: whatever asks for one fails, as here it would stall a GPU."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    module = engine_module()
    as_float = floats is not None
    parameters = torch.from_numpy(module.pack(drawn(4)))
    noises = [noise(drawn(4), v) for v in range(2)]
    with FakeTensorMode() as mode:
        on_device = mode.from_tensor(parameters).to("cuda")
        for v, view in enumerate(replace(view, normalize=FLOATS[floats or "rgb"]) for view in SPEC.views):
            images = torch.empty((4, 3, view.size, view.size), dtype=torch.uint8, device="cuda")
            planes = noises[v]
            if planes is not None:
                planes = mode.from_tensor(planes).to("cuda")
            result = module.Photometric(view).to("cuda")(images, on_device[v], as_float, planes)
            assert result.device.type == "cuda"
            assert result.shape == images.shape
            assert result.dtype == (torch.float32 if as_float else torch.uint8)
            assert result.is_contiguous(memory_format=torch.channels_last)
        with pytest.raises(DataDependentOutputException):
            bool(on_device.sum() > 0)


@pytest.mark.peer("kornia")
@pytest.mark.parametrize(
    ("floats", "order"), [*((floats, OPERATIONS) for floats in (None, *FLOATS)), (None, OPERATIONS[::-1])]
)
def test_compiles_into_one_graph(floats: str | None, order: tuple[str, ...]) -> None:
    module = engine_module()
    parameters = torch.from_numpy(module.pack(drawn(6)))[0]
    photometric = module.Photometric(replace(EVERYTHING, order=order, normalize=FLOATS[floats or "rgb"]))
    compiled = torch.compile(photometric, fullgraph=True, backend="aot_eager")
    arguments = crops(6, EVERYTHING.size), parameters, floats is not None, noise(drawn(6), 0)
    torch.testing.assert_close(compiled(*arguments), photometric(*arguments))


@pytest.mark.peer("kornia")
def test_blends_surround_the_hue() -> None:
    """Each change of the plan has its slot: before the hue in order, after the hue in order."""
    module = engine_module()
    draws = drawn(40)
    packed = module.pack(draws)[0]
    blends = packed[:, :18].reshape(40, 6, 3)
    for row, order, factor, hue in zip(
        blends, draws.jitter_order[:, 0], draws.jitter_factor[:, 0], packed[:, 18], strict=True
    ):
        kinds = {0: "own", 1: "common"}
        changed = [slot for slot in range(6) if tuple(row[slot]) != (1, 0, 0)]
        names = [kinds[int(np.argmax(np.abs(row[s, 1:])))] if row[s, 1:].any() else "scale" for s in changed]
        wanted = [("scale", "common", "own", "hue")[code] for code in order if code >= 0]
        assert names == [name for name in wanted if name != "hue"]
        assert (np.array(changed) < 3).sum() == (wanted.index("hue") if wanted else 0)
        assert hue == (factor[3] if wanted else 0)


@pytest.mark.parametrize(
    ("engine", "crops", "most"),
    [
        pytest.param("kornia", "native", 0.02, marks=pytest.mark.peer("kornia")),
        pytest.param("dali+kornia", "dali", 0.5, marks=pytest.mark.peer("dali", "kornia")),
    ],
)
def test_the_loader_finishes_whole_batches(engine: str, crops: str, most: float, photos: ShardSet) -> None:
    def batches(engine: str, dtype: Any, spec: ViewSpec = SPEC) -> list[Any]:
        with Loader(photos, spec, 16, engine=engine, threads=2, dtype=dtype, drop_last=False) as loader:
            return list(loader)

    native, levels, floats = batches("native", "uint8"), batches(engine, "uint8"), batches(engine, "float32")
    assert [len(batch) for batch in levels] == [16, 16, 4]
    for n, u, f in zip(native, levels, floats, strict=True):
        assert torch.equal(n.index, u.index)
        assert torch.equal(n.labels, u.labels)
        for v, view in enumerate(SPEC.views):
            assert u.views[v].dtype == torch.uint8
            assert u.views[v].shape == (len(n), 3, view.size, view.size)
            assert u.views[v].is_contiguous(memory_format=torch.channels_last)
            assert (u.views[v].int() - n.views[v].int()).abs().float().mean() < most
            torch.testing.assert_close(f.views[v], u.normalized()[v])
        assert all(torch.equal(a, b) for a, b in zip(n.drawn, u.drawn, strict=True))
    plain = ViewSpec([View(size=40)])  # nothing but a crop: the cropper's own pixels
    for ours, theirs in zip(batches(engine, "uint8", plain), batches(crops, "uint8", plain), strict=True):
        assert torch.equal(ours.views[0], theirs.views[0])


@pytest.mark.peer("dali", "kornia")
def test_dali_only_crops_for_kornia(photos: ShardSet) -> None:
    """What Kornia does is not in DALI's graph, so that nothing is prepared for it."""
    crop = View(size=32, turns=(1, 3), interpolation="bicubic", brightness=0.4)
    view = replace(crop, **dict.fromkeys(OPERATIONS, 1.0))
    engine = ENGINES["dali+kornia"](photos, "image", ViewSpec([view]))
    assert tuple(engine.cropper._spec.views) == (crop,)
    engine.cropper.close()


@pytest.mark.peer("kornia")
def test_a_share_may_be_empty(photos: ShardSet) -> None:
    """The last batch has four samples, and there are eight ranks."""
    with Loader(photos, SPEC, 16, engine="kornia", rank=0, world_size=8, drop_last=False) as loader:
        shares = list(loader)
    assert [len(share) for share in shares] == [2, 2, 0]
    assert [tuple(view.shape) for view in shares[-1].views] == [(0, 3, view.size, view.size) for view in SPEC.views]


@pytest.mark.parametrize("engine", ["kornia", pytest.param("dali+kornia", marks=pytest.mark.peer("dali"))])
def test_without_kornia_the_message_says_what_to_install(
    engine: str, photos: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "headrace.pipeline.engines.kornia", raising=False)
    for name in ("kornia", "kornia.color", "kornia.enhance"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install headrace\[kornia\]") as caught:
        ENGINES[engine](photos, "image", SPEC)
    assert "\n" not in str(caught.value)


def test_other_engines_refuse_a_device(photos: ShardSet) -> None:
    said = r"engine 'native' works on the CPU, not on 'cuda'; use dali or kornia or dali\+kornia"
    with pytest.raises(ValueError, match=said):
        Loader(photos, SPEC, 8, device="cuda")
