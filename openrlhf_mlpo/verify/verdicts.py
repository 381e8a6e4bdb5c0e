"""The verifiers by task: "math", "bbh", "mmlu", and "exact" for the user's own data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_mlpo.verify import bbh, equality, latex, numbers
from openrlhf_mlpo.verify import choices as options
from openrlhf_mlpo.verify.extract import clean, extract_answer, is_formatted, strip_end_tokens

TASKS = ("math", "bbh", "mmlu", "exact")
MAX_GOLD = 10_000  # characters
# What data sets write where they have no answer; `_NO_GOLD_HERE` could be the answer to a question of the user's own.
_NO_GOLD = frozenset(
    "nan;null;<na>;n/a;#n/a;tbd;todo;missing;no answer;[no answer];missing answer;not found;notfound;not available;"
    "not applicable;not provided;not given;answers vary;answers may vary;answers will vary;answer varies".split(";")
)
_NO_GOLD_HERE = frozenset(";none;na;unknown;proof;see;-;--;?;??;???;…".split(";"))
_ELSEWHERE = re.compile(
    r"(?:please )?(?:see|refer to)\b.{0,40}\b(?:solution|answer|explanation|proof|above|below|text|figure|"
    r"diagram|image|attached|attachment|appendix|key|work)s?\b.{0,20}",
    re.IGNORECASE,
)


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
    plain = clean(answer)
    if not plain:
        return "gold answer is empty"
    text = plain.strip(" .!$").casefold()
    missing = text in _NO_GOLD or answer == "None" or _ELSEWHERE.fullmatch(text)
    if missing or task != "exact" and text in _NO_GOLD_HERE:
        return f"gold answer {answer!r} stands for a missing one"
    if len(answer) > MAX_GOLD:
        return f"gold answer has {len(answer):,} characters"
    if task == "math" and not equality.readable(answer):
        return f"math-verify cannot read gold answer {answer!r}; write it as LaTeX, or use task exact"
    if task == "bbh":
        return bbh.problem(plain, subtask, choices or ())
    if task == "mmlu" and options.gold_letter(plain, choices or ()) is None:
        given = f"one of the {len(choices)} choices" if choices else "a letter"
        return f"gold answer {answer!r} is not {given}"
    return None
