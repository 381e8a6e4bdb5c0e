"""Tell apart numbers that math-verify takes for equal because it looks at six decimals."""

from __future__ import annotations

from typing import Any

ROUNDED = 6  # significant digits that a decimal needs to stand for the exact number it rounds
_DIGITS = 40  # of precision in which constants are evaluated


def differ(gold: Any, answer: Any) -> bool:
    """Whether two sympy objects that math-verify calls equal hold numbers that are not.

    A decimal equals an exact number when it is that number, rounded or cut after at least `ROUNDED` significant digits.
    """
    ours, theirs = _constants(gold), _constants(answer)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return False  # not numbers, or written in too different ways: math-verify's word stands
    return any(map(_numbers_differ, ours, theirs))


def _constants(value: Any) -> list[Any] | None:
    """The numbers in a number, `x = number`, tuple, interval, matrix or (sorted) finite set; None if it has others."""
    import sympy

    if isinstance(value, sympy.MatrixBase):
        items = list(value)
    elif isinstance(value, sympy.Equality) and isinstance(value.lhs, sympy.Symbol):
        items = [value.rhs]
    elif isinstance(value, sympy.Interval):
        items = [value.start, value.end]
    elif isinstance(value, sympy.Tuple | sympy.FiniteSet):
        items = list(value.args)
    else:
        items = [value]
    if not all(isinstance(item, sympy.Expr) and item.is_number for item in items):
        return None
    if any(item.has(sympy.UnevaluatedExpr) for item in items):  # a percentage, which equals two numbers
        return None
    if isinstance(value, sympy.FiniteSet):
        if not all(item.is_real for item in items):
            return None
        items.sort(key=lambda item: sympy.N(item, _DIGITS))
    return items


def _numbers_differ(one: Any, other: Any) -> bool:
    import sympy

    x, y = _exactly(one), _exactly(other)
    distance = abs(sympy.N(x - y, _DIGITS))
    size = max(abs(sympy.N(x, _DIGITS)), abs(sympy.N(y, _DIGITS)))
    if not (distance.is_finite and size.is_finite) or distance <= size * sympy.Float(10) ** (5 - _DIGITS):
        return False
    if one.has(sympy.Float) == other.has(sympy.Float):
        return True
    decimal = one if one.has(sympy.Float) else other
    digits = max(len(_digits(number)) for number in decimal.atoms(sympy.Float))
    magnitude = sympy.floor(sympy.log(size, 10))
    return digits < ROUNDED or bool(distance >= sympy.Float(10) ** (magnitude + 1 - digits))


def _exactly(value: Any) -> Any:
    """The expression with its decimals as the fractions that were written."""
    import sympy

    return value.xreplace({number: sympy.Rational(repr(float(number))) for number in value.atoms(sympy.Float)})


def _digits(number: Any) -> str:
    return repr(float(number)).partition("e")[0].replace(".", "").lstrip("-0").rstrip("0")
