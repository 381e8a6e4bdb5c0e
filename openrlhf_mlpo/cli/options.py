"""Command-line flags of all programs: spelled with underscores, older spellings accepted, shared ones in one place."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.pool.draw import MAX_CORRECT
from openrlhf_mlpo.questions import TEST_FRACTION


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that also takes `--some-flag` for `--some_flag`, and flags by the names they once had.

    Its --help shows the description with its own line ends.
    """

    def __init__(self, *args: Any, renamed: Mapping[str, str] | None = None, **kwargs: Any):
        """`renamed`: old name -> name, such as {"--max_questions": "--limit"}. Neither is shown by --help."""
        super().__init__(*args, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self._renamed = dict(renamed or {})

    def parse_known_args(self, args=None, namespace=None):
        """See `argparse`; `parse_args` comes through here too."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        return super().parse_known_args([*map(self._current, words[:end]), *words[end:]], namespace)

    def _current(self, word: str) -> str:
        """A word of a command line with its flag, if it is one, in the spelling of today."""
        if not word.startswith("--"):
            return word
        flag, equals, value = word.partition("=")
        flag = "--" + flag[2:].replace("-", "_")
        return self._renamed.get(flag, flag) + equals + value


def add_question_flags(add) -> None:
    """Which questions of a source are taken: --split, --test_fraction, --columns, --limit and --skip_bad_rows.

    `add`: a parser's `add_argument`.
    """
    add(
        "--split",
        default="",
        help="train, test, … as the source names its splits; where it names none (a file, or a folder of files without "
        "train or test in their names) train and test are made from the rows' content (default: the only one)",
    )
    add(
        "--test_fraction",
        type=float,
        default=TEST_FRACTION,
        help=f"share of a test split that is made from content (default {TEST_FRACTION}); for an evaluation as it "
        "was for the pool, or the leader has seen some of the questions",
    )
    add_columns_flag(add)
    add("--limit", type=int, default=0, help="only the first N questions (default 0: all)")
    add(
        "--skip_bad_rows",
        action="store_true",
        help="leave out rows without an answer, with one that can never be matched, or that contradict another "
        "(default: stop at the first)",
    )


def add_columns_flag(add) -> None:
    """--columns, where a row's fields are found."""
    add(
        "--columns",
        default="",
        help="your names of question, answer, subtask and choices, with dots into nested columns, as "
        "question=prompt.0.content,answer=reward_model.ground_truth (default: the usual names)",
    )


def add_drop_flag(add) -> None:
    """--drop_correct, which questions of a pool are too easy."""
    add(
        "--drop_correct",
        type=_above_zero,
        default=MAX_CORRECT,
        help="leave out a question when this share of its responses or more is right, as --mlpo.drop_correct does "
        f"(default {MAX_CORRECT}, the paper's; above 1 keeps all)",
    )


def _above_zero(text: str) -> float:
    """A flag's number, for argparse; its error is worded by `UserError`."""
    number = float(text)
    if not number > 0:
        raise UserError(f"--drop_correct must be above 0, not {text}: nothing would be left")
    return number


def at_least(args: argparse.Namespace, **least: float) -> None:
    """Raise UserError unless each flag named is at least so much."""
    for name, bound in least.items():
        if not getattr(args, name) >= bound:
            raise UserError(f"--{name} must be at least {bound}, not {getattr(args, name)}")


def between(args: argparse.Namespace, low: float, high: float, names: Sequence[str]) -> None:
    """Raise UserError unless each flag named is between the two, both included."""
    for name in names:
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name} must be between {low:g} and {high:g}, not {getattr(args, name)}")
