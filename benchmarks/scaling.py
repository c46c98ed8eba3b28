"""What Headrace's own work costs, and that it stays the same as sets and views grow.

    python -m headrace.benchmarks.scaling [--works plan set ...] [--photos N] [--rounds R] [--seconds S] [--smoke]
                                          [--images FOLDER] [--json FILE] [--out DIR]

* `plan`: drawing SimCLR's random numbers beside making its views, each alone in one thread. At most 3 % is allowed.
* `set`: the whole loader on sets of a thousand to a million samples. Their index has every photograph many times, the
  files are there once and in the page cache: what is measured is order, index, plan and engine, not reading.
* `global`, `window`: how fast each order gives positions of sets of a thousand to a billion samples, without a set.
* `views`: output pixels a second with 1 to 16 views of a sample, and what a pixel more costs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from headrace.benchmarks import command
from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import read_through
from headrace.benchmarks.loader import SIMCLR
from headrace.benchmarks.runner import Comparison, Contestant, Spread, compare
from headrace.benchmarks.stages import loading, ordering, pixels, planning, positions, rendering
from headrace.pipeline import ViewSpec

PAIR = ViewSpec.repeat(SIMCLR, 2)
COPIES = (1, 10, 100, 1000)
SAMPLES = (10**3, 10**5, 10**7, 10**9)
VIEWS = (1, 2, 4, 8, 16)
ALLOWED = 0.03
"""Share of the views' time that the plan may take."""


def plan_beside_views(options: Options) -> Comparison:
    shards = options.forms.shards()
    arguments = {"shards": shards, "batch_size": options.batch_size}
    entered = [
        Contestant(name="views", batches=rendering, arguments={**arguments, "spec": PAIR}, note="native engine"),
        Contestant(name="plan", batches=planning, arguments={**arguments, "spec": PAIR}),
        Contestant(name="order", batches=ordering, arguments=arguments, note="and where the samples lie"),
    ]
    found = run(options, "plan", "SimCLR: 2 views of 224, one thread", entered, ratio="share of the views' time")
    share = Spread.of(found.ratios("plan"))
    findings = [
        f"The plan takes {share.median:.2%} of the views' time ({share.low:.2%} to {share.high:.2%}); "
        f"{ALLOWED:.0%} is allowed."
    ]
    return replace(found, findings=findings)


def sets_of_any_size(options: Options) -> Comparison:
    count = len(options.forms.photographs)
    entered = [
        Contestant(
            name=f"{count * copies:,} samples",
            batches=loading,
            arguments={
                "shards": options.forms.shards(),
                "spec": PAIR,
                "batch_size": options.batch_size,
                "threads": options.threads,
                "copies": copies,
            },
        )
        for copies in (COPIES[:2] if options.smoke else COPIES)
    ]
    title = f"The whole loader, SimCLR: 2 views of 224, {count:,} photographs again and again in the index"
    return flat(run(options, "set", title, entered, ratio="time of a sample"))


def orders_of_any_size(options: Options, name: str) -> Comparison:
    entered = [
        Contestant(
            name=f"{samples:,} samples",
            batches=positions,
            arguments={"samples": samples, "window": name == "window", "batch_size": 1000},
        )
        for samples in (SAMPLES[:2] if options.smoke else SAMPLES)
    ]
    title = f'The order "{name}", batches of 1,000'
    return flat(run(options, name, title, entered, unit="positions/s", ratio="time of a position"))


def views_of_any_number(options: Options) -> Comparison:
    numbers = VIEWS[:2] if options.smoke else VIEWS
    batch_size = max(1, options.batch_size // 4)  # 16 views take room
    entered = [
        Contestant(
            name=f"{number} view" + "s" * (number > 1),
            batches=pixels,
            arguments={
                "shards": options.forms.shards(),
                "spec": ViewSpec.repeat(SIMCLR, number),
                "batch_size": batch_size,
                "threads": options.threads,
            },
        )
        for number in numbers
    ]
    title = f"The whole loader, SimCLR's view of 224 several times a sample, batches of {batch_size}"
    found = run(options, "views", title, entered, unit="pixels/s", ratio="time of a pixel")
    each = SIMCLR.size**2
    # Seconds a sample, by number of views and round.
    taken = [
        [number * each / rate for rate in result.rates] for number, result in zip(numbers, found.results, strict=True)
    ]
    findings = []
    for i in range(1, len(numbers)):
        more = (numbers[i] - numbers[i - 1]) * each
        cost = Spread.of([1e9 * (b - a) / more for a, b in zip(taken[i - 1], taken[i], strict=True)])
        findings.append(
            f"From {numbers[i - 1]} to {numbers[i]} views, a pixel more costs {cost.median:.1f} ns of "
            f"{options.threads} threads' time ({cost.low:.1f} to {cost.high:.1f})."
        )
    return replace(found, findings=findings)


def run(options: Options, name: str, title: str, entered: list[Contestant], *, ratio: str, **more: Any) -> Comparison:
    """The contestants in order, the first as the reference."""
    found = compare(
        name,
        title,
        entered,
        reference=entered[0].name,
        rounds=options.rounds,
        seconds=options.seconds,
        cores=options.cores,
        warm_up_s=0.1 if options.smoke else 1.0,
        progress=options.progress,
        forked_from="headrace.benchmarks.scaling" if options.smoke else None,
        **more,
    )
    return replace(found, ratio=ratio, curve=True)


def flat(found: Comparison) -> Comparison:
    """With a sentence on the last beside the first."""
    first, last = found.results[0].name, found.results[-1].name
    ratio = Spread.of(found.ratios(last))
    finding = (
        f"Of {last}, one costs {ratio.median:.2f} times as much as of {first} ({ratio.low:.2f} to {ratio.high:.2f})."
    )
    return replace(found, findings=[finding])


WORKS: dict[str, Callable[[Options], Comparison]] = {
    "plan": plan_beside_views,
    "set": sets_of_any_size,
    "global": lambda options: orders_of_any_size(options, "global"),
    "window": lambda options: orders_of_any_size(options, "window"),
    "views": views_of_any_number,
}


def measure(options: Options) -> list[Comparison]:
    found = []
    for name in options.works:
        options.progress(f"{name}: preparing files", 0, 1)
        options.forms.shards()
        read_through(options.forms.root)
        found.append(WORKS[name](options))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return command.run(
        "scaling",
        "What Headrace's own work costs, and that it stays the same as sets and views grow.",
        list(WORKS),
        measure,
        arguments=arguments,
        default_works=list(WORKS),
        photographs=1000,
        batch_size=64,
        rounds=5,
        seconds=4.0,
        about="what its own work costs",
        equal="Rows of a table differ in what their name says and in nothing else; ratios are of the first row",
    )


if __name__ == "__main__":
    sys.exit(main())
