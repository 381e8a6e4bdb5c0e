"""MMLU: the letter of the right choice, or the text of exactly one choice when the label lists them ("choices").

--reward.remote_url reward_fns/mmlu_reward.py      (stock openrlhf.cli.train_ppo_ray, or ours)
"""

from __future__ import annotations

from typing import Any

from openrlhf_mlpo.verify import reward


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """OpenRLHF's reward function: one sample a call, floats back."""
    return reward(queries, prompts, labels, task="mmlu")
