"""What is sent to an endpoint, and what its refusals teach about it: other names, parameters it has not, room left."""

from __future__ import annotations

import re
from typing import Any

from openrlhf_mlpo.engines.base import Conversation, Sampling

_UNSUPPORTED = re.compile(
    r"unsupported|not (?:be )?(?:supported|permitted|allowed|accepted)|(?:does|do) not support|unrecogni[sz]ed|unknown|"
    r"unexpected|deprecated|extra_forbidden|extra inputs|cannot both|only one of|instead"
)
# Ours to send or not: they say what most endpoints do anyway.
_NEUTRAL = {"top_p": 1.0, "temperature": 1.0, "add_special_tokens": False}

# The context and the prompt's length as OpenAI, vLLM, SGLang, TGI, llama.cpp, Anthropic and their kin put them.
_CONTEXT = (
    r"\d+ \+ \d+ > (\d+)",
    r"must be <= (\d+)",
    r"(?:context[ _](?:length|size|window|limit)|n_ctx|max_model_len|model length|sequence length)\D{0,30}(\d+)",
)
_PROMPT = (
    r"(\d+) \+ \d+ > \d+",
    r"(\d+) (?:tokens )?(?:in|from) the (?:input )?(?:messages|prompt|input)",
    r"(\d+) (?:input|`?inputs`?) tokens",
    r"n_prompt_tokens\D{1,4}(\d+)",
    r"(?:prompt|request|input)(?: length)? \((\d+)",
)


class Parameters:
    """Request bodies in this endpoint's form. It starts as vLLM's and OpenAI's own and learns from refusals."""

    def __init__(self, model: str, extra_body: dict, send_seed: bool):
        self.model, self.extra_body, self.send_seed = model, extra_body, send_seed
        self.limit_name = "max_tokens"
        self.left_out: set[str] = set()

    def body(self, conversation: Conversation, seed: int | None, sampling: Sampling, limit: int) -> dict[str, Any]:
        """A request's body; `limit` is the number of tokens to ask for, 0: as many as the endpoint gives."""
        body: dict[str, Any] = {"model": self.model}
        if isinstance(conversation, str):
            # The rendered text holds its special tokens already (vLLM would add BOS again). Without `max_tokens` vLLM
            # gives 16 tokens here, with null as many as there is room for.
            body |= {"prompt": conversation, "add_special_tokens": False}
            body |= {} if limit else {"max_tokens": None}
        else:
            body["messages"] = conversation
        for name in ("temperature", "top_p"):
            if getattr(sampling, name) is not None:
                body[name] = getattr(sampling, name)
        if limit:
            body[self.limit_name] = limit
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if seed is not None and self.send_seed:
            body["seed"] = seed
        # Not OpenAI's own, but vLLM's and others'; sent only when they are asked for.
        for name, neutral in (("top_k", 0), ("min_p", 0), ("repetition_penalty", 1)):
            if getattr(sampling, name) != neutral:
                body[name] = getattr(sampling, name)
        for name in self.left_out:
            if name in body and body[name] == _NEUTRAL[name]:
                del body[name]
        return {**body, **self.extra_body}

    def learn(self, refusal: str, sent: dict[str, Any]) -> bool:
        """Whether a refusal says how else to send this: `max_completion_tokens` (OpenAI's o-series and later), or
        without a parameter whose value is neutral. Kept for all requests that follow."""
        refusal = refusal.lower()
        if not _UNSUPPORTED.search(refusal):
            return False
        mine = sent.get("max_tokens") and "max_tokens" not in self.extra_body
        if mine and "max_completion_tokens" in refusal:
            self.limit_name = "max_completion_tokens"
            return True
        for name, neutral in _NEUTRAL.items():
            mine = name not in self.extra_body and name in sent and sent[name] == neutral
            if mine and re.search(rf"\b{name}\b", refusal):
                self.left_out.add(name)
                return True
        return False


def room(refusal: str, limit: int, context: int = 0) -> int | None:
    """The `max_tokens` to ask for after a refusal that may be about it; None when there is nothing to change.

    Args: `refusal`: the endpoint's words; `limit`: what was asked for (0: no limit); `context`: the model's context in
    tokens if the endpoint names it. Returns the room that the words leave, or 0, no limit of ours, where they do not
    count exactly (newer vLLM: "at least 500 input tokens"): what the server then gives is less than was asked for.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", refusal.lower())
    if not limit or not re.search(r"token|context", text):
        return None
    prompt = _number(_PROMPT, text)
    context = _number(_CONTEXT, text) or context
    if prompt and context and "at least" not in text:
        left = context - prompt
        return None if left < 1 else left if left < limit else 0
    return 0


def _number(patterns: tuple[str, ...], text: str) -> int:
    return next((int(match[1]) for pattern in patterns if (match := re.search(pattern, text))), 0)
