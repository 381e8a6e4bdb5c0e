"""Models for an evaluation: opened when first asked, kept or closed by need, and every answer kept on disk.

An evaluation is resumed by asking the same requests again: what has been answered is read from `DIR/_calls`, keyed by
what was asked (model and the state of its files, sampling, seed, prompts). So a killed run ends with the same results
as an undisturbed one, a method or leader added later costs only its own calls, and round 0 of the team, which most
methods share, is generated once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_mlpo.engines import Completion, Outcomes
from openrlhf_mlpo.rounds import Generate, Prompt

FIELDS = ("text", "prompt_tokens", "completion_tokens", "finish_reason")  # of a Completion, in its order


class Models:
    """Engines, at most `max_engines` open at once, and the store of their answers.

    `max_engines` 0: all of them; -1: all on a CPU, one on a GPU. Players that differ in nothing but their sampling
    share an engine: sampling goes with each request.
    """

    def __init__(self, store: Path | None = None, *, max_engines: int = 0, batch: int = 2048, progress: bool = True):
        """`batch`: prompts sent to an engine in one call; what a kill can lose. `store` None: nothing is kept."""
        self.store, self.max_engines, self.batch, self.progress = store, max_engines, batch, progress
        self._open: dict[str, Any] = {}
        self.asked = self.reused = 0
        self.outcomes: dict[str, Outcomes] = {}  # by player
        self._counted: set[str] = set()
        if store is not None:
            store.mkdir(parents=True, exist_ok=True)

    def generate(
        self, name: str, make: Callable[[], Any], identity: dict, sampling: Any, *, kind: str = ""
    ) -> Generate:
        """A `Player.generate` for the engine that `make()` opens.

        `identity`: what makes it this model and no other. `kind`: of engine; what one kind has answered, another need
        not be asked, but they are not one engine.
        """
        asked = asdict(sampling) if is_dataclass(sampling) else str(sampling)
        engine = json.dumps([kind, identity], sort_keys=True, default=str)

        def generate(prompts: Sequence[Prompt], n: int, seed: int) -> tuple[list[list[Any]], float]:
            done: list[list[Any]] = []
            seconds = 0.0
            for start in range(0, len(prompts), self.batch):
                chunk = list(prompts[start : start + self.batch])
                request = [identity, asked, n, seed, chunk]
                key = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()[:32]
                answered = self._load(key)
                if answered is None:
                    answered = self._ask(self._engine(engine, make), name, chunk, n, seed, sampling)
                    self._save(key, name, answered)
                    self.asked += len(chunk) * n
                else:
                    self.reused += len(chunk) * n
                completions = [[Completion(*c) for c in samples] for samples in answered["completions"]]
                if key not in self._counted:  # several methods ask for round 0
                    self._counted.add(key)
                    self.outcomes.setdefault(name, Outcomes(name)).add(chain.from_iterable(completions))
                done += completions
                seconds += answered["seconds"]
            return done, seconds

        return generate

    def _ask(self, engine: Any, name: str, prompts: list[Prompt], n: int, seed: int, sampling: Any) -> dict:
        with tqdm(total=len(prompts), desc=name, unit="prompt", disable=not self.progress, leave=False) as bar:
            begun = time.perf_counter()
            answers = engine.generate(prompts, n=n, seed=seed, sampling=sampling, on_done=lambda *_: bar.update())
            seconds = time.perf_counter() - begun
        completions = [[[getattr(c, field) for field in FIELDS] for c in samples] for samples in answers]
        return {"seconds": seconds, "completions": completions}

    def _engine(self, engine: str, make: Callable[[], Any]) -> Any:
        if engine in self._open:
            return self._open[engine]
        if self.max_engines < 0:
            from openrlhf_mlpo.cpu import use_cpu

            # vLLM takes most of a GPU's memory for one engine, so there the models take turns unless told otherwise.
            self.max_engines = 0 if use_cpu() else 1
        if self.max_engines and len(self._open) >= self.max_engines:
            # All, not the oldest: models are asked in turn, so the oldest is the next one wanted, and closing one vLLM
            # engine takes down the process groups of those beside it.
            self.close()
        self._open[engine] = make()
        return self._open[engine]

    def _load(self, key: str) -> dict | None:
        if self.store is None or not (path := self.store / f"{key}.json").is_file():
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def _save(self, key: str, name: str, answered: dict) -> None:
        if self.store is None:
            return
        # Written whole, then renamed: a kill leaves the old state or the new one, never half a file.
        part = self.store / f"{key}.{os.getpid()}.part"
        part.write_text(json.dumps({"player": name, **answered}), encoding="utf-8")
        part.replace(self.store / f"{key}.json")

    def report(self) -> None:
        """Name the empty responses of each player and why they are empty."""
        for outcomes in self.outcomes.values():
            outcomes.report()

    def close(self) -> None:
        """Close all engines; safe to call twice."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
