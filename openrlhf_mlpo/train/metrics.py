"""Leader-team metrics, logged beside OpenRLHF's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from openrlhf.trainer.ppo_trainer import BasePPOTrainer

from openrlhf_mlpo.train.outputs import accuracies
from openrlhf_mlpo.train.samples import SampleLog
from openrlhf_mlpo.verify.labels import parse_label


class LeaderMetrics(BasePPOTrainer):
    """Adds the leader-team metrics to what OpenRLHF logs of a rollout batch, and keeps transcripts of some groups."""

    @cached_property
    def _samples(self) -> SampleLog:
        args: Any = self.args
        return SampleLog(args.ckpt.path, args.mlpo.log_samples, self.tokenizer)

    def train_step(self, rollout_samples, global_step):
        status, global_step = super().train_step(rollout_samples, global_step)
        self._samples.write(global_step)
        status["generated_samples"] = self._samples.as_text() or status["generated_samples"]
        return status, global_step

    def _compute_rollout_stats(self, experiences):
        stats = super()._compute_rollout_stats(experiences)
        self._samples.choose(experiences)
        outcomes = (
            outcome
            for experience in experiences
            for outcome in zip(
                experience.labels,
                accuracies(experience),
                experience.info["format"].tolist() if "format" in experience.info else [None] * len(experience.labels),
            )
        )
        return stats | leader_metrics(outcomes)


def leader_metrics(outcomes: Iterable[tuple[str, float, float | None]]) -> dict[str, float]:
    """Leader-team metrics of a batch of leader outputs.

    `outcomes`: (label, accuracy in [0, 1], format in [0, 1] or None where the reward does not tell) per output.
    Returns means, each key only where the batch has such outputs: `mlpo/accuracy_team`, `mlpo/accuracy_solo`,
    `mlpo/accuracy_agents_correct_N` (N agents of the draw were right), `mlpo/overrides_wrong_majority`,
    `mlpo/misled_from_right_majority`, `mlpo/format_rate`. With rounds in training also, for each round T:
    `mlpo/accuracy_round_T`, `mlpo/share_round_T` (of the outputs with a team), and for T > 0 what happened since the
    round before: `mlpo/leader_fixed_round_T` (right outputs where the last one was wrong), `mlpo/leader_broken_round_T`
    (wrong ones where it was right), `mlpo/agents_fixed_round_T` and `mlpo/agents_broken_round_T` (the same of the
    team's responses), `mlpo/agents_failed` (share of the revisions that failed).
    """
    values: dict[str, list[float]] = defaultdict(list)
    rounds: list[int] = []
    for label_text, accuracy, form in outcomes:
        label = parse_label(label_text).extra
        if form is not None:
            values["format_rate"].append(form)
        if "agents_correct" not in label:
            values["accuracy_solo"].append(accuracy)
            continue
        values["accuracy_team"].append(accuracy)
        values[f"accuracy_agents_correct_{label['agents_correct']}"].append(accuracy)
        if label["majority"] is False:
            values["overrides_wrong_majority"].append(accuracy)
        elif label["majority"] is True:
            values["misled_from_right_majority"].append(1 - accuracy)
        if "round" in label:
            rounds.append(label["round"])
            _add_round(values, label, accuracy)
    shares = {f"mlpo/share_round_{t}": rounds.count(t) / len(rounds) for t in sorted(set(rounds))}
    return {f"mlpo/{name}": sum(numbers) / len(numbers) for name, numbers in sorted(values.items())} | shares


def _add_round(values: dict[str, list[float]], label: dict, accuracy: float) -> None:
    t = label["round"]
    values[f"accuracy_round_{t}"].append(accuracy)
    if not t:
        return
    if label["last_correct"]:
        values[f"leader_broken_round_{t}"].append(1 - accuracy)
    else:
        values[f"leader_fixed_round_{t}"].append(accuracy)
    for before, now in zip(label["agents_right_before"], label["agents_right"], strict=True):
        name = f"agents_broken_round_{t}" if before else f"agents_fixed_round_{t}"
        values[name].append(float(now != before))
    values["agents_failed"].append(label["agents_failed"] / len(label["agents_right"]))
