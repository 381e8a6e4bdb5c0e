"""The user's own Python function as an agent: a rule, a tool, a lookup, any client we do not know."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any

from openrlhf_mlpo.engines.base import (
    Completion,
    Conversation,
    Engine,
    Sampling,
    Seeds,
    check_number,
    seed_of,
)
from openrlhf_mlpo.errors import UserError, one_line
from openrlhf_mlpo.files import defined_names


class FunctionEngine(Engine):
    """`model` is `package.module:function` or `path/to/file.py:function`.

    The function is called as `function(messages, seed=…, sampling=…)` once per sample and returns a text or a
    `Completion`; `messages` is what `Engine.stream` got (chat messages, or a rendered string), `seed` a number or None.
    An `async` one is awaited, in one event loop for all calls. `engine_args: {threads: 8}` has that many calls under
    way at once (default 1). What it raises ends the run with one line that names the place in the user's file.
    """

    def __init__(self, model: str, engine_args: Mapping):
        self.model, self.threads = model, engine_args.get("threads", 1)
        self.function, self._source = load_function(model), _source(model)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`."""
        settings = sampling or Sampling()

        def answer(index: int) -> tuple[int, list[Completion]]:
            conversation = conversations[index]
            first = seed_of(seed, index, conversation)
            return index, [self._call(conversation, None if first is None else first + j, settings) for j in range(n)]

        if self.threads == 1:
            yield from map(answer, range(len(conversations)))
            return
        indices, running, error = iter(range(len(conversations))), set(), None
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                while True:
                    if not error:
                        running |= {pool.submit(answer, i) for i in islice(indices, 2 * self.threads - len(running))}
                    if not running:
                        break
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        error = error or future.exception()
                        if not future.exception():
                            yield future.result()
            finally:
                for future in running:  # the caller stopped early
                    future.cancel()
        if error:  # after what was under way beside it: an answer may have been paid for
            raise error

    def close(self) -> None:
        """Stop the event loop of an async function."""
        loop, self._loop = self._loop, None
        if loop:
            loop.call_soon_threadsafe(loop.stop)

    def _call(self, conversation: Conversation, seed: int | None, sampling: Sampling) -> Completion:
        try:
            result = self.function(conversation, seed=seed, sampling=sampling)
            if inspect.isawaitable(result):
                result = self._await(result)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # a function that exits must not end the run without a word
            raise UserError(f"agent function {self.model!r} raised {_where(error, self._source)}") from error
        completion = Completion(result) if isinstance(result, str) else result
        if not isinstance(completion, Completion) or not isinstance(completion.text, str):
            kind = "a Completion without text" if isinstance(result, Completion) else type(result).__name__
            raise UserError(f"agent function {self.model!r} returned {kind}; it must return a text or a Completion")
        return completion

    def _await(self, awaitable: Any) -> Any:
        """The awaitable's result, from one loop for all calls: clients with connections belong to one loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_and_close, args=(self._loop,), daemon=True).start()

        async def result() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(result(), self._loop).result()


def _run_and_close(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def check(model: str, engine_args: Mapping) -> None:
    """Refuse a function that is not there or cannot take `seed` and `sampling`, without running the user's code."""
    check_number("engine_args", "threads", engine_args.get("threads", 1), 1, whole=True)
    if unknown := sorted(set(engine_args) - {"threads"}):
        raise UserError(f"agent function {model!r}: unknown engine_args {', '.join(unknown)}; only threads is known")
    place, name = _split(model)
    path = _source(model)
    if path is None:  # built in or compiled: importing will tell
        return
    try:
        names = defined_names(path)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"agent function {model!r}: not valid Python: {one_line(error)}") from None
    if name not in names and "*" not in names:
        raise UserError(f"agent function {model!r}: {place} has no function {name}")
    definition = names.get(name)
    if isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef) and not definition.decorator_list:
        arguments = definition.args
        taken = {argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)}
        if not arguments.kwarg and not {"seed", "sampling"} <= taken:
            raise UserError(f"agent function {model!r}: define it as `def {name}(messages, *, seed, sampling)`")


def source_digest(model: str) -> str:
    """A digest of the file that holds the function: an edited function is another agent. "" for compiled code."""
    path = _source(model)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path else ""


def load_function(model: str) -> Callable:
    """Import `module:function` or `file.py:function`. Raises UserError naming what is missing."""
    place, attribute = _split(model)
    path = _source(model)
    try:
        module = _run_file(path) if path and place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever the user's file does when it is imported
        raise UserError(f"agent function {model!r}: cannot import {place}: {_where(error, path)}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"agent function {model!r}: {place} has no function {attribute}")
    return function


def _run_file(path: Path) -> Any:
    """The module of a file, registered under a name of its own so that dataclasses and pickling find it."""
    name = f"openrlhf_mlpo_agent_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _split(model: str) -> tuple[str, str]:
    place, _, attribute = model.rpartition(":")
    if not place or not attribute:
        raise UserError(f"agent function {model!r}: write package.module:function or path/to/file.py:function")
    return place, attribute


def _source(model: str) -> Path | None:
    """The Python file behind a function; None for one that is not written in Python. Raises UserError."""
    place, _ = _split(model)
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"agent function {model!r}: no such file")
        return path
    try:
        spec = importlib.util.find_spec(place)
    except (ImportError, ValueError) as error:
        raise UserError(f"agent function {model!r}: cannot import {place}: {one_line(error)}") from None
    if spec is None:
        raise UserError(f"agent function {model!r}: cannot import {place}: no such module")
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _where(error: BaseException, path: Path | None) -> str:
    """`ValueError: its words (agent.py, line 12)`: the innermost place in the user's file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    place = f" ({path.name}, line {lines[-1]})" if path and lines else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"
