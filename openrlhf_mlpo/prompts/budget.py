"""Fitting texts into a budget of tokens: they are cut from their beginnings, as the answer is at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from tokenizers import Encoding, Tokenizer

from openrlhf_mlpo.errors import UserError


def share_budget(lengths: Sequence[int], room: int) -> list[int]:
    """Split `room` tokens among texts of these lengths: short ones whole, the rest in equal parts (water filling)."""
    budgets = [0] * len(lengths)
    left, room = len(lengths), max(room, 0)
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        budgets[index] = min(lengths[index], room // left)
        room -= budgets[index]
        left -= 1
    return budgets


def cut_to_fit(
    tokenizer, texts: Sequence[str], tokens: Sequence[Encoding], room: int, excess: Callable[[list[str]], int]
) -> list[str]:
    """The texts, longest ones cut first, so that together they have `room` tokens and what is built of them fits.

    `tokens`: `encode(tokenizer, texts)`; `excess(cut)`: by how many tokens what is built of the cut texts is too long.
    """
    while True:
        budgets = share_budget([len(each) for each in tokens], room)
        cut = [end_of(tokenizer, *each) for each in zip(texts, tokens, budgets, strict=True)]
        over = excess(cut)
        if over <= 0 or room <= 0:
            return cut
        room -= over  # pieces can tokenize to a few more tokens together than apart


def end_of(tokenizer, text: str, tokens: Encoding, max_tokens: int) -> str:
    """An end of `text`, as long as `max_tokens` tokens allow, begun with `…` where something was cut."""
    if len(tokens) <= max_tokens:
        return text
    mark = "… "
    keep = max_tokens - count_tokens(tokenizer, mark)
    while keep > 0:
        cut = mark + text[tokens.token_to_chars(len(tokens) - keep)[0] :].lstrip()
        excess = count_tokens(tokenizer, cut) - max_tokens
        if excess <= 0:
            return cut
        keep -= excess
    return ""


def count_tokens(tokenizer, text: str) -> int:
    """How many tokens `tokenizer` makes of `text` as it stands, none added."""
    core = _core(tokenizer)
    if core is None:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])
    return len(core.encode_batch_fast([text], add_special_tokens=False)[0])


def encode(tokenizer, texts: list[str]) -> list[Encoding]:
    """The tokens of each text with their places in it. Raises UserError for a tokenizer that cannot tell them."""
    core = _core(tokenizer)
    if core is not None:
        return core.encode_batch(texts, add_special_tokens=False)
    encodings = tokenizer(texts, add_special_tokens=False).encodings
    if encodings is None:
        raise UserError(f"the tokenizer of {tokenizer.name_or_path!r} has no fast form: texts cannot be cut to fit")
    return encodings


def _core(tokenizer) -> Tokenizer | None:
    """The Rust tokenizer inside one of Hugging Face's, which costs a quarter; None where it gives other tokens."""
    core = _same_core(tokenizer)
    if core is not None:
        # Another's call of the Python wrapper may have left these set; it sets them in each call.
        if core.truncation is not None:
            core.no_truncation()
        if core.padding is not None:
            core.no_padding()
        core.encode_special_tokens = tokenizer.split_special_tokens
    return core


@lru_cache(maxsize=8)
def _same_core(tokenizer) -> Tokenizer | None:
    core = getattr(tokenizer, "backend_tokenizer", None)
    probe = "".join(map(str, tokenizer.all_special_tokens)) + " A b\n\n 12 ½ <c> [d] \u2014 "
    expected = tokenizer(probe, add_special_tokens=False)["input_ids"]  # also resets what `_core` resets
    same = isinstance(core, Tokenizer) and core.encode(probe, add_special_tokens=False).ids == expected
    return core if same else None
