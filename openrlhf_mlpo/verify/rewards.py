"""The reward function behind `reward_fns/*.py`, in the form stock OpenRLHF calls it.

OpenRLHF calls it in a thread with one sample a call and reads `rewards`, `scores` and `extra_logs` of one dictionary;
if it raised, the reward would become None in silence. So it never raises: whatever goes wrong scores 0 and is logged.

Environment: MLPO_ACCURACY_WEIGHT (1), MLPO_FORMAT_WEIGHT (0), MLPO_BOXED=0 to accept `<answer>` blocks only.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from openrlhf_mlpo.verify.environment import number, warn_once
from openrlhf_mlpo.verify.extract import extract_answer, is_formatted, opened_thinking, response_of
from openrlhf_mlpo.verify.labels import parse_label
from openrlhf_mlpo.verify.verdicts import TASKS, verify_response

logger = logging.getLogger(__name__)
_undecided = {"since": -math.inf, "count": 0}  # when undecided checks were last warned about, and how many came since
_WARN_EVERY = 60.0  # seconds: about once a training step
_lock = threading.Lock()

Judge = Callable[[str, str], Any]


def reward(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], task: str | Judge | None = None
) -> dict[str, Any]:
    """Rewards of responses; `queries` are prompt + response as OpenRLHF decodes them.

    `task`: "math", "bbh", "mmlu" or "exact"; or your own function (answer, gold answer) -> bool or number; or None to
    take each label's own task ("exact" where it has none). A label's task never overrides a given `task`.

    Returns `rewards` = MLPO_ACCURACY_WEIGHT * accuracy + MLPO_FORMAT_WEIGHT * format, `scores` = accuracy, and
    `extra_logs` {"accuracy", "format", "undecided"}: floats for one sample, as stock OpenRLHF sends them and wants them
    back, lists of floats for any other number. "undecided" is 1 where math-verify reached its limits, which scores 0.
    Never raises.
    """
    batch: Any = ([queries], [prompts], [labels]) if isinstance(queries, str) else (queries, prompts, labels)
    samples = [_score(*sample, task) for sample in zip(*batch, strict=False)]
    samples += [(0.0, 0.0, 0.0)] * (len(batch[0]) - len(samples))
    w_accuracy, w_format = number("MLPO_ACCURACY_WEIGHT", 1.0), number("MLPO_FORMAT_WEIGHT", 0.0)
    rewards: Any = [w_accuracy * accuracy + w_format * formatted for accuracy, formatted, _ in samples]
    columns: list[Any] = [list(column) for column in zip(*samples)] if samples else [[], [], []]
    if len(samples) == 1:
        rewards, columns = rewards[0], list(samples[0])
    return {"rewards": rewards, "scores": columns[0],
            "extra_logs": dict(zip(("accuracy", "format", "undecided"), columns))}  # fmt: skip


def _score(query: object, prompt: object, label: object, task: Any) -> tuple[float, float, float]:
    """(accuracy, format, undecided) of one sample."""
    try:
        if not isinstance(query, str) or not isinstance(prompt, str):
            warn_once("type", f"reward got a {type(query).__name__} query and a {type(prompt).__name__} prompt")
            return 0.0, 0.0, 0.0
        response = response_of(query, prompt)
        if response is None:
            warn_once("start", "the prompt was not found at the start of a decoded sample, which scores 0: the "
                       "tokenizer does not give back the text it was given")  # fmt: skip
            return 0.0, 0.0, 0.0
        response = opened_thinking(prompt) + response
        gold = parse_label(label)
        if callable(task):
            answer = extract_answer(response, boxed=_boxed())
            score = 0.0 if answer is None else float(task(answer, gold.answer))
            return (score if math.isfinite(score) else 0.0), float(is_formatted(response)), 0.0
        name = task or gold.task or "exact"
        if name not in TASKS:
            warn_once(name, f"unknown task {name!r} in a label, which scores 0: choose from {', '.join(TASKS)}")
            return 0.0, float(is_formatted(response)), 0.0
        subtask, choices = gold.extra.get("subtask"), gold.extra.get("choices")
        verdict = verify_response(
            response,
            gold.answer,
            name,
            subtask=subtask if isinstance(subtask, str) else None,
            choices=[str(choice) for choice in choices] if isinstance(choices, list) else None,
            boxed=_boxed(),
        )
        if verdict.undecided:
            _warn_undecided(gold.answer, verdict.answer)
        return float(verdict.correct), float(verdict.formatted), float(verdict.undecided)
    except Exception as error:  # an exception here would become a None reward, and end the run elsewhere
        warn_once(type(error).__name__, f"reward failed and scores 0: {type(error).__name__}: {error}")
        return 0.0, 0.0, 0.0


def _warn_undecided(gold: str, answer: str | None) -> None:
    """Say how many checks reached their limits, at most once in `_WARN_EVERY` seconds."""
    with _lock:
        _undecided["count"] += 1
        if time.monotonic() - _undecided["since"] < _WARN_EVERY:
            return
        count = _undecided["count"]
        _undecided.update(since=time.monotonic(), count=0)
    logger.warning(
        "math-verify reached its limits on %d answers since the last such warning; they score 0 and count as the "
        "metric undecided (MLPO_VERIFY_TIMEOUT gives each more time); the last: %.60r for %.60r",
        count,
        answer,
        gold,
    )


def _boxed() -> bool:
    return os.environ.get("MLPO_BOXED", "1") != "0"
