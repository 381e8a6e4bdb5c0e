"""The reward function behind `reward_fns/*.py`, in the form stock OpenRLHF calls it.

OpenRLHF calls it in a thread with one sample a call and reads `rewards`, `scores` and `extra_logs` of one dictionary;
if it raised, the reward would become None in silence. So it never raises: whatever goes wrong scores 0 and is logged.

Environment: MLPO_ACCURACY_WEIGHT (1), MLPO_FORMAT_WEIGHT (0), MLPO_BOXED=0 to accept `<answer>` blocks only.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from openrlhf_mlpo.verify.extract import extract_answer, is_formatted, response_of
from openrlhf_mlpo.verify.labels import parse_label
from openrlhf_mlpo.verify.tasks import TASKS, verify_response

logger = logging.getLogger(__name__)
_warned: set[str] = set()

Judge = Callable[[str, str], Any]


def reward(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str], task: str | Judge | None = None
) -> dict[str, Any]:
    """Rewards of responses; `queries` are prompt + response as OpenRLHF decodes them.

    `task`: "math", "bbh", "mmlu" or "exact"; or your own function (answer, gold answer) -> bool or number; or None to
    take each label's own task ("exact" where it has none). A label's task never overrides a given `task`.

    Returns `rewards` = MLPO_ACCURACY_WEIGHT * accuracy + MLPO_FORMAT_WEIGHT * format, `scores` = accuracy, and
    `extra_logs` {"accuracy", "format"}: floats for one sample, as stock OpenRLHF sends them and wants them back,
    lists of floats for any other number. Never raises.
    """
    if isinstance(queries, str):
        queries, prompts, labels = [queries], [prompts], [labels]
    pairs = [_score(*sample, task) for sample in zip(queries, prompts, labels, strict=False)]
    pairs += [(0.0, 0.0)] * (len(queries) - len(pairs))
    accuracy, formatted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    w_accuracy, w_format = _weight("MLPO_ACCURACY_WEIGHT", 1.0), _weight("MLPO_FORMAT_WEIGHT", 0.0)
    rewards = [w_accuracy * a + w_format * f for a, f in pairs]
    if len(pairs) == 1:
        return _result(rewards[0], accuracy[0], formatted[0])
    return _result(rewards, accuracy, formatted)


def _result(rewards: Any, accuracy: Any, formatted: Any) -> dict[str, Any]:
    return {"rewards": rewards, "scores": accuracy, "extra_logs": {"accuracy": accuracy, "format": formatted}}


def _score(query: object, prompt: object, label: object, task: str | Judge | None) -> tuple[float, float]:
    """(accuracy, format) of one sample."""
    try:
        if not isinstance(query, str) or not isinstance(prompt, str):
            _warn_once("type", f"reward got a {type(query).__name__} query and a {type(prompt).__name__} prompt")
            return 0.0, 0.0
        response = response_of(query, prompt)
        if response is None:
            _warn_once("start", "the prompt was not found at the start of a decoded sample, which scores 0: the "
                       "tokenizer does not give back the text it was given")  # fmt: skip
            return 0.0, 0.0
        if prompt.rstrip().endswith("<think>"):  # some chat templates open the thinking themselves
            response = "<think>" + response
        gold = parse_label(label)
        if callable(task):
            answer = extract_answer(response, boxed=_boxed())
            score = 0.0 if answer is None else float(task(answer, gold.answer))
            return (score if math.isfinite(score) else 0.0), float(is_formatted(response))
        name = task or gold.task or "exact"
        if name not in TASKS:
            _warn_once(name, f"unknown task {name!r} in a label, which scores 0: choose from {', '.join(TASKS)}")
            return 0.0, float(is_formatted(response))
        verdict = verify_response(
            response,
            gold.answer,
            name,
            subtask=_text(gold.extra.get("subtask")),
            choices=_texts(gold.extra.get("choices")),
            boxed=_boxed(),
        )
        return float(verdict.correct), float(verdict.formatted)
    except Exception as error:  # an exception here would become a None reward, and end the run elsewhere
        _warn_once(type(error).__name__, f"reward failed and scores 0: {type(error).__name__}: {error}")
        return 0.0, 0.0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object) -> list[str] | None:
    return [str(item) for item in value] if isinstance(value, list | tuple) and value else None


def _boxed() -> bool:
    return os.environ.get("MLPO_BOXED", "1") != "0"


def _weight(name: str, default: float) -> float:
    try:
        value = float(os.environ.get(name, "") or default)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        _warn_once(name, f"{name}={os.environ.get(name)!r} is not a finite number; using {default}")
        return default
    return value


def _warn_once(key: str, message: str) -> None:
    if key not in _warned:
        _warned.add(key)
        logger.warning("%s (said once)", message)
