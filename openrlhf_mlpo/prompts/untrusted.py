"""Making text of others harmless inside a prompt: no string is left that a tokenizer or our parser reads as control."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# Tags with a meaning to our own parsing or to OpenRLHF's (`<image>`): shown in square brackets when quoted.
_BLOCK_TAG = re.compile(r"<\s*(/?)\s*(think|answer|image|video)\b([^<>]{0,64})>", re.IGNORECASE)
# Control tokens of chat templates in general (<|im_end|>, <|eot_id|>, <start_of_turn>, [INST], <s>, …): a pool may be
# shown to a leader of any family, so the forms are broken whether or not this leader's tokenizer knows them.
_CONTROL = re.compile(
    r"<(?=\|[^<>\s]{1,64}\|>)|<(?=/?(?:s|bos|eos|pad|unk|mask|start_of_turn|end_of_turn|start_of_image|end_of_image)>)"
    r"|\[(?=/?(?:INST|SYS|TOOL_CALLS|AVAILABLE_TOOLS|IMG)\])|<(?=<SYS>>|</SYS>>)",
    re.IGNORECASE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# What `defuse` makes of our own tags; a small tokenizer may well have them as words.
_QUOTED_TAGS = frozenset(f"[{slash}{tag}]" for slash in ("", "/") for tag in ("think", "answer"))
_MARKUP = re.compile(r"^(<[^<>]+>|\[[^\[\]]+\])$")


def defuse(text: str, control_tokens: tuple[str, ...] = ()) -> str:
    """Untrusted text, changed so that nothing in it can act as control; ordinary text comes back as it was.

    `<think>`, `<answer>`, `<image>` and our other tags become `[think]`, …; a control token of this tokenizer
    (`control_tokens`) or of a common chat template gets a blank after its first character; NUL and lone surrogates,
    which tokenizers refuse, become U+FFFD.
    """
    patterns = _control_patterns(control_tokens)
    text = text.replace("\x00", "\ufffd")
    if text.isascii():
        return _defuse(text, patterns)
    text = _defuse(_SURROGATE.sub("\ufffd", text), patterns)
    # A tokenizer that normalises (NFKC) would turn look-alikes such as a full-width `＜` into the real thing.
    folded = unicodedata.normalize("NFKC", text)
    is_live = any(pattern.search(folded) for pattern in (_BLOCK_TAG, *patterns))
    return _defuse(folded, patterns) if is_live else text


def _defuse(text: str, patterns: Sequence[re.Pattern]) -> str:
    text = _BLOCK_TAG.sub(lambda m: f"[{m[1]}{m[2]}{m[3]}]", text)
    for _ in range(4):  # breaking one token can, in contrived text, put another together
        before = text
        for pattern in patterns:
            text = pattern.sub(lambda m: m[0][0] + " " + m[0][1:], text)
        if text == before:
            break
    return text


@lru_cache(maxsize=16)
def _control_patterns(tokens: tuple[str, ...]) -> list[re.Pattern]:
    long_first = sorted((token for token in set(tokens) if len(token) > 1), key=len, reverse=True)
    return [_CONTROL, re.compile("|".join(map(re.escape, long_first)))] if long_first else [_CONTROL]


def control_tokens(tokenizer) -> tuple[str, ...]:
    """The strings this Hugging Face tokenizer reads as one control token wherever they stand in a text.

    All special tokens, and added tokens in the form of markup (Qwen's `<tool_call>` is added but not special). Added
    plain words and runs of white space (Gemma has many) are ordinary text and stay.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {str(token) for token in added if token.special or _MARKUP.match(str(token))}
    names -= _QUOTED_TAGS
    return tuple(sorted(names | {str(token) for token in tokenizer.all_special_tokens if len(str(token)) > 1}))
