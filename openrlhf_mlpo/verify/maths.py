r"""MATH: math-verify's verdict, asked for only when a cheaper certain way does not settle it.

In turn: equal after light rewriting; refused by shape (`hopeless`); numbers in closed form; memory of earlier pairs;
math-verify in a worker. An answer it cannot decide within its limits is wrong.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections import OrderedDict
from concurrent.futures import Future
from functools import lru_cache
from threading import Lock

from openrlhf_mlpo.verify import closed_form, pool, worker
from openrlhf_mlpo.verify.extract import clean

logger = logging.getLogger(__name__)

MAX_ANSWER = 1000  # characters; the longest MATH golds have about 150
MAX_DEPTH = 40  # of nested braces and brackets

_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the |my )?(?:final |correct )?answer(?: is|:| =)[: ]*", re.IGNORECASE
)
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:left|right)(?=\s*[()\[\]|.]|\\[{}])", ""),
        (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)(?!\d)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"(?<=\d),\s?\\!\s?(?=\d{3})", ","),
        (r"\\!", ""),
        (r"(?:\^\s*\{?\s*\\circ\s*\}?|°)", r"^\\circ"),
    )
)
_TIGHT = re.compile(r" ?([-+*/=<>^_{}()\[\],;:|]) ?")
_SEPARATE_NUMBERS = re.compile(r"\d\s+\d")
_WORD = re.compile(r"\\text\{ ?(?:[A-Za-z][A-Za-z ]*|\([A-Z]\))\}")
_UNIT_WORD = re.compile(r"(-?[\d.,]+) ([a-z]{2,}(?: [a-z]{2,}){0,2})")
_DEPTH_STEP = {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}
_DIGITS = re.compile(r"\d+")
_TOWER = re.compile(r"\^\s*\{?\s*\(?\s*[\dA-Za-z!]+\s*\)?\s*\}?\s*\^|\^\s*\{[^{}]*\^|\*\*[^*]*\*\*")
_POWER = re.compile(r"(?:\^|\*\*)\s*[{(]?\s*-?(\d+)")
_FACTORIAL = re.compile(r"(\d+)\s*[)}]?\s*!|!\s*[)}]?\s*!")
_HEAVY = re.compile(r"\\(?:d?int|iint|iiint|oint|sum|prod|lim|binom|mod|pmod|bmod|gcd|lcm|det|exp)(?![A-Za-z])|!")

_remembered: OrderedDict[tuple[str, str], bool] = OrderedDict()
_REMEMBERED = 200_000
_undecided: set[tuple[str, str]] = set()
_asking: dict[tuple[str, str], Future[bool]] = {}
_lock = Lock()


@lru_cache(maxsize=65536)
def plain(answer: str) -> str:
    r"""A gold or answer in the form math-verify is asked about: no `$`, no lead-in, plain units, one notation."""
    text = clean(answer)
    text = _LEAD_IN.sub("", text, count=1) if len(text) > 6 and "nswer" in text[:40] else text
    text = clean(text.rstrip(" .;,")) if text.rstrip(" .;,") and not text.endswith("\\") else text
    if "$" in text and "\\$" not in text:
        text = text.replace("$", "")
    unit = _UNIT_WORD.fullmatch(text)
    if unit:
        text = rf"{unit.group(1)}\text{{ {unit.group(2)}}}"
    if "\\" in text or "°" in text or " " in text:
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
        text = text.strip()
    return text


@lru_cache(maxsize=65536)
def _tight(text: str) -> str:
    return _TIGHT.sub(r"\1", text)


def equal(gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold`. Never raises, never hangs: undecided is False."""
    if len(answer) > max(MAX_ANSWER, 2 * len(gold)):
        return False
    gold, answer = plain(gold), plain(answer)
    if not gold or not answer:
        return False
    if gold == answer or _tight(gold) == _tight(answer):
        return True
    verdict = closed_form.decide(gold, answer)
    if verdict is None:
        verdict = _by_kind(gold, answer)
    return _ask(gold, answer) if verdict is None else verdict


def _by_kind(gold: str, answer: str) -> bool | None:
    """False where one is a bare word and the other a number, or the answer is hopeless or several numbers in a row."""
    if _SEPARATE_NUMBERS.search(answer) and not _SEPARATE_NUMBERS.search(gold):
        return False  # latex2sympy adds them up: "1 2 3" would pay for 6
    if hopeless(answer):
        return False
    for one, other in ((gold, answer), (answer, gold)):
        if _WORD.fullmatch(one) and closed_form.is_constant(other):
            return False
    return None


def _ask(gold: str, answer: str) -> bool:
    """math-verify's verdict, asked once: equal pairs asked at the same time wait for one check.

    A pair left undecided is asked once more when it comes again (the machine may have been busy), then stays wrong.
    """
    pair = (gold, answer)
    with _lock:
        known = _remembered.get(pair)
        if known is not None:
            _remembered.move_to_end(pair)
            return known
        check = _asking.get(pair)
        mine = check is None
        if check is None:
            check = _asking[pair] = Future()
    if not mine:
        return check.result()
    verdict, decided, asked = False, True, True
    try:
        verdict = pool.run(worker.verify, gold, answer, expensive=pair in _undecided or looks_expensive(answer))
    except pool.Undecided as reason:
        logger.debug("undecided (%s): %.80r against %.80r", reason, answer, gold)
        decided, asked = False, not isinstance(reason, pool.Busy)
    finally:
        with _lock:
            del _asking[pair]
            if decided or pair in _undecided:
                _remembered[pair] = verdict
                if len(_remembered) > _REMEMBERED:
                    _remembered.popitem(last=False)
            elif asked:
                _undecided.add(pair)
        check.set_result(verdict)
    return verdict


def forget() -> None:
    """Empty the memory of earlier pairs (tests and benchmarks)."""
    _remembered.clear()
    _undecided.clear()
    for cached in (plain, _tight, closed_form.rational, closed_form.value_of):
        cached.cache_clear()


def _after_fork() -> None:
    global _lock
    _lock = Lock()  # another thread of the parent may have held it
    _asking.clear()


os.register_at_fork(after_in_child=_after_fork)


def hopeless(answer: str) -> bool:
    """Whether math-verify could not decide this within any limit: nesting, thousands of digits, towers of powers.

    Only shapes that a check has no chance with; tests/test_verify_hostile.py compares.
    """
    depth = deepest = 0
    for char in answer:
        depth += _DEPTH_STEP.get(char, 0)
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH or any(len(run) > 400 for run in _DIGITS.findall(answer)):
        return True
    return _digits_written_out(answer) > 200_000


def _digits_written_out(answer: str) -> float:
    """A rough count of the decimal digits of the largest number that the literal powers and factorials write out."""
    largest = 0.0
    for match in _TOWER_OF_NUMBERS.finditer(answer):
        exponents = [int(part) for part in _DIGITS.findall(match.group())[:6]]
        largest = max(largest, _tower_digits(exponents))
    for match in _FACTORIAL.finditer(answer):
        if match.group(1) is None:
            continue
        number = int(match.group(1))
        largest = max(largest, math.inf if number > 10**6 else number * math.log10(number + 1))
    return largest


_TOWER_OF_NUMBERS = re.compile(r"\d+(?:\s*\}?\)?\s*(?:\^|\*\*)\s*[{(]*\s*\d+)+")


def _tower_digits(numbers: list[int]) -> float:
    exponent = 1.0
    for number in reversed(numbers[1:]):
        if number < 2:
            exponent = float(number)
            continue
        if exponent * math.log10(number) > 12:
            return math.inf
        exponent = float(number) ** exponent
    return exponent * math.log10(max(numbers[0], 1))


def looks_expensive(answer: str) -> bool:
    """Whether a check may take long: it then waits in the lane of its like."""
    return (
        len(answer) > 200
        or bool(_HEAVY.search(answer))
        or bool(_TOWER.search(answer))
        or any(int(power[:5]) > 30 for power in _POWER.findall(answer))
    )


def parses(gold: str) -> bool:
    """Whether math-verify can read this gold answer as mathematics at all."""
    if closed_form.value_of(plain(gold)) is not None:
        return True
    try:
        return bool(pool.run(worker.parses, plain(gold), expensive=looks_expensive(gold)))
    except pool.Undecided:
        return False
