"""The verifiers by task: "math", "bbh", "mmlu", and "exact" for the user's own data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from openrlhf_mlpo.verify import bbh, closed_form, maths
from openrlhf_mlpo.verify import choices as options
from openrlhf_mlpo.verify.extract import clean, extract_answer, is_formatted, strip_end_tokens

TASKS = ("math", "bbh", "mmlu", "exact")


@dataclass(frozen=True)
class Verdict:
    """What a response answered (None: nothing found), whether that is right, and whether its form is as asked for."""

    answer: str | None
    correct: bool
    formatted: bool


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
    correct = answer is not None and is_correct(answer, gold, task, subtask=subtask, choices=choices)
    return Verdict(answer, correct, is_formatted(response))


def is_correct(
    answer: str, gold: str, task: str, *, subtask: str | None = None, choices: Sequence[str] | None = None
) -> bool:
    """Whether an extracted answer equals the gold answer, as `task` compares them."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    if len(answer) > max(maths.MAX_ANSWER, 4 * len(gold)):
        return False
    if task == "math":
        return maths.equal(gold, answer)
    gold, answer = clean(gold), clean(answer)
    if task == "bbh":
        return bbh.equal(gold, answer, subtask, choices or ())
    if task == "mmlu":
        expected = options.letter(gold, choices or ())
        return expected is not None and options.letter(answer, choices or ()) == expected
    expected = _exact(gold)
    return bool(expected) and _exact(answer) == expected


def _exact(text: str) -> str:
    return options.fold(text)


def canonical(
    answer: str, task: str, *, subtask: str | None = None, choices: Sequence[str] | None = None, gold: str | None = None
) -> str:
    r"""A cheap normal form: equal answers of one question become equal strings, for counting votes.

    Without math-verify, so `\frac{1}{2}` and `0.5` meet but `x+1` and `1+x` do not. Never raises for a known task.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    answer = clean(answer[: 4 * maths.MAX_ANSWER])
    if task == "mmlu":
        return options.letter(answer, choices or ()) or options.fold(answer)
    if task == "bbh":
        kind = bbh.kind_of(gold, subtask) if gold else _bbh_kind(answer, subtask, choices or ())
        return bbh.normal(answer, kind, choices or ()) or options.fold(options.bare(answer))
    if task == "exact":
        return _exact(answer)
    text = maths.plain(answer)
    number = closed_form.rational(text)
    if number is not None:
        return str(number[0])
    text = re.sub(r"^[a-zA-Z] ?= ?(?=\S)", "", text)
    text = re.sub(r"\\text\{ ?([^{}]*)\}", r"\1", text)
    return re.sub(r"\\[,;: ]|\s", "", text).casefold() or text


def _bbh_kind(answer: str, subtask: str | None, choices: Sequence[str]) -> str:
    if subtask in bbh.CHOICES or (subtask not in bbh.SUBTASKS and options.letter(answer, choices)):
        return "choice"
    return bbh.kind_of(options.bare(answer), subtask)


def gold_problem(
    answer: str, task: str, *, subtask: str | None = None, choices: Sequence[str] | None = None
) -> str | None:
    """Why this gold answer can never pay (one clause, without a row number), or None when it can."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    if not isinstance(answer, str) or not clean(answer):
        return "gold answer is empty"
    if len(answer) > 10 * maths.MAX_ANSWER:
        return f"gold answer has {len(answer):,} characters"
    if task == "math" and not maths.parses(answer):
        return f"math-verify cannot read gold answer {answer!r}; write it as LaTeX, or use task exact"
    if task == "bbh":
        return bbh.problem(answer, subtask)
    if task == "mmlu" and options.letter(answer, choices or ()) is None:
        given = f"one of the {len(choices)} choices" if choices else "a letter"
        return f"gold answer {answer!r} is not {given}"
    return None
