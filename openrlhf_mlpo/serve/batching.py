"""Requests of many clients, answered by engines that take batches."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from openrlhf_mlpo.engines import Completion, Engine, Sampling
from openrlhf_mlpo.rounds import Prompt

AT_ONCE = 512  # prompts of one batch at most


@dataclass(frozen=True)
class Asked:
    """One prompt that waits for its completion."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    answer: Future[Completion] = field(default_factory=Future)


class Batcher:
    """An engine behind a queue: what has come in while it was busy makes up its next batch.

    So rounds of different requests run side by side, and a batch is as large as the load makes it. All that happens to
    the engine happens in the threads of `executor`: engines of this process share one of a single thread, as vLLM's CPU
    kernels want the thread that opened them and its engines must not run at once; a remote engine has several.
    """

    def __init__(self, open_: Callable[[], Engine], executor: Executor):
        """Opens the engine; raises what `open_` raises."""
        self._executor = executor
        self._waiting: collections.deque[Asked] = collections.deque()
        self._engine = executor.submit(open_).result()

    async def ask(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        """One completion. Raises what the engine raises for the batch."""
        asked = Asked(prompt, sampling, seed)
        self._waiting.append(asked)
        self._executor.submit(self._answer_waiting)  # finds nothing to do where a batch before has taken it along
        return await asyncio.wrap_future(asked.answer)

    def close(self) -> None:
        """Close the engine after what is waiting."""
        self._executor.submit(self._engine.close).result()

    def _answer_waiting(self) -> None:
        groups: dict[Sampling, list[Asked]] = {}
        for _ in range(AT_ONCE):
            try:
                asked = self._waiting.popleft()
            except IndexError:
                break
            if asked.answer.set_running_or_notify_cancel():  # whoever waited may have gone
                groups.setdefault(asked.sampling, []).append(asked)
        for sampling, group in groups.items():
            self._answer(group, sampling)

    def _answer(self, group: list[Asked], sampling: Sampling) -> None:
        """Ask the engine for a group of one sampling; whoever is done is told at once."""

        def done(index: int, completions: list[Completion]) -> None:
            group[index].answer.set_result(completions[0])

        try:
            prompts, seeds = [asked.prompt for asked in group], [asked.seed for asked in group]
            self._engine.generate(prompts, n=1, seed=seeds, sampling=sampling, on_done=done)
        except Exception as error:  # an engine may fail in any way; its clients learn it, and the next batch is tried
            for asked in group:
                if not asked.answer.done():
                    asked.answer.set_exception(error)
