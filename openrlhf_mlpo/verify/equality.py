r"""MATH: whether two answers are one, by math-verify where no cheaper way is certain.

In turn: one notation (`latex`) and what a sentence commits to (`prose`); equal strings; words against words; refused by
shape (`hopeless`); numbers in closed form; memory of earlier pairs; math-verify in a worker.
"""

from __future__ import annotations

import logging
import math
import os
import re
from functools import lru_cache
from itertools import accumulate
from threading import Lock
from weakref import WeakValueDictionary

from openrlhf_mlpo.verify import latex, numbers, prose, workers

logger = logging.getLogger(__name__)

MAX_ANSWER = 1000  # characters; the longest MATH golds have about 150
MAX_DEPTH = 40  # of nested braces and brackets

_SEPARATE_NUMBERS = re.compile(r"\d\}?\s+\{?\d|\d\}?\{\d")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_LISTED = re.compile(r"[(\[{]|,\s")
_MONOMIAL = re.compile(r"-?[\d.,/]+(?:\s?[A-Za-z])+")
_LETTERS = re.compile(r"[A-Za-z]")
_NESTED_LIST = re.compile(r"[\[{(]\s*[\[({][^\[\](){}]*[\])}](?:\s*,\s*[\[({][^\[\](){}]*[\])}])*\s*[\])}]")
_BASE = re.compile(r"\d\s?_\s?\{?(\d+)\}?$")
_OPTION = re.compile(r"\(?[A-Z]\)?")
_DEPTH_STEP = {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}
_DIGITS = re.compile(r"\d+")
_TOWER = re.compile(r"\^\s*\{?\s*\(?\s*[\dA-Za-z!]+\s*\)?\s*\}?\s*\^|\^\s*\{[^{}]*\^")
_TOWER_OF_NUMBERS = re.compile(r"\d+(?:\s*\}?\)?\s*\^\s*[{(]*\s*\d+)+")
_POWER = re.compile(r"\^\s*[{(]?\s*-?(\d+)")
_FACTORIAL = re.compile(r"(\d+)\s*[)}]?\s*!")
_HEAVY = re.compile(r"\\(?:int|iint|iiint|oint|sum|prod|lim)(?![A-Za-z])|![^=]*!|\d{5,}\s*[)}]?!")

Pair = tuple[str, str]
_turns: WeakValueDictionary[Pair, Lock] = WeakValueDictionary()  # one for each pair that is being asked about
_lock = Lock()


@lru_cache(maxsize=65536)
def form(text: str, gold: bool = False) -> tuple[str, bool]:
    """A gold or answer as it is compared, and whether it is mathematics (or else words)."""
    if text.isdigit() and text.isascii():
        return text, True
    core, is_math = prose.answer_of(latex.notation(text), gold)
    if not is_math:
        return core, False
    if "," in core and not _LISTED.search(core):
        core = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), core)
    return latex.expand_plus_minus(core), True


def words(text: str) -> str:
    """Words for comparison: case, marks, blanks and a first article aside."""
    return re.sub(r"[\W_]+", "", re.sub(r"^(?:an?|the) ", "", text.casefold())) or text


def equal(gold: str, answer: str) -> bool | None:
    """Whether `answer` equals `gold`; None when math-verify could not decide within its limits. Never raises."""
    if len(answer) > max(MAX_ANSWER, 2 * len(gold)):
        return False
    settled = _settle(gold, answer)
    return settled if isinstance(settled, bool) else _ask(*settled)


@lru_cache(maxsize=65536)
def _settle(gold: str, answer: str) -> bool | Pair:
    """The verdict where it is certain without math-verify, else the pair that math-verify is asked about."""
    said = answer
    (gold, gold_is_math), (answer, answer_is_math) = form(gold, True), form(answer)
    if not gold or not answer:
        return False
    if gold == answer or latex.tight(gold) == latex.tight(answer):
        return True
    if not gold_is_math:
        return _equal_words(gold, answer) or _equal_words(gold, latex.notation(said))
    if not answer_is_math:
        return _equal_words(gold, answer)
    gold, answer = _of_one_kind(gold, answer)
    verdict = numbers.decide(gold, answer)
    if verdict is None and _refused(gold, answer):
        verdict = False
    return (gold, answer) if verdict is None else verdict


def _equal_words(gold: str, answer: str) -> bool:
    if ":" in answer and prose.half_day(answer) == gold:
        return True
    if any(map(_SEPARATE_NUMBERS.search, (gold, answer))):
        return gold.casefold().split() == answer.casefold().split()
    return words(gold) == words(answer)


def _of_one_kind(gold: str, answer: str) -> Pair:
    """The answer written as the gold is, where only the gold can say how it is meant."""
    if _LETTERS.search(answer) and not _LETTERS.search(gold):
        answer = prose.letter_unit(answer)
    if "matrix}" in gold and _NESTED_LIST.fullmatch(answer):
        rows = re.findall(r"[\[({]([^\[\](){}]*)[\])}]", answer[1:-1])
        kind = re.search(r"\\begin\{(\w+)\}", gold)
        if kind:
            body = r" \\ ".join(row.replace(",", " & ") for row in rows)
            answer = rf"\begin{{{kind[1]}}} {body} \end{{{kind[1]}}}"
    return gold, answer


def _refused(gold: str, answer: str) -> bool:
    """Whether the shape alone makes the answer wrong: several numbers in a row, a bare word, nothing to be computed."""
    if _SEPARATE_NUMBERS.search(_no_commands(answer)) and not _SEPARATE_NUMBERS.search(_no_commands(gold)):
        return True  # latex2sympy adds them up: "1 2 3" would pay for 6
    if " | " in answer and " | " not in gold:
        return True
    if (base := _BASE.search(answer)) and base[1] != "10":  # math-verify drops bases: 101_3 would pay for 101_2
        meant = _BASE.search(gold)
        if meant is None or meant[1] != base[1]:
            return True
    for one, other in ((gold, answer), (answer, gold)):
        if _MONOMIAL.fullmatch(one) and not _LETTERS.search(other):
            return True  # math-verify takes some letters for units: "5m" would pay for 5, and "15 ab" for 15
        if _OPTION.fullmatch(one) and numbers.is_constant(other):
            return True
    return hopeless(answer) or hopeless(gold)


def _no_commands(text: str) -> str:
    """The text without the arguments of fractions and the like, which stand side by side."""
    return re.sub(r"\\[dt]?(?:frac|binom)\s*\{[^{}]*\}\s*\{[^{}]*\}|\\sqrt\[\d+\]\s*\{[^{}]*\}", "f", text)


def _ask(gold: str, answer: str) -> bool | None:
    """math-verify's verdict, asked once: equal pairs asked at the same time wait for one check."""
    with _lock:
        turn = _turns.setdefault((gold, answer), Lock())
    with turn:
        try:
            return _verdict(gold, answer)
        except workers.Undecided:
            return None


@lru_cache(maxsize=200_000)
def _verdict(gold: str, answer: str) -> bool | None:
    """math-verify's verdict; None where a check went past its own limits, as it would again.

    Raises Undecided where it was not the check's own fault: that is not remembered, so it is asked again next time.
    """
    try:
        return workers.run("verify", gold, answer, expensive=looks_expensive(answer))
    except workers.Undecided as reason:
        logger.debug("undecided (%s): %.80r against %.80r", reason, answer, gold)
        if not reason.own:
            raise
        return None


def _after_fork() -> None:
    global _lock
    _lock = Lock()  # another thread of the parent may have held it
    _turns.clear()


os.register_at_fork(after_in_child=_after_fork)


def hopeless(answer: str) -> bool:
    """Whether math-verify could not decide this within any limit: nesting, thousands of digits, towers of powers.

    Only shapes that a check has no chance with; tests/verify/test_hostile.py compares.
    """
    depths = accumulate(_DEPTH_STEP.get(char, 0) for char in answer)
    if max(depths, default=0) > MAX_DEPTH or any(len(run) > 400 for run in _DIGITS.findall(answer)):
        return True
    return _digits_written_out(answer) > 200_000


def _digits_written_out(answer: str) -> float:
    """A rough count of the decimal digits of the largest number that the literal powers and factorials write out."""
    towers = [list(map(int, _DIGITS.findall(tower)[:6])) for tower in _TOWER_OF_NUMBERS.findall(answer)]
    # of more than a million the count does not matter
    factorials = [min(int(number), 10**6) for number in _FACTORIAL.findall(answer)]
    return max([0.0, *map(_tower_digits, towers), *(number * math.log10(number + 1) for number in factorials)])


def _tower_digits(powers: list[int]) -> float:
    exponent = 1.0
    for number in reversed(powers[1:]):
        if number < 2:
            exponent = float(number)
            continue
        if exponent * math.log10(number) > 12:
            return math.inf
        exponent = float(number) ** exponent
    return exponent * math.log10(max(powers[0], 1))


def looks_expensive(answer: str) -> bool:
    """Whether a check may take long: it then waits in the lane of its like."""
    return (
        len(answer) > 200
        or bool(_HEAVY.search(answer))
        or bool(_TOWER.search(answer))
        or any(int(power[:5]) > 30 for power in _POWER.findall(answer))
    )


def readable(gold: str) -> bool:
    """Whether answers can be compared with this gold answer: words, or mathematics that math-verify reads."""
    text, is_math = form(gold, True)
    if not text:
        return False
    if not is_math or numbers.value_of(text) is not None:
        return True
    try:
        return workers.run("parses", text, expensive=looks_expensive(text))
    except workers.Undecided:
        return False
