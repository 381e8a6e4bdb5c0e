"""BIG-Bench Hard: exact match in the form each of the 27 tasks answers in."""

from __future__ import annotations

import re
from collections.abc import Sequence

from openrlhf_mlpo.verify import choices as options
from openrlhf_mlpo.verify.closed_form import rational

WORDS = {
    "boolean_expressions": ("true", "false"),
    "causal_judgement": ("yes", "no"),
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("yes", "no"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("yes", "no"),
}
NUMBERS = ("multistep_arithmetic_two", "object_counting")
BRACKETS = ("dyck_languages",)
LISTS = ("word_sorting",)
CHOICES = (
    "date_understanding", "disambiguation_qa", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects",
    "logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation",
    "penguins_in_a_table", "reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection",
    "snarks", "temporal_sequences", "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects",
)  # fmt: skip
SUBTASKS = (*WORDS, *NUMBERS, *BRACKETS, *LISTS, *CHOICES)

_EITHER_WORD = {word for pair in WORDS.values() for word in pair}
_BRACKET = re.compile(r"[()\[\]{}<>\s]+")
_SEPARATORS = re.compile(r"[\s,;]+")


def kind_of(gold: str, subtask: str | None = None) -> str:
    """How a gold answer is compared: "choice", "word", "number", "brackets", "list" or "text".

    The subtask decides; without one (or where a multiple-choice row's gold is no letter, as some are) the gold does.
    """
    text = gold.strip()
    if subtask in CHOICES or subtask not in SUBTASKS:
        if re.fullmatch(r"\(?[A-Z]\)?", text):
            return "choice"
        if subtask in CHOICES:
            return "text"
    if subtask in WORDS or (subtask not in SUBTASKS and text.casefold() in _EITHER_WORD):
        return "word"
    if subtask in NUMBERS or (subtask not in SUBTASKS and rational(text) is not None):
        return "number"
    if subtask in BRACKETS or (subtask not in SUBTASKS and text and _BRACKET.fullmatch(text)):
        return "brackets"
    return "list" if subtask in LISTS else "text"


def normal(answer: str, kind: str, choices: Sequence[str] = ()) -> str:
    """The normal form in which two answers of one kind are equal or not; "" for what is no answer of that kind."""
    if kind == "choice":
        name = options.letter(answer, choices)
        return f"({name})" if name else ""
    if kind == "brackets":
        text = "".join(options.bare(answer).replace("\\", "").replace("`", "").replace(",", "").split())
        return text if _BRACKET.fullmatch(text) else ""
    text = options.bare(answer)
    if kind == "number":
        value = rational(text.replace(" ", "").removesuffix("."))
        return str(value[0]) if value else ""
    if kind == "list":
        return " ".join(_SEPARATORS.split(text.casefold().strip(" .,;[]'\"").replace("'", "").replace('"', "")))
    text = options.fold(text)
    if kind == "word":
        return text if text in _EITHER_WORD else ""
    return text


def equal(gold: str, answer: str, subtask: str | None = None, choices: Sequence[str] = ()) -> bool:
    """Whether `answer` is the gold answer of a BBH row."""
    kind = kind_of(gold, subtask)
    expected = normal(gold, kind, choices)
    return bool(expected) and normal(answer, kind, choices) == expected


def problem(gold: str, subtask: str | None = None) -> str | None:
    """Why no answer could ever equal this gold, or None."""
    kind = kind_of(gold, subtask)
    if normal(gold, kind):
        return None
    form = {"word": " or ".join(WORDS.get(subtask or "", ("yes", "no"))), "number": "a number",
            "brackets": "closing brackets"}.get(kind, "an answer")  # fmt: skip
    return f"gold answer {gold!r} is not {form}, which {subtask or 'BBH'} answers with"
