"""Hostile responses, each with its right verdict: what a policy in training, or an agent, may come up with.

`cases()` gives at least 200 `Case`s; tests/verify/test_hostile.py runs them all, the benchmark mixes some in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from openrlhf_mlpo.verify import equality, latex, numbers, prose


@dataclass(frozen=True)
class Case:
    """One response to one question; `correct` is the verdict it must get."""

    name: str
    response: str
    gold: str = "42"
    task: str = "math"
    correct: bool = False
    prompt: str = "Question: what is six times seven?\nAnswer: "

    @property
    def label(self) -> str:
        """The label OpenRLHF would carry."""
        return json.dumps({"answer": self.gold, "task": self.task})


def forget() -> None:
    """Empty the memories of earlier verdicts."""
    for cached in (
        equality.form,
        equality._settle,
        equality._verdict,
        latex.notation,
        prose.answer_of,
        numbers.rational,
        numbers.value_of,
    ):
        cached.cache_clear()


def block(answer: str) -> str:
    """A well-formed leader output with this answer."""
    return f"<think>so</think>\n<answer>{answer}</answer>"


def heavy_math() -> list[str]:
    """Answers that math-verify, sympy or latex2sympy hang on, or that eat memory."""
    found = ["^{".join("9" * n) + "}" * (n - 1) for n in range(3, 13)]
    found += [f"10^{{10^{{{n}}}}}" for n in (6, 8, 10, 12, 20, 100, 1000)]
    found += [f"2^{{{n}}}" for n in (10**6, 10**7, 10**9, 10**12, 10**100)]
    found += [f"{n}!" for n in (10**5, 10**6, 10**7, 10**9, 10**30)] + [
        "(10!)!",
        "((5!)!)!",
        "9!!!!!!!!",
        "(100!)^{100!}",
    ]
    found += [f"(1+x)^{{{n}}}" for n in (10**3, 10**5, 10**7)] + ["(a+b+c+d+e)^{300}", "(1+\\sqrt{2})^{99999}"]
    found += [
        rf"\{kind}_{{k=1}}^{{{top}}} {term}"
        for kind in ("sum", "prod")
        for top in ("10^{9}", "10^{100}", "99999999", "\\infty")
        for term in ("k^k", "\\frac{1}{k^3+k+1}", "\\sin(k!)", "k!")
    ]
    found += [
        r"\int_0^1 \sin(x^x)/x^x dx", r"\int_0^\infty e^{-x^4-x^3+x} dx", r"\int \frac{\sin x^x}{\ln x} dx",
        r"\int_0^1 \int_0^1 \int_0^1 \sqrt{x^2+y^2+z^2+xyz} dx dy dz", r"\int_{-1}^1 \sqrt{1+\cos^3 x + x^7} dx",
        r"\lim_{n \to \infty} \left(\frac{n!}{n^n}\right)^{\frac{1}{n}}", r"\frac{d^{50}}{dx^{50}} \tan(x^x)",
        r"\lim_{x \to 0} \frac{\sin(\tan x) - \tan(\sin x)}{x^{77}}", r"\prod_{p} (1-p^{-2})",
        r"\sqrt[10^{10}]{2}", r"\log_{10^{-999999}} (10^{999999})", r"\binom{10^9}{5 \cdot 10^8}",
        r"\binom{99999}{49999}",
        r"\sin(\cos(\tan(10^{1000})))", r"e^{e^{e^{e^{e^{10}}}}}", r"\pi^{\pi^{\pi^{\pi^{\pi}}}}", r"e^{10^{10}}",
        "x^{100} + " * 80 + "1 = 0", "=".join(["x^9+x+1"] * 40), " + ".join(rf"\sqrt{{{n}}}" for n in range(2, 60)),
        r"\cos^{1000}(x) + \sin^{1000}(x)", "(" + "+".join(f"x_{{{n}}}" for n in range(30)) + ")^{30}",
        r"\frac{1}{" * 30 + "2" + "}" * 30, r"\gcd(10^{1000}, 3^{9999})", r"10^{1000} \mod 7", r"7^{7^{77}} \pmod{10}",
        r"\begin{pmatrix} " + r" \\ ".join(" & ".join(f"x^{i * j}" for j in range(12)) for i in range(12))
        + r" \end{pmatrix}^{99}", r"x^5 - x - 1 = 0, y^5 = x + y, z^7 = xyz + 1", r"\sin x + x^3 \ge \tan(x^2) + e^x",
        r"\{x : x^7 + 3x^5 = \sin x\}", r"0.1^{10^7}", "1e999999999", "9**9**9**9", "10**(10**10)",
        r"\text{9}^{9^{9^9}}",
        r"(2^{2^{20}})!", r"\sqrt{" * 25 + "x" + "}" * 25 + " = x", r"|" * 101 + "x",
        r"\lfloor \pi \cdot 10^{3000} \rfloor",
    ]  # fmt: skip
    return found


def long_or_deep() -> list[str]:
    """Nesting, length and repetition."""
    found = [
        left * n + "42" + right * n for n in (500, 3000, 20_000) for left, right in ("()", "{}", "[]", ("\\{", "\\}"))
    ]
    found += [
        "{" * 5000,
        "}" * 5000,
        "(" * 50_000,
        "\\frac{" * 3000,
        "\\sqrt{" * 3000 + "1" + "}" * 3000,
        "\\left(" * 4000,
    ]
    found += ["\\boxed{" * 4000, "\\text{" * 3000 + "a", "$" * 10_001, "\\" * 10_001]
    found += [char * 1_000_000 for char in "49a{\\^-+ ,\n"]
    found += [
        "42," * 300_000,
        "1+" * 200_000 + "1",
        "4" + "0" * 5000,
        "-" * 100_001 + "42",
        "\\times ".join(["2"] * 50_000),
    ]
    # what makes backtracking regular expressions slow
    found += [
        "a" * 30_000 + "!",
        " " * 200_000 + "x",
        "(x+x)*" * 5000 + "y",
        ("answer is " * 20_000) + "x",
        "1 " * 50_000,
    ]
    found += [
        "\\frac" * 20_000,
        "1,000" * 20_000,
        "$1$ and " * 5000,
        "\\text{ a }" * 5000,
        ". " * 100_000,
        "=" * 50_000,
    ]
    found += ["final answer is $" * 3000, "answer: \\[" * 3000, "\\boxed{$\\[" * 2000, "-" + "\\!" * 50_000 + "1"]
    return found


def odd_values() -> list[str]:
    """No numbers, control characters, lone surrogates, other alphabets."""
    found = [
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "\\infty",
        "zoo",
        "\\frac{1}{0}",
        "\\frac{0}{0}",
        "0/0",
        "1e400",
        "-0",
    ]
    found += [
        "oo",
        "None",
        "null",
        "undefined",
        "[]",
        "{}",
        "()",
        "\\{\\}",
        "\\emptyset",
        "",
        " ",
        "\n\n",
        "\\",
        "$",
        "$$",
        "\\(\\)",
    ]
    found += [
        "\ud800",
        "4\udfff",
        "\udc00" * 100,
        "\x00",
        "\x00" * 1000,
        "\x1b[2J43",
        "\u202e24",
        "\ufeff",
        "\u200b\u200b",
    ]
    found += [
        "٤٣",
        "四十二",
        "Ⅻ",
        "⁴²",
        "₄₂",
        "①",
        "½",
        "٪",
        "\U0001f600" * 1000,
        "\U000e0034\U000e0032",
        "e\u0301" * 500,
        "4\u03042",
    ]
    found += [
        "__import__('os').system('touch pwned')",
        "eval('6*7')",
        "lambda: 42",
        "%s%n%d" * 100,
        "../../etc/passwd",
        "{{7*7}}",
    ]
    found += [
        "Symbol('x').__class__",
        "\\input{/etc/passwd}",
        "\\write18{ls}",
        "<script>42</script>",
        "42\x00 or 43",
        "DROP TABLE",
    ]
    return found


def listings() -> list[Case]:
    """Several answers where one is asked for: none of them pays."""
    numbers = ", ".join(map(str, range(1, 60)))
    found = [
        Case(f"listing {index}", block(answer))
        for index, answer in enumerate(
            [
                numbers, numbers.replace(",", ""), numbers.replace(",", " or"), numbers.replace(",", ";"),
                "41 or 42", "42 or 43",
                "41, 42", "42, 43", "42 and 43", "\\{41, 42\\}", "(41, 42)", "[40, 44]", "\\pm 42",
                "41 \\text{ or } 42", "0 42",
                "41\n42", "42 (or 43)", "41 @@ 42", "\\boxed{41}\\boxed{42}", "\\boxed{42} \\boxed{43}",
                "40 < x < 44", "x \\ge 42",
                "42 \\cup 43", "\\mathbb{R}", "(-\\infty, \\infty)", "41 / 42", "the options are 1, 2, 42", "4 2",
                "42 43",
            ]
        )
    ]  # fmt: skip
    letters = ["A B C D", "A, B, C, D", "ABCD", "A or B", "(A) (B)", "A/B", "A and B", "(A)(B)(C)(D)", "A. B. C. D.",
    "B, not A",
               "(B) or maybe (C)", "all of the above", "B C", "(B) C", "B) A) C)", "any of A-D", "[A, B]", "{B}{C}",
               "BB", "E"]  # fmt: skip
    found += [Case(f"letters {answer}", block(answer), gold="B", task="mmlu") for answer in letters]
    found += [Case(f"options {answer}", block(answer), gold="(B)", task="bbh") for answer in letters]
    words = ["True False", "True or False", "both", "True/False", "not True", "true, false", "True. False."]
    found += [Case(f"words {answer}", block(answer), gold="True", task="bbh") for answer in words]
    found += [
        Case(f"yes and no {n}", block(a), gold="Yes", task="bbh")
        for n, a in enumerate(("Yes No", "yes/no", "y", "Yes, no"))
    ]
    return found


def injections() -> list[Case]:
    """The gold in the prompt, in agents' words, or outside the answer: none of it is the leader's answer."""
    agents = "agent 1 : \\boxed{42}\nagent 2 : <answer>42</answer>\nagent 3 : the answer is 42\n<|im_start|>assistant\n"
    found = [
        Case(f"prompt {index}", response, prompt=agents)
        for index, response in enumerate(
            ["", "I do not know", "<answer></answer>", "<answer> </answer>", "<answer>", "</answer>", "\\boxed{}",
             "\\boxed{",
             "<think>42", "<think><answer>42</answer>", "<think>\\boxed{42}</think>", "<answer>42", "42", "42</answer>",
             "<think><answer>42</answer></think>", "<answer>42</answer><answer></answer>",
             "<answer>42</answer><answer>43</answer>",
             "<answer>43</answer> see agent 2", "<answer>agent 2</answer>", "<answer>the same as agent 1</answer>",
             "<|im_end|>", "</s></s>", "<answer>42</answer></think>", "<ANSWER>43</ANSWER>",
             "&lt;answer&gt;42&lt;/answer&gt;"]
        )
    ]  # fmt: skip
    return found


def sound() -> list[Case]:
    """Odd to look at and right: they must pay."""
    right = ["42", " 42 ", "$42$", "\\boxed{42}", "$\\boxed{42}$", "\x0042\x00", "\u200b42", "４２", "٤٢", "42.",
    "42.0", "\\$42",
             "**42**", "x = 42", "42 \\text{ apples}", "\\frac{84}{2}", "6 \\times 7", "\n42\n", "The answer is 42.",
             "+42", "84/2"]  # fmt: skip
    found = [Case(f"right {answer!r}", block(answer), correct=True) for answer in right]
    found += [
        Case("minus", block("\u221242"), gold="-42", correct=True),
        Case("tower", block("9^{9^{9^9}}"), "9^{9^{9^9}}", correct=True),
    ]
    found += [
        Case("after", block("42") + "<|im_end|>", correct=True),
        Case("twice", block("41") + block("42"), correct=True),
    ]
    found += [
        Case(f"letter {a}", block(a), "B", "mmlu", True) for a in ("B", "b", "(B)", "b.", "\\text{B}", "**B**", "B)")
    ]
    return found


def cases() -> list[Case]:
    """All of them."""
    texts = heavy_math() + long_or_deep() + odd_values()
    found = [Case(f"{index}: {answer[:40]!r}", block(answer)) for index, answer in enumerate(texts)]
    found += [
        Case(f"{index} boxed: {answer[:40]!r}", f"so \\boxed{{{answer}}}") for index, answer in enumerate(texts[::5])
    ]
    found += [
        Case(f"{n}: {a[:30]!r} as {t}", block(a), "B", t)
        for t in ("mmlu", "bbh", "exact")
        for n, a in enumerate(texts[::9])
    ]
    return found + listings() + injections() + sound()
