"""What is decided without math-verify must be what math-verify decides."""

from __future__ import annotations

import random

import pytest

from openrlhf_mlpo.verify import numbers, worker


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("42", "42", True),
        ("42", "43", False),
        ("1,000", "1000", True),
        ("0.5", "\\frac{1}{2}", True),
        ("1/2", "\\frac{2}{4}", True),
        ("-\\frac{1}{2}", "\\frac{-1}{2}", True),
        ("0.333", "1/3", False),
        ("0.333333", "1/3", None),  # math-verify rounds to six places
        ("2\\sqrt{3}", "3\\sqrt{2}", False),
        ("2\\sqrt{3}", "\\sqrt{12}", None),  # equal is never decided here
        ("\\frac{5}{3}\\pi - 2\\sqrt{3}", "5", False),
        ("2x+3", "2x-3", False),
        ("(1,2)", "(1,3)", False),
        ("(1,2)", "1, 2", None),
        ("4, 0, -4", "0, 4, -4", None),
        ("4, 0, -4", "0, 4", False),
        ("3, 3", "3", None),
        ("105^\\circ", "75", False),
        ("\\$30", "31", False),
        ("60\\text{ inches}", "61", False),
        ("70\\%", "60\\%", False),
        ("70\\%", "0.7", None),
        ("70\\%", "7", False),
        ("6 + 3i", "6 - 3i", False),
        ("6 + 3i", "3i + 6", None),
        ("6 + 3i", "6", False),
        ("2i", "-i", False),
        ("3i", "3i", None),
        ("2i \\cdot 3i", "6", None),
        ("y = 2x + 3", "y = 4x + 3", False),
        ("y = 2x + 3", "2x + 4", False),
        ("x = 3", "y = 3", None),
        ("5", "x = 6", False),
        ("5", "5 = 6", None),
        ("(2,\\infty)", "(4,\\infty)", False),
        ("(2,\\infty)", "2", False),
        ("[2,3]", "[2,4]", False),
        ("[2,3]", "(2,3)", None),
        ("[3,2]", "[5,4]", None),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}", False),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "2", False),
        ("2\\pi", "3\\pi", False),
        ("5", "2\\frac{1}{2}", None),
        ("5", "2(3)", None),
        ("5", "1 2", None),
        ("5", "x(3)", None),
        ("5", "e", None),
        ("5", "i", None),
        ("5", "2^{1000}", None),
        ("5", "x^10", None),
        ("5", "\\frac{1}{0}", None),
        ("5", "9^{9^{9}}", None),
        ("5", "(" * 60 + "5" + ")" * 60, None),
        ("5", "", None),
    ],
)
def test_decide(gold: str, answer: str, expected: bool | None) -> None:
    assert numbers.decide(gold, answer) is expected


def _expression(rng: random.Random, depth: int) -> str:
    def atom(level: int) -> str:
        kind = rng.random()
        if level <= 0 or kind < 0.4:
            return str(rng.randint(0, 12))
        if kind < 0.55:
            return rng.choice(["\\pi", "x", "y", "n", "a"])
        inner = _expression(rng, level - 1)
        if kind < 0.7:
            return f"\\sqrt{{{inner}}}"
        return f"\\frac{{{inner}}}{{{_expression(rng, level - 1)}}}" if kind < 0.9 else f"({inner})"

    text = rng.choice(["", "", "-"]) + atom(depth)
    while rng.random() < 0.4:
        text += rng.choice([" + ", "-", "", " ", "\\cdot "]) + atom(depth - 1) + rng.choice(["", "", "^2", "^{3}"])
    return text


def _answer(rng: random.Random) -> str:
    number = rng.choice([str(rng.randint(-99, 99)), f"{rng.randint(1, 9)},{rng.randint(0, 999):03d}",
                         f"{rng.randint(0, 9)}.{rng.randint(0, 99)}",
                         f"{rng.randint(1, 9)}/{rng.randint(1, 9)}"])  # fmt: skip
    text = number if rng.random() < 0.4 else _expression(rng, 1)
    tails = ["{}"] * 8 + ["{}^\\circ", "\\${}", "({}, 3)", "[{}, 30]", "({}, \\infty)", "{}, 7", "{}_5",
    "{}\\text{{ inches}}",
                          "{}\\text{{ sheep}}", "{}\\%", "{} + 2i", "x = {}",
                          "\\begin{{pmatrix}} {} & 2 \\end{{pmatrix}}"]  # fmt: skip
    tail = rng.choice(tails)
    return tail.format(text)


@pytest.mark.slow
def test_agrees_with_math_verify_on_random_answers() -> None:
    rng = random.Random(0)
    decided = 0
    for _ in range(250):
        gold, answer = _answer(rng), _answer(rng)
        if rng.random() < 0.3:
            answer = gold.replace(rng.choice("123456789"), rng.choice("123456789"))
        verdict = numbers.decide(gold, answer)
        if verdict is not None:
            decided += 1
            assert worker.verify(gold, answer) is verdict, (gold, answer)
    assert decided > 90
