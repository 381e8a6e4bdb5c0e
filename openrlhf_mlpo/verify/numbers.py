r"""Answers decided here, without math-verify, only where its verdict is certain.

Rationals in plain notation are compared exactly. What `reader` can evaluate (numbers, expressions, complex numbers,
percentages, tuples, intervals, lists, matrices, equations `x = …`) is evaluated in floating point, which can only
ever prove two answers DIFFERENT. Whatever is outside its grammar, or too close to call, is math-verify's business:
`decide` returns None. tests/verify/test_numbers.py checks its verdicts against math-verify's.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

from openrlhf_mlpo.verify.reader import VARIABLES, Reader, Unsure

_RATIONAL = re.compile(
    r"[-+]?(?:\d{1,18}|[1-9]\d{0,2}(?:,\d{3}){1,5}|[1-9]\d{0,17}/[1-9]\d{0,17}"
    r"|(?P<decimal>(?:0|[1-9]\d{0,5}|[1-9]\d{0,2}(?:,\d{3}){1,2})?\.\d{1,9})"
    r"|\\frac\{(?P<top>-?[1-9]\d{0,17})\}\{(?P<bottom>[1-9]\d{0,17})\})",
    re.ASCII,
)
# Units and bases: math-verify drops the ones it knows; with the others the number still has to be the same.
_DECORATION = re.compile(r"\\text\{ [A-Za-z ]{2,24}\}$|\^\\circ$|^\\\$|(?<=\d)_(?:\d|\{\d{1,2}\})$")
_MATRIX = re.compile(r"\\begin\{([pb]matrix)\}([^&\\]*(?:(?:&|\\\\|\\(?!begin|end|\\))[^&\\]*)*)\\end\{\1\}")
_COMPLEX = re.compile(r"(?:([^i]+?) ?(?=[+-]))?([+-]? ?[^-+i,]*)i")
_COMMANDS = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+")
_MAX_CHARS = 160
_FAR = 1e-3  # relative distance at which two values are certainly different, for math-verify too

# (kind, values): "number", "percent", "complex", "list" (without order), "matrix RxC", "= x" (an equation's right
# side), or a pair of brackets: "()" a tuple or an open interval, "[)", "(]", "[]" intervals.
Value = tuple[str, tuple[float, ...]]


@lru_cache(maxsize=65536)
def rational(text: str) -> tuple[Fraction, bool] | None:
    """The value of a plain integer, decimal or fraction, and whether it was a decimal; None for anything else."""
    match = _RATIONAL.fullmatch(text)
    if match is None:
        return None
    if match["top"] is None:
        return Fraction(text.replace(",", "")), match["decimal"] is not None
    value = Fraction(int(match["top"]), int(match["bottom"]))
    return (-value if text.startswith("-") else value), False


@lru_cache(maxsize=65536)
def value_of(text: str) -> Value | None:
    """What `text` evaluates to, or None when it is nothing we are sure to read as math-verify does."""
    text = _DECORATION.sub("", text)
    plain = rational(text)
    if plain is not None:
        return "number", (float(plain[0]),)
    if len(text) > _MAX_CHARS or text.isalpha():
        return None
    try:
        kind, values = _read(text)
    except (Unsure, ArithmeticError, ValueError):
        return None
    return (kind, values) if all(map(math.isfinite, values)) else None


def right_side(text: str) -> str:
    """The value of `x = value`; any other text as it is."""
    return re.sub(r"^[a-zA-Z] ?= ?(?=[^=]*$)", "", text)


def is_constant(text: str) -> bool:
    """Whether `text` evaluates without any variable."""
    return value_of(text) is not None and not re.search("[a-z]", _COMMANDS.sub("", text))


def _read(text: str) -> Value:
    if text.endswith("\\%"):
        plain = rational(text[:-2])
        if plain is None:
            raise Unsure
        return "percent", (float(plain[0]),)
    if text[-1:] == "i" and not text.endswith("\\pi"):
        match = _COMPLEX.fullmatch(text)
        if match is None:
            raise Unsure
        sign = {"": 1.0, "+": 1.0, "-": -1.0}.get(match[2].strip())
        return "complex", (_number(match[1]) if match[1] else 0.0, sign or _number(match[2].removeprefix("+").strip()))
    if text.startswith("\\begin"):
        return _matrix(text)
    if text.count("=") == 1:
        left, right = (side.strip() for side in text.split("="))
        if left not in VARIABLES or left in _COMMANDS.sub("", right):
            raise Unsure
        return f"= {left}", (_number(right),)
    if text[:1] in "([" and text[-1:] in ")]" and "," in text and not re.search(r"[()\[\]]", text[1:-1]):
        brackets, values = text[0] + text[-1], Reader(text[1:-1]).all_items()
        if brackets != "()" and (len(values) != 2 or values[0] >= values[1]):
            raise Unsure  # an interval that is empty equals any other
        return brackets, values
    values = Reader(text).all_items()
    if len(values) == 1:
        return "number", values
    if any(not _far(x, y) for index, x in enumerate(values) for y in values[:index]):
        raise Unsure  # a set forgets repetitions
    return "list", values


def _number(text: str) -> float:
    text = text.strip()
    plain = rational(text)
    return float(plain[0]) if plain is not None else Reader(text).single()


def _matrix(text: str) -> Value:
    match = _MATRIX.fullmatch(text)
    if match is None:
        raise Unsure
    rows = [[_number(cell) for cell in row.split("&")] for row in match[2].split("\\\\")]
    if len({len(row) for row in rows}) != 1:
        raise Unsure
    return f"matrix {len(rows)}x{len(rows[0])}", tuple(cell for row in rows for cell in row)


def decide(gold: str, answer: str) -> bool | None:
    """Whether two answers are equal, or None when only math-verify can say."""
    a, b = rational(gold), rational(answer)
    if a is not None and b is not None:
        (x, x_decimal), (y, y_decimal) = a, b
        if x == y:
            return True
        if not (x_decimal or y_decimal):
            return False
        # math-verify rounds decimals to six places: near misses are its own to judge
        return False if abs(x - y) > Fraction(1, 10_000) else None
    left, right = value_of(gold), value_of(answer)
    if left is None or right is None:
        return None
    return False if _certainly_differ(left, right) else None


def _certainly_differ(left: Value, right: Value) -> bool:
    (kind, xs), (other, ys) = left, right
    if kind == other:
        if kind == "list" and len(xs) == len(ys):
            xs, ys = tuple(sorted(xs)), tuple(sorted(ys))
        return len(xs) != len(ys) or any(_far(x, y) for x, y in zip(xs, ys, strict=True))
    if "number" not in (kind, other):
        return False  # a tuple and a list, an equation and a percentage: math-verify has its ways
    x, (other, ys) = (xs[0], right) if kind == "number" else (ys[0], left)
    if other == "percent":
        return _far(x, ys[0]) and _far(x, ys[0] / 100)
    if other == "complex":
        return _far(x, ys[0]) or _far(0.0, ys[1])
    if other.startswith("="):
        return _far(x, ys[0])  # the right side of `x = 3` answers 3
    return True


def _far(x: float, y: float) -> bool:
    return abs(x - y) > _FAR * max(1.0, abs(x), abs(y))
