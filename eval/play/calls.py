"""Models for an evaluation: opened when first asked, kept or closed by need, and every answer kept on disk.

An evaluation is resumed by asking the same requests again: what has been answered is read from `DIR/_calls`, keyed by
what was asked (model and the state of its files, sampling, seed, prompts). So a killed run ends with the same results
as an undisturbed one, a method or leader added later costs only its own calls, and round 0 of the team, which most
methods share, is generated once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_mlpo.engines import Outcomes, Sampling
from openrlhf_mlpo.engines.answers import Answers, Timed
from openrlhf_mlpo.errors import errors_at
from openrlhf_mlpo.rounds import Generate, Prompt


class Models:
    """Engines, at most `max_engines` open at once, and the store of their answers.

    `max_engines` 0: all of them; -1: all on a CPU, one on a GPU. Players that differ in nothing but their sampling
    share an engine: sampling goes with each request.
    """

    def __init__(self, store: Path | None = None, *, max_engines: int = 0, batch: int = 2048, progress: bool = True):
        """`batch`: prompts sent to an engine in one call; what a kill can lose. `store` None: nothing is kept."""
        self.max_engines, self.batch, self.progress = max_engines, batch, progress
        self._open: dict[str, Any] = {}
        self.asked = self.reused = 0
        self.outcomes: dict[str, Outcomes] = {}  # by player
        self._counted: set[str] = set()
        with errors_at("--out "):
            self.store = Answers(store)

    def generate(
        self, name: str, make: Callable[[], Any], identity: dict, sampling: Sampling, *, kind: str = ""
    ) -> Generate:
        """A `Player.generate` for the engine that `make()` opens.

        `identity`: what makes it this model and no other. `kind`: of engine; what one kind has answered, another need
        not be asked, but they are not one engine.
        """
        outcomes = self.outcomes.setdefault(name, Outcomes(name))

        def ask(prompts: list[Prompt], n: int, seed: int) -> Timed:
            with errors_at(f"{name}: "):
                engine = self._engine(json.dumps([kind, identity], sort_keys=True, default=str), make)
            with tqdm(total=len(prompts), desc=name, unit="prompt", disable=not self.progress, leave=False) as bar:
                begun = time.perf_counter()
                answers = engine.generate(prompts, n=n, seed=seed, sampling=sampling, on_done=lambda *_: bar.update())
                return answers, time.perf_counter() - begun

        def generate(prompts: Sequence[Prompt], n: int, seed: int) -> Timed:
            done, seconds = [], 0.0
            for start in range(0, len(prompts), self.batch):
                chunk = list(prompts[start : start + self.batch])
                request = self.store.key(identity, sampling, n, seed, chunk)
                answers = self.store.load(request, len(chunk), n)
                if answers:
                    self.reused += len(chunk) * n
                else:
                    answers = ask(chunk, n, seed)
                    self.asked += len(chunk) * n
                    self.store.save(request, name, answers)
                if request not in self._counted:  # several methods ask for round 0
                    self._counted.add(request)
                    outcomes.add(chain.from_iterable(answers[0]))
                done += answers[0]
                seconds += answers[1]
            return done, seconds

        return generate

    def _engine(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._open:
            if self.max_engines < 0:
                from openrlhf_mlpo.cpu import use_cpu

                # vLLM takes most of a GPU's memory for one engine, so there models take turns by default.
                self.max_engines = 0 if use_cpu() else 1
            if self.max_engines and len(self._open) >= self.max_engines:
                # All, not the oldest: models are asked in turn, so the oldest is the next one wanted, and closing one
                # vLLM engine takes down the process groups of those beside it.
                self.close()
            self._open[key] = make()
        return self._open[key]

    def report(self) -> None:
        """Print each player's empty responses with their reasons, damaged files, and how much was generated."""
        for outcomes in self.outcomes.values():
            outcomes.report()
        folder, damaged = self.store.folder, self.store.damaged
        if damaged:
            print(f"note: {damaged} damaged files in {folder} were not used: asked again", file=sys.stderr)
        print(f"{self.asked} generations made, {self.reused} reused from {folder}")

    def close(self) -> None:
        """Close all engines; safe to call twice."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
