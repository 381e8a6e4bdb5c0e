"""From what OpenRLHF hands a reward function to the answer the model committed to.

The prompt holds other agents' answers, so nothing here ever searches it: when the start of the response cannot be
found, there is no response. Every scan is linear in the text, whatever the text.
"""

from __future__ import annotations

import re
import unicodedata

MAX_RESPONSE = 200_000  # characters; only the end of a longer response is read (an answer is at its end)
MIN_CUT_MATCH = 24  # non-blank characters of a left-cut prompt that must be found before we believe it is the prompt

END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<|end|>", "<|return|>", "</s>",
    "<eos>", "<end_of_turn>", "<turn|>", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>", "[PAD]", "[EOS]", "<|eos|>",
    "<｜end▁of▁sentence｜>",
)  # fmt: skip

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOXED_TOKENS = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
_PLAIN = {
    **dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\u2014\u2015\ufe58\ufe63\uff0d"), "-"),
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},  # fullwidth forms of ASCII
    **dict(zip(map(ord, "\u3001\u3002\u2018\u2019\u201c\u201d\u201a\u201b"), ",.''\"\"''")),
}
_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_OPEN_THINK = re.compile(r"<think>\s*\Z")
_WRAPPERS = ("$", "\\", "*", "_", "`")
_BLANKS = re.compile(r"\s+")


def response_of(query: str, prompt: str) -> str | None:
    """The response in `query` = decode(prompt tokens + response tokens); None when its start cannot be found.

    `query` may differ from `prompt` in white space (word-level tokenizers) and in Unicode form (tokenizers that
    normalise), and OpenRLHF may have cut the prompt's left end off. Tried in turn, for the prompt and its Unicode
    normal forms: the prompt as it is, without white space, the longest end of it that `query` starts with. End-of-text
    tokens at the end are dropped.
    """
    forms = [prompt]
    if not prompt.isascii():
        forms += [unicodedata.normalize(form, prompt) for form in ("NFC", "NFKC", "NFD", "NFKD")]
    for form in forms:
        if query.startswith(form):
            return strip_end_tokens(query[len(form) :])
    bare_query = "".join(query.split())
    bare_forms = list(dict.fromkeys("".join(form.split()) for form in forms))
    taken = next((len(form) for form in bare_forms if bare_query.startswith(form)), 0)
    if not taken:
        taken = max(_overlap(form, bare_query) for form in bare_forms)
        if taken < MIN_CUT_MATCH:
            return None
    return strip_end_tokens(_skip_non_blank(query, taken))


def _skip_non_blank(text: str, count: int) -> str:
    """`text` after its first `count` characters that are not white space."""
    for run in re.finditer(r"\S+", text):
        length = run.end() - run.start()
        if count <= length:
            return text[run.start() + count :]
        count -= length
    return ""


def _overlap(prompt: str, query: str) -> int:
    """Length of the longest end of `prompt` that is a beginning of `query` (Knuth-Morris-Pratt: linear time)."""
    text = [*query[: len(prompt)], None, *prompt]  # None equals no character
    borders = [0]  # of text[: n + 1], the length of the longest other beginning that it ends with
    for char in text[1:]:
        length = borders[-1]
        while length and text[length] != char:
            length = borders[length - 1]
        borders.append(length + (text[length] == char))
    return borders[-1]


def strip_end_tokens(text: str) -> str:
    """Drop white space and end-of-text or padding tokens from the end."""
    text = text.rstrip()
    while text.endswith(END_TOKENS):
        for token in END_TOKENS:
            text = text.removesuffix(token)
        text = text.rstrip()
    return text


def is_formatted(response: str) -> bool:
    """Whether the response is exactly `<think>…</think>` then one non-empty `<answer>…</answer>`, white space aside."""
    text = strip_end_tokens(response).lstrip()
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    if any(text.count(tag) != 1 for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        return False
    middle, _, answer = text[: -len("</answer>")].partition("<answer>")
    return middle.rstrip().endswith("</think>") and bool(answer.strip())


def extract_answer(text: str, *, boxed: bool = True) -> str | None:
    r"""The answer in a RESPONSE (never pass the prompt too): the last well-formed `<answer>` block after the thinking,
    else, with `boxed`, the last balanced `\boxed{}` there. None when there is none or it is empty.

    An `<answer>` inside `<think>` does not count. White space, Unicode digits and minus signs, `$…$` and a `\boxed{}`
    around the whole answer are made plain; everything else is the verifiers' business.
    """
    text = _without_thinking(text[-MAX_RESPONSE:])
    block = _last_block(text)
    if block is None:
        if not boxed:
            return None
        boxes = box_contents(text)
        block = boxes[-1] if boxes else ""
    else:
        boxes = box_contents(block)
        if len(boxes) == 1:  # several boxes are several answers: the verifier sees them all
            block = boxes[0]
    return clean(block) or None


def opened_thinking(prompt: object) -> str:
    """`<think>` and the white space behind it where a rendered prompt ends so (some chat templates do), else ""."""
    end = _OPEN_THINK.search(prompt) if isinstance(prompt, str) else None
    return end[0] if end else ""


def _without_thinking(text: str) -> str:
    """What is outside `<think>…</think>`; a first `</think>` without its `<think>` ends what the prompt opened."""
    kept, start, opened = [], 0, None
    for index, tag in enumerate(_THINK.finditer(text)):
        if not tag.group(1):
            if opened is None:
                kept.append(text[start : tag.start()])
                opened = tag.end()
        elif opened is not None or index == 0:
            start, opened = tag.end(), None
    return "\n".join([*kept, text[start:]] if opened is None else kept)


def _last_block(text: str) -> str | None:
    """Content of the last `<answer>…</answer>` that holds no other answer tag, or None."""
    start, block = None, None
    for tag in _TAG.finditer(text):
        if not tag.group(1):
            start = tag.end()
        elif start is not None:
            block, start = text[start : tag.start()], None
    return block


def box_contents(text: str) -> list[str]:
    r"""Contents of every balanced `\boxed{}`, in the order they begin; of nested ones only the innermost."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return []
    stack: list[tuple[int, bool]] = []  # where the content of each open brace begins, and whether it is a box
    spans: list[tuple[int, int]] = []
    for token in _BOXED_TOKENS.finditer(text):
        mark = token.group()
        if len(mark) > 2:
            stack.append((token.end(), True))
        elif mark == "{":
            stack.append((token.end(), False))
        elif mark == "}" and stack:
            start, is_box = stack.pop()
            if is_box and not (spans and spans[-1][0] > start):
                spans.append((start, token.start()))
    return [text[start:end] for start, end in spans]


def clean(text: str) -> str:
    """Make an answer plain: ASCII digits and minus signs, single blanks, no control characters, no markup around it."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)  # an accent is one character, as a keyboard writes it
        text = "".join(_plain(char) for char in text.translate(_PLAIN))
    text = _BLANKS.sub(" ", text.replace("\x00", "")).strip()
    if not text.isprintable():
        text = "".join(char for char in text if unicodedata.category(char)[0] != "C" or char == " ").strip()
    while text[:1] in _WRAPPERS:
        inner = _unwrap(text)
        if inner == text:
            break
        text = inner
    return text


def _plain(char: str) -> str:
    if char.isascii():
        return char
    kind = unicodedata.category(char)
    if kind == "Nd":
        return str(unicodedata.digit(char))
    return " " if kind == "Zs" else char


def _unwrap(text: str) -> str:
    for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"),
                        ("*", "*"), ("_", "_"), ("`", "`")):  # fmt: skip
        if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right):
            inner = text[len(left) : -len(right)]
            if left not in inner and not inner.endswith("\\"):
                return inner.strip()
    return text
