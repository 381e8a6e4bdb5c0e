"""What pays and what does not, by kind of writing: one table a kind, gold and answers."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from openrlhf_mlpo.verify import canonical, is_correct

Table = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

SENTENCES: Table = {  # gold: answers that pay, answers that do not
    "17": (
        ("There are 17 ways to do this.", "The number of 3-digit integers is 17.",
         "So the sum of the first 10 terms is $17$.", "Hence, 17.", "Thus $n = 17$.", "We obtain $17$",
         "Maria has 17 marbles left.", "I get 17", "17 is the correct answer", "The final answer is: $\\boxed{17}$",
         "Answer: 17 square meters", "The answer is 17 because 8+9 = 17.", "17. That is the number of ways.",
         "\\text{The total is } 17", "The final answer is $17$. I hope it is correct.",
         "The answer is $17$, so we stop.", "The total price is $17.", "Area = 17"),
        ("17 or 18", "either 17 or 18", "It is 17, or maybe 18.", "17; 18", "17 18", "The answer is 17 and 18",
         "The answer could be 17 or 18.", "The answer is not 17.", "The answer isn't 17", "more than 17",
         "at least 17", "between 16 and 17", "17 is wrong", "There are 3 boys and 17 girls", "17 (or 18)",
         "17 or something else", "The answer is 16. The answer is 17.", "17 if n is even, 18 otherwise",
         "17, but 18 is also possible", "17 | 18", "17 is not the answer", "17. Or not.", "\\boxed{16}\\boxed{17}",
         "print(17)", "17 unless x = 0"),
    ),
    "x \\le -2": (
        ("Therefore $x \\leq -2$ is the solution.", "The solution is x <= -2."),
        ("The solution is $x < -2$.",),
    ),
    "(2, -5)": (("The vertex is at (2, -5).", "The coordinates are $(2,-5)$."), ("The vertex is at (2, 5).",)),
    "y = 3x - 1": (("The equation of the line is $y = 3x - 1$.",), ("The line is $y = 3x + 1$.",)),
    "\\begin{pmatrix} 0 & 1 \\\\ 1 & 0 \\end{pmatrix}": (
        ("The matrix is $\\begin{pmatrix} 0 & 1 \\\\ 1 & 0 \\end{pmatrix}$.", "[[0, 1], [1, 0]]",
         "\\begin{bmatrix} 0 & 1 \\\\[2pt] 1 & 0 \\end{bmatrix}"),
        ("The matrix is $\\begin{pmatrix} 0 & 1 \\\\ 1 & 1 \\end{pmatrix}$.", "[[0, 1], [1, 1]]"),
    ),
    "-3, 5": (
        ("The roots are -3 and 5.", "The roots are $x = 5$ and $x = -3$.", "$-3$, $5$", "-3 or 5"),
        ("The root is 5.", "The roots are -3, 5 and 7."),
    ),
    "\\text{even}": (("The function is even.", "Even"), ("It is odd.", "The function is even or odd")),
    "\\text{no solution}": (("There is no solution.", "No solution"), ("There is a solution.",)),
    "\\text{ellipse}": (("The graph is an ellipse.",), ("The graph is not an ellipse.",)),
    ".075": (("The result is .075.", "0.075"), ("75", "0075")),
}  # fmt: skip
UNITS: Table = {
    "15": (
        ("15 mph", "15 m/s", "15 m/s^2", "15 miles per hour", "15kg", "15 sq ft", "15 cm³", "15\\text{ cm}^2",
         "15\\ \\mathrm{m/s}", "$15", "15 €", "EUR 15", "₹15", "15°C", "15 degrees Celsius", "15 pieces of candy",
         "15 Students", "15 m", "15\\text{ m}"),
        ("15 x", "15x", "15 ab", "15 pi", "15 squared", "15 hundred", "15 thirds", "15 plus one", "15 over 2",
         "15 choose 2", "15 mod 4", "15 log 2", "15 dozen", "15 and a half", "15 sqrt 2", "15 factorial",
         "15 times 2", "15 sin(x)"),
    ),
    "15\\text{ cm}": (("15", "15 cm"), ("16 cm",)),
    "225": (("15 squared",), ("15 square feet",)),
    "180": (("15 dozen",), ()),
    "1500": (("15 hundred", "1.5 thousand"), ()),
    "15\\%": (("15 percent",), ("1.5 percent",)),
    "15\\pi": (("15 pi cm", "15\\pi\\text{ cm}^2"), ("15 cm",)),
    "5m": (("5 m",), ("5",)),
    "\\frac{5}{2}": (("5/2 hours", "2 1/2 hours", "5 halves"), ("5 hours",)),
    "3 \\text{ p.m.}": (("3 p.m.", "3 PM"), ("3 \\text{ a.m.}", "3")),
    "6:45": (("6:45 a.m.",), ("6:54",)),
    "2 \\text{ feet } 3 \\text{ inches}": (("2 feet 3 inches",), ("2", "3", "5", "27")),
    "\\text{May 5}": (("May 5",), ("5", "June 5")),
}  # fmt: skip
NOTATIONS: Table = {
    "3\\sqrt{7}": (("3√7", "3*sqrt(7)", "3sqrt(7)", "3 sqrt 7"), ("3√8",)),
    "\\frac{2}{3}": (("⅔", "0.\\overline{6}", "2⁄3"), ("½",)),
    "\\frac{5}{3}": (("1⅔", "1 2/3", "1\\frac{2}{3}"), ("12/3",)),
    "x^2-4": (("x²−4", "x**2 - 4"), ("x^3-4",)),
    "25": (("5²",), ()),
    "52": ((), ("5²",)),
    "-\\infty": (("−∞", "-infinity"), ("∞",)),
    "\\sqrt[3]{2}": (("∛2",), ("√2",)),
    "\\frac{\\pi}{3}": (("pi/3", "π/3"), ("pi/4",)),
    "\\ln 3": (("ln(3)", "ln 3"), ("ln(4)",)),
    "\\lambda": (("λ",), ("φ",)),
    "240000": (("2.4e5", "2.4E+5", "2.4×10⁵", "240 000", "240\\,000", "240{,}000", "240~000"), ("2.4e6",)),
    "0.00012": (("1.2e-4", "1.2 * 10^-4"), ("1.2e-5",)),
    "1 \\pm \\sqrt{3}": (("1 ± √3", "1+\\sqrt{3}, 1-\\sqrt{3}"), ("1+\\sqrt{3}",)),
    "\\frac{9}{4}": (("2 1/4", "2\\,\\frac14"), ("2 1/5", "21/4")),
    "0.8\\overline{3}": (("5/6",), ("0.83",)),
    "31": (
        ("\\mathbf{31}", "*31*", "_31_", "\\textcolor{blue}{31}", "\\color{blue} 31", "\\fbox{31}",
         "\\boldsymbol{31}", "31。", "\\begin{align*} 31 \\end{align*}", "\\text{$31$}"),
        ("\\mathbf{3}\\mathbf{1}",),
    ),
    "(3,4)": (("\\langle 3, 4 \\rangle", "（3，4）"), ("\\langle 4, 3 \\rangle",)),
    "1000,99": (("1000,99",), ("100099",)),
    "2^{n+1}": (("2^(n+1)",), ("2^n+1",)),
    "\\frac{1+\\sqrt{5}}{2}": (("(1+sqrt(5))/2", "(1 + √5)/2"), ("1+√5/2",)),
    "p \\lor q": (("p\\lor q", "p ∨ q"), ("p ∧ q",)),
}  # fmt: skip
FALSE_PAYS: Table = {
    "\\frac{1}{3^{50}}": ((), ("\\frac{1}{3^{51}}", "0")),
    "10^{-8}": (("0.00000001",), ("10^{-9}", "0.0")),
    "2.5 \\times 10^{-12}": (("2.50 \\times 10^{-12}",), ("2.6\\times 10^{-12}",)),
    "1+10^{-20}": ((), ("1", "1.0")),
    "(1, 10^{-9})": ((), ("(1, 10^{-8})",)),
    "9": ((), ("4 5", "4\\quad5", "4~5", "4\\, 5", "{4} {5}")),
    "45": ((), ("4 5", "4\\ 5")),
    "15": ((), ("10\\,005", "10\\,5")),
    "Carla": (("Carla",), ("Clara",)),
    "\\text{angel}": (("Angel",), ("angle", "glean")),
    "\\frac{2}{3}": (("0.666667",), ("0.667", "0.6667")),
    "4": ((), ("\\pm 4",)),
    "110_2": (("110_{2}", "110"), ("110_3", "110_{8}")),
    "110": (("110_{10}",), ("110_2",)),
    "\\text{Ren\u00e9}": (("Rene\u0301",), ("Rene",)),
}  # fmt: skip


def _rows(*tables: Table) -> Iterator[tuple[str, str, bool]]:
    for table in tables:
        for gold, (right, wrong) in table.items():
            yield from ((gold, answer, True) for answer in right)
            yield from ((gold, answer, False) for answer in wrong)


@pytest.mark.parametrize(("gold", "answer", "expected"), _rows(SENTENCES, UNITS, NOTATIONS, FALSE_PAYS))
def test_math(gold: str, answer: str, expected: bool) -> None:
    assert is_correct(answer, gold, "math") is expected


@pytest.mark.parametrize(
    ("one", "other"),
    [("There are 17 ways.", "17"), ("2.4e5", "$240{,}000$"), ("15 cm^2", "15"), ("⅔", "\\dfrac23"), ("3√7",
    "3 sqrt(7)"),
     ("x = 4", "The value of x is 4."), ("It is even.", "\\text{Even}"), ("2 1/4", "\\frac{9}{4}")],
)  # fmt: skip
def test_equal_answers_have_one_key(one: str, other: str) -> None:
    assert canonical(one, "math") == canonical(other, "math") != canonical("8", "math")


FOODS = ["red fox", "blue whale", "green frog", "red fox or blue whale"]
ODD = ["It isn't so", "Answer set", "Vitamin A", "x^2"]


@pytest.mark.parametrize(
    ("choices", "gold", "right", "wrong"),
    [
        (FOODS, "B", ("B - blue whale", "b. Blue Whale", "blue whale (B)", "B: blue whale", "B blue whale",
        "B (blue whale)",
                      "Option B: blue whale", "B is correct", "［B］", "\\mathbf{B}", "The answer would be B."),
         ("B - red fox", "red fox (B)", "(B) blue whale or (C) green frog", "B/C", "B, C", "not B",
         "red fox or blue whale")),
        (FOODS, "D", ("red fox or blue whale",), ("D. red fox",)), (FOODS, "1", ("B", "blue whale"), ("A", "1 or 2")),
        (FOODS, "blue whale", ("B",), ("C",)), (ODD, "A", ("It isn’t so", "(A) It isn’t so."), ("isn't so",)),
        (ODD, "B", ("B. Answer set", "Answer set"), ("set",)), (ODD, "C", ("Vitamin A", "C. Vitamin A"), ("A",)),
        (ODD, "D", ("x²", "D. \\(x^{2}\\)"), ("D. x^3",)), (["TT", "Tt"], "B", ("Tt",), ("TT", "T")),
        (["A", "~A"], "B", ("~A",), ("A",)),
        ((), "B", ("B. Plan A", "B. World War II", "B - $f(x)$", "(B) Type O blood", "blue (B)", "b) blue"),
         ("B or C", "(B) and (C)", "B, maybe D", "A B C", "B) x or C) y", "neither (B)", "B. C. D.",
          "B) 5, C) 6", "B. x; C. y")),
        (["th\u00e9", "the"], "A", ("the\u0301", "A. the\u0301"), ("the",)),
    ],
)  # fmt: skip
def test_choices(choices: list[str], gold: str, right: tuple[str, ...], wrong: tuple[str, ...]) -> None:
    for answer in (*right, *wrong):
        assert is_correct(answer, gold, "mmlu", choices=choices) is (answer in right), answer


@pytest.mark.parametrize(
    ("subtask", "gold", "right", "wrong"),
    [
        ("object_counting", "7", ("7 apples", "There are 7 objects.", "= 7", "07", "\\text{7 items}"), ("7 or 8",
        "not 7", "0 7")),
        ("object_counting", "12", ("12 fruits.",), ("1 2", "1, 2")),
        ("multistep_arithmetic_two", "-15", ("(-15)", "−15", "The answer is -15."), ("15",)),
        ("multistep_arithmetic_two", "-14", ("(3 + 4) * (-2) = -14", "7 × (−2) = −14"),
         ("-13 = -14", "5 - 9 = -4 = -14")),
        ("bbh_multistep_arithmetic_two", "1500", ("1,500", "1{,}500", "+1500"), ("1 50 0",)),
        ("dyck_languages", "} ]", ('"} ]"', "'}]'.", "} , ]"), ("} ] )",)), ("bbh_dyck_languages", "} ]", ("}]",),
        ("]}",)),
        ("bbh_navigate", "No", ("no", "The answer is No."), ("Yes", "not No")),
        ("formal_fallacies", "valid", ("The argument is valid.",), ("The argument is not valid.", "valid or invalid")),
        ("snarks", "(C)", ("(c) I love Mondays", "(C) Vitamin C", "C - I am late"), ("(C), (B)", "(C) or (B)")),
        ("bbh_word_sorting", "ant bee", ("ant, bee",), ("bee ant",)),
    ],
)  # fmt: skip
def test_bbh(subtask: str, gold: str, right: tuple[str, ...], wrong: tuple[str, ...]) -> None:
    for answer in (*right, *wrong):
        assert is_correct(answer, gold, "bbh", subtask=subtask) is (answer in right), answer


def test_bbh_option_text_where_the_label_carries_the_choices() -> None:
    for options in (["(A) circle", "(B) heptagon"], ["circle", "heptagon"]):
        for gold in ("(B)", "B", "1", "heptagon"):
            assert is_correct("Heptagon", gold, "bbh", subtask="geometric_shapes", choices=options)
            assert not is_correct("circle", gold, "bbh", subtask="geometric_shapes", choices=options)


@pytest.mark.parametrize(
    "text", ["12 " + "ab-cd-" * 150, "12 " + "cm " * 300, "√(" * 500, "\\text{" * 160, "(12 or " * 140]
)
def test_reading_takes_no_time_on_any_text(text: str) -> None:
    start = time.process_time()
    assert not is_correct(text, "42 apples", "math")
    assert time.process_time() - start < 0.2
