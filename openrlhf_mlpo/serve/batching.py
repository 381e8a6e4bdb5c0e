"""Requests of many clients, answered by engines that take batches."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from openrlhf_mlpo.engines import Completion, Engine, Sampling
from openrlhf_mlpo.rounds import Prompt

AT_ONCE = 512  # prompts of one batch at most
THREADS = 8  # batches under way at a remote engine, which takes them side by side


@dataclass(frozen=True)
class Asked:
    """One prompt that waits for its completion."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future

    def deliver(self, set_: Callable[[Any], None], value: Any) -> None:
        """Settle the future from another thread, unless whoever waited has gone or the loop has ended."""

        def settle() -> None:
            if not self.answer.done():
                set_(value)

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(settle)


class Batcher:
    """An engine behind a queue: what has come in while a batch was under way makes up the next one.

    An engine in this process answers one batch at a time, a remote one several. So rounds of different requests run
    side by side, and a batch is as large as the load makes it. An engine is opened, asked and closed in one thread:
    vLLM's CPU kernels take no other. Raises what `open_` raises.
    """

    def __init__(self, name: str, open_: Callable[[], Engine], *, remote: bool = False):
        self.name, self._open = name, open_
        self._engine: Future[Engine] = Future()
        self._queue: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        count = THREADS if remote else 1
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()
        self._engine.result()

    async def ask(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        """One completion. Raises what the engine raises for the batch."""
        loop = asyncio.get_running_loop()
        asked = Asked(prompt, sampling, seed, loop, loop.create_future())
        self._queue.put(asked)
        return await asked.answer

    def close(self) -> None:
        """Let the threads end after what is queued, and close the engine. A thread that hangs is left behind."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(5)

    def _work(self) -> None:
        first = threading.current_thread() is self._threads[0]
        if first:
            try:
                self._engine.set_result(self._open())
            except BaseException as error:  # for the thread that waits for the engine
                self._engine.set_exception(error)
                return
        elif self._engine.exception():
            return
        self._serve(self._engine.result())
        if first:
            self._engine.result().close()

    def _serve(self, engine: Engine) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < AT_ONCE and not self._queue.empty():
                try:
                    asked = self._queue.get_nowait()
                except queue.Empty:
                    break
                if asked is None:
                    self._queue.put(None)  # the end, for after this batch
                    break
                batch.append(asked)
            groups: dict[Sampling, list[Asked]] = {}
            for asked in batch:
                if not asked.answer.cancelled():
                    groups.setdefault(asked.sampling, []).append(asked)
            for sampling, group in groups.items():
                self._answer(engine, group, sampling)

    def _answer(self, engine: Engine, group: list[Asked], sampling: Sampling) -> None:
        """Ask the engine for a group of one sampling; whoever is done is told at once."""

        def done(index: int, completions: list[Completion]) -> None:
            group[index].deliver(group[index].answer.set_result, completions[0])

        try:
            prompts, seeds = [asked.prompt for asked in group], [asked.seed for asked in group]
            engine.generate(prompts, n=1, seed=seeds, sampling=sampling, on_done=done)
        except Exception as error:  # an engine may fail in any way; its clients learn it, and the next batch is tried
            for asked in group:
                asked.deliver(asked.answer.set_exception, error)
