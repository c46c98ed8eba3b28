"""`headrace bench` measures beside the peers."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from headrace.tools.commands.arguments import Command, one_of
from headrace.tools.errors import UserError

BENCHMARKS = ("loader", "shard", "step", "features", "methods", "parity", "scaling")


def declare(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(BENCHMARKS)
    parser.add_argument("what", metavar="WHAT", type=one_of(*BENCHMARKS, "all"), help=f"{names} or all")
    parser.add_argument("--smoke", action="store_true", help="little data and one short round: only sees that all runs")
    parser.add_argument("--only", metavar="NAME,...", help="which methods; for WHAT methods alone")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of tables and plots (default: benchmarks/results)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures here, with `all` by name of the benchmark"
    )


def run(args: argparse.Namespace) -> int:
    if args.only and args.what != "methods":
        raise UserError(f"--only names methods, and {args.what} has none: write headrace bench methods --only ...")
    names = BENCHMARKS if args.what == "all" else (args.what,)
    figures = {}
    with TemporaryDirectory(prefix="headrace-bench-") as folder:
        for name in names:
            file = Path(folder) / f"{name}.json"
            # A process of its own: benchmarks use everything, and nothing imports them.
            command = [sys.executable, "-m", f"headrace.benchmarks.{name}", "--json", str(file)]
            command += ["--smoke"] * args.smoke + (["--out", str(args.out)] if args.out else [])
            command += ["--only", args.only] if args.only else []
            code = subprocess.run(command).returncode
            if code:
                return code
            figures[name] = json.loads(file.read_text(encoding="utf-8"))
    if args.json:
        args.json.write_text(
            json.dumps(figures if args.what == "all" else figures[args.what], indent=2) + "\n", encoding="utf-8"
        )
    return 0


COMMAND = Command(
    "bench",
    "measure Headrace beside its peers",
    """\
Runs a benchmark beside the peers that are installed, writes its table and plot to benchmarks/results/ of the current
folder, and records machine, versions and commit. Sources that no commit holds are measured with --out DIR only.""",
    declare,
    run,
)
