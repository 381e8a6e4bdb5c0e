"""What an endpoint's reply says: its text wherever it is put, why it ended, and whether it is a reply at all."""

from __future__ import annotations

import json
from typing import Any

from openrlhf_mlpo.engines.base import Completion

# Words of other servers for OpenAI's own.
_FINISH = {
    "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop",
    "max_tokens": "length", "model_length": "length", "safety": "content_filter",
}  # fmt: skip
_THINKING = ("thinking", "reasoning", "reasoning.text", "reasoning.summary")


class BadReply(ValueError):
    """A reply with status 200 that holds no answer; `status` is the HTTP status that it deserves."""

    def __init__(self, status: int = 502):
        self.status = status


def completion_of(content: Any) -> Completion:
    """The completion in a decoded reply to /chat/completions or /completions. Raises BadReply.

    Reasoning that comes beside the answer is put before it as `<think>…</think>`; where there is nothing else, it is
    the text. A refusal and tool calls are text too, named by `finish_reason` "refusal" and "tool_calls".
    """
    choices = content.get("choices") if isinstance(content, dict) else None
    error = content.get("error") if isinstance(content, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and not error:
        error = choice.get("error")
    if error:
        raise BadReply(_status(error))
    if not isinstance(choice, dict):
        raise BadReply()
    finish = str(choice.get("finish_reason") or "stop").lower()
    finish = _FINISH.get(finish, finish)
    if isinstance(choice.get("text"), str):
        thinking, text = _texts(choice.get("reasoning_content") or choice.get("reasoning"))[1], choice["text"]
    elif isinstance(choice.get("message"), dict):
        thinking, text, finish = _message(choice["message"], finish)
    else:
        raise BadReply()
    if finish == "error":
        raise BadReply()
    if not text.strip():
        text = thinking or text
    elif thinking.strip() and thinking.strip() not in text:
        text = f"<think>{thinking}</think>\n{text}"
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt_tokens, completion_tokens = (_count(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion"))
    return Completion(text, prompt_tokens, completion_tokens, finish)


def _message(message: dict, finish: str) -> tuple[str, str, str]:
    """Reasoning, text and finish reason of a chat message."""
    thinking, text = _texts(message.get("content"))
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        if not thinking:
            thinking = "".join(_texts(message.get(name)))
    if not text.strip() and message.get("refusal"):
        return thinking, "".join(_texts(message["refusal"])), "refusal"
    if not text.strip() and (calls := message.get("tool_calls") or message.get("function_call")):
        calls = calls if isinstance(calls, list) else [calls]
        return thinking, "\n".join(_call(call) for call in calls), "tool_calls"
    return thinking, text, finish


def _texts(content: Any) -> tuple[str, str]:
    """(reasoning, text) of a message's content: a text, None, one part or a list of parts."""
    if content is None or isinstance(content, str):
        return "", content or ""
    if isinstance(content, list):
        pairs = [_texts(part) for part in content]
        return "".join(thinking for thinking, _ in pairs), "".join(text for _, text in pairs)
    if not isinstance(content, dict):
        return "", json.dumps(content)
    kind = str(content.get("type", ""))
    for name in ("text", "thinking", "reasoning", "summary", "refusal", "content", "value"):
        if content.get(name) is not None:
            whole = "".join(_texts(content[name]))
            return (whole, "") if kind in _THINKING else ("", whole)
    return "", "" if kind in (*_THINKING, "text", "reasoning.encrypted") else f"[{kind or 'part'}]"


def _call(call: Any) -> str:
    """A tool call as `name(arguments)`."""
    called = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(called, dict):
        return json.dumps(called)
    arguments = called.get("arguments", "")
    return f"{called.get('name', '')}({arguments if isinstance(arguments, str) else json.dumps(arguments)})"


def _status(error: Any) -> int:
    code = error.get("code") or error.get("status") if isinstance(error, dict) else None
    code = int(code) if isinstance(code, int | str) and str(code).isdigit() else 502
    return code if 400 <= code < 600 else 502


def _count(value: Any) -> int:
    """A number of tokens; 0 for what is none, such as NaN, which JSON readers accept."""
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**31 else 0
