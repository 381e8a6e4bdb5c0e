"""Transcripts of training: whole groups of the leader's outputs, a few a step, as JSON Lines beside the checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils.logging_utils import init_logger

from openrlhf_mlpo.errors import UserError
from openrlhf_mlpo.files import write_jsonl
from openrlhf_mlpo.train.checkpoints import SAMPLES
from openrlhf_mlpo.train.outputs import are_right, output_text
from openrlhf_mlpo.verify.extract import extract_answer
from openrlhf_mlpo.verify.labels import Label, parse_label

SHOWN = ("id", "round", "agents_correct", "majority", "last_correct", "agents_right")  # of a label
logger = init_logger(__name__)


class SampleLog:
    """Keeps some groups of each training step in `_samples/step_000001.jsonl`, …: one JSON object a group.

    A step that a resumed run repeats is written again. That a file cannot be written is said once and stops nothing.
    """

    def __init__(self, ckpt_path: str, wanted: int, tokenizer):
        self.folder, self.wanted, self.tokenizer = Path(ckpt_path) / SAMPLES, wanted, tokenizer
        self.chosen: list[dict] = []
        self._warned = False

    def choose(self, experiences: Iterable[Experience]) -> None:
        """Choose among the groups of a rollout batch: the rounds in turn, first groups of right and wrong outputs.

        Only what is chosen is decoded: a batch may hold millions of tokens.
        """
        if not self.wanted:
            return
        by_round: dict[int, list[Group]] = {}
        for group in sorted(groups_of(experiences), key=lambda group: (not group.is_mixed, group.prompt)):
            by_round.setdefault(group.label.extra.get("round", 0), []).append(group)
        in_turn = chain.from_iterable(zip_longest(*(by_round[number] for number in sorted(by_round))))
        chosen = islice((group for group in in_turn if group is not None), self.wanted)
        self.chosen = [group.record(self.tokenizer) for group in chosen]

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


@dataclass
class Group:
    """The outputs of one prompt in a rollout batch: each an experience, its place there, and whether it is right."""

    prompt: str
    label: Label
    outputs: list[tuple[Experience, int, bool]] = field(default_factory=list)

    @property
    def is_mixed(self) -> bool:
        """Whether it has right and wrong outputs."""
        return len({right for *_, right in self.outputs}) > 1

    def record(self, tokenizer: Any) -> dict[str, Any]:
        """The group as a JSON-ready dict.

        `prompt` as the leader saw it; of its label `SHOWN` where it has them, `gold` and `kind`; `outputs`: `text`,
        `answer`, `reward`, `correct`.
        """
        about = {key: self.label.extra[key] for key in SHOWN if key in self.label.extra}
        kind = "/".join(filter(None, (self.label.task, self.label.extra.get("subtask"))))
        outputs = []
        for experience, i, right in self.outputs:
            text, reward = output_text(experience, i, tokenizer), round(float(experience.info["reward"][i]), 6)
            outputs.append({"text": text, "answer": extract_answer(text), "reward": reward, "correct": right})
        return {**about, "kind": kind, "gold": self.label.answer, "prompt": self.prompt, "outputs": outputs}


def groups_of(experiences: Iterable[Experience]) -> list[Group]:
    """The groups of a rollout batch; an experience may hold outputs of several."""
    groups: dict[tuple[str, str], Group] = {}
    for experience in experiences:
        each = zip(experience.prompts, experience.labels, are_right(experience), strict=True)
        for i, (prompt, text, right) in enumerate(each):
            if (prompt, text) not in groups:
                groups[prompt, text] = Group(prompt, parse_label(text))
            groups[prompt, text].outputs.append((experience, i, right))
    return list(groups.values())
