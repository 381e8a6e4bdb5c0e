"""Many GPUs or nodes: a pool of Ray actors, each of which holds another engine and takes batches in turn."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from typing import Any

from openrlhf_mlpo.engines.base import (
    ENGINES,
    Completion,
    Conversation,
    Engine,
    Sampling,
    Seeds,
    check_engine,
    check_number,
    make_engine,
    seed_of,
)
from openrlhf_mlpo.errors import UserError, one_line

PLACED_IN = 120  # seconds in which the actors must have found their resources


class RayEngine(Engine):
    """`engine_args`: `actors` (default 1), `batch_size` (prompts an actor takes at a time, at most; default 256),
    `engine` (what each actor holds, default vllm), `gpus_per_actor` (default for vLLM: `tensor_parallel_size`, 0 on a
    CPU) and `cpus_per_actor` (default for vLLM: 1), both 0 for other engines; the rest goes to that engine. Joins the
    cluster of RAY_ADDRESS, else starts Ray here. The actors, and their places, stay until the engine is closed."""

    def __init__(self, model: str, engine_args: dict):
        import ray

        from openrlhf_mlpo.cpu import use_cpu

        settings = dict(engine_args)
        self.actors = settings.pop("actors", 1)
        self.batch_size = settings.pop("batch_size", 256)
        inner = settings.pop("engine", "vllm")
        needs_gpu = inner == "vllm" and not use_cpu()
        self.gpus = settings.pop("gpus_per_actor", settings.get("tensor_parallel_size", 1) if needs_gpu else 0)
        self.cpus = settings.pop("cpus_per_actor", int(inner == "vllm"))
        self._actors: list[Any] = []
        self._own_ray = not ray.is_initialized()
        if self._own_ray:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        there = ray.cluster_resources()
        for kind, each in (("GPU", self.gpus), ("CPU", self.cpus)):
            if each * self.actors > there.get(kind, 0):
                self.close()
                raise UserError(
                    f"engine_args: {self.actors} actors need {each * self.actors} {kind}s, the Ray cluster has "
                    f"{there.get(kind, 0):g}; lower actors or {kind.lower()}s_per_actor"
                )
        # No placement group: inside of one vLLM would spread its own workers over it. One that dies is started again,
        # and its batch tried once more: a prompt that kills it twice is reported.
        actor = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=-1, max_task_retries=1)(_Actor)
        self._actors = [actor.remote(model, inner, settings) for _ in range(self.actors)]
        started = [actor.ready.remote() for actor in self._actors]
        if waiting := ray.wait(started, num_returns=len(started), timeout=PLACED_IN)[1]:
            self.close()
            raise UserError(
                f"engine_args: {len(waiting)} of {self.actors} actors found no free {self.gpus:g} GPUs and "
                f"{self.cpus:g} CPUs on the Ray cluster in {PLACED_IN} s; lower actors, cpus_per_actor or "
                "gpus_per_actor, or free what other engines hold"
            )
        for actor in self._actors:
            actor.open.options(max_task_retries=0).remote()  # an actor that died of it opens again when it is asked

    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`. Results come batch by batch."""
        from ray.exceptions import RayActorError
        from ray.util import ActorPool

        # Few prompts are spread over all actors.
        size = max(min(self.batch_size, ceil(len(conversations) / self.actors)), 1)
        starts = iter(range(0, len(conversations), size))
        pool = ActorPool(self._actors)
        running = 0
        while True:
            # No more than the actors can take, so that a pool of millions does not wait in memory.
            for start in islice(starts, len(self._actors) - running):
                places = range(start, min(start + size, len(conversations)))
                batch = [conversations[place] for place in places]
                seeds = [seed_of(seed, place, conversation) for place, conversation in zip(places, batch)]
                request = places, batch, n, None if None in seeds else seeds, sampling or Sampling()
                pool.submit(lambda actor, request: actor.answer.remote(*request), request)
                running += 1
            if not running:
                return
            try:
                places, answers = pool.get_next_unordered()
            except RayActorError as error:
                raise UserError(f"an actor of the ray engine died: {one_line(error)}") from error
            running -= 1
            if isinstance(answers, str):
                raise UserError(answers)
            yield from zip(places, answers, strict=True)

    def close(self) -> None:
        """End the actors, and the Ray that this engine started."""
        import ray

        while self._actors:
            ray.kill(self._actors.pop())
        if self._own_ray:
            ray.shutdown()
            self._own_ray = False


OWN_ARGS = ("actors", "batch_size", "gpus_per_actor", "cpus_per_actor", "engine")


def check(model: str, engine_args: Mapping) -> None:
    """Refuse settings of the wrong type or range, of this engine and of the one that each actor holds."""
    for name in ("actors", "batch_size"):
        check_number("engine_args", name, engine_args.get(name, 1), 1, whole=True)
    for name in ("gpus_per_actor", "cpus_per_actor"):
        check_number("engine_args", name, engine_args.get(name, 0), 0)
    inner = engine_args.get("engine", "vllm")
    if inner == "ray" or inner not in ENGINES:
        raise UserError(f"engine_args: engine must be vllm, openai or callable, not {inner!r}")
    check_engine(model, inner, {name: value for name, value in engine_args.items() if name not in OWN_ARGS})


class _Actor:
    """Runs in a Ray worker. The user's mistakes travel back as text: Ray would wrap an exception in its traceback."""

    def __init__(self, model: str, engine: str, engine_args: dict):
        self._settings = model, engine, engine_args
        self.engine, self.error = None, ""

    def ready(self) -> None:
        """Return as soon as the actor has its place."""

    def open(self) -> None:
        """Open the engine, which may take minutes; what went wrong is answered later."""
        model, engine, engine_args = self._settings
        try:
            self.engine = make_engine(model, engine=engine, engine_args=engine_args)
        except UserError as error:
            self.error = str(error)
        except Exception as error:  # whatever an engine may raise; its traceback belongs in Ray's log of this worker
            traceback.print_exc()
            self.error = f"the {engine} engine did not start: {type(error).__name__}: {one_line(error)}"

    def answer(
        self, places: range, batch: list[Conversation], n: int, seed: Seeds, sampling: Sampling
    ) -> tuple[range, list[list[Completion]] | str]:
        """The places of the batch, and its completions or what was wrong."""
        if self.engine is None and not self.error:  # started again by Ray
            self.open()
        if self.engine is None:
            return places, self.error
        try:
            return places, self.engine.generate(batch, n=n, seed=seed, sampling=sampling)
        except UserError as error:
            return places, str(error)
