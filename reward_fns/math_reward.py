"""MATH: the label's answer against the response's last `<answer>` block (or `\\boxed{}`), judged by math-verify.

--reward.remote_url reward_fns/math_reward.py      (stock openrlhf.cli.train_ppo_ray, or ours)
"""

from __future__ import annotations

from typing import Any

from openrlhf_mlpo.verify import reward, start_workers

start_workers()  # math-verify loads while the model does


def reward_func(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """OpenRLHF's reward function: one sample a call, floats back."""
    return reward(queries, prompts, labels, task="math")
