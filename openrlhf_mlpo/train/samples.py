"""Transcripts of training: whole groups of the leader's outputs, a few a step, as JSON Lines beside the checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils.logging_utils import init_logger

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.verify.extract import extract_answer, opened_thinking
from openrlhf_mlpo.verify.labels import parse_label

FOLDER = "_samples"  # beside the checkpoints
logger = init_logger(__name__)


class SampleLog:
    """Keeps some groups of each training step in `_samples/step_000001.jsonl`, …: one JSON object a group.

    A step that a resumed run repeats is written again. That a file cannot be written is said once and stops nothing.
    """

    def __init__(self, ckpt_path: str, wanted: int, tokenizer):
        self.folder, self.wanted, self.tokenizer = Path(ckpt_path) / FOLDER, wanted, tokenizer
        self.chosen: list[dict] = []
        self._warned = False

    def choose(self, experiences: Iterable[Experience]) -> None:
        """Choose among the groups of a rollout batch: the rounds in turn, first groups of right and wrong outputs."""
        groups = groups_of(experiences, self.tokenizer)
        by_round: dict[int, list[dict]] = {}
        for group in sorted(groups, key=lambda group: (not is_mixed(group), group["prompt"])):
            by_round.setdefault(group.get("round", 0), []).append(group)
        in_turn = chain.from_iterable(zip_longest(*(by_round[number] for number in sorted(by_round))))
        self.chosen = [group for group in in_turn if group is not None][: self.wanted]

    def write(self, step: int) -> None:
        """Write the chosen groups as those of this step."""
        if not self.chosen:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_jsonl(self.folder / f"step_{step:06d}.jsonl", ({"step": step, **group} for group in self.chosen))
        except (OSError, UserError) as error:
            if not self._warned:
                logger.warning(f"--mlpo.log_samples: {error}; training goes on without transcripts")
            self._warned = True

    def as_text(self) -> tuple[str, float] | None:
        """What OpenRLHF's loggers show of a step: the first chosen group as text, and its mean reward."""
        if not self.chosen:
            return None
        first = self.chosen[0]
        outputs = first["outputs"]
        parts = [first["prompt"], f"gold answer: {first['gold']}"]
        parts += [
            f"--- output {i}, {'right' if o['correct'] else 'wrong'}, reward {o['reward']:g}\n{o['text']}"
            for i, o in enumerate(outputs, 1)
        ]
        return "\n\n".join(parts), sum(o["reward"] for o in outputs) / len(outputs)


def groups_of(experiences: Iterable[Experience], tokenizer) -> list[dict]:
    """The groups of a rollout batch as JSON-ready dicts.

    `prompt` as the leader saw it; of its label `id`, `gold`, `kind`, `round`, `agents_correct`, `majority`,
    `last_correct`, `agents_right` where it has them; `outputs`: `text`, `answer`, `reward`, `correct`.
    """
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for experience in experiences:
        accuracies = experience.info.get("accuracy", experience.scores)
        for i, (prompt, text) in enumerate(zip(experience.prompts, experience.labels, strict=True)):
            if (prompt, text) not in groups:
                label = parse_label(text)
                shown = ("id", "round", "agents_correct", "majority", "last_correct", "agents_right")
                about = {key: label.extra[key] for key in shown if key in label.extra}
                kind = "/".join(filter(None, (label.task, label.extra.get("subtask"))))
                groups[prompt, text] = {**about, "kind": kind, "gold": label.answer, "prompt": prompt, "outputs": []}
            tokens = experience.sequences[i][1:][experience.action_mask[i].bool()]
            output = opened_thinking(prompt) + tokenizer.decode(tokens, skip_special_tokens=True)
            reward = round(float(experience.info["reward"][i]), 6)
            verdict = {"answer": extract_answer(output), "reward": reward, "correct": float(accuracies[i]) > 0.5}
            groups[prompt, text]["outputs"].append({"text": output, **verdict})
    return list(groups.values())


def is_mixed(group: dict) -> bool:
    """Whether a group has right and wrong outputs."""
    return len({output["correct"] for output in group["outputs"]}) > 1
