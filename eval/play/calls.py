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
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openrlhf_mlpo.engines import Completion, Sampling
from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.rounds import Generate, Prompt

FIELDS = [field.name for field in fields(Completion)]  # as stored, in this order; `dataclasses.astuple` is slow
Answers = tuple[list[list[Completion]], float]  # [prompt][sample], and the seconds they took


class Models:
    """Engines, at most `max_engines` open at once, and the store of their answers.

    `max_engines` 0: all of them; -1: all on a CPU, one on a GPU. Players that differ in nothing but their sampling
    share an engine: sampling goes with each request.
    """

    def __init__(self, store: Path | None = None, *, max_engines: int = 0, batch: int = 2048, progress: bool = True):
        """`batch`: prompts sent to an engine in one call; what a kill can lose. `store` None: nothing is kept."""
        self.store, self.max_engines, self.batch, self.progress = store, max_engines, batch, progress
        self._open: dict[str, Any] = {}
        self.asked = self.reused = self.damaged = 0
        self.outcomes: dict[str, Counter[str]] = {}  # player -> finish_reason of empty responses, "" for the others
        if store is not None:
            try:
                store.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--out {store.parent}: {error.strerror or error}") from None

    def generate(
        self, name: str, make: Callable[[], Any], identity: dict, sampling: Sampling, *, kind: str = ""
    ) -> Generate:
        """A `Player.generate` for the engine that `make()` opens.

        `identity`: what makes it this model and no other. `kind`: of engine; what one kind has answered, another need
        not be asked, but they are not one engine.
        """
        outcomes = self.outcomes.setdefault(name, Counter())

        def ask(prompts: list[Prompt], n: int, seed: int) -> Answers:
            engine = self._engine(json.dumps([kind, identity], sort_keys=True, default=str), make)
            with tqdm(total=len(prompts), desc=name, unit="prompt", disable=not self.progress, leave=False) as bar:
                begun = time.perf_counter()
                answers = engine.generate(prompts, n=n, seed=seed, sampling=sampling, on_done=lambda *_: bar.update())
                return [[_clean(c) for c in samples] for samples in answers], time.perf_counter() - begun

        def generate(prompts: Sequence[Prompt], n: int, seed: int) -> Answers:
            done, seconds = [], 0.0
            for start in range(0, len(prompts), self.batch):
                chunk = list(prompts[start : start + self.batch])
                request = json.dumps([identity, asdict(sampling), n, seed, chunk], sort_keys=True, default=str)
                path = self.store and self.store / f"{hashlib.sha256(request.encode()).hexdigest()[:32]}.json"
                answers = self._load(path, len(chunk), n)
                if answers:
                    self.reused += len(chunk) * n
                else:
                    answers = ask(chunk, n, seed)
                    self.asked += len(chunk) * n
                    self._save(path, name, answers)
                done += answers[0]
                seconds += answers[1]
            outcomes.update("" if c.text.strip() else c.finish_reason for samples in done for c in samples)
            return done, seconds

        return generate

    def _load(self, path: Path | None, prompts: int, n: int) -> Answers | None:
        """Stored answers; None when there are none, or none that are whole."""
        try:
            if path is None or not path.exists():
                return None
            stored = json.loads(path.read_bytes())
            answers = [[_clean(Completion(*fields)) for fields in samples] for samples in stored["completions"]]
            if [len(samples) for samples in answers] == [n] * prompts:
                return answers, float(stored["seconds"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass  # whatever half a file, or another program's, leads to
        self.damaged += 1
        return None

    def _save(self, path: Path | None, name: str, answers: Answers) -> None:
        if path is not None:
            completions = [[[getattr(c, name) for name in FIELDS] for c in samples] for samples in answers[0]]
            write_whole(path, [json.dumps({"player": name, "seconds": answers[1], "completions": completions})])

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
        for name, outcomes in self.outcomes.items():
            if empty := outcomes.total() - outcomes[""]:
                reasons = ", ".join(f"{count} {reason}" for reason, count in outcomes.most_common() if reason)
                print(f"note: {name}: {empty} of {outcomes.total()} responses are empty: {reasons}", file=sys.stderr)
        if self.damaged:
            print(f"note: {self.damaged} damaged files in {self.store} were not used: asked again", file=sys.stderr)
        print(f"{self.asked} generations made, {self.reused} reused from {self.store}")

    def close(self) -> None:
        """Close all engines; safe to call twice."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _clean(completion: Completion) -> Completion:
    """The completion without lone surrogates, which neither tokenizers nor files take."""
    text = whole_text(completion.text)
    return completion if text is completion.text else replace(completion, text=text)


def whole_text(text: str) -> str:
    """A text in which surrogate pairs are joined and lone surrogates become U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a file under another name, then rename it: a kill leaves the old file or the new one, never half of one.

    Raises UserError when it cannot be written. Lone surrogates are replaced.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.writelines(map(whole_text, lines))
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
