"""One small interface to whatever answers prompts: `make_engine(agent)`, then `stream` or `generate`, then `close`.

Engines: `vllm` (in this process), `openai` (an endpoint), `ray` (Ray Data actors around another engine) and
`callable` (a Python function). Each is imported only when asked for.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.text import readable

Conversation = str | list[dict]  # a prompt that is already rendered, or chat messages
ENGINES = ("vllm", "openai", "ray", "callable")
TOO_LONG = "too_long"  # finish_reason of the empty response to a prompt that the model cannot take


@dataclass(frozen=True)
class Sampling:
    """How to draw a response. `top_k` 0 and `max_tokens` 0 mean no limit (of the engine's own)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 1024
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, settings: dict, where: str = "sampling") -> Sampling:
        """Checked settings; `where` names their place in a file. Raises UserError for an unknown name or bad value."""
        known = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in known:
                raise UserError(f"{where}: unknown setting {name!r}; the settings are {', '.join(known)}")
            if name == "stop":
                value = (value,) if isinstance(value, str) else value
                if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
                    raise UserError(f"{where}: stop must be a text or a list of texts")
                values[name] = tuple(value)
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise UserError(f"{where}: {name} must be a number, not {value!r}")
            elif known[name] is int and value != int(value) or value < 0:
                raise UserError(
                    f"{where}: {name} must be {'a whole number' if known[name] is int else 'a number'} >= 0"
                )
            else:
                values[name] = known[name](value)
        return cls(**values)

    def as_dict(self) -> dict:
        """JSON-ready settings."""
        return {**asdict(self), "stop": list(self.stop)}


@dataclass(frozen=True)
class Completion:
    """One response. `finish_reason`: "stop", "length", or `TOO_LONG` (the prompt exceeds the context; empty text)."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", readable(self.text))  # no file, table or tokenizer takes lone surrogates


def request_seed(seed: int, *key: str) -> int:
    """A 31-bit seed that depends on `seed` and `key` alone, so that batching, order and resuming do not change it."""
    digest = hashlib.sha256("\x1f".join((str(seed), *key)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class Engine(ABC):
    """Answers conversations. Use as a context manager, or call `close` when done."""

    @abstractmethod
    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index of the conversation, its `n` completions) in the order in which they are done.

        `conversations` may be any lazy sequence: engines read it as they go. `seed` is one number (each request then
        gets its own, from the number and the prompt), one number per conversation (sample j gets that + j), or None:
        unseeded, which some GPUs sample a little faster. Raises UserError for what the user can mend.
        """

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        n: int = 1,
        seed: Seeds = 0,
        sampling: Sampling | None = None,
        on_done: Callable[[int, list[Completion]], None] | None = None,
    ) -> list[list[Completion]]:
        """All completions, `[conversation][sample]`; `on_done(index, completions)` is called as each arrives."""
        results: list[list[Completion]] = [[] for _ in range(len(conversations))]
        for index, completions in self.stream(conversations, n=n, seed=seed, sampling=sampling):
            results[index] = completions
            if on_done:
                on_done(index, completions)
        return results

    def close(self) -> None:  # noqa: B027  (an engine may have nothing to give back)
        """Give back memory and connections; the engine cannot be used afterwards."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exception) -> None:
        self.close()


Seeds = int | Sequence[int] | None


def seed_of(seed: Seeds, index: int, conversation: Conversation) -> int | None:
    """The seed of sample 0 of one conversation; sample j gets that + j."""
    if seed is None:
        return None
    if isinstance(seed, int):
        return request_seed(seed, json.dumps(conversation, sort_keys=True))
    return seed[index]


def make_engine(agent: Any, *, engine: str | None = None, engine_args: dict | None = None) -> Engine:
    """The engine of an agent of a team (`openrlhf_mlpo.team.Agent`), or of a model named by a string.

    For a string, `engine` (default "vllm") and `engine_args` say the rest. Raises UserError when it cannot start.
    """
    if isinstance(agent, str):
        model, kind, settings = agent, engine or "vllm", dict(engine_args or {})
    else:
        model, kind = agent.model, engine or agent.engine
        settings = {**agent.engine_args, **(engine_args or {})}
    if kind == "vllm":
        from openrlhf_mlpo.engines.vllm import VllmEngine as chosen
    elif kind == "openai":
        from openrlhf_mlpo.engines.openai import OpenAIEngine as chosen
    elif kind == "ray":
        from openrlhf_mlpo.engines.ray import RayEngine as chosen
    elif kind == "callable":
        from openrlhf_mlpo.engines.callable import CallableEngine as chosen
    else:
        raise UserError(f"unknown engine {kind!r}; the engines are {', '.join(ENGINES)}")
    return chosen(model, settings)
