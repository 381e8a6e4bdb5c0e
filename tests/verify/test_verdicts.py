"""Verdicts by task, on tables and on real rows of each benchmark."""

from __future__ import annotations

import random

import pytest

from openrlhf_mlpo.verify import canonical, equality, gold_problem, is_correct, parse_label, verify_response, worker
from openrlhf_mlpo.verify.bbh import KINDS
from tests.real_rows import real_rows

MATH = [
    ("42", "42", True), ("42", "$42$", True), ("42", "42.", True), ("42", "42.0", True), ("42", "x = 42", True),
    ("42", "43", False),
    ("42", "42 \\text{ apples}", True), ("42", "42 dollars", True), ("\\$42", "42", True), ("10,\\!000", "10000", True),
    ("\\frac{1}{2}", "\\dfrac12", True), ("\\frac{1}{2}", "0.5", True), ("\\frac12", "1/2", True), ("0.5", "50\\%",
    True),
    ("x+1", "1+x", True), ("x+1", "x-1", False), ("(1, 2)", "(1,2)", True), ("(1,2)", "(2,1)", False),
    ("\\text{even}", "even", True),
    ("\\text{even}", "Even", True), ("\\text{even}", "odd", False), ("\\text{(B)}", "B", True), ("105^\\circ",
    "105°", True),
    ("105^\\circ", "105 degrees", True), ("\\sqrt{12}", "2\\sqrt{3}", True), ("4, 0, -4", "-4, 0, 4", True),
    ("1 - 12i", "-12i+1", True),
    ("s^2 \\le 8r^2", "8r^2 \\ge s^2", True), ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
    "\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}", False),
    ("y = 2x + 3", "y=3+2x", True), ("3:1", "3:1", True), ("\\sum_{k=1}^{10} k", "55", True), ("55",
    "\\sum_{k=1}^{10} k", True),
    ("3628800", "10!", True), ("42", "-42", False), ("-42", "\u221242", True), ("42", "the answer is 42", True),
    ("42", "", False),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer", "expected"), MATH)
def test_math(gold: str, answer: str, expected: bool) -> None:
    assert is_correct(answer, gold, "math") is expected


BBH = [
    ("(B)", "(B)", True), ("(B)", "B", True), ("(B)", "b.", True), ("(B)", "(b)", True), ("(B)",
    "The answer is (B).", True),
    ("(B)", "(B) 12/24/1987", True), ("(B)", "(C)", False), ("(B)", "(B) or (C)", False), ("(B)", "AB", False),
    ("(B)", "\\text{(B)}", True),
    ("True", "true", True), ("True", "**True**", True), ("True", "False", False), ("True", "True or False", False),
    ("No", "no.", True),
    ("yes", "Yes", True), ("valid", "Valid.", True), ("valid", "invalid", False), ("-48", "\u221248", True), ("-48",
    "-48.0", True),
    ("-48", "48", False), ("10", "10.", True), ("10", "9 10", False), ("] ) ]", "])]", True), ("] ) ]", "] ] )",
    False), (">", ">", True),
    ("a b c", "a, b, c", True), ("a b c", "A B C", True), ("a b c", "a c b", False), ("a b c", "abc", False), ("(B)",
    "", False),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer", "expected"), BBH)
def test_bbh(gold: str, answer: str, expected: bool) -> None:
    subtask = "word_sorting" if gold == "a b c" else None
    assert is_correct(answer, gold, "bbh", subtask=subtask) is expected


def test_bbh_option_text() -> None:
    options = ["(A) circle", "(B) heptagon", "(C) heptagon"]
    assert is_correct("circle", "(A)", "bbh", choices=options)
    assert not is_correct("heptagon", "(B)", "bbh", choices=options)  # two options say so
    assert not is_correct("(A) heptagon", "(A)", "bbh", choices=options)


MMLU = [
    ("B", True), ("b", True), ("(B)", True), ("B.", True), ("B. two", True), ("B) two", True), ("two", True),
    ("Two.", True), ("B. three", False),
    ("C", False), ("same", False), ("E", False), ("A B C D", False), ("A or B", False), ("two three", False),
    ("The correct answer is B", True),
    ("option B", True), ("answer: (B)", True), ("", False), ("2", False), ("\\textbf{B}", True), ("BB", False),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), MMLU)
def test_mmlu(answer: str, expected: bool) -> None:
    assert is_correct(answer, "B", "mmlu", choices=["same", "two", "three", "same"]) is expected


def test_mmlu_letters_come_before_choices_that_look_like_letters() -> None:
    assert is_correct("B", "B", "mmlu", choices=["B", "A", "AB", "O"])
    assert is_correct("AB", "C", "mmlu", choices=["B", "A", "AB", "O"])
    assert is_correct("A", "A", "mmlu")


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [("Paris", "paris", True), ("Paris", " Paris. ", True), ("Paris", "London", False), ("New  York", "new york",
     True), ("", "", False), ("1.10", "1.1", False), ("4", "\u0664", True)],
)  # fmt: skip
def test_exact(gold: str, answer: str, expected: bool) -> None:
    assert is_correct(answer, gold, "exact") is expected


def test_unknown_task() -> None:
    for function in (
        lambda: is_correct("a", "a", "maths"),
        lambda: canonical("a", "maths"),
        lambda: gold_problem("a", "maths"),
    ):
        with pytest.raises(ValueError, match="unknown task 'maths': choose from math, bbh, mmlu, exact"):
            function()


def test_verify_response() -> None:
    verdict = verify_response("<think>a</think>\n<answer>$\\frac12$</answer><|im_end|>", "0.5", "math")
    assert (verdict.answer, verdict.correct, verdict.formatted) == ("\\frac12", True, True)
    verdict = verify_response("I would say 5", "5", "math")
    assert (verdict.answer, verdict.correct, verdict.formatted) == (None, False, False)


@pytest.mark.parametrize(
    ("one", "other", "task"),
    [("\\frac{1}{2}", "0.5", "math"), ("1,000", "$1000$", "math"), ("x = 5", "5", "math"), ("\\text{Even}", "even",
     "math"), ("(1, 2)", "(1,2)", "math"),
     ("(B)", "b.", "bbh"), ("True", "true.", "bbh"), ("] )", "])", "bbh"), ("b", "(B)", "mmlu"), ("Paris", "paris.",
     "exact"), ("a, b", "a b", "bbh")],
)  # fmt: skip
def test_canonical_maps_equal_answers_to_equal_strings(one: str, other: str, task: str) -> None:
    kwargs = {"subtask": "word_sorting"} if "a, b" == one else {}
    assert canonical(one, task, **kwargs) == canonical(other, task, **kwargs) != canonical("7", task, **kwargs)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("42", ("42", None, {})),
        ('{"answer": "42", "task": "math"}', ("42", "math", {})),
        ('{"answer": "B", "task": "mmlu", "choices": ["a", "b"]}', ("B", "mmlu", {"choices": ["a", "b"]})),
        ('{"answer": 42}', ("42", None, {})),
        ('{"answer": null}', ("", None, {})),
        ('{"other": 42}', ('{"other": 42}', None, {})),
        ("{1, 2}", ("{1, 2}", None, {})),
        ("{" * 100_000, ("{" * 100_000, None, {})),
        (None, ("", None, {})),
        (42, ("42", None, {})),
        ("", ("", None, {})),
    ],
)
def test_parse_label(label: object, expected: tuple) -> None:
    found = parse_label(label)
    assert (found.answer, found.task, found.extra) == expected


@pytest.mark.parametrize(
    ("answer", "task", "kwargs", "problem"),
    [
        ("42", "math", {}, None), ("\\frac{1}{", "math", {}, "cannot read"), ("", "math", {}, "empty"), (" $$ ",
        "exact", {}, None),
        ("(B)", "bbh", {"subtask": "snarks"}, None), ("Maybe", "bbh", {"subtask": "navigate"}, "is not yes or no"),
        ("ten", "bbh", {"subtask": "object_counting"}, "is not a number"), ("x", "bbh",
        {"subtask": "dyck_languages"}, "closing brackets"),
        ("B", "mmlu", {"choices": ["a", "b"]}, None), ("E", "mmlu", {"choices": ["a", "b"]},
        "not one of the 2 choices"),
        ("5²", "mmlu", {}, "not a letter"), ("apple", "mmlu", {}, "not a letter"),
        ("2", "mmlu", {"choices": ["a", "b"]}, "not one of the 2 choices"),
        ("1", "mmlu", {"choices": ["a", "b"]}, None), ("(B)", "mmlu", {"choices": ["a", "b"]}, None),
        ("a", "bbh", {"choices": ["a", "b"], "subtask": "bbh_snarks"}, None), ("Evelyn", "math", {}, None),
        ("NaN", "math", {}, "missing"), ("N/A", "exact", {}, "missing"), ("See solution.", "math", {}, "missing"),
        (None, "math", {}, "not text"), (["4"], "math", {}, "not text"),
    ],
)  # fmt: skip
def test_gold_problem(answer: str, task: str, kwargs: dict, problem: str | None) -> None:
    found = gold_problem(answer, task, **kwargs)
    assert found is None if problem is None else problem in found


# Real rows ------------------------------------------------------------------------------------------------------------


def math_golds() -> list[str]:
    return [row["answer"] for name in ("math_train_sample.jsonl", "math_test_sample.jsonl") for row in real_rows(name)]


def test_every_math_gold_pays_for_itself_and_can() -> None:
    for gold in math_golds():
        assert verify_response(f"<think>.</think><answer>{gold}</answer>", gold, "math").correct, gold
        assert verify_response(f"so \\boxed{{{gold}}}", gold, "math").correct, gold
        assert gold_problem(gold, "math") is None, gold


def test_no_math_gold_pays_for_the_next_rows_gold() -> None:
    golds = math_golds()
    for gold, other in zip(golds, golds[1:] + golds[:1], strict=True):
        if canonical(gold, "math") != canonical(other, "math"):
            assert not is_correct(other, gold, "math"), (gold, other)


@pytest.mark.slow
def test_verdicts_on_other_rows_golds_are_math_verifys() -> None:
    golds = sorted(set(math_golds()))
    rng = random.Random(0)
    for gold, other in [(rng.choice(golds), rng.choice(golds)) for _ in range(1500)]:
        expected = worker.verify(equality.form(gold)[0], equality.form(other)[0])
        assert is_correct(other, gold, "math") is expected, (gold, other)


def test_bbh_golds() -> None:
    by_task: dict[str, set[str]] = {}
    for row in real_rows("bbh_sample.jsonl"):
        gold = row["target"]
        by_task.setdefault(row["task"], set()).add(gold)
        for kwargs in ({"subtask": row["task"]}, {}):
            assert verify_response(f"<answer>{gold}</answer>", gold, "bbh", **kwargs).correct, row
            assert gold_problem(gold, "bbh", **kwargs) is None, row
    assert set(by_task) == set(KINDS) and len(KINDS) == 27
    for task, golds in by_task.items():
        for gold in golds:
            for other in golds - {gold}:
                assert not is_correct(other, gold, "bbh", subtask=task), (task, gold, other)


def test_mmlu_golds() -> None:
    for row in real_rows("mmlu_sample.jsonl"):
        gold, choices = row["answer"], row["choices"]
        assert gold_problem(gold, "mmlu", choices=choices) is None
        for letter in "ABCD":
            assert is_correct(letter, gold, "mmlu", choices=choices) is (letter == gold)
        text = choices["ABCD".index(gold)]
        if choices.count(text) == 1 and text not in "ABCD":
            assert is_correct(text, gold, "mmlu", choices=choices), row
