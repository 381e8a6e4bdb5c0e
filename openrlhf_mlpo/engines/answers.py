"""Answers of models, kept on disk by what was asked: a run that was stopped and goes on asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from openrlhf_mlpo.engines.base import Completion, Conversation, Engine, Sampling
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import write_whole

FIELDS = [field.name for field in fields(Completion)]  # as stored, in this order; `dataclasses.astuple` is slow
Timed = tuple[list[list[Completion]], float]  # [prompt][sample], and the seconds they took


class Answers:
    """A folder with a file for each request. `folder` None: nothing is kept, and everything is asked.

    `damaged` counts files that are no whole answer, such as what a full disk leaves: they are not used. Raises
    UserError where the folder cannot be made.
    """

    def __init__(self, folder: Path | None):
        self.folder, self.damaged = folder, 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{folder}: {error.strerror or error}") from None

    @staticmethod
    def key(identity: dict, sampling: Sampling, n: int, seed: int, prompts: Sequence[Conversation]) -> str:
        """The name of a request: equal for equal requests to one model. `identity`: what makes it this model."""
        asked = json.dumps([identity, asdict(sampling), n, seed, list(prompts)], sort_keys=True, default=str)
        return hashlib.sha256(asked.encode()).hexdigest()[:32]

    def load(self, key: str, prompts: int, n: int) -> Timed | None:
        """Stored answers to so many prompts; None when there are none, or none that are whole."""
        try:
            if self.folder is None or not (path := self.folder / f"{key}.json").exists():
                return None
            stored = json.loads(path.read_bytes())
            answers = [[Completion(*values) for values in samples] for samples in stored["completions"]]
            texts = all(isinstance(completion.text, str) for samples in answers for completion in samples)
            if texts and [len(samples) for samples in answers] == [n] * prompts:
                return answers, float(stored["seconds"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass  # whatever half a file, or another program's, leads to
        self.damaged += 1
        return None

    def save(self, key: str, player: str, answers: Timed) -> None:
        """Store answers. Raises UserError where they cannot be written."""
        if self.folder is not None:
            completions = [[[getattr(c, name) for name in FIELDS] for c in samples] for samples in answers[0]]
            content = {"player": player, "seconds": answers[1], "completions": completions}
            write_whole(self.folder / f"{key}.json", [json.dumps(content)])

    def of_engine(
        self, player: str, identity: dict, engine: Engine, sampling: Sampling
    ) -> Callable[[Sequence[Conversation], int, int], Timed]:
        """A `rounds.Generate` that keeps each prompt's answer as it arrives; what came back empty is asked again.

        Equal prompts of one call are asked once.
        """

        def generate(prompts: Sequence[Conversation], n: int, seed: int) -> Timed:
            keys = [self.key(identity, sampling, n, seed, [prompt]) for prompt in prompts]
            answers: dict[str, Any] = {}
            for key in dict.fromkeys(keys):
                if stored := self.load(key, 1, n):
                    answers[key] = stored[0][0]
            open_ = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in answers}
            names, begun = list(open_), time.perf_counter()

            def keep(index: int, completions: list[Completion]) -> None:
                answers[names[index]] = completions
                if all(completion.text for completion in completions):
                    self.save(names[index], player, ([completions], time.perf_counter() - begun))

            if open_:
                engine.generate(list(open_.values()), n=n, seed=seed, sampling=sampling, on_done=keep)
            return [answers[key] for key in keys], time.perf_counter() - begun

        return generate
