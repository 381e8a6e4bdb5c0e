r"""Write one mathematics one way: Unicode, plain text and LaTeX's many spellings become what math-verify reads.

`10√2`, `10*sqrt(2)` and `10 \sqrt 2` become `10 \sqrt{2}`; `½` becomes `\frac{1}{2}`; `1\,000` becomes `1000`. Text
markup goes and its words stay (`42\text{ cm}` becomes `42 cm`): what they mean is for `prose` to say.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from openrlhf_mlpo.verify.extract import clean

# Each symbol with the command it stands for.
_COMMANDS = {
    pair[0]: rf"\{pair[1:]} "
    for pair in (
        "×times ·cdot ⋅cdot ∙cdot ±pm ∓mp ≤le ≥ge ⩽le ⩾ge ≠ne ≈approx ≡equiv ∞infty ∪cup ∩cap ∈in ∉notin ∖setminus "
        "∅emptyset ⊂subset ⊆subseteq ∧land ∨lor ¬neg ⇒Rightarrow →to ↦mapsto ∥parallel ⊥perp ∠angle △triangle ∑sum "
        "∏prod ∫int …ldots ⌊lfloor ⌋rfloor ⌈lceil ⌉rceil ℝmathbb{R} ℤmathbb{Z} ℕmathbb{N} ℚmathbb{Q} ℂmathbb{C} "
        "αalpha βbeta "
        "γgamma δdelta εepsilon ζzeta ηeta θtheta ιiota κkappa λlambda μmu νnu ξxi πpi ρrho σsigma τtau φphi ϕphi χchi "
        "ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΠPi ΣSigma ΦPhi ΨPsi ΩOmega"
    ).split()
}
_FRACTIONS = {  # Unicode knows that ½ is 1⁄2
    char: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", char).split("⁄")) for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
}
_OTHERS = {"÷": "/", "⁄": "/", "∕": "/", "′": "'", "″": "''", "⟨": "(", "⟩": ")", "〈": "(", "〉": ")", "°": r"^\circ "}
_TRANSLATION = str.maketrans({**_COMMANDS, **_FRACTIONS, **_OTHERS})
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ]+")
_ROOT = re.compile(r"([√∛∜])\s*(\((?:[^()]|\([^()]*\))*\)|\d+(?:\.\d+)?|[A-Za-z]|\\[a-z]+)")
_ROOT_ORDER = {"√": "", "∛": "[3]", "∜": "[4]"}

_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|gcd|lcm|det|max|min"
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|phi|rho|tau|mu"
_PARENTHESES = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_ARGUMENT = "(" + _PARENTHESES + r"|\{(?:[^{}]|\{[^{}]*\})*\})"


def _rules(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_LATEX_RULES = _rules(
    (r"\\\\\s*\[[^\]]{1,8}\]", r"\\\\"),  # a matrix row's extra height
    (r"\\(?:begin|end)\s*\{(?:equation|align|aligned|gather|displaymath|math|center)\*?\}", " "),
    (r"\\\\\s*$", ""),
    (r"\\!", ""),
    (r"\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?=\s*(?:[()\[\]|./<>]|\\[{}|]|\\langle|\\rangle))\.?", ""),
    (r"\\(?:(?:display|text|script)style|large|Large|LARGE|huge|Huge|small|normalsize|bfseries|itshape)"
     r"(?![A-Za-z])\s*", ""),
    (r"\\(?:color|textcolor)\s*\{[^{}]*\}", ""),
    (r"\\(?:boxed|fbox|text|textbf|textit|textrm|textsf|texttt|textnormal|emph|mbox|hbox|mathrm|mathbf|mathit|mathsf"
     r"|mathnormal|boldsymbol|bm|bf|rm|it|underline|operatorname)\s*(?=\{)", r"\\text"),
    (r"(?<=[\d)}%])\s*\\text\{\s*[mgLlshNJWVAKCF](?:\s*/\s*[a-z]{1,3})?(?:\s*\^\s*\{?\d\}?)?\s*\}"
     r"(?:\s*\^\s*(?:\d|\{\d\}))?", ""),  # a unit of one letter, which is a unit for sure only in such markup
    (r"(?<=[\^_])\s*\\text\{([^{}]*)\}", r"{\1}"),
    (r"\\(?:bf|rm|it)(?![A-Za-z])\s*", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\langle(?![A-Za-z])\s*", "("),
    (r"\s*\\rangle(?![A-Za-z])", ")"),
    (r"\\(?:leq|leqslant)(?![A-Za-z])", r"\\le"),
    (r"\\(?:geq|geqslant)(?![A-Za-z])", r"\\ge"),
    (r"\\neq(?![A-Za-z])", r"\\ne"),
    (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
    (r"\\iff(?![A-Za-z])", r"\\Leftrightarrow"),
    (r"\\implies(?![A-Za-z])", r"\\Rightarrow"),
    (r"\\bar(?![A-Za-z])", r"\\overline"),
    (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
    (r"\\frac\s*(\{[^{}]*\})\s*(\d)(?!\d)", r"\\frac\1{\2}"),
    (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
    (rf"\\sqrt\s*({_PARENTHESES})", r"\\sqrt{\1}"),
    (r"(?:\^\s*\{?\s*\\circ(?:\s*\})?|\\degree(?![A-Za-z]))"
     r"(?:\s*\\?(?:text)?\s*\{?\s*[CF]\}?(?![A-Za-z]))?", r"^\\circ"),
    (r"\\(?:qquad|quad|enspace|thinspace|space)(?![A-Za-z])|(?<!\\)\\[,;:> ]|~", " "),
    (r"\{,\}", ","),
    (r"(\\[A-Za-z]+|[}\]])\s+(?=\{)", r"\1"),
    (r"\s*\\(pm|mp)\s*(?![A-Za-z])", r"\\\1 "),
    (r"(?<=\S)\\pm ", r" \\pm "),
)  # fmt: skip
# What no rule above would change: most answers.
_SETTLED = re.compile(
    r"(?:[^\\~{}]|\\(?:pi|cdot|times|infty|le|ge|ne)(?![A-Za-z])"
    r"|\\frac\{[^\\{}]*\}\{[^\\{}]*\}|\\sqrt\{[^\\{}]*\}|(?<=[\^_])\{[^\\{},]*\})*"
)
_BOLD = re.compile(r"(?<!\w)\*\*(?=\S)([^*]+)(?<=\S)\*\*(?!\w)")
_MARKUP = re.compile(r"\\text\{|\\.|[{}]", re.DOTALL)
_LONE_BRACES = re.compile(r"(?<![A-Za-z}\]^_\\\d])\s*\{(-?[\d.,]+)\}")

_PLAIN_RULES = _rules(
    (r"\*\*", "^"),
    (r"\s*\*\s*", r" \\cdot "),
    (r"<=|=<", r"\\le "),
    (r">=", r"\\ge "),
    (r"!=", r"\\ne "),
    (r"(?<![\\A-Za-z])(?:sqrt|Sqrt)\s*\(", "sqrt("),
    (r"(?<![\\A-Za-z])(?:infinity|oo)(?![A-Za-z])", r"\\infty"),
    (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi"),
    (rf"(?<![\\A-Za-z])({_GREEK})(?=\s*(?:$|[-+*/^_=<>,)\]}}\d]))", r"\\\1"),
    (rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s*(?:[({{^_\\\d]|[A-Za-z](?![A-Za-z])))", r"\\\1 "),
    (r"(\^|_)\s*\(?(-?\d{2,}|-\d)\)?(?![\d.])", r"\1{\2}"),
    (r"(\^|_)\s*\((-?\d+(?:/\d+)?)\)", r"\1{\2}"),
)  # fmt: skip
_PLAIN_ROOT = re.compile(rf"(?<![\\A-Za-z])sqrt\s*(?:{_ARGUMENT}|(\d+|[a-z])(?![A-Za-z\d]))")
_THOUSANDS_BY_BLANK = re.compile(r"(?<![\d.,^_{/ ])(?<!\d )([1-9]\d{0,2}(?: \d{3})+)(?![\d,]| \d)")
_MIXED = re.compile(r"(?<![\d.,/^_{}])(\d{1,6}) (\d{1,4})\s?/\s?(\d{1,4})(?![\d/.])")
_REPEATING = re.compile(r"(\d{0,9})\.(\d{0,9})(?:\\overline\s*\{(\d{1,9})\}|\((\d{1,9})\))")
_SCIENTIFIC = re.compile(
    r"(?<![\w.^])(\d{1,20}(?:\.\d{1,20})?)(?:[eE]\+?(-?\d{1,2})(?![\w.])|\s*\\(?:times|cdot)\s*10\s*\^\s*(?:\{\s*\+?(-?\d{1,2})\s*\}|(\d)(?!\d)))"
)
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_COMMAND_OR_LETTER = re.compile(r"[A-Za-z\\*^_<>!]")
_BLANKS = re.compile(r"\s+")


@lru_cache(maxsize=65536)
def notation(text: str) -> str:
    """One notation for what `text` says, words and numbers of a sentence included."""
    text = clean(text)
    if text.isascii() and text.replace("-", "", 1).isdigit():
        return text
    if not text.isascii():
        text = _from_unicode(text)
    if "**" in text:
        text = _BOLD.sub(r"\1", text)
    if "$" in text:
        text = re.sub(r"(?<!\\)\$", " ", text)
    if ("\\" in text or "~" in text or "{" in text) and not _SETTLED.fullmatch(text):
        text = _from_latex(text)
    if _COMMAND_OR_LETTER.search(text):
        text = _from_plain(text)
    return _numbers(_BLANKS.sub(" ", text).strip())


def _from_unicode(text: str) -> str:
    text = _RAISED.sub(lambda run: f"^{{{_level(run.group())}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{_level(run.group())}}}", text)
    for _ in range(3):  # roots in roots
        text = _ROOT.sub(lambda root: rf"\sqrt{_ROOT_ORDER[root[1]]}{{{_bare(root[2])}}}", text)
    return text.translate(_TRANSLATION)


def _level(run: str) -> str:
    """Raised or lowered characters as ordinary ones."""
    return unicodedata.normalize("NFKC", run).replace("\u2212", "-")


def _bare(argument: str) -> str:
    """The argument of a function without the brackets around it."""
    return argument[1:-1] if argument[:1] in "({" and argument[-1:] in ")}" else argument


def _from_latex(text: str) -> str:
    for pattern, replacement in _LATEX_RULES:
        text = pattern.sub(replacement, text)
    if "\\text{" in text:
        text = _without_markup(text)
    text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text)
    for _ in range(2):
        if text.startswith("{") and text.endswith("}") and "{" not in text[1:-1] and "," not in text:
            text = text[1:-1]
    return _LONE_BRACES.sub(r" \1 ", _LONE_BRACES.sub(r" \1 ", text))


def _without_markup(text: str) -> str:
    r"""The text with the contents of every `\text{}` in blanks instead of the command, however deep they are."""
    parts, is_text, position = [], [], 0
    for token in _MARKUP.finditer(text):
        mark = token.group()
        if mark == "}":
            drop = bool(is_text) and is_text.pop()
        else:
            drop = mark == "\\text{"
            if drop or mark == "{":
                is_text.append(drop)
        if drop:
            parts += [text[position : token.start()], " "]
            position = token.end()
    return "".join([*parts, text[position:]])


def _from_plain(text: str) -> str:
    for pattern, replacement in _PLAIN_RULES:
        text = pattern.sub(replacement, text)
    if "sqrt" in text:
        text = _PLAIN_ROOT.sub(lambda root: rf"\sqrt{{{_bare(root[1] or root[2])}}}", text)
    return text


def _numbers(text: str) -> str:
    """Thousands without separators, mixed and repeating numbers as fractions, powers of ten written out."""
    if " " in text:
        text = _THOUSANDS_BY_BLANK.sub(lambda number: number.group().replace(" ", ""), text)
        text = _MIXED.sub(_mixed, text)
    if "." in text:
        text = _REPEATING.sub(_repeating, text)
    if "10" in text or "e" in text or "E" in text:
        text = _SCIENTIFIC.sub(_scientific, text)
    return text


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = map(int, match.groups())
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}" if 0 < top < bottom else match.group()


def _repeating(match: re.Match[str]) -> str:
    start, cycle = match[2], match[3] or match[4]
    value = Fraction(int((match[1] or "0") + start + cycle) - int((match[1] or "0") + start),
                     10 ** len(start) * (10 ** len(cycle) - 1))  # fmt: skip
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _scientific(match: re.Match[str]) -> str:
    exponent = int(match[2] or match[3] or match[4])
    if abs(exponent) > 15:
        return rf"{match[1]} \times 10^{{{exponent}}}"
    return format(Decimal(match[1]).scaleb(exponent).normalize(), "f")


def tight(text: str) -> str:
    r"""Drop the blanks and braces that mean nothing: `x_{1} + 2` and `x_1+2` are one string, `4 5` and `45` are not."""
    text = re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text)
    return re.sub(r"([\^_])\{(\w)\}", r"\1\2", text)


def expand_plus_minus(text: str) -> str:
    r"""`a \pm b` as the list `a + b, a - b`, each item of a list for itself."""
    if "\\pm" not in text:
        return text
    items = []
    for item in split_list(text):
        if "\\pm" in item:
            for upper, lower in ("+-", "-+"):
                signed = _PLUS_MINUS.sub(lambda sign, u=upper, d=lower: u if sign[1] == "pm" else d, item).strip()
                items.append(signed.removeprefix("+").strip())
        else:
            items.append(item)
    return ", ".join(items)


def split_list(text: str) -> list[str]:
    """The items of a list separated by commas outside brackets."""
    items, depth = [""], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += char
    return [item.strip() for item in items]
