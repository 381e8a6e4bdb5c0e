"""Options named by a letter: MMLU, and BBH's multiple-choice tasks.

One letter or one option is an answer; two are none, however they are written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from openrlhf_mlpo.verify.extract import clean

_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the )?(?:final |correct |best |right )?(?:answer|option|choice)"
    r"(?: is|:| =)?[: ]*)+",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:,]?")
_LETTER_AND_TEXT = re.compile(r"(?:[(\[]\s*([A-Z])\s*[)\]]|([A-Z])\s*[).:])[.:,]?\s+(\S.*)")
_OTHER_OPTION = re.compile(r"[(\[]\s*[A-Za-z]\s*[)\]]|(?<![A-Za-z'])[B-Z](?![A-Za-z'])|(?<![A-Za-z])A[).:,]")


def bare(text: str) -> str:
    """The text without LaTeX text markup, `$`, `*`, or a sentence such as "The answer is" in front."""
    text = _MARKUP.sub(r"\1", text).replace("$", "").replace("*", "").strip()
    return _LEAD_IN.sub("", text, count=1).strip() if _LEAD_IN.match(text) and len(text) > 1 else text


def fold(text: str) -> str:
    """Text of an option for comparison: case, white space, quotes and a final period aside."""
    return " ".join(text.casefold().split()).strip(" .\"'“”‘’")


def letter(answer: str, choices: Sequence[str] = ()) -> str | None:
    """The one option an answer names, as an upper-case letter, or None.

    `B`, `(b)`, `b.`, `(B) its text`, `The answer is B`; with `choices` also the text of exactly one of them. A letter
    beyond the choices, a letter with another option's text, or a text that two choices share names nothing.
    """
    text = bare(answer)
    matched = _LETTER.fullmatch(text)
    if matched:
        return _within(matched.group(1).upper(), choices)
    options = [fold(bare(clean(_without_letter(choice)))) for choice in choices]
    same = [index for index, option in enumerate(options) if option and option == fold(text)]
    if same:
        return chr(ord("A") + same[0]) if len(same) == 1 else None
    matched = _LETTER_AND_TEXT.fullmatch(text)
    if not matched:
        return None
    name, rest = matched.group(1) or matched.group(2), matched.group(3)
    if not choices:
        return None if _OTHER_OPTION.search(rest) else name
    index = ord(name) - ord("A")
    return name if index < len(options) and options[index] == fold(rest) else None


def _within(name: str, choices: Sequence[str]) -> str | None:
    return name if not choices or ord(name) - ord("A") < len(choices) else None


def _without_letter(choice: str) -> str:
    """BBH writes its options as `(A) text`."""
    return re.sub(r"^\(\s*[A-Z]\s*\)\s*", "", choice)
