"""A leader's chat template: rendering with it, and finding out before a run what it would do to every prompt."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Sequence
from typing import Any

from openrlhf_mlpo.errors import UserError, one_line

# Templates that print today's date (Llama 3.2, SmolLM3, gpt-oss) get this one, which Llama 3.1's prints by default: a
# prompt is the same on every day, so that a resumed run, its SFT data and its evaluation see the same prompts.
PINNED_DATE = datetime.datetime(2024, 7, 26)
_QUESTION, _SYSTEM = "Q7f3 mark", "S4d9 mark"


def render_chat(tokenizer, messages: Sequence[dict], variables: dict[str, Any] | None = None) -> str:
    """`messages` as the prompt text that a leader continues; `variables` of the chat template beside them."""
    pinned = {"strftime_now": PINNED_DATE.strftime, **(variables or {})}
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **pinned)


def check_chat_template(tokenizer, system: bool = False, variables: dict[str, Any] | None = None) -> None:
    """Raise UserError unless the chat template shows a question, and a system text where `system` says there is one.

    Also for a tokenizer without a template, and for `variables` that the template does not read.
    """
    model = tokenizer.name_or_path
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"the tokenizer of {model!r} has no chat template; use an instruct model")
    reserved = set(inspect.signature(tokenizer.apply_chat_template).parameters) - {"tools", "documents"}
    for name in variables or ():
        if name in reserved or name not in tokenizer.get_chat_template():
            raise UserError(f"the chat template of {model!r} does not read {name!r}; see its chat_template")
    question = {"role": "user", "content": _QUESTION}
    messages = [{"role": "system", "content": _SYSTEM}, question] if system else [question]
    try:
        prompt = render_chat(tokenizer, messages, variables)
    except Exception as error:  # whatever a template raises, by raise_exception or by accident
        problem = f"refuses the prompt ({one_line(error, 200)})"
        if system and _renders(tokenizer, [question], variables):
            raise UserError(
                f"the chat template of {model!r} {problem}: it has no system role; move `system` of the prompt "
                "template into its `question`"
            ) from None
        raise UserError(f"the chat template of {model!r} {problem}; use a model for chat with text") from None
    if _QUESTION not in prompt:
        raise UserError(f"the chat template of {model!r} leaves the question out; use a model for chat with text")
    if system and _SYSTEM not in prompt:
        raise UserError(
            f"the chat template of {model!r} leaves the system text out; move `system` of the prompt template into "
            "its `question`"
        )


def prints_date(tokenizer, variables: dict[str, Any] | None = None) -> bool:
    """Whether the chat template prints today's date, in place of which `render_chat` gives it `PINNED_DATE`."""
    messages = [{"role": "user", "content": _QUESTION}]
    another = {"strftime_now": (PINNED_DATE + datetime.timedelta(days=400)).strftime, **(variables or {})}
    return render_chat(tokenizer, messages, variables) != render_chat(tokenizer, messages, another)


def _renders(tokenizer, messages: Sequence[dict], variables: dict[str, Any] | None) -> bool:
    try:
        return bool(render_chat(tokenizer, messages, variables))
    except Exception:
        return False
