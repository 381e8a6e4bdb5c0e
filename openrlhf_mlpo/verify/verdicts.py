"""The verifiers by task: "math", "bbh", "mmlu", and "exact" for the user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_mlpo.verify import bbh, equality, latex, numbers
from openrlhf_mlpo.verify import choices as options
from openrlhf_mlpo.verify.extract import clean, extract_answer, is_formatted, strip_end_tokens

TASKS = ("math", "bbh", "mmlu", "exact")
_PLACEHOLDERS = {
    "nan",
    "null",
    "n/a",
    "#n/a",
    "tbd",
    "todo",
    "see solution",
    "see the solution",
    "see above",
    "see below",
}
MAX_GOLD = 10_000  # characters


@dataclass(frozen=True)
class Verdict:
    """What a response answered (None: nothing found), whether that is right, and whether its form is as asked for.

    `undecided`: math-verify reached its limits, so `correct` is False for want of a verdict.
    """

    answer: str | None
    correct: bool
    formatted: bool
    undecided: bool = False


def verify_response(
    response: str,
    gold: str,
    task: str,
    *,
    subtask: str | None = None,
    choices: Sequence[str] | None = None,
    boxed: bool = True,
) -> Verdict:
    """Verify one RESPONSE (without its prompt) against the gold answer. ValueError for an unknown task."""
    response = strip_end_tokens(response)
    answer = extract_answer(response, boxed=boxed)
    verdict = False if answer is None else _compare(answer, gold, task, subtask, choices)
    return Verdict(answer, verdict is True, is_formatted(response), verdict is None)


def is_correct(
    answer: str, gold: str, task: str, *, subtask: str | None = None, choices: Sequence[str] | None = None
) -> bool:
    """Whether an extracted answer equals the gold answer, as `task` compares them."""
    return _compare(answer, gold, task, subtask, choices) is True


def _compare(answer: str, gold: str, task: str, subtask: str | None, choices: Sequence[str] | None) -> bool | None:
    _check(task)
    if len(answer) > max(equality.MAX_ANSWER, 4 * len(gold)):
        return False
    if task == "math":
        return equality.equal(gold, answer)
    gold, answer = clean(gold), clean(answer)
    if task == "bbh":
        return bbh.equal(gold, answer, subtask, choices or ())
    if task == "mmlu":
        expected = options.gold_letter(gold, choices or ())
        return expected is not None and options.letter(answer, choices or ()) == expected
    expected = options.fold(gold)
    return bool(expected) and options.fold(answer) == expected


def _check(task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")


def canonical(
    answer: str, task: str, *, subtask: str | None = None, choices: Sequence[str] | None = None, gold: str | None = None
) -> str:
    r"""The form in which answers of one question are compared, votes counted and majorities decided.

    Cheap, without math-verify, so `\frac{1}{2}` and `0.5` meet but `x+1` and `1+x` do not. ValueError for an unknown
    task.
    """
    _check(task)
    answer = clean(answer[: 4 * equality.MAX_ANSWER])
    if task == "mmlu":
        return options.letter(answer, choices or ()) or options.fold(answer)
    if task == "bbh":
        kind = bbh.kind_of(gold, subtask) if gold else bbh.kind_of_answer(answer, subtask, choices or ())
        return bbh.normal(answer, kind, choices or ()) or options.fold(options.bare(answer))
    if task == "exact":
        return options.fold(answer)
    text, is_math = equality.form(answer)
    if not is_math:
        return equality.words(text)
    number = numbers.rational(numbers.right_side(text))
    return str(number[0]) if number else latex.tight(numbers.right_side(text)).casefold() or text


def gold_problem(
    answer: str, task: str, *, subtask: str | None = None, choices: Sequence[str] | None = None
) -> str | None:
    """Why this gold answer can never pay (one clause, without a row number), or None when it can."""
    _check(task)
    if not isinstance(answer, str):
        return f"gold answer {answer!r} is not text"
    if not clean(answer):
        return "gold answer is empty"
    if clean(answer).casefold().rstrip(".") in _PLACEHOLDERS and answer not in (choices or ()):
        return f"gold answer {answer!r} stands for a missing one"
    if len(answer) > MAX_GOLD:
        return f"gold answer has {len(answer):,} characters"
    if task == "math" and not equality.readable(answer):
        return f"math-verify cannot read gold answer {answer!r}; write it as LaTeX, or use task exact"
    if task == "bbh":
        return bbh.problem(clean(answer), subtask, choices or ())
    if task == "mmlu" and options.gold_letter(clean(answer), choices or ()) is None:
        given = f"one of the {len(choices)} choices" if choices else "a letter"
        return f"gold answer {answer!r} is not {given}"
    return None
