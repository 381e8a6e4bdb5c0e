"""Many GPUs or nodes: Ray Data spreads batches over a pool of actors, each of which holds another engine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

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
from openrlhf_mlpo.errors import UserError


class RayEngine(Engine):
    """`engine_args`: `actors` (default 1), `batch_size` (prompts an actor takes at a time, default 256),
    `gpus_per_actor` (default: `tensor_parallel_size`, 0 on a CPU), `cpus_per_actor` (default 1), `engine` (what each
    actor holds, default vllm); the rest goes to that engine. Joins the cluster of RAY_ADDRESS, else starts Ray here."""

    def __init__(self, model: str, engine_args: dict):
        import ray

        from openrlhf_mlpo.cpu import use_cpu

        settings = dict(engine_args)
        self.actors = settings.pop("actors", 1)
        self.batch_size = settings.pop("batch_size", 256)
        inner = settings.pop("engine", "vllm")
        needs_gpu = inner == "vllm" and not use_cpu()
        self.gpus = settings.pop("gpus_per_actor", settings.get("tensor_parallel_size", 1) if needs_gpu else 0)
        self.cpus = settings.pop("cpus_per_actor", 1)
        self._make = {"model": model, "engine": inner, "engine_args": settings}
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

    def stream(
        self, conversations: Sequence[Conversation], *, n: int = 1, seed: Seeds = 0, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`. Results come batch by batch."""
        import ray

        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = []
        for index in range(len(conversations)):
            conversation = conversations[index]
            first = seed_of(seed, index, conversation)
            rows.append({"index": index, "seed": -1 if first is None else first, "prompt": json.dumps(conversation)})
        if not rows:
            return
        blocks = -(-len(rows) // self.batch_size)
        results = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Actor,
            fn_constructor_kwargs={**self._make, "n": n, "sampling": sampling or Sampling()},
            batch_size=self.batch_size,
            compute=ray.data.ActorPoolStrategy(size=min(self.actors, blocks)),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        for row in results.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            yield int(row["index"]), [Completion(**fields) for fields in json.loads(row["completions"])]

    def close(self) -> None:
        """Leave the cluster, or end the Ray that this engine started."""
        import ray

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
    """Runs in a Ray worker. The user's mistakes travel back as rows: an exception would be retried, then garbled."""

    def __init__(self, model: str, engine: str, engine_args: dict, n: int, sampling: Sampling):
        self.n, self.sampling, self.error = n, sampling, ""
        try:
            self.engine = make_engine(model, engine=engine, engine_args=engine_args)
        except UserError as error:
            self.error = str(error)

    def __call__(self, batch: dict) -> dict:
        answers = ["[]"] * len(batch["index"])
        if not self.error:
            prompts = [json.loads(prompt) for prompt in batch["prompt"]]
            seeds = None if (batch["seed"] < 0).any() else [int(seed) for seed in batch["seed"]]
            try:
                done = self.engine.generate(prompts, n=self.n, seed=seeds, sampling=self.sampling)
                answers = [json.dumps([asdict(completion) for completion in completions]) for completions in done]
            except UserError as error:
                self.error = str(error)
        return {"index": batch["index"], "completions": answers, "error": [self.error] * len(answers)}
