"""BIG-Bench Hard: exact match, in the form each of its 27 tasks answers in (letter, word, number, list, brackets).

--reward.remote_url reward_fns/bbh_reward.py      (stock openrlhf.cli.train_ppo_ray, or ours)
"""

from __future__ import annotations

from typing import Any

from openrlhf_mlpo.verify import reward


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """OpenRLHF's reward function: one sample a call, floats back."""
    return reward(queries, prompts, labels, task="bbh")
