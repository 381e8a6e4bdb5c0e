"""What all engines share: how a response is drawn, what comes back, seeds, and `make_engine`."""

from __future__ import annotations

import hashlib
import json
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.text import readable

Conversation = str | list[dict]  # a prompt that is already rendered, or chat messages
Seeds = int | Sequence[int] | None

# An engine's word in a team file -> the module here with its `check`, and its class; imported when asked for.
_ENGINES = {
    "vllm": ("vllm", "vllm:VllmEngine"),
    "openai": ("openai_settings", "openai:OpenAIEngine"),
    "ray": ("ray", "ray:RayEngine"),
    "callable": ("python_function", "python_function:FunctionEngine"),
}
ENGINES = tuple(_ENGINES)

# finish_reason of an empty response whose request was refused while others like it are answered.
TOO_LONG = "too_long"  # the model cannot take the prompt
CONTENT_FILTER = "content_filter"
REFUSED = "refused"  # for another reason; the endpoint's words follow after a colon

# Names of settings that hold a secret: none belongs in a file that is stored, shown or shared.
_SECRETS = frozenset("apikey token hftoken accesstoken authtoken bearertoken authorization password secret".split())
# Bounds of the settings in `Sampling`, as `check_number` takes them.
_BOUNDS: dict[str, tuple] = {
    "temperature": (0.0,),
    "top_p": (0.0, 1.0, True),
    "top_k": (0,),
    "min_p": (0.0, 1.0),
    "max_tokens": (0,),
    "repetition_penalty": (0.0, math.inf, True),
}


@dataclass(frozen=True)
class Sampling:
    """How to draw a response. `top_k` 0 and `max_tokens` 0 mean no limit (of the engine's own); `temperature` and
    `top_p` None are not asked for, so that the engine's or endpoint's own default holds."""

    temperature: float | None = 1.0
    top_p: float | None = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 1024
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, settings: Mapping, where: str = "sampling") -> Sampling:
        """Checked settings; `where` names their place in a file. Raises UserError for an unknown name or bad value.

        None (null in a team file) leaves out `temperature`, `top_p` and `max_tokens`, which some endpoints refuse.
        """
        known = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in known:
                raise UserError(f"{where}: unknown setting {name!r}; the settings are {', '.join(known)}")
            if name == "stop":
                value = (value,) if isinstance(value, str) else value
                if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text for text in value):
                    raise UserError(f"{where}: stop must be a text or a list of texts, none of them empty")
                values[name] = tuple(value)
            elif value is None and name in ("temperature", "top_p", "max_tokens"):
                values[name] = 0 if name == "max_tokens" else None
            else:
                whole = known[name] is int
                if whole and isinstance(value, float) and value.is_integer():
                    value = int(value)
                check_number(where, name, value, *_BOUNDS[name], whole=whole)
                values[name] = known[name](value)
        return cls(**values)

    def as_dict(self) -> dict:
        """JSON-ready settings."""
        return {**asdict(self), "stop": list(self.stop)}


def check_number(
    where: str, name: str, value: Any, least: float, greatest: float = math.inf, above: bool = False, *, whole=False
) -> None:
    """Refuse the setting `name` unless it is a finite number in [least, greatest]; `above`: and not `least` itself."""
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= greatest or value == math.inf or above and value == least:
        bounds = f"{'>' if above else '>='} {least}" + (f" and <= {greatest}" if greatest < math.inf else "")
        raise UserError(f"{where}: {name} must be a {'whole number' if whole else 'number'} {bounds}, not {value!r}")


@dataclass(frozen=True)
class Completion:
    """One response. `finish_reason`: "stop", "length" (cut at `max_tokens`), the endpoint's own word for something
    else ("tool_calls", "refusal"), or why `text` is empty: `TOO_LONG`, `CONTENT_FILTER`, `REFUSED: its words`."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"

    def __post_init__(self) -> None:
        if isinstance(self.text, str):  # what else a function returns is refused by name
            object.__setattr__(self, "text", readable(self.text))  # no file, table or tokenizer takes lone surrogates


def request_seed(seed: int, *key: str | int) -> int:
    """A 31-bit seed that depends on `seed` and `key` alone, so that batching, order and resuming do not change it.

    THE seed of a request, for pools and for evaluation: `key` is the agent's name, then the question's id (pools) or
    the round (evaluation, where `seed_of` adds the prompt). Sample j of a request gets that + j.
    """
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *key))).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def seed_of(seed: Seeds, index: int, conversation: Conversation) -> int | None:
    """The seed of sample 0 of one conversation; sample j gets that + j."""
    if seed is None:
        return None
    if isinstance(seed, int):
        return request_seed(seed, json.dumps(conversation, sort_keys=True))
    return seed[index]


class Engine(ABC):
    """Answers conversations. Use as a context manager, or call `close` when done."""

    @abstractmethod
    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield (index of the conversation, its `n` completions) in the order in which they are done.

        `conversations` may be any lazy sequence: engines read it as they go. `seed` is one number (each request then
        gets its own, from the number and the prompt), one number per conversation (sample j gets that + j), or None:
        unseeded, which some GPUs sample a little faster. A request that is refused for what it holds gets empty
        completions that say why. Raises UserError for what concerns all requests and the user can fix.
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


def check_engine(model: str, engine: str, engine_args: Mapping) -> None:
    """Find the mistakes in an agent's settings: types, ranges, missing folders, files and keys. Raises UserError.

    Nothing is started or asked.
    """
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}; the engines are {', '.join(ENGINES)}")
    pkgutil.resolve_name(f"{__package__}.{_ENGINES[engine][0]}:check")(model, engine_args)


def make_engine(agent: Any, *, engine: str = "vllm", engine_args: Mapping | None = None) -> Engine:
    """The engine of an agent of a team (`openrlhf_mlpo.team.Agent`), or of a model named by a string.

    For a string, `engine` and `engine_args` say the rest. Raises UserError when it cannot start.
    """
    if isinstance(agent, str):
        model = agent
    else:
        model, engine, engine_args = agent.model, agent.engine, agent.engine_args
    settings = dict(engine_args or {})
    refuse_secrets(settings, "engine_args")
    check_engine(model, engine, settings)
    return pkgutil.resolve_name(f"{__package__}.{_ENGINES[engine][1]}")(model, settings)


def refuse_secrets(settings: Any, where: str) -> None:
    """Refuse a setting, however deep, that by its name is a key or a password; its value is never shown."""
    items = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
    for name, value in items:
        if str(name).lower().replace("_", "").replace("-", "") in _SECRETS and value:
            raise UserError(
                f"{where}: keys do not belong in a team file or in settings, which are stored; remove {name}, set an "
                "environment variable and name it in engine_args.api_key_env"
            )
        if isinstance(value, Mapping | list | tuple):
            refuse_secrets(value, where)


def json_object(text: str, flag: str) -> dict[str, Any]:
    """Settings of an engine or a chat template, given to `flag` as JSON ("": none). Raises UserError."""
    try:
        value = json.loads(text or "{}")
        if not isinstance(value, dict):
            raise ValueError(f"it is a {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{flag} {text}: not a JSON object such as '{{\"name\": 1}}': {error}") from None
    return value
