"""Say what a pool holds: accuracy by agent and task, agreement, oracle and majority, tokens, what the filter drops."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.pool.draw import MAX_CORRECT
from openrlhf_mlpo.pool.summary import plot, summarize, table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m openrlhf_mlpo.cli.pool", description=__doc__)
    parser.add_argument("pool", help="directory of a finished pool")
    parser.add_argument(
        "--max-correct",
        type=float,
        default=MAX_CORRECT,
        help="the filter drops a question when this share of its responses or more is right "
        f"(default {MAX_CORRECT}, the paper's; 1.01 keeps all)",
    )
    parser.add_argument("--plot", default="", metavar="FILE", help="also draw it into FILE (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    tallies = summarize(args.pool, args.max_correct)
    print(table(tallies, args.max_correct))
    if args.plot:
        try:
            plot(tallies, args.plot)
        except (OSError, ValueError) as error:
            raise UserError(f"--plot {args.plot}: {error}") from None
    return 0


if __name__ == "__main__":
    run_cli(main)
