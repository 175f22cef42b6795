"""``python -m benchmarks [PART]...``: measure, and write table, plots and figures to ``benchmarks/results``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import backlog, fleet, live, near, queries, report, rest, restart, scale
from benchmarks.results import load
from benchmarks.sizes import QUICK, Sizes, say

PARTS: dict[str, Callable[[Sizes, Path], Any]] = {
    "backlog": backlog.run,
    "live": live.run,
    "rest": rest.run,
    "scale": scale.run,
    "restart": restart.run,
    "queries": queries.run,
    "near": near.run,
    "fleet": fleet.run,
}
_RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Run the parts that the command line names; what was measured before of others stays in the results."""
    args = _parser().parse_args()
    sizes = QUICK if args.quick else Sizes()
    wanted = {"rounds": args.rounds, "gigabytes": args.gigabytes, "keys": args.keys and tuple(args.keys)}
    sizes = msgspec.structs.replace(sizes, **{name: value for name, value in wanted.items() if value is not None})
    folder = args.results or (_RESULTS / "quick" if args.quick else _RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    results = load(folder / "results.json", quick=args.quick)
    with tempfile.TemporaryDirectory(prefix="streamer-bench-", dir=args.work) as work:
        for part in PARTS if "all" in args.parts else args.parts:
            setattr(results, part, PARTS[part](sizes, Path(work) / part))
            report.write(results, folder)
    say(f"written to {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure streamer and its peers.")
    parser.add_argument("parts", nargs="*", default="all", choices=[*PARTS, "all"], metavar="PART",
                        help=f"{', '.join(PARTS)}, or all (default)")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a little of everything, to see whether it works")
    parser.add_argument("--rounds", type=int, help="how often each contender runs (5; quick: 1)")
    parser.add_argument("--keys", type=int, nargs="+", help="sizes of the ledger for scale (0 to 10 million)")
    parser.add_argument("--gigabytes", type=float, help="size of the dataset for queries (1)")
    parser.add_argument("--work", type=Path, help="where the temporary folder is made, on the disk to be measured")
    parser.add_argument("--results", type=Path, help="folder of the results (benchmarks/results)")
    return parser


if __name__ == "__main__":
    main()
