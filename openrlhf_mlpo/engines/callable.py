"""The user's own Python function as an agent: a rule, a tool, a lookup, any client we do not know."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from openrlhf_mlpo.engines import Completion, Conversation, Engine, Sampling, Seeds, seed_of
from openrlhf_mlpo.errors import UserError


class CallableEngine(Engine):
    """`model` is `package.module:function` or `path/to/file.py:function`.

    The function is called as `function(messages, seed=…, sampling=…)` once per sample and returns a text or a
    `Completion`; `messages` is what `Engine.stream` got (chat messages, or a rendered string), `seed` a number or None.
    `engine_args: {threads: 8}` calls it from that many threads at once (default 1). What it raises ends the run.
    """

    def __init__(self, model: str, engine_args: dict):
        settings = dict(engine_args)
        self.threads = settings.pop("threads", 1)
        if not isinstance(self.threads, int) or self.threads < 1:
            raise UserError(f"agent function {model!r}: engine_args.threads must be a whole number >= 1")
        if settings:
            raise UserError(
                f"agent function {model!r}: unknown engine_args {', '.join(settings)}; only threads is known"
            )
        self.function = load_function(model)

    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`."""
        sampling = sampling or Sampling()

        def answer(index: int) -> tuple[int, list[Completion]]:
            conversation = conversations[index]
            first = seed_of(seed, index, conversation)
            samples = []
            for j in range(n):
                result = self.function(conversation, seed=None if first is None else first + j, sampling=sampling)
                samples.append(result if isinstance(result, Completion) else Completion(str(result)))
            return index, samples

        if self.threads == 1:
            yield from map(answer, range(len(conversations)))
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(answer, range(len(conversations)))


def load_function(name: str) -> Callable:
    """Import `module:function` or `file.py:function`. Raises UserError naming what is missing."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UserError(f"agent function {name!r}: write package.module:function or path/to/file.py:function")
    if place.endswith(".py"):
        path = Path(place).expanduser()
        if not path.is_file():
            raise UserError(f"agent function {name!r}: no such file")
        # Registered under its own name so that pickling (the ray engine) and dataclasses find the module.
        module_name = f"openrlhf_mlpo_agent_{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise UserError(f"agent function {name!r}: cannot import {place}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"agent function {name!r}: {place} has no function {attribute}")
    return function
