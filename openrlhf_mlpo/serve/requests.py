"""What clients may ask for, in OpenAI's form; what is not supported is refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from openrlhf_mlpo.engines import Sampling
from openrlhf_mlpo.questions import Question, question_id

MODELS = ("leader-team", "leader", "vote")
# Fields of OpenAI's that change no answer, and the values at which the others ask for nothing.
_NOTHING: Mapping[str, Sequence[Any]] = {
    "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "tools": ([],), "tool_choice": ("none", "auto"),
    "functions": ([],), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},),
    "response_format": ({"type": "text"},), "modalities": (["text"],), "parallel_tool_calls": (True, False),
}  # fmt: skip
_HARMLESS = frozenset("user metadata store service_tier safety_identifier prompt_cache_key".split())


class BadRequest(Exception):
    """A request that cannot be answered; `param`: the field that is wrong."""

    def __init__(self, message: str, param: str | None = None):
        super().__init__(message)
        self.param = param


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="allow")
    type: str
    text: str | None = None


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(BaseModel):
    include_usage: bool = False


class Ours(BaseModel):
    """What only this server knows: `transcript` returns every turn of every round."""

    model_config = ConfigDict(extra="forbid")
    transcript: bool = False


class ChatRequest(BaseModel):
    """A chat completion request. Sampling is that of the leader; agents keep the settings of the team file."""

    model_config = ConfigDict(extra="allow")
    model: str = MODELS[0]
    messages: list[Message] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    mlpo: Ours = Ours()


def check(request: ChatRequest) -> None:
    """Raise BadRequest for a model that is not served and for what is not supported."""
    if request.model not in MODELS:
        raise BadRequest(f"model {request.model!r} is not served; the models are {', '.join(MODELS)}", "model")
    for name, value in (request.model_extra or {}).items():
        if name in _HARMLESS or value is None or value in _NOTHING.get(name, ()):
            continue
        raise BadRequest(f"{name} is not supported" if name in _NOTHING else f"unknown field {name[:60]!r}", name[:60])


def question_of(request: ChatRequest, task: str) -> Question:
    """The question that a request asks: its only message as it is, or the conversation with its roles named.

    Agents and leader get the whole conversation inside their own prompts, which have a place for one text.
    """
    if request.messages[-1].role != "user":
        raise BadRequest("the last message must be the user's: it is the question", "messages")
    texts = [(message.role, text_of(message)) for message in request.messages]
    text = texts[0][1] if len(texts) == 1 else "\n\n".join(f"[{role}]\n{content}" for role, content in texts)
    if not texts[-1][1].strip():
        raise BadRequest("the last message is empty", "messages")
    return Question(question_id(task, text), task, text, "")


def text_of(message: Message) -> str:
    """The text of a message; BadRequest for images and anything else."""
    if isinstance(message.content, str):
        return message.content
    if other := [part.type for part in message.content if part.type != "text" or part.text is None]:
        raise BadRequest(f"messages hold text only, not {other[0][:60]!r}", "messages")
    return "".join(part.text or "" for part in message.content)


def sampling_of(request: ChatRequest, usual: Sampling) -> Sampling:
    """How the leader's outputs to this request are drawn: as `usual`, but for what it asks. Raises BadRequest."""
    given: dict[str, Any] = {k: v for k in ("temperature", "top_p") if (v := getattr(request, k)) is not None}
    if wanted := request.max_completion_tokens or request.max_tokens:
        if wanted > usual.max_tokens:
            raise BadRequest(f"at most {usual.max_tokens} tokens can be generated here, not {wanted}", "max_tokens")
        given["max_tokens"] = wanted
    if request.stop is not None:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
        if not all(given["stop"]):
            raise BadRequest("stop: an empty text cannot end an output", "stop")
    return replace(usual, **given)
