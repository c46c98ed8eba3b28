import gc
import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.pipeline import (
    Batch,
    DrawnViews,
    Loader,
    RandomMask,
    Tiles,
    View,
    ViewSpec,
    WindowOrder,
    center_view,
    order,
    plan,
)
from headrace.pipeline.engines import StageTimes
from headrace.shards import ShardError, ShardSet, open_shards
from headrace.shards.errors import MachineError

SPEC = ViewSpec.repeat(
    View(size=24, jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2, blur=0.5),
    2,
)


GLOBAL: dict[str, object] = {"order": "global"}
WINDOW: dict[str, object] = {"order": "window", "window": 40, "lanes": 4}


def make(shards: ShardSet, batch_size: int = 32, **options: object) -> Loader:
    return Loader(shards, SPEC, batch_size, **({"seed": 5, "threads": 2} | options))  # type: ignore[arg-type]


def copied(batches: Iterator[Batch]) -> list[tuple[np.ndarray, ...]]:
    return [(b.index.numpy().copy(), *(view.numpy().copy() for view in b.views)) for b in batches]


def assert_same(ours: list[tuple[np.ndarray, ...]], theirs: list[tuple[np.ndarray, ...]]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_have_the_stated_shapes(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset) as loader:
        batch = next(iter(loader))
        assert [tuple(view.shape) for view in batch.views] == [(32, 3, 24, 24)] * 2
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
        assert batch.views[0].dtype == torch.uint8
        assert batch.normalized()[0].dtype == torch.float32
        assert batch.labels is not None
        assert batch.labels.tolist() == [digits_webdataset.read(i)["label"] for i in batch.index.tolist()]
        assert len(loader) == 6
        assert len(batch) == 32


def test_batches_bring_the_draws_of_their_views(photos: ShardSet) -> None:
    spec = ViewSpec([*ViewSpec.rotations(View(size=8)).views, Tiles(view=View(size=4, flip=0.0))])
    with Loader(photos, spec, 12, seed=5, threads=2) as loader:
        batches = list(loader)
    for batch in batches:
        ids = batch.index.numpy()
        spans = photos.spans("image", ids)
        expected = plan(spec, 5, 0, ids, np.stack([spans.height, spans.width], axis=1))
        for name in ("crop", "flip", "turns", "arrangement"):
            assert np.array_equal(getattr(batch.drawn, name).numpy(), getattr(expected, name)), name
        assert isinstance(batch.drawn, DrawnViews)
        assert batch.drawn.turns.dtype == batch.drawn.arrangement.dtype == torch.int64
        assert batch.drawn.arrangement.shape == (12, 1)
    moved = batches[0].to("meta").drawn
    assert isinstance(moved, DrawnViews)
    assert {part.device.type for part in moved} == {"meta"}


def test_an_epoch_follows_the_order_and_the_next_differs(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset, drop_last=False) as loader:
        first = np.concatenate([b.index.numpy() for b in loader])
        assert np.array_equal(first, order(5, 0, 200)[:])
        assert loader.epoch == 1
        assert np.array_equal(np.concatenate([b.index.numpy() for b in loader]), order(5, 1, 200)[:])


@pytest.mark.parametrize("change", [{"threads": 1}, {"threads": 5}, {"prefetch": 1}, {"prefetch": 7}])
def test_bytes_do_not_depend_on_threads_or_prefetch(change: dict[str, int], photos: ShardSet) -> None:
    with make(photos, batch_size=10) as usual, make(photos, batch_size=10, **change) as other:
        assert_same(copied(iter(usual)), copied(iter(other)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("order", [GLOBAL, WINDOW])
def test_ranks_together_load_the_global_batches(
    order: dict[str, object], world_size: int, digits_ffcv: ShardSet
) -> None:
    with make(digits_ffcv, **order) as whole:
        expected = copied(iter(whole))
    parts = []
    for rank in range(world_size):
        with make(digits_ffcv, rank=rank, world_size=world_size, **order) as loader:
            parts.append(copied(iter(loader)))
    together = [
        tuple(np.concatenate(columns) for columns in zip(*shares, strict=True)) for shares in zip(*parts, strict=True)
    ]
    assert_same(together, expected)


@pytest.mark.parametrize("resumed_world_size", [1, 3])
@pytest.mark.parametrize("order", [GLOBAL, WINDOW])
def test_resumes_at_every_step_with_another_number_of_ranks(
    order: dict[str, object], resumed_world_size: int, digits_webdataset: ShardSet
) -> None:
    """Two epochs; after every step the state goes to fresh loaders, whose ranks together must give the rest, in the
    order that the state names."""
    with make(digits_webdataset, **order) as loader:
        states, expected = [loader.state_dict()], []
        for _ in range(2):
            for batch in loader:
                expected += copied(iter([batch]))
                states.append(loader.state_dict())
    for step, state in enumerate(states[:-1]):
        shares = []
        for rank in range(resumed_world_size):
            with make(digits_webdataset, rank=rank, world_size=resumed_world_size, seed=99) as resumed:
                resumed.load_state_dict(state)
                rest = copied(iter(resumed))
                if len(rest) < len(expected) - step:
                    rest += copied(iter(resumed))
                shares.append(rest)
        together = [tuple(np.concatenate(c) for c in zip(*s, strict=True)) for s in zip(*shares, strict=True)]
        assert_same(together, expected[step:])
    assert states[-1]["epoch"] == 2
    assert states[-1]["position"] == 0


def test_breaking_out_resumes_at_the_next_batch(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset) as loader, make(digits_webdataset) as whole:
        start = copied(islice(iter(loader), 2))
        assert_same(start + copied(iter(loader)), copied(iter(whole)))


def test_a_resume_with_a_batch_larger_than_the_rest_moves_on(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset, batch_size=150) as loader:
        loader.load_state_dict(loader.state_dict() | {"position": 160})
        assert list(loader) == []
        assert loader.epoch == 1
        assert len(list(loader)) == 1


def test_a_window_epoch_follows_its_order(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset, drop_last=False, **WINDOW) as loader:
        for epoch in range(2):
            expected = WindowOrder(5, epoch, digits_webdataset.shard_samples, 40, 4)
            for number, batch in enumerate(loader):
                end = min(200, 32 * (number + 1))
                assert np.array_equal(batch.index.numpy(), expected.share(32 * number, end, 0, 1))
                assert set(batch.index.tolist()) == set(expected[32 * number : end].tolist())


@given(world_size=st.integers(1, 24), batch_size=st.integers(24, 260))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(world_size=16, batch_size=192)  # the last batch has 8 samples: some ranks get none
def test_evaluation_sees_every_sample_once_in_order(
    world_size: int, batch_size: int, digits_webdataset: ShardSet
) -> None:
    """Whatever the number of ranks, of which each takes part in each batch, if with a sample less than others."""
    seen, lengths = [], []
    for rank in range(world_size):
        options = {"shuffle": False, "drop_last": False, "rank": rank, "world_size": world_size, "threads": 1}
        with Loader(digits_webdataset, center_view(28), batch_size, **options) as loader:  # type: ignore[arg-type]
            shares = [batch.index.tolist() for batch in loader]
        seen.append(shares)
        lengths.append([len(share) for share in shares])
    assert [i for shares in zip(*seen, strict=True) for share in shares for i in share] == list(range(200))
    assert all(max(sizes) - min(sizes) <= 1 for sizes in zip(*lengths, strict=True))


def test_center_view_of_raw_digits_is_the_digit(digits_ffcv: ShardSet) -> None:
    with Loader(digits_ffcv, center_view(28), 200, shuffle=False) as loader:
        (batch,) = loader
    assert np.array_equal(batch.views[0][7].permute(1, 2, 0).numpy(), digits_ffcv.read(7)["image"])


def test_a_held_batch_is_never_overwritten_and_a_dropped_one_is_used_again(
    digits_webdataset: ShardSet,
) -> None:
    with make(digits_webdataset, prefetch=1) as loader:
        batches = iter(loader)
        held = next(batches).views[0][:4]  # a view of a view keeps the memory
        before = held.numpy().copy()
        for _ in batches:
            pass
        assert np.array_equal(held.numpy(), before)
        del held, batches
        gc.collect()
        addresses = set()
        for _ in range(3):
            for batch in loader:
                addresses.update(view.data_ptr() for view in batch.views)
        # Two views of: one batch held here, one finished, two under way.
        assert len(addresses) <= 2 * 4


def test_float_batches_equal_normalised_levels(photos: ShardSet) -> None:
    with make(photos, batch_size=6) as levels, make(photos, batch_size=6, dtype="float32") as floats:
        for a, b in zip(levels, floats, strict=True):
            for x, y in zip(a.normalized(), b.normalized(), strict=True):
                torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_engines_load_alike(photos: ShardSet) -> None:
    with (
        make(photos, batch_size=12) as native,
        make(photos, batch_size=12, engine="torchvision") as reference,
    ):
        for a, b in zip(native, reference, strict=True):
            assert torch.equal(a.index, b.index)
            for x, y in zip(a.views, b.views, strict=True):
                assert (x.int() - y.int()).abs().float().mean() < 0.05


def test_stats_and_threads(digits_webdataset: ShardSet) -> None:
    before = threading.active_count()
    loader = make(digits_webdataset)
    samples = sum(len(batch) for batch in loader)
    assert loader.stats.samples == samples == 192
    assert loader.stats.augment_s > 0
    assert loader.stats.waited_s >= 0
    loader.close()
    assert threading.active_count() == before
    assert len(list(loader)) == 6  # a closed loader opens again
    loader.close()


def test_two_loaders_do_not_disturb_each_other(digits_webdataset: ShardSet, photos: ShardSet) -> None:
    with make(digits_webdataset) as a, make(photos, batch_size=6) as b:
        alone = copied(iter(a)), copied(iter(b))
    with make(digits_webdataset) as a, make(photos, batch_size=6) as b:
        together = list(zip(copied(iter(a)), copied(iter(b)), strict=True))
    assert_same([x for x, _ in together], alone[0])
    assert_same([y for _, y in together], alone[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "warp"}, "native"),
        ({"batch_size": 0}, "batch"),
        ({"batch_size": 2, "world_size": 4}, "4 ranks"),
        ({"rank": 1}, "rank"),
        ({"prefetch": 0}, "prefetch"),
        ({"threads": 0}, "threads"),
        ({"dtype": "float16"}, "float16"),
        ({"batch_size": 400}, "200 samples"),
        ({"order": "random"}, "order 'random' is not one of global, window"),
        ({"order": "window", "window": 3, "lanes": 4}, "window must be at least 4, the number of lanes, got 3"),
        ({"order": "window", "lanes": 0}, "lanes must be at least 1"),
    ],
)
def test_contradictory_arguments_are_refused(options: dict, message: str, digits_webdataset: ShardSet) -> None:
    with pytest.raises(ValueError, match=message):
        make(digits_webdataset, **options)


def test_a_state_of_another_set_is_refused(digits_webdataset: ShardSet, photos: ShardSet) -> None:
    with make(digits_webdataset) as loader, make(photos, batch_size=6) as other:
        with pytest.raises(ValueError, match="200 samples"):
            other.load_state_dict(loader.state_dict())
        with pytest.raises(ValueError, match="shuffle"):
            make(digits_webdataset, shuffle=False).load_state_dict(loader.state_dict())


def test_a_state_of_another_order_is_refused_by_a_loader_that_was_told_one(
    digits_webdataset: ShardSet, digits_ffcv: ShardSet
) -> None:
    state = make(digits_webdataset, **WINDOW).state_dict()
    for options, message in (
        (GLOBAL, "with order='window', window=40, lanes=4, not order='global'"),
        (WINDOW | {"window": 80}, "with order='window', window=40, lanes=4, not window=80, lanes=4"),
    ):
        with pytest.raises(ValueError, match=message):
            make(digits_webdataset, **options).load_state_dict(state)
    with pytest.raises(ValueError, match="the state is of shards of other sizes than those of"):
        make(digits_ffcv).load_state_dict(state)
    with make(digits_webdataset, **WINDOW) as told, make(digits_webdataset) as untold:
        untold.load_state_dict(state)
        assert_same(copied(iter(untold)), copied(iter(told)))
        old = {name: state[name] for name in ("seed", "epoch", "position", "samples", "shuffle")}
        make(digits_webdataset).load_state_dict(old)  # from before there were two orders: global
        with pytest.raises(ValueError, match="with order='global', not order='window'"):
            told.load_state_dict(old)


@pytest.mark.timeout(60)
def test_a_damaged_sample_ends_the_epoch_with_its_name(photos: ShardSet, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from headrace.shards import write_shards

    samples = [photos.read(i) for i in range(20)]
    samples[13]["image"] = samples[13]["image"][:5000]
    write_shards(tmp_path / "bad", samples, photos.fields)
    with open_shards(tmp_path / "bad") as shards, make(shards, batch_size=5) as loader:
        with pytest.raises(ShardError, match="photo_0013"):
            list(loader)
        assert threading.active_count() < 20


def test_one_iterator_lives_at_a_time(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset) as whole:
        expected = copied(iter(whole))
    with make(digits_webdataset) as loader:
        first = iter(loader)
        found = copied(islice(first, 1))
        second = iter(loader)
        found += copied(islice(second, 2))
        state = loader.state_dict()
        with pytest.raises(RuntimeError, match="is over, because another one was made; iterate the loader again"):
            next(first)
        assert loader.state_dict() == state
        first.close()  # type: ignore[attr-defined]
        assert_same(found + copied(second), expected)


def test_a_state_or_a_close_ends_the_iterator(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset) as loader:
        start = loader.state_dict()
        iterator = iter(loader)
        first = copied(islice(iterator, 1))
        loader.load_state_dict(start)
        with pytest.raises(RuntimeError, match="because a state was loaded"):
            next(iterator)
        assert loader.state_dict() == start
        again = iter(loader)
        assert_same(copied(islice(again, 1)), first)
        loader.close()
        with pytest.raises(RuntimeError, match="because the loader was closed"):
            next(again)
        assert len(list(loader)) == 5  # the rest of the epoch


def test_a_closed_set_is_one_clear_line(digits_webdataset: ShardSet) -> None:
    shards = open_shards(digits_webdataset.path)
    with make(shards) as loader:
        iterator = iter(loader)
        held = next(iterator)
        before = held.views[0].clone()
        shards.close()
        with pytest.raises(MachineError, match="webdataset: the set is closed"):
            list(iterator)
        assert torch.equal(held.views[0], before)
    with pytest.raises(MachineError, match="the set is closed"):
        make(shards)


@pytest.mark.parametrize("part", ["running", "raising"])
def test_what_is_left_is_waited_for(part: str, digits_webdataset: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the other parts of the batch of which one has raised."""
    with make(digits_webdataset, threads=4) as loader:
        render, at_work, calls = loader._feed.render, [], count()

        def slow(*arguments: object) -> StageTimes:
            at_work.append(1)
            time.sleep(0.05)
            number = next(calls)
            at_work.pop()
            if part == "raising" and number == 3:
                raise ShardError("the fourth part")
            return render(*arguments)

        monkeypatch.setattr(loader._feed, "render", slow)
        iterator = iter(loader)
        if part == "raising":
            with pytest.raises(ShardError, match="the fourth part"):
                list(iterator)
        else:
            next(iterator)
            iterator.close()  # type: ignore[attr-defined]
        assert not at_work
        done = next(calls)
        time.sleep(0.2)
        assert next(calls) == done + 1


def test_the_time_in_the_loader_counts_as_waited(digits_webdataset: ShardSet) -> None:
    masks = [RandomMask(grid=(4, 4))] * 4
    with Loader(digits_webdataset, ViewSpec([View(size=8)], masks=masks), 100, threads=2) as loader:
        started = time.perf_counter()
        list(loader)
        assert 0 < loader.stats.plan_s <= loader.stats.waited_s <= time.perf_counter() - started


# Across epochs


def begun(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the epoch of each batch that the loader begins."""
    epochs: list[int] = []
    request = loader._feed.request

    def noted(seed: int, epoch: int, ids: np.ndarray) -> object:
        epochs.append(epoch)
        return request(seed, epoch, ids)

    monkeypatch.setattr(loader._feed, "request", noted)
    return epochs


@pytest.mark.parametrize(("batch_size", "prefetch"), [(32, 2), (100, 3), (192, 4)])
def test_reaching_into_the_next_epoch_changes_no_batch(
    batch_size: int, prefetch: int, digits_webdataset: ShardSet
) -> None:
    """Not even where an epoch is shorter than what is under way."""
    with make(digits_webdataset, batch_size, prefetch=prefetch) as plain:
        expected = [copied(iter(plain)) for _ in range(4)]
    with make(digits_webdataset, batch_size, prefetch=prefetch, epochs=4) as loader:
        for epoch in range(4):
            assert_same(copied(iter(loader)), expected[epoch])
            assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (epoch + 1, 0)


def test_the_next_epochs_batches_are_begun_before_the_last_ones_are_used(
    digits_webdataset: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(digits_webdataset, prefetch=2, epochs=2) as loader:
        epochs = begun(loader, monkeypatch)
        first = iter(loader)
        for _ in range(len(loader)):
            next(first)
        assert epochs == [0] * 6 + [1, 1]
        assert next(first, None) is None
        assert epochs == [0] * 6 + [1] * 3
        assert len(list(loader)) == 6
        assert epochs == [0] * 6 + [1] * 6  # nothing twice, and nothing of an epoch that the run has not


@pytest.mark.parametrize("change", ["seed", "epoch", "state", "close"])
def test_what_was_begun_for_another_place_is_not_used(change: str, digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset) as plain:
        state = plain.state_dict()
        epochs = [copied(iter(plain)) for _ in range(3)]
    with make(digits_webdataset, seed=6) as other:
        list(other)
        of_other_seed = copied(iter(other))
    with make(digits_webdataset, epochs=9) as loader:
        list(loader)
        match change:
            case "seed":
                loader.seed = 6
            case "epoch":
                loader.epoch = 2
            case "state":
                loader.load_state_dict(state)
            case "close":
                loader.close()
        expected = {"seed": of_other_seed, "epoch": epochs[2], "state": epochs[0], "close": epochs[1]}
        assert_same(copied(iter(loader)), expected[change])


def test_a_state_at_an_epochs_end_is_of_the_next_ones_begin(digits_webdataset: ShardSet) -> None:
    with make(digits_webdataset, epochs=3) as loader:
        list(loader)
        state = loader.state_dict()
        expected = copied(iter(loader))
    with make(digits_webdataset, seed=1, epochs=3) as resumed:
        resumed.load_state_dict(state)
        assert_same(copied(iter(resumed)), expected)


def test_a_bad_sample_of_the_next_epoch_is_met_there(
    digits_webdataset: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(digits_webdataset, epochs=2) as loader:
        plan = loader._feed.plan
        render = loader._feed.render
        bad: list[object] = []

        def planned(seed: int, epoch: int, ids: np.ndarray, spans: object) -> object:
            drawn = plan(seed, epoch, ids, spans)  # type: ignore[arg-type]
            if epoch == 1:
                bad.append(drawn)
            return drawn

        def broken(ids: np.ndarray, *rest: object) -> StageTimes:
            if bad:
                raise ShardError("a bad one")
            return render(ids, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(loader._feed, "plan", planned)
        monkeypatch.setattr(loader._feed, "render", render)
        first = iter(loader)
        for _ in range(4):
            next(first)
        monkeypatch.setattr(loader._feed, "render", broken)
        assert len(list(first)) == 2
        with pytest.raises(ShardError, match="a bad one"):
            next(iter(loader))
