"""What OpenRLHF's experiences hold, read as leader outputs: their text, and whether they were right."""

from __future__ import annotations

from typing import Any

from openrlhf.trainer.ppo_utils.experience import Experience

from openrlhf_mlpo.verify.extract import opened_thinking


def output_text(experience: Experience, place: int, tokenizer: Any) -> str:
    """An output as a turn of inference holds it: with the thinking that its prompt opened, no special tokens."""
    tokens = experience.sequences[place][1:][experience.action_mask[place].bool()]
    return opened_thinking(experience.prompts[place]) + tokenizer.decode(tokens, skip_special_tokens=True)


def accuracies(experience: Experience) -> list[float]:
    """How right each output is, in [0, 1]: by the reward's accuracy where it tells, else by its score."""
    return experience.info.get("accuracy", experience.scores).tolist()


def are_right(experience: Experience) -> list[bool]:
    """Which of its outputs count as right."""
    return [accuracy > 0.5 for accuracy in accuracies(experience)]
