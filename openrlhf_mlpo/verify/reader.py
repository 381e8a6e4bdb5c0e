r"""Reading a small LaTeX grammar into floating-point values, exactly as latex2sympy would or not at all.

Sums, products, small powers, `\frac`, `\sqrt`, `\pi`, `\infty`, the variables of `VARIABLES` at one generic point. Each
rule leaves out what latex2sympy reads in its own way: mixed numbers, digits side by side, `2(3)`, `a/b`, function-like
`x(…)`, `e`, `i`, capitals.
"""

from __future__ import annotations

import math
import re

VARIABLES = {"a": 1.7320, "b": 0.5772, "k": 2.2360, "n": 3.3166, "p": 1.2020, "q": 0.9159, "r": 1.4513, "t": 0.6243,
             "x": 1.3247, "y": 2.5849, "z": 0.7642}  # fmt: skip
_INFINITY = 1e15
_TOKEN = re.compile(
    r"(?:0|[1-9]\d{0,14})(?:\.\d{1,9})?|\\(?:frac|sqrt|pi|cdot|times|infty)(?![A-Za-z])|\^\\circ|[-+^{}()\[\],a-z ]",
    re.ASCII,
)
_ONE_NUMBER_OR_TWO = re.compile(r"\d +\d|,\d{3}")  # "1 2" is 3 to latex2sympy, "1,234" may have a separator


class Unsure(Exception):
    """The text is outside the grammar."""


class Reader:
    """A recursive-descent reader of one text; raises `Unsure` on whatever it does not know."""

    def __init__(self, text: str) -> None:
        tokens = _TOKEN.findall(text)
        if "".join(tokens) != text or _ONE_NUMBER_OR_TWO.search(text):
            raise Unsure
        self.tokens = [token for token in tokens if token != " "]
        self.index = 0

    def single(self) -> float:
        """The value of the whole text."""
        (value,) = self.all_items()
        return value

    def all_items(self) -> tuple[float, ...]:
        """The values of the whole text, a list separated by commas."""
        values = [self.sum()]
        while self.accept(","):
            values.append(self.sum())
        if self.index != len(self.tokens):
            raise Unsure
        return tuple(values)

    def peek(self) -> str:
        return self.tokens[self.index] if self.index < len(self.tokens) else ""

    def accept(self, *tokens: str) -> bool:
        """Whether the next token is one of these; if so, it is taken."""
        if self.peek() not in tokens:
            return False
        self.index += 1
        return True

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise Unsure
        self.index += 1
        return token

    def sum(self) -> float:
        sign = -1.0 if self.accept("-") else 1.0
        total = sign * self.product()
        while self.peek() in ("+", "-"):
            sign = 1.0 if self.take() == "+" else -1.0
            total += sign * self.product()
        return total

    def product(self) -> float:
        total = self.power()
        while True:
            token = self.peek()
            if self.accept("\\cdot", "\\times") or token in ("\\sqrt", "\\pi") or token in VARIABLES:
                total *= self.power()
            elif token in ("+", "-", ",", ")", "}", "]", ""):
                return total
            else:
                raise Unsure

    def power(self) -> float:
        base = self.atom()
        if self.accept("^\\circ") or not self.accept("^"):
            return base  # math-verify reads degrees as the bare number
        exponent = self.group() if self.peek() == "{" else float(self.take())
        if abs(exponent) > 60 or abs(base) > 1e6 or (self.tokens[self.index - 1] != "}" and exponent > 9):
            raise Unsure  # x^10 without braces is x^1 times 0
        if base < 0 and exponent != int(exponent):
            raise Unsure
        return base**exponent

    def group(self) -> float:
        self.take("{")
        result = self.sum()
        self.take("}")
        return result

    def atom(self) -> float:
        token = self.take()
        if token[0].isdigit():
            return float(token)
        if token in VARIABLES:
            return VARIABLES[token]
        if token == "\\pi":
            return math.pi
        if token == "\\infty":
            return _INFINITY
        if token == "\\frac":
            return self.group() / self.group()
        if token == "\\sqrt":
            order = 2.0
            if self.accept("["):
                order = float(self.take())
                self.take("]")
                if order not in (2.0, 3.0, 4.0, 5.0):
                    raise Unsure
            inside = self.group()
            if inside < 0:
                raise Unsure
            return inside ** (1 / order)
        if token == "(":
            result = self.sum()
            self.take(")")
            return result
        raise Unsure
