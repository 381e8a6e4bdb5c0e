"""The phrases that join the lines of a trace, built in or from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import read_yaml


@dataclass(frozen=True)
class Phrases:
    """The joints. One of each tuple is chosen at random, so that no fixed phrase marks every correction.

    `agent` takes up a response: {number}, {reasoning} (all but the answer; may be empty), {answer}. The doubts follow a
    line that ended in some answer, by what the (other) responses say: `alone` none of them gives it, `some` only some
    do, `all` all do, `solo` there is no team. A doubt is chosen before it is known whether the line was wrong.
    """

    agent: tuple[str, ...] = (
        "Let me start from response {number}. {reasoning} That gives {answer}.",
        "Response {number} argues as follows. {reasoning} So its answer is {answer}.",
        "First I follow response {number}. {reasoning} It arrives at {answer}.",
        "Take response {number}: {reasoning} By that, the answer would be {answer}.",
    )
    alone: tuple[str, ...] = (
        "But none of the responses arrives at this. I should go back and see where the difference comes from.",
        "Wait, nobody else gets this result. Let me look again from the start.",
        "This stands alone among the answers, so one of the steps may be off. Going back to the question:",
    )
    some: tuple[str, ...] = (
        "But the responses do not agree here, so this needs a check before I settle on it.",
        "Wait. There is disagreement on this, and I have not worked it through myself. Let me do that.",
        "Some get a different result. Let me reconsider, step by step.",
    )
    all: tuple[str, ...] = (
        "All the responses say the same, but agreement proves nothing. Let me look again.",
        "Everyone agrees, which may be a mistake that all of them share. I check it once more:",
        "Before I accept what all of them say, let me go back and derive it myself.",
    )
    solo: tuple[str, ...] = (
        "Wait, I have not verified this. Let me go through it again.",
        "Hold on, one of these steps may not be right. Going back over it:",
        "Let me look again before I answer, more carefully this time.",
    )
    joint: str = "\n\n"  # between a line, a doubt and the next line


@lru_cache(maxsize=4)
def load_phrases(path: str) -> Phrases:
    """The phrases of a YAML file; what it leaves out stays as built in ("" : all). Raises UserError."""
    if not path:
        return Phrases()
    given = read_yaml(Path(path), f"--phrases {path}")
    known = [field.name for field in fields(Phrases)]
    if not isinstance(given, dict) or not set(given) <= set(known):
        raise UserError(f"--phrases {path}: must map some of {', '.join(known)} to lists of texts")
    for name, texts in given.items():
        wanted = str if name == "joint" else list
        if not isinstance(texts, wanted) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"--phrases {path}: {name} must be a {'text' if name == 'joint' else 'list of texts'}")
    for text in given.get("agent", ()):
        if "{answer}" not in text or not ("{number}" in text or "{reasoning}" in text):
            raise UserError(f"--phrases {path}: agent: {text!r} needs {{answer}}, and {{number}} or {{reasoning}}")
    settings: dict[str, Any] = {name: texts if name == "joint" else tuple(texts) for name, texts in given.items()}
    return Phrases(**settings)
