"""The MLPO objective against a reference of a few lines, and the leader-team metrics."""

import json
from types import SimpleNamespace

import pytest
import torch

from openrlhf_mlpo import cpu

cpu.activate() if cpu.use_cpu() else None

from openrlhf.models import PolicyLoss, aggregate_loss  # noqa: E402
from openrlhf.models.utils import compute_approx_kl  # noqa: E402
from openrlhf.trainer.ppo_utils.experience import Experience  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm  # noqa: E402

from openrlhf_mlpo.train.metrics import leader_metrics  # noqa: E402
from openrlhf_mlpo.train.trainer import MLPOSamplesGenerator, constant_loss_norm  # noqa: E402

LENGTH, GROUP, CLIP, KL = 7, 4, 0.2, 0.05


def reference(logp, old_logp, ref_logp, rewards, mask):
    """MLPO's loss from its definition: sums over tokens, divided by (samples x longest response allowed)."""
    advantage = rewards - rewards.reshape(-1, GROUP).mean(1).repeat_interleave(GROUP)
    ratio = (logp - old_logp).exp()
    clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
    surrogate = torch.min(ratio * advantage[:, None], clipped * advantage[:, None])
    log_ratio = ref_logp - logp
    k3 = log_ratio.exp() - 1 - log_ratio
    return ((KL * k3 - surrogate) * mask).sum() / (len(rewards) * LENGTH)


def batch(seed: int = 0, groups: int = 4):
    torch.manual_seed(seed)
    n = groups * GROUP
    lengths = torch.randint(1, LENGTH + 1, (n,))
    mask = (torch.arange(LENGTH)[None] < lengths[:, None]).float()
    old = -torch.rand(n, LENGTH) * 2
    logp = old + torch.randn(n, LENGTH) * 0.3
    return logp, old, old + torch.randn(n, LENGTH) * 0.1, torch.randint(0, 2, (n,)).float(), mask


def advantages(rewards, mask):
    """The advantages OpenRLHF computes with the estimator MLPO uses."""
    args = SimpleNamespace(
        rollout=SimpleNamespace(n_samples_per_prompt=GROUP),
        algo=SimpleNamespace(advantage=SimpleNamespace(estimator="dr_grpo", gamma=1.0, no_std_norm=False)),
        reward=SimpleNamespace(clip_range=(-10, 10), overlong_buffer_len=None, stop_properly_penalty_coef=None),
    )
    maker = object.__new__(RemoteExperienceMaker)
    maker.strategy, maker.args = SimpleNamespace(args=args), args
    maker.advantage_estimator, maker.kl_ctl = "dr_grpo", SimpleNamespace(value=0.0)
    experience = Experience(
        action_mask=mask.bool(), rewards=rewards.clone(), kl=torch.zeros_like(mask), index=list(range(len(rewards)))
    )
    experience.info = {}
    return maker.compute_advantages_and_returns([experience])[0].advantages


@pytest.mark.parametrize("accumulation", [1, 2, 8])
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_the_reference(accumulation, seed):
    """One optimizer step of `accumulation` micro-batches through OpenRLHF's own loss functions and normalisers."""
    logp, old, ref, rewards, mask = batch(seed)
    expected_logp = logp.clone().requires_grad_()
    expected = reference(expected_logp, old, ref, rewards, mask)
    expected.backward()

    logp.requires_grad_()
    advantage = advantages(rewards, mask)
    loss_fn = PolicyLoss(clip_eps_low=CLIP, clip_eps_high=CLIP)
    strategy = SimpleNamespace(ds_device_mesh=None)
    micro = [
        range(start, start + len(rewards) // accumulation)
        for start in range(0, len(rewards), len(rewards) // accumulation)
    ]
    total = 0.0
    for rows, info in iter_grad_accum_global_norm(micro, strategy, accumulation, lambda rows: mask[list(rows)]):
        rows = list(rows)
        info = constant_loss_norm(info, LENGTH)
        policy, *_ = loss_fn(logp[rows], old[rows], advantage[rows], action_mask=mask[rows], **info)
        kl = compute_approx_kl(logp[rows], ref[rows], kl_estimator="k3")
        loss = policy + KL * aggregate_loss(kl, mask[rows], **info)
        (loss / accumulation).backward()  # DeepSpeed divides each backward by the number of accumulated ones
        total += loss.item() / accumulation
    assert total == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(logp.grad, expected_logp.grad, atol=1e-7, rtol=1e-5)


def test_constant_norm_does_not_depend_on_response_lengths():
    """What the normaliser is for: a token of a long response weighs as much as one of a short response."""
    info = {"dp_size": 1, "batch_num_tokens": torch.tensor(123.0), "global_batch_size": torch.tensor(8.0)}
    assert constant_loss_norm(info, 10)["batch_num_tokens"] == 80
    assert info["batch_num_tokens"] == 123, "the argument must stay as it was"


def label(**extra) -> str:
    return json.dumps({"answer": "True", "task": "bbh", "id": "x", **extra})


def test_leader_metrics_by_agents_correct():
    wrong_majority, right_majority = (
        {"agents_correct": 1, "majority": False},
        {"agents_correct": 2, "majority": True},
    )
    outcomes = [
        (label(**wrong_majority), 1.0, 1.0),
        (label(**wrong_majority), 0.0, 0.0),
        (label(**right_majority), 1.0, 1.0),
        (label(**right_majority), 1.0, 1.0),
        (label(**right_majority), 0.0, 1.0),
        (label(agents_correct=0, majority=None), 0.0, 1.0),
        (label(), 1.0, 1.0),
    ]
    metrics = leader_metrics(outcomes)
    assert metrics == pytest.approx(
        {
            "mlpo/accuracy_team": 3 / 6,
            "mlpo/accuracy_solo": 1.0,
            "mlpo/accuracy_agents_correct_0": 0.0,
            "mlpo/accuracy_agents_correct_1": 0.5,
            "mlpo/accuracy_agents_correct_2": 2 / 3,
            "mlpo/overrides_wrong_majority": 0.5,
            "mlpo/misled_from_right_majority": 1 / 3,
            "mlpo/format_rate": 6 / 7,
        }
    )


def test_leader_metrics_without_format_or_samples():
    assert leader_metrics([(label(), 0.0, None)]) == {"mlpo/accuracy_solo": 0.0}
    assert leader_metrics([]) == {}


class _Dataset:
    def __init__(self, n):
        self.n, self.episodes = n, []

    def __len__(self):
        return self.n

    def set_episode(self, episode):
        self.episodes.append(episode)


@pytest.mark.parametrize(
    ("consumed", "passes", "expected"),
    [(0, 2, [0, 1]), (4, 1, [0]), (8, 1, [1]), (8, 2, [1, 2])],
)
def test_episode_follows_the_prompts_consumed(monkeypatch, consumed, passes, expected):
    """From a fresh start, in the middle of a pass, and resumed exactly at its end."""
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    def one_step(self, **_kwargs):
        self._dataloader_iter = None if self.left == 1 else object()
        self.left = self.left - 1 or 2
        return [], None, 4, self._dataloader_iter is None

    monkeypatch.setattr(SamplesGenerator, "generate_samples", one_step)
    generator = object.__new__(MLPOSamplesGenerator)
    dataset = _Dataset(8)
    generator.prompts_dataloader = SimpleNamespace(dataset=dataset)
    generator.prompts_consumed, generator.left = consumed, 2 - (consumed % 8) // 4
    done = 0
    while done < passes:
        done += generator.generate_samples()[3]
    assert dataset.episodes == expected
