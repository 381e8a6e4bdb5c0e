r"""Find the one answer that a sentence commits to: `The area is 12 cm.` says 12, `12 or 13` says `12, 13`.

The text comes in the notation of `latex`. Words are recognised by their shape; what stands beside the mathematics
must be harmless (`There are 12 ways.`, `12 cm`). A sentence that denies, compares, calculates in words or holds several
values without listing them is no mathematics: it only equals the same words.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

Tokens = list[tuple[str, str]]  # kind ("word", "blank" or "math") and text

_MAX_PIECES = 12

# Units of at most three letters; a longer word after a number is a unit or a noun.
_UNITS = set(
    "mm cm dm km ft in yd mi kg mg lb lbs oz ml mL dL dl sec min hr hrs ms Hz kHz MHz kW kWh kJ kPa Pa mph kph rpm cal "
    "rad deg sq cu pt pts pcs gal qt GB MB KB kb hp mol USD EUR GBP INR CAD AUD CHF CNY JPY Rs rs".split()
)
_LETTER_UNITS = "mgLlshNJWVAKCF"
_SHORT_WORDS = set("of to in is it we he an at by on or so be as no do us my up if go me oh ok pm".split())
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten
_PART_NAMES = "half third quarter fourth fifth sixth seventh eighth ninth tenth".split()
_PARTS: dict[str, int] = dict(zip(_PART_NAMES, (2, 3, 4, 4, 5, 6, 7, 8, 9, 10)))
_NUMBER_WORDS = set(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety".split()
)
# Words beside which a number is not the answer: denial, comparison, choice, calculation, dates.
_SPOILING = {*_NUMBER_WORDS, *_SCALES, *_PARTS, *(f"{word}s" for word in (*_SCALES, *_PARTS)), "halves"} | set(
    "not never neither nor no none cannot without except excluding unless but than least most more less fewer larger "
    "greater smaller bigger between beyond when if otherwise depending whether wrong incorrect false unlikely "
    "impossible plus minus "
    "times divided multiplied multiply over choose chooses factorial root roots sqrt squared cubed dozen "
    "dozens percent mod modulo power powers raised negative product quotient twice double triple thrice xor sin cos "
    "tan log ln exp pi through until till after before january february march april june july august september october "
    "november december monday tuesday wednesday thursday friday saturday sunday am pm a.m p.m".split()
)
_LINKS = set(
    "is are was were be being equals equal get gets got obtain obtains have has gives give yields yield makes make "
    "becomes become".split()
)
_REASONS = {"because", "since"}
_ASIDES = {"so", "which", "hence", "thus"}
_JOINTS = {"and", "or"}
_ANSWER_WORDS = set("the a my our final correct right best only one answer result solution choice option".split())

_TOKEN = re.compile(
    r"(?P<math>\\(?:begin|end|operatorname|mathbb|mathcal|mathfrak|text)\*?\s*\{[^{}]*\}|\\[A-Za-z]+|\\.|[\^_]\{[^{}]*\})"
    r"|(?P<word>(?<![A-Za-z])[ap]\.\s?m\b\.?|[A-Za-z]+(?:['-][A-Za-z]+)*)|(?P<blank>\s+)|(?P<other>.)",
    re.DOTALL,
)
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|and|finally|ok|well|now|we|i|it|also|consequently|clearly|approximately|about|roughly|"
    r"exactly|ans|answer|result|solution)\b[,:]?\s*|\\approx\s*|=\s*|\\(?:therefore|Rightarrow|implies|to)\s+)+",
    re.IGNORECASE,
)
_CURRENCY = re.compile(
    r"(?:\\\$|[$€£¥₹]|\b(?:US|CA|AU)?\$|\b(?:Rs\.?|USD|EUR|GBP|INR))\s*(?=-?[\d.])|(?<=\d)\s?(?:\\\$|[€£¥₹])"
)
_UNIT_WORD = r"(?:[A-Za-zμ]{1,30}(?:-[A-Za-z]{1,30}){0,3}\.?)"
_NAMED_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_UNIT = re.compile(
    rf"(?P<value>[\d)}}\]%]|\\pi|\\circ)\s*"
    rf"(?P<unit>{_UNIT_WORD}{_NAMED_POWER}(?:(?:\s?/\s?|\s?\\cdot\s|\s){_UNIT_WORD}{_NAMED_POWER}){{0,9}})$"
)
_PER_UNIT = re.compile(rf"(?<=[\d)}}])\s*/\s*(?P<unit>{_UNIT_WORD})\s*$")
_COUNTED = re.compile(r"(?<![\w.^{/])(-?\d[\d,]*(?:\.\d+)?)(?:\s+|-)([a-z]+)\b(?!['’])")
_DEGREES = re.compile(r"(?<=[\d)}])\s*(?:degrees?|deg)\b(?:\s*(?:Celsius|Fahrenheit|[CF])\b)?")
_LETTER_UNIT = re.compile(rf"(.*[\d)}}])\s?[{_LETTER_UNITS}]{_NAMED_POWER}(?:\s*/\s*[a-z]{{1,3}}{_NAMED_POWER})?")
_MARKS_AROUND = re.compile(r"^(?:\s|[:;,?]|\.(?!\d))+|(?:\s|[:.;,?])+$")
_DENIED = re.compile(r"\b(?:not|never|no|wrong|incorrect|lambda|eval|print|import|def)\b|n't\b", re.IGNORECASE)
_LETTERS_TOGETHER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?:[A-Za-z]|\.\s?m)")
_CALL = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}\(")  # `print(5)`
_ASIDE = re.compile(r"\(\s*[A-Za-z][A-Za-z' -]{2,60}\)")


def is_word(letters: str) -> bool:
    """Whether a run of letters is a word and not a product of variables (`xy`, `ABC`, `mn`) or a name."""
    if len(letters) == 1:
        return False
    if letters in _UNITS or letters.casefold() in _SHORT_WORDS or letters.casefold() in _SPOILING:
        return True
    if len(letters) == 2 or letters.isupper() and len(letters) <= 4:
        return False
    steps = {ord(b) - ord(a) for a, b in zip(letters, letters[1:])}
    return not (steps == {1} or set(letters) <= set("xyzw"))


@lru_cache(maxsize=65536)
def answer_of(text: str, gold: bool = False) -> tuple[str, bool]:
    """What `text` answers, and whether that is mathematics; of a gold answer only units and lead-ins are taken off."""
    if not _LETTERS_TOGETHER.search(text):
        return _unpunctuated(text), True
    text = _unpunctuated(_without_units(_counted(text)))
    if not any(map(_is_spoken, _TOKEN.finditer(text))):
        return text, True
    segment = _segment(_tokens(text))
    if segment is None or _CALL.search(text):
        return text, False
    if _DENIED.search(text):  # `There is no solution` says `no solution`; `12 is not the answer` does not say 12
        said = _said(segment)
        return said if _DENIED.search(said) else text, False
    pieces, joined = _pieces(segment, gold)
    if joined and pieces:
        return _without_units(", ".join(pieces)), True
    return _said(segment), False


def _said(segment: Tokens) -> str:
    return _unpunctuated("".join(token for _, token in segment))


def _is_spoken(match: re.Match[str]) -> bool:
    return match.lastgroup == "word" and ("." in match.group() or is_word(match.group()))


def _tokens(text: str) -> Tokens:
    """The words, blanks and pieces of mathematics of a text."""
    tokens: Tokens = []
    matches = list(_TOKEN.finditer(text))
    for index, match in enumerate(matches):
        kind, token = match.lastgroup, match.group()
        if kind == "word" and not _is_spoken(match):
            following = matches[index + 1 : index + 3]  # an article if a word follows
            article = token in ("a", "A", "I") and [match.lastgroup for match in following] == ["blank", "word"]
            kind = "word" if article and is_word(following[1].group()) else "math"
        tokens.append((kind if kind in ("word", "blank") else "math", token))
    return tokens


def _segment(tokens: Tokens) -> Tokens | None:
    """The part of a sentence that holds its answer: after its verb, or before `is the answer`; None when unclear."""
    parts: list[Tokens] = [[]]
    for index, (kind, token) in enumerate(tokens):
        if _holds_math(parts[-1]) and _digresses(tokens, index):
            break
        spoken = any(kind == "word" for kind, _ in parts[-1])
        if kind == "word" and token.casefold() in _LINKS or spoken and _links(tokens, index):
            parts.append([])
        else:
            parts[-1].append((kind, token))
    if len(parts) == 1:
        return parts[0]
    for part in parts[1:-1]:
        if _holds_math(part) or any(kind == "math" and token.isupper() for kind, token in part):
            return None
    if not _holds_math(parts[0]):
        words = {token.casefold() for kind, token in parts[-1] if kind == "word"}
        return parts[0] if len(parts) == 2 and words and words <= _ANSWER_WORDS else parts[-1]
    if _holds_math(parts[-1]):  # `The sum of 3 numbers is 12`, but not `I have 3. It is 12`
        return None if any(token == "." for _, token in parts[0]) else parts[-1]
    return parts[0] if len(parts) == 2 else None


def _digresses(tokens: Tokens, index: int) -> bool:
    """Whether what follows is beside the point: a reason, or words alone after a full stop, `so` or `which`."""
    kind, token = tokens[index]
    if kind == "word" and token.casefold() in _REASONS:
        return True
    if token != "." and token.casefold() not in _ASIDES:
        return False
    rest = tokens[index + 1 :]
    return bool(rest) and not _holds_math(rest) and not any(token.casefold() in _JOINTS for _, token in rest)


def _links(tokens: Tokens, index: int) -> bool:
    """Whether this is the `:` or `=` between words and their value (`Area = 12`, not `x = 12` nor `3:1`)."""
    if tokens[index][1] not in (":", "="):
        return False
    before = [token for token in tokens[:index] if token[0] != "blank"]
    return bool(before) and before[-1][0] == "word"


def _holds_math(part: Tokens) -> bool:
    """Whether there is more than words, marks and single variables."""
    text = "".join(token for kind, token in part if kind != "word")
    return bool(re.search(r"[\d\\{}<>=]|[A-Za-z]\s*[-+^/=<>]", text)) or bool(re.search("[A-Za-z]{2,}", text))


def _pieces(segment: Tokens, gold: bool) -> tuple[list[str], bool]:
    """The pieces of mathematics among the words, and whether they stand for one answer or a list."""
    pieces, between, harmless = [""], [[]], True
    for kind, token in segment:
        if kind == "word":
            word = token.casefold().rstrip(".")
            if word in _SPOILING or word.endswith("n't") or set(word.split("-")) & _NUMBER_WORDS:
                harmless = False
            if pieces[-1].strip():
                pieces.append("")
                between.append([])
            between[-1].append(word)
        else:
            pieces[-1] += token
    kept = [(_unpunctuated(piece), words) for piece, words in zip(pieces, between)]
    kept = [(piece, words) for piece, words in kept if re.search(r"[\w\\]", piece)]
    if len(kept) > 1:  # `12 for n`: a lone variable is no value beside others
        kept = [(piece, words) for piece, words in kept if not re.fullmatch(r"[A-Za-z]", piece)] or kept
    if kept and "or" in between[-1] and not re.search(r"[\w\\]", pieces[-1]):
        return [], False  # `12 or something else`
    if not harmless or not kept or len(kept) > _MAX_PIECES or not all(_balanced(piece) for piece, _ in kept):
        return [], False
    if gold and kept[0][1]:
        return [], False  # `June 20`, `Room 5`
    listed = all(set(words) <= _JOINTS | {"maybe", "either"} for _, words in kept[1:])
    texts = [piece for piece, _ in kept]
    return texts, len(set(texts)) == 1 or listed


def _balanced(piece: str) -> bool:
    """Whether brackets close; an interval's may differ (`[2, 5)`)."""
    opened, closed = sum(map(piece.count, "([")), sum(map(piece.count, ")]"))
    return opened == closed and piece.count("{") == piece.count("}")


def _unpunctuated(text: str) -> str:
    """Without lead-in words, currency and marks around it."""
    text = _MARKS_AROUND.sub("", text)
    lead = _LEAD_IN.match(text)
    if lead and lead.end() < len(text):
        text = text[lead.end() :]
    text = _CURRENCY.sub("", text)
    text = _ASIDE.sub("", text)
    if text.endswith("\\"):
        text = text[:-1]
    return _MARKS_AROUND.sub("", text)


def _counted(text: str) -> str:
    """Number words after a number, as mathematics: `5 squared`, `1 million`, `3 halves`, `7 dozen`, `50 percent`."""
    text = _DEGREES.sub(r"^\\circ", text) if "deg" in text else text
    text = re.sub(r"\b[Nn]egative (?=[\d.])", "-", text)
    return _COUNTED.sub(_count, text)


def _count(match: re.Match[str]) -> str:
    number, word = match.groups()
    digits = number.replace(",", "").rstrip(".")
    stem = "half" if word == "halves" else word.removesuffix("s")
    if word in ("squared", "cubed"):
        return f"{number}^{{{2 if word == 'squared' else 3}}}"
    if stem in _SCALES:
        return format(Decimal(digits).scaleb(_SCALES[stem]).normalize(), "f")
    if stem == "dozen":
        return format((Decimal(digits) * 12).normalize(), "f")
    if stem in _PARTS and "." not in digits:
        return rf"\frac{{{digits}}}{{{_PARTS[stem]}}}"
    if word == "percent":
        return rf"{number}\%"
    if word == "factorial":
        return f"{number}!"
    return match.group()


def _without_units(text: str) -> str:
    r"""Drop the unit after a value: `42 cm^2`, `42 km/h`, `12\pi square units`; but not a lone letter."""
    text = _CURRENCY.sub("", text)
    match = _PER_UNIT.search(text)
    if match and _is_unit(match["unit"]):
        return text[: match.start()].strip()
    match = _UNIT.search(text)
    if match is None:
        return text
    words = re.findall(r"[A-Za-zμ]+", match["unit"])
    if any(word.casefold() in _SPOILING | _JOINTS for word in words) or not _is_unit(words[0]):
        return text
    if all(is_word(word) or word in _LETTER_UNITS for word in words[1:]):
        return text[: match.end("value")].strip()
    return text


def _is_unit(word: str) -> bool:
    return word.casefold() not in _SPOILING and word.casefold() not in _SHORT_WORDS and is_word(word) or word in _UNITS


def letter_unit(text: str) -> str:
    """The value before a unit of one letter (`5 m`, `5 m/s^2`): right only where the gold answer holds no letter."""
    match = _LETTER_UNIT.fullmatch(text)
    return match[1] if match else text


def half_day(text: str) -> str:
    """A time without its a.m. or p.m. (`4:30 p.m.`): right only where the gold answer has none."""
    return re.sub(r"(?<=\d)\s*[ap]\.?\s?m\.?$", "", text, flags=re.IGNORECASE)
