"""Options named by a letter: MMLU, and BBH's multiple-choice tasks.

One letter or one option is an answer; two are none, however they are written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from openrlhf_mlpo.verify import latex, numbers
from openrlhf_mlpo.verify.extract import clean

_NOUN = r"(?:the |my |our )?(?:(?:final|correct|best|right|most likely) )*(?:answer|option|choice)"
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore|finally|i think|i believe|i choose|i pick|i select)\b[,:]? ?|"
    rf"{_NOUN}(?: is| would be| should be| must be|:| =|(?= [(\[]?[A-Za-z][)\].,:]?(?: |$)))[: ]*)+",
    re.IGNORECASE,
)
_LEAD_OUT = re.compile(
    r"(?<=[A-Za-z)\]]) is (?:correct|right|(?:the )?(?:(?:final|correct|best) )*(?:answer|option|choice|one))\.?$",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm|boxed)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:,;]?")
_LETTER_FIRST = re.compile(
    r"(?:[(\[]\s*(?P<in>[A-Za-z])\s*[)\]]\s*[-.:,=]?|(?P<before>[A-Za-z])\s*[).:]"
    r"|(?P<mark>[A-Z])\s*[-,=]+(?= )|(?P<blank>[A-Z])(?= ))\s*(?P<text>\S.*)"
)
_LETTER_LAST = re.compile(r"(?P<text>.*\S)\s*[(\[]\s*(?P<name>[A-Z])\s*[)\]]\.?")
_BRACKETS = re.compile(r"[(\[](.*)[)\]]")
_NAMED = re.compile(
    r"(?<!\w)[(\[]\s*[A-Z]\s*[)\]]|\b(?:or|and|not|nor|option|choice|answer) [(\[]?[A-Z][)\]]?(?![\w'.])"
    r"|[,;]\s*[A-H][).:] ",
    re.IGNORECASE,
)
_ONLY_NAMES = re.compile(
    r"(?:[\s(\[,;:./)\]&-]|\b(?:or|and|not|maybe|perhaps|possibly|either|both|also)\b|\b[A-Za-z]\b|[A-H]{2,})+"
)
_DENIAL = re.compile(r"\b(?:not|never|except|neither|nor)\b|n't\b", re.IGNORECASE)
_MARKS = " .;,:\"'"


def _unmarked(text: str) -> str:
    """The text without LaTeX text markup, `$` and `*`."""
    return re.sub(r"\$|\*|\\[()\[\]]", "", _MARKUP.sub(r"\1", text)).strip()


def bare(text: str) -> str:
    """The text without markup, or a sentence such as "The answer is" around."""
    text = _unmarked(text)
    lead = _LEAD_IN.match(text)
    if lead and lead.end() < len(text):
        text = text[lead.end() :].strip()
    return _LEAD_OUT.sub("", text)


def fold(text: str) -> str:
    """Text of an option for comparison: case, white space, quotes and marks around it aside."""
    return " ".join(text.casefold().split()).strip(_MARKS)


@lru_cache(maxsize=65536)
def _key(text: str) -> str:
    """The text of an option with its mathematics in one notation; case counts."""
    text = latex.notation(" ".join(text.split()).strip(_MARKS))
    number = numbers.rational(text)
    return str(number[0]) if number else latex.tight(text).strip(_MARKS)


def letter(answer: str, choices: Sequence[str] = ()) -> str | None:
    """The one option an answer names, as an upper-case letter, or None.

    `B`, `(b)`, `b.`, `The answer is B`, the text of exactly one of `choices`, or both: `(B) its text`, `B - its text`,
    `its text (B)`. A letter beyond the choices, a letter with another option's text, or a text that two choices share
    names nothing.
    """
    text = bare(answer)
    alone = _LETTER.fullmatch(text)
    if alone:
        name = alone[1].upper()
        return name if not choices or _index(name) < len(choices) else _by_text(text, choices)
    if choices:
        return _by_text(_unmarked(answer), choices) or _by_text(text, choices) or _by_letter_and_text(text, choices)
    match = _LETTER_FIRST.fullmatch(text)
    if match is None or match["blank"]:
        match = None if _DENIAL.search(text) else _LETTER_LAST.fullmatch(text)
    if match is None:
        return None
    name, rest = _name_and_text(match)
    return None if _only_names(rest) or _NAMED.search(rest) else name


def _only_names(text: str) -> bool:
    return bool(_ONLY_NAMES.fullmatch(text)) and not re.search(r"[a-z]\(", text)


def gold_letter(gold: str, choices: Sequence[str] = ()) -> str | None:
    """The letter of a gold answer, which is distributed as a letter, an option's text or an index from 0."""
    return letter(gold, choices) or letter_at(gold, choices)


def letter_at(index: str, choices: Sequence[str]) -> str | None:
    """The letter of the option with this index from 0, or None."""
    if index.isdecimal() and int(index) < min(len(choices), 26):
        return chr(ord("A") + int(index))
    return None


def _index(name: str) -> int:
    return ord(name) - ord("A")


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice with this text: letter by letter, else in any case, else in any notation."""
    options = [_unmarked(clean(without_letter(choice))) for choice in choices]
    for form in (str.strip, fold, _key, lambda each: _key(each).casefold()):
        wanted = form(text)
        same = [index for index, option in enumerate(options) if wanted and form(option) == wanted]
        if same:
            return chr(ord("A") + same[0]) if len(same) == 1 else None
    return None


def _by_letter_and_text(text: str, choices: Sequence[str]) -> str | None:
    for match in (_LETTER_FIRST.fullmatch(text), _LETTER_LAST.fullmatch(text)):
        if match:
            name, text = _name_and_text(match)
            inside = _BRACKETS.fullmatch(text)
            for rest in (text, inside[1] if inside else ""):
                if rest and _index(name) < len(choices) and _by_text(rest, [choices[_index(name)]]):
                    return name
    return None


def _name_and_text(match: re.Match[str]) -> tuple[str, str]:
    """The letter and what stands beside it, of a match of `_LETTER_FIRST` or `_LETTER_LAST`."""
    groups = match.groupdict()
    text = groups.pop("text")
    return next(filter(None, groups.values())).upper(), text


def without_letter(choice: str) -> str:
    """BBH writes its options as `(A) text`, others as `A. text`."""
    return re.sub(r"^(?:\(\s*[A-Z]\s*\)|[A-Z][.)])\s+(?=\S)", "", choice)
