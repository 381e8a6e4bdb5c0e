"""BIG-Bench Hard: exact match in the form each of the 27 tasks answers in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from openrlhf_mlpo.verify import choices as options
from openrlhf_mlpo.verify import equality
from openrlhf_mlpo.verify.numbers import rational

WORDS = {
    "boolean_expressions": ("true", "false"),
    "causal_judgement": ("yes", "no"),
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("yes", "no"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("yes", "no"),
}
KINDS = {  # how each subtask's answers are compared
    **dict.fromkeys(WORDS, "word"),
    "multistep_arithmetic_two": "number",
    "object_counting": "number",
    "dyck_languages": "brackets",
    "word_sorting": "list",
    **dict.fromkeys(
        "date_understanding disambiguation_qa geometric_shapes hyperbaton logical_deduction_five_objects "
        "logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation penguins_in_a_table "
        "reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks temporal_sequences "
        "tracking_shuffled_objects_five_objects tracking_shuffled_objects_seven_objects "
        "tracking_shuffled_objects_three_objects".split(),
        "choice",
    ),
}

_EITHER_WORD = {word for pair in WORDS.values() for word in pair}
_BRACKET = re.compile(r"[()\[\]{}<>\s]+")
_SEPARATORS = re.compile(r"[\s,;]+")
_PREFIX = re.compile(r"^(?:bbh|bigbench(?:_hard)?|big_bench_hard)[_\-/:.]")


def subtask_name(subtask: str | None) -> str:
    """The subtask without the prefix that some distributions give it (`bbh_navigate`); "" for none."""
    return _PREFIX.sub("", subtask or "")


def kind_of(gold: str, subtask: str | None = None, choices: Sequence[str] = ()) -> str:
    """How a gold answer is compared: "choice", "word", "number", "brackets", "list" or "text".

    The subtask decides; without one (or where a multiple-choice row's gold is no letter, as some are) the gold does.
    """
    text, kind = gold.strip(), KINDS.get(subtask_name(subtask))
    if choices and options.gold_letter(text, choices):
        return "choice"
    if kind in (None, "choice") and re.fullmatch(r"\(?[A-Z]\)?", text):
        return "choice"
    if kind:
        return "text" if kind == "choice" else kind
    if text.casefold() in _EITHER_WORD:
        return "word"
    if rational(text) is not None:
        return "number"
    return "brackets" if _BRACKET.fullmatch(text) else "text"


def kind_of_answer(answer: str, subtask: str | None = None, choices: Sequence[str] = ()) -> str:
    """How an answer is compared where the gold is not known."""
    kind = KINDS.get(subtask_name(subtask))
    if kind == "choice" or kind is None and options.letter(answer, choices):
        return "choice"
    return kind_of(options.bare(answer), subtask)


def normal(answer: str, kind: str, choices: Sequence[str] = ()) -> str:
    """The normal form in which two answers of one kind are equal or not; "" for what is no answer of that kind."""
    if kind == "choice":
        name = options.letter(answer, choices)
        return f"({name})" if name else ""
    if kind == "number":
        text = _WORKING.sub("", equality.form(answer)[0])
        value = rational(_NUMBER_IN_BRACKETS.sub(r"\1", text))
        return str(value[0]) if value else ""
    text = options.bare(answer)
    if kind == "brackets":
        text = "".join(re.sub(r"[\\`,\"'.]", "", text).split())
        return text if _BRACKET.fullmatch(text) else ""
    if kind == "list":
        return " ".join(_SEPARATORS.split(re.sub("['\"]", "", text.casefold().strip(" .,;[]'\""))))
    if kind == "word":
        spoken = (options.fold(text), options.fold(equality.form(text)[0]))
        return next((word for word in spoken if word in _EITHER_WORD), "")
    return options.fold(text)


_WORKING = re.compile(r"^[^=]*[\d)]\s*(?:[-+*/]|\\cdot|\\times)[^=]*= ?(?=[^=]*$)")  # `7 + 1 = 8` answers 8
_NUMBER_IN_BRACKETS = re.compile(r"^\((.*)\)$")


def equal(gold: str, answer: str, subtask: str | None = None, choices: Sequence[str] = ()) -> bool:
    """Whether `answer` is the gold answer of a BBH row."""
    kind = kind_of(gold, subtask, choices)
    expected = _expected(gold, kind, choices)
    return bool(expected) and normal(answer, kind, choices) == expected


def _expected(gold: str, kind: str, choices: Sequence[str]) -> str:
    if kind == "choice":
        name = options.gold_letter(gold, choices)
        return f"({name})" if name else ""
    return normal(gold, kind)


def problem(gold: str, subtask: str | None = None, choices: Sequence[str] = ()) -> str | None:
    """Why no answer could ever equal this gold, or None."""
    subtask = subtask_name(subtask)
    kind = kind_of(gold, subtask, choices)
    if _expected(gold, kind, choices):
        return None
    forms = {
        "word": " or ".join(WORDS.get(subtask, ("yes", "no"))),
        "number": "a number",
        "brackets": "closing brackets",
        "choice": f"one of the {len(choices)} choices",
    }
    return f"gold answer {gold!r} is not {forms.get(kind, 'an answer')}, which {subtask or 'BBH'} answers with"
