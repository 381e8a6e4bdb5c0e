"""Whole optimizer steps in Ray workers under DeepSpeed, from the same samples, with shared prompts and without."""

import functools
import random
from unittest import mock

import pytest
import torch

from openrlhf_mlpo import cpu
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(not cpu.use_cpu(), reason="written for the CPU runtime"),
]
FLAGS = (
    "--rollout.batch_size 8 --rollout.n_samples_per_prompt 4 --train.batch_size 32 --train.max_epochs 2 "
    "--actor.lr_warmup_ratio 0 --algo.kl.use_loss --algo.kl.init_coef 0.05 --algo.kl.estimator k3 "
    "--actor.entropy_coef 0.01 --ds.zero_stage 2 --actor.num_gpus_per_node 2 --ref.num_gpus_per_node 2 "
    "--train.micro_batch_size 4 --rollout.micro_batch_size 8"
)
ADAPTERS = "--ds.lora.rank 4 --train.micro_batch_size 16 --rollout.micro_batch_size 2"  # which cuts groups
DYNAMIC = "--train.dynamic_batch_enable --train.max_tokens_per_gpu 120"
# What OpenRLHF logs of these depends on which samples share a micro batch, unless all have as many tokens; the first
# rollout batch has, but with dynamic batches.
BY_MICRO_BATCH = ("policy_loss", "kl", "entropy_loss")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """`train(switch, flags)`: what two rollout batches of two epochs each log, and the weights in the end."""
    cpu.activate()
    import openrlhf.trainer.ppo_trainer as ppo_trainer
    import ray

    from openrlhf_mlpo.train.trainer import MLPOPolicyModelActor, MLPOReferenceModelActor
    from tests.train.updates import Updates, make_samples, parse

    folder = tmp_path_factory.mktemp("updates")
    model = make_tiny_model(folder / "model")
    rng = random.Random(1)
    prompts = [[rng.randint(5, 40) for _ in range(8)] for _ in range(2)]
    lengths = [[(n, [6] * 4) for n in prompts[0]], [(n, [rng.randint(1, 12) for _ in range(4)]) for n in prompts[1]]]
    batches = [make_samples(groups, words=40, seed=number) for number, groups in enumerate(lengths)]
    cpu.init_ray()
    updates = Updates(2, MLPOPolicyModelActor, MLPOReferenceModelActor)

    @functools.cache
    def run(switch: str, flags: str):
        out = folder / f"out{run.cache_info().misses}"
        updates.begin(parse(model, out, "--mlpo.share_prompt", switch, FLAGS, flags))
        logged = [updates.step(samples) for samples in batches]
        updates.save()
        return logged, read_weights(out)

    with mock.patch.multiple(
        ppo_trainer,
        RemoteExperienceMaker=ppo_trainer.RemoteExperienceMaker,
        balance_experiences=ppo_trainer.balance_experiences,
    ):
        yield run
    ray.shutdown()


def read_weights(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_same_training(stock, ours, dynamic):
    (stock_logged, stock_weights), (our_logged, our_weights) = stock, ours
    assert abs(stock_logged[0]["policy_loss"]) > 1e-3
    assert abs(stock_logged[1]["kl"]) > 1e-4, "the policy has moved away from the reference"
    for number, (expected, got) in enumerate(zip(stock_logged, our_logged)):
        names = [name for name in expected if not name.startswith("timing/")]
        names = [name for name in names if name not in BY_MICRO_BATCH or (number == 0 and not dynamic)]
        assert {name: got[name] for name in names} == pytest.approx(
            {name: expected[name] for name in names}, rel=1e-5, abs=1e-6
        )
    assert stock_weights.keys() - our_weights.keys() <= {"lm_head.weight"}  # which is tied, and ZeRO-3 leaves it out
    for name, weight in our_weights.items():
        assert (stock_weights[name] - weight).norm() <= 1e-5 * weight.norm(), name


@pytest.mark.parametrize(
    ("unshared", "shared"),
    [
        ("", ""),
        ("", DYNAMIC),
        ("", "--ds.zero_stage 3 --actor.gradient_checkpointing_enable"),
        (ADAPTERS, ADAPTERS),
    ],
    ids=["zero-2", "dynamic batches", "zero-3", "adapters"],
)
def test_two_ranks_with_accumulation_and_kl_loss(train, unshared, shared):
    assert_same_training(train("off", unshared), train("on", shared), shared == DYNAMIC)
