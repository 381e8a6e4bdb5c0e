"""Say what a pool holds: accuracy by agent and task, agreement, oracle and majority, tokens, what the filter drops."""

from __future__ import annotations

from collections.abc import Sequence

from openrlhf_mlpo.cli.options import Parser, add_drop_flag
from openrlhf_mlpo.errors import UserError, run_cli
from openrlhf_mlpo.pool.summary import plot, summarize, table


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="python3 -m openrlhf_mlpo.cli.pool", description=__doc__, renamed={"--max_correct": "--drop_correct"}
    )
    parser.add_argument("pool", help="directory of a finished pool")
    add_drop_flag(parser.add_argument)
    parser.add_argument("--plot", default="", metavar="FILE", help="also draw it into FILE (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    tallies = summarize(args.pool, args.drop_correct)
    print(table(tallies, args.drop_correct))
    if args.plot:
        try:
            plot(tallies, args.plot)
        except (OSError, ValueError) as error:
            raise UserError(f"--plot {args.plot}: {error}") from None
    return 0


if __name__ == "__main__":
    run_cli(main)
